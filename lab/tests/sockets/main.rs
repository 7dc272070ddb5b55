//! AF_VSOCK as the kernel of this guest has it, beside TCP and Unix sockets: what our code relies on is asserted, and what
//! differs is printed as a fact for the table of `docs/vsock.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod facts;
mod family;
mod ours;
mod writes;
