//! The version-1 enclave of the tests as a process of its own, to be killed as one.
//!
//! `e2e-v1-enclave UDS_PATH TCP_PORT [echo|pour] [framed] [dial TARGET]`: one server (5001), one client (5002), beats of a
//! second; says `ready` on its standard output, then runs until it is killed. `pour` sends without end and reads without end
//! on every stream; what is framed is echoed record by record, its end included; `dial` echoes on one egress stream too.
//!
//! `e2e-v1-enclave UDS_PATH TCP_PORT soak SECOND_TCP_PORT TARGET`: a framed echo, and a second server (5003) whose streams go on
//! to TARGET as they are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    reason = "a program of the tests: what does not hold is a failed test"
)]

use enclave_bridge_e2e::bytes;
use enclave_bridge_e2e::v1::{self, Answer, Enclave, Settings};
use enclave_bridge_e2e::wire::{Meeting, Wire};
use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let uds_path = arguments.next().expect("UDS_PATH");
    let tcp_port = arguments.next().and_then(|port| port.parse().ok()).expect("TCP_PORT");
    let words: Vec<String> = arguments.collect();
    let pour = words.first().is_some_and(|word| word == "pour");
    let framed = words.iter().any(|word| word == "framed");
    let target = words.iter().position(|word| word == "dial").and_then(|place| words.get(place + 1));

    let meeting = Meeting::at(uds_path.into());
    if let [mode, second, target] = words.as_slice()
        && mode == "soak"
    {
        soak(&meeting, tcp_port, second.parse().expect("SECOND_TCP_PORT"), target);
    }
    let settings = Settings { framed, ..Settings::new(Duration::from_secs(1)).server(5001, tcp_port).client(5002) };
    let enclave = Enclave::start_with(&meeting, &settings, |guest| {
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
    if let Some(target) = target {
        let (wire, answer) = enclave.dial(5002, target);
        assert_eq!(answer, Answer::Ack);
        wire.read_limit(None);
        std::thread::spawn(move || v1::echo(wire));
    }
    ready()
}

/// Beats of two seconds: a pause of one and a half costs no session.
fn soak(meeting: &Meeting, tcp_port: u16, second: u16, target: &str) -> ! {
    let settings = Settings::new(Duration::from_secs(2)).server(5001, tcp_port).server(5003, second).client(5002);
    let settings = Settings { framed: true, ..settings };
    let _enclave = Enclave::start_with(meeting, &settings, |guest| {
        guest.serve(5001, v1::echo);
        let (meeting, target) = (meeting.clone(), target.to_owned());
        guest.serve(5003, move |wire| pass_on(&meeting, wire, &target));
    });
    ready()
}

/// Records are records on both legs: they pass as they are, ends and resets too. A leg whose socket ends without them is cut,
/// and then so is the other.
fn pass_on(meeting: &Meeting, inner: Wire, target: &str) {
    let Ok(mut outer) = meeting.dial_host(5002) else { return };
    outer.read_within(Duration::from_secs(30));
    if outer.write_all(format!("{target}\n").as_bytes()).is_err()
        || Answer::of(&outer.read_line_exactly(300).unwrap_or_default()) != Answer::Ack
    {
        return;
    }
    outer.read_limit(None);
    let one_way = |from: &Wire, to: &Wire| {
        let _ = bytes::copy(&mut from.again(), &mut to.again());
        to.shutdown(Shutdown::Both);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(&outer, &inner));
        one_way(&inner, &outer);
    });
}

fn ready() -> ! {
    println!("ready");
    let _ = std::io::stdout().flush();
    loop {
        std::thread::park();
    }
}
