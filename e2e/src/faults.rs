//! Streams under fault: 24 kinds, each met by many streams of either way, a blob with a SHA-256 in both directions of each.
//!
//! What must hold whatever the fault: what comes is what was said, in its order; a clean end comes only where the sender
//! ended, and behind its last byte. Where the fault only delays, both ends close in order. Where it breaks the stream, both
//! ends that live on see an error. What lives here: the table of kinds and the counting; worlds and strikes are below.

mod run;
mod world;

use crate::dice::Dice;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

pub use world::Way;

/// Which form the enclave's leg has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// Bytes as they are.
    Raw,
    /// Records.
    Framed,
}

/// On which forms of the enclave's leg a kind can be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Legs {
    /// Both, by turns.
    Both,
    /// Framed only: a raw leg shows the enclave a reset as the end of both directions, and the bridge the death of a
    /// process as an end, so a short stream may end cleanly there and nobody can help it.
    Framed,
}

/// What must come of every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both directions whole, both ends closed in order.
    Whole,
    /// An error at every end that did not do it itself, for the stream never ended.
    Broken,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name in tables and messages.
    pub name: &'static str,
    /// What happens.
    pub about: &'static str,
    /// Where it can be judged.
    pub legs: Legs,
    /// What must come of it.
    pub outcome: Outcome,
    strike: Strike,
}

/// What a run does; each is done at a place in the stream that the seed decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Delayed,
    SingleBytes,
    Fragments,
    Coalesced,
    HalfCloseEarly,
    HalfCloseLate,
    TcpResets,
    PathResets,
    EnclaveResets,
    EnclaveCutInRecord,
    TcpClosesUnread,
    EnclaveClosesUnread,
    TcpSlow,
    EnclaveSlow,
    TcpStalls,
    EnclaveStalls,
    BridgeStopped,
    EnclaveStopped,
    EnclaveKilled,
    BridgeKilled,
    SessionReplaced,
    BeatsLost,
    BacklogFull,
    NoDescriptors,
}

use Legs::Both;
use Outcome::{Broken, Whole};

/// Every kind.
#[rustfmt::skip]
pub const KINDS: [Kind; 24] = [
    kind("delayed", "every piece is held for up to 4 ms on the TCP path and 3 ms on the enclave's", Both, Whole, Strike::Delayed),
    kind("single-bytes", "every byte is a write of its own", Both, Whole, Strike::SingleBytes),
    kind("fragments", "pieces of 1 to 1448 bytes, whatever was written", Both, Whole, Strike::Fragments),
    kind("coalesced", "pieces joined up to 64 KiB; on egress the first bytes stand in the segment of the address line", Both, Whole, Strike::Coalesced),
    kind("half-close-early", "one end speaks and ends before the other begins", Both, Whole, Strike::HalfCloseEarly),
    kind("half-close-late", "one end says all and ends only after the other has", Both, Whole, Strike::HalfCloseLate),
    kind("tcp-resets", "the client or server closes with linger 0 at byte n", Legs::Framed, Broken, Strike::TcpResets),
    kind("path-resets", "the path between them and the bridge resets both of its sides at byte n", Legs::Framed, Broken, Strike::PathResets),
    kind("enclave-resets", "the enclave resets at byte n by the record for it", Legs::Framed, Broken, Strike::EnclaveResets),
    kind("enclave-cut", "the enclave's socket ends behind the header of a record", Legs::Framed, Broken, Strike::EnclaveCutInRecord),
    kind("tcp-unread", "the client or server closes without reading what came", Legs::Framed, Broken, Strike::TcpClosesUnread),
    kind("enclave-unread", "the enclave closes without reading what came", Both, Broken, Strike::EnclaveClosesUnread),
    kind("tcp-slow", "the client or server reads 4 KiB a millisecond", Both, Whole, Strike::TcpSlow),
    kind("enclave-slow", "the enclave reads 4 KiB a millisecond", Both, Whole, Strike::EnclaveSlow),
    kind("tcp-stalls", "the client or server reads nothing for 50 to 150 ms while up to 4 MiB wait", Both, Whole, Strike::TcpStalls),
    kind("enclave-stalls", "the enclave reads nothing for 50 to 150 ms while up to 4 MiB wait", Both, Whole, Strike::EnclaveStalls),
    kind("bridge-stopped", "SIGSTOP for the bridge mid-stream, SIGCONT up to 40 ms later", Both, Whole, Strike::BridgeStopped),
    kind("enclave-stopped", "SIGSTOP for the enclave's process mid-stream, SIGCONT up to 40 ms later", Both, Whole, Strike::EnclaveStopped),
    kind("enclave-killed", "SIGKILL for the enclave's process mid-stream", Legs::Framed, Broken, Strike::EnclaveKilled),
    kind("bridge-killed", "SIGKILL for the bridge mid-stream", Legs::Framed, Broken, Strike::BridgeKilled),
    kind("session-replaced", "another handshake of the same enclave mid-stream", Legs::Framed, Broken, Strike::SessionReplaced),
    kind("beats-lost", "the enclave falls silent mid-stream, until its session is lost", Legs::Framed, Broken, Strike::BeatsLost),
    kind("backlog-full", "the backlog that the stream has to pass is full when it comes", Both, Whole, Strike::BacklogFull),
    kind("no-descriptors", "the bridge has no descriptor left mid-stream, and 20 connections wait for one", Both, Whole, Strike::NoDescriptors),
];

const fn kind(name: &'static str, about: &'static str, legs: Legs, outcome: Outcome, strike: Strike) -> Kind {
    Kind { name, about, legs, outcome, strike }
}

/// What came of the runs of a kind.
#[derive(Debug, Default)]
pub struct Tally {
    /// Streams, by way.
    pub runs: [u64; 2],
    /// Directions that were whole: hash and length equal, both ends in order.
    pub whole: u64,
    /// Directions whose receiver saw an error.
    pub cut: u64,
    /// Directions whose receiver was the end that broke the stream, or was killed.
    pub own: u64,
    /// What must not be, each with the seed of its run.
    pub violations: Vec<String>,
}

/// Runs a kind `runs` times each way, `lanes` at a time, each lane with a bridge of its own.
///
/// # Panics
/// Where a bridge cannot be started or an enclave gets no session.
#[must_use]
pub fn run(kind: &Kind, runs: u64, lanes: u64, seed: u64) -> Tally {
    let tally = Mutex::new(Tally::default());
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..lanes.min(runs * 2) {
            scope.spawn(|| {
                let mut world: Option<World> = None;
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= runs * 2 {
                        return;
                    }
                    // Each lane goes on with its world as long as the next run can use it: the legs change halfway only.
                    let way = if number.is_multiple_of(2) { Way::Ingress } else { Way::Egress };
                    let leg = if kind.legs == Both && number < runs { Leg::Raw } else { Leg::Framed };
                    let run_seed = Dice::new(seed ^ (kind.strike as u64) << 32 ^ number << 8).any();
                    let found = run::one(kind, way, leg, run_seed, &mut world);
                    let mut tally = tally.lock().expect("no lane panics while it counts");
                    tally.runs[way as usize] += 1;
                    match found {
                        Ok(counts) => {
                            tally.whole += counts.whole;
                            tally.cut += counts.cut;
                            tally.own += counts.own;
                        }
                        Err(wrong) => {
                            let name = kind.name;
                            tally
                                .violations
                                .push(format!("{name}, {way:?}, {leg:?}, run {number} of seed {seed}: {wrong}"));
                            world = None;
                        }
                    }
                }
            });
        }
    });
    tally.into_inner().expect("no lane panicked")
}

/// The kind of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
