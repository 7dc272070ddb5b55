//! Streams are sacred: bytes by hash, ends where there were ends, resets where there were errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::bytes::{MIB, Pattern};
use enclave_bridge_e2e::peers::{self, Server};
use enclave_bridge_e2e::tunnels::{self, Heard, Leg};
use enclave_bridge_e2e::v1::{self, ACK, Answer, Enclave, Settings};
use enclave_bridge_e2e::wait::SOON;
use enclave_bridge_e2e::wire::{Endpoint, Wire};
use enclave_bridge_e2e::{ports, wait};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const CALM: Duration = Duration::from_secs(30);

/// A bridge, an enclave, and a tunnel whose both ends are in the test's hands.
struct Pair {
    bridge: Bridge,
    enclave: Enclave,
    port: u16,
    arriving: Receiver<Wire>,
}

impl Pair {
    fn start() -> Pair {
        let bridge = Bridge::builder().loopback_egress().start();
        let port = ports::free();
        let (sender, arriving) = sync_channel(1000);
        let settings = Settings::new(CALM).server(5001, port).client(5002);
        let enclave = Enclave::start_with(&bridge.meeting, &settings, |guest| {
            guest.hand_over(5001, move |wire| sender.send(wire).expect("the test takes what arrives"));
        });
        Pair { bridge, enclave, port, arriving }
    }

    fn ingress(&self) -> (TcpStream, Wire) {
        let tcp = tunnels::tcp(Bridge::tcp(self.port));
        let wire = self.arriving.recv_timeout(SOON).expect("the bridge dials the enclave");
        wire.read_within(tunnels::STALL);
        wire.write_within(tunnels::STALL);
        (tcp, wire)
    }

    fn egress(&self) -> (TcpStream, Wire) {
        let (sender, accepted) = sync_channel(1);
        let server = Server::start(move |stream| sender.send(stream).expect("the test takes what arrives"));
        let (wire, answer) = self.enclave.dial(5002, &server.target());
        assert_eq!(answer, Answer::Ack);
        let tcp = accepted.recv_timeout(SOON).expect("the bridge dials the server");
        tcp.set_read_timeout(Some(tunnels::STALL)).unwrap();
        tcp.set_write_timeout(Some(tunnels::STALL)).unwrap();
        wire.read_within(tunnels::STALL);
        wire.write_within(tunnels::STALL);
        (tcp, wire)
    }
}

