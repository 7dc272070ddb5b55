//! `[[enclave]]` tables: two enclaves of one bridge, each with what its table says, and one without a table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::print_stderr, reason = "what is left out is said aloud")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::http;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::tunnels;
use enclave_bridge_e2e::v1::{Answer, Enclave, LOG_PORT, Settings, handshake};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::{Endpoint, Meeting};
use std::fmt::Write as _;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const CALM: Duration = Duration::from_secs(30);

/// A bridge with the tables `alpha` and `beta`; at its own meeting place is an enclave without a table.
struct Host {
    bridge: Bridge,
    alpha: Meeting,
    beta: Meeting,
    _folder: TempDir,
}

/// `top` is the top level of the file, the others what stands in the tables besides name and path. `None` where tables
/// cannot be told apart: over AF_VSOCK all test enclaves have one CID.
fn host(top: &str, alpha: &str, beta: &str, arguments: &[&str]) -> Option<Host> {
    if Endpoint::under_test() != Endpoint::Hybrid {
        eprintln!("left out: several enclaves have one CID here");
        return None;
    }
    let folder = tempfile::Builder::new().prefix("eb-").tempdir().unwrap();
    let place = |name: &str| Meeting::at(folder.path().join(name));
    let (first, second) = (place("a.sock"), place("b.sock"));
    let table = |name: &str, meeting: &Meeting, text: &str| {
        format!("[[enclave]]\nname = \"{name}\"\nuds_path = \"{}\"\n{text}\n", meeting.uds_path().display())
    };
    let file = folder.path().join("config.toml");
    std::fs::write(&file, format!("{top}\n{}{}", table("alpha", &first, alpha), table("beta", &second, beta))).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let builder =
        Bridge::builder().variable("SHARED", "one").variable("ALPHA_KEY", "two").variable("BETA_KEY", "three");
    let bridge = builder.arguments(config).arguments(arguments.iter().copied()).start();
    wait::until("the sockets of the tables", SOON, || first.host_listens(LOG_PORT) && second.host_listens(LOG_PORT));
    Some(Host { bridge, alpha: first, beta: second, _folder: folder })
}

