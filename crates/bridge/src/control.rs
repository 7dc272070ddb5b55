//! The init port: permit → first bytes → a handshake, or the beats of the peer's live session.
//!
//! Unfinished connections are few by rule: a peer has at most a handful, and the newest makes room for itself by
//! ending the oldest that has got least far. So a thousand silent connections hold nothing up and hold no memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enclave_bridge_net::{Listener, Origin, Peer, Stream};
use enclave_bridge_policy::permit_peer;
use enclave_bridge_proto::host::{End, Event, Handshake};
use enclave_bridge_proto::{AMBIGUITY_PAUSE, EnclaveId, First, FirstBytes, HandshakeError, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::app::{App, Endpoint};
use crate::metrics::{HandshakeResult, SessionEnd, count};
use crate::session::{Session, establish};

/// How much of the settings is read at once.
const READ_BYTES: usize = 1024;

/// After the last answer, what the enclave still sends is read and ignored up to this much, so that closing with
/// unread bytes does not take the answer back.
const FAREWELL_BYTES: usize = 64 * 1024;

/// Accepts on one endpoint's init port until the daemon drains.
pub(crate) async fn accept(app: Arc<App>, endpoint: Arc<Endpoint>, mut listener: Listener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.draining.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok((stream, Origin::Peer(peer))) => (stream, peer),
            Ok((_, Origin::Tcp(_))) => continue,
            Err(dead) => {
                error!("init port: {dead}");
                return app.fail();
            }
        };
        if let Err(refusal) = permit_peer(&app.live().operator, endpoint.identity(&peer)) {
            count(&app.metrics.peers_refused);
            if app.refusals_logged.allows() {
                warn!("init port: {refusal}");
            }
            continue;
        }
        let ticket = app.unfinished.enter(&app, &peer);
        app.scope.spawn("init connection", serve(Arc::clone(&app), Arc::clone(&endpoint), stream, peer, ticket));
    }
}

async fn serve(app: Arc<App>, endpoint: Arc<Endpoint>, mut stream: Stream, peer: Peer, ticket: Ticket) {
    let made_room = ticket.made_room.clone();
    let finished = tokio::select! {
        finished = negotiate(&app, &endpoint, &mut stream, &peer, ticket) => finished,
        () = made_room.cancelled() => return count(&app.metrics.init_evicted),
        () = app.scope.cancelled() => return,
    };
    match finished {
        Finished::Beats { session, first } => session.adopt_beats(&app, stream, first),
        Finished::Answered => {
            _ = timeout(app.limits.answer_write, farewell(&mut stream)).await;
        }
        Finished::Closed => {}
    }
}

/// How the unfinished part of a connection ended.
enum Finished {
    /// It belongs to the peer's live session.
    Beats { session: Arc<Session>, first: Vec<u8> },
    /// The handshake was answered.
    Answered,
    /// There is nothing more to say.
    Closed,
}

async fn negotiate(app: &Arc<App>, endpoint: &Endpoint, stream: &mut Stream, peer: &Peer, ticket: Ticket) -> Finished {
    let accepted = Instant::now();
    let session = app.sessions.of(peer);
    // A peer of version 1 sends its first beat half an interval after it has connected for its beats.
    let limit = session.as_ref().map_or(app.handshake.ack, |session| session.interval().max(app.handshake.ack));
    let (first, bytes) = match timeout(limit, first_bytes(stream, session.as_ref().map(|s| s.id()))).await {
        Ok(Some(first)) => first,
        Ok(None) => return Finished::Closed,
        Err(_elapsed) => {
            debug!("init port: {peer}: neither a handshake nor a beat within {limit:?}");
            return Finished::Closed;
        }
    };
    match (first, session) {
        (First::Handshake { rest }, _) => {
            ticket.advance();
            shake_hands(app, endpoint, stream, peer, &rest, accepted).await
        }
        (First::Beat, Some(session)) => Finished::Beats { session, first: bytes },
        (First::Beat | First::Bad, None) => {
            count(&app.metrics.init_unknown);
            debug!("init port: {peer}: neither a handshake nor a beat of a live session");
            Finished::Closed
        }
        (First::Bad, Some(_)) => {
            count(&app.metrics.beats_bad);
            debug!("init port: {peer}: neither a handshake nor a beat of its session");
            Finished::Closed
        }
    }
}

