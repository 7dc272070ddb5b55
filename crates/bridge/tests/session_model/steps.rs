//! What may happen: operations as they are drawn (small numbers, so that they shrink), and the steps that they come to once
//! it is known which connections there are.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::select;

use crate::spec::{Millis, Model, Stage, StreamStage, beat_of};

/// Endpoints of the bridge, one more than it has room for sessions.
pub(crate) const PEERS: usize = 3;
/// TCP ports that are asked for.
pub(crate) const PORTS: usize = 3;
/// Everything that is done happens at a multiple of this, in milliseconds.
pub(crate) const QUANTUM: Millis = 20;
/// The vsock port of handshakes and beats.
pub(crate) const INIT_PORT: u32 = 5000;
/// The most clients that the bridge allows.
pub(crate) const CLIENTS: usize = 3;

/// Ids that peers take: two without a newline, and two that begin as an ACK does, or half of it.
pub(crate) const IDS: [[u8; 16]; 4] = [
    *b"\xf6\xa1\xc1\xa2\x6f\x0e\x4f\x0e\x9a\x53\x2f\x1f\x0c\x9d\x7d\x10",
    *b"\x15\xa1\xc1\xa2\x6f\x0e\x4f\x0e\x9a\x53\x2f\x1f\x0c\x9d\x7d\x11",
    *b"\x06\xa1\xc1\xa2\x6f\x0e\x4f\x0e\x9a\x53\x2f\x1f\x0c\x9d\x7d\x12",
    *b"\x06\x0a\xc1\xa2\x6f\x0e\x4f\x0e\x9a\x53\x2f\x1f\x0c\x9d\x7d\x13",
];

/// A third of each is a multiple of [`QUANTUM`], the time of its loss is none.
const INTERVALS: [Millis; 3] = [1260, 1860, 4020];

/// What an enclave asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) id: usize,
    pub(crate) interval: Millis,
    pub(crate) servers: Vec<usize>,
    pub(crate) clients: Vec<u32>,
    pub(crate) fault: Option<Fault>,
}

/// What is wrong with settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    NoObject,
    NilId,
    Interval,
    TcpPort,
    OwnPort,
    Twice,
    TooMany,
}

impl Fault {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Fault::NoObject => "BAD_CONFIG",
            Fault::NilId => "BAD_ID",
            Fault::Interval => "BAD_INTERVAL",
            Fault::TcpPort | Fault::OwnPort => "PORT_NOT_ALLOWED",
            Fault::Twice => "DUPLICATE_PORT",
            Fault::TooMany => "TOO_MANY",
        }
    }
}

impl Settings {
    /// As they go over the wire.
    pub(crate) fn line(&self, ports: &[u16; PORTS]) -> Vec<u8> {
        let mut id: String = IDS[self.id].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut interval = self.interval;
        let mut servers: Vec<u16> = self.servers.iter().map(|port| ports[*port]).collect();
        let mut clients = self.clients.clone();
        match self.fault {
            None => {}
            Some(Fault::NoObject) => return b"[\"no object\"]\n".to_vec(),
            Some(Fault::NilId) => id = "0".repeat(32),
            Some(Fault::Interval) => interval = 500,
            Some(Fault::TcpPort) => servers.push(80),
            Some(Fault::OwnPort) => clients.push(INIT_PORT),
            Some(Fault::Twice) => clients = vec![5002, 5002],
            Some(Fault::TooMany) => clients = (6000..=6000 + CLIENTS as u32).collect(),
        }
        for place in [20, 16, 12, 8] {
            id.insert(place, '-');
        }
        let servers = servers
            .iter()
            .map(|port| format!("{{\"enclaveCid\":16,\"enclaveListenPort\":5001,\"bridgeTcpPort\":{port}}}"));
        let clients = clients.iter().map(|port| format!("{{\"enclaveDialPort\":{port}}}"));
        let line = format!(
            "{{\"appName\":\"model\",\"protocol\":\"1.1\",\"watchdog\":{{\"enclaveId\":\"{id}\",\"interval\":{interval}000000}},\
             \"servers\":[{}],\"clients\":[{}]}}\n",
            servers.collect::<Vec<_>>().join(","),
            clients.collect::<Vec<_>>().join(","),
        );
        line.into_bytes()
    }
}

