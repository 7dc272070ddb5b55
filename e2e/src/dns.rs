//! A name server of a test's own, over UDP and TCP, that answers as it is told and misbehaves on order.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The first label of the name.
    pub label: String,
    /// Whether IPv6 addresses are asked for, and not IPv4 ones.
    pub v6: bool,
    /// Whether it came over TCP.
    pub tcp: bool,
}

/// What is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These addresses (those of the other family are left out), with a life of zero seconds.
    Addresses(Vec<IpAddr>),
    /// This response code without records: 2 a failure of the server, 3 no such name, 5 refused.
    Code(u8),
    /// An empty answer that says it was cut, so that the question is asked again over TCP.
    Cut,
    /// The name is another name for this label of the same domain.
    Alias(String),
    /// The first half of an answer.
    Half,
    /// Nothing.
    Silence,
}

/// A server that runs until the test's process ends.
#[derive(Debug)]
pub struct NameServer {
    questions: Arc<AtomicU64>,
}

impl NameServer {
    /// Serves at `address`; an error where the port may not be had.
    ///
    /// # Errors
    /// What binding met.
    pub fn start(
        address: SocketAddr,
        answer: impl Fn(&Question) -> Reply + Send + Sync + 'static,
    ) -> std::io::Result<NameServer> {
        let (udp, tcp) = (UdpSocket::bind(address)?, TcpListener::bind(address)?);
        let questions = Arc::new(AtomicU64::new(0));
        let answer = Arc::new(answer);
        let (counted, answers) = (questions.clone(), answer.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                counted.fetch_add(1, Ordering::SeqCst);
                if let Some(reply) = reply_to(&buffer[..length], false, &*answers) {
                    let _ = udp.send_to(&reply, from);
                }
            }
        });
        let counted = questions.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = tcp.accept() {
                let (answer, counted) = (answer.clone(), counted.clone());
                std::thread::spawn(move || serve_tcp(stream, &counted, &*answer));
            }
        });
        Ok(NameServer { questions })
    }

    /// Questions so far.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::SeqCst)
    }
}

fn serve_tcp(mut stream: TcpStream, counted: &AtomicU64, answer: &impl Fn(&Question) -> Reply) {
    loop {
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        let Some(reply) = reply_to(&question, true, answer) else { return };
        let length = u16::try_from(reply.len()).expect("an answer of less than 64 KiB");
        if stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()).is_err() {
            return;
        }
    }
}

fn reply_to(message: &[u8], tcp: bool, answer: &impl Fn(&Question) -> Reply) -> Option<Vec<u8>> {
    let name_end = 12 + message.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let asked = message.get(12..name_end + 4)?;
    let label_end = 13 + usize::from(message[12]);
    let label = String::from_utf8_lossy(message.get(13..label_end)?).to_ascii_lowercase();
    let question = Question { label, v6: message[name_end + 1] == 28, tcp };
    let (flags, code, records): (u8, u8, Vec<Vec<u8>>) = match answer(&question) {
        Reply::Silence => return None,
        Reply::Code(code) => (0x81, code, Vec::new()),
        Reply::Cut => (0x83, 0, Vec::new()),
        Reply::Half => {
            let mut half = message[..2].to_vec();
            half.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            half.extend(&asked[..asked.len() - 2]);
            return Some(half);
        }
        Reply::Alias(label) => {
            let mut name = vec![u8::try_from(label.len()).expect("a label")];
            name.extend(label.as_bytes());
            // The rest of the name as it was asked for.
            let rest = u16::try_from(label_end).expect("an offset") | 0xC000;
            name.extend(rest.to_be_bytes());
            (0x81, 0, vec![record(5, &name)])
        }
        Reply::Addresses(addresses) => {
            let records =
                addresses.iter().filter(|address| address.is_ipv6() == question.v6).map(|address| match address {
                    IpAddr::V4(address) => record(1, &address.octets()),
                    IpAddr::V6(address) => record(28, &address.octets()),
                });
            (0x81, 0, records.collect())
        }
    };
    let mut reply = message[..2].to_vec();
    reply.extend([flags, 0x80 | code, 0, 1]);
    reply.extend(u16::try_from(records.len()).expect("so many records").to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend(asked);
    reply.extend(records.concat());
    Some(reply)
}

/// A record of the name that was asked for, with a life of zero seconds.
fn record(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xC0, 12, 0, kind, 0, 1, 0, 0, 0, 0];
    record.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
    record.extend(data);
    record
}
