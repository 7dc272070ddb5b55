//! TCP servers for an enclave to dial, each with one habit.

use crate::bytes;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A server that runs until it is dropped.
pub struct Server {
    /// Where it listens, on 127.0.0.1.
    pub address: SocketAddr,
    accepted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Runs `habit` for each connection, in its own thread.
    #[must_use]
    pub fn start(habit: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a local port");
        let address = listener.local_addr().expect("bound");
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (habit, stopped, counted) = (Arc::new(habit), stop.clone(), accepted.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let habit = habit.clone();
                std::thread::spawn(move || habit(stream));
            }
        });
        Server { address, accepted, stop }
    }

    /// `127.0.0.1:port`, as an address line has it.
    #[must_use]
    pub fn target(&self) -> String {
        self.address.to_string()
    }

    /// Connections so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Sends back what comes, then the end.
    #[must_use]
    pub fn echo() -> Server {
        Server::start(|stream| echo(&stream))
    }

    /// Sends `banner` before anything was said, then echoes.
    #[must_use]
    pub fn banner(banner: Vec<u8>) -> Server {
        Server::start(move |mut stream| {
            if stream.write_all(&banner).is_ok() {
                echo(&stream);
            }
        })
    }

    /// Reads one HTTP request head, answers 200 with `body`, and closes.
    #[must_use]
    pub fn http(body: Vec<u8>) -> Server {
        Server::start(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(&http_answer(&body));
        })
    }

    /// Sends a whole HTTP answer before it has read a byte of the request.
    #[must_use]
    pub fn http_that_speaks_first(body: Vec<u8>) -> Server {
        Server::start(move |mut stream| {
            let _ = stream.write_all(&http_answer(&body));
            let _ = stream.shutdown(Shutdown::Write);
            let _ = bytes::hash_of(&mut stream);
        })
    }

    /// Accepts, and says and reads nothing until the other end is gone or the test is.
    #[must_use]
    pub fn silent() -> Server {
        let held: Arc<std::sync::Mutex<Vec<TcpStream>>> = Arc::default();
        Server::start(move |stream| held.lock().expect("no panic").push(stream))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Sends back what comes, then the end.
pub fn echo(stream: &TcpStream) {
    let _ = bytes::copy(&mut &*stream, &mut &*stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Closes with a reset instead of an end.
pub fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).expect("linger 0");
    drop(stream);
}

/// A 200 with a length and `connection: close`.
#[must_use]
pub fn http_answer(body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// Reads up to the empty line of a request.
pub fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 * 1024 && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A listener whose queue is full: connecting to it neither succeeds nor fails.
pub struct Full {
    /// Where it does not answer, on 127.0.0.1.
    pub address: SocketAddrV4,
    _listener: OwnedFd,
    _queued: Vec<OwnedFd>,
}

impl Full {
    /// Fills the queue.
    #[must_use]
    pub fn start() -> Full {
        let any = SockaddrIn::new(127, 0, 0, 1, 0);
        let new = |flags| socket::socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        let listener = new(SockFlag::SOCK_CLOEXEC);
        socket::bind(listener.as_raw_fd(), &any).unwrap();
        socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let bound: SockaddrIn = socket::getsockname(listener.as_raw_fd()).unwrap();
        let queued = (0..8)
            .map(|_| {
                let socket = new(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
                // "In progress" is what is wanted.
                let _ = socket::connect(socket.as_raw_fd(), &bound);
                socket
            })
            .collect();
        Full { address: SocketAddrV4::new(bound.ip(), bound.port()), _listener: listener, _queued: queued }
    }
}
