//! Tunnels over links that misbehave, each in a network of its own: nothing arrives, nothing can be reached, the interface
//! goes down, segments are tiny, packets are lost, there is no port left to connect from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::print_stdout, reason = "figures beside the assertion")]

use enclave_bridge_e2e::bridge::{Bridge, Builder};
use enclave_bridge_e2e::bytes::{self, MIB, Pattern};
use enclave_bridge_e2e::dns::{NameServer, Reply};
use enclave_bridge_e2e::network::Network;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::skip::skipped;
use enclave_bridge_e2e::tunnels::{self, Heard, Leg};
use enclave_bridge_e2e::v1::{Answer, Enclave, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use nix::sys::socket::{MsgFlags, send};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

/// Well below every limit of time that would end the wait otherwise.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A bridge and an enclave that dials out on 5002 and echoes what comes in at `port`.
struct World {
    bridge: Bridge,
    enclave: Enclave,
    port: u16,
}

impl World {
    fn start(builder: Builder) -> World {
        let bridge = builder.start();
        let port = ports::free();
        let settings = Settings::new(CALM).server(5001, port).client(5002);
        let enclave = Enclave::echo(&bridge.meeting, &settings, 5001);
        World { bridge, enclave, port }
    }

    /// The code of the answer to a target, and how long it took.
    fn dial(&self, target: &str) -> (Answer, Duration) {
        let start = Instant::now();
        let (_wire, answer) = self.enclave.dial(5002, target);
        (answer, start.elapsed())
    }
}

/// An interface whose other end answers nothing, with neighbours that are known: packets leave and are never heard of.
fn silent_interface(network: &Network) -> bool {
    let made = network.has("ip link add out0 type veth peer name out1");
    made && network.has("ip addr add 192.0.2.1/24 dev out0")
        && network.has("ip -6 addr add 2001:db8::1/64 dev out0 nodad")
        && network.has("ip link set out1 up")
        && network.has("ip link set out0 up")
        && network.has("ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev out0")
        && network.has("ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:09 dev out0")
        && network.has("ip -6 neigh add 2001:db8::9 lladdr 02:00:00:00:00:09 dev out0")
        && network.has("ip -6 neigh add 2001:db8::fe lladdr 02:00:00:00:00:09 dev out0")
}

#[test]
fn t14_what_is_dropped_times_out_and_what_has_no_route_is_unreachable() {
    Network::own("t14", |network| {
        if !silent_interface(network) {
            return skipped("t14", "no veth interfaces");
        }
        network.run("ip route add unreachable 198.51.100.0/25");
        network.run("ip route add prohibit 198.51.100.128/25");
        let rules =
            ["--egress-allow", "192.0.2.0/24", "--egress-allow", "198.51.100.0/24", "--egress-allow", "203.0.113.0/24"];
        let world = World::start(Bridge::builder().arguments(rules).arguments(["--connect-timeout", "1s"]));
        let (dropped, took) = world.dial("192.0.2.9:80");
        assert_eq!(dropped.code(), "TIMEOUT", "{dropped:?}");
        assert!(took >= Duration::from_millis(900) && took < AT_ONCE, "{took:?}");
        for (target, why) in [
            ("198.51.100.1:80", "a route that says unreachable"),
            ("198.51.100.200:80", "a route that says prohibited"),
            ("203.0.113.1:80", "no route"),
        ] {
            let (answer, took) = world.dial(target);
            assert_eq!(answer.code(), "UNREACHABLE", "{why}: {answer:?}");
            assert!(took < AT_ONCE, "{why}: {took:?}");
        }
    });
}

#[test]
fn t16_a_family_that_is_black_holed_does_not_hold_up_the_other() {
    Network::own("t16", |network| {
        if !silent_interface(network) {
            return skipped("t16", "no veth interfaces");
        }
        network.run("ip -6 addr add 2001:db8:1::1/128 dev lo nodad");
        network.run("ip addr add 198.51.100.1/32 dev lo");
        let (good4, good6): (IpAddr, IpAddr) = ("198.51.100.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap());
        let (hole4, hole6): (IpAddr, IpAddr) = ("192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap());
        let _names =
            NameServer::start("127.0.0.1:53".parse().unwrap(), move |question| match question.label.as_str() {
                "six" => Reply::Addresses(vec![hole4, good6]),
                _ => Reply::Addresses(vec![good4, hole6]),
            })
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
        let rules = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.1", "2001:db8:1::1"];
        let builder = rules.iter().fold(Bridge::builder(), |builder, rule| builder.arguments(["--egress-allow", rule]));
        let world = World::start(builder.arguments(["--resolv-conf".into(), resolv_conf.into_os_string()]));
        let v4 = TcpListener::bind((good4, 0)).unwrap();
        let port = v4.local_addr().unwrap().port();
        let _v6 = TcpListener::bind((good6, port)).unwrap();
        for name in ["four", "six"] {
            let (answer, took) = world.dial(&format!("{name}.example:{port}"));
            assert_eq!(answer, Answer::Ack, "{name}");
            println!("{name}: connected beside a black hole after {took:?}");
            // Far below the ten seconds that the black hole would take.
            assert!(took < Duration::from_secs(4), "{name}: {took:?}");
        }
    });
}

#[test]
fn e1_no_packet_leaves_for_a_closed_address() {
    Network::own("e1", |network| {
        if !silent_interface(network) {
            return skipped("e1", "no veth interfaces");
        }
        // Everything that is not this machine's goes out there.
        network.set("ipv6/conf/out0/router_solicitations", "0");
        network.run("ip route add default via 192.0.2.254 dev out0");
        network.run("ip -6 route add default via 2001:db8::fe dev out0");
        // The machine's own address.
        network.run("ip addr add 198.51.100.7/32 dev lo");
        let rules = ["any", "0.0.0.0/0", "::/0", "**"];
        let builder = rules.iter().fold(Bridge::builder(), |builder, rule| builder.arguments(["--egress-allow", rule]));
        let world = World::start(builder.arguments(["--connect-timeout", "500ms"]));
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (before, opened) = (network.packets_sent("out0"), network.tcp_counter("ActiveOpens"));
        let closed = [
            "169.254.169.254",
            "169.254.1.1",
            "[fd00:ec2::254]",
            "[fd00:ec2::23]",
            "168.63.129.16",
            "100.100.100.200",
            "127.0.0.1",
            "127.8.8.8",
            "[::1]",
            "0.0.0.0",
            "[::]",
            "[fe80::1]",
            "224.0.0.1",
            "[ff02::1]",
            "255.255.255.255",
            "192.0.2.1",
            "198.51.100.7",
            "[2001:db8::1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::169.254.169.254]",
            "[2002:a9fe:a9fe::1]",
        ];
        for host in closed {
            for port in [80, port] {
                let (answer, _) = world.dial(&format!("{host}:{port}"));
                assert_eq!(answer.code(), "DENIED", "{host}: {answer:?}");
            }
        }
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "a connection arrived");
        assert_eq!(network.tcp_counter("ActiveOpens"), opened, "TCP connections were begun");
        // Neighbour and multicast traffic of IPv6 is the kernel's own; none of it is TCP, which the line above counts.
        let left = network.packets_sent("out0") - before;
        assert!(left < 10, "{left} packets left");
        // An open one does leave, so that the counters count.
        assert_eq!(world.dial(&format!("8.8.8.8:{port}")).0.code(), "TIMEOUT");
        assert_eq!(network.tcp_counter("ActiveOpens"), opened + 1);
    });
}

/// Four ports to connect from: the fifth stream at the same time has none.
#[test]
fn r6_without_a_local_port_a_dial_is_refused_and_the_next_one_is_served() {
    Network::own("r6", |network| {
        let world = World::start(Bridge::builder().loopback_egress());
        let server = Server::echo();
        // Only now: the harness has used its own by then.
        network.set("ipv4/ip_local_port_range", "61000 61003");
        network.set("ipv4/tcp_tw_reuse", "1");
        let mut kept = Vec::new();
        let refused = loop {
            let (wire, answer) = world.enclave.dial(5002, &server.target());
            if answer != Answer::Ack {
                break answer;
            }
            kept.push(wire);
            assert!(kept.len() <= 4, "more streams than ports");
        };
        assert_eq!(kept.len(), 4);
        let Answer::Nak(code, sentence) = &refused else { panic!("{refused:?}") };
        assert!(code == "INTERNAL" && sentence.contains("no local port"), "{refused:?}");
        // Those that exist go on.
        for wire in &mut kept {
            wire.write_all(b"still here").unwrap();
            let mut back = [0; 10];
            wire.read_exact(&mut back).unwrap();
        }
        let reset = kept.pop().unwrap();
        reset.shutdown(std::net::Shutdown::Both);
        drop(reset);
        wait::until("a port again", CALM * 3, || world.dial(&server.target()).0 == Answer::Ack);
        assert!(world.bridge.metric("enclave_bridge_task_panics_total") == Some(0.0));
    });
}

/// Streams whose interface goes down in their middle, for so long.
fn interface_down(name: &str, down: Duration) {
    Network::own(name, move |network| {
        let world = World::start(Bridge::builder());
        let moved = Arc::new(AtomicBool::new(false));
        let streams: Vec<_> = (0..8)
            .map(|seed| {
                let mut reading = tunnels::tcp(Bridge::tcp(world.port));
                // Longer than the kernel waits between its later tries.
                reading.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
                reading.set_write_timeout(Some(Duration::from_secs(100))).unwrap();
                let mut writing = reading.try_clone().unwrap();
                let moved = moved.clone();
                let speaking = std::thread::spawn(move || {
                    let mut pattern = Pattern::new(seed, 4 * MIB);
                    let mut piece = vec![0; 16 * 1024];
                    while let Ok(n @ 1..) = pattern.read(&mut piece) {
                        writing.write_all(&piece[..n])?;
                        moved.store(true, Ordering::SeqCst);
                        // So that the fault meets it in the middle.
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    writing.end_writing();
                    Ok::<(), std::io::Error>(())
                });
                let hearing = std::thread::spawn(move || bytes::hash_of(&mut reading));
                (seed, speaking, hearing)
            })
            .collect();
        wait::until("bytes that move", SOON, || moved.load(Ordering::SeqCst));
        std::thread::sleep(Duration::from_millis(300));
        network.run("ip link set lo down");
        std::thread::sleep(down);
        network.run("ip link set lo up");
        let mut whole = 0;
        for (seed, speaking, hearing) in streams {
            let spoken = speaking.join().unwrap();
            // An error is an honest end; an end in order must be that of the whole stream.
            if let Ok((hash, length)) = hearing.join().unwrap() {
                assert!(spoken.is_ok(), "an end in order of a stream that was cut");
                assert_eq!(Heard { hash, length }, Heard::pattern(seed, 4 * MIB));
                whole += 1;
            }
        }
        println!("{whole} of 8 streams went on, the others were reset");
        wait::until("a stream as before", CALM, || {
            let stream = std::net::TcpStream::connect(Bridge::tcp(world.port));
            stream.is_ok_and(|mut stream| tunnels::speak_then_listen(&mut stream, 9, 1000).is_ok())
        });
    });
}

#[test]
fn t20_an_interface_that_goes_down_cuts_no_stream_short_silently() {
    interface_down("t20", Duration::from_secs(2));
}

#[test]
#[ignore = "a minute: cargo nextest run -p enclave-bridge-e2e --run-ignored only t20"]
fn slow_t20_an_interface_that_is_down_for_thirty_seconds() {
    interface_down("t20", Duration::from_secs(30));
}

fn tiny_segments_and_urgent_bytes(builder: Builder) {
    let world = World::start(builder);
    let tcp = tunnels::tcp(Bridge::tcp(world.port));
    let limit = nix::sys::socket::setsockopt(&tcp, nix::sys::socket::sockopt::TcpMaxSeg, &88);
    assert!(limit.is_ok() || limit == Err(nix::errno::Errno::EINVAL), "{limit:?}");
    let mut reading = tcp.try_clone().unwrap();
    let speaking = std::thread::spawn(move || {
        let mut pattern = Pattern::new(7, MIB);
        let mut piece = vec![0; 16 * 1024];
        let mut writing = &tcp;
        while let Ok(n @ 1..) = pattern.read(&mut piece) {
            writing.write_all(&piece[..n - 1]).unwrap();
            // The last byte of each piece, and so the one that is marked, is urgent.
            assert_eq!(send(tcp.as_raw_fd(), &piece[n - 1..n], MsgFlags::MSG_OOB), Ok(1));
        }
        // And one mark on 64 KiB at once: the kernel marks its last byte.
        let urgent = vec![b'u'; 64 * 1024];
        let mut sent = 0;
        while sent < urgent.len() {
            sent += send(tcp.as_raw_fd(), &urgent[sent..], MsgFlags::MSG_OOB).unwrap();
        }
        tcp.end_writing();
    });
    let mut back = Vec::new();
    reading.read_to_end(&mut back).unwrap();
    speaking.join().unwrap();
    let (echoed, urgent) = back.split_at(usize::try_from(MIB).unwrap().min(back.len()));
    assert_eq!((echoed.len() as u64, urgent.len()), (MIB, 64 * 1024), "bytes were lost");
    assert_eq!(bytes::hash_of(&mut &*echoed).unwrap().0, Pattern::hash(7, MIB));
    assert!(urgent.iter().all(|byte| *byte == b'u'));
    assert_eq!(world.bridge.metric("enclave_bridge_task_panics_total"), Some(0.0));
}

#[test]
fn t22_tiny_segments_and_urgent_bytes_are_bytes_of_the_stream() {
    Network::own("t22", |network| {
        network.run("ip link set lo mtu 576");
        tiny_segments_and_urgent_bytes(Bridge::builder());
    });
}

#[test]
fn t22_urgent_bytes_amid_what_is_spliced() {
    Network::own("t22", |_| tiny_segments_and_urgent_bytes(Bridge::builder().arguments(["--splice"])));
}

#[test]
fn t22_an_urgent_byte_of_an_egress_target_is_one_of_its_stream() {
    let world = World::start(Bridge::builder().loopback_egress());
    let server = Server::start(|mut stream| {
        assert_eq!(send(stream.as_raw_fd(), b"abc!", MsgFlags::MSG_OOB), Ok(4));
        // The kernel shows what precedes the mark; the marked byte comes with what follows it.
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"def").unwrap();
    });
    let (mut wire, answer) = world.enclave.dial(5002, &server.target());
    assert_eq!(answer, Answer::Ack);
    let mut heard = [0; 3];
    wire.read_exact(&mut heard).unwrap();
    wire.write_all(b"?").unwrap();
    let mut rest = Vec::new();
    wire.read_to_end(&mut rest).unwrap();
    assert_eq!((&heard, &*rest), (b"abc", &b"!def"[..]));
}

/// Packets that are lost at random, both ways, on a link of tiny and of usual segments.
fn lossy(name: &str, streams: u64, length: u64, at_once: usize) {
    let skip = name.to_owned();
    Network::own(name, move |network| {
        network.run("ip link set lo mtu 1500");
        let delayed = network.has("tc qdisc add dev lo root netem delay 200ms 50ms loss 2% reorder 25% duplicate 5% corrupt 0.1% limit 100000");
        if !delayed {
            skipped(
                &skip,
                "no netem in this kernel: packets are lost, and neither late, doubled, reordered nor corrupted",
            );
            if !network.has("iptables -A INPUT -p tcp -m statistic --mode random --probability 0.02 -j DROP") {
                return skipped(&skip, "no iptables with random matches either");
            }
        }
        let world = World::start(Bridge::builder());
        let left = Arc::new(Mutex::new((0..streams).collect::<Vec<u64>>()));
        let lanes: Vec<_> = (0..at_once)
            .map(|_| {
                let (left, port) = (left.clone(), world.port);
                std::thread::spawn(move || {
                    while let Some(seed) = { left.lock().unwrap().pop() } {
                        let mut reading = tunnels::tcp(Bridge::tcp(port));
                        let mut writing = reading.try_clone().unwrap();
                        let speaking = std::thread::spawn(move || {
                            bytes::copy(&mut Pattern::new(seed, length), &mut writing).unwrap();
                            writing.end_writing();
                        });
                        let (hash, heard) = bytes::hash_of(&mut reading).unwrap();
                        speaking.join().unwrap();
                        assert_eq!(Heard { hash, length: heard }, Heard::pattern(seed, length));
                    }
                })
            })
            .collect();
        for lane in lanes {
            lane.join().unwrap();
        }
        assert!(network.tcp_counter("RetransSegs") > 0, "nothing was lost");
    });
}

#[test]
fn t19_streams_over_a_link_that_loses_packets_arrive_whole() {
    lossy("t19", 24, MIB / 4, 24);
}

#[test]
#[ignore = "minutes: cargo nextest run -p enclave-bridge-e2e --run-ignored only t19"]
fn slow_t19_a_thousand_streams_of_a_mebibyte_over_a_link_that_loses_packets() {
    lossy("t19", 1000, MIB, 100);
}

/// Every kind of bad answer of a name server.
#[test]
fn t15_name_servers_that_fail_in_every_way() {
    Network::own("t15", |network| {
        let many: Vec<IpAddr> = (0..512_u32).map(|n| Ipv4Addr::from(0x7f53_0000 + n).into()).collect();
        let good: IpAddr = "127.0.0.1".parse().unwrap();
        let names = NameServer::start("127.0.0.1:53".parse().unwrap(), move |question| match question.label.as_str() {
            "good" => Reply::Addresses(vec![good]),
            "failure" => Reply::Code(2),
            "refused" => Reply::Code(5),
            "empty" => Reply::Addresses(vec![]),
            "mute" => Reply::Silence,
            "half" => Reply::Half,
            "many" if !question.tcp => Reply::Cut,
            "many" => Reply::Addresses(many.clone()),
            "cut" if !question.tcp => Reply::Cut,
            "cut" => Reply::Addresses(vec![good]),
            "loop" => Reply::Alias("loop".into()),
            "ring" => Reply::Alias("gnir".into()),
            "gnir" => Reply::Alias("ring".into()),
            _ => Reply::Code(3),
        })
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
        let world = World::start(
            Bridge::builder().loopback_egress().arguments(["--resolv-conf".into(), resolv_conf.into_os_string()]),
        );
        let server = Server::echo();
        let port = server.address.port();
        for (name, code) in [
            ("good", ""),
            ("cut", ""),
            ("nosuch", "DNS"),
            ("failure", "DNS"),
            ("refused", "DNS"),
            ("empty", "DNS"),
            ("loop", "DNS"),
            ("ring", "DNS"),
            ("half", "DNS"),
            ("mute", "DNS"),
        ] {
            let (answer, took) = world.dial(&format!("{name}.example:{port}"));
            assert_eq!(answer.code(), code, "{name}: {answer:?}");
            assert!(matches!(answer, Answer::Ack | Answer::Nak(..)), "{name}: {answer:?}");
            println!("{name}: {answer:?} after {took:?}");
            assert!(took < AT_ONCE, "{name}: {took:?}");
        }
        // Nobody listens there: all are tried that are tried at all.
        let closed = ports::free();
        let opened = network.tcp_counter("ActiveOpens");
        let (answer, _) = world.dial(&format!("many.example:{closed}"));
        assert_eq!(answer.code(), "REFUSED", "{answer:?}");
        // The question that is asked again over TCP is two of them: one for each family.
        let tried = network.tcp_counter("ActiveOpens") - opened - 2;
        assert!((1..=16).contains(&tried), "{tried} addresses were tried");
        assert!(names.questions() > 20);
    });
}
