//! Dialling over the hybrid transport, against the guest's end served here and against peers that misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{LONG, Seen, bytes, drain, until};
use enclave_bridge_net::{
    DialCause, DialError, DialStage, GUEST_UNFINISHED_MAX, HybridGuest, Listen, Listener, Origin, Peer, RegisterError,
    Route, Scope, dial,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.sock");
    (directory, path)
}

fn to_guest(path: &Path) -> Route {
    Route::HybridHost { uds_path: path.to_path_buf() }
}

fn soon() -> Instant {
    Instant::now() + LONG
}

#[tokio::test]
async fn the_host_reaches_a_port_of_the_guest_and_no_byte_is_lost_behind_the_answer() {
    let (_directory, path) = place();
    let scope = Scope::root("test");
    let guest = HybridGuest::bind(&path, &scope).unwrap();
    let mut listener = guest.register(8080).unwrap();
    for round in 0..200 {
        let banner = bytes(round, 10_000);
        let serving = async {
            let (mut stream, origin) = listener.accept().await.unwrap();
            assert_eq!(origin, Origin::Peer(Peer::Path(Arc::from(path.as_path()))));
            // A server that speaks first.
            stream.write_all(&banner).await.unwrap();
            stream.shutdown().await.unwrap();
            drain(&mut stream).await
        };
        let dialling = async {
            let mut stream = dial(&to_guest(&path), 8080, soon()).await.unwrap();
            stream.write_all(b"request").await.unwrap();
            stream.shutdown().await.unwrap();
            drain(&mut stream).await
        };
        let (request, answer) = timeout(LONG, async { tokio::join!(serving, dialling) }).await.unwrap();
        assert_eq!(request, Seen::whole(b"request"));
        assert_eq!(answer, Seen::whole(&banner));
    }
}

/// The answer and the server's first bytes in one segment, split everywhere.
#[tokio::test]
async fn bytes_in_the_answers_segment_stay_with_the_stream() {
    let wire = b"OK 1073741824\nbanner\nand more";
    for cut in 0..wire.len() {
        let (_directory, path) = place();
        let server = UnixListener::bind(&path).unwrap();
        let serving = async {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut request = [0; 13];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"CONNECT 8080\n");
            stream.write_all(&wire[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(&wire[cut..]).await.unwrap();
        };
        let route = to_guest(&path);
        let (stream, ()) = tokio::join!(dial(&route, 8080, soon()), serving);
        assert_eq!(drain(&mut stream.unwrap()).await, Seen::whole(&wire[14..]), "cut at {cut}");
    }
}

/// A client that does not wait for the answer: what follows its request belongs to the stream.
#[tokio::test]
async fn bytes_in_the_requests_segment_stay_with_the_stream() {
    let (_directory, path) = place();
    let scope = Scope::root("test");
    let guest = HybridGuest::bind(&path, &scope).unwrap();
    let mut listener = guest.register(8080).unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(b"CONNECT 8080\nGET / HTTP/1.1\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    assert_eq!(drain(&mut stream).await, Seen::whole(b"GET / HTTP/1.1\r\n"));
    let mut answer = [0; 14];
    client.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"OK ") && answer.ends_with(b"\n"));
}

#[tokio::test]
async fn the_guest_reaches_a_port_of_the_host() {
    let (_directory, path) = place();
    let mut host = Listener::bind(&Listen::Hybrid { uds_path: path.clone(), port: 5000 }).unwrap();
    let route = Route::HybridGuest { uds_path: path.clone() };
    let mut stream = dial(&route, 5000, soon()).await.unwrap();
    let (mut accepted, origin) = host.accept().await.unwrap();
    assert_eq!(origin, Origin::Peer(Peer::Path(Arc::from(path.as_path()))));
    stream.write_all(b"hello").await.unwrap();
    drop(stream);
    assert_eq!(drain(&mut accepted).await, Seen::whole(b"hello"));
}

async fn refused(route: &Route) -> DialError {
    timeout(LONG, dial(route, 1234, soon())).await.unwrap().expect_err("a stream from nowhere")
}

#[tokio::test]
async fn errors_name_the_stage() {
    let (_directory, path) = place();
    let error = refused(&to_guest(&path)).await;
    assert_eq!(error.stage, DialStage::Connect);
    assert!(matches!(&error.cause, DialCause::Io(error) if error.kind() == io::ErrorKind::NotFound));
    assert!(error.to_string().starts_with(&format!("dial {} port 1234: connect: ", path.display())), "{error}");

    let scope = Scope::root("test");
    let guest = HybridGuest::bind(&path, &scope).unwrap();
    let error = refused(&to_guest(&path)).await;
    // Nobody has registered the port: closed without an answer.
    assert_eq!(error.stage, DialStage::Answer);
    assert!(matches!(&error.cause, DialCause::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused));
    drop(guest);
}

/// A guest's end that answers `answer` and then keeps the connection open.
async fn answered(answer: &[u8], deadline: Duration) -> Result<(), DialError> {
    let (_directory, path) = place();
    let server = UnixListener::bind(&path).unwrap();
    let serving = async {
        let (mut stream, _) = server.accept().await.unwrap();
        stream.write_all(answer).await.unwrap();
        std::future::pending::<()>().await;
    };
    let route = to_guest(&path);
    tokio::select! {
        dialled = dial(&route, 1234, Instant::now() + deadline) => dialled.map(drop),
        () = serving => Ok(()),
    }
}

