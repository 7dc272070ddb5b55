//! The PROXY protocol v2 header: the same answer however the bytes are cut, not a byte taken behind the header, and the
//! addresses those that stand in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use enclave_bridge_proto::{
    PROXY_V2_MAX_BYTES, ProxyV2Error, ProxyV2Progress, ProxyV2Reader, encode_proxy_v2, encode_proxy_v2_local,
};

use crate::input::{Cut, Input};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (flags, seed) = (input.byte(), input.u32());
    let stream = match flags & 3 {
        0 => input.rest().to_vec(),
        1 => [SIGNATURE, input.rest()].concat(),
        2 => {
            let (source, destination) = (socket(&mut input, flags & 4), socket(&mut input, flags & 8));
            let header = encode_proxy_v2(source, destination);
            let whole = expected(&header);
            let mapped = source.is_ipv4() != destination.is_ipv4();
            let seen = |address: SocketAddr| match address.ip() {
                IpAddr::V4(v4) if mapped => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
                IpAddr::V4(_) | IpAddr::V6(_) => address,
            };
            assert_eq!(whole, Ok(Some((Some(seen(source)), Some(seen(destination)), header.len()))), "it reads back");
            [&header, input.rest()].concat()
        }
        _ => [&encode_proxy_v2_local(), input.rest()].concat(),
    };
    let expected = expected(&stream);
    for cut in Cut::all(seed) {
        assert_eq!(read(&cut.pieces(&stream)), expected);
    }
}

fn socket(input: &mut Input<'_>, v6: u8) -> SocketAddr {
    let ip = if v6 == 0 { IpAddr::V4(Ipv4Addr::from(input.u32())) } else { Ipv6Addr::from(input.take::<16>()).into() };
    SocketAddr::new(ip, input.u16())
}

/// A header with its length, nothing yet, or what is wrong.
type Answer = Result<Option<(Option<SocketAddr>, Option<SocketAddr>, usize)>, ProxyV2Error>;

/// The definition, from the PROXY protocol's description.
fn expected(stream: &[u8]) -> Answer {
    let known = stream.len().min(SIGNATURE.len());
    if stream[..known] != SIGNATURE[..known] {
        return Err(ProxyV2Error::Signature);
    }
    if stream.get(12).is_some_and(|command| *command != 0x20 && *command != 0x21) {
        return Err(ProxyV2Error::Command);
    }
    if stream.len() < 16 {
        return Ok(None);
    }
    let length = usize::from(stream[14]) * 256 + usize::from(stream[15]);
    let width = match (stream[12], stream[13]) {
        (0x20, _) | (_, 0) => 0,
        (_, 0x11) => 4,
        (_, 0x21) => 16,
        _ => return Err(ProxyV2Error::Family),
    };
    if width != 0 && length < 2 * width + 4 {
        return Err(ProxyV2Error::TooShort);
    }
    if 16 + length > PROXY_V2_MAX_BYTES {
        return Err(ProxyV2Error::TooLong);
    }
    let Some(body) = stream.get(16..16 + length) else { return Ok(None) };
    if width == 0 {
        return Ok(Some((None, None, 16 + length)));
    }
    let address = |place: usize| -> IpAddr {
        let bytes = &body[place * width..(place + 1) * width];
        match width {
            4 => <[u8; 4]>::try_from(bytes).unwrap().into(),
            _ => <[u8; 16]>::try_from(bytes).unwrap().into(),
        }
    };
    let port = |place: usize| u16::from_be_bytes([body[2 * width + 2 * place], body[2 * width + 2 * place + 1]]);
    let socket = |place| Some(SocketAddr::new(address(place), port(place)));
    Ok(Some((socket(0), socket(1), 16 + length)))
}

fn read(pieces: &[&[u8]]) -> Answer {
    let mut reader = ProxyV2Reader::new();
    let mut before = 0;
    for piece in pieces {
        match reader.push(piece) {
            ProxyV2Progress::NeedMore => before += piece.len(),
            ProxyV2Progress::Header { source, destination, consumed } => {
                assert!(consumed <= piece.len() && before + consumed <= PROXY_V2_MAX_BYTES);
                return Ok(Some((source, destination, before + consumed)));
            }
            ProxyV2Progress::Bad(error) => {
                assert_eq!(reader.push(SIGNATURE), ProxyV2Progress::Bad(error), "bad stays bad");
                return Err(error);
            }
        }
        assert!(before < PROXY_V2_MAX_BYTES, "more is held than a header has");
    }
    Ok(None)
}
