//! The egress policy as a table: rules, target, answer. The sentence of every refusal is part of the answer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its setup too")]

use std::net::{IpAddr, SocketAddr};

use enclave_bridge_policy::{EgressPolicy, Judged, OwnAddresses, Rule};
use enclave_bridge_proto::{Nak, NakCode, Target};

fn rules(text: &str) -> Vec<Rule> {
    text.split_whitespace().map(|rule| rule.parse().unwrap()).collect()
}

fn policy(allow: &str, deny: &str) -> EgressPolicy {
    EgressPolicy::new(rules(allow), rules(deny))
}

fn own() -> OwnAddresses {
    let addresses = ["127.0.0.1", "::1", "10.0.0.5", "198.51.100.5", "fe80::5", "2600::5"];
    let listeners = ["0.0.0.0:8888", "127.0.0.1:8080", "10.0.0.5:8443", "[::1]:9090"];
    OwnAddresses {
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        listeners: listeners.iter().map(|text| text.parse::<SocketAddr>().unwrap()).collect(),
    }
}

/// "dial ADDRESS by RULE", "resolve NAME" or the refusal.
fn answer(policy: &EgressPolicy, target: &str) -> String {
    let target = match Target::parse(target.as_bytes()) {
        Ok(target) => target,
        Err(nak) => return format!("line: {}", nak.code()),
    };
    match policy.judge(&target, &own()) {
        Ok(Judged::Address(judged)) => format!("dial {} by {}", judged.socket_addr(), judged.rule()),
        Ok(Judged::Resolve(name)) => format!("resolve {}:{}", name.name(), name.port()),
        Err(refusal) => format!("{}: {refusal}", refusal.code()),
    }
}

/// The answer to one address that a name resolved to.
fn resolved(policy: &EgressPolicy, target: &str, address: &str) -> String {
    let target = Target::parse(target.as_bytes()).unwrap();
    let Ok(Judged::Resolve(name)) = policy.judge(&target, &own()) else { return "not resolved".to_owned() };
    match policy.judge_address(&name, address.parse().unwrap(), &own()) {
        Ok(judged) => format!("dial {} by {}", judged.socket_addr(), judged.rule()),
        Err(refusal) => format!("{}: {refusal}", refusal.code()),
    }
}

