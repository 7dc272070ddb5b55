//! The egress policy against a slow definition of its own, and spellings of closed addresses that must never get through.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its setup too"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use enclave_bridge_policy::{EgressPolicy, Judged, OwnAddresses, Rule};
use enclave_bridge_proto::Target;
use proptest::prelude::*;
use proptest::sample::select;

#[path = "egress_properties/definition.rs"]
mod definition;

#[derive(Clone, Debug)]
struct RawRule {
    host: &'static str,
    ports: Option<(u16, u16)>,
}

impl RawRule {
    fn text(&self) -> String {
        match (self.ports, self.host.contains(':')) {
            (None, _) => self.host.to_owned(),
            (Some((from, to)), false) => format!("{}:{from}-{to}", self.host),
            (Some((from, to)), true) => format!("[{}]:{from}-{to}", self.host),
        }
    }

    fn covers(&self, port: u16) -> bool {
        self.ports.is_none_or(|(from, to)| from <= port && port <= to)
    }

    fn is_word(&self) -> bool {
        matches!(self.host, "public" | "private" | "any")
    }

    fn is_name(&self) -> bool {
        !self.is_word() && !self.is_net()
    }

    fn is_net(&self) -> bool {
        self.host.contains(':') || self.host.ends_with(|last: char| last.is_ascii_digit())
    }

