//! A version-1 enclave, byte for byte as the original's library behaves, from the protocol's text.
//!
//! Faithful where it hurts: a fresh buffered reader for every line (what was read ahead is lost), beats framed by `0A`
//! and never by length, the first beat only after half an interval, an answer that is not an ACK is simply "not an ACK".

use crate::bytes;
use crate::guest::Guest;
use crate::v1_beats::Watchdog;
use crate::wire::{Endpoint, Meeting, Wire};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What both sides say to mean "go on".
pub const ACK: &[u8] = b"\x06\n";

/// The init port where nothing else is set.
pub const INIT_PORT: u32 = 5000;

/// The log port where nothing else is set.
pub const LOG_PORT: u32 = 4999;

/// How long this enclave waits for the bridge. The original waits for ever; a test must not.
const PATIENCE: Duration = Duration::from_secs(20);

/// A tunnel from the world into the enclave.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// The CID that the enclave says it has.
    pub cid: u64,
    /// Where the enclave listens.
    pub listen_port: u64,
    /// Where the bridge listens.
    pub tcp_port: u64,
}

/// A tunnel from the enclave to the world.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// Where the bridge listens for the enclave.
    pub dial_port: u64,
    /// Up to the ACK, in nanoseconds; 0 means five minutes.
    pub request_timeout: i64,
}

/// What an enclave asks for. Numbers are wider than the wire's, so that a test can ask for nonsense.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The enclave's name.
    pub app_name: String,
    /// The enclave's id.
    pub id: [u8; 16],
    /// Between beats, times two, in nanoseconds.
    pub interval: i128,
    /// A level, or nothing.
    pub level: String,
    /// `None` is `null`, as the original writes an empty list that was never set.
    pub servers: Option<Vec<Server>>,
    /// The same.
    pub clients: Option<Vec<Client>>,
    /// Asks for framed tunnels, and so speaks 1.1.
    pub framed: bool,
    /// Asks for PROXY headers, likewise.
    pub proxy_v2: bool,
}

impl Settings {
    /// An enclave with a fresh id, beats of `interval`, and no tunnel.
    #[must_use]
    pub fn new(interval: Duration) -> Settings {
        Settings {
            app_name: "version-one".into(),
            id: fresh_id(),
            interval: i128::try_from(interval.as_nanos()).expect("below a century"),
            level: "debug".into(),
            servers: None,
            clients: None,
            framed: false,
            proxy_v2: false,
        }
    }

    /// Also asks for a server.
    #[must_use]
    pub fn server(mut self, listen_port: u32, tcp_port: u16) -> Settings {
        let cid = Endpoint::under_test().enclave_cid().into();
        let server = Server { cid, listen_port: listen_port.into(), tcp_port: tcp_port.into() };
        self.servers.get_or_insert_default().push(server);
        self
    }

    /// Also asks for a client.
    #[must_use]
    pub fn client(mut self, dial_port: u32) -> Settings {
        let client = Client { dial_port: dial_port.into(), request_timeout: 300_000_000_000 };
        self.clients.get_or_insert_default().push(client);
        self
    }

