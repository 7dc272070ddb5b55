//! A bridge, an enclave and both ends of its streams in the hands of one lane.

use super::Leg;
use crate::bridge::{Bridge, companion};
use crate::process::{Output, Process};
use crate::talker::Socket;
use crate::toxic::{self, Toxic};
use crate::tunnels::{self, STALL};
use crate::v1::{Answer, Enclave, Settings};
use crate::wait::{self, SOON};
use crate::wire::Wire;
use crate::{bytes, ports};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where the enclave listens.
const LISTEN_PORT: u32 = 5001;

/// Where the enclave dials.
pub(super) const DIAL_PORT: u32 = 5002;

/// A loaded machine with many bridges: as long as anything here may take to come about.
const PATIENT: Duration = Duration::from_secs(30);

/// From where to where a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A client dials the enclave.
    Ingress,
    /// The enclave dials a server.
    Egress,
}

/// A stream with both of its ends, and the path that one of them may go.
pub(super) struct Stream {
    pub(super) tcp: TcpStream,
    pub(super) enclave: Wire,
    pub(super) path: Option<JoinHandle<()>>,
}

/// A bridge with its enclave.
pub(super) struct World {
    pub(super) bridge: Bridge,
    pub(super) enclave: Enclave,
    pub(super) settings: Settings,
    pub(super) leg: Leg,
    port: u16,
    arriving: Receiver<Wire>,
    /// Held, the enclave accepts nothing more.
    gate: Arc<Mutex<()>>,
    servers: TcpListener,
    /// Of an idle bridge with its session: what it must come back to.
    pub(super) at_rest: usize,
}

impl World {
    pub(super) fn start(leg: Leg, interval: Duration) -> World {
        let bridge = Bridge::builder().loopback_egress().start();
        let port = ports::free();
        let (sender, arriving) = sync_channel(1000);
        let gate = Arc::new(Mutex::new(()));
        let passing = gate.clone();
        let framed = leg == Leg::Framed;
        let settings = Settings { framed, ..Settings::new(interval).server(LISTEN_PORT, port).client(DIAL_PORT) };
        let enclave = Enclave::start_with(&bridge.meeting, &settings, |guest| {
            guest.hand_over(LISTEN_PORT, move |wire| {
                drop(passing.lock());
                let _ = sender.send(wire);
            });
        });
        let servers = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a local port");
        wait::until("the enclave's beats", PATIENT, || bridge.metric("enclave_bridge_sessions") == Some(1.0));
        // One for the connection of the beats, which may have come by now or not; a stream that stayed would hold two.
        let at_rest = bridge.descriptors() + 1;
        World { bridge, enclave, settings, leg, port, arriving, gate, servers, at_rest }
    }

    pub(super) fn ingress(&self) -> SocketAddr {
        Bridge::tcp(self.port)
    }

    /// The enclave's end with its form.
    pub(super) fn socket(&self, wire: Wire) -> Socket {
        match self.leg {
            Leg::Raw => Socket::Raw(wire),
            Leg::Framed => Socket::Framed(wire),
        }
    }

    /// A stream each way, over a path where there is a toxic for it.
    pub(super) fn open(&self, way: Way, toxic: Option<(Toxic, u64)>) -> Result<Stream, String> {
        match way {
            Way::Ingress => {
                let (to, path) = through(self.ingress(), toxic);
                let tcp = TcpStream::connect(to).map_err(|error| format!("connect: {error}"))?;
                let enclave = self.next_arrival()?;
                Ok(Stream { tcp, enclave, path })
            }
            Way::Egress => {
                let own = self.servers.local_addr().expect("bound");
                let (to, path) = through(own, toxic);
                let enclave = self.dial(&to.to_string())?;
                let tcp = self.accept()?;
                Ok(Stream { tcp, enclave, path })
            }
        }
    }

    /// The enclave's end of the next ingress stream.
    pub(super) fn next_arrival(&self) -> Result<Wire, String> {
        self.arriving.recv_timeout(PATIENT).map_err(|_| "the bridge did not dial the enclave".to_owned())
    }

    /// The same, where it may fail to come.
    pub(super) fn arrival_within(&self, limit: Duration) -> Option<Wire> {
        self.arriving.recv_timeout(limit).ok()
    }

    /// Where the enclave's dials are to go.
    pub(super) fn target(&self) -> String {
        self.servers.local_addr().expect("bound").to_string()
    }