#[test]
fn targets() {
    for (allow, deny, target, expected) in [
        // Nothing is allowed where nothing is listed.
        ("", "", "8.8.8.8:53", "DENIED: no rule allows 8.8.8.8:53"),
        ("", "", "example.org:443", "DENIED: no rule allows example.org:443"),
        // Classes.
        ("public", "", "8.8.8.8:53", "dial 8.8.8.8:53 by public"),
        ("public", "", "[2606:4700::1]:53", "dial [2606:4700::1]:53 by public"),
        ("public", "", "10.1.1.1:53", "DENIED: no rule allows 10.1.1.1:53"),
        ("public", "", "[fd12::1]:53", "DENIED: no rule allows [fd12::1]:53"),
        ("public", "", "203.0.113.7:1", "DENIED: no rule allows 203.0.113.7:1"),
        ("private", "", "10.1.1.1:53", "dial 10.1.1.1:53 by private"),
        ("private", "", "100.64.0.1:53", "dial 100.64.0.1:53 by private"),
        ("private", "", "[fd12::1]:53", "dial [fd12::1]:53 by private"),
        ("private", "", "8.8.8.8:53", "DENIED: no rule allows 8.8.8.8:53"),
        ("any", "", "10.1.1.1:53", "dial 10.1.1.1:53 by any"),
        ("any", "", "203.0.113.7:1", "DENIED: no rule allows 203.0.113.7:1"),
        ("any", "", "240.0.0.1:1", "DENIED: no rule allows 240.0.0.1:1"),
        ("any", "", "198.18.0.1:1", "DENIED: no rule allows 198.18.0.1:1"),
        ("203.0.113.0/24", "", "203.0.113.7:1", "dial 203.0.113.7:1 by 203.0.113.0/24"),
        ("0.0.0.0/0", "", "203.0.113.7:1", "dial 203.0.113.7:1 by 0.0.0.0/0"),
        ("::/0", "", "8.8.8.8:1", "DENIED: no rule allows 8.8.8.8:1"),
        // Ports.
        ("public:443", "", "8.8.8.8:443", "dial 8.8.8.8:443 by public:443"),
        ("public:443", "", "8.8.8.8:53", "DENIED: no rule allows 8.8.8.8:53"),
        ("10.0.0.0/8:1-1024", "", "10.1.1.1:1024", "dial 10.1.1.1:1024 by 10.0.0.0/8:1-1024"),
        ("10.0.0.0/8:1-1024", "", "10.1.1.1:1025", "DENIED: no rule allows 10.1.1.1:1025"),
        // Special addresses.
        (
            "any 0.0.0.0/0 ::/0 **",
            "",
            "169.254.169.254:80",
            "DENIED: 169.254.169.254 is the metadata service, open only to a rule that names the address",
        ),
        (
            "any 0.0.0.0/0 169.254.0.0/16",
            "",
            "169.254.169.254:80",
            "DENIED: 169.254.169.254 is the metadata service, open only to a rule that names the address",
        ),
        ("169.254.169.254", "", "169.254.169.254:80", "dial 169.254.169.254:80 by 169.254.169.254"),
        ("169.254.169.254:80", "", "169.254.169.254:80", "dial 169.254.169.254:80 by 169.254.169.254:80"),
        ("169.254.0.0/16", "", "169.254.7.7:80", "dial 169.254.7.7:80 by 169.254.0.0/16"),
        (
            "any 169.0.0.0/8",
            "",
            "169.254.7.7:80",
            "DENIED: 169.254.7.7 is a link-local address, open only to a rule that names the address or its network",
        ),
        (
            "any ::/0 fc00::/7 fd00:ec2::/64",
            "",
            "[fd00:ec2::254]:80",
            "DENIED: fd00:ec2::254 is the metadata service, open only to a rule that names the address",
        ),
        ("fd00:ec2::254", "", "[fd00:ec2::254]:80", "dial [fd00:ec2::254]:80 by fd00:ec2::254"),
        (
            "any 168.0.0.0/8",
            "",
            "168.63.129.16:80",
            "DENIED: 168.63.129.16 is the metadata service, open only to a rule that names the address",
        ),
        (
            "any 0.0.0.0/0 10.0.0.0/8",
            "",
            "127.0.0.1:80",
            "DENIED: 127.0.0.1 is a loopback address, open only to a rule that names the address or its network",
        ),
        ("127.0.0.0/8", "", "127.0.0.1:80", "dial 127.0.0.1:80 by 127.0.0.0/8"),
        ("127.0.0.0/7", "", "127.0.0.1:80", "parse"),
        ("127.0.0.1", "", "127.0.0.1:80", "dial 127.0.0.1:80 by 127.0.0.1"),
        (
            "127.0.0.1",
            "",
            "127.0.0.2:80",
            "DENIED: 127.0.0.2 is a loopback address, open only to a rule that names the address or its network",
        ),
        ("::1", "", "[::1]:80", "dial [::1]:80 by ::1"),
        (
            "::/0 any",
            "",
            "[::1]:80",
            "DENIED: ::1 is a loopback address, open only to a rule that names the address or its network",
        ),
        (
            "0.0.0.0/0",
            "",
            "0.0.0.0:80",
            "DENIED: 0.0.0.0 is the unspecified address, open only to a rule that names the address",
        ),
        ("0.0.0.0", "", "0.0.0.0:80", "dial 0.0.0.0:80 by 0.0.0.0"),
        ("::/0", "", "[::]:80", "DENIED: :: is the unspecified address, open only to a rule that names the address"),
        (
            "any 0.0.0.0/0",
            "",
            "224.0.0.1:80",
            "DENIED: 224.0.0.1 is a multicast address, open only to a rule that names the address or its network",
        ),
        ("239.0.0.0/8", "", "239.1.1.1:80", "dial 239.1.1.1:80 by 239.0.0.0/8"),
        (
            "any 0.0.0.0/0 240.0.0.0/4",
            "",
            "255.255.255.255:80",
            "DENIED: 255.255.255.255 is the broadcast address, open only to a rule that names the address",
        ),
        ("fe80::/10", "", "[fe80::1]:80", "dial [fe80::1]:80 by fe80::/10"),
        // The host's own addresses.
        (
            "any 10.0.0.0/8 10.0.0.4/31",
            "",
            "10.0.0.5:80",
            "DENIED: 10.0.0.5 is the host's own address, open only to a rule that names the address",
        ),
        ("10.0.0.5", "", "10.0.0.5:80", "dial 10.0.0.5:80 by 10.0.0.5"),
        (
            "any ::/0",
            "",
            "[2600::5]:80",
            "DENIED: 2600::5 is the host's own address, open only to a rule that names the address",
        ),
        (
            "fe80::/10",
            "",
            "[fe80::5]:80",
            "DENIED: fe80::5 is the host's own address, open only to a rule that names the address",
        ),
        // The bridge's own listeners: no rule at all.
        ("127.0.0.1", "", "127.0.0.1:8888", "DENIED: 127.0.0.1:8888 is the bridge's own listener, open to no rule"),
        ("127.0.0.0/8", "", "127.9.9.9:8888", "DENIED: 127.9.9.9:8888 is the bridge's own listener, open to no rule"),
        ("10.0.0.5", "", "10.0.0.5:8888", "DENIED: 10.0.0.5:8888 is the bridge's own listener, open to no rule"),
        ("0.0.0.0", "", "0.0.0.0:8888", "DENIED: 0.0.0.0:8888 is the bridge's own listener, open to no rule"),
        ("0.0.0.0", "", "0.0.0.0:8080", "DENIED: 0.0.0.0:8080 is the bridge's own listener, open to no rule"),
        ("127.0.0.1", "", "127.0.0.1:8080", "DENIED: 127.0.0.1:8080 is the bridge's own listener, open to no rule"),
        ("127.0.0.2", "", "127.0.0.2:8080", "dial 127.0.0.2:8080 by 127.0.0.2"),
        ("10.0.0.5", "", "10.0.0.5:8443", "DENIED: 10.0.0.5:8443 is the bridge's own listener, open to no rule"),
        ("127.0.0.1", "", "127.0.0.1:8443", "dial 127.0.0.1:8443 by 127.0.0.1"),
        ("::1", "", "[::1]:9090", "DENIED: [::1]:9090 is the bridge's own listener, open to no rule"),
        ("::", "", "[::]:9090", "DENIED: [::]:9090 is the bridge's own listener, open to no rule"),
        ("::1", "", "[::1]:8888", "dial [::1]:8888 by ::1"),
        ("public", "", "8.8.8.8:8888", "dial 8.8.8.8:8888 by public"),
        // Deny wins.
        ("public 8.8.8.8", "8.8.8.8", "8.8.8.8:53", "DENIED: denied by rule 8.8.8.8"),
        ("10.1.1.1", "10.0.0.0/8", "10.1.1.1:53", "DENIED: denied by rule 10.0.0.0/8"),
        ("public", "public:25", "8.8.8.8:25", "DENIED: denied by rule public:25"),
        ("public", "public:25", "8.8.8.8:26", "dial 8.8.8.8:26 by public"),
        ("fd00:ec2::254", "private", "[fd00:ec2::254]:80", "DENIED: denied by rule private"),
        ("127.0.0.1", "any", "127.0.0.1:80", "DENIED: denied by rule any"),
        ("127.0.0.1", "public private", "127.0.0.1:80", "dial 127.0.0.1:80 by 127.0.0.1"),
        // Names.
        ("public", "", "Example.ORG.:443", "resolve example.org:443"),
        ("public", "", "bücher.example:443", "resolve xn--bcher-kva.example:443"),
        ("public:80", "", "example.org:443", "DENIED: no rule allows example.org:443"),
        ("a.example:443", "", "A.EXAMPLE.:443", "resolve a.example:443"),
        ("a.example:443", "", "x.a.example:443", "DENIED: no rule allows x.a.example:443"),
        ("a.example:443", "", "a.example:80", "DENIED: no rule allows a.example:80"),
        ("*.example", "", "a.example:80", "resolve a.example:80"),
        ("*.example", "", "a.b.example:80", "DENIED: no rule allows a.b.example:80"),
        ("*.example", "", "example:80", "DENIED: no rule allows example:80"),
        ("**.example", "", "a.b.example:80", "resolve a.b.example:80"),
        ("a.example", "", "8.8.8.8:80", "DENIED: no rule allows 8.8.8.8:80"),
        ("public", "a.example", "A.example.:80", "DENIED: denied by rule a.example"),
        ("public", "**.example", "a.b.example:80", "DENIED: denied by rule **.example"),
        ("a.example", "*.example:25", "a.example:25", "DENIED: denied by rule *.example:25"),
        ("a.example", "*.example:25", "a.example:26", "resolve a.example:26"),
        // IPv6 addresses that embed IPv4 ones.
        ("public", "", "[::ffff:8.8.8.8]:53", "dial 8.8.8.8:53 by public"),
        ("public", "8.8.8.8", "[::ffff:8.8.8.8]:53", "DENIED: denied by rule 8.8.8.8"),
        ("public", "8.8.8.8", "[64:ff9b::8.8.8.8]:53", "DENIED: denied by rule 8.8.8.8"),
        ("public", "", "[64:ff9b::8.8.8.8]:53", "dial [64:ff9b::808:808]:53 by public"),
        (
            "any ::/0",
            "",
            "[64:ff9b::169.254.169.254]:80",
            "DENIED: 169.254.169.254 (inside 64:ff9b::a9fe:a9fe) is the metadata service, open only to a rule that names the address",
        ),
        ("public", "", "[64:ff9b::10.1.1.1]:53", "DENIED: no rule allows 10.1.1.1:53 (inside 64:ff9b::a01:101)"),
        ("64:ff9b::/96", "", "[64:ff9b::8.8.8.8]:53", "DENIED: no rule allows 8.8.8.8:53 (inside 64:ff9b::808:808)"),
        (
            "any ::/0 2002::/16",
            "",
            "[2002:7f00:1::1]:80",
            "DENIED: 127.0.0.1 (inside 2002:7f00:1::1) is a loopback address, open only to a rule that names the address or its network",
        ),
        (
            "any ::/0",
            "",
            "[2002:a00:5::1]:80",
            "DENIED: 10.0.0.5 (inside 2002:a00:5::1) is the host's own address, open only to a rule that names the address",
        ),
        ("public", "", "[::8.8.8.8]:53", "DENIED: no rule allows [::808:808]:53"),
        ("public", "", "[2001:0:808:808::f7f7:f7f7]:53", "DENIED: no rule allows [2001:0:808:808::f7f7:f7f7]:53"),
        (
            "64:ff9b::/96 127.0.0.1",
            "",
            "[64:ff9b::127.0.0.1]:8080",
            "DENIED: [64:ff9b::7f00:1]:8080 is the bridge's own listener, open to no rule",
        ),
        ("64:ff9b::/96 127.0.0.1", "", "[64:ff9b::127.0.0.1]:80", "dial [64:ff9b::7f00:1]:80 by 64:ff9b::/96"),
        // What is no target.
        ("any 0.0.0.0/0", "", "0x7f.1:80", NUMBER_0X7F_1),
        ("any 0.0.0.0/0", "", "2130706433:80", NUMBER_2130706433),
        ("any", "", "a..b:80", "BAD_TARGET: \"a..b\": the name is empty or has an empty label"),
        ("any", "", "[fe80::1%eth0]:80", "line: BAD_TARGET"),
        ("any", "", "fe80::1%eth0:80", "line: BAD_TARGET"),
    ] {
        if expected == "parse" {
            assert!(allow.parse::<Rule>().is_err(), "{allow}");
            continue;
        }
        assert_eq!(answer(&policy(allow, deny), target), expected, "allow {allow:?}, deny {deny:?}");
    }
}

