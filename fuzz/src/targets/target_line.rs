//! The address line: what is taken is what was written, one thing only and never a URL; what is refused is refused in a
//! sentence that repeats no URL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enclave_bridge_proto::{ADDRESS_LINE_MAX_BYTES, Host, NAME_MAX_BYTES, NakCode, Target};

use super::{check_nak, is_plain};

pub(crate) fn run(line: &[u8]) {
    match Target::parse(line) {
        Ok(target) => taken(line, &target),
        Err(nak) => {
            assert_eq!(nak.code(), NakCode::BadTarget);
            check_nak(&nak);
            for secret in secrets(line) {
                assert!(!nak.sentence().contains(&secret), "a piece of a URL is repeated: {}", nak.sentence());
            }
        }
    }
}

fn taken(line: &[u8], target: &Target) {
    assert!(line.len() <= ADDRESS_LINE_MAX_BYTES);
    let text = std::str::from_utf8(line).expect("a target is text");
    let (host, port) = text.rsplit_once(':').expect("a target has a port");
    assert_eq!(port, target.port.to_string(), "the port has one spelling");
    assert_ne!(target.port, 0);
    match &target.host {
        Host::Ip(IpAddr::V4(address)) => assert_eq!(host.parse::<Ipv4Addr>().as_ref(), Ok(address)),
        Host::Ip(IpAddr::V6(address)) => {
            let inner =
                host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).expect("IPv6 stands in brackets");
            assert_eq!(inner.parse::<Ipv6Addr>().as_ref(), Ok(address));
        }
        Host::Name(name) => {
            assert_eq!(name, host);
            assert!((1..=NAME_MAX_BYTES).contains(&name.len()) && is_plain(name));
            assert!(!name.contains([' ', '/', '@', ':', '[', ']', '%', '?', '#', '\\']), "{name} is no name");
            assert!(name.parse::<IpAddr>().is_err(), "an address is no name");
        }
    }
    let written = target.encode_line();
    assert!(written.len() <= ADDRESS_LINE_MAX_BYTES + 1);
    assert_eq!(written.iter().position(|byte| *byte == b'\n'), Some(written.len() - 1));
    assert_eq!(Target::parse(&written[..written.len() - 1]).as_ref(), Ok(target), "a target reads back");
}

/// What of a line may be a password or a token, where it is recognisably a URL: what stands before an `@` in the
/// authority, and what stands behind a `?` and between its colons. Short pieces and pieces with a space are found in sentences and are left out.
fn secrets(line: &[u8]) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(line) else { return Vec::new() };
    let mut secrets = Vec::new();
    if let Some((before, _)) = text.split_once('@')
        && let Some((_, password)) = before.rsplit_once([':', '/'])
    {
        secrets.push(password.to_owned());
    }
    if let Some((_, query)) = text.split_once('?') {
        secrets.extend(query.split(':').map(str::to_owned));
    }
    secrets.retain(|secret| secret.len() >= 16 && !secret.contains(' ') && is_plain(secret));
    secrets
}
