//! Beats: frames by exact length whatever the id and the split, and the clock of a side.

use std::time::{Duration, Instant};

use enclave_bridge_proto::{BEAT_LEN, BeatClock, BeatReader, EnclaveId, WrongBeat, encode_beat, loss_after};

use crate::id;

/// The usual id, ids with 0A at each place, and one of nothing but 0A.
fn ids() -> Vec<EnclaveId> {
    let mut ids = vec![id(), EnclaveId::from_bytes([b'\n'; 16]).unwrap()];
    for place in 0..16 {
        let mut bytes = *id().as_bytes();
        bytes[place] = b'\n';
        ids.push(EnclaveId::from_bytes(bytes).unwrap());
        let mut bytes = [b'\n'; 16];
        bytes[place] = 0x41;
        ids.push(EnclaveId::from_bytes(bytes).unwrap());
    }
    ids
}

#[test]
fn w1_w2_beats_split_at_each_offset_and_coalesced() {
    for id in ids() {
        let stream = encode_beat(&id).repeat(1000);
        for size in 1..=60 {
            let mut reader = BeatReader::new(id);
            let mut counted = 0;
            for piece in stream.chunks(size) {
                counted += reader.push(piece).unwrap();
            }
            assert_eq!((counted, reader.is_between_beats()), (1000, true), "{id} in pieces of {size}");
        }
    }
}

#[test]
fn w2_two_three_and_one_and_a_half_at_once() {
    for id in ids() {
        let stream = encode_beat(&id).repeat(3);
        let mut reader = BeatReader::new(id);
        assert_eq!(reader.push(&stream[..34]), Ok(2));
        assert_eq!(reader.push(&stream), Ok(3));
        assert_eq!(reader.push(&stream[..25]), Ok(1));
        assert!(!reader.is_between_beats());
        assert_eq!(reader.push(&stream[8..17]), Ok(1));
        assert!(reader.is_between_beats());
    }
}

#[test]
fn w3_a_wrong_byte_at_each_place() {
    for place in 0..BEAT_LEN {
        let mut stream = encode_beat(&id()).repeat(2);
        stream[BEAT_LEN + place] ^= 0x80;
        let mut reader = BeatReader::new(id());
        assert_eq!(reader.push(&stream), Err(WrongBeat { counted: 1 }), "place {place}");
        assert_eq!(reader.push(&encode_beat(&id())), Err(WrongBeat { counted: 0 }), "the frame is lost");
    }
}

#[test]
fn ids_know_about_newlines() {
    assert!(!id().contains_newline());
    assert!(ids().iter().skip(1).all(EnclaveId::contains_newline));
}

#[test]
fn the_clock_of_a_side() {
    let start = Instant::now();
    let interval = Duration::from_secs(30);
    let mut clock = BeatClock::new(interval, interval / 3, start);
    assert_eq!(loss_after(interval), Duration::from_secs(45));
    assert!(clock.send_due(start), "the first own beat is due at once");
    assert_eq!(clock.next_deadline(), start);
    clock.sent(start);
    assert!(!clock.send_due(start + Duration::from_millis(9_999)));
    assert_eq!(clock.next_deadline(), start + Duration::from_secs(10));
    assert_eq!(clock.last_received(), None);
    assert!(!clock.lost(start + Duration::from_millis(44_999)));
    assert!(clock.lost(start + Duration::from_secs(45)));
    clock.received(start + Duration::from_secs(40));
    assert_eq!(clock.last_received(), Some(start + Duration::from_secs(40)));
    assert!(!clock.lost(start + Duration::from_secs(84)));
    assert!(clock.lost(start + Duration::from_secs(85)));
    clock.sent(start + Duration::from_secs(80));
    assert_eq!(clock.next_deadline(), start + Duration::from_secs(85), "the loss comes first");
}

/// A small generator (xorshift): the same jitter each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn w6_a_million_jittered_beats_are_no_loss_and_silence_is_one_at_its_limit() {
    // As hard as the protocol allows: a peer that beats twice an interval only, every fifth beat lost, and each of the
    // others 0.1 to 2 s late. The longest silence is 4 + 1.9 s, the limit 6 s.
    let interval = Duration::from_secs(4);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut sent = Instant::now();
    let mut clock = BeatClock::new(interval, interval / 3, sent);
    let mut came = sent;
    let mut longest = Duration::ZERO;
    for beat in 0..1_000_000_u64 {
        sent += interval / 2;
        if beat % 5 == 4 {
            continue;
        }
        let arrives = sent + Duration::from_millis(100 + dice.below(1901));
        longest = longest.max(arrives.saturating_duration_since(came));
        came = came.max(arrives);
        assert!(!clock.lost(came), "beat {beat}: a false loss after {longest:?}");
        clock.received(came);
        if beat % 100 == 0 {
            // Silence from here on: not lost a nanosecond before the limit, and lost at it.
            let limit = came + loss_after(interval);
            assert!(!clock.lost(limit - Duration::from_nanos(1)), "beat {beat}");
            assert!(clock.lost(limit), "beat {beat}");
            assert_eq!(clock.loss_deadline(), limit);
        }
    }
    assert!(longest > Duration::from_millis(5850), "the longest silence was only {longest:?}");
}