async fn first_bytes(stream: &mut Stream, live: Option<EnclaveId>) -> Option<(First, Vec<u8>)> {
    let mut first = FirstBytes::new(live);
    let mut buffer = [0; READ_BYTES];
    loop {
        let read = if first.is_ambiguous() {
            match timeout(AMBIGUITY_PAUSE, stream.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_pause) => return first.on_pause().map(|known| (known, first.into_bytes())),
            }
        } else {
            stream.read(&mut buffer).await
        };
        let bytes = buffer.get(..read.unwrap_or(0)).unwrap_or_default();
        if bytes.is_empty() {
            return first.on_pause().map(|known| (known, first.into_bytes()));
        }
        if let Some(known) = first.push(bytes) {
            return Some((known, first.into_bytes()));
        }
    }
}

/// Drives the handshake of the host's side over the stream.
async fn shake_hands(
    app: &Arc<App>,
    endpoint: &Endpoint,
    stream: &mut Stream,
    peer: &Peer,
    rest: &[u8],
    accepted: Instant,
) -> Finished {
    let live = app.live();
    let mut handshake = Handshake::new(live.environment_line.clone(), live.offered.clone(), app.handshake, now())
        .accepted_at(accepted.into_std());
    handshake.handle_bytes(now(), rest);
    let mut session: Option<Arc<Session>> = None;
    let end = loop {
        if let Some(event) = handshake.poll_event() {
            match event {
                Event::Closed(end) => break end,
                Event::Requested(request) => match Box::pin(establish(app, endpoint, peer, &request)).await {
                    Ok(granted) => {
                        session = Some(granted);
                        handshake.grant(now());
                    }
                    Err(nak) => handshake.refuse(now(), nak),
                },
            }
            continue;
        }
        match handshake.poll_transmit() {
            Some(bytes) => {
                if transmit(stream, &mut handshake, &bytes).await.is_err() {
                    let phase = if session.is_some() { Phase::Answer } else { Phase::Environment };
                    break End::Failed(HandshakeError::Truncated { phase });
                }
            }
            None => receive(stream, &mut handshake).await,
        }
    };
    match (&end, session) {
        (End::Granted, _) => app.metrics.handshakes.count(HandshakeResult::Granted),
        (End::Refused(nak), _) => {
            app.metrics.handshakes.count(HandshakeResult::Refused);
            app.metrics.refused(nak.code());
            warn!("handshake of {peer}: refused: {nak}");
        }
        (End::Failed(failure), granted) => {
            app.metrics.handshakes.count(HandshakeResult::Failed);
            warn!("handshake of {peer}: {failure}");
            if let Some(session) = granted {
                session.end(app, SessionEnd::Undelivered).await;
            }
            return Finished::Closed;
        }
    }
    Finished::Answered
}

/// Writes all of `bytes`, and reads meanwhile: an enclave may send its settings before it reads the environment.
/// Returns early when the machine has closed.
async fn transmit(stream: &mut Stream, handshake: &mut Handshake, bytes: &[u8]) -> std::io::Result<()> {
    let (mut read_half, mut write_half) = tokio::io::split(stream);
    let mut left = bytes;
    let mut buffer = [0; READ_BYTES];
    let mut ended = false;
    while !left.is_empty() {
        // Without a deadline the machine has closed: it waits for nothing.
        let Some(deadline) = handshake.next_deadline() else { return Ok(()) };
        let step = async {
            tokio::select! {
                written = write_half.write(left) => Step::Wrote(written),
                read = read_half.read(&mut buffer), if !ended => Step::Read(read),
            }
        };
        match timeout_at(Instant::from_std(deadline), step).await {
            Ok(Step::Wrote(written)) => match written? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                n => left = left.get(n..).unwrap_or_default(),
            },
            Ok(Step::Read(Ok(n))) if n > 0 => handshake.handle_bytes(now(), buffer.get(..n).unwrap_or_default()),
            Ok(Step::Read(_)) => {
                ended = true;
                handshake.handle_eof(now());
            }
            Err(_elapsed) => handshake.handle_timeout(now()),
        }
    }
    handshake.transmitted(now());
    Ok(())
}

