//! Just enough of an HTTP/1.1 client: one request per connection, bodies streamed.

use crate::bytes::{self, Hash};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer with its body in memory.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header lines as they came.
    pub head: String,
    /// The body, decoded.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text, whatever it is.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `METHOD path` without a body.
///
/// # Errors
/// What connecting, writing, reading or decoding met.
pub fn request(method: &str, address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")?;
    let (status, head, mut body) = read_answer(stream)?;
    let mut whole = Vec::new();
    body.read_to_end(&mut whole)?;
    Ok(Answer { status, head, body: whole })
}

/// `GET path`.
///
/// # Errors
/// As [`request`].
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    request("GET", address, path)
}

/// `POST path` with a body of `length` bytes that is written while the answer is read; the status, and the hash and
/// length of the answer's body.
///
/// # Errors
/// As [`request`].
pub fn post_and_hash(
    address: SocketAddr,
    path: &str,
    mut body: impl Read + Send + 'static,
    length: u64,
) -> io::Result<(u16, Hash, u64)> {
    let stream = connect(address)?;
    let mut writing = stream.try_clone()?;
    write!(
        writing,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )?;
    let sending = std::thread::spawn(move || bytes::copy(&mut body, &mut writing));
    let (status, _, mut answer) = read_answer(stream)?;
    let (hash, total) = bytes::hash_of(&mut answer)?;
    sending.join().expect("the sending thread does not panic")?;
    Ok((status, hash, total))
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn read_answer(stream: TcpStream) -> io::Result<(u16, String, Box<dyn Read>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the answer ended in its head: {head:?}"),
            ));
        }
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, head.clone()))?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let body: Box<dyn Read> =
        if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            Box::new(Chunked { reader, left: 0, done: false })
        } else if let Some(length) = header("content-length").and_then(|length| length.parse().ok()) {
            Box::new(Exactly { reader, left: length })
        } else {
            Box::new(reader)
        };
    Ok((status, head, body))
}

/// A body of a stated length: an early end is an error, never a short body.
struct Exactly<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = (buffer.len() as u64).min(self.left) as usize;
        if want == 0 {
            return Ok(0);
        }
        let n = self.reader.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ended in its body"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

struct Chunked<R> {
    reader: R,
    left: u64,
    done: bool,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let size = line.trim().split(';').next().unwrap_or_default();
            self.left = u64::from_str_radix(size, 16)
                .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, format!("no chunk size in {line:?}")))?;
            if self.left == 0 {
                self.done = true;
                return Ok(0);
            }
        }
        let want = (buffer.len() as u64).min(self.left) as usize;
        let n = self.reader.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ended in a chunk"));
        }
        self.left -= n as u64;
        if self.left == 0 {
            let mut end = String::new();
            self.reader.read_line(&mut end)?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_an_early_end_is_an_error() {
        let body = |bytes: &'static [u8]| Chunked { reader: bytes, left: 0, done: false };
        let mut whole = String::new();
        body(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n").read_to_string(&mut whole).unwrap();
        assert_eq!(whole, "abc0123456789");
        assert!(body(b"3\r\nab").read_to_end(&mut Vec::new()).is_err());
        assert!(body(b"3\r\nabc\r\n").read_to_end(&mut Vec::new()).is_err());
    }
}
