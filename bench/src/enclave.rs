//! The enclave of the load, on the wire of version 1, of 1.1 where it asks for framed streams: a handshake with one server
//! and one client, and beats.

use crate::error::BenchError;
use crate::process::Stop;
use crate::records::Form;
use crate::socket::{Address, Stream};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Any id will do: one bridge has one enclave here, and there is no `0A` in it.
const ID: [u8; 16] = *b"\xbe\x9c\x01\x02\x03\x04\x4a\x05\x86\x07\x08\x09\x0b\x0c\x0d\x0e";

/// The same in its usual spelling.
const ID_TEXT: &str = "be9c0102-0304-4a05-8607-08090b0c0d0e";

/// Long enough that a measurement is not one of beats.
const INTERVAL: Duration = Duration::from_secs(120);

/// The environment of a bridge that is given none is a line of a hundred bytes or so.
const LINE_MAX_BYTES: u64 = 64 * 1024;

/// What the enclave asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    /// The CID that it says it has.
    pub(crate) cid: u32,
    /// Where it listens, by port of the vsock.
    pub(crate) listen_port: u32,
    /// Where the bridge listens for it.
    pub(crate) tcp_port: u16,
    /// Where it dials for egress.
    pub(crate) dial_port: u32,
    /// What the streams to its server are made of.
    pub(crate) form: Form,
}

/// A session that beats until it is dropped.
#[derive(Debug)]
pub(crate) struct Enclave {
    over: Arc<AtomicBool>,
}

impl Enclave {
    /// Shakes hands at `init`, the bridge's init port, and beats there.
    pub(crate) fn start(init: &Address, wishes: &Wishes, stop: &Stop) -> Result<Enclave, BenchError> {
        super::load::wait_until("the bridge's init port", stop, || init.dial().is_ok())?;
        shake_hands(init, wishes)?;
        let over = Arc::new(AtomicBool::new(false));
        let (init, ends) = (init.clone(), Arc::clone(&over));
        std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                // A bridge that is being ended ends its connections: the owner knows.
                drop(init.dial().map(|stream| beat(&stream, &ends)));
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Ok(Enclave { over })
    }
}

impl Drop for Enclave {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

fn shake_hands(init: &Address, wishes: &Wishes) -> Result<(), BenchError> {
    let named = || BenchError::io("handshake with the bridge");
    let stream = init.dial()?;
    (&stream).write_all(b"\x06\n").map_err(named())?;
    let environment = line(&stream).map_err(named())?;
    if environment.last() != Some(&b'\n') {
        return Err(BenchError::Process {
            name: "handshake with the bridge".to_owned(),
            reason: "no environment came".to_owned(),
        });
    }
    (&stream).write_all(settings(wishes).as_bytes()).map_err(named())?;
    let answer = line(&stream).map_err(named())?;
    if answer == b"\x06\n" {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&answer).trim().to_owned();
    Err(BenchError::Process { name: "handshake with the bridge".to_owned(), reason: format!("refused: {reason}") })
}

/// The bridge says nothing further before it is answered, so that nothing is read ahead.
fn line(stream: &Stream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream).take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn settings(wishes: &Wishes) -> String {
    let Wishes { cid, listen_port, tcp_port, dial_port, form } = wishes;
    let interval = INTERVAL.as_nanos();
    let (version, framed) = match form {
        Form::Raw => ("", ""),
        Form::Framed => (r#""protocol":"1.1","#, r#","framed":true"#),
    };
    format!(
        concat!(
            r#"{{"appName":"bench",{}"watchdog":{{"enclaveId":"{}","interval":{}}},"logger":{{"level":"info"}},"#,
            r#""servers":[{{"enclaveCid":{},"enclaveListenPort":{},"bridgeTcpPort":{}{}}}],"#,
            r#""clients":[{{"enclaveDialPort":{},"requestTimeout":0}}]}}"#,
            "\n"
        ),
        version, ID_TEXT, interval, cid, listen_port, tcp_port, framed, dial_port
    )
}

/// One connection of beats: the socket's read limit paces it, well within half an interval.
fn beat(mut stream: &Stream, over: &AtomicBool) -> io::Result<()> {
    let mut beat = [b'\n'; 17];
    for (place, byte) in beat.iter_mut().zip(ID) {
        *place = byte;
    }
    let mut heard = [0; 17 * 8];
    while !over.load(Ordering::SeqCst) {
        stream.write_all(&beat)?;
        match stream.read(&mut heard) {
            Ok(0) => return Ok(()),
            Ok(_) => std::thread::sleep(Duration::from_secs(1)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_spelled_as_its_bytes_and_the_settings_are_one_line_of_json() {
        let bytes: String = ID.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ID_TEXT.replace('-', ""), bytes);
        assert!(!ID.contains(&b'\n'));
        for (form, framed) in [(Form::Raw, None), (Form::Framed, Some(true))] {
            let text = settings(&Wishes { cid: 16, listen_port: 5001, tcp_port: 8080, dial_port: 5002, form });
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json.pointer("/servers/0/bridgeTcpPort").unwrap(), 8080);
            assert_eq!(json.pointer("/clients/0/enclaveDialPort").unwrap(), 5002);
            assert_eq!(json.pointer("/servers/0/framed").and_then(serde_json::Value::as_bool), framed);
            assert_eq!(json.pointer("/protocol").is_some(), framed.is_some(), "{text}");
            assert_eq!(text.matches('\n').count(), 1);
        }
    }
}