enum Step {
    Wrote(std::io::Result<usize>),
    Read(std::io::Result<usize>),
}

async fn receive(stream: &mut Stream, handshake: &mut Handshake) {
    let Some(deadline) = handshake.next_deadline() else { return };
    let mut buffer = [0; READ_BYTES];
    match timeout_at(Instant::from_std(deadline), stream.read(&mut buffer)).await {
        Ok(Ok(n)) if n > 0 => handshake.handle_bytes(now(), buffer.get(..n).unwrap_or_default()),
        Ok(_ended) => handshake.handle_eof(now()),
        Err(_elapsed) => handshake.handle_timeout(now()),
    }
}

async fn farewell(stream: &mut Stream) {
    _ = stream.shutdown().await;
    let mut buffer = [0; READ_BYTES];
    let mut read = 0usize;
    while read < FAREWELL_BYTES {
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => read = read.saturating_add(n),
            Ok(_) | Err(_) => return,
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The connections on the init port that are not finished yet.
#[derive(Debug, Default)]
pub(crate) struct Unfinished(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    list: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    peer: Peer,
    advanced: bool,
    made_room: CancellationToken,
}

/// A place among the unfinished; given up when dropped.
struct Ticket {
    entries: Arc<Mutex<Entries>>,
    number: u64,
    /// Cancelled when the place was given to a newer connection.
    made_room: CancellationToken,
}

impl Unfinished {
    /// A place for a new connection of `peer`; where there is none the least advanced and oldest makes room: of the
    /// same peer if it has its fill, else of all.
    fn enter(&self, app: &App, peer: &Peer) -> Ticket {
        self.enter_within(peer, app.limits.unfinished_per_peer, app.limits.unfinished_total)
    }

    fn enter_within(&self, peer: &Peer, per_peer: usize, total: usize) -> Ticket {
        let mut entries = lock(&self.0);
        let of_peer = entries.list.iter().filter(|e| e.peer == *peer).count();
        if of_peer >= per_peer {
            entries.evict(|e| e.peer == *peer);
        } else if entries.list.len() >= total {
            entries.evict(|_| true);
        }
        let number = entries.next;
        entries.next = number.wrapping_add(1);
        let made_room = CancellationToken::new();
        entries.list.push(Entry { number, peer: peer.clone(), advanced: false, made_room: made_room.clone() });
        Ticket { entries: Arc::clone(&self.0), number, made_room }
    }
}

impl Entries {
    /// Ends the oldest of those that have got least far. Entries stand in the order of their age.
    fn evict(&mut self, among: impl Fn(&Entry) -> bool) {
        let candidates = self.list.iter().enumerate().filter(|(_, e)| among(e));
        if let Some((place, _)) = candidates.min_by_key(|(place, e)| (e.advanced, *place)) {
            self.list.remove(place).made_room.cancel();
        }
    }
}

impl Ticket {
    /// The peer has sent an ACK: later than those that have not, it makes room.
    fn advance(&self) {
        if let Some(entry) = lock(&self.entries).list.iter_mut().find(|e| e.number == self.number) {
            entry.advanced = true;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.entries).list.retain(|e| e.number != self.number);
    }
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_gets_in_and_the_least_advanced_makes_room() {
        let unfinished = Unfinished::default();
        let enter = |cid| unfinished.enter_within(&Peer::Cid(cid), 2, 3);
        let first = enter(16);
        first.advance();
        let second = enter(16);
        let third = enter(16);
        assert!(!first.made_room.is_cancelled(), "it has sent an ACK");
        assert!(second.made_room.is_cancelled());
        let other = enter(17);
        let another = enter(18);
        assert!(third.made_room.is_cancelled(), "the total is full, and it is the oldest that has sent nothing");
        assert!(!other.made_room.is_cancelled() && !another.made_room.is_cancelled());
        drop((first, second, third, other, another));
        assert!(lock(&unfinished.0).list.is_empty());
    }
}
