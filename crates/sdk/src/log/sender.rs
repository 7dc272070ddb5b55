//! The thread that sends the lines.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use enclave_bridge_net::{Route, dial};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use crate::Conn;
use crate::log::queue::Queue;
use crate::pace::Pace;

/// Reaching the log port; a connect that hangs for longer does not come back.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

thread_local! {
    static SENDER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a sending thread.
pub(crate) fn is_this_thread() -> bool {
    SENDER.get()
}

pub(crate) fn start(queue: Arc<Queue>, route: Route, port: u32) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    std::thread::Builder::new().name("enclave-log".to_owned()).spawn(move || {
        SENDER.set(true);
        runtime.block_on(async {
            tokio::select! {
                () = queue.stopped() => {}
                () = send(&queue, &route, port) => {}
            }
        });
    })
}

async fn send(queue: &Queue, route: &Route, port: u32) {
    let mut pace = Pace::new();
    let mut conn = None;
    loop {
        let batch = tokio::select! {
            batch = queue.take() => batch,
            () = ended(&mut conn) => {
                conn = None;
                sleep(pace.broken(Instant::now())).await;
                continue;
            }
        };
        let mut rest: &[u8] = &batch;
        while !rest.is_empty() {
            let open = match &mut conn {
                Some(open) => open,
                None => conn.insert(connect(route, port, &mut pace).await),
            };
            let (written, result) = write_until_error(open, rest).await;
            match result {
                Ok(()) => rest = &[],
                Err(_) => {
                    rest = from_line_start(rest, written);
                    conn = None;
                    sleep(pace.broken(Instant::now())).await;
                }
            }
        }
        queue.sent();
    }
}

async fn connect(route: &Route, port: u32, pace: &mut Pace) -> Conn {
    loop {
        match dial(route, port, Instant::now() + DIAL_LIMIT).await {
            Ok(stream) => {
                pace.granted();
                return Conn::new(Vec::new(), stream, false);
            }
            Err(_) => sleep(pace.absent()).await,
        }
    }
}

/// Resolves when the bridge has closed the connection, which it never writes to; so a line is not lost to a bridge
/// that is known to be gone.
async fn ended(conn: &mut Option<Conn>) {
    let Some(conn) = conn else { return std::future::pending().await };
    let mut unexpected = [0; 64];
    while !matches!(conn.read(&mut unexpected).await, Ok(0) | Err(_)) {}
}

/// How many bytes went out, and how it ended.
async fn write_until_error(conn: &mut Conn, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match conn.write(rest).await {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// What is left from the start of the line that was being sent.
fn from_line_start(bytes: &[u8], written: usize) -> &[u8] {
    let out = bytes.get(..written).unwrap_or(bytes);
    let start = out.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    bytes.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_goes_on_at_the_start_of_the_cut_line() {
        let lines = b"one\ntwo\nthree\n";
        for (written, rest) in [
            (0, &b"one\ntwo\nthree\n"[..]),
            (3, b"one\ntwo\nthree\n"),
            (4, b"two\nthree\n"),
            (9, b"three\n"),
            (14, b""),
        ] {
            assert_eq!(from_line_start(lines, written), rest, "{written}");
        }
    }
}
