//! The host daemon of enclave-bridge: gives an enclave its network over vsock.
//!
//! The program is `enclave-bridge`; this library is what it is made of. [`config`] parses flags, environment and file
//! into typed values, [`app::App`] binds, serves and drains, [`monitor`] answers probes and scrapers. What an enclave
//! may have is decided in `enclave_bridge_policy`, what is on the wire in `enclave_bridge_proto`, what touches a
//! socket in `enclave_bridge_net`. TLS, keys and attestation have no place here: the host is not trusted with them.

#![forbid(unsafe_code)]

pub mod app;
pub mod config;
pub mod exit;
pub mod explain;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod monitor;
pub mod quiet;
pub mod sandbox;
pub mod streams;
pub mod telemetry;
pub mod threads;

mod beats;
mod control;
mod egress;
mod ingress;
mod own;
mod places;
mod serving;
mod session;
mod sessions;
mod sync;
mod tenant;