#[test]
fn each_enclave_has_the_environment_ports_and_targets_of_its_table() {
    let (one, other, third) = (ports::free(), ports::free(), ports::free());
    let server = Server::echo();
    let top = "egress_allow = []\nenv_deny = [\"*_KEY\"]";
    let alpha = format!(
        "egress_allow = [\"127.0.0.0/8\"]\nenv_allow = [\"ALPHA_*\"]\nenv_deny = []\ningress_ports = [{one}]\n\
         max_clients = 1\ninterval_max = \"40s\""
    );
    let beta = format!("ingress_ports = [{other}]\ningress_address = \"127.0.0.1\"\nmax_servers = 1");
    let Some(host) = host(top, &alpha, &beta, &[]) else { return };

    let first = Enclave::echo(&host.alpha, &Settings::new(CALM).server(5001, one).client(5002), 5001);
    let second = Enclave::echo(&host.beta, &Settings::new(CALM).server(5001, other).client(5002), 5001);
    let others = Enclave::echo(&host.bridge.meeting, &Settings::new(CALM).server(5001, third).client(5002), 5001);
    let environment =
        |enclave: &Enclave| ["SHARED", "ALPHA_KEY", "BETA_KEY"].map(|key| enclave.environment.contains(key));
    assert_eq!(environment(&first), [false, true, false]);
    assert_eq!(environment(&second), [true, false, false]);
    assert_eq!(environment(&others), [true, false, false]);
    for port in [one, other, third] {
        let mut stream = tunnels::tcp(Bridge::tcp(port));
        let heard = tunnels::speak_then_listen(&mut stream, 7, 10_000).unwrap();
        assert_eq!(heard, tunnels::Heard::pattern(7, 10_000));
    }
    assert_eq!(first.dial(5002, &server.target()).1, Answer::Ack);
    for enclave in [&second, &others] {
        assert_eq!(enclave.dial(5002, &server.target()).1.code(), "DENIED");
    }
    // Connected by the kernel before the server's thread has counted it.
    wait::until("the one connection", SOON, || server.accepted() == 1);

    // A bound is not to be widened by settings, and a refusal leaves the session as it is.
    let refused =
        |meeting: &Meeting, settings: Settings| handshake(meeting, &settings.json()).unwrap().1.code().to_owned();
    assert_eq!(refused(&host.alpha, Settings::new(CALM).server(5001, third)), "PORT_NOT_ALLOWED");
    assert_eq!(refused(&host.beta, Settings::new(CALM).server(5001, one)), "PORT_NOT_ALLOWED");
    assert_eq!(refused(&host.alpha, Settings::new(CALM).client(5002).client(5003)), "TOO_MANY");
    assert_eq!(refused(&host.beta, Settings::new(CALM).server(5001, other).server(5002, one)), "TOO_MANY");
    assert_eq!(refused(&host.alpha, Settings::new(Duration::from_secs(41))), "BAD_INTERVAL");
    assert_eq!(first.dial(5002, &server.target()).1, Answer::Ack);

    // They are called by their names.
    let status: serde_json::Value =
        serde_json::from_str(&http::get(host.bridge.monitor, "/status").unwrap().text()).unwrap();
    let mut names: Vec<Option<&str>> =
        status["sessions"].as_array().unwrap().iter().map(|session| session["enclave"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [None, Some("alpha"), Some("beta")]);
    let said = |text: String| wait::until(&text, SOON, || host.bridge.stderr.text().contains(&text));
    said(format!("session of alpha ({})", host.alpha.uds_path().display()));
    said("\"enclave\":\"beta (".to_owned());
}

#[test]
fn an_enclaves_listeners_are_closed_to_its_neighbour() {
    let Some(host) = host("egress_allow = [\"127.0.0.0/8\"]", "", "", &[]) else { return };
    let server = Server::echo();
    let first = Enclave::start(&host.alpha, &Settings::new(CALM).client(5002));
    let _second = Enclave::start(&host.beta, &Settings::new(CALM).client(5003));
    assert_eq!(first.dial(5002, &server.target()).1, Answer::Ack);
    // Each has the sockets beside its own path only; a beat of the other's id is nothing here.
    assert!(host.beta.dial_host(5002).is_err() && host.alpha.dial_host(5003).is_err());
    assert_eq!(host.bridge.metric("enclave_bridge_sessions"), Some(2.0));
}

#[test]
fn streams_of_one_enclave_leave_room_for_the_others() {
    let (one, other) = (ports::free(), ports::free());
    let Some(host) = host("max_streams = 8", "max_streams = 2", "", &[]) else { return };
    let _first = Enclave::echo(&host.alpha, &Settings::new(CALM).server(5001, one), 5001);
    let _second = Enclave::echo(&host.beta, &Settings::new(CALM).server(5001, other), 5001);
    let open = |port: u16| {
        // A reset at the limit may come before connecting has returned.
        let mut stream = TcpStream::connect(Bridge::tcp(port))?;
        stream.set_read_timeout(Some(CALM))?;
        stream.write_all(b"x").and_then(|()| std::io::Read::read_exact(&mut stream, &mut [0])).map(|()| stream)
    };
    let held: Vec<_> = (0..2).map(|_| open(one).unwrap()).collect();
    assert!(open(one).is_err(), "a third stream of alpha");
    let others: Vec<_> = (0..6).map(|_| open(other).unwrap()).collect();
    assert!(open(other).is_err(), "a ninth stream of all");
    drop(others);
    wait::until("room again", SOON, || open(other).is_ok());
    drop(held);
    wait::until("room for alpha", SOON, || open(one).is_ok());
}

#[test]
fn l8_a_neighbour_loses_nothing_to_a_flood() {
    const LINES: usize = 3000;
    let Some(host) = host("log_format = \"json\"", "log_rate = \"16KiB\"\nlog_burst = \"16KiB\"", "", &[]) else {
        return;
    };
    let flood = "f".repeat(199) + "\n";
    std::thread::scope(|scope| {
        let mut loud = host.alpha.dial_host(LOG_PORT).unwrap();
        scope.spawn(move || loud.write_all(flood.repeat(20_000).as_bytes()).unwrap());
        let mut calm = host.beta.dial_host(LOG_PORT).unwrap();
        scope.spawn(move || {
            for number in 0..LINES {
                let mut line = String::new();
                writeln!(line, "calm {number}").unwrap();
                calm.write_all(line.as_bytes()).unwrap();
            }
        });
    });
    let count = |name: &str| host.bridge.metric(&format!("enclave_bridge_log_lines_{name}_total")).unwrap();
    let all = (20_000 + LINES) as f64;
    wait::until("every line", CALM, || count("received") == all && count("printed") + count("dropped") == all);
    // Printed is what the bridge has written; here it is a moment later.
    wait::until("every line here", CALM, || host.bridge.stdout.lines() as f64 == count("printed"));
    let text = host.bridge.stdout.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| lines.iter().filter(|line| line["enclave"] == name).collect::<Vec<_>>();
    let calm: Vec<_> = of("beta").into_iter().map(|line| line["line"].as_str().unwrap().to_owned()).collect();
    assert_eq!(calm, (0..LINES).map(|number| format!("calm {number}")).collect::<Vec<_>>());
    assert!(of("alpha").len() < 20_000, "the flood was let through");
    wait::until("the flood in the bridge's own log", SOON, || {
        host.bridge.stderr.text().contains("log of alpha: lines dropped: ")
    });
    assert!(!host.bridge.stderr.text().contains("log of beta"));
}

#[test]
fn check_explains_for_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text = "egress_allow = [\"public\"]\n[[enclave]]\nname = \"alpha\"\ncid = 16\n\
                egress_allow = [\"api.example.org:443\"]\negress_server_name = [\"**:443\"]\n";
    std::fs::write(&file, text).unwrap();
    let explain = |arguments: &[&str]| explain(&file, arguments);
    assert_eq!(explain(&["--explain", "8.8.8.8:443"]).0, Some(0));
    let (code, told) = explain(&["--explain", "8.8.8.8:443", "--enclave", "alpha"]);
    assert_eq!((code, told.contains("no rule allows 8.8.8.8:443")), (Some(77), true), "{told}");
    let (code, told) = explain(&["--explain", "API.example.org:443", "--enclave", "alpha"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("must begin with a TLS ClientHello for api.example.org: rule **:443"), "{told}");
    let (code, told) = explain(&["--explain", "8.8.8.8:443", "--enclave", "gamma"]);
    assert_eq!((code, told.trim()), (Some(64), "--enclave gamma: no [[enclave]] table has that name: alpha"));
}

fn explain(file: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(&enclave_bridge_e2e::bridge::programs().bridge);
    let output = command.arg("check").arg(file).args(arguments).env_clear().output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}
