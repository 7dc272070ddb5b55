//! Beating on a connection of its own, for as long as the session lives.

use std::time::Duration;

use enclave_bridge_net::{Stream, dial};
use enclave_bridge_proto::{BEAT_LEN, BeatClock, BeatReader, EnclaveId, encode_beat, loss_after};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::Options;
use crate::handshake::INIT_DIAL_LIMIT;
use crate::pace::Pace;

/// Three beats an interval: the bridge may miss two of them before it counts a loss.
const BEATS_PER_INTERVAL: u32 = 3;

/// What one read takes: beats that have piled up during a pause.
const READ_BYTES: usize = 64 * BEAT_LEN;

/// How a connection of beats came to its end.
enum Ended {
    /// The bridge has been silent for one and a half intervals.
    Lost,
    /// The connection broke. Where the bridge had beaten on it, the session may still live.
    Broken { had_beaten: bool, reason: String },
}

/// Beats until the session is over, and says why. A connection that breaks is made again as long as the bridge beats on
/// each; a bridge that does not know the session closes it without a beat.
pub(crate) async fn until_over(options: &Options, id: EnclaveId, pace: &mut Pace) -> String {
    let mut first = true;
    loop {
        let deadline = Instant::now() + INIT_DIAL_LIMIT;
        let stream = match dial(&options.route(), options.init_port, deadline).await {
            Ok(stream) => stream,
            Err(error) => {
                // Right after the grant this is odd and must not become a fast loop of handshakes.
                if first {
                    sleep(pace.broken(Instant::now())).await;
                }
                return format!("beats: {error}");
            }
        };
        first = false;
        let since = Instant::now();
        match beat(stream, options.interval, id).await {
            Ended::Lost => return format!("no beat from the bridge for {:?}", loss_after(options.interval)),
            Ended::Broken { had_beaten, reason } => {
                let now = Instant::now();
                sleep(if had_beaten { pace.worked(now - since) } else { pace.broken(now) }).await;
                if !had_beaten {
                    return reason;
                }
            }
        }
    }
}

async fn beat(stream: Stream, interval: Duration, id: EnclaveId) -> Ended {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut clock = BeatClock::new(interval, interval / BEATS_PER_INTERVAL, now());
    let mut reader = BeatReader::new(id);
    let beat = encode_beat(&id);
    let mut unwritten: &[u8] = &[];
    let mut buf = [0; READ_BYTES];
    loop {
        if clock.send_due(now()) {
            // A beat that is still being written stands for the next one too: a bridge that does not read loses
            // nothing by it.
            if unwritten.is_empty() {
                unwritten = &beat;
            }
            clock.sent(now());
        }
        let next = clock.next_deadline();
        let read = tokio::select! {
            read = reading.read(&mut buf) => Some(read),
            written = writing.write(unwritten), if !unwritten.is_empty() => {
                match written {
                    Ok(count) => unwritten = unwritten.get(count..).unwrap_or_default(),
                    Err(error) => return broken(&clock, format!("beats: {error}")),
                }
                None
            }
            () = sleep_until(next.into()) => None,
        };
        // After a pause of this machine the beats that came meanwhile are in the socket: they are read before the
        // clock is asked.
        let read = match read {
            None if clock.lost(now()) => timeout(Duration::ZERO, reading.read(&mut buf)).await.ok(),
            read => read,
        };
        let count = match read {
            None => 0,
            Some(Ok(0)) => return broken(&clock, "beats: closed by the bridge".to_owned()),
            Some(Ok(count)) => count,
            Some(Err(error)) => return broken(&clock, format!("beats: {error}")),
        };
        match reader.push(buf.get(..count).unwrap_or_default()) {
            Ok(0) if clock.lost(now()) => return Ended::Lost,
            Ok(0) => {}
            Ok(_) => clock.received(now()),
            Err(wrong) => {
                if wrong.counted > 0 {
                    clock.received(now());
                }
                return broken(&clock, format!("beats: {wrong}"));
            }
        }
    }
}

fn broken(clock: &BeatClock, reason: String) -> Ended {
    Ended::Broken { had_beaten: clock.last_received().is_some(), reason }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
