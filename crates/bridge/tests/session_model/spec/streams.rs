//! Tunnels and logs.

use super::{GRANTED, LOGS_PER_PEER, Log, Model, STREAMS, Stream, StreamStage};
use crate::steps::Target;

impl Model {
    pub(super) fn ingress(&mut self, port: usize) -> bool {
        let Some(session) = self.accepts(port) else { return false };
        let number = self.new_stream(session, false);
        if self.streams[number].stage == StreamStage::Relayed && !self.serving[self.sessions[session].peer] {
            self.stream_ends(number, "unreachable");
        }
        true
    }

    pub(super) fn egress(&mut self, peer: usize, port: u32) -> bool {
        let Some(session) = self.accepts_from(peer, port) else { return false };
        let number = self.new_stream(session, true);
        if self.streams[number].stage == StreamStage::Over {
            self.count("LIMIT", 1);
            self.streams[number].answer = Some("LIMIT");
        }
        true
    }

    /// The newest is turned away at the limit.
    pub(super) fn new_stream(&mut self, session: usize, egress: bool) -> usize {
        let room = self.open_streams(false) + self.open_streams(true) < STREAMS;
        let stage = match (room, egress) {
            (false, _) => StreamStage::Over,
            (true, true) => StreamStage::Line { since: self.now },
            (true, false) => StreamStage::Relayed,
        };
        let what = ["ingress refused", "ingress started", "egress refused", "egress started"];
        self.count(what[usize::from(egress) * 2 + usize::from(room)], 1);
        let peer = self.sessions[session].peer;
        self.streams.push(Stream { session, peer, egress, stage, held: true, answer: None, pings: 0 });
        self.streams.len() - 1
    }

    pub(super) fn target(&mut self, number: usize, target: Target) {
        let StreamStage::Line { .. } = self.streams[number].stage else { return };
        let own = |port| self.sessions.iter().any(|session| session.live && session.settings.servers.contains(&port));
        let code = match target {
            Target::Open => GRANTED,
            Target::Malformed => "BAD_TARGET",
            Target::Denied => "DENIED",
            // The bridge's own listeners are open to no rule.
            Target::Server(port) if own(port) => "DENIED",
            Target::Server(_) | Target::Closed => "REFUSED",
        };
        self.streams[number].answer = Some(code);
        if code == GRANTED {
            self.streams[number].stage = StreamStage::Relayed;
        } else {
            self.count(code, 1);
            self.stream_ends(number, if code == "REFUSED" { "unreachable" } else { "refused" });
        }
    }

    pub(super) fn stream_ends(&mut self, number: usize, result: &'static str) {
        self.streams[number].stage = StreamStage::Over;
        self.count(crate::steps::stream_count(self.streams[number].egress, result), 1);
    }

    pub(super) fn log_dial(&mut self, peer: usize) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let open = self.logs.iter().filter(|log| log.open && log.peer == peer).count() < LOGS_PER_PEER;
        self.logs.push(Log { peer, open, held: true, tail: false });
        true
    }

    pub(super) fn log_ends(&mut self, number: usize) {
        if std::mem::take(&mut self.logs[number].open) && std::mem::take(&mut self.logs[number].tail) {
            self.count("log lines", 1);
        }
    }
}