const NUMBER_0X7F_1: &str = "BAD_TARGET: \"0x7f.1\": ends in a number, so it can only be an IPv4 address, which is written as four decimal numbers";
const NUMBER_2130706433: &str = "BAD_TARGET: \"2130706433\": ends in a number, so it can only be an IPv4 address, which is written as four decimal numbers";

#[test]
fn e4_a_rule_is_for_its_name_and_its_port_in_every_spelling_of_it() {
    let policy = policy("a.example:443", "");
    for target in ["a.example:443", "A.EXAMPLE.:443", "a.Example:443", "ａ.example:443"] {
        assert_eq!(answer(&policy, target), "resolve a.example:443", "{target}");
    }
    for target in ["x.a.example:443", "a.example:80", "a.example.org:443", "xa.example:443", "example:443"] {
        assert!(answer(&policy, target).starts_with("DENIED"), "{target}");
    }
}

#[test]
fn addresses_of_names() {
    let loopback = "DENIED: 127.0.0.1 is a loopback address, open only to a rule that names the address or its network";
    let metadata = "DENIED: 169.254.169.254 is the metadata service, open only to a rule that names the address";
    for (allow, deny, target, address, expected) in [
        ("a.example", "", "a.example:80", "8.8.8.8", "dial 8.8.8.8:80 by a.example"),
        ("a.example", "", "a.example:80", "10.1.1.1", "dial 10.1.1.1:80 by a.example"),
        ("a.example", "", "a.example:80", "::ffff:10.1.1.1", "dial 10.1.1.1:80 by a.example"),
        ("*.example", "", "a.example:80", "8.8.8.8", "dial 8.8.8.8:80 by *.example"),
        ("*.example", "", "a.example:80", "10.1.1.1", "DENIED: no rule allows 10.1.1.1 for a.example:80"),
        ("*.example private", "", "a.example:80", "10.1.1.1", "dial 10.1.1.1:80 by private"),
        ("*.example a.example", "", "a.example:80", "10.1.1.1", "dial 10.1.1.1:80 by a.example"),
        ("a.example", "", "a.example:80", "203.0.113.7", "DENIED: no rule allows 203.0.113.7 for a.example:80"),
        ("a.example 203.0.113.0/24", "", "a.example:80", "203.0.113.7", "dial 203.0.113.7:80 by 203.0.113.0/24"),
        ("a.example", "", "a.example:80", "127.0.0.1", loopback),
        ("localhost", "", "localhost:80", "127.0.0.1", loopback),
        ("localhost 127.0.0.1", "", "localhost:80", "127.0.0.1", "dial 127.0.0.1:80 by 127.0.0.1"),
        ("a.example", "", "a.example:80", "169.254.169.254", metadata),
        ("a.example", "", "a.example:80", "::ffff:169.254.169.254", metadata),
        (
            "a.example",
            "",
            "a.example:80",
            "10.0.0.5",
            "DENIED: 10.0.0.5 is the host's own address, open only to a rule that names the address",
        ),
        (
            "a.example 10.0.0.5",
            "",
            "a.example:8888",
            "10.0.0.5",
            "DENIED: 10.0.0.5:8888 is the bridge's own listener, open to no rule",
        ),
        ("a.example", "10.0.0.0/8", "a.example:80", "10.1.1.1", "DENIED: denied by rule 10.0.0.0/8"),
        ("a.example", "public", "a.example:80", "8.8.8.8", "DENIED: denied by rule public"),
        ("public", "", "a.example:80", "8.8.8.8", "dial 8.8.8.8:80 by public"),
        ("public", "", "a.example:80", "10.1.1.1", "DENIED: no rule allows 10.1.1.1 for a.example:80"),
        ("10.0.0.0/8", "", "a.example:80", "10.1.1.1", "dial 10.1.1.1:80 by 10.0.0.0/8"),
        ("a.example", "", "a.example:80", "64:ff9b::8.8.8.8", "dial [64:ff9b::808:808]:80 by a.example"),
        ("a.example", "", "a.example:80", "64:ff9b::10.1.1.1", "dial [64:ff9b::a01:101]:80 by a.example"),
        (
            "*.example",
            "",
            "a.example:80",
            "64:ff9b::10.1.1.1",
            "DENIED: no rule allows 10.1.1.1 (inside 64:ff9b::a01:101) for a.example:80",
        ),
    ] {
        assert_eq!(resolved(&policy(allow, deny), target, address), expected, "allow {allow:?}, deny {deny:?}");
    }
}