/// 64 MiB one way, the end of that direction, then 64 MiB the other way: all of it arrives, and the second end too.
fn half_close(first: &mut (impl Leg + 'static), second: impl Leg + 'static) {
    let mut second = second;
    let listening = std::thread::spawn(move || tunnels::listen_then_speak(&mut second, 12, 64 * MIB));
    assert_eq!(tunnels::speak_then_listen(first, 11, 64 * MIB).unwrap(), Heard::pattern(12, 64 * MIB));
    assert_eq!(listening.join().unwrap().unwrap(), Heard::pattern(11, 64 * MIB));
}

#[test]
fn t1_ingress_the_client_ends_first() {
    let pair = Pair::start();
    let (mut tcp, wire) = pair.ingress();
    half_close(&mut tcp, wire);
}

#[test]
fn t2_ingress_the_enclave_ends_first() {
    let pair = Pair::start();
    let (tcp, mut wire) = pair.ingress();
    half_close(&mut wire, tcp);
}

#[test]
fn t1_egress_the_enclave_ends_first() {
    let pair = Pair::start();
    let (tcp, mut wire) = pair.egress();
    half_close(&mut wire, tcp);
}

#[test]
fn t2_egress_the_server_ends_first() {
    let pair = Pair::start();
    let (mut tcp, wire) = pair.egress();
    half_close(&mut tcp, wire);
}

#[test]
fn both_directions_at_once() {
    let pair = Pair::start();
    for (tcp, wire) in [pair.ingress(), pair.egress()] {
        let (tcp_again, wire_again) = (tcp.try_clone().unwrap(), wire.again());
        let speak = |mut leg: Box<dyn Leg>, seed| {
            std::thread::spawn(move || {
                io::copy(&mut Pattern::new(seed, 32 * MIB), &mut leg).unwrap();
                leg.end_writing();
            })
        };
        let speaking = [speak(Box::new(tcp_again), 21), speak(Box::new(wire_again), 22)];
        let hear =
            |mut leg: Box<dyn Leg>| std::thread::spawn(move || enclave_bridge_e2e::bytes::hash_of(&mut leg).unwrap());
        let (at_tcp, at_wire) = (hear(Box::new(tcp)), hear(Box::new(wire)));
        for thread in speaking {
            thread.join().unwrap();
        }
        assert_eq!(at_wire.join().unwrap().0, Pattern::hash(21, 32 * MIB));
        assert_eq!(at_tcp.join().unwrap().0, Pattern::hash(22, 32 * MIB));
    }
}

#[test]
fn t21_single_bytes_both_ways() {
    let pair = Pair::start();
    let (mut tcp, mut wire) = pair.ingress();
    for round in 0..2000_u32 {
        let byte = [u8::try_from(round % 251).unwrap()];
        tcp.write_all(&byte).unwrap();
        let mut there = [0];
        wire.read_exact(&mut there).unwrap();
        wire.write_all(&there).unwrap();
        let mut back = [0];
        tcp.read_exact(&mut back).unwrap();
        assert_eq!(back, byte);
    }
}

#[test]
fn t3_an_error_of_the_enclave_is_a_reset_for_the_tcp_peer() {
    let pair = Pair::start();
    for (tcp, wire) in [pair.ingress(), pair.egress()] {
        let mut tcp = tcp;
        tcp.write_all(b"never read").unwrap();
        // A Unix socket that is closed with unread bytes is an error at its other end; the bytes have to be there first.
        wait_readable(&wire);
        drop(wire);
        let shown = match Endpoint::under_test() {
            Endpoint::Hybrid => Some(ErrorKind::ConnectionReset),
            // AF_VSOCK closes by ending both directions, whatever is unread: no raw tunnel can tell it from an end.
            Endpoint::Vsock => None,
        };
        assert_eq!(tunnels::read_out(&mut tcp), (0, shown));
    }
}

#[test]
fn t3_a_reset_of_the_tcp_peer_closes_both_directions_of_the_enclaves() {
    let pair = Pair::start();
    for (tcp, mut wire) in [pair.ingress(), pair.egress()] {
        let mut tcp = tcp;
        tcp.write_all(b"x").unwrap();
        let mut there = [0];
        wire.read_exact(&mut there).unwrap();
        peers::reset(tcp);
        assert_eq!(tunnels::read_out(&mut wire).0, 0);
        // Never a mere half-close: writing fails as well, as soon as the socket's own buffer is passed.
        wait::until("an error of writing", SOON, || wire.write_all(&[b'y'; 4096]).is_err());
    }
}

#[test]
fn t3_a_reset_while_the_other_end_is_stalled_frees_both() {
    let pair = Pair::start();
    let before = pair.bridge.descriptor_names();
    let (mut tcp, wire) = pair.ingress();
    tcp.set_nonblocking(true).unwrap();
    let mut written = 0;
    // Until nothing moves any more: the enclave reads nothing.
    let full = loop {
        match tcp.write(&[b'z'; 64 * 1024]) {
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(100));
                if tcp.write(b"z").is_err() {
                    break written;
                }
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(full > 0);
    peers::reset(tcp);
    let back = wait::becomes(SOON, || pair.bridge.descriptors() <= before.len() + v1::BEATS);
    assert!(
        back,
        "both descriptors: {full} bytes went in; before {before:?}, now {:?}",
        pair.bridge.descriptor_names()
    );
    drop(wire);
}

#[test]
fn t6_a_stalled_reader_stops_its_writer_and_costs_no_memory() {
    let pair = Pair::start();
    let (mut tcp, mut wire) = pair.ingress();
    let before = pair.bridge.anonymous_kib();
    let speaking = std::thread::spawn(move || {
        tunnels::speak_then_listen(&mut tcp, 31, 64 * MIB).unwrap();
    });
    // What the kernel's buffers and the bridge took until nothing moved for a while.
    std::thread::sleep(Duration::from_secs(2));
    let grown = pair.bridge.anonymous_kib().saturating_sub(before);
    assert!(grown < 4096, "a stalled stream cost {grown} KiB");
    assert_eq!(tunnels::listen_then_speak(&mut wire, 32, 0).unwrap(), Heard::pattern(31, 64 * MIB));
    speaking.join().unwrap();
}

#[test]
fn t17_a_port_that_the_enclave_does_not_serve_is_an_end_at_once() {
    let bridge = Bridge::builder().start();
    let port = ports::free();
    let _enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).server(5001, port));
    let mut tcp = tunnels::tcp(Bridge::tcp(port));
    assert_eq!(tunnels::read_out(&mut tcp), (0, Some(ErrorKind::ConnectionReset)));
}

