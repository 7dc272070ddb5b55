//! The guest's end of the meeting place: what a VMM does for an enclave that listens.

use crate::wire::{Accepting, Endpoint, Meeting, Wire};
use std::collections::HashMap;
use std::io::Write;
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

/// Serves the guest's ports until it is dropped: on the hybrid transport by one socket, over AF_VSOCK by one for each port.
pub struct Guest {
    meeting: Meeting,
    services: Services,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Guest {
    /// Takes the guest's place at the meeting.
    #[must_use]
    pub fn bind(meeting: &Meeting) -> Guest {
        let guest = Guest {
            meeting: meeting.clone(),
            services: Services::default(),
            stop: Arc::default(),
            threads: Mutex::default(),
        };
        if meeting.endpoint() == Endpoint::Hybrid {
            guest.accept(0, answer);
        }
        guest
    }

    /// From now on connections to `port` run `service`, each in a thread.
    pub fn serve(&self, port: u32, service: impl Fn(Wire) + Send + Sync + 'static) {
        self.register(port, Arc::new(service), Run::InItsThread);
    }

    /// From now on connections to `port` are given to `service` by the accepting thread itself: it must not block.
    pub fn hand_over(&self, port: u32, service: impl Fn(Wire) + Send + Sync + 'static) {
        self.register(port, Arc::new(service), Run::AtOnce);
    }

    fn register(&self, port: u32, service: Service, run: Run) {
        let earlier = self.services.lock().expect("no service panics here").insert(port, (service, run));
        if earlier.is_none() && self.meeting.endpoint() == Endpoint::Vsock {
            self.accept(port, move |wire, services| hand_to(port, wire, services));
        }
    }

    fn accept(&self, port: u32, take: impl Fn(Wire, &Services) + Send + 'static) {
        let listener: Accepting = self.meeting.listen_guest(port).expect("take a port of the guest");
        let (services, stop) = (self.services.clone(), self.stop.clone());
        let thread = std::thread::spawn(move || {
            while let Some(wire) = listener.accept_until(&stop) {
                take(wire, &services);
            }
        });
        self.threads.lock().expect("no panic").push(thread);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.lock().expect("no panic").drain(..) {
            let _ = thread.join();
        }
    }
}

/// Reads the request, answers it, and hands the stream over; a port that nobody serves is a closed connection.
fn answer(mut wire: Wire, services: &Services) {
    wire.read_within(Duration::from_secs(5));
    let Ok(line) = wire.read_line_exactly(REQUEST_MAX_BYTES) else { return };
    let Some(port) = parse_request(&line) else { return };
    if !services.lock().expect("no service panics here").contains_key(&port) {
        return;
    }
    if wire.write_all(format!("OK {}\n", 1 << 30 | (port & 0xFFFF)).as_bytes()).is_err() {
        return;
    }
    wire.read_limit(None);
    hand_to(port, wire, services);
}

fn hand_to(port: u32, wire: Wire, services: &Services) {
    let Some((service, run)) = services.lock().expect("no service panics here").get(&port).cloned() else { return };
    match run {
        Run::InItsThread => drop(std::thread::spawn(move || service(wire))),
        Run::AtOnce => service(wire),
    }
}

fn parse_request(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?.strip_prefix("CONNECT ")?.parse().ok()
}