    fn names(&self, name: &str) -> bool {
        let wanted: Vec<&str> = self.host.split('.').collect();
        let labels: Vec<&str> = name.split('.').collect();
        if !self.is_name() {
            return false;
        }
        match wanted.split_first() {
            Some((&"**", rest)) => {
                labels.len() > rest.len()
                    && labels[labels.len() - rest.len()..]
                        .iter()
                        .zip(rest)
                        .all(|(label, want)| label == want || *want == "*")
            }
            _ => {
                labels.len() == wanted.len()
                    && labels.iter().zip(&wanted).all(|(label, want)| label == want || *want == "*")
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    allow: Vec<RawRule>,
    deny: Vec<RawRule>,
    name: Option<&'static str>,
    address: IpAddr,
    port: u16,
}

const OWN: [&str; 6] = ["127.0.0.1", "::1", "10.0.0.5", "198.51.100.5", "fe80::5", "2600::5"];
const LISTENERS: [&str; 4] = ["0.0.0.0:8888", "127.0.0.1:8080", "10.0.0.5:8443", "[::1]:9090"];

fn own() -> OwnAddresses {
    OwnAddresses {
        addresses: OWN.iter().map(|text| text.parse().unwrap()).collect(),
        listeners: LISTENERS.iter().map(|text| text.parse::<SocketAddr>().unwrap()).collect(),
    }
}

/// Whether connecting arrives at one of [`LISTENERS`], written for exactly these.
fn is_listener(address: definition::Bits, port: u16) -> bool {
    let inside = |net| definition::within(net, address);
    match port {
        8888 => {
            address.0 && (inside("127.0.0.0/8") || inside("0.0.0.0") || inside("10.0.0.5") || inside("198.51.100.5"))
        }
        8080 => inside("127.0.0.1") || inside("0.0.0.0") || inside("::"),
        8443 => inside("10.0.0.5"),
        9090 => inside("::1") || inside("::") || inside("0.0.0.0"),
        _ => false,
    }
}

/// The definition of "may be dialled".
fn allowed(case: &Case) -> bool {
    let facets = definition::all(case.address);
    let own = own().addresses;
    let rules = |rules: &[RawRule]| rules.iter().filter(|rule| rule.covers(case.port)).cloned().collect::<Vec<_>>();
    let (allow, deny) = (rules(&case.allow), rules(&case.deny));
    let denied = deny.iter().any(|rule| {
        case.name.is_some_and(|name| rule.names(name))
            || facets.iter().any(|facet| match rule.host {
                "any" => true,
                "public" => definition::is_public(*facet),
                "private" => definition::is_private(*facet),
                host => rule.is_net() && definition::within(host, *facet),
            })
    });
    let opened = |facet: definition::Bits| {
        let key = definition::key(facet, &own);
        let (public, private) = (definition::is_public(facet), definition::is_private(facet));
        allow.iter().any(|rule| match (rule.host, &key) {
            ("public", None) => public,
            ("private", None) => private,
            ("any", None) => public || private,
            ("public" | "private" | "any", Some(_)) => false,
            (host, key) if rule.is_net() => {
                definition::within(host, facet)
                    && key.as_ref().is_none_or(|key| {
                        let (net, length) = host.split_once('/').unwrap_or((host, if facet.0 { "32" } else { "128" }));
                        let (_, key_length) = key.split_once('/').unwrap();
                        definition::within(key, definition::bits(net.parse().unwrap()))
                            && length.parse::<u32>().unwrap() >= key_length.parse::<u32>().unwrap()
                    })
            }
            (_, Some(_)) => false,
            (host, None) => {
                case.name.is_some_and(|name| rule.names(name)) && (public || (private && !host.contains('*')))
            }
        })
    };
    !denied && !facets.iter().any(|facet| is_listener(*facet, case.port)) && facets.iter().all(|facet| opened(*facet))
}

/// What the policy says: for an address the answer; for a name whether it is resolved and the address then allowed.
fn judged(case: &Case) -> bool {
    let rules = |rules: &[RawRule]| rules.iter().map(|rule| rule.text().parse::<Rule>().unwrap()).collect();
    let policy = EgressPolicy::new(rules(&case.allow), rules(&case.deny));
    let line = match (case.name, case.address) {
        (Some(name), _) => format!("{name}:{}", case.port),
        (None, IpAddr::V4(address)) => format!("{address}:{}", case.port),
        (None, IpAddr::V6(address)) => format!("[{address}]:{}", case.port),
    };
    let judged = match policy.judge(&Target::parse(line.as_bytes()).unwrap(), &own()) {
        Err(_) => return false,
        Ok(Judged::Address(judged)) => judged,
        Ok(Judged::Resolve(name)) => match policy.judge_address(&name, case.address, &own()) {
            Err(_) => return false,
            Ok(judged) => judged,
        },
    };
    assert_eq!(definition::bits(judged.socket_addr().ip()), definition::bits(case.address));
    assert_eq!(judged.socket_addr().port(), case.port);
    true
}

const V4: [&str; 26] = [
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "10.0.0.5",
    "10.0.0.4",
    "10.1.1.1",
    "100.63.255.255",
    "100.64.0.0",
    "100.100.100.200",
    "127.0.0.1",
    "126.255.255.255",
    "128.0.0.0",
    "169.254.169.254",
    "169.254.169.253",
    "169.253.255.255",
    "168.63.129.16",
    "172.15.255.255",
    "172.31.255.255",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.5",
    "203.0.113.7",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
];
const V6: [&str; 18] = [
    "::",
    "::1",
    "::2",
    "2600::5",
    "2606:4700::1",
    "fe80::1",
    "fe80::5",
    "fec0::1",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd12::1",
    "ff02::1",
    "2001:db8::1",
    "2001:20::1",
    "3fff::1",
    "4000::1",
    "100::1",
];
const HOSTS: [&str; 44] = [
    "public",
    "private",
    "any",
    "a.example",
    "b.a.example",
    "*.example",
    "**.example",
    "**",
    "*.*.example",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.0.4/31",
    "10.0.0.5",
    "8.8.8.8",
    "8.0.0.0/7",
    "127.0.0.0/8",
    "127.0.0.1",
    "127.0.0.0/31",
    "126.0.0.0/7",
    "169.254.0.0/16",
    "169.254.169.254",
    "169.0.0.0/8",
    "168.63.129.16",
    "100.100.100.200",
    "198.51.100.5",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255",
    "0.0.0.0",
    "0.0.0.0/8",
    "::",
    "::1",
    "fc00::/7",
    "fd00:ec2::254",
    "fd00:ec2::/64",
    "fe80::/10",
    "fe80::5",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "2001::/32",
    "::/96",
];

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        4 => select(&V4[..]).prop_map(|text| text.parse().unwrap()),
        1 => any::<u32>().prop_map(Ipv4Addr::from),
    ]
}

/// The ways of hiding an IPv4 address in an IPv6 one.
fn hidden(address: Ipv4Addr, form: usize) -> Ipv6Addr {
    let bits = u128::from(u32::from(address));
    let (high, low) = (bits >> 16, bits & 0xffff);
    Ipv6Addr::from(match form {
        0 => 0xffff << 32 | bits,
        1 => bits,
        2 => 0xffff << 48 | bits,
        3 => 0x64_ff9b << 96 | bits,
        4 => 0x64_ff9b_0001 << 80 | bits,
        5 => 0x64_ff9b_0001 << 80 | high << 64 | low << 40,
        6 => 0x64_ff9b_0001 << 80 | (bits >> 24) << 64 | (bits & 0xff_ffff) << 32,
        7 => 0x64_ff9b_0001 << 80 | bits << 24,
        8 => 0x2002 << 112 | bits << 80 | 1,
        9 => 0x2001 << 112 | bits << 64 | 0xf7f7_f7f7,
        _ => 0x2001 << 112 | 0x0808_0808 << 64 | (!bits & 0xffff_ffff),
    })
}
const FORMS: usize = 11;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => v4().prop_map(IpAddr::V4),
        2 => select(&V6[..]).prop_map(|text| text.parse().unwrap()),
        3 => (v4(), 0..FORMS).prop_map(|(address, form)| IpAddr::V6(hidden(address, form))),
        1 => any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
}

