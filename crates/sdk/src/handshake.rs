//! Carries the handshake's state machine over a socket, and sorts its failures by how soon it makes sense to try again.

use std::io;
use std::time::Duration;

use enclave_bridge_net::{DialCause, DialError, Route, Stream, dial};
use enclave_bridge_proto::enclave::{Event, Handshake};
use enclave_bridge_proto::{Environment, HandshakeError, HandshakeLimits, Phase, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until};

use crate::pace::Pace;
use crate::{Error, Options};

/// Reaching the init port. A vsock connect to a host that is there takes well under a millisecond.
pub(crate) const INIT_DIAL_LIMIT: Duration = Duration::from_secs(2);

/// What one read takes; an environment of usual size comes in one.
const READ_BYTES: usize = 16 * 1024;

/// A handshake that has brought the environment and waits for the settings.
pub(crate) struct Opened {
    stream: Stream,
    machine: Handshake,
    pub(crate) environment: Environment,
}

/// Why an attempt came to nothing.
pub(crate) enum Failure {
    /// Nobody listens, or the host cannot be reached.
    Absent(Error),
    /// Somebody accepted, and the connection then broke or went silent.
    Broken(Error),
    /// An answer that the next attempt will most likely meet again.
    Refused(Error),
}

impl Failure {
    pub(crate) fn error(&self) -> &Error {
        match self {
            Self::Absent(error) | Self::Broken(error) | Self::Refused(error) => error,
        }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn pause(&self, pace: &mut Pace) -> Duration {
        match self {
            Self::Absent(_) => pace.absent(),
            Self::Broken(_) => pace.broken(Instant::now()),
            Self::Refused(_) => pace.refused(),
        }
    }
}

/// Connects, acknowledges and receives the environment.
pub(crate) async fn open(options: &Options) -> Result<Opened, Failure> {
    let deadline = Instant::now() + INIT_DIAL_LIMIT;
    let mut stream = dial(&options.route(), options.init_port, deadline)
        .await
        .map_err(|error| Failure::Absent(unanswered(error)))?;
    let mut machine = Handshake::new(HandshakeLimits::default(), now());
    match advance(&mut stream, &mut machine).await? {
        Event::Environment(environment) => Ok(Opened { stream, machine, environment }),
        Event::Refused(nak) => Err(Failure::Refused(Error::refused("handshake", &nak))),
        Event::Failed(error) => Err(failed(error)),
        Event::Ready => Err(failed(HandshakeError::EarlyAnswer)),
    }
}

/// What a failed dial of the init port means. The numbers of AF_VSOCK's errors mislead: nobody listening is a reset.
fn unanswered(error: DialError) -> Error {
    /// ENODEV: the guest has no way to a host.
    const NO_DEVICE: i32 = 19;
    let Route::Vsock { cid, .. } = error.route else { return error.into() };
    let io = if let DialCause::Io(io) = &error.cause { Some(io) } else { None };
    let timed_out = matches!(error.cause, DialCause::TimedOut);
    let reason = if timed_out || io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) {
        "connection timed out".to_owned()
    } else if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionReset) {
        "nothing listens there".to_owned()
    } else if io.is_some_and(|io| io.raw_os_error() == Some(NO_DEVICE)) {
        "this machine has no vsock device".to_owned()
    } else {
        error.cause.to_string()
    };
    Error::NoBridge { cid, port: error.port, reason, source: error }
}

impl Opened {
    /// Sends the settings and awaits the grant: every port accepts then.
    pub(crate) async fn request(mut self, settings: &Settings) -> Result<Environment, Failure> {
        self.machine.request(now(), settings);
        match advance(&mut self.stream, &mut self.machine).await? {
            Event::Ready => Ok(self.environment),
            Event::Refused(nak) => Err(Failure::Refused(Error::refused("handshake", &nak))),
            Event::Failed(error) => Err(failed(error)),
            Event::Environment(_) => Err(failed(HandshakeError::BadAnswer)),
        }
    }
}