#[test]
fn slow_t11_a_payload_in_the_segment_of_the_address_line_arrives_whole() {
    let pair = Pair::start();
    in_parallel(|lane| {
        let server = Server::echo();
        let mut payload = vec![0; 64 * 1024];
        Pattern::new(lane, payload.len() as u64).read_exact(&mut payload).unwrap();
        for run in 0..RUNS_PER_LANE {
            let payload = &payload[..[1, 2, 17, 300, 1000, 4095, 4096, 4097, 16_384, 65_536][run % 10]];
            let mut wire = pair.enclave.meeting.dial_host(5002).unwrap();
            wire.read_within(tunnels::STALL);
            let mut reading = wire.again();
            let mut message = format!("{}\n", server.target()).into_bytes();
            message.extend_from_slice(payload);
            let sending = (message.len() > 8192).then(|| {
                let mut wire = wire.again();
                let message = message.clone();
                std::thread::spawn(move || {
                    wire.write_all(&message).unwrap();
                    wire.shutdown(Shutdown::Write);
                })
            });
            if sending.is_none() {
                wire.write_all(&message).unwrap();
                wire.shutdown(Shutdown::Write);
            }
            let mut heard = Vec::new();
            reading.read_to_end(&mut heard).unwrap();
            assert_eq!(heard[..2], *ACK, "run {run}");
            assert!(heard[2..] == *payload, "run {run}: {} of {} bytes came back", heard.len() - 2, payload.len());
            if let Some(sending) = sending {
                sending.join().unwrap();
            }
        }
    });
}

#[test]
fn slow_t12_a_banner_in_the_segment_of_the_ack_arrives_whole() {
    let pair = Pair::start();
    in_parallel(|lane| {
        let mut banner = vec![0; 1 + 700 * usize::try_from(lane).unwrap()];
        Pattern::new(lane, banner.len() as u64).read_exact(&mut banner).unwrap();
        let server = Server::banner(banner.clone());
        for run in 0..RUNS_PER_LANE {
            let mut wire = pair.enclave.meeting.dial_host(5002).unwrap();
            wire.read_within(tunnels::STALL);
            wire.write_all(format!("{}\n", server.target()).as_bytes()).unwrap();
            let mut heard = vec![0; 2 + banner.len()];
            wire.read_exact(&mut heard).unwrap();
            assert!(heard[..2] == *ACK && heard[2..] == *banner, "run {run}");
        }
    });
}

const LANES: u64 = 4;
const RUNS_PER_LANE: usize = 2500;

fn in_parallel(lane: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        for number in 0..LANES {
            let lane = &lane;
            scope.spawn(move || lane(number));
        }
    });
}

/// Until there is something to read, without reading it.
fn wait_readable(wire: &Wire) {
    use nix::sys::socket::{MsgFlags, recv};
    use std::os::fd::{AsFd, AsRawFd};
    let mut byte = [0];
    assert_eq!(recv(wire.as_fd().as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK), Ok(1));
}
