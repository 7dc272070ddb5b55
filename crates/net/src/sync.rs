//! What threads share state by. The modules that take it from here and not from its origin are compiled a second time in the
//! workshop's `interleavings`, against types that try every order of their steps.

pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use tokio::sync::Notify;
