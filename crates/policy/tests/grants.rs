//! From settings to grants, as a table of what is asked, and a property: a grant never exceeds what the operator allows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its setup too")]

use std::net::IpAddr;
use std::time::Duration;

use enclave_bridge_policy::{Grant, OperatorPolicy, PeerIdentity, grant, permit_peer};
use enclave_bridge_proto::{ClientRequest, EnclaveId, NakCode, Protocol, ServerRequest, Settings};
use proptest::prelude::*;
use proptest::sample::select;

fn operator() -> OperatorPolicy {
    OperatorPolicy {
        ingress_ports: "1024-65535".parse().unwrap(),
        ingress_address: "0.0.0.0".parse().unwrap(),
        own_tcp_ports: vec![8888],
        own_vsock_ports: vec![5000, 4999],
        max_servers: 64,
        max_clients: 64,
        intervals: Duration::from_secs(1)..=Duration::from_secs(3600),
        allow_cids: None,
        strict: false,
    }
}

fn server(tcp: u16, bind: Option<&str>) -> ServerRequest {
    ServerRequest {
        enclave_cid: 16,
        enclave_listen_port: 5001,
        bridge_tcp_port: tcp,
        proxy_v2: true,
        bind_address: bind.map(|text| text.parse().unwrap()),
        server_names: vec![],
        framed: true,
    }
}

fn client(port: u32) -> ClientRequest {
    ClientRequest { enclave_dial_port: port, request_timeout: Duration::from_secs(7), framed: true }
}

fn settings(servers: Vec<ServerRequest>, clients: Vec<ClientRequest>) -> Settings {
    Settings {
        app_name: "app".to_owned(),
        protocol: Protocol::V1_1,
        id: EnclaveId::from_bytes([7; 16]).unwrap(),
        interval: Duration::from_secs(30),
        log_level: None,
        servers,
        clients,
    }
}

fn granted(
    servers: Vec<ServerRequest>,
    clients: Vec<ClientRequest>,
    operator: &OperatorPolicy,
) -> Result<Grant, String> {
    grant(&settings(servers, clients), PeerIdentity::Cid(16), operator)
        .map_err(|nak| format!("{} {}", nak.code(), nak.sentence()))
}

fn listens(grant: &Grant) -> Vec<String> {
    grant.servers().iter().map(|server| server.listen.to_string()).collect()
}

#[test]
fn a_grant_carries_what_was_asked() {
    let grant =
        granted(vec![server(8080, None), server(8081, Some("127.0.0.1"))], vec![client(5002)], &operator()).unwrap();
    assert_eq!(listens(&grant), ["0.0.0.0:8080", "127.0.0.1:8081"]);
    let first = grant.servers().first().unwrap();
    assert_eq!((first.enclave_port, first.proxy_v2, first.framed), (5001, true, true));
    let [client] = grant.clients() else { panic!("one client") };
    assert_eq!((client.vsock_port, client.request_timeout, client.framed), (5002, Duration::from_secs(7), true));
    assert_eq!((grant.app_name(), grant.interval()), ("app", Duration::from_secs(30)));
    assert_eq!(grant.id(), EnclaveId::from_bytes([7; 16]).unwrap());
}

#[test]
fn c3_refusals_name_code_and_path() {
    let other_cid = ServerRequest { enclave_cid: 17, ..server(8081, None) };
    for (servers, clients, expected) in [
        (
            vec![server(8080, None), other_cid],
            vec![],
            "CID_MISMATCH servers[1].enclaveCid: 17 is not the peer's CID 16",
        ),
        (
            vec![server(80, None)],
            vec![],
            "PORT_NOT_ALLOWED servers[0].bridgeTcpPort: 80 is not among the allowed ports 1024-65535",
        ),
        (vec![server(8888, None)], vec![], "PORT_NOT_ALLOWED servers[0].bridgeTcpPort: 8888 is the bridge's own"),
        (
            vec![server(8888, Some("127.0.0.1"))],
            vec![],
            "PORT_NOT_ALLOWED servers[0].bridgeTcpPort: 8888 is the bridge's own",
        ),
        (vec![], vec![client(5000)], "PORT_NOT_ALLOWED clients[0].enclaveDialPort: 5000 is the bridge's own"),
        (
            vec![],
            vec![client(5002), client(4999)],
            "PORT_NOT_ALLOWED clients[1].enclaveDialPort: 4999 is the bridge's own",
        ),
        (
            vec![server(8080, None), server(8081, None), server(8080, None)],
            vec![],
            "DUPLICATE_PORT servers[2].bridgeTcpPort: 8080 is asked for by servers[0] too",
        ),
        (
            vec![server(8080, Some("127.0.0.1")), server(8080, None)],
            vec![],
            "DUPLICATE_PORT servers[1].bridgeTcpPort: 8080 is asked for by servers[0] too",
        ),
        (
            vec![server(8080, Some("127.0.0.1")), server(8080, Some("::ffff:127.0.0.1"))],
            vec![],
            "DUPLICATE_PORT servers[1].bridgeTcpPort: 8080 is asked for by servers[0] too",
        ),
        (
            vec![],
            vec![client(5002), client(5002)],
            "DUPLICATE_PORT clients[1].enclaveDialPort: 5002 is asked for by clients[0] too",
        ),
        (
            vec![server(8080, Some("2600::1"))],
            vec![],
            "PORT_NOT_ALLOWED servers[0].bindAddress: 2600::1 is not allowed; the operator's ingress address is 0.0.0.0",
        ),
        (
            vec![server(8080, Some("224.0.0.1"))],
            vec![],
            "PORT_NOT_ALLOWED servers[0].bindAddress: 224.0.0.1 is not allowed; the operator's ingress address is 0.0.0.0",
        ),
        (vec![server(8080, None); 65], vec![], "TOO_MANY servers: 65 are asked for, 64 is the limit"),
        (vec![], vec![client(5002); 65], "TOO_MANY clients: 65 are asked for, 64 is the limit"),
    ] {
        assert_eq!(granted(servers, clients, &operator()).unwrap_err(), expected);
    }
}