/// Where an egress stream wants to go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// Allowed, and somebody listens.
    Open,
    /// Allowed, and nobody listens.
    Closed,
    /// A TCP port that sessions ask for.
    Server(usize),
    Denied,
    Malformed,
}

/// What a peer does with its side after it has written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Then {
    Stay,
    HalfClose,
    Close,
}

/// Something that happens to the bridge, with the numbers of connections and streams as they came about.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Dial { peer: usize },
    Send { connection: usize, bytes: Vec<u8>, then: Then },
    Ingress { port: usize },
    Egress { peer: usize, port: u32 },
    Target { stream: usize, target: Target },
    Ping { stream: usize },
    Finish { stream: usize, orderly: bool },
    LogDial { peer: usize },
    LogWrite { log: usize, bytes: &'static [u8] },
    LogClose { log: usize },
    Serve { peer: usize, on: bool },
    Drain,
}

/// What is drawn. `back` counts from the newest of those that the peer still holds.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Dial { peer: usize },
    Write { back: u8, what: Bytes },
    Settings { back: u8, settings: Settings, cut: Option<usize>, then: Then },
    Leave { back: u8, then: Then },
    Ingress { port: usize },
    Egress { peer: usize, port: u32 },
    Target { back: u8, target: Target },
    Ping { back: u8 },
    Finish { back: u8, orderly: bool },
    LogDial { peer: usize },
    LogWrite { back: u8, bytes: &'static [u8] },
    LogClose { back: u8 },
    Serve { peer: usize, on: bool },
    PeerGone { peer: usize },
    Pass { quanta: u64 },
    Drain,
}

/// What is written to the init port besides settings.
#[derive(Clone, Debug)]
pub(crate) enum Bytes {
    Ack,
    HalfAck,
    Garbage,
    /// A beat of the session that the connection's peer holds.
    Beat,
    /// So much of it.
    BeatUpTo(usize),
    /// A beat of some id.
    BeatOf(usize),
    /// What has been kept back of settings.
    Rest,
}

/// Counted from the newest.
fn picked(of: impl Iterator<Item = usize>, back: u8) -> Option<usize> {
    let mut all: Vec<_> = of.collect();
    all.reverse();
    (!all.is_empty()).then(|| all[usize::from(back) % all.len()])
}

/// The operation as steps, given what there is. `kept` is what has been kept back of settings, by connection.
pub(crate) fn resolve(
    operation: &Operation,
    model: &Model,
    ports: &[u16; PORTS],
    kept: &mut HashMap<usize, Vec<u8>>,
) -> Vec<Step> {
    let connections = (0..model.connections.len()).filter(|number| model.connections[*number].held);
    let streams = (0..model.streams.len()).filter(|number| model.streams[*number].held);
    let logs = (0..model.logs.len()).filter(|number| model.logs[*number].held);
    let step = match operation {
        Operation::Dial { peer } => Some(Step::Dial { peer: *peer }),
        Operation::Write { back, what } => picked(connections, *back).and_then(|connection| {
            let held = model.session_of(model.connections[connection].peer).map(|number| model.sessions[number].id);
            let bytes = match what {
                Bytes::Ack => b"\x06\n".to_vec(),
                Bytes::HalfAck => b"\x06".to_vec(),
                Bytes::Garbage => b"GET / HTTP/1.1\r\n".to_vec(),
                Bytes::Beat => beat_of(&held?).to_vec(),
                Bytes::BeatUpTo(length) => beat_of(&held?)[..*length].to_vec(),
                Bytes::BeatOf(id) => beat_of(&IDS[*id]).to_vec(),
                Bytes::Rest => kept.remove(&connection)?,
            };
            Some(Step::Send { connection, bytes, then: Then::Stay })
        }),
        Operation::Settings { back, settings, cut, then } => picked(connections, *back).map(|connection| {
            let mut bytes = settings.line(ports);
            if let Some(cut) = cut {
                kept.insert(connection, bytes.split_off(bytes.len() * cut / 10));
            }
            // Whether what was written before an end is still read where it is no handshake, nobody says.
            let is_handshake = matches!(model.connections[connection].stage, Stage::Settings { .. });
            let then = if is_handshake { *then } else { Then::Stay };
            Step::Send { connection, bytes, then }
        }),
        Operation::Leave { back, then } => {
            picked(connections, *back).map(|connection| Step::Send { connection, bytes: Vec::new(), then: *then })
        }
        Operation::Ingress { port } => Some(Step::Ingress { port: *port }),
        Operation::Egress { peer, port } => Some(Step::Egress { peer: *peer, port: *port }),
        Operation::Target { back, target } => {
            let waiting = streams.filter(|number| matches!(model.streams[*number].stage, StreamStage::Line { .. }));
            picked(waiting, *back).map(|stream| Step::Target { stream, target: *target })
        }
        Operation::Ping { back } => {
            let relayed = streams.filter(|number| model.streams[*number].stage == StreamStage::Relayed);
            picked(relayed, *back).map(|stream| Step::Ping { stream })
        }
        Operation::Finish { back, orderly } => {
            picked(streams, *back).map(|stream| Step::Finish { stream, orderly: *orderly })
        }
        Operation::LogDial { peer } => Some(Step::LogDial { peer: *peer }),
        Operation::LogWrite { back, bytes } => picked(logs, *back).map(|log| Step::LogWrite { log, bytes }),
        Operation::LogClose { back } => picked(logs, *back).map(|log| Step::LogClose { log }),
        Operation::Serve { peer, on } => Some(Step::Serve { peer: *peer, on: *on }),
        Operation::PeerGone { peer } => {
            let own = connections.filter(|number| model.connections[*number].peer == *peer);
            let close = own.map(|connection| Step::Send { connection, bytes: Vec::new(), then: Then::Close });
            let own = logs.filter(|number| model.logs[*number].peer == *peer).map(|log| Step::LogClose { log });
            return close.chain(own).chain([Step::Serve { peer: *peer, on: false }]).collect();
        }
        Operation::Pass { .. } => None,
        Operation::Drain => model.draining.is_none().then_some(Step::Drain),
    };
    step.into_iter().collect()
}

