//! Framed tunnels: what a raw leg cannot show. The enclave's records are written and read by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::bytes::MIB;
use enclave_bridge_e2e::enclave::SimpleEnclave;
use enclave_bridge_e2e::framed::Framed;
use enclave_bridge_e2e::peers::{self, Server};
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::tunnels::{self, Heard, Leg};
use enclave_bridge_e2e::v1::{ACK, Answer, Enclave, Settings};
use enclave_bridge_e2e::wait::SOON;
use enclave_bridge_e2e::wire::Wire;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const CALM: Duration = Duration::from_secs(30);

/// A bridge, an enclave, and framed tunnels whose both ends are in the test's hands.
struct Pair {
    bridge: Bridge,
    enclave: Enclave,
    port: u16,
    arriving: Receiver<Wire>,
}

impl Pair {
    fn start() -> Pair {
        Pair::with(|settings| settings)
    }

    fn with(change: impl FnOnce(Settings) -> Settings) -> Pair {
        let bridge = Bridge::builder().loopback_egress().start();
        let port = ports::free();
        let (sender, arriving) = sync_channel(1000);
        let settings = Settings { framed: true, ..Settings::new(CALM).server(5001, port).client(5002) };
        let enclave = Enclave::start_with(&bridge.meeting, &change(settings), |guest| {
            guest.hand_over(5001, move |wire| sender.send(wire).expect("the test takes what arrives"));
        });
        Pair { bridge, enclave, port, arriving }
    }

    fn ingress(&self) -> (TcpStream, Framed) {
        let tcp = tunnels::tcp(Bridge::tcp(self.port));
        let wire = self.arriving.recv_timeout(SOON).expect("the bridge dials the enclave");
        (tcp, framed(wire))
    }

    fn egress(&self) -> (TcpStream, Framed) {
        let (sender, accepted) = sync_channel(1);
        let server = Server::start(move |stream| sender.send(stream).expect("the test takes what arrives"));
        let (wire, answer) = self.enclave.dial(5002, &server.target());
        assert_eq!(answer, Answer::Ack);
        let tcp = accepted.recv_timeout(SOON).expect("the bridge dials the server");
        tcp.set_read_timeout(Some(tunnels::STALL)).unwrap();
        tcp.set_write_timeout(Some(tunnels::STALL)).unwrap();
        (tcp, framed(wire))
    }
}

fn framed(wire: Wire) -> Framed {
    wire.read_within(tunnels::STALL);
    wire.write_within(tunnels::STALL);
    Framed::new(wire)
}