    /// The server's end of a stream that the bridge has answered for.
    pub(super) fn accept(&self) -> Result<TcpStream, String> {
        self.servers.accept().map(|(tcp, _)| tcp).map_err(|error| format!("accept: {error}"))
    }

    pub(super) fn dial(&self, target: &str) -> Result<Wire, String> {
        let (wire, answer) = self.enclave.dial(DIAL_PORT, target);
        if answer == Answer::Ack { Ok(wire) } else { Err(format!("egress: {answer:?}")) }
    }

    /// The same with the first bytes of the stream behind the line.
    pub(super) fn dial_with(&self, target: &str, first: &[u8]) -> Result<Wire, String> {
        let mut wire = self.enclave.meeting.dial_host(DIAL_PORT).map_err(|error| format!("dial: {error}"))?;
        wire.read_within(STALL);
        let mut message = format!("{target}\n").into_bytes();
        message.extend_from_slice(first);
        wire.write_all(&message).map_err(|error| format!("address line: {error}"))?;
        let answer = Answer::of(&wire.read_line_exactly(300).unwrap_or_default());
        if answer == Answer::Ack { Ok(wire) } else { Err(format!("egress: {answer:?}")) }
    }

    /// From now on the enclave accepts nothing, until what is given back is dropped.
    pub(super) fn close_gate(&self) -> Result<std::sync::MutexGuard<'_, ()>, String> {
        let gate = self.gate.lock().map_err(|_| "a service panicked".to_owned())?;
        // The accepting thread takes one more connection and waits with it.
        let dummy = self.bridge.meeting.dial_guest(LISTEN_PORT).map_err(|error| format!("dial guest: {error}"))?;
        drop(dummy);
        Ok(gate)
    }

    /// Waits until what a run opened is closed.
    pub(super) fn come_to_rest(&self) -> Result<(), String> {
        let deadline = std::time::Instant::now() + PATIENT;
        while self.bridge.descriptors() > self.at_rest {
            if std::time::Instant::now() > deadline {
                return Err(format!("{} descriptors, {} at rest", self.bridge.descriptors(), self.at_rest));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

fn through(to: SocketAddr, toxic: Option<(Toxic, u64)>) -> (SocketAddr, Option<JoinHandle<()>>) {
    match toxic {
        None => (to, None),
        Some((toxic, seed)) => {
            let (address, path) = toxic::path(to, toxic, seed);
            (address, Some(path))
        }
    }
}

/// A bridge whose enclave is a process of its own that echoes; one end of one stream is in the lane's hands.
pub(super) struct Apart {
    pub(super) bridge: Bridge,
    pub(super) enclave: Process,
    pub(super) tcp: TcpStream,
}

impl Apart {
    pub(super) fn start(leg: Leg, way: Way) -> Result<Apart, String> {
        let bridge = Bridge::builder().loopback_egress().start();
        Apart::with(bridge, leg, way)
    }

    /// With a bridge that is there already: the new process takes over its session.
    pub(super) fn with(bridge: Bridge, leg: Leg, way: Way) -> Result<Apart, String> {
        let port = ports::free();
        let servers = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a local port");
        let mut command = Command::new(companion("e2e-v1-enclave"));
        command.arg(bridge.meeting.uds_path()).arg(port.to_string()).arg("echo");
        if leg == Leg::Framed {
            command.arg("framed");
        }
        if way == Way::Egress {
            command.arg("dial").arg(servers.local_addr().expect("bound").to_string());
        }
        let enclave = Process::start(command, "the version-1 enclave", Output::Kept);
        let _ready = enclave.stdout.wait_for_line("ready", PATIENT);
        let tcp = match way {
            Way::Ingress => tunnels::tcp(Bridge::tcp(port)),
            Way::Egress => servers.accept().map_err(|error| format!("accept: {error}"))?.0,
        };
        Ok(Apart { bridge, enclave, tcp })
    }

    /// One byte there and back: the stream stands.
    pub(super) fn prove(&mut self) -> Result<(), String> {
        self.tcp.set_read_timeout(Some(SOON)).expect("a socket");
        let proved = bytes::copy(&mut [7_u8].as_slice(), &mut self.tcp)
            .and_then(|_| std::io::Read::read_exact(&mut self.tcp, &mut [0]));
        proved.map_err(|error| format!("the first byte: {error}"))
    }
}
