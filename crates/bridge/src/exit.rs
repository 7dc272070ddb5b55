//! The exit codes of the program, those of sysexits(3) where they fit. 64 and 78 are [`crate::config`]'s.

/// A listener cannot be bound, or what is needed cannot be reached; also after the loss of an enclave, where the
/// configuration says to exit then.
pub const UNAVAILABLE: u8 = 69;
/// A bug, or a listener that died under the daemon.
pub const SOFTWARE: u8 = 70;
/// A second signal ended it at once.
pub const AT_ONCE: u8 = 75;
/// The operating system refused for want of a right.
pub const PERMISSION: u8 = 77;
