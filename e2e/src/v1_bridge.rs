//! A version-1 bridge, small, byte for byte as the original behaves, for the enclave's side of the project to meet.
//!
//! Faithful where it hurts: the first line decides, beats are read up to `0A` with a fresh reader each, the first beat
//! comes only after half an interval, no NAK exists, an enclave that breaks a rule is a complaint (the original exits).

use crate::bytes;
use crate::v1::{self, ACK, INIT_PORT, LOG_PORT};
use crate::v1_beats::beat_on;
use crate::wire::{Meeting, Wire};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The original's limit on each line of the handshake.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How an egress tunnel of this bridge answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// The ACK by itself, as soon as the target is connected.
    AckAtOnce,
    /// The ACK and the target's first bytes in one write.
    AckWithBanner,
}

/// A running version-1 bridge. Dropping it is its death: every listener and stream goes at once.
pub struct V1Bridge {
    shared: Arc<Shared>,
}

struct Shared {
    meeting: Meeting,
    egress: Egress,
    environment: String,
    stop: Arc<AtomicBool>,
    ready: AtomicBool,
    beats: AtomicU64,
    complaint: Mutex<Option<String>>,
    settings: Mutex<Option<Value>>,
    /// Everything to be closed at the end, and the addresses that wake the accepting threads.
    wires: Mutex<Vec<Wire>>,
    listening: Mutex<Vec<JoinHandle<()>>>,
    tcp_ports: Mutex<Vec<u16>>,
    logged: Mutex<Vec<u8>>,
}

impl V1Bridge {
    /// Listens on the init and the log port; `environment` is the whole line without its `0A`.
    #[must_use]
    pub fn start(meeting: &Meeting, environment: &str, egress: Egress) -> V1Bridge {
        let shared = Arc::new(Shared {
            meeting: meeting.clone(),
            egress,
            environment: environment.to_owned(),
            stop: Arc::default(),
            ready: AtomicBool::new(false),
            beats: AtomicU64::new(0),
            complaint: Mutex::default(),
            settings: Mutex::default(),
            wires: Mutex::default(),
            listening: Mutex::default(),
            tcp_ports: Mutex::default(),
            logged: Mutex::default(),
        });
        Shared::listen_host(&shared, LOG_PORT, |shared, mut wire| {
            let mut scratch = vec![0; 4096];
            while let Ok(n @ 1..) = wire.read(&mut scratch) {
                shared.logged.lock().expect("no panic").extend_from_slice(&scratch[..n]);
            }
        });
        // The original takes one connection for the handshake and every later one for beats.
        let first = AtomicBool::new(true);
        Shared::listen_host(&shared, INIT_PORT, move |shared, wire| {
            if first.swap(false, Ordering::SeqCst) {
                if let Err(complaint) = Shared::handshake(shared, wire) {
                    shared.complain(complaint);
                }
            } else {
                Shared::beats(shared, &wire);
            }
        });
        V1Bridge { shared }
    }

    /// Whether the handshake is done.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::SeqCst)
    }

    /// What the original would have exited for.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.shared.complaint.lock().expect("no panic").clone()
    }

    /// Beats that were counted.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.shared.beats.load(Ordering::SeqCst)
    }

    /// The settings line as the enclave sent it.
    #[must_use]
    pub fn settings(&self) -> Option<Value> {
        self.shared.settings.lock().expect("no panic").clone()
    }

    /// The whole lines that came over the log port; of the last one there may be a part only.
    #[must_use]
    pub fn logged(&self) -> String {
        let logged = self.shared.logged.lock().expect("no panic");
        let whole = logged.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        String::from_utf8_lossy(&logged[..whole]).into_owned()
    }
}