/// Moves bytes and time until the machine has something to say.
async fn advance(stream: &mut Stream, machine: &mut Handshake) -> Result<Event, Failure> {
    let mut buf = vec![0; READ_BYTES];
    let mut write_error = None;
    loop {
        if let Some(event) = machine.poll_event() {
            // A bridge that went away is met at the write or at the read, whichever comes first.
            return match (event, write_error) {
                (Event::Failed(HandshakeError::Truncated { .. }), Some(error)) => Err(broken(error)),
                (event, _) => Ok(event),
            };
        }
        let deadline = machine.next_deadline();
        if let Some(bytes) = machine.poll_transmit() {
            tokio::select! {
                written = stream.write_all(&bytes) => match written {
                    Ok(()) => machine.transmitted(now()),
                    // A refusal may have come before the bridge closed: it is what counts, so reading goes on.
                    Err(error) => write_error = Some(error),
                },
                () = reached(deadline) => machine.handle_timeout(now()),
            }
            continue;
        }
        tokio::select! {
            read = stream.read(&mut buf) => match read {
                Ok(0) => machine.handle_eof(now()),
                Ok(count) => machine.handle_bytes(now(), buf.get(..count).unwrap_or_default()),
                Err(error) => return Err(broken(write_error.unwrap_or(error))),
            },
            () = reached(deadline) => machine.handle_timeout(now()),
        }
    }
}

/// A connection that broke or fell silent may do better next time; what is wrong in itself will not.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else may come is no matter of trying again soon")]
fn failed(error: HandshakeError) -> Failure {
    match error {
        HandshakeError::Truncated { .. } | HandshakeError::Timeout { .. } => Failure::Broken(Error::Handshake(error)),
        HandshakeError::BadEnvironment(error) => Failure::Refused(Error::Environment(error)),
        HandshakeError::LineTooLong { phase: Phase::Environment, .. } => {
            Failure::Refused(Error::Environment(enclave_bridge_proto::EnvironmentError::TooLong))
        }
        HandshakeError::UnknownRefusal { code, sentence } => {
            Failure::Refused(Error::RefusedUnknown { object: "handshake".to_owned(), code, sentence })
        }
        error => Failure::Refused(Error::Handshake(error)),
    }
}

fn broken(error: io::Error) -> Failure {
    Failure::Broken(Error::HandshakeIo(error))
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn reached(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use enclave_bridge_net::DialStage;

    use super::*;

    fn said(cause: DialCause) -> String {
        let stage = DialStage::Connect;
        unanswered(DialError { route: Route::Vsock { cid: 3, window: None }, port: 5000, stage, cause }).to_string()
    }

    #[test]
    fn an_absent_bridge_is_reported_with_its_place_and_the_way_out() {
        for (cause, reason) in [
            (DialCause::TimedOut, "connection timed out"),
            (DialCause::Io(io::Error::from_raw_os_error(110)), "connection timed out"),
            (DialCause::Io(io::Error::from_raw_os_error(104)), "nothing listens there"),
            (DialCause::Io(io::Error::from_raw_os_error(19)), "this machine has no vsock device"),
        ] {
            let said = said(cause);
            assert!(said.starts_with(&format!("no bridge answers at CID 3 port 5000: {reason}; ")), "{said}");
            assert!(said.contains("set ENCLAVE_BRIDGE_HOST_CID"), "{said}");
        }
    }

    #[test]
    fn on_the_hybrid_transport_the_path_is_the_place() {
        let route = Route::HybridGuest { uds_path: "/run/p".into() };
        let refused = DialCause::Io(io::ErrorKind::ConnectionRefused.into());
        let error = unanswered(DialError { route, port: 5000, stage: DialStage::Connect, cause: refused });
        assert!(matches!(error, Error::Dial(_)), "{error}");
    }
}
