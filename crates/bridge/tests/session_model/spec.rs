//! The session as a small executable specification: who may do what when, what is refused and why, what is counted.
//! It knows no socket, no task and nothing of the code that it is compared with; time is a number.
//! Long, because it is read from top to bottom beside the description of the wire; streams and logs are below.

mod streams;

use std::collections::{BTreeMap, HashMap};

use crate::steps::{Settings, Step, Then};

/// Milliseconds since the beginning.
pub(crate) type Millis = u64;

/// Time for the first bytes of a connection to the init port; before the first of them a peer whose session lives has as long
/// as that would live without a beat.
pub(crate) const FIRST: Millis = 5000;
/// Time for a whole handshake until its settings are there, from the accept.
pub(crate) const HANDSHAKE: Millis = 10_000;
/// After that long an ACK that might have been the beginning of a beat is an ACK.
pub(crate) const AMBIGUITY: Millis = 200;
/// Time for the address line of an egress stream.
pub(crate) const ADDRESS_LINE: Millis = 5000;
/// The drain's time. Like the time of a loss no multiple of [`crate::steps::QUANTUM`]: no two deadlines that touch the same
/// thing come at one instant, where nobody says which is first.
pub(crate) const DRAIN: Millis = 3007;

/// Sessions, and unfinished connections in all, of one peer, log connections of one peer, streams.
pub(crate) const SESSIONS: usize = 2;
pub(crate) const UNFINISHED: usize = 4;
pub(crate) const UNFINISHED_PER_PEER: usize = 2;
pub(crate) const LOGS_PER_PEER: usize = 2;
pub(crate) const STREAMS: usize = 4;
/// Beat connections of one session.
const BEAT_CONNECTIONS: usize = 4;

const ACK: [u8; 2] = *b"\x06\n";

/// The bridge as it has to be.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) now: Millis,
    pub(crate) sessions: Vec<Session>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) logs: Vec<Log>,
    /// Whether the peer's enclave answers connections of the bridge.
    pub(crate) serving: [bool; crate::steps::PEERS],
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Connections that are neither session's nor answered, the oldest first.
    unfinished: Vec<usize>,
    /// What every line of settings that was made up means.
    meanings: HashMap<Vec<u8>, Settings>,
    pub(crate) draining: Option<Millis>,
    /// Whether the daemon ends when an enclave is lost.
    exit_on_loss: bool,
    /// Whether one was lost and that ends the daemon.
    pub(crate) lost: bool,
    /// Streams that were cut when the daemon ended.
    pub(crate) ended: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) peer: usize,
    pub(crate) id: [u8; 16],
    pub(crate) live: bool,
    settings: Settings,
    last_beat: Millis,
    beats: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: usize,
    pub(crate) stage: Stage,
    /// Whether the peer has not closed it.
    pub(crate) held: bool,
    pub(crate) seen: Seen,
    accepted: Millis,
    /// When its first bytes must be there.
    first_by: Millis,
    /// The session that lived when it was accepted: the one whose beats it may carry.
    session: Option<usize>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Stage {
    First { got: Vec<u8>, since: Millis },
    Settings { line: Vec<u8> },
    Beats { place: usize, next: Millis },
    Over,
}

/// What a peer must have read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) environment: bool,
    /// It may as well not have come: the peer had ended its side already.
    pub(crate) environment_or_not: bool,
    pub(crate) answer: Option<&'static str>,
    pub(crate) beats: u64,
    pub(crate) ended: bool,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) session: usize,
    pub(crate) peer: usize,
    pub(crate) egress: bool,
    pub(crate) stage: StreamStage,
    pub(crate) held: bool,
    pub(crate) answer: Option<&'static str>,
    pub(crate) pings: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum StreamStage {
    Line { since: Millis },
    Relayed,
    Over,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) peer: usize,
    pub(crate) open: bool,
    pub(crate) held: bool,
    tail: bool,
}