#[test]
fn addresses_within_the_operators() {
    for (ingress, asked, expected) in [
        ("0.0.0.0", "10.0.0.5", Some("10.0.0.5:8080")),
        ("0.0.0.0", "::ffff:10.0.0.5", Some("10.0.0.5:8080")),
        ("0.0.0.0", "0.0.0.0", Some("0.0.0.0:8080")),
        ("0.0.0.0", "::1", Some("[::1]:8080")),
        ("0.0.0.0", "::", None),
        ("::", "2600::1", Some("[2600::1]:8080")),
        ("::", "10.0.0.5", None),
        ("::", "0.0.0.0", None),
        ("10.0.0.5", "10.0.0.5", Some("10.0.0.5:8080")),
        ("10.0.0.5", "127.0.0.1", Some("127.0.0.1:8080")),
        ("10.0.0.5", "10.0.0.6", None),
        ("10.0.0.5", "0.0.0.0", None),
        ("127.0.0.1", "0.0.0.0", None),
        ("127.0.0.1", "::1", Some("[::1]:8080")),
    ] {
        let operator = OperatorPolicy { ingress_address: ingress.parse().unwrap(), ..operator() };
        let answer = granted(vec![server(8080, Some(asked))], vec![], &operator);
        assert_eq!(
            answer.as_ref().ok().map(listens),
            expected.map(|text| vec![text.to_owned()]),
            "{asked} within {ingress}: {answer:?}"
        );
    }
}

#[test]
fn listeners_of_two_families_or_addresses_do_not_overlap() {
    let asked = vec![server(8080, Some("127.0.0.1")), server(8080, Some("::1")), server(8080, Some("127.0.0.2"))];
    assert_eq!(granted(asked, vec![], &operator()).unwrap().servers().len(), 3);
}

#[test]
fn c4_every_cid_but_the_peers_own_is_a_mismatch() {
    for own in [3, 16, 17, u32::MAX - 1] {
        for asked in [0, 1, 2, 3, 15, 16, 17, 18, u32::MAX - 1, u32::MAX] {
            let settings = settings(vec![ServerRequest { enclave_cid: asked, ..server(8080, None) }], vec![]);
            let answer = grant(&settings, PeerIdentity::Cid(own), &operator());
            if asked == own {
                assert!(answer.is_ok(), "{asked}: {answer:?}");
            } else {
                assert_eq!(answer.unwrap_err().code(), NakCode::CidMismatch, "{asked} of {own}");
            }
        }
    }
}

#[test]
fn c4_the_cid_in_the_settings_is_not_compared_on_a_socket_path() {
    let settings = settings(vec![ServerRequest { enclave_cid: 99, ..server(8080, None) }], vec![]);
    assert!(grant(&settings, PeerIdentity::Path, &operator()).is_ok());
    let nak = grant(&settings, PeerIdentity::Cid(16), &operator()).unwrap_err();
    assert_eq!(nak.code(), NakCode::CidMismatch);
}

