//! Beats: counted in exact frames however they are cut, wrong at the first wrong byte and for ever; and the clock of a
//! session against plain arithmetic.

use std::time::{Duration, Instant};

use enclave_bridge_proto::{BEAT_LEN, BeatClock, BeatReader, EnclaveId, encode_beat};

use crate::input::{Cut, Input};

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let seed = input.u32();
    let mut id: [u8; 16] = input.take();
    let interval = u64::from(input.u32());
    if id == [0; 16] {
        id[0] = b'\n';
    }
    let id = EnclaveId::from_bytes(id).unwrap();
    let words = input.rest();
    clock(interval, words);
    let stream = stream(&id, words);
    let expected = expected(&id, &stream);
    for cut in Cut::all(seed) {
        assert_eq!(read(id, &cut.pieces(&stream)), expected);
    }
}

/// A peer's stream: whole beats, beats cut short, and bytes of its own.
fn stream(id: &EnclaveId, words: &[u8]) -> Vec<u8> {
    let beat = encode_beat(id);
    let mut stream = Vec::new();
    for word in words {
        match word {
            0..0x80 => stream.extend_from_slice(&beat),
            0x80..0xa0 => stream.extend_from_slice(&beat[..usize::from(word & 0x0f) + 1]),
            0xa0..0xc0 => stream.extend_from_slice(&beat[usize::from(word & 0x0f) + 1..]),
            word => stream.push(*word),
        }
    }
    stream
}

/// How many beats, and what stands behind them: their beginning, or something else.
fn expected(id: &EnclaveId, stream: &[u8]) -> (usize, Option<usize>) {
    let beat = encode_beat(id);
    let mut counted = 0;
    for frame in stream.chunks(BEAT_LEN) {
        match beat.strip_prefix(frame) {
            Some([]) => counted += 1,
            Some(_) => return (counted, Some(frame.len())),
            None => return (counted, None),
        }
    }
    (counted, Some(0))
}

fn read(id: EnclaveId, pieces: &[&[u8]]) -> (usize, Option<usize>) {
    let mut reader = BeatReader::new(id);
    let (mut counted, mut pushed) = (0, 0);
    for piece in pieces {
        pushed += piece.len();
        match reader.push(piece) {
            Ok(more) => counted += more,
            Err(wrong) => {
                counted += wrong.counted;
                assert!(!reader.is_between_beats());
                assert!(reader.push(&encode_beat(&id)).is_err_and(|wrong| wrong.counted == 0), "wrong stays wrong");
                return (counted, None);
            }
        }
        assert_eq!(reader.is_between_beats(), pushed % BEAT_LEN == 0);
    }
    (counted, Some(pushed - counted * BEAT_LEN))
}

/// A clock in microseconds beside one of numbers.
fn clock(interval: u64, words: &[u8]) {
    let start = Instant::now();
    let at = |time: u64| start + Duration::from_micros(time);
    let every = interval / 3;
    let mut clock = BeatClock::new(Duration::from_micros(interval), Duration::from_micros(every), start);
    let (mut now, mut heard, mut send) = (0_u64, 0_u64, 0_u64);
    for word in words {
        let step = u64::from(word & 0x3f) * interval / 32;
        match word >> 6 {
            0 => now += step,
            1 => {
                clock.received(at(now));
                heard = heard.max(now);
            }
            2 => {
                clock.sent(at(now));
                send = now + every;
            }
            // A beat whose time was taken before another's.
            _ => {
                clock.received(at(now.saturating_sub(step)));
                heard = heard.max(now.saturating_sub(step));
            }
        }
        let loss = at(heard) + Duration::from_micros(interval) + Duration::from_micros(interval) / 2;
        assert_eq!(clock.loss_deadline(), loss);
        assert_eq!(clock.lost(at(now)), at(now) >= loss);
        assert_eq!(clock.send_due(at(now)), now >= send);
        assert_eq!(clock.next_deadline(), at(send).min(loss));
    }
}