const PORTS: [u16; 7] = [80, 443, 8080, 8443, 8888, 9090, 65535];

fn rule() -> impl Strategy<Value = RawRule> {
    let ports = prop_oneof![3 => Just(None), 1 => Just(Some((1, 1024))), 1 => Just(Some((8080, 9000)))];
    (select(&HOSTS[..]), ports).prop_map(|(host, ports)| RawRule { host, ports })
}

fn case() -> impl Strategy<Value = Case> {
    let name = prop_oneof![Just(None), select(&["a.example", "b.a.example", "a.test", "example"][..]).prop_map(Some)];
    (prop::collection::vec(rule(), 0..4), prop::collection::vec(rule(), 0..2), name, address(), select(&PORTS[..]))
        .prop_map(|(allow, deny, name, address, port)| Case { allow, deny, name, address, port })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_dialled_is_exactly_what_the_definition_allows(case in case()) {
        prop_assert_eq!(judged(&case), allowed(&case));
    }
}

/// Closed addresses in one of the spellings that some resolver, C library or browser takes.
fn spelling() -> impl Strategy<Value = (IpAddr, String)> {
    let closed = [
        "169.254.169.254",
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.0.0.5",
        "169.254.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
    ];
    let v4 = (
        select(closed.to_vec()),
        1..=4usize,
        prop::collection::vec((0..3usize, 0..4usize, any::<bool>()), 4),
        0..4usize,
        0..3usize,
    )
        .prop_map(|(text, parts, forms, dots, tail)| {
            let address: Ipv4Addr = text.parse().unwrap();
            (IpAddr::V4(address), inet_spelling(address, parts, &forms, dots, tail))
        });
    let in_v6 = (select(closed.to_vec()), 0..FORMS, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(text, form, full, upper, dotted)| {
            let address: Ipv4Addr = text.parse().unwrap();
            (IpAddr::V4(address), v6_spelling(hidden(address, form), full, upper, dotted))
        },
    );
    let v6 = (
        select(vec!["::", "::1", "fd00:ec2::254", "fe80::1", "fe80::5", "ff02::1", "2600::5"]),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(text, full, upper, dotted)| {
            let address: Ipv6Addr = text.parse().unwrap();
            (IpAddr::V6(address), v6_spelling(address, full, upper, dotted))
        });
    prop_oneof![4 => v4, 3 => in_v6, 1 => v6]
}