/// 64 MiB one way, the end of that direction, then 64 MiB the other way.
fn half_close(first: &mut (impl Leg + 'static), second: impl Leg + 'static) {
    let mut second = second;
    let listening = std::thread::spawn(move || {
        let heard = tunnels::listen_then_speak(&mut second, 12, 64 * MIB);
        (heard, second)
    });
    assert_eq!(tunnels::speak_then_listen(first, 11, 64 * MIB).unwrap(), Heard::pattern(12, 64 * MIB));
    assert_eq!(listening.join().unwrap().0.unwrap(), Heard::pattern(11, 64 * MIB));
}

#[test]
fn t1_framed_ingress_the_client_ends_first() {
    let pair = Pair::start();
    let (mut tcp, enclave) = pair.ingress();
    half_close(&mut tcp, enclave);
}

#[test]
fn t2_framed_ingress_the_enclave_ends_first() {
    let pair = Pair::start();
    let (tcp, mut enclave) = pair.ingress();
    half_close(&mut enclave, tcp);
}

#[test]
fn t1_framed_egress_the_enclave_ends_first() {
    let pair = Pair::start();
    let (tcp, mut enclave) = pair.egress();
    half_close(&mut enclave, tcp);
}

#[test]
fn t2_framed_egress_the_server_ends_first() {
    let pair = Pair::start();
    let (mut tcp, enclave) = pair.egress();
    half_close(&mut tcp, enclave);
}

#[test]
fn both_ends_close_the_socket() {
    let pair = Pair::start();
    for (mut tcp, mut enclave) in [pair.ingress(), pair.egress()] {
        enclave.write_all(b"hello").unwrap();
        enclave.end_writing();
        let mut there = Vec::new();
        tcp.read_to_end(&mut there).unwrap();
        assert_eq!(there, b"hello");
        drop(tcp);
        assert_eq!(enclave.read_header().unwrap(), 0);
        assert_eq!(enclave.wire().read(&mut [0]).unwrap(), 0, "nothing follows the end but the socket's");
    }
}

#[test]
fn t3_the_enclaves_reset_and_whatever_is_no_record_are_resets_and_cost_only_their_stream() {
    let pair = Pair::start();
    let (mut bystander, mut its_enclave) = pair.ingress();
    let endings: [&[u8]; 6] = [b"\xFF\xFF", b"\xFF\x7F", b"\x00\x80", b"\xFE\xFF", b"\x05\0abc", b""];
    for last in endings {
        for (mut tcp, mut enclave) in [pair.ingress(), pair.egress()] {
            enclave.write_all(b"first").unwrap();
            let mut first = [0; 5];
            tcp.read_exact(&mut first).unwrap();
            enclave.wire().write_all(last).unwrap();
            if last.len() != 2 {
                // Cut off within a record, or between two: the end of the socket is no end of the stream.
                drop(enclave);
            }
            let (_, error) = tunnels::read_out(&mut tcp);
            assert_eq!(error, Some(ErrorKind::ConnectionReset), "{last:?}");
        }
    }
    bystander.write_all(b"ping").unwrap();
    let mut there = [0; 4];
    its_enclave.read_exact(&mut there).unwrap();
    its_enclave.write_all(&there).unwrap();
    bystander.read_exact(&mut there).unwrap();
    assert_eq!(there, *b"ping");
    assert_eq!(pair.enclave.complaint(), None);
}

#[test]
fn t3_a_reset_of_the_tcp_peer_is_one_for_the_enclave() {
    let pair = Pair::start();
    for (mut tcp, mut enclave) in [pair.ingress(), pair.egress()] {
        tcp.write_all(b"x").unwrap();
        enclave.read_exact(&mut [0]).unwrap();
        peers::reset(tcp);
        assert_eq!(tunnels::read_out(&mut enclave), (0, Some(ErrorKind::ConnectionReset)));
    }
}

#[test]
fn the_bridges_death_is_no_end_for_the_enclave() {
    let mut pair = Pair::start();
    let (mut tcp, mut enclave) = pair.ingress();
    // The relay runs: the bridge has read all that it was sent.
    tcp.write_all(b"x").unwrap();
    enclave.read_exact(&mut [0]).unwrap();
    pair.bridge.kill();
    assert_eq!(tunnels::read_out(&mut enclave), (0, Some(ErrorKind::UnexpectedEof)));
    drop(tcp);
}

#[test]
fn the_proxy_header_stands_raw_before_the_first_record() {
    let pair = Pair::with(|settings| Settings { proxy_v2: true, ..settings });
    let (mut tcp, mut enclave) = pair.ingress();
    tcp.write_all(b"x").unwrap();
    let mut header = [0; 28];
    enclave.wire().read_exact(&mut header).unwrap();
    assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C");
    let from = tcp.local_addr().unwrap().port();
    assert_eq!(header[24..26], from.to_be_bytes());
    let mut record = [0; 3];
    enclave.wire().read_exact(&mut record).unwrap();
    assert_eq!(record, *b"\x01\0x");
}

#[test]
fn records_in_the_segment_of_the_address_line_belong_to_the_stream() {
    let pair = Pair::start();
    let server = Server::echo();
    let payload = vec![7; 5000];
    for (record, more) in [(&payload[..3], 0), (&payload[..], 0), (&payload[..3], 1), (&payload[..900], 3)] {
        let mut wire = pair.enclave.meeting.dial_host(5002).unwrap();
        wire.read_within(tunnels::STALL);
        let mut message = format!("{}\n", server.target()).into_bytes();
        message.extend_from_slice(&u16::try_from(record.len()).unwrap().to_le_bytes());
        message.extend_from_slice(record);
        message.extend_from_slice(&[0, 0]);
        // With a part of the first record only, the rest follows later.
        let cut = if more == 0 { message.len() } else { message.len() - record.len() - 3 };
        wire.write_all(&message[..cut]).unwrap();
        let mut answer = [0; 2];
        wire.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *ACK);
        wire.write_all(&message[cut..]).unwrap();
        let mut back = Vec::new();
        framed(wire).read_to_end(&mut back).unwrap();
        assert_eq!(back, record);
    }
}

/// A hundred clients whose downloads run when the enclave's process is killed: each must see that its file is short.
#[test]
fn t3_a_killed_enclave_is_a_reset_for_every_client() {
    const CLIENTS: usize = 100;
    let bridge = Bridge::builder().start();
    let mut enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let running = Arc::new(AtomicUsize::new(0));
    let address = enclave.address;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let running = Arc::clone(&running);
            std::thread::spawn(move || {
                let mut stream = tunnels::tcp(address);
                // An echo of unknown length: without a reset, its end would look like the end of the file.
                stream.write_all(b"POST /echo HTTP/1.0\r\ncontent-length: 1000000000\r\n\r\n").unwrap();
                let mut writing = stream.try_clone().unwrap();
                // Over before the kill: an error belongs to the first call that meets it, and that is to be the read.
                let speaking = std::thread::spawn(move || writing.write_all(&vec![b'x'; 512 * 1024]).unwrap());
                let mut piece = vec![0; 512 * 1024];
                stream.read_exact(&mut piece).expect("the download runs");
                speaking.join().unwrap();
                running.fetch_add(1, Ordering::SeqCst);
                let (_, error) = tunnels::read_out(&mut stream);
                error
            })
        })
        .collect();
    enclave_bridge_e2e::wait::until("all downloads", Duration::from_secs(60), || {
        running.load(Ordering::SeqCst) == CLIENTS
    });
    enclave.kill();
    for client in clients {
        assert_eq!(client.join().unwrap(), Some(ErrorKind::ConnectionReset));
    }
}
