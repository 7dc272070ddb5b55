//! The ends that are not the bridge's: what each has sent and seen, and how that is compared with the model.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use enclave_bridge_proto::NakCode;

use crate::spec::{self, Seen, StreamStage, beat_of};

/// A connection to the init port, from the peer's side.
pub(crate) struct Client {
    pub(crate) socket: Option<UnixStream>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) ended: bool,
}

/// A stream: who opened it, and the other end where the bridge has reached it.
pub(crate) struct Tunnel {
    pub(crate) down: End,
    pub(crate) up: End,
}

#[derive(Default)]
pub(crate) struct End {
    pub(crate) socket: Option<Socket>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) ended: bool,
}

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// What has come, put into words.
    pub(crate) fn seen(&self, id: Option<[u8; 16]>) -> Result<Seen, String> {
        let mut seen = Seen { ended: self.ended, ..Seen::default() };
        let mut rest = &self.bytes[..];
        if rest.starts_with(b"{") {
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or("half an environment")?;
            rest = &rest[end + 1..];
            seen.environment = true;
            seen.answer = answer(rest)?;
        } else if let Some(beat) = id.map(|id| beat_of(&id)) {
            let beats = rest.chunks(beat.len());
            if !beats.clone().all(|bytes| *bytes == beat) {
                return Err(format!("beats of another id: {rest:?}"));
            }
            seen.beats = beats.count() as u64;
        } else if !rest.is_empty() {
            return Err(format!("beats without a session: {rest:?}"));
        }
        Ok(seen)
    }
}

/// An ACK, a refusal, or nothing.
pub(crate) fn answer(bytes: &[u8]) -> Result<Option<&'static str>, String> {
    let code = match bytes {
        [] => return Ok(None),
        b"\x06\n" => return Ok(Some(spec::GRANTED)),
        [0x15, code @ .., b'\n'] => code.split(|byte| *byte == b' ').next().unwrap_or_default(),
        _ => return Err(format!("neither ACK nor NAK: {bytes:?}")),
    };
    let known = NakCode::ALL.iter().map(|known| known.as_str()).find(|known| known.as_bytes() == code);
    known.map(Some).ok_or_else(|| format!("a NAK that there is not: {bytes:?}"))
}

impl Tunnel {
    pub(crate) fn compare(&self, number: usize, stream: &spec::Stream) -> Result<(), String> {
        let what = format!("{} stream {number}", if stream.egress { "egress" } else { "ingress" });
        let over = stream.stage == StreamStage::Over;
        differ(&format!("{what} ended"), &self.down.ended, &over)?;
        let mut down = &self.down.bytes[..];
        if stream.egress {
            let (head, _) = down.split_at(down.len().saturating_sub(stream.pings));
            differ(&format!("{what} answer"), &answer(head)?, &stream.answer)?;
            down = &down[head.len()..];
        }
        differ(&format!("{what} bytes down"), &down.len(), &stream.pings)?;
        if self.up.socket.is_some() {
            differ(&format!("{what} bytes up"), &self.up.bytes.len(), &stream.pings)?;
            differ(&format!("{what} upstream ended"), &self.up.ended, &over)?;
        } else if stream.stage == StreamStage::Relayed {
            return Err(format!("{what}: nobody was reached"));
        }
        Ok(())
    }

    /// Both ends end their directions, or the TCP side breaks off. A stream that has reached nobody is left.
    pub(crate) fn finish(&mut self, orderly: bool) {
        if self.up.socket.is_none() {
            self.down.socket = None;
            return;
        }
        for end in [&mut self.down, &mut self.up] {
            match &end.socket {
                Some(Socket::Tcp(socket)) if orderly => _ = socket.shutdown(Shutdown::Write),
                Some(Socket::Unix(socket)) if orderly => _ = socket.shutdown(Shutdown::Write),
                Some(Socket::Tcp(socket)) => {
                    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
                    end.socket = None;
                }
                Some(Socket::Unix(_)) | None => {}
            }
        }
    }
}

impl End {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // Where it has been closed, that is what the model says too.
        match &mut self.socket {
            Some(Socket::Tcp(socket)) => _ = socket.write_all(bytes),
            Some(Socket::Unix(socket)) => _ = socket.write_all(bytes),
            None => {}
        }
    }

    pub(crate) fn read(&mut self) {
        self.ended |= match &mut self.socket {
            Some(Socket::Tcp(socket)) => read(socket, &mut self.bytes),
            Some(Socket::Unix(socket)) => read(socket, &mut self.bytes),
            None => false,
        };
    }
}

/// Appends what is there; whether it is the end.
pub(crate) fn read(socket: &mut impl Read, bytes: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

pub(crate) fn differ<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<(), String> {
    if seen == expected { Ok(()) } else { Err(format!("{what}: {seen:?}, the model says {expected:?}")) }
}