/// As `inet_aton` reads it: one to four parts, each decimal, octal or hexadecimal, the last takes the rest.
fn inet_spelling(address: Ipv4Addr, parts: usize, forms: &[(usize, usize, bool)], dots: usize, tail: usize) -> String {
    let bits = u32::from(address);
    let octets = address.octets();
    let mut numbers: Vec<u32> = octets[..parts - 1].iter().map(|octet| u32::from(*octet)).collect();
    let rest_bits = 8 * (5 - u32::try_from(parts).unwrap());
    numbers.push(if rest_bits == 32 { bits } else { bits & ((1 << rest_bits) - 1) });
    let texts: Vec<String> = numbers
        .iter()
        .zip(forms)
        .map(|(number, (base, zeros, upper))| {
            let zeros = "0".repeat(*zeros);
            let text = match base {
                0 => number.to_string(),
                1 => format!("0{zeros}{number:o}"),
                _ => format!("0x{zeros}{number:x}"),
            };
            if *upper { text.to_uppercase() } else { text }
        })
        .collect();
    let mut text = texts.join([".", "。", "．", "｡"][dots]);
    match tail {
        1 => text.push('.'),
        2 => text = text.chars().map(|letter| if letter.is_ascii_digit() { wide(letter) } else { letter }).collect(),
        _ => {}
    }
    text
}

/// The full-width form of a digit, which IDNA maps to the digit.
fn wide(digit: char) -> char {
    char::from_u32(u32::from(digit) - u32::from('0') + 0xff10).unwrap()
}

fn v6_spelling(address: Ipv6Addr, full: bool, upper: bool, dotted: bool) -> String {
    let segments = address.segments();
    let text = if dotted {
        let head: Vec<String> = segments[..6].iter().map(|segment| format!("{segment:x}")).collect();
        let [.., a, b, c, d] = address.octets();
        format!("{}:{a}.{b}.{c}.{d}", head.join(":"))
    } else if full {
        segments.map(|segment| format!("{segment:04x}")).join(":")
    } else {
        address.to_string()
    };
    format!("[{}]", if upper { text.to_uppercase() } else { text })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Under the widest rules there are, and the name rule that covers every name.
    #[test]
    fn e2_no_spelling_of_a_closed_address_gets_through((address, text) in spelling()) {
        let rules = ["any", "**", "0.0.0.0/0", "::/0", "64:ff9b::/96", "2002::/16"].map(|rule| rule.parse().unwrap());
        let policy = EgressPolicy::new(rules.to_vec(), vec![]);
        if let Ok(target) = Target::parse(format!("{text}:80").as_bytes()) {
            let judged = policy.judge(&target, &own());
            prop_assert!(judged.is_err(), "{address} as {text}: {judged:?}");
        }
        // And as what a resolver makes of a name.
        let Ok(Judged::Resolve(name)) = policy.judge(&Target::parse(b"a.example:80").unwrap(), &own()) else {
            panic!("every name is resolved");
        };
        prop_assert!(policy.judge_address(&name, address, &own()).is_err());
    }

    #[test]
    fn judging_never_panics_and_rules_are_read_back_as_written(line in "\\PC{0,40}", rule in "[a-z0-9.:*/\\[\\]-]{0,20}") {
        if let Ok(rule) = rule.parse::<Rule>() {
            prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule.clone()));
            if let Ok(target) = Target::parse(format!("{line}:80").as_bytes()) {
                // A rule that denies covers whatever it covers when it allows.
                let judged = EgressPolicy::new(vec![rule.clone()], vec![rule]).judge(&target, &own());
                prop_assert!(!matches!(judged, Ok(Judged::Address(_))));
            }
        }
    }
}

/// A million, each closed address in a spelling of its own; the cases above are for every day.
#[test]
#[ignore = "a minute: cargo nextest run -p enclave-bridge-policy --run-ignored only"]
fn e2_a_million_spellings_of_closed_addresses_and_none_gets_through() {
    let rules = ["any", "**", "0.0.0.0/0", "::/0", "64:ff9b::/96", "2002::/16"].map(|rule| rule.parse().unwrap());
    let policy = EgressPolicy::new(rules.to_vec(), vec![]);
    let config = ProptestConfig { cases: 1_000_000, failure_persistence: None, ..ProptestConfig::default() };
    let judged = std::cell::Cell::new(0_u64);
    let met = proptest::test_runner::TestRunner::new(config).run(&spelling(), |(address, text)| {
        if let Ok(target) = Target::parse(format!("{text}:80").as_bytes()) {
            judged.set(judged.get() + 1);
            prop_assert!(policy.judge(&target, &own()).is_err(), "{address} as {text}");
        }
        Ok(())
    });
    met.unwrap();
    assert!(judged.get() > 500_000, "{} of a million were targets at all", judged.get());
}