impl Drop for V1Bridge {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.shared.listening.lock().expect("no panic").drain(..) {
            let _ = thread.join();
        }
        for port in self.shared.tcp_ports.lock().expect("no panic").drain(..) {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        }
        for wire in self.shared.wires.lock().expect("no panic").drain(..) {
            wire.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn complain(&self, complaint: String) {
        if !self.stop.load(Ordering::SeqCst) {
            self.complaint.lock().expect("no panic").get_or_insert(complaint);
        }
    }

    fn keep(&self, wire: &Wire) {
        self.wires.lock().expect("no panic").push(wire.again());
    }

    fn listen_host(shared: &Arc<Shared>, port: u32, serve: impl Fn(&Arc<Shared>, Wire) + Send + Sync + 'static) {
        let listener = shared.meeting.listen_host(port).expect("bind a port of the host");
        let (accepting, serve) = (shared.clone(), Arc::new(serve));
        let thread = std::thread::spawn(move || {
            let shared = accepting;
            while let Some(wire) = listener.accept_until(&shared.stop) {
                shared.keep(&wire);
                let (shared, serve) = (shared.clone(), serve.clone());
                std::thread::spawn(move || {
                    let served = wire.again();
                    serve(&shared, wire);
                    // A second name is kept for the death of the bridge; the end of the service is the end of the stream.
                    served.shutdown(Shutdown::Both);
                });
            }
        });
        shared.listening.lock().expect("no panic").push(thread);
    }

    fn handshake(shared: &Arc<Shared>, mut wire: Wire) -> Result<(), String> {
        wire.read_within(READ_TIMEOUT);
        let first = fresh_line(&mut wire).map_err(|error| format!("read ack: {error}"))?;
        if first != ACK {
            return Err(format!("first message was not an ack: {first:02x?}"));
        }
        let environment = format!("{}\n", shared.environment);
        wire.write_all(environment.as_bytes()).map_err(|error| format!("write the environment: {error}"))?;
        let line = fresh_line(&mut wire).map_err(|error| format!("read the settings: {error}"))?;
        let settings: Value = serde_json::from_slice(&line).map_err(|error| format!("settings: {error}"))?;
        *shared.settings.lock().expect("no panic") = Some(settings.clone());
        for server in settings["servers"].as_array().into_iter().flatten() {
            let tcp_port = number(server, "bridgeTcpPort")? as u16;
            let enclave_port = number(server, "enclaveListenPort")? as u32;
            Shared::ingress(shared, tcp_port, enclave_port)?;
        }
        for client in settings["clients"].as_array().into_iter().flatten() {
            Shared::listen_host(shared, number(client, "enclaveDialPort")? as u32, Shared::egress);
        }
        wire.write_all(ACK).map_err(|error| format!("write ack: {error}"))?;
        wire.shutdown(Shutdown::Both);
        shared.ready.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn beats(shared: &Arc<Shared>, wire: &Wire) {
        let settings = shared.settings.lock().expect("no panic").clone();
        let Some(watchdog) = settings.as_ref().map(|settings| &settings["watchdog"]) else {
            shared.complain("a beat before the settings".into());
            return;
        };
        let id = watchdog["enclaveId"].as_str().and_then(id_of).expect("an id in the settings");
        let interval = Duration::from_nanos(watchdog["interval"].as_u64().expect("an interval"));
        beat_on(wire, &id, interval, &shared.stop, &Arc::default(), |line| {
            if line == v1::beat(&id) {
                shared.beats.fetch_add(1, Ordering::SeqCst);
                return true;
            }
            shared.complain(format!("enclave id mismatch: {line:02x?}"));
            false
        });
    }

    fn ingress(shared: &Arc<Shared>, tcp_port: u16, enclave_port: u32) -> Result<(), String> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, tcp_port))
            .map_err(|error| format!("bind TCP {tcp_port}: {error}"))?;
        shared.tcp_ports.lock().expect("no panic").push(tcp_port);
        let shared = shared.clone();
        std::thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let Ok(wire) = shared.meeting.dial_guest(enclave_port) else { return };
                    shared.keep(&wire);
                    pump(&tcp, &wire);
                });
            }
        });
        Ok(())
    }

    fn egress(shared: &Arc<Shared>, mut wire: Wire) {
        let Ok(line) = fresh_line(&mut wire) else { return };
        let Some(target) = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()) else { return };
        let Ok(mut tcp) = TcpStream::connect(target) else { return };
        let mut opening = ACK.to_vec();
        if shared.egress == Egress::AckWithBanner {
            let mut banner = [0; 4096];
            let Ok(n) = tcp.read(&mut banner) else { return };
            opening.extend_from_slice(&banner[..n]);
        }
        if wire.write_all(&opening).is_ok() {
            pump(&tcp, &wire);
        }
    }
}

/// Both directions without half-close: the original ends nothing until both are done.
fn pump(tcp: &TcpStream, wire: &Wire) {
    let inward = std::thread::spawn({
        let (mut tcp, mut wire) = (tcp.try_clone().expect("a descriptor"), wire.again());
        move || bytes::copy(&mut tcp, &mut wire)
    });
    let _ = bytes::copy(&mut wire.again(), &mut &*tcp);
    // The enclave is done: the original's tunnel hangs here until the client goes. Ours gives it the end at least.
    let _ = tcp.shutdown(Shutdown::Write);
    let _ = inward.join();
    wire.shutdown(Shutdown::Both);
}

fn fresh_line(wire: &mut Wire) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::with_capacity(4096, wire).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn number(object: &Value, key: &str) -> Result<u64, String> {
    object[key].as_u64().ok_or_else(|| format!("no number {key} in the settings"))
}

fn id_of(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}
