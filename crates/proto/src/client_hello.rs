//! The beginning of a TLS stream: the server name of its ClientHello, read without ending TLS.
//!
//! Strict on purpose: what two readers could understand differently (a second name, an extension that comes twice, lengths that do not
//! meet, something behind the hello in its record) is malformed, so that the server cannot see another name than was seen here. With
//! encrypted ClientHello the name is the outer one.

use std::fmt;

/// The most bytes that a stream may have shown before its ClientHello is whole, record headers counted. The hello of a browser with
/// post-quantum keys has some two KiB; a record, which nearly every hello fits into, has 16.
pub const CLIENT_HELLO_MAX_BYTES: usize = 16 * 1024;

/// The most payload of a record (RFC 8446, 5.1).
const RECORD_PAYLOAD_MAX_BYTES: u16 = 1 << 14;
/// Content type of a record (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// Type of a handshake message (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
/// The extension and its one kind of name (RFC 6066, 3).
const SERVER_NAME_EXTENSION: u16 = 0;
const HOST_NAME: u8 = 0;
/// Type and length of a handshake message.
const MESSAGE_HEADER_BYTES: usize = 4;

/// Reads the first bytes of a stream up to the end of its ClientHello.
///
/// Order of calls: [`push`](Self::push) with the bytes as they come, until it says something else than
/// [`ClientHelloProgress::More`]. It keeps at most [`CLIENT_HELLO_MAX_BYTES`].
#[derive(Default)]
pub struct ClientHelloReader {
    /// The header of a record, as far as it has come.
    header: Vec<u8>,
    /// Payload that the record still has.
    record_left: usize,
    /// The handshake message, put together from its records.
    message: Vec<u8>,
    seen: usize,
}

/// How far a ClientHello is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHelloProgress {
    /// It is not whole.
    More,
    /// It is whole, and asks for this server; `None` where it names none.
    Whole(Option<ServerName>),
}

/// The server that a ClientHello asks for: bytes of a peer's payload, so its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerName(String);

/// Why the first bytes are no ClientHello that can be judged. Says nothing of what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientHelloError {
    /// Something else than TLS, or than a ClientHello.
    #[error("the stream does not begin with a TLS ClientHello")]
    NotTls,
    /// It does not end within the cap.
    #[error("the ClientHello is longer than {CLIENT_HELLO_MAX_BYTES} bytes")]
    TooLong,
    /// It contradicts itself or RFC 8446 and RFC 6066.
    #[error("the ClientHello is malformed: {0}")]
    Malformed(&'static str),
}

impl ServerName {
    /// Whether it is this name; letter case makes no difference, a trailing dot does.
    pub fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name)
    }

    /// The name as it was sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerName({} bytes)", self.0.len())
    }
}

impl fmt::Debug for ClientHelloReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHelloReader").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl ClientHelloReader {
    /// A reader before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream. What follows the ClientHello in later records is not looked at.
    ///
    /// # Errors
    /// What is wrong, as soon as it can be known; the stream is of no use then.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<ClientHelloProgress, ClientHelloError> {
        while let Some((first, behind)) = bytes.split_first() {
            let room = CLIENT_HELLO_MAX_BYTES.saturating_sub(self.seen);
            if room == 0 {
                return Err(ClientHelloError::TooLong);
            }
            if self.record_left == 0 {
                self.header.push(*first);
                self.record_left = record_payload(&self.header)?;
                if self.record_left > 0 {
                    self.header.clear();
                }
                bytes = behind;
                self.seen = self.seen.saturating_add(1);
                continue;
            }
            let (part, behind) = bytes.split_at_checked(self.record_left.min(room)).unwrap_or((bytes, &[]));
            self.record_left = self.record_left.saturating_sub(part.len());
            self.seen = self.seen.saturating_add(part.len());
            self.message.extend_from_slice(part);
            bytes = behind;
            if let Some(body) = self.body()? {
                // Nothing may stand behind it in its record, come or not: a key change may follow.
                if self.record_left > 0 {
                    return Err(ClientHelloError::Malformed("its record does not end with it"));
                }
                return server_name(body).map(ClientHelloProgress::Whole);
            }
        }
        Ok(ClientHelloProgress::More)
    }

    /// The message without its header, once it is whole.
    fn body(&self) -> Result<Option<&[u8]>, ClientHelloError> {
        if self.message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(ClientHelloError::NotTls);
        }
        let Some((header, body)) = self.message.split_at_checked(MESSAGE_HEADER_BYTES) else { return Ok(None) };
        let length = header.iter().skip(1).fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        if length > CLIENT_HELLO_MAX_BYTES {
            return Err(ClientHelloError::TooLong);
        }
        if body.len() > length {
            return Err(ClientHelloError::Malformed("its record does not end with it"));
        }
        Ok((body.len() == length).then_some(body))
    }
}

