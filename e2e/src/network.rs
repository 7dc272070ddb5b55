//! A network of a test's own: loopback and whatever the test adds, and nothing of the machine's. It goes with the last
//! process in it.

use crate::skip::skipped;
use crate::wire::Endpoint;
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

/// The network that the current thread, and all that it starts, is in.
#[derive(Debug)]
pub struct Network(());

impl Network {
    /// Runs `body` in a thread that is in a new network, with 127.0.0.0/8 and ::1. Where that is not allowed, `test` is
    /// skipped aloud.
    pub fn own(test: &str, body: impl FnOnce(&Network) + Send + 'static) {
        if Endpoint::under_test() == Endpoint::Vsock {
            return skipped(test, "a network of its own is for the hybrid transport");
        }
        // A thread of its own: the harness of tests may run several, one after the other, in the same.
        let named = test.to_owned();
        let running = std::thread::spawn(move || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                return skipped(&named, &format!("a network of its own needs root: {error}"));
            }
            let network = Network(());
            if !network.has("ip link set lo up") {
                return skipped(&named, "no program ip (iproute2)");
            }
            body(&network);
        });
        if let Err(panic) = running.join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// Runs a command line of words, which must succeed.
    pub fn run(&self, line: &str) {
        assert!(self.has(line), "{line}");
    }

    /// Runs a command line of words; whether it is there and succeeded.
    #[must_use]
    pub fn has(&self, line: &str) -> bool {
        let mut words = line.split_ascii_whitespace();
        let Some(program) = words.next() else { return false };
        Command::new(program).args(words).status().is_ok_and(|status| status.success())
    }

    /// Sets a parameter of this network, by its path below `/proc/sys/net`.
    pub fn set(&self, parameter: &str, value: &str) {
        let path = format!("/proc/sys/net/{parameter}");
        std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// A counter of this network's TCP since it was made, by its name in `/proc/net/snmp`.
    #[must_use]
    pub fn tcp_counter(&self, name: &str) -> u64 {
        // Of the thread, not of the process, whose first thread is elsewhere.
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("counters of the network");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let place = names.split_ascii_whitespace().position(|word| word == name).expect("a counter of that name");
        values.split_ascii_whitespace().nth(place).and_then(|value| value.parse().ok()).expect("a number")
    }

    /// Packets that left by an interface since it was made.
    #[must_use]
    pub fn packets_sent(&self, interface: &str) -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("counters of interfaces");
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        // Eight counters of what came, then bytes and packets of what left.
        let packets = line.and_then(|line| line.split_ascii_whitespace().nth(9)).expect("an interface of that name");
        packets.parse().expect("a number")
    }
}
