//! SIGINT, SIGTERM and SIGHUP set a flag that whoever waits in the lab looks at: guests are ended by who holds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Whether a signal has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// Set once it has.
    pub(crate) flag: Arc<AtomicBool>,
    number: Arc<AtomicU8>,
}

impl Stop {
    /// Which it was.
    pub(crate) fn signal(&self) -> Option<u8> {
        Some(self.number.load(Ordering::SeqCst)).filter(|number| *number != 0)
    }
}

/// From now on those signals end no more than what looks at the flag.
pub(crate) fn watch() -> Result<Stop, String> {
    let named = |error: std::io::Error| format!("signals: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(named)?;
    let mut signals = {
        let _entered = runtime.enter();
        let listen = |kind| signal(kind).map_err(named);
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
    };
    let stop = Stop::default();
    let set = stop.clone();
    std::thread::spawn(move || {
        let kind = runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => SignalKind::interrupt(),
                _ = signals.1.recv() => SignalKind::terminate(),
                _ = signals.2.recv() => SignalKind::hangup(),
            }
        });
        set.number.store(u8::try_from(kind.as_raw_value()).unwrap_or_default(), Ordering::SeqCst);
        set.flag.store(true, Ordering::SeqCst);
    });
    Ok(stop)
}