/// The answer that is no refusal.
pub(crate) const GRANTED: &str = "ACK";

impl Model {
    /// Nobody is there. `exit_on_loss`: whether the loss of an enclave ends the daemon.
    pub(crate) fn new(exit_on_loss: bool) -> Self {
        Self { exit_on_loss, ..Self::default() }
    }

    /// What happens; whether a connection that was asked for came about.
    pub(crate) fn step(&mut self, step: &Step) -> bool {
        let done = match step {
            Step::Dial { peer } => self.dial(*peer),
            Step::Send { connection, bytes, then } => {
                self.send(*connection, bytes, *then);
                true
            }
            Step::Ingress { port } => self.ingress(*port),
            Step::Egress { peer, port } => self.egress(*peer, *port),
            Step::Target { stream, target } => {
                self.target(*stream, *target);
                true
            }
            Step::Ping { stream } => {
                if let Some(stream) = self.streams.get_mut(*stream) {
                    stream.pings += 1;
                }
                true
            }
            Step::Finish { stream, orderly } => {
                let result = match (self.streams[*stream].stage, orderly) {
                    (StreamStage::Over, _) => None,
                    (StreamStage::Line { .. }, _) => Some("abandoned"),
                    (StreamStage::Relayed, true) => Some("orderly"),
                    (StreamStage::Relayed, false) => Some("reset"),
                };
                if let Some(result) = result {
                    self.stream_ends(*stream, result);
                }
                self.streams[*stream].held = false;
                true
            }
            Step::LogDial { peer } => self.log_dial(*peer),
            Step::LogWrite { log, bytes } => {
                if self.logs[*log].open {
                    for _ in bytes.iter().filter(|byte| **byte == b'\n') {
                        self.count("log lines", 1);
                    }
                    self.logs[*log].tail = bytes.last().is_some_and(|last| *last != b'\n');
                }
                true
            }
            Step::LogClose { log } => {
                self.log_ends(*log);
                self.logs[*log].held = false;
                true
            }
            Step::Serve { peer, on } => {
                self.serving[*peer] = *on;
                true
            }
            Step::Drain => {
                self.draining = Some(self.now);
                true
            }
        };
        self.after();
        done
    }

    /// Remembers what a line of settings says.
    pub(crate) fn means(&mut self, line: &[u8], settings: &Settings) {
        self.meanings.insert(line.to_vec(), settings.clone());
    }

    /// When something happens next by itself.
    pub(crate) fn next_deadline(&self) -> Option<Millis> {
        let connections = self.connections.iter().filter_map(|connection| connection.deadline(self));
        // The clock also stops where the limit passes: from there on the last moment is counted.
        let live = || self.sessions.iter().filter(|session| session.live);
        let limits = live().map(Session::limit_at).filter(|limit| *limit > self.now);
        let sessions = live().map(Session::lost_at).chain(limits);
        let streams = self.streams.iter().filter_map(|stream| match stream.stage {
            StreamStage::Line { since } => Some(since + ADDRESS_LINE),
            StreamStage::Relayed | StreamStage::Over => None,
        });
        let drain = self.draining.filter(|_| self.ended.is_none()).map(|since| since + DRAIN);
        connections.chain(sessions).chain(streams).chain(drain).min()
    }

    /// Time passes, no further than to the next deadline.
    pub(crate) fn pass(&mut self, to: Millis) {
        self.now = to;
        for number in 0..self.connections.len() {
            while self.connections[number].deadline(self).is_some_and(|deadline| deadline <= to) {
                self.connection_waits_no_longer(number);
            }
        }
        for number in 0..self.sessions.len() {
            if self.sessions[number].live && self.sessions[number].lost_at() <= to {
                self.session_ends(number, "ended lost");
                if self.exit_on_loss {
                    self.lost = true;
                    self.draining = self.draining.or(Some(to));
                }
            }
        }
        for number in 0..self.streams.len() {
            if matches!(self.streams[number].stage, StreamStage::Line { since } if since + ADDRESS_LINE <= to) {
                self.stream_ends(number, "abandoned");
            }
        }
        self.after();
    }