#[test]
fn a_name_granted_under_an_older_policy_is_judged_by_the_newer() {
    let Ok(Judged::Resolve(name)) = policy("public", "").judge(&Target::parse(b"a.example:80").unwrap(), &own()) else {
        panic!("public resolves names");
    };
    let address: IpAddr = "8.8.8.8".parse().unwrap();
    let refusal = policy("public", "a.example").judge_address(&name, address, &own()).unwrap_err();
    assert_eq!(refusal.to_string(), "denied by rule a.example");
    assert!(policy("", "").judge_address(&name, address, &own()).is_err());
}

#[test]
fn a_listener_on_the_unspecified_v6_address_stands_for_both_families() {
    let own = OwnAddresses { addresses: vec![], listeners: vec!["[::]:7000".parse().unwrap()] };
    let policy = policy("127.0.0.1 ::1", "");
    for target in ["127.0.0.1:7000", "[::1]:7000"] {
        assert!(policy.judge(&Target::parse(target.as_bytes()).unwrap(), &own).is_err(), "{target}");
    }
}

#[test]
fn a_refusal_becomes_a_nak_of_its_code() {
    let target = Target::parse(b"10.1.1.1:53").unwrap();
    let nak: Nak = policy("any", "10.0.0.0/8").judge(&target, &own()).unwrap_err().into();
    assert_eq!((nak.code(), nak.sentence()), (NakCode::Denied, "denied by rule 10.0.0.0/8"));
}