#[tokio::test]
async fn garbage_for_an_answer_is_refused() {
    answered(b"OK 1\n", LONG).await.unwrap();
    answered(b"OK 4294967295\n", LONG).await.unwrap();
    let answers: [&[u8]; 9] = [
        b"\n",
        b"OK\n",
        b"OK \n",
        b"ok 1\n",
        b"OK -1\n",
        b"OK 99999999999\n",
        b"OK 1\r\n",
        b"\xff\xfe\n",
        &[b'x'; 4096],
    ];
    for answer in answers {
        let error = answered(answer, LONG).await.unwrap_err();
        assert_eq!(error.stage, DialStage::Answer, "{answer:?}");
        assert!(matches!(error.cause, DialCause::BadAnswer), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn silence_and_a_half_answer_end_at_the_deadline() {
    for answer in [&b""[..], b"OK 12"] {
        let error = answered(answer, Duration::from_millis(500)).await.unwrap_err();
        assert_eq!(error.stage, DialStage::Answer);
        assert!(matches!(error.cause, DialCause::TimedOut), "{error}");
    }
}

#[tokio::test]
async fn a_drip_of_an_answer_ends_at_the_deadline_too() {
    let (_directory, path) = place();
    let server = UnixListener::bind(&path).unwrap();
    let serving = async {
        let (mut stream, _) = server.accept().await.unwrap();
        for byte in b"OK 0000000".iter().cycle().take(30) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    let route = to_guest(&path);
    let error = tokio::select! {
        dialled = dial(&route, 1, Instant::now() + Duration::from_millis(200)) => dialled.unwrap_err(),
        () = serving => panic!("server ended"),
    };
    assert!(matches!(error.cause, DialCause::TimedOut), "{error}");
}

/// A Unix listener whose backlog is full answers EAGAIN; the dial waits for room, and for no longer than its deadline.
#[tokio::test]
async fn a_full_backlog_is_waited_for() {
    let (_directory, path) = place();
    let route = Route::HybridGuest { uds_path: path.clone() };
    let server = UnixListener::bind(format!("{}_7", path.display())).unwrap();
    SockRef::from(&server).listen(0).unwrap();
    let _first = dial(&route, 7, soon()).await.unwrap();
    let error = dial(&route, 7, Instant::now() + Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.stage, DialStage::Connect);
    assert!(matches!(error.cause, DialCause::TimedOut), "{error}");

    let dialling = dial(&route, 7, soon());
    let accepting = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.accept().await.unwrap();
    };
    let (dialled, ()) = timeout(LONG, async { tokio::join!(dialling, accepting) }).await.unwrap();
    dialled.unwrap();
}

#[tokio::test]
async fn a_port_has_one_listener_and_is_free_after_it() {
    let (_directory, path) = place();
    let scope = Scope::root("test");
    let guest = HybridGuest::bind(&path, &scope).unwrap();
    let listener = guest.register(1).unwrap();
    assert_eq!(guest.register(1).unwrap_err(), RegisterError::InUse { port: 1 });
    let _other = guest.register(2).unwrap();
    drop(listener);
    let mut listener = guest.register(1).unwrap();

    scope.cancel();
    timeout(LONG, scope.join()).await.unwrap();
    assert!(!path.exists());
    timeout(LONG, listener.accept()).await.unwrap().unwrap_err();
    assert_eq!(guest.register(3).unwrap_err(), RegisterError::Ended { port: 3 });
}

#[tokio::test]
async fn the_guest_ends_with_its_last_handle() {
    let (_directory, path) = place();
    let scope = Scope::root("test");
    let guest = HybridGuest::bind(&path, &scope).unwrap();
    let listener = guest.register(1).unwrap();
    let _unfinished = UnixStream::connect(&path).await.unwrap();
    drop(guest);
    assert!(path.exists(), "a listener is left");
    drop(listener);
    timeout(LONG, scope.join()).await.unwrap();
    assert!(!path.exists());
}

/// Requests that never finish occupy a bounded number of tasks, and the port answers again once they are gone.
#[tokio::test]
async fn a_thousand_unfinished_requests_are_bounded() {
    // Both ends are in this process; the usual soft limit is 1024.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard).unwrap();
    let (_directory, path) = place();
    let scope = Scope::root("test");
    let guest = HybridGuest::bind(&path, &scope).unwrap();
    let mut listener = guest.register(8080).unwrap();
    let mut unfinished = Vec::new();
    for n in 0..1000 {
        let mut client = UnixStream::connect(&path).await.unwrap();
        if n % 2 == 0 {
            client.write_all(b"CONNECT 80").await.unwrap();
        }
        unfinished.push(client);
    }
    until("all slots taken", || scope.tasks() == GUEST_UNFINISHED_MAX + 1).await;
    drop(unfinished);
    let route = to_guest(&path);
    let (accepted, dialled) = tokio::join!(timeout(LONG, listener.accept()), timeout(LONG, dial(&route, 8080, soon())));
    accepted.unwrap().unwrap();
    dialled.unwrap().unwrap();
    until("requests are gone", || scope.tasks() == 1).await;
}

/// Garbage, silence and drips for a request cost only their own connection.
#[tokio::test]
async fn bad_requests_are_closed() {
    let (_directory, path) = place();
    let scope = Scope::root("test");
    let guest = HybridGuest::bind(&path, &scope).unwrap();
    let _listener = guest.register(8080).unwrap();
    let requests: [&[u8]; 6] =
        [b"\n", b"GET / HTTP/1.1\r\n", b"CONNECT x\n", b"CONNECT 4294967296\n", b"CONNECT 1\n", &[0; 64]];
    for request in requests {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(request).await.unwrap();
        let mut answer = [0];
        let read = timeout(LONG, client.read(&mut answer)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{request:?} was answered");
    }
}