    /// The number of the session that the peer holds.
    pub(crate) fn session_of(&self, peer: usize) -> Option<usize> {
        self.sessions.iter().position(|session| session.live && session.peer == peer)
    }

    /// Whether somebody's session listens on this TCP port.
    pub(crate) fn accepts(&self, port: usize) -> Option<usize> {
        let holds = |session: &Session| session.live && session.settings.servers.contains(&port);
        self.sessions.iter().position(holds).filter(|_| self.draining.is_none())
    }

    /// Whether the peer's session listens on this vsock port.
    pub(crate) fn accepts_from(&self, peer: usize, port: u32) -> Option<usize> {
        let grants = |number: &usize| self.sessions[*number].settings.clients.contains(&port);
        self.session_of(peer).filter(grants).filter(|_| self.draining.is_none())
    }

    pub(crate) fn open_streams(&self, egress: bool) -> usize {
        self.streams.iter().filter(|s| s.egress == egress && s.stage != StreamStage::Over).count()
    }

    fn count(&mut self, what: &'static str, by: u64) {
        *self.counts.entry(what).or_default() += by;
    }

    /// A drain is over when no stream is left or its time is.
    fn after(&mut self) {
        let Some(since) = self.draining.filter(|_| self.ended.is_none()) else { return };
        let open = self.open_streams(false) + self.open_streams(true);
        if open > 0 && self.now < since + DRAIN {
            return;
        }
        for number in 0..self.sessions.len() {
            if self.sessions[number].live {
                self.session_ends(number, "ended shutdown");
            }
        }
        for number in 0..self.connections.len() {
            self.over(number);
        }
        for number in 0..self.logs.len() {
            self.log_ends(number);
        }
        self.ended = Some(open);
    }
}

/// The init port.
impl Model {
    fn dial(&mut self, peer: usize) -> bool {
        if self.draining.is_some() {
            return false;
        }
        let of_peer = |number: &&usize| self.connections[**number].peer == peer;
        // The newest gets in; the oldest of those that have got least far makes room.
        let full = if self.unfinished.iter().filter(of_peer).count() >= UNFINISHED_PER_PEER {
            Some(true)
        } else {
            (self.unfinished.len() >= UNFINISHED).then_some(false)
        };
        if let Some(same_peer) = full {
            let candidates = self.unfinished.iter().filter(|number| !same_peer || of_peer(number));
            let least = candidates.min_by_key(|n| !matches!(self.connections[**n].stage, Stage::First { .. }));
            if let Some(least) = least.copied() {
                self.count("evicted", 1);
                self.over(least);
            }
        }
        self.unfinished.push(self.connections.len());
        let stage = Stage::First { got: Vec::new(), since: self.now };
        let session = self.session_of(peer);
        let seen = Seen::default();
        let silence = session.map_or(0, |session| self.sessions[session].settings.interval * 3 / 2);
        let (accepted, first_by) = (self.now, self.now + silence.max(FIRST));
        self.connections.push(Connection { peer, stage, held: true, seen, accepted, first_by, session });
        true
    }

