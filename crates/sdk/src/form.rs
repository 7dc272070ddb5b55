//! Which form the streams of the session have: one value that the listeners and dialers of a session share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Raw or framed, as it was last asked for. It is set before the settings are sent: the first streams may arrive before
/// the grant does. A bridge announces the same for as long as it lives, so the form changes only when another bridge
/// has come in the place of one that is gone with all its streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(Arc<AtomicBool>);

impl Form {
    pub(crate) fn set_framed(&self, framed: bool) {
        self.0.store(framed, Ordering::Release);
    }

    /// To be asked once a stream is connected.
    pub(crate) fn is_framed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
