//! Any text as an egress target: it is one thing in every spelling; rules add up (allowing more closes nothing, denying more
//! opens nothing); what is resolved is a plain name that no reader takes for an address.

use std::net::IpAddr;
use std::sync::OnceLock;

use enclave_bridge_policy::{EgressPolicy, Judged, OwnAddresses, Rule};
use enclave_bridge_proto::{Host, NakCode, Target};

use super::check_nak;
use super::definition::{OWN, inet_aton, is_closed, is_same};
use crate::input::Input;

/// Rules of which an input chooses. The last four name closed addresses.
const RULES: [&str; 16] = [
    "public",
    "private:1-1024",
    "any:443",
    "**",
    "*.example",
    "a.example:80",
    "**.a.example",
    "*.*.example:8080",
    "0.0.0.0/0",
    "10.0.0.0/8:80",
    "[2000::/3]:443",
    "64:ff9b::/96",
    "169.254.169.254:80",
    "127.0.0.0/8",
    "[::1]:80",
    "10.0.0.5",
];
const FIRST_EXACT: usize = 12;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (allow, deny, more) = (input.u16(), input.u16() & input.u16(), 1_u16 << (input.byte() & 15));
    let port = [80_u16, 443, 8080, 8888][usize::from(input.byte() & 3)];
    let line = input.rest();
    // With the port that the rules are about, and as it stands.
    for line in [&[line, b":", port.to_string().as_bytes()].concat(), line] {
        if let Ok(target) = Target::parse(line) {
            judge(&target, allow, deny, more);
        }
    }
}

fn rules(mask: u16) -> Vec<Rule> {
    static PARSED: OnceLock<Vec<Rule>> = OnceLock::new();
    let all = PARSED.get_or_init(|| RULES.iter().map(|rule| rule.parse().unwrap()).collect());
    all.iter().enumerate().filter(|(place, _)| mask & (1 << place) != 0).map(|(_, rule)| rule.clone()).collect()
}

fn own() -> &'static OwnAddresses {
    static OWN_ADDRESSES: OnceLock<OwnAddresses> = OnceLock::new();
    OWN_ADDRESSES.get_or_init(|| OwnAddresses {
        addresses: OWN.iter().map(|own| own.parse().unwrap()).collect(),
        listeners: vec!["0.0.0.0:8888".parse().unwrap()],
    })
}

fn judge(target: &Target, allow: u16, deny: u16, more: u16) {
    let with = |allow, deny| EgressPolicy::new(rules(allow), rules(deny)).judge(target, own());
    let judged = with(allow, deny);
    assert!(with(0, deny).is_err(), "nothing is allowed without a rule");
    match &judged {
        Ok(_) => {
            assert!(with(allow | more, deny).is_ok(), "a rule that allows closes something");
            let deny_all = vec!["any".parse().unwrap(), "**".parse().unwrap()];
            assert!(EgressPolicy::new(rules(allow), deny_all).judge(target, own()).is_err(), "deny wins");
        }
        Err(refusal) => {
            assert!(matches!(refusal.code(), NakCode::Denied | NakCode::BadTarget));
            check_nak(&refusal.clone().into());
            assert!(with(allow, deny | more).is_err(), "a rule that denies opens something");
        }
    }
    match (judged, &target.host) {
        (Ok(Judged::Address(judged)), Host::Ip(address)) => {
            assert!(is_same(judged.socket_addr().ip(), *address) && judged.socket_addr().port() == target.port);
            let deciding = RULES.iter().position(|rule| *rule == judged.rule()).expect("a rule of the list decides");
            assert!(allow & (1 << deciding) != 0, "it is among those that allow");
            assert!(!is_closed(*address) || allow >> FIRST_EXACT != 0, "a wide rule opens {address}");
        }
        (Ok(Judged::Address(judged)), Host::Name(name)) => panic!("{name} is dialled as {}", judged.socket_addr()),
        (Ok(Judged::Resolve(name)), Host::Name(raw)) => {
            resolved(name.name(), raw);
            same_in_every_spelling(target, raw, allow, deny);
            for closed in ["169.254.169.254", "127.0.0.1", "::1", "10.0.0.5", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"] {
                let address: IpAddr = closed.parse().unwrap();
                let policy = EgressPolicy::new(rules(allow), rules(deny));
                let judged = policy.judge_address(&name, address, own());
                assert!(judged.is_err() || allow >> FIRST_EXACT != 0, "{} leads to {closed}", name.name());
            }
        }
        (Ok(Judged::Resolve(name)), Host::Ip(_)) => panic!("an address is resolved as {}", name.name()),
        (Err(_), _) => {}
    }
}

fn resolved(name: &str, raw: &str) {
    assert!((1..=253).contains(&name.len()), "{raw}");
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    assert!(name.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(plain)), "{name}");
    assert_eq!(inet_aton(name), None, "{raw} is an address to some resolvers");
    assert!(name.parse::<IpAddr>().is_err());
}

/// Letter case and a dot at the end change nothing, and neither does writing the resolved name.
fn same_in_every_spelling(target: &Target, raw: &str, allow: u16, deny: u16) {
    let policy = EgressPolicy::new(rules(allow), rules(deny));
    let judge = |name: String| policy.judge(&Target { host: Host::Name(name), port: target.port }, own());
    let first = judge(raw.to_owned());
    let Ok(Judged::Resolve(grant)) = &first else { panic!("it was resolved before") };
    let mut spellings = vec![raw.to_ascii_uppercase(), raw.to_ascii_lowercase(), grant.name().to_owned()];
    if !raw.ends_with('.') {
        spellings.push(format!("{raw}."));
    }
    for spelling in spellings {
        assert_eq!(judge(spelling.clone()), first, "{raw} and {spelling} are one name");
    }
}
