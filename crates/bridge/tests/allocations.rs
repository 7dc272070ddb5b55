//! What a connection and a handshake ask of the allocator, in a daemon of one thread, against bounds that were recorded.
//!
//! A count, not a time: the same on a busy machine. The enclave and the clients are threads of their own and are not counted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, its setup too, and shows its figures"
)]

mod ports;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use enclave_bridge::app::{App, BoundSockets, Ending, Means};
use enclave_bridge::config::{Command, from_process_with};
use enclave_bridge_net::Workers;
use tokio::sync::oneshot;

const ACK: &[u8] = b"\x06\n";

/// Far above anything a passing test takes.
const LONG: Duration = Duration::from_secs(60);

/// Allocations of a connection from its accept to its end, one message there and back included. Measured: 8.0.
const PER_CONNECTION: u64 = 9;

/// Bytes of them. Measured: 1,581.
const BYTES_PER_CONNECTION: u64 = 1800;

/// Allocations of a handshake that replaces a session, with the session's beginning and its end. Measured: 174.0.
const PER_HANDSHAKE: u64 = 190;

/// What the daemon asks for while `peers` do their work, above what it asks for while they do nothing.
fn counted(peers: impl FnOnce(&Path, u16) + Send + 'static) -> AllocationInfo {
    let folder = tempfile::tempdir().unwrap();
    let uds_path = folder.path().join("enclave");
    let arguments = ["enclave-bridge", "--monitor", "127.0.0.1:1", "--ingress-address", "127.0.0.1", "--uds-path"];
    let mut arguments: Vec<_> = arguments.iter().map(std::ffi::OsString::from).collect();
    arguments.push(uds_path.clone().into());
    let Ok(Command::Run(config, _)) = from_process_with(arguments, Vec::new(), &folder.path().join("none.toml")) else {
        panic!("the configuration is in order")
    };
    let enclave = UnixListener::bind(&uds_path).unwrap();
    std::thread::spawn(move || {
        for stream in enclave.incoming() {
            std::thread::spawn(move || echo(stream.unwrap()));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let monitor = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let entered = runtime.enter();
    let means = Means { descriptors: 1024, workers: Workers::none() };
    let (app, listeners) = App::over(BoundSockets::bind(&config).unwrap(), &config, &[], means, monitor).unwrap();
    drop(entered);
    let (over, is_over) = oneshot::channel::<()>();
    let port = ports::free();
    let working = std::thread::spawn(move || {
        shake_hands(&uds_path, port);
        peers(&uds_path, port);
        drop(over);
    });
    let mut ending = None;
    let counts = measure(|| {
        let drain = async { drop(is_over.await) };
        ending = Some(runtime.block_on(app.run(listeners, drain, std::future::pending())));
    });
    working.join().unwrap();
    assert_eq!(ending, Some(Ending::Drained { cut: 0 }));
    counts
}

/// The enclave's end of a stream.
fn echo(stream: UnixStream) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut reader = BufReader::new(&stream);
    reader.read_until(b'\n', &mut Vec::new()).unwrap();
    (&stream).write_all(b"OK 1073741824\n").unwrap();
    let mut bytes = [0; 256];
    while let Ok(count) = reader.read(&mut bytes) {
        if count == 0 || (&stream).write_all(bytes.get(..count).unwrap()).is_err() {
            return;
        }
    }
}

fn shake_hands(uds_path: &Path, tcp_port: u16) {
    let init = PathBuf::from(format!("{}_5000", uds_path.display()));
    let mut stream = BufReader::new(UnixStream::connect(init).unwrap());
    stream.get_ref().set_read_timeout(Some(LONG)).unwrap();
    stream.get_mut().write_all(ACK).unwrap();
    stream.read_until(b'\n', &mut Vec::new()).unwrap();
    let settings = format!(
        concat!(
            r#"{{"appName":"a","watchdog":{{"enclaveId":"00000000-0000-4000-8000-000000000001","interval":3600000000000}},"#,
            r#""logger":{{"level":"info"}},"#,
            r#""servers":[{{"enclaveCid":16,"enclaveListenPort":5001,"bridgeTcpPort":{}}}],"#,
            r#""clients":[{{"enclaveDialPort":5002,"requestTimeout":0}}]}}"#,
            "\n"
        ),
        tcp_port
    );
    stream.get_mut().write_all(settings.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_until(b'\n', &mut answer).unwrap();
    assert_eq!(answer, ACK, "{}", String::from_utf8_lossy(&answer));
}

/// One message there and back, then the end of both directions.
fn connect(tcp_port: u16) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, tcp_port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"message").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"message");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut answer).unwrap(), 0);
}

/// What `times` of it cost more than a tenth of that, for each: what happens once is in both.
fn each(times: u64, work: impl Fn(&Path, u16) + Send + Clone + 'static) -> (u64, u64) {
    let run = |times: u64| {
        let work = work.clone();
        counted(move |uds_path, port| (0..times).for_each(|_| work(uds_path, port)))
    };
    let (few, many) = (run(times / 10), run(times));
    let done = times - times / 10;
    // Rounded up: half an allocation too many is one too many.
    let (allocations, bytes) = (many.count_total - few.count_total, many.bytes_total - few.bytes_total);
    println!("{allocations} allocations of {bytes} bytes in {done} times");
    (allocations.div_ceil(done), bytes.div_ceil(done))
}

#[test]
fn a_connection_takes_few_allocations() {
    let (allocations, bytes) = each(200, |_, port| connect(port));
    assert!(allocations > 0, "nothing was counted");
    assert!(allocations <= PER_CONNECTION, "{allocations} allocations for each connection");
    assert!(bytes <= BYTES_PER_CONNECTION, "{bytes} bytes for each connection");
}

#[test]
fn a_handshake_takes_a_bounded_number_of_allocations() {
    let (allocations, _) = each(100, shake_hands);
    assert!(allocations > 0, "nothing was counted");
    assert!(allocations <= PER_HANDSHAKE, "{allocations} allocations for each handshake");
}

#[test]
fn messages_take_none() {
    let (allocations, _) = each(400, |_, port| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        for _ in 0..20 {
            stream.write_all(b"m").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    assert!(allocations <= PER_CONNECTION, "{allocations} allocations for a connection of forty messages");
}
