//! The host daemon: gives an enclave its network over vsock.
pub mod config;
