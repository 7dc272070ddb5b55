//! The version-1 enclave of the tests as a process of its own, to be killed as one.
//!
//! `e2e-v1-enclave UDS_PATH TCP_PORT [echo|pour]`: one server (5001), one client (5002), beats of a second; says `ready` on
//! its standard output, then runs until it is killed. `pour` sends without end and reads without end on every stream.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    reason = "a program of the tests: what does not hold is a failed test"
)]

use enclave_bridge_e2e::bytes;
use enclave_bridge_e2e::v1::{self, Enclave, Settings};
use enclave_bridge_e2e::wire::Meeting;
use std::io::Write;
use std::time::Duration;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let uds_path = arguments.next().expect("UDS_PATH");
    let tcp_port = arguments.next().and_then(|port| port.parse().ok()).expect("TCP_PORT");
    let pour = arguments.next().as_deref() == Some("pour");

    let meeting = Meeting::at(uds_path.into());
    let settings = Settings::new(Duration::from_secs(1)).server(5001, tcp_port).client(5002);
    let _enclave = Enclave::start_with(&meeting, &settings, |guest| {
        if pour {
            guest.serve(5001, |wire| {
                let mut writing = wire.again();
                std::thread::spawn(move || while writing.write_all(&[b'.'; 16 * 1024]).is_ok() {});
                let _ = bytes::hash_of(&mut wire.again());
            });
        } else {
            guest.serve(5001, v1::echo);
        }
    });
    println!("ready");
    let _ = std::io::stdout().flush();
    loop {
        std::thread::park();
    }
}