    fn send(&mut self, number: usize, bytes: &[u8], then: Then) {
        let now = self.now;
        let connection = &mut self.connections[number];
        match &mut connection.stage {
            Stage::First { got, since } if !bytes.is_empty() => {
                if got.is_empty() {
                    connection.first_by = connection.first_by.min(now + FIRST);
                }
                got.extend_from_slice(bytes);
                *since = now;
                self.first_bytes(number);
            }
            Stage::Settings { .. } => self.settings_bytes(number, bytes, then != Then::Close),
            Stage::Beats { .. } => self.beat_bytes(number, bytes),
            Stage::First { .. } | Stage::Over => {}
        }
        if then == Then::Stay {
            return;
        }
        match &self.connections[number].stage {
            Stage::First { got, .. } if got.starts_with(&ACK) => {
                self.connections[number].seen.environment_or_not = true;
                self.count("handshakes failed", 1);
            }
            Stage::Settings { .. } => self.count("handshakes failed", 1),
            Stage::First { .. } | Stage::Beats { .. } | Stage::Over => {}
        }
        self.over(number);
        if then == Then::Close {
            self.connections[number].held = false;
        }
    }

    /// A handshake, or a beat of the session that lived when it connected?
    fn first_bytes(&mut self, number: usize) {
        let connection = &self.connections[number];
        let Stage::First { got, .. } = &connection.stage else { return };
        let alike = |one: &[u8], other: &[u8]| one.iter().zip(other).all(|(a, b)| a == b);
        let beat = connection.session.map(|session| beat_of(&self.sessions[session].id));
        let beat = beat.filter(|beat| alike(got, beat));
        let live = connection.session.filter(|session| self.sessions[*session].live);
        match (alike(got, &ACK), beat) {
            (true, None) if got.len() >= ACK.len() => self.shake_hands(number),
            (true, None) => {}
            (_, Some(beat)) if got.len() < beat.len() => {}
            (_, Some(_)) if live.is_some() => self.adopt(number),
            (_, _) => {
                self.count(if live.is_some() { "bad beats" } else { "unknown" }, 1);
                self.over(number);
            }
        }
    }

    fn shake_hands(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let Stage::First { got, .. } = &connection.stage else { return };
        let rest = got[ACK.len()..].to_vec();
        connection.seen.environment = true;
        connection.stage = Stage::Settings { line: Vec::new() };
        self.settings_bytes(number, &rest, true);
    }

    fn settings_bytes(&mut self, number: usize, bytes: &[u8], delivered: bool) {
        let Stage::Settings { line } = &mut self.connections[number].stage else { return };
        line.extend_from_slice(bytes);
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else { return };
        let asked = self.meanings.get(&line[..=end]).cloned();
        let peer = self.connections[number].peer;
        let answer = asked.ok_or("BAD_CONFIG").and_then(|asked| self.establish(peer, asked));
        match answer {
            Ok(session) if !delivered => {
                self.session_ends(session, "ended undelivered");
                self.count("handshakes failed", 1);
            }
            Ok(_) => self.count("handshakes granted", 1),
            Err(_) if !delivered => self.count("handshakes failed", 1),
            Err(code) => {
                self.count("handshakes refused", 1);
                self.count(code, 1);
            }
        }
        self.connections[number].seen.answer = Some(answer.map_or_else(|code| code, |_| GRANTED));
        self.over(number);
    }

