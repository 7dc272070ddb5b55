//! The settings: what is read is bounded, valid and reads back; what is refused names its path in one line; and of what is
//! read nothing is granted that the operator does not allow.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use enclave_bridge_policy::{Grant, OperatorPolicy, PeerIdentity, PortRanges, grant};
use enclave_bridge_proto::{
    APP_NAME_MAX_BYTES, Announcement, Feature, INTERVAL_MAX, INTERVAL_MIN, Nak, NakCode, ParsedSettings, Protocol,
    SERVER_NAMES_MAX, SETTINGS_MAX_BYTES, SETTINGS_TUNNELS_MAX, Settings, UNKNOWN_KEYS_MAX,
};

use super::{check_nak, is_plain};
use crate::input::Input;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (features, operator) = (input.byte(), input.byte());
    let line = input.rest();
    let offered: Vec<Feature> =
        Feature::ALL.iter().enumerate().filter(|(place, _)| features & (1 << place) != 0).map(|(_, f)| *f).collect();
    let offered = Announcement::v1_1(&offered);
    match Settings::parse(line, &offered) {
        Ok(parsed) => {
            taken(line, &parsed, &offered);
            granted(&parsed.settings, operator);
        }
        Err(nak) => refused(&nak),
    }
}

fn taken(line: &[u8], parsed: &ParsedSettings, offered: &Announcement) {
    let settings = &parsed.settings;
    assert!(line.len() <= SETTINGS_MAX_BYTES);
    assert!(serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok(), "what is no JSON is no settings");
    assert!(settings.app_name.len() <= APP_NAME_MAX_BYTES);
    assert!((INTERVAL_MIN..=INTERVAL_MAX).contains(&settings.interval));
    assert_ne!(settings.id.as_bytes(), &[0; 16]);
    assert!(settings.servers.len() <= SETTINGS_TUNNELS_MAX && settings.clients.len() <= SETTINGS_TUNNELS_MAX);
    assert!(parsed.unknown_keys.len() <= UNKNOWN_KEYS_MAX);
    assert!(parsed.unknown_keys.iter().all(|key| key.len() <= 1024 && is_plain(key)));
    let new = settings.protocol == Protocol::V1_1;
    for server in &settings.servers {
        assert!((1..=65535).contains(&server.enclave_listen_port) && server.bridge_tcp_port != 0);
        assert!(server.server_names.len() <= SERVER_NAMES_MAX);
        assert!(server.server_names.iter().all(|name| !name.is_empty() && name.len() <= 253 && is_plain(name)));
        for (asked, feature) in [
            (server.proxy_v2, Feature::ProxyV2),
            (server.bind_address.is_some(), Feature::Bind),
            (!server.server_names.is_empty(), Feature::Sni),
            (server.framed, Feature::Framed),
        ] {
            assert!(!asked || (new && offered.offers(feature)), "{feature} was not offered");
        }
    }
    for client in &settings.clients {
        assert!((1..=65535).contains(&client.enclave_dial_port) && !client.request_timeout.is_zero());
        assert!(!client.framed || (new && offered.offers(Feature::Framed)));
    }
    assert!(new || !settings.id.contains_newline(), "a version-1 peer cannot beat with this id");
    let written = settings.encode_line();
    assert_eq!(written.iter().position(|byte| *byte == b'\n'), Some(written.len() - 1));
    if written.len() <= SETTINGS_MAX_BYTES {
        let read = Settings::parse(&written[..written.len() - 1], offered).expect("what was read can be read again");
        assert_eq!((&read.settings, read.unknown_keys.len()), (settings, 0));
    }
}

fn refused(nak: &Nak) {
    check_nak(nak);
    let codes = [NakCode::BadConfig, NakCode::BadId, NakCode::BadInterval, NakCode::PortNotAllowed, NakCode::TooMany];
    assert!(codes.contains(&nak.code()), "{nak}");
    let (path, reason) = nak.sentence().split_once(": ").expect("a path and a reason");
    assert!(!path.is_empty() && !reason.is_empty(), "{nak}");
    let known = ["settings", "appName", "protocol", "watchdog", "logger", "servers", "clients"];
    let step = path.split(['.', '[']).next().unwrap();
    // Of a key that the schema does not know only its syntax, or its being there twice, can be wrong.
    let of_the_document = reason.contains("not JSON") || reason.starts_with("given twice") || path.starts_with('"');
    assert!(known.contains(&step) || of_the_document, "{nak}");
}

const CID: u32 = 16;

fn operator(choice: u8) -> OperatorPolicy {
    let ports = ["1-65535", "1024-65535", "8080,9000-9010", "443"][usize::from(choice & 3)];
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    OperatorPolicy {
        ingress_ports: ports.parse().unwrap(),
        ingress_address: if choice & 4 == 0 { any } else { IpAddr::V4(Ipv4Addr::LOCALHOST) },
        own_tcp_ports: vec![8888],
        own_vsock_ports: vec![4999, 5000],
        max_servers: usize::from(choice >> 4),
        max_clients: usize::from(choice >> 5),
        // All that the wire has.
        intervals: Duration::ZERO..=Duration::MAX,
        allow_cids: None,
        strict: choice & 8 != 0,
    }
}

fn granted(settings: &Settings, choice: u8) {
    let operator = operator(choice);
    let peer = if choice & 8 == 0 { PeerIdentity::Cid(CID) } else { PeerIdentity::Path };
    let granted = match grant(settings, peer, &operator) {
        Ok(granted) => granted,
        Err(nak) => {
            let path = nak.sentence();
            assert!(path.starts_with("servers") || path.starts_with("clients"), "{nak}");
            return check_nak(&nak);
        }
    };
    within(&granted, settings, peer, &operator);
}

fn within(granted: &Grant, settings: &Settings, peer: PeerIdentity, operator: &OperatorPolicy) {
    let (servers, clients) = (granted.servers(), granted.clients());
    assert_eq!(
        (servers.len(), clients.len()),
        (settings.servers.len(), settings.clients.len()),
        "all of it or nothing"
    );
    assert!(servers.len() <= operator.max_servers && clients.len() <= operator.max_clients);
    let ports: &PortRanges = &operator.ingress_ports;
    for (place, (server, asked)) in servers.iter().zip(&settings.servers).enumerate() {
        let (address, port) = (server.listen.ip(), server.listen.port());
        assert_eq!((port, server.enclave_port), (asked.bridge_tcp_port, asked.enclave_listen_port));
        assert!(ports.contains(port) && !operator.own_tcp_ports.contains(&port));
        assert!(peer == PeerIdentity::Path || asked.enclave_cid == CID, "another's CID");
        let open = operator.ingress_address.is_unspecified() && address.is_ipv4();
        assert!(address == operator.ingress_address || address.is_loopback() || open, "{address}");
        assert!(!address.is_multicast());
        for other in &servers[..place] {
            assert_ne!(other.listen, server.listen, "a port was granted twice");
        }
    }
    for (place, client) in clients.iter().enumerate() {
        assert!(!operator.own_vsock_ports.contains(&client.vsock_port));
        assert!(clients[..place].iter().all(|other| other.vsock_port != client.vsock_port), "a port was granted twice");
    }
}
