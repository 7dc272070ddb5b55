//! Asking the bridge whether a session is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How often the bridge is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// How long one question may take.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The status line is all that is read: `HTTP/1.1 200` is 12 bytes.
const STATUS_BYTES: usize = 12;

/// Resolves when `/health/ready` says 200; an error after `limit`.
pub(crate) async fn wait(monitor: SocketAddr, limit: Duration) -> Result<(), String> {
    let failed = |limit| format!("no session was ready within {limit} s; the lines above say why");
    until(monitor, limit, |ready| ready).await.map_err(failed)
}

/// Resolves when the bridge answers at all, ready or not.
pub(crate) async fn answers(monitor: SocketAddr, limit: Duration) -> Result<(), String> {
    let failed = |limit| format!("the bridge did not answer within {limit} s; the lines above say why");
    until(monitor, limit, |_| true).await.map_err(failed)
}

/// The limit in seconds where it was reached.
async fn until(monitor: SocketAddr, limit: Duration, enough: impl Fn(bool) -> bool) -> Result<(), u64> {
    let monitor = reachable(monitor);
    let asked = async {
        while !matches!(timeout(ASK_LIMIT, ask(monitor)).await, Ok(Ok(ready)) if enough(ready)) {
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    timeout(limit, asked).await.map_err(|_| limit.as_secs())
}

async fn ask(monitor: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(monitor).await?;
    stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut status = [0; STATUS_BYTES];
    stream.read_exact(&mut status).await?;
    Ok(status.ends_with(b" 200"))
}

/// Where a listener on every address is asked: on loopback.
fn reachable(mut monitor: SocketAddr) -> SocketAddr {
    if monitor.ip().is_unspecified() {
        monitor.set_ip(match monitor.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    monitor
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that answers the given statuses, one connection each.
    async fn monitor(statuses: &'static [&'static str]) -> (SocketAddr, impl Future<Output = ()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async move {
            for status in statuses {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
            }
        };
        (address, serve)
    }

    #[tokio::test]
    async fn ready_is_200_and_503_is_asked_again() {
        let (address, serve) = monitor(&["503 Service Unavailable", "200 OK"]).await;
        let (ready, ()) = tokio::join!(wait(address, Duration::from_secs(20)), serve);
        assert_eq!(ready, Ok(()));
    }

    #[tokio::test]
    async fn a_bridge_that_is_never_ready_is_said() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(wait(free, Duration::from_millis(300)).await.unwrap_err().contains("no session was ready"));
    }

    #[test]
    fn every_address_is_asked_on_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()).to_string(), "127.0.0.1:1");
        assert_eq!(reachable("[::]:1".parse().unwrap()).to_string(), "[::1]:1");
        assert_eq!(reachable("192.0.2.1:1".parse().unwrap()).to_string(), "192.0.2.1:1");
    }
}