#[test]
fn server_names_are_asked_for_where_a_rule_by_name_covers_the_target() {
    let policy = policy("public", "").with_server_names(rules("**:443 api.example.org *.internal.example:8443"));
    let rule = |target: &str| {
        let target = Target::parse(target.as_bytes()).unwrap();
        match policy.judge(&target, &OwnAddresses::default()).unwrap() {
            Judged::Resolve(name) => policy.server_name_rule(&name).map(ToString::to_string),
            Judged::Address(_) => None,
        }
    };
    for (target, expected) in [
        ("example.com:443", Some("**:443")),
        ("Example.COM.:443", Some("**:443")),
        ("example.com:80", None),
        ("api.example.org:80", Some("api.example.org")),
        ("a.internal.example:8443", Some("*.internal.example:8443")),
        ("a.b.internal.example:8443", None),
        // An address has no name.
        ("8.8.8.8:443", None),
    ] {
        assert_eq!(rule(target).as_deref(), expected, "{target}");
    }
    // A rule by address covers no name.
    let policy = EgressPolicy::new(rules("public"), vec![]).with_server_names(rules("any 0.0.0.0/0"));
    let target = Target::parse(b"example.com:443").unwrap();
    let Ok(Judged::Resolve(name)) = policy.judge(&target, &OwnAddresses::default()) else { panic!("a name") };
    assert_eq!(policy.server_name_rule(&name), None);
}
