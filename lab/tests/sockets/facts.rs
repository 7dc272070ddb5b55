//! One fact per test, for every family; where our code relies on one, it is asserted.

use crate::family::{Door, Family, Sock, dial_with_window, said};
use enclave_bridge_e2e::bytes::{Pattern, hash_of};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

/// Prints what `probe` finds in each family and gives what it found for vsock.
fn fact(feature: &str, probe: impl Fn(Family) -> String) -> String {
    let mut vsock = String::new();
    for family in Family::ALL {
        let found = probe(family);
        println!("fact\t{feature}\t{}\t{found}", family.name());
        if family == Family::Vsock {
            vsock = found;
        }
    }
    vsock
}

/// The same for what only vsock has.
fn fact_of_vsock(feature: &str, probe: impl Fn() -> String) -> String {
    fact(feature, |family| if family == Family::Vsock { probe() } else { "-".to_owned() })
}

/// What a read meets: "end", a number of bytes, or an error.
fn read(sock: &mut Sock) -> String {
    match sock.read(&mut [0; 4096]) {
        Ok(0) => "end".to_owned(),
        Ok(n) => format!("{n} bytes"),
        Err(error) => said::<()>(&Err(error)),
    }
}

fn kib(bytes: usize) -> String {
    if bytes < 4096 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) }
}