/// Histories: pieces that lead somewhere, and single operations in between; and whether the loss of an enclave ends the daemon.
pub(crate) fn histories() -> impl Strategy<Value = (bool, Vec<Operation>)> {
    let pieces = prop::collection::vec(pieces(), 3..26).prop_map(|pieces| pieces.concat());
    (prop::bool::weighted(0.2), pieces)
}

fn pieces() -> impl Strategy<Value = Vec<Operation>> {
    let peer = || 0..PEERS;
    let handshake = (peer(), settings(), prop::option::weighted(0.2, 1..10usize))
        .prop_map(|(peer, settings, cut)| shake_hands(peer, settings, cut));
    // In the moment after the limit in which a session is not lost yet, it is replaced.
    let in_the_last_moment = (peer(), settings(), settings()).prop_map(|(peer, first, second)| {
        let pass = Operation::Pass { quanta: first.interval * 3 / 2 / QUANTUM + 1 };
        [shake_hands(peer, first, None), vec![pass], shake_hands(peer, second, None)].concat()
    });
    let beats = (peer(), 1..3usize).prop_map(|(peer, beats)| {
        let beats = std::iter::repeat_n(write(Bytes::Beat), beats);
        std::iter::once(Operation::Dial { peer }).chain(beats).collect()
    });
    let egress = (peer(), 5002..5004u32, target()).prop_map(|(peer, port, target)| {
        vec![Operation::Egress { peer, port }, Operation::Target { back: 0, target }, ping()]
    });
    let ingress = (peer(), 0..PORTS)
        .prop_map(|(peer, port)| vec![Operation::Serve { peer, on: true }, Operation::Ingress { port }, ping()]);
    // Beats that come in time, again and again.
    let kept_alive = (1..5usize, 10..60u64, back()).prop_map(|(times, quanta, back)| {
        let round = [Operation::Pass { quanta }, Operation::Write { back, what: Bytes::Beat }];
        std::iter::repeat_n(round, times).flatten().collect()
    });
    prop_oneof![
        6 => handshake,
        1 => in_the_last_moment,
        4 => beats,
        3 => egress,
        3 => ingress,
        2 => kept_alive,
        14 => operations().prop_map(|operation| vec![operation]),
    ]
}

