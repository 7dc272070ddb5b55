//! The harness of the end-to-end tests: starts the real programs, speaks to them in bytes, and watches them through `/proc`.
//!
//! What lives here: processes, the meeting place of a bridge and its enclave, a version-1 enclave and a version-1 bridge
//! written from the protocol's text, servers for an enclave to dial, a small HTTP client. What may not: any crate of the
//! project. A test that shared the product's own parser would share its mistakes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::let_underscore_must_use,
    reason = "a harness of tests: an assumption that does not hold is a failed test, and a panic is how a test fails"
)]

pub mod bridge;
pub mod bytes;
pub mod cgroup;
pub mod dice;
pub mod dns;
pub mod enclave;
pub mod faults;
pub mod framed;
pub mod guest;
pub mod http;
pub mod network;
pub mod peers;
pub mod ports;
pub mod process;
pub mod sequence;
pub mod skip;
pub mod soak;
pub mod steady;
pub mod talker;
pub mod toxic;
pub mod tunnels;
pub mod v1;
mod v1_beats;
pub mod v1_bridge;
pub mod wait;
pub mod wire;
