//! Addresses under the widest rules there are: whatever is closed stays closed in every spelling and every disguise, all else
//! is open, and what may be dialled is the address that the standard library reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use enclave_bridge_policy::{AddressClass, EgressPolicy, Judged, NameGrant, OwnAddresses, classify};
use enclave_bridge_proto::{Host, Target};

use super::definition::{OWN, hidden, inet_aton, is_closed, is_same, spelled};
use crate::input::Input;

/// Where the bridge itself listens.
const LISTENER: &str = "203.0.113.5:8888";

const V4: [[u8; 4]; 12] = [
    [169, 254, 169, 254],
    [127, 0, 0, 1],
    [0, 0, 0, 0],
    [10, 0, 0, 5],
    [224, 0, 0, 1],
    [255, 255, 255, 255],
    [168, 63, 129, 16],
    [100, 100, 100, 200],
    [203, 0, 113, 5],
    [8, 8, 8, 8],
    [192, 168, 0, 1],
    [198, 51, 100, 5],
];

const V6: [&str; 8] = ["::", "::1", "fd00:ec2::254", "fe80::1", "ff02::1", "2600::5", "2600::6", "fd20:ce::254"];

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (kind, choice, form, parts) = (input.byte(), usize::from(input.byte()), input.byte(), input.byte());
    let (forms, port): ([u8; 4], u16) = (input.take(), input.u16().max(1));
    let port = if kind & 0x80 != 0 { 8888 } else { port };
    let known = V4.get(choice).map(|octets| Ipv4Addr::from(*octets));
    let v4 = known.unwrap_or_else(|| Ipv4Addr::from(input.take::<4>()));
    let address = match kind & 3 {
        0 => IpAddr::V4(v4),
        1 => IpAddr::V6(hidden(v4, form)),
        2 => IpAddr::V6(V6[choice % V6.len()].parse().unwrap()),
        _ => IpAddr::V6(Ipv6Addr::from(input.take::<16>())),
    };
    judge(address, port);
    odd_spelling(v4, &spelled(v4, parts, forms), port);
}

struct Widest {
    policy: EgressPolicy,
    own: OwnAddresses,
    /// A name that the rules let anybody resolve.
    name: fn(u16) -> Target,
}

fn widest() -> &'static Widest {
    static WIDEST: OnceLock<Widest> = OnceLock::new();
    WIDEST.get_or_init(|| {
        let rules = ["any", "**", "0.0.0.0/0", "::/0", "64:ff9b::/96", "2002::/16"];
        Widest {
            policy: EgressPolicy::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), vec![]),
            own: OwnAddresses {
                addresses: OWN.iter().map(|own| own.parse().unwrap()).collect(),
                listeners: vec![LISTENER.parse().unwrap()],
            },
            name: |port| Target { host: Host::Name("a.example".to_owned()), port },
        }
    })
}

/// Every right spelling of an address is judged as the definition says, and so is the address behind a name.
fn judge(address: IpAddr, port: u16) {
    let Widest { policy, own, name } = widest();
    // The listener is reached by every disguise of its address, too; those are the embedded ones of that port.
    let closed = is_closed(address) || (port == 8888 && leads_to_listener(address));
    let mut texts = vec![];
    match address {
        IpAddr::V4(v4) => texts.extend([v4.to_string(), format!("[::ffff:{v4}]")]),
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let [.., a, b, c, d] = v6.octets();
            let head: Vec<String> = segments[..6].iter().map(|segment| format!("{segment:x}")).collect();
            texts.extend([
                format!("[{v6}]"),
                format!("[{}]", v6.to_string().to_uppercase()),
                format!("[{}]", segments.map(|segment| format!("{segment:04x}")).join(":")),
                format!("[{}:{a}.{b}.{c}.{d}]", head.join(":")),
            ]);
        }
    }
    for text in texts {
        let target = Target::parse(format!("{text}:{port}").as_bytes()).expect("a right spelling is a target");
        match policy.judge(&target, own) {
            Ok(Judged::Address(judged)) => {
                assert!(!closed, "{text}:{port} may be dialled");
                dialled(judged.socket_addr(), address, port);
            }
            Ok(Judged::Resolve(_)) => panic!("{text} is resolved as a name"),
            Err(refusal) => assert!(closed, "{text}:{port} is refused: {refusal}"),
        }
    }
    let resolved: NameGrant = match policy.judge(&name(port), own) {
        Ok(Judged::Resolve(name)) => name,
        other => panic!("{other:?}"),
    };
    match policy.judge_address(&resolved, address, own) {
        Ok(judged) => {
            assert!(!closed, "{address} behind a name may be dialled");
            dialled(judged.socket_addr(), address, port);
        }
        Err(refusal) => assert!(closed, "{address} behind a name is refused: {refusal}"),
    }
    let open = [AddressClass::Public, AddressClass::Private, AddressClass::Reserved];
    assert!(is_closed(address) || open.contains(&classify(address)), "{address} is {}", classify(address));
}

fn leads_to_listener(address: IpAddr) -> bool {
    let listener: SocketAddr = LISTENER.parse().unwrap();
    let IpAddr::V4(v4) = listener.ip() else { return false };
    is_same(address, listener.ip()) || super::definition::leads_to(address, v4)
}

fn dialled(judged: SocketAddr, address: IpAddr, port: u16) {
    assert!(is_same(judged.ip(), address) && judged.port() == port, "{judged} is dialled for {address}");
    assert_eq!(judged.ip(), judged.ip().to_canonical(), "a judged address is in its one form");
}

/// Spellings that only some readers take for an address: refused, or the plain one.
fn odd_spelling(address: Ipv4Addr, text: &str, port: u16) {
    assert_eq!(inet_aton(text), Some(address), "{text} is a spelling of {address}");
    let Widest { policy, own, .. } = widest();
    let wide: String = text.chars().map(|c| if c.is_ascii_digit() { full_width(c) } else { c }).collect();
    for text in [text.to_owned(), format!("{text}."), text.replace('.', "。"), wide] {
        let Ok(target) = Target::parse(format!("{text}:{port}").as_bytes()) else { continue };
        match policy.judge(&target, own) {
            Ok(Judged::Address(judged)) => {
                assert_eq!(text, address.to_string(), "only four plain decimal numbers are an address");
                assert!(!is_closed(address.into()) && is_same(judged.socket_addr().ip(), address.into()));
            }
            Ok(Judged::Resolve(_)) => panic!("{text} is resolved as a name, and some resolvers make {address} of it"),
            Err(_) => {}
        }
    }
}

/// The full-width form of a digit, which IDNA maps to the digit.
fn full_width(digit: char) -> char {
    char::from_u32(u32::from(digit) - u32::from('0') + 0xff10).unwrap()
}