fn operations() -> impl Strategy<Value = Operation> {
    let peer = || 0..PEERS;
    let bytes = prop_oneof![
        3 => Just(Bytes::Ack),
        1 => Just(Bytes::HalfAck),
        1 => Just(Bytes::Garbage),
        4 => Just(Bytes::Beat),
        1 => (1..17usize).prop_map(Bytes::BeatUpTo),
        1 => (0..IDS.len()).prop_map(Bytes::BeatOf),
        1 => Just(Bytes::Rest),
    ];
    let then = || select(vec![Then::Stay, Then::Stay, Then::HalfClose, Then::Close]);
    let leave = select(vec![Then::HalfClose, Then::Close]);
    let cut = prop::option::weighted(0.1, 1..10usize);
    let lines = select(vec![&b"a line of the session model\n"[..], b"a tail of the session model"]);
    prop_oneof![
        3 => peer().prop_map(|peer| Operation::Dial { peer }),
        6 => (back(), bytes).prop_map(|(back, what)| Operation::Write { back, what }),
        3 => (back(), settings(), cut, then())
            .prop_map(|(back, settings, cut, then)| Operation::Settings { back, settings, cut, then }),
        2 => (back(), leave).prop_map(|(back, then)| Operation::Leave { back, then }),
        2 => (0..PORTS).prop_map(|port| Operation::Ingress { port }),
        2 => (peer(), 5002..5004u32).prop_map(|(peer, port)| Operation::Egress { peer, port }),
        2 => (back(), target()).prop_map(|(back, target)| Operation::Target { back, target }),
        2 => back().prop_map(|back| Operation::Ping { back }),
        2 => (back(), any::<bool>()).prop_map(|(back, orderly)| Operation::Finish { back, orderly }),
        1 => peer().prop_map(|peer| Operation::LogDial { peer }),
        1 => (back(), lines).prop_map(|(back, bytes)| Operation::LogWrite { back, bytes }),
        1 => back().prop_map(|back| Operation::LogClose { back }),
        1 => (peer(), any::<bool>()).prop_map(|(peer, on)| Operation::Serve { peer, on }),
        1 => peer().prop_map(|peer| Operation::PeerGone { peer }),
        5 => prop_oneof![3 => 1..20u64, 2 => 20..120u64, 1 => 120..600u64].prop_map(|quanta| Operation::Pass { quanta }),
        1 => prop::bool::weighted(0.2).prop_map(|now| if now { Operation::Drain } else { Operation::Pass { quanta: 1 } }),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let faults = vec![
        Fault::NoObject,
        Fault::NilId,
        Fault::Interval,
        Fault::TcpPort,
        Fault::OwnPort,
        Fault::Twice,
        Fault::TooMany,
    ];
    let servers = prop::sample::subsequence((0..PORTS).collect::<Vec<_>>(), 0..=2);
    let clients = prop::sample::subsequence(vec![5002, 5003], 0..=2);
    let fault = prop::option::weighted(0.15, select(faults));
    (0..IDS.len(), select(INTERVALS.to_vec()), servers, clients, fault)
        .prop_map(|(id, interval, servers, clients, fault)| Settings { id, interval, servers, clients, fault })
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        4 => Just(Target::Open),
        1 => Just(Target::Closed),
        2 => (0..PORTS).prop_map(Target::Server),
        1 => Just(Target::Denied),
        1 => Just(Target::Malformed),
    ]
}

fn shake_hands(peer: usize, settings: Settings, cut: Option<usize>) -> Vec<Operation> {
    let settings = Operation::Settings { back: 0, settings, cut, then: Then::Stay };
    let mut piece = vec![Operation::Dial { peer }, write(Bytes::Ack), settings];
    piece.extend(cut.map(|_| write(Bytes::Rest)));
    piece
}

fn write(what: Bytes) -> Operation {
    Operation::Write { back: 0, what }
}

fn ping() -> Operation {
    Operation::Ping { back: 0 }
}

/// Mostly the newest or the one before it.
fn back() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0), 2 => Just(1), 2 => 0..16u8]
}

/// The name under which the model and the metrics count the end of a stream.
pub(crate) fn stream_count(egress: bool, result: &'static str) -> &'static str {
    let names: [(&str, [&'static str; 2]); 6] = [
        ("orderly", ["ingress orderly", "egress orderly"]),
        ("reset", ["ingress reset", "egress reset"]),
        ("cut", ["ingress cut", "egress cut"]),
        ("unreachable", ["ingress unreachable", "egress unreachable"]),
        ("refused", ["ingress turned down", "egress turned down"]),
        ("abandoned", ["ingress abandoned", "egress abandoned"]),
    ];
    names.iter().find(|(name, _)| *name == result).map_or("?", |(_, names)| names[usize::from(egress)])
}
