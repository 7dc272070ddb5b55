//! The PROXY protocol v2 header that tells an enclave its client's address. Only TCP over IPv4 and IPv6, and LOCAL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The longest header that is read: its 16 fixed bytes, 36 of addresses and what extensions fit beside them in the
/// 536 bytes that every TCP path carries in one segment.
pub const PROXY_V2_MAX_BYTES: usize = 536;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header for a connection from `source` to `destination`. Of two families both are written as IPv6, the IPv4
/// one mapped. Scope and flow of an IPv6 address are not carried.
pub fn encode_proxy_v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(PROXY);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend_from_slice(&[TCP4, 0, 12]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (from, to) => {
            header.extend_from_slice(&[TCP6, 0, 36]);
            header.extend_from_slice(&as_v6(from).octets());
            header.extend_from_slice(&as_v6(to).octets());
        }
    }
    header.extend_from_slice(&source.port().to_be_bytes());
    header.extend_from_slice(&destination.port().to_be_bytes());
    header
}

/// The header of a connection that is the bridge's own and stands for nobody's, like a health check.
pub fn encode_proxy_v2_local() -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[LOCAL, UNSPECIFIED, 0, 0]);
    header
}

/// Reads one header from the beginning of a stream, and no byte of what follows it. Holds at most [`PROXY_V2_MAX_BYTES`].
#[derive(Default)]
pub struct ProxyV2Reader {
    bytes: Vec<u8>,
    error: Option<ProxyV2Error>,
}

/// Shows how many bytes are held, never which.
impl std::fmt::Debug for ProxyV2Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyV2Reader").field("bytes", &self.bytes.len()).field("error", &self.error).finish()
    }
}

/// What a push into a [`ProxyV2Reader`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyV2Progress {
    /// The header goes on; all bytes were taken.
    NeedMore,
    /// The header is complete. Push no more.
    Header {
        /// The client; `None` for LOCAL and where the header names no address.
        source: Option<SocketAddr>,
        /// What the client connected to.
        destination: Option<SocketAddr>,
        /// Bytes of this push that belong to the header; the rest is the stream.
        consumed: usize,
    },
    /// No header that this reader takes, now and later.
    Bad(ProxyV2Error),
}

/// Why bytes are no header that the reader takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyV2Error {
    /// The twelve bytes of the signature do not stand at the beginning.
    #[error("no PROXY protocol v2 signature")]
    Signature,
    /// The version is not 2, or the command neither LOCAL nor PROXY.
    #[error("PROXY protocol header of another version or command")]
    Command,
    /// The addresses are neither TCP over IPv4 nor TCP over IPv6.
    #[error("PROXY protocol header of another address family or protocol")]
    Family,
    /// The length leaves no room for the addresses.
    #[error("PROXY protocol header too short for its addresses")]
    TooShort,
    /// The header is longer than [`PROXY_V2_MAX_BYTES`].
    #[error("PROXY protocol header longer than {PROXY_V2_MAX_BYTES} bytes")]
    TooLong,
}

impl ProxyV2Reader {
    /// A reader at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes up to the end of the header, and no further than the first byte that is wrong.
    pub fn push(&mut self, bytes: &[u8]) -> ProxyV2Progress {
        if let Some(error) = self.error {
            return ProxyV2Progress::Bad(error);
        }
        match self.advance(bytes) {
            Ok(progress) => progress,
            Err(error) => {
                self.error = Some(error);
                self.bytes = Vec::new();
                ProxyV2Progress::Bad(error)
            }
        }
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<ProxyV2Progress, ProxyV2Error> {
        let mut rest = bytes;
        loop {
            let wanted = wanted_length(&self.bytes)?;
            let missing = wanted.saturating_sub(self.bytes.len());
            if missing == 0 {
                let (source, destination) = addresses(&self.bytes)?;
                let consumed = bytes.len().saturating_sub(rest.len());
                return Ok(ProxyV2Progress::Header { source, destination, consumed });
            }
            let Some((taken, left)) = rest.split_at_checked(missing.min(rest.len())) else {
                return Ok(ProxyV2Progress::NeedMore);
            };
            if taken.is_empty() {
                return Ok(ProxyV2Progress::NeedMore);
            }
            self.bytes.extend_from_slice(taken);
            rest = left;
        }
    }
}

/// How long the header is as far as `bytes` say: the fixed part, or all of it. Refuses what is already wrong.
fn wanted_length(bytes: &[u8]) -> Result<usize, ProxyV2Error> {
    if !bytes.iter().zip(&SIGNATURE).all(|(is, should)| is == should) {
        return Err(ProxyV2Error::Signature);
    }
    let mut rest = bytes.iter().skip(SIGNATURE.len());
    let command = rest.next();
    if command.is_some_and(|command| !matches!(*command, LOCAL | PROXY)) {
        return Err(ProxyV2Error::Command);
    }
    let family = rest.next();
    let (Some(&command), Some(&family), Some(&high), Some(&low)) = (command, family, rest.next(), rest.next()) else {
        return Ok(FIXED_BYTES);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let addresses = match (command, family) {
        (LOCAL, _) | (_, UNSPECIFIED) => 0,
        (_, TCP4) => 12,
        (_, TCP6) => 36,
        _ => return Err(ProxyV2Error::Family),
    };
    if length < addresses {
        return Err(ProxyV2Error::TooShort);
    }
    let whole = FIXED_BYTES.saturating_add(length);
    if whole > PROXY_V2_MAX_BYTES { Err(ProxyV2Error::TooLong) } else { Ok(whole) }
}

type Addresses = (Option<SocketAddr>, Option<SocketAddr>);

/// The addresses of a whole header; extensions behind them are passed over.
fn addresses(header: &[u8]) -> Result<Addresses, ProxyV2Error> {
    let command = header.get(SIGNATURE.len()).copied().unwrap_or(LOCAL);
    let family = header.get(SIGNATURE.len() + 1).copied().unwrap_or(UNSPECIFIED);
    let mut body = Body(header.get(FIXED_BYTES..).unwrap_or_default());
    let read = match (command, family) {
        (PROXY, TCP4) => (|| {
            let (from, to) = (Ipv4Addr::from(body.take::<4>()?), Ipv4Addr::from(body.take::<4>()?));
            Some((SocketAddr::new(from.into(), body.port()?), SocketAddr::new(to.into(), body.port()?)))
        })(),
        (PROXY, TCP6) => (|| {
            let (from, to) = (Ipv6Addr::from(body.take::<16>()?), Ipv6Addr::from(body.take::<16>()?));
            let socket = |address, port| SocketAddr::V6(SocketAddrV6::new(address, port, 0, 0));
            Some((socket(from, body.port()?), socket(to, body.port()?)))
        })(),
        _ => return Ok((None, None)),
    };
    let (source, destination) = read.ok_or(ProxyV2Error::TooShort)?;
    Ok((Some(source), Some(destination)))
}

struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn port(&mut self) -> Option<u16> {
        self.take::<2>().map(u16::from_be_bytes)
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
