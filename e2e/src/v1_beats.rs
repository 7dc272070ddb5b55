//! Beats as the original has them, on both sides: framed by `0A`, the first one after half an interval.

use crate::v1::{INIT_PORT, beat, read_line_with_a_fresh_reader};
use crate::wire::{Meeting, Wire};
use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The enclave's side: dials again whenever its connection ends, counts, and complains where the original exits.
pub(crate) struct Watchdog {
    stop: Arc<AtomicBool>,
    /// No more beats are sent.
    pub(crate) silent: Arc<AtomicBool>,
    /// Beats that came.
    pub(crate) beats: Arc<AtomicU64>,
    /// What the original would have exited for.
    pub(crate) complaint: Arc<Mutex<Option<String>>>,
    threads: Vec<JoinHandle<()>>,
    live: Arc<Mutex<Option<Wire>>>,
}

impl Watchdog {
    pub(crate) fn start(meeting: &Meeting, id: [u8; 16], interval: Duration) -> Watchdog {
        let stop = Arc::new(AtomicBool::new(false));
        let silent = Arc::new(AtomicBool::new(false));
        let beats = Arc::new(AtomicU64::new(0));
        let complaint = Arc::new(Mutex::new(None));
        let live = Arc::new(Mutex::new(None));
        let last = Arc::new(Mutex::new(Instant::now()));
        let dialling = std::thread::spawn({
            let (meeting, stop, silent, beats) = (meeting.clone(), stop.clone(), silent.clone(), beats.clone());
            let (complaint, live, last) = (complaint.clone(), live.clone(), last.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    if let Ok(wire) = meeting.dial_host(INIT_PORT) {
                        *live.lock().expect("no panic") = Some(wire.again());
                        beat_on(&wire, &id, interval, &stop, &silent, |line| {
                            if line == beat(&id) {
                                beats.fetch_add(1, Ordering::SeqCst);
                                *last.lock().expect("no panic") = Instant::now();
                                return true;
                            }
                            let mut complaint = complaint.lock().expect("no panic");
                            complaint.get_or_insert_with(|| format!("enclave id mismatch: {line:02x?}"));
                            false
                        });
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        });
        let ticking = std::thread::spawn({
            let (stop, complaint) = (stop.clone(), complaint.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    if last.lock().expect("no panic").elapsed() > interval {
                        let mut complaint = complaint.lock().expect("no panic");
                        complaint.get_or_insert_with(|| format!("no heartbeat within {interval:?}"));
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Watchdog { stop, silent, beats, complaint, threads: vec![dialling, ticking], live }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(wire) = self.live.lock().expect("no panic").take() {
            wire.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One connection of beats, as both sides of the original have it, until it ends or `heard` has enough.
pub(crate) fn beat_on(
    wire: &Wire,
    id: &[u8; 16],
    interval: Duration,
    stop: &Arc<AtomicBool>,
    silent: &Arc<AtomicBool>,
    mut heard: impl FnMut(&[u8]) -> bool,
) {
    let ended = Arc::new(AtomicBool::new(false));
    let sending = std::thread::spawn({
        let (mut wire, beat, stop, silent, ended) =
            (wire.again(), beat(id), stop.clone(), silent.clone(), ended.clone());
        move || {
            let mut next = Instant::now() + interval / 2;
            while !stop.load(Ordering::SeqCst) && !ended.load(Ordering::SeqCst) {
                if Instant::now() >= next {
                    next += interval / 2;
                    if !silent.load(Ordering::SeqCst) && wire.write_all(&beat).is_err() {
                        return;
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    let mut reading = wire.again();
    while !stop.load(Ordering::SeqCst) {
        match read_line_with_a_fresh_reader(&mut reading) {
            Ok(line) if line.last() == Some(&b'\n') && heard(&line) => {}
            _ => break,
        }
    }
    wire.shutdown(Shutdown::Both);
    ended.store(true, Ordering::SeqCst);
    let _ = sending.join();
}