/// The length of a record's payload, 0 as long as its header is not whole.
fn record_payload(header: &[u8]) -> Result<usize, ClientHelloError> {
    match *header {
        [kind, ..] if kind != HANDSHAKE_RECORD => Err(ClientHelloError::NotTls),
        // SSL 3.0 to TLS 1.2; TLS 1.3 says that it is one of these.
        [_, major, ..] if major != 3 => Err(ClientHelloError::NotTls),
        [_, _, minor, ..] if minor > 3 => Err(ClientHelloError::NotTls),
        [_, _, _, high, low] => match u16::from_be_bytes([high, low]) {
            0 => Err(ClientHelloError::Malformed("an empty record")),
            length if length > RECORD_PAYLOAD_MAX_BYTES => Err(ClientHelloError::Malformed("a record too long")),
            length => Ok(usize::from(length)),
        },
        _ => Ok(0),
    }
}

/// The server name in the body of a ClientHello (RFC 8446, 4.1.2).
fn server_name(body: &[u8]) -> Result<Option<ServerName>, ClientHelloError> {
    let mut hello = Fields(body);
    if hello.u8()? != 3 {
        return Err(ClientHelloError::Malformed("the version"));
    }
    // Minor version, random.
    hello.take(1 + 32)?;
    if hello.vector8()?.0.len() > 32 {
        return Err(ClientHelloError::Malformed("the session id"));
    }
    let suites = hello.vector16()?.0.len();
    if suites == 0 || suites % 2 != 0 {
        return Err(ClientHelloError::Malformed("the cipher suites"));
    }
    if hello.vector8()?.0.is_empty() {
        return Err(ClientHelloError::Malformed("the compression methods"));
    }
    if hello.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = hello.vector16()?;
    hello.end()?;
    let mut name = None;
    let mut kinds = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        kinds.push(kind);
        if kind == SERVER_NAME_EXTENSION {
            name = Some(host_name(content)?);
        }
    }
    kinds.sort_unstable();
    if kinds.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
        return Err(ClientHelloError::Malformed("an extension comes twice"));
    }
    Ok(name)
}

/// The one name of the extension (RFC 6066, 3).
fn host_name(mut extension: Fields<'_>) -> Result<ServerName, ClientHelloError> {
    let mut list = extension.vector16()?;
    extension.end()?;
    if list.u8()? != HOST_NAME {
        return Err(ClientHelloError::Malformed("a server name of an unknown kind"));
    }
    let name = list.vector16()?.0;
    if !list.0.is_empty() {
        return Err(ClientHelloError::Malformed("more than one server name"));
    }
    let text =
        std::str::from_utf8(name).ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()));
    text.map(|text| ServerName(text.to_owned())).ok_or(ClientHelloError::Malformed("the server name is no host name"))
}

/// Fields of fixed and of written length, from the front.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], ClientHelloError> {
        let (field, behind) = self
            .0
            .split_at_checked(length)
            .ok_or(ClientHelloError::Malformed("a field is longer than what holds it"))?;
        self.0 = behind;
        Ok(field)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, ClientHelloError> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn u8(&mut self) -> Result<u8, ClientHelloError> {
        Ok(u8::try_from(self.number(1)?).unwrap_or(u8::MAX))
    }

    fn u16(&mut self) -> Result<u16, ClientHelloError> {
        Ok(u16::try_from(self.number(2)?).unwrap_or(u16::MAX))
    }

    fn vector8(&mut self) -> Result<Fields<'b>, ClientHelloError> {
        let length = self.number(1)?;
        self.take(length).map(Fields)
    }

    fn vector16(&mut self) -> Result<Fields<'b>, ClientHelloError> {
        let length = self.number(2)?;
        self.take(length).map(Fields)
    }

    fn end(&self) -> Result<(), ClientHelloError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ClientHelloError::Malformed("a field is shorter than what holds it"))
        }
    }
}
