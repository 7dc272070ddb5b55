//! A TCP server that sends back what comes, as a process of its own, to be stopped as one. Says its port on standard output.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program of the tests: what does not hold is a failed test"
)]

use enclave_bridge_e2e::peers;
use std::io::Write;
use std::net::TcpListener;

fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("port {}", listener.local_addr().unwrap().port());
    std::io::stdout().flush().unwrap();
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        std::thread::spawn(move || peers::echo(&stream));
    }
}