    /// The line without its `0A`, fields in the original's order.
    #[must_use]
    pub fn json(&self) -> String {
        let list =
            |items: Option<Vec<String>>| items.map_or("null".to_owned(), |items| format!("[{}]", items.join(",")));
        let framed = if self.framed { r#","framed":true"# } else { "" };
        let proxy_v2 = if self.proxy_v2 { r#","proxyProtocol":"v2""# } else { "" };
        let protocol = if self.framed || self.proxy_v2 { r#""protocol":"1.1","# } else { "" };
        let servers = self.servers.as_ref().map(|servers| {
            let one = |s: &Server| {
                let Server { cid, listen_port, tcp_port } = s;
                format!(r#"{{"enclaveCid":{cid},"enclaveListenPort":{listen_port},"bridgeTcpPort":{tcp_port}{framed}{proxy_v2}}}"#)
            };
            servers.iter().map(one).collect()
        });
        let clients = self.clients.as_ref().map(|clients| {
            let one = |c: &Client| {
                let Client { dial_port, request_timeout } = c;
                format!(r#"{{"enclaveDialPort":{dial_port},"requestTimeout":{request_timeout}{framed}}}"#)
            };
            clients.iter().map(one).collect()
        });
        format!(
            r#"{{{protocol}"appName":"{}","watchdog":{{"enclaveId":"{}","interval":{}}},"logger":{{"level":"{}"}},"servers":{},"clients":{}}}"#,
            self.app_name,
            spelled(&self.id),
            self.interval,
            self.level,
            list(servers),
            list(clients)
        )
    }
}

/// A random id of version 4 without `0A` in it. The original draws without looking; one in nineteen of its enclaves
/// meets `BAD_ID` for it, and a test that needs that sets the byte itself.
#[must_use]
pub fn fresh_id() -> [u8; 16] {
    loop {
        let mut id: [u8; 16] = bytes::random();
        id[6] = id[6] & 0x0F | 0x40;
        id[8] = id[8] & 0x3F | 0x80;
        if !id.contains(&b'\n') {
            return id;
        }
    }
}

/// The usual spelling of an id.
#[must_use]
pub fn spelled(id: &[u8; 16]) -> String {
    let mut text = String::new();
    for (place, byte) in id.iter().enumerate() {
        if [4, 6, 8, 10].contains(&place) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("a string");
    }
    text
}

/// A beat: the id and `0A`.
#[must_use]
pub fn beat(id: &[u8; 16]) -> [u8; 17] {
    let mut beat = [b'\n'; 17];
    beat[..16].copy_from_slice(id);
    beat
}

/// What stood where the ACK belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The ACK.
    Ack,
    /// A refusal: its code and its sentence.
    Nak(String, String),
    /// The end of the stream, orderly or not.
    End,
    /// Anything else.
    Other(Vec<u8>),
}

impl Answer {
    /// Sorts a line as it came, with its `0A`.
    #[must_use]
    pub fn of(line: &[u8]) -> Answer {
        if line == ACK {
            return Answer::Ack;
        }
        if line.is_empty() {
            return Answer::End;
        }
        let text = line.strip_prefix(b"\x15").and_then(|rest| rest.strip_suffix(b"\n"));
        match text.and_then(|text| std::str::from_utf8(text).ok()) {
            Some(text) if line.len() <= 256 => {
                let (code, sentence) = text.split_once(' ').unwrap_or((text, ""));
                Answer::Nak(code.to_owned(), sentence.to_owned())
            }
            _ => Answer::Other(line.to_owned()),
        }
    }

    /// The code of a refusal, or an empty text.
    #[must_use]
    pub fn code(&self) -> &str {
        if let Answer::Nak(code, _) = self { code } else { "" }
    }
}

/// The whole dialogue with `settings` as the line; the environment as it came, and the answer.
///
/// # Errors
/// What connecting, reading or writing met before the answer.
pub fn handshake(meeting: &Meeting, settings: &str) -> io::Result<(String, Answer)> {
    let mut wire = meeting.dial_host(INIT_PORT)?;
    wire.read_within(PATIENCE);
    wire.write_all(ACK)?;
    let environment = read_line_with_a_fresh_reader(&mut wire)?;
    if environment.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no whole environment"));
    }
    wire.write_all(settings.as_bytes())?;
    wire.write_all(b"\n")?;
    // An error here is an end without an ACK, which is what the original makes of it.
    let answer = read_line_with_a_fresh_reader(&mut wire).unwrap_or_default();
    Ok((String::from_utf8(environment).expect("the environment is UTF-8"), Answer::of(&answer)))
}

/// The same until the bridge takes the handshake: it may be full, or just starting.
#[must_use]
pub fn handshake_within(meeting: &Meeting, settings: &str, within: Duration) -> (String, Answer) {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(10);
    loop {
        match handshake(meeting, settings) {
            Ok(done) if done.1 != Answer::End && done.1.code() != "BUSY" => return done,
            met => assert!(Instant::now() < deadline, "no answer to a handshake within {within:?}: {met:?}"),
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(500));
    }
}

/// An enclave with a session: its guest's socket, its beats.
pub struct Enclave {
    /// Where it meets the bridge.
    pub meeting: Meeting,
    /// Its listening side.
    pub guest: Guest,
    /// The environment line as it came.
    pub environment: String,
    watchdog: Watchdog,
}

impl Enclave {
    /// Binds the guest's socket, shakes hands, and beats.
    #[must_use]
    pub fn start(meeting: &Meeting, settings: &Settings) -> Enclave {
        Enclave::start_with(meeting, settings, |_| {})
    }

    /// The same with an echo on `port`, there before the bridge can dial it.
    #[must_use]
    pub fn echo(meeting: &Meeting, settings: &Settings, port: u32) -> Enclave {
        Enclave::start_with(meeting, settings, |guest| guest.serve(port, echo))
    }

    /// The same with whatever `listen` registers, there before the bridge can dial it.
    #[must_use]
    pub fn start_with(meeting: &Meeting, settings: &Settings, listen: impl FnOnce(&Guest)) -> Enclave {
        let guest = Guest::bind(meeting);
        listen(&guest);
        let (environment, answer) = handshake_within(meeting, &settings.json(), PATIENCE);
        assert_eq!(answer, Answer::Ack, "the bridge refused {}", settings.json());
        let watchdog = Watchdog::start(meeting, settings.id, Duration::from_nanos(settings.interval as u64));
        Enclave { meeting: meeting.clone(), guest, environment, watchdog }
    }

    /// Dials the world through the bridge; the stream stands right behind the answer.
    #[must_use]
    pub fn dial(&self, port: u32, target: &str) -> (Wire, Answer) {
        let mut wire = self.meeting.dial_host(port).expect("the bridge listens on the client's port");
        wire.read_within(PATIENCE);
        // A bridge that is full refuses before it has read the line; its answer stands all the same.
        let _ = wire.write_all(format!("{target}\n").as_bytes());
        let line = wire.read_line_exactly(300).unwrap_or_default();
        (wire, Answer::of(&line))
    }

    /// What the watchdog complained of: a wrong id, or no beat within the interval. The original exits then.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.watchdog.complaint.lock().expect("no panic").clone()
    }

    /// Beats that were counted.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.watchdog.beats.load(Ordering::SeqCst)
    }

    /// Stops sending beats, and holds the connection open.
    pub fn fall_silent(&self) {
        self.watchdog.silent.store(true, Ordering::SeqCst);
    }
}

/// Descriptors of the bridge that may be there or not whenever they are counted: the enclave connects for its beats at a
/// moment of its own, and is silent there for half an interval.
pub const BEATS: usize = 1;

/// Sends back what comes, then the end.
pub fn echo(wire: Wire) {
    let _ = bytes::copy(&mut wire.again(), &mut wire.again());
    wire.shutdown(Shutdown::Write);
}

/// A fresh reader each time, as the original has it: what it reads ahead is lost with it.
pub(crate) fn read_line_with_a_fresh_reader(wire: &mut Wire) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::with_capacity(4096, wire).read_until(b'\n', &mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_spelled_in_the_order_of_the_original() {
        let mut settings = Settings::new(Duration::from_secs(30)).server(5001, 8080).client(5002);
        settings.id = *b"\xf6\xa1\xc1\xa2\x6f\x0e\x4f\x0e\x9a\x53\x2f\x1f\x0c\x9d\x7d\x10";
        assert_eq!(
            settings.json(),
            concat!(
                r#"{"appName":"version-one","watchdog":{"enclaveId":"f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10","interval":30000000000},"#,
                r#""logger":{"level":"debug"},"servers":[{"enclaveCid":16,"enclaveListenPort":5001,"bridgeTcpPort":8080}],"#,
                r#""clients":[{"enclaveDialPort":5002,"requestTimeout":300000000000}]}"#
            )
        );
    }

    #[test]
    fn lists_that_were_never_set_are_null() {
        assert!(Settings::new(Duration::from_secs(1)).json().ends_with(r#""servers":null,"clients":null}"#));
    }

    #[test]
    fn answers_are_sorted() {
        assert_eq!(Answer::of(b"\x06\n"), Answer::Ack);
        assert_eq!(Answer::of(b"\x15DNS no address\n"), Answer::Nak("DNS".into(), "no address".into()));
        assert_eq!(Answer::of(b"\x15LIMIT\n"), Answer::Nak("LIMIT".into(), String::new()));
        assert_eq!(Answer::of(b""), Answer::End);
        assert_eq!(Answer::of(b"\x06"), Answer::Other(b"\x06".to_vec()));
    }
}
