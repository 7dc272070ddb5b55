//! Judged addresses → a connected TCP socket; nothing else may be dialled.
//!
//! Racing the two address families is hyper-util's connector, given a resolver that knows the judged addresses only.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use enclave_bridge_policy::JudgedAddress;
use enclave_bridge_proto::NakCode;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use thiserror::Error;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::limits::Limits;

/// What connecting met.
#[derive(Debug, Error)]
#[error("connect: {}", describe(.cause))]
pub(super) struct ConnectError {
    cause: io::Error,
}

impl ConnectError {
    /// The NAK for the enclave.
    #[must_use]
    pub(super) fn code(&self) -> NakCode {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "a foreign enum that grows: what is not named is treated alike"
        )]
        match self.cause.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => NakCode::Refused,
            io::ErrorKind::TimedOut => NakCode::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::PermissionDenied => {
                NakCode::Unreachable
            }
            _ => NakCode::Internal,
        }
    }
}

fn describe(cause: &io::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows: what is not named is treated alike")]
    match cause.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::TimedOut => "timed out".into(),
        io::ErrorKind::AddrNotAvailable => "no local port or address".into(),
        _ => cause.to_string(),
    }
}

/// Connects to the first of the judged addresses that answers.
///
/// # Errors
/// What the last attempt met, or a time-out.
pub(super) async fn connect(
    judged: &[JudgedAddress],
    limits: &Limits,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<SocketAddr> = judged.iter().map(JudgedAddress::socket_addr).collect();
    let Some(port) = addresses.first().map(SocketAddr::port) else {
        return Err(ConnectError { cause: io::ErrorKind::HostUnreachable.into() });
    };
    let mut connector = HttpConnector::new_with_resolver(Judged(addresses));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limit));
    connector.set_happy_eyeballs_timeout(Some(limits.connect_race));
    // A name, so that the connector asks the resolver; it is never looked up.
    let uri = Uri::builder().scheme("tcp").authority(format!("judged.invalid:{port}")).path_and_query("/").build();
    let uri = uri.map_err(|error| ConnectError { cause: io::Error::other(error) })?;
    match tokio::time::timeout(limit, connector.call(uri)).await {
        Ok(Ok(stream)) => Ok(stream.into_inner()),
        Ok(Err(error)) => Err(ConnectError { cause: root_cause(&error) }),
        Err(_elapsed) => Err(ConnectError { cause: io::ErrorKind::TimedOut.into() }),
    }
}

/// The operating system's error below the connector's.
fn root_cause(error: &(dyn StdError + 'static)) -> io::Error {
    let mut next = Some(error);
    let mut found = None;
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            found = Some(io.raw_os_error().map_or_else(|| io.kind().into(), io::Error::from_raw_os_error));
        }
        next = error.source();
    }
    found.unwrap_or_else(|| io::Error::other(error.to_string()))
}

/// A resolver that answers every name with the judged addresses.
#[derive(Clone)]
struct Judged(Vec<SocketAddr>);

impl Service<Name> for Judged {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        std::future::ready(Ok(self.0.clone().into_iter()))
    }
}