    /// All of what is asked for, or the reason why nothing.
    fn establish(&mut self, peer: usize, asked: Settings) -> Result<usize, &'static str> {
        if let Some(fault) = asked.fault {
            return Err(fault.code());
        }
        let others = self.sessions.iter().filter(|session| session.live && session.peer != peer).count();
        if self.draining.is_some() || others >= SESSIONS {
            return Err("BUSY");
        }
        if let Some(old) = self.session_of(peer) {
            self.session_ends(old, "ended replaced");
        }
        if asked.servers.iter().any(|port| self.accepts(*port).is_some()) {
            return Err("PORT_IN_USE");
        }
        self.count("started", 1);
        let id = crate::steps::IDS[asked.id];
        let last_beat = self.now;
        self.sessions.push(Session { peer, id, live: true, settings: asked, last_beat, beats: Vec::new() });
        Ok(self.sessions.len() - 1)
    }

    fn adopt(&mut self, number: usize) {
        let connection = &self.connections[number];
        let (Some(session), Stage::First { got, .. }) = (connection.session, &connection.stage) else { return };
        let got = got.clone();
        self.unfinished.retain(|other| *other != number);
        if self.sessions[session].beats.len() >= BEAT_CONNECTIONS {
            self.over(self.sessions[session].beats[0]);
        }
        self.sessions[session].beats.push(number);
        // The first of the bridge's own beats goes out at once.
        self.connections[number].stage = Stage::Beats { place: 0, next: self.now };
        self.beat_bytes(number, &got);
        if self.connections[number].stage != Stage::Over {
            self.connection_waits_no_longer(number);
        }
    }

    fn beat_bytes(&mut self, number: usize, bytes: &[u8]) {
        let connection = &mut self.connections[number];
        let (Some(session), Stage::Beats { place, .. }) = (connection.session, &mut connection.stage) else { return };
        let frame = beat_of(&self.sessions[session].id);
        let mut whole = 0;
        for byte in bytes {
            if frame[*place] != *byte {
                self.count("bad beats", 1);
                return self.over(number);
            }
            *place = (*place + 1) % frame.len();
            whole += u64::from(*place == 0);
        }
        if whole > 0 {
            self.sessions[session].last_beat = self.now;
            self.count("beats", whole);
        }
    }

    fn connection_waits_no_longer(&mut self, number: usize) {
        let interval = self.connections[number].session.map(|session| self.sessions[session].settings.interval);
        let now = self.now;
        let connection = &mut self.connections[number];
        match &mut connection.stage {
            Stage::First { got, since } if got.starts_with(&ACK) && *since + AMBIGUITY <= now => {
                self.shake_hands(number)
            }
            Stage::First { .. } => self.over(number),
            Stage::Settings { .. } => {
                self.count("handshakes failed", 1);
                self.over(number);
            }
            Stage::Beats { next, .. } => {
                connection.seen.beats += 1;
                *next += interval.unwrap_or(1) / 3;
            }
            Stage::Over => {}
        }
    }

    /// The bridge has no more to do with a connection.
    fn over(&mut self, number: usize) {
        self.connections[number].stage = Stage::Over;
        self.connections[number].seen.ended = true;
        self.unfinished.retain(|other| *other != number);
        for session in &mut self.sessions {
            session.beats.retain(|other| *other != number);
        }
    }

    fn session_ends(&mut self, number: usize, reason: &'static str) {
        self.count(reason, 1);
        self.sessions[number].live = false;
        for beats in std::mem::take(&mut self.sessions[number].beats) {
            self.over(beats);
        }
        for stream in 0..self.streams.len() {
            if self.streams[stream].session == number && self.streams[stream].stage != StreamStage::Over {
                self.stream_ends(stream, "cut");
            }
        }
    }
}

impl Session {
    /// One and a half intervals after its last beat.
    fn limit_at(&self) -> Millis {
        self.last_beat + self.settings.interval * 3 / 2
    }

    /// The moment after it, in which a beat that is already there is read, is over.
    fn lost_at(&self) -> Millis {
        self.limit_at() + self.settings.interval / 20
    }
}

impl Connection {
    /// The number of the session whose beats it may carry.
    pub(crate) fn session(&self) -> Option<usize> {
        self.session
    }

    fn deadline(&self, model: &Model) -> Option<Millis> {
        match &self.stage {
            Stage::First { got, since } if got.starts_with(&ACK) => Some(since + AMBIGUITY),
            Stage::First { .. } => Some(self.first_by),
            Stage::Settings { .. } => Some(self.accepted + HANDSHAKE),
            Stage::Beats { next, .. } => self.session.filter(|s| model.sessions[*s].live).map(|_| *next),
            Stage::Over => None,
        }
    }
}

/// A beat of this id.
pub(crate) fn beat_of(id: &[u8; 16]) -> [u8; 17] {
    let mut beat = [b'\n'; 17];
    beat[..16].copy_from_slice(id);
    beat
}
