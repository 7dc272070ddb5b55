//! The example enclave as a process.

use crate::bridge::programs;
use crate::http;
use crate::ports;
use crate::process::{Output, Process};
use crate::wait;
use crate::wire::Meeting;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::time::Duration;

/// A running `simple-enclave`.
#[derive(Debug)]
pub struct SimpleEnclave {
    process: Process,
    /// Where the bridge serves it.
    pub address: SocketAddr,
}

impl SimpleEnclave {
    /// Starts it; `variables` are its own environment, beside the socket path.
    #[must_use]
    pub fn launch(meeting: &Meeting, variables: &[(&str, &str)]) -> SimpleEnclave {
        SimpleEnclave::launch_with(meeting, &[], variables)
    }

    fn launch_with(meeting: &Meeting, arguments: &[&str], variables: &[(&str, &str)]) -> SimpleEnclave {
        let port = ports::free();
        let mut command = Command::new(&programs().simple_enclave);
        command.arg("--port").arg(port.to_string()).args(arguments);
        let (key, place) = meeting.enclave_variable();
        command.env_clear().env(key, place).envs(variables.iter().copied());
        let process = Process::start(command, "simple-enclave", Output::Kept);
        SimpleEnclave { process, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }

    /// Starts it and waits until it answers through its bridge.
    #[must_use]
    pub fn start(meeting: &Meeting, variables: &[(&str, &str)]) -> SimpleEnclave {
        SimpleEnclave::start_with(meeting, &[], variables)
    }

    /// The same with arguments of its own.
    #[must_use]
    pub fn start_with(meeting: &Meeting, arguments: &[&str], variables: &[(&str, &str)]) -> SimpleEnclave {
        let mut enclave = SimpleEnclave::launch_with(meeting, arguments, variables);
        enclave.wait_answers(wait::SOON);
        enclave
    }

    /// Waits until it greets through its bridge.
    pub fn wait_answers(&mut self, within: Duration) {
        wait::until("the enclave's greeting through the bridge", within, || {
            self.process.assert_alive();
            http::get(self.address, "/").is_ok_and(|answer| answer.status == 200)
        });
    }

    /// `GET path` through the bridge.
    #[must_use]
    pub fn get(&self, path: &str) -> http::Answer {
        http::get(self.address, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }
}

impl Deref for SimpleEnclave {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for SimpleEnclave {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