#[test]
fn peers() {
    for (allow_cids, strict, peer, expected) in [
        (None, false, PeerIdentity::Cid(16), None),
        (None, false, PeerIdentity::Cid(3), None),
        (None, false, PeerIdentity::Cid(2), Some("CID 2 is not a guest's")),
        (None, false, PeerIdentity::Cid(0), Some("CID 0 is not a guest's")),
        (None, false, PeerIdentity::Cid(u32::MAX), Some("CID 4294967295 is not a guest's")),
        (None, false, PeerIdentity::Path, None),
        (None, true, PeerIdentity::Cid(16), Some("CID 16 is not listed, and strict mode allows only listed ones")),
        (None, true, PeerIdentity::Path, None),
        (Some(vec![]), false, PeerIdentity::Cid(16), Some("CID 16 is not among the allowed")),
        (Some(vec![16]), true, PeerIdentity::Cid(16), None),
        (Some(vec![16]), false, PeerIdentity::Cid(17), Some("CID 17 is not among the allowed")),
        (Some(vec![1]), false, PeerIdentity::Cid(1), None),
    ] {
        let operator = OperatorPolicy { allow_cids: allow_cids.clone(), strict, ..operator() };
        let refusal = permit_peer(&operator, peer).err();
        assert_eq!(refusal.as_ref().map(ToString::to_string).as_deref(), expected, "{allow_cids:?} {strict} {peer:?}");
        assert!(refusal.is_none_or(|refusal| refusal.code() == NakCode::Busy));
    }
}

#[test]
fn the_interval_of_beats_is_within_the_operators_bounds() {
    let operator = OperatorPolicy { intervals: Duration::from_secs(5)..=Duration::from_secs(30), ..operator() };
    for (seconds, granted) in [(4, false), (5, true), (30, true), (31, false)] {
        let asked = Settings { interval: Duration::from_secs(seconds), ..settings(vec![], vec![]) };
        match grant(&asked, PeerIdentity::Cid(16), &operator) {
            Ok(grant) => assert!(granted && grant.interval() == asked.interval, "{seconds}"),
            Err(nak) => {
                assert!(!granted, "{nak}");
                assert_eq!(nak.code(), NakCode::BadInterval);
                let sentence = format!("watchdog.interval: {seconds}s is outside 5s to 30s, which the operator allows");
                assert!(nak.to_string().contains(&sentence), "{nak}");
            }
        }
    }
}

const BINDS: [&str; 7] = ["127.0.0.1", "0.0.0.0", "10.0.0.5", "10.0.0.6", "::1", "::", "2600::1"];

fn bind() -> impl Strategy<Value = IpAddr> {
    select(&BINDS[..]).prop_map(|text| text.parse().unwrap())
}

fn server_request() -> impl Strategy<Value = ServerRequest> {
    (15..18u32, 1..9u16, prop::option::of(bind())).prop_map(|(cid, port, bind_address)| ServerRequest {
        enclave_cid: cid,
        bind_address,
        ..server(port * 1000, None)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Read off the grant alone, with the operator's policy beside it.
    #[test]
    fn a_grant_never_exceeds_the_operators_policy(
        servers in prop::collection::vec(server_request(), 0..4),
        clients in prop::collection::vec(4998..5004u32, 0..4),
        ingress_address in bind(),
        (low, high) in (1..9u16, 1..9u16),
        by_path in any::<bool>(),
        limit in 0..4usize,
    ) {
        let operator = OperatorPolicy {
            ingress_ports: format!("{}-{}", low.min(high) * 1000, low.max(high) * 1000).parse().unwrap(),
            ingress_address, max_servers: limit, max_clients: limit, own_tcp_ports: vec![4000], ..operator()
        };
        let asked = settings(servers, clients.into_iter().map(client).collect());
        let peer = if by_path { PeerIdentity::Path } else { PeerIdentity::Cid(16) };
        let Ok(grant) = grant(&asked, peer, &operator) else { return Ok(()) };
        prop_assert_eq!(grant.servers().len(), asked.servers.len());
        prop_assert_eq!(grant.clients().len(), asked.clients.len());
        prop_assert!(grant.servers().len() <= limit && grant.clients().len() <= limit);
        prop_assert!(by_path || asked.servers.iter().all(|server| server.enclave_cid == 16));
        for (index, server) in grant.servers().iter().enumerate() {
            let (address, port) = (server.listen.ip(), server.listen.port());
            prop_assert!(port >= low.min(high) * 1000 && port <= low.max(high) * 1000 && port != 4000);
            let wide = ingress_address.is_unspecified() && ingress_address.is_ipv4() == address.is_ipv4();
            prop_assert!(address == ingress_address || address.is_loopback() || wide);
            for other in grant.servers().iter().take(index).filter(|other| other.listen.port() == port) {
                let (one, two) = (address, other.listen.ip());
                prop_assert!(one.is_ipv4() != two.is_ipv4() || (one != two && !one.is_unspecified() && !two.is_unspecified()));
            }
        }
        for (index, client) in grant.clients().iter().enumerate() {
            prop_assert!(![4999, 5000].contains(&client.vsock_port));
            prop_assert!(grant.clients().iter().take(index).all(|other| other.vsock_port != client.vsock_port));
        }
    }
}
