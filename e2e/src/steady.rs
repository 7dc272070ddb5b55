//! Streams that move at a rate of their own, and how much of it gets through.

use crate::tunnels;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often each stream sends its share.
const BEAT: Duration = Duration::from_millis(20);

/// Streams to an echo, each sending at the same rate, until dropped.
#[derive(Debug)]
pub struct Steady {
    back: Arc<AtomicU64>,
    broken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    streams: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Steady {
    /// `streams` of them to the echo at `address`, `bytes_per_second` each.
    #[must_use]
    pub fn start(address: SocketAddr, streams: usize, bytes_per_second: usize) -> Steady {
        let (back, broken, stop) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicBool>)>::default();
        let mut steady = Steady { back, broken, stop, streams: Vec::new(), threads: Vec::new() };
        let piece = bytes_per_second * usize::try_from(BEAT.as_millis()).expect("a beat") / 1000;
        for number in 0..streams {
            let mut reading = tunnels::tcp(address);
            let mut writing = reading.try_clone().expect("a descriptor");
            steady.streams.push(reading.try_clone().expect("a descriptor"));
            let fill = u8::try_from(number % 251).expect("a byte");
            let (stop, broken) = (steady.stop.clone(), steady.broken.clone());
            steady.threads.push(std::thread::spawn(move || {
                let piece = vec![fill; piece];
                let mut due = Instant::now();
                while !stop.load(Ordering::SeqCst) {
                    if writing.write_all(&piece).is_err() && !stop.load(Ordering::SeqCst) {
                        broken.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    // What was missed is not made up for: a stall shows as a lower rate.
                    due = (due + BEAT).max(Instant::now().checked_sub(BEAT).expect("an uptime of more than a beat"));
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            }));
            let (back, broken, stop) = (steady.back.clone(), steady.broken.clone(), steady.stop.clone());
            steady.threads.push(std::thread::spawn(move || {
                let mut scratch = vec![0; 64 * 1024];
                loop {
                    match reading.read(&mut scratch) {
                        Ok(n) if n > 0 && scratch[..n].iter().all(|byte| *byte == fill) => {
                            back.fetch_add(n as u64, Ordering::SeqCst);
                        }
                        _ if stop.load(Ordering::SeqCst) => return,
                        _ => {
                            broken.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                    }
                }
            }));
        }
        steady
    }

    /// Bytes that came back so far.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.back.load(Ordering::SeqCst)
    }

    /// Directions of streams that ended or brought back what was never sent.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::SeqCst)
    }

    /// Bytes a second over the next `window`.
    #[must_use]
    pub fn rate_over(&self, window: Duration) -> u64 {
        let (before, start) = (self.moved(), Instant::now());
        std::thread::sleep(window);
        let passed = start.elapsed().as_millis().max(1);
        u64::try_from(u128::from(self.moved() - before) * 1000 / passed).expect("a rate")
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for stream in &self.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
