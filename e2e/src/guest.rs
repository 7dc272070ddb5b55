//! The guest's end of the meeting place: what a VMM does for an enclave that listens.

use crate::wire::{Meeting, Wire};
use nix::sys::socket::{self, Shutdown};
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// "CONNECT 4294967295\n" is 19 bytes; a longer line is no request.
const REQUEST_MAX_BYTES: usize = 32;

/// What an enclave does with a connection to one of its ports.
pub type Service = Arc<dyn Fn(Wire) + Send + Sync>;

type Services = Arc<Mutex<HashMap<u32, (Service, Run)>>>;

#[derive(Clone, Copy)]
enum Run {
    InItsThread,
    AtOnce,
}

/// Serves the guest's socket until it is dropped.
pub struct Guest {
    path: PathBuf,
    services: Services,
    listener: Arc<UnixListener>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// Binds the guest's socket. A socket that an earlier guest left is replaced, as a VMM that starts again does.
    #[must_use]
    pub fn bind(meeting: &Meeting) -> Guest {
        let path = meeting.uds_path().to_owned();
        let _ = std::fs::remove_file(&path);
        let listener = Arc::new(UnixListener::bind(&path).expect("bind the guest's socket"));
        let services = Services::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (services, stop, listener) = (services.clone(), stop.clone(), listener.clone());
            move || {
                while let Ok((socket, _)) = listener.accept() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    answer(Wire::Unix(socket), &services);
                }
            }
        });
        Guest { path, services, listener, stop, thread: Some(thread) }
    }

    /// From now on connections to `port` run `service`, each in a thread.
    pub fn serve(&self, port: u32, service: impl Fn(Wire) + Send + Sync + 'static) {
        self.services.lock().expect("no service panics here").insert(port, (Arc::new(service), Run::InItsThread));
    }

    /// From now on connections to `port` are given to `service` by the accepting thread itself: it must not block.
    pub fn hand_over(&self, port: u32, service: impl Fn(Wire) + Send + Sync + 'static) {
        self.services.lock().expect("no service panics here").insert(port, (Arc::new(service), Run::AtOnce));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, even where the socket's file is gone already.
        let _ = socket::shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads the request, answers it, and hands the stream over; a port that nobody serves is a closed connection.
fn answer(mut wire: Wire, services: &Services) {
    wire.read_within(Duration::from_secs(5));
    let Ok(line) = wire.read_line_exactly(REQUEST_MAX_BYTES) else { return };
    let Some(port) = parse_request(&line) else { return };
    let Some((service, run)) = services.lock().expect("no service panics here").get(&port).cloned() else { return };
    if wire.write_all(format!("OK {}\n", 1 << 30 | (port & 0xFFFF)).as_bytes()).is_err() {
        return;
    }
    let Wire::Unix(socket) = &wire;
    socket.set_read_timeout(None).expect("no time limit");
    match run {
        Run::InItsThread => drop(std::thread::spawn(move || service(wire))),
        Run::AtOnce => service(wire),
    }
}

fn parse_request(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?.strip_prefix("CONNECT ")?.parse().ok()
}
