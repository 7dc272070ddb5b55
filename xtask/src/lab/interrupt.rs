//! SIGINT, SIGTERM and SIGHUP set a flag that whoever waits in the lab looks at: guests are ended by who holds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// From now on those signals end no more than what looks at the flag.
pub(crate) fn watch() -> Result<Arc<AtomicBool>, String> {
    let named = |error: std::io::Error| format!("signals: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(named)?;
    let mut signals = {
        let _entered = runtime.enter();
        let listen = |kind| signal(kind).map_err(named);
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
    };
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
                _ = signals.2.recv() => {}
            }
        });
        set.store(true, Ordering::SeqCst);
    });
    Ok(stop)
}