/// Writes pieces until the socket takes no more, or `most` bytes; how much, and why it stopped.
fn fill(sock: &mut Sock, piece: usize, most: usize) -> (usize, String) {
    sock.nonblocking();
    let piece = vec![7; piece];
    let mut total = 0;
    while total < most {
        match sock.write(&piece) {
            Ok(n) => total += n,
            Err(error) => return (total, said::<()>(&Err(error))),
        }
    }
    (total, "no end of it".to_owned())
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn a_half_close_leaves_the_other_direction() {
    let found = fact("half-close, then 1 MiB the other way", |family| {
        let (mut a, mut b) = family.pair();
        a.write_all(b"last words").unwrap();
        a.end_writing().unwrap();
        let mut heard = Vec::new();
        let end = b.read_to_end(&mut heard);
        let sending = std::thread::spawn(move || io::copy(&mut Pattern::new(1, MIB), &mut b));
        let back = hash_of(&mut a);
        let sent = sending.join().unwrap();
        match back {
            Ok((hash, length)) if heard == b"last words" && length == MIB && hash == Pattern::hash(1, MIB) => {
                "arrives whole".to_owned()
            }
            back => format!("{}, {}, {}", said(&end), said(&sent), said(&back)),
        }
    });
    assert_eq!(found, "arrives whole");
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn a_close_delivers_what_was_written() {
    let found = fact("128 KiB written, then closed; read later", |family| {
        let (mut a, mut b) = family.pair();
        a.write_all(&[5; 128 * 1024]).unwrap();
        drop(a);
        let whole = hash_of(&mut b);
        match whole {
            Ok((_, length)) if length == 128 * 1024 => "arrives whole".to_owned(),
            Ok((_, length)) => format!("{length} B"),
            Err(_) => said(&whole),
        }
    });
    assert_eq!(found, "arrives whole");
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn a_close_with_bytes_unread() {
    fact("peer closes with our bytes unread: read", |family| {
        let (mut a, b) = family.pair();
        a.write_all(b"never read").unwrap();
        drop(b);
        read(&mut a)
    });
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn a_close_with_linger_zero() {
    fact("peer closes with linger 0: read", |family| {
        let (mut a, b) = family.pair();
        let set = b.linger_zero();
        drop(b);
        if set.is_ok() { read(&mut a) } else { said(&set) }
    });
    fact("10 bytes, then a close with linger 0: read, read", |family| {
        let (mut a, mut b) = family.pair();
        b.write_all(b"ten bytes!").unwrap();
        drop(b.linger_zero());
        drop(b);
        format!("{}, {}", read(&mut a), read(&mut a))
    });
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn after_the_peer_has_gone() {
    fact("peer has closed: write, write", |family| {
        let (mut a, b) = family.pair();
        drop(b);
        assert_eq!(read(&mut a), "end", "{family:?}");
        let first = a.write(b"x");
        let second = a.write(b"x");
        format!("{}, {}", said(&first), said(&second))
    });
    let found = fact("peer has closed: shutdown of writing", |family| {
        let (mut a, b) = family.pair();
        drop(b);
        assert_eq!(read(&mut a), "end", "{family:?}");
        said(&a.end_writing())
    });
    // The relay takes both for an end that needs no passing on.
    assert!(["ok", "ENOTCONN"].contains(&found.as_str()), "{found}");
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn where_nobody_listens() {
    fact("connect to a port that nobody listens on", |family| {
        let door = family.listen();
        match door {
            Door::Unix(socket, path) => {
                drop(socket);
                let door = Door::Unix(std::os::unix::net::UnixListener::bind(path.with_extension("2")).unwrap(), path);
                said(&door.dial())
            }
            Door::Tcp(socket) => {
                let address = socket.local_addr().unwrap();
                drop(socket);
                said(&std::net::TcpStream::connect(address))
            }
            Door::Vsock(socket) => {
                let port = socket.local_addr().unwrap().port();
                drop(socket);
                said(&vsock::VsockStream::connect_with_cid_port(vsock::VMADDR_CID_LOCAL, port))
            }
        }
    });
    for (cid, whose) in [(2, "the host"), (3, "Nitro's parent"), (77, "nobody")] {
        let found = fact_of_vsock(&format!("connect to CID {cid} ({whose}) in a guest without a device"), || {
            let start = Instant::now();
            let answer = vsock::VsockStream::connect_with_cid_port(cid, 5000);
            let took = start.elapsed();
            assert!(took < Duration::from_secs(20), "{took:?}");
            let seconds = if took < Duration::from_secs(1) {
                "at once".to_owned()
            } else {
                format!("after {} s", took.as_secs())
            };
            format!("{} {seconds}", said(&answer))
        });
        assert!(!found.starts_with("ok"), "{found}");
    }
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn a_full_backlog() {
    fact("backlog of 2 and nobody accepts: connections, then", |family| {
        let door = family.listen();
        door.set_backlog(2);
        let mut held = Vec::new();
        loop {
            match door.dial() {
                Ok(sock) if held.len() < 16 => held.push(sock),
                Ok(_) => return "more than 16".to_owned(),
                Err(error) => return format!("{}, {}", held.len(), said::<()>(&Err(error))),
            }
        }
    });
    fact("listener closed before it accepted: read", |family| {
        let door = family.listen();
        let mut a = door.dial().unwrap();
        drop(door);
        read(&mut a)
    });
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn places_are_free_again() {
    fact("second listener at the same place", |family| {
        let door = family.listen();
        match &door {
            Door::Tcp(socket) => said(&std::net::TcpListener::bind(socket.local_addr().unwrap())),
            Door::Unix(_, path) => said(&std::os::unix::net::UnixListener::bind(path)),
            Door::Vsock(_) => said(&bind_vsock(door.vsock_port())),
        }
    });
    let found = fact_of_vsock("listener closed, its connections live: bind again", || {
        let door = Family::Vsock.listen();
        let port = door.vsock_port();
        let held = (door.dial().unwrap(), door.accept());
        drop(door);
        let again = bind_vsock(port);
        drop(held);
        said(&again)
    });
    assert_eq!(found, "ok", "a session that is replaced takes its ports again while streams of the last one end");
}

fn bind_vsock(port: Option<u32>) -> io::Result<vsock::VsockListener> {
    vsock::VsockListener::bind_with_cid_port(vsock::VMADDR_CID_ANY, port.unwrap())
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn what_is_buffered() {
    const MOST: usize = 8 * 1024 * 1024;
    fact("bytes taken unread, in writes of 64 KiB", |family| {
        let (mut a, _b) = family.pair();
        let (bytes, why) = fill(&mut a, 64 * 1024, MOST);
        format!("{}, {why}", kib(bytes))
    });
    fact("bytes taken unread, in writes of 100 B", |family| {
        let (mut a, _b) = family.pair();
        let (bytes, why) = fill(&mut a, 100, 512 * 1024);
        format!("{}, {why}", kib(bytes))
    });
    fact("bytes taken unread, in writes of 1 B", |family| {
        let (mut a, _b) = family.pair();
        let (bytes, why) = fill(&mut a, 1, 300_000);
        format!("{}, {why}", kib(bytes))
    });
    fact("one write of 1 MiB: bytes taken", |family| {
        let (mut a, _b) = family.pair();
        a.nonblocking();
        a.write(&vec![1; 1024 * 1024]).map_or_else(|error| said::<()>(&Err(error)), kib)
    });
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn a_window_that_is_raised() {
    const WINDOW: u64 = MIB;
    let ends = [(true, true, "both ends"), (true, false, "the sender"), (false, true, "the receiver")];
    for (sender, receiver, which) in ends {
        let found = fact_of_vsock(&format!("window of 1 MiB at {which}: bytes taken unread"), || {
            let door = Family::Vsock.listen();
            if receiver {
                door.set_window(WINDOW);
            }
            let mut a = match door.vsock_port() {
                Some(port) if sender => dial_with_window(port, WINDOW),
                _ => door.dial().unwrap(),
            };
            let _b = door.accept();
            kib(fill(&mut a, 32 * 1024, 8 * 1024 * 1024).0)
        });
        if sender && receiver {
            assert_eq!(found, "1024 KiB");
        }
    }
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn single_bytes_arrive_whole() {
    let found = fact("10,000 writes of 1 B, read as they come", |family| {
        let (mut a, mut b) = family.pair();
        let sending = std::thread::spawn(move || {
            let mut piece = [0];
            let mut pattern = Pattern::new(2, 10_000);
            while let Ok(1) = pattern.read(&mut piece) {
                a.write_all(&piece)?;
            }
            io::Result::Ok(())
        });
        let heard = hash_of(&mut b);
        let sent = sending.join().unwrap();
        match heard {
            Ok((hash, _)) if hash == Pattern::hash(2, 10_000) => "arrive whole".to_owned(),
            heard => format!("sent {}, heard {}", said(&sent), said(&heard)),
        }
    });
    assert_eq!(found, "arrive whole");
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn credit_comes_back_as_the_reader_reads() {
    let found = fact("16 MiB to a reader of 1,000 B at a time", |family| {
        let (mut a, mut b) = family.pair();
        let sending = std::thread::spawn(move || io::copy(&mut Pattern::new(3, 16 * MIB), &mut a));
        let mut slow = Small(&mut b);
        let heard = hash_of(&mut slow);
        drop(sending.join().unwrap());
        match heard {
            Ok((hash, _)) if hash == Pattern::hash(3, 16 * MIB) => "arrive whole".to_owned(),
            heard => said(&heard),
        }
    });
    assert_eq!(found, "arrive whole");
}

struct Small<'a>(&'a mut Sock);

impl Read for Small<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(1000);
        self.0.read(&mut buffer[..room])
    }
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn the_peer_that_the_kernel_names() {
    let found = fact_of_vsock("the accepted peer's CID over loopback", || {
        let door = Family::Vsock.listen();
        let _a = door.dial().unwrap();
        door.accept_from().map_or("none".to_owned(), |address| address.cid().to_string())
    });
    assert_eq!(found, "1");
}
