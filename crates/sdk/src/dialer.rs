//! Egress: a stream to a target in the world, by way of the bridge.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use enclave_bridge_net::{Route, Stream, dial};
use enclave_bridge_policy::{EgressPolicy, Judged, OwnAddresses};
use enclave_bridge_proto::{ACK, LineProgress, LineReader, NAK_BYTE, NAK_MAX_BYTES, Nak, NakParseError, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use crate::form::Form;
use crate::{Conn, Error};

/// Reaching the bridge itself is a matter of one host; a vsock connect that hangs for longer does not come back.
const BRIDGE_DIAL_LIMIT: Duration = Duration::from_secs(10);

/// What one read takes while the answer is awaited; what follows the answer is kept for the stream.
const ANSWER_READ_BYTES: usize = 4096;

/// Opens streams to the world. Cheap to clone.
///
/// It works while the session is ready. At another time, and while the bridge is away, connecting fails at once.
#[derive(Clone, Debug)]
pub struct Dialer {
    route: Route,
    port: u32,
    limit: Duration,
    form: Form,
    policy: Option<Arc<EgressPolicy>>,
}

impl Dialer {
    pub(crate) fn new(route: Route, port: u32, limit: Duration, form: Form) -> Self {
        Self { route, port, limit, form, policy: None }
    }

    /// The same with another limit on connecting, answer included. The bridge keeps its own, the client's
    /// `requestTimeout`.
    #[must_use]
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    /// The same under a policy that is enforced here, in the enclave, where it is part of what is measured. The host enforces its
    /// own besides; neither widens the other.
    ///
    /// An address is judged as the bridge judges it. A name has to be allowed by a rule by name: what it resolves to is the
    /// host's claim, which no rule by address can check from here.
    #[must_use]
    pub fn with_policy(&self, policy: impl Into<Arc<EgressPolicy>>) -> Self {
        Self { policy: Some(policy.into()), ..self.clone() }
    }

    /// Connects to a name or an address (IPv6 with or without brackets) and a TCP port.
    ///
    /// # Errors
    /// As [`Dialer::connect_target`]; what is no target is refused with `BAD_TARGET` here.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Conn, Error> {
        self.connect_target(&target(host, port)?).await
    }

    /// Connects to a target and returns the stream once the bridge has connected.
    ///
    /// # Errors
    /// [`Error::OwnPolicy`] before anything is asked; [`Error::Refused`] with the bridge's code and sentence; [`Error::EgressClosed`] where it gives none (version
    /// 1); [`Error::EgressTimeout`]; [`Error::Dial`] where the bridge itself cannot be reached.
    pub async fn connect_target(&self, target: &Target) -> Result<Conn, Error> {
        if let Some(policy) = &self.policy {
            permit(policy, target)?;
        }
        let deadline = Instant::now() + self.limit;
        timeout_at(deadline, self.ask(target))
            .await
            .map_err(|_| Error::EgressTimeout { target: target.to_string(), limit: self.limit })?
    }

    async fn ask(&self, target: &Target) -> Result<Conn, Error> {
        let reached_by = Instant::now() + BRIDGE_DIAL_LIMIT.min(self.limit);
        let mut stream = dial(&self.route, self.port, reached_by).await?;
        let framed = self.form.is_framed();
        let io = |source| Error::EgressIo { target: target.to_string(), source };
        // A bridge that refuses before it has read the line (too many streams) closes under the write; its answer
        // is what counts then.
        let written = stream.write_all(&target.encode_line()).await;
        let answered = answer(&mut stream, target).await;
        match (answered, written) {
            (Ok(read_ahead), Ok(())) => Ok(Conn::new(read_ahead, stream, framed)),
            (Ok(_), Err(error)) => Err(io(error)),
            (Err(error), _) => Err(error),
        }
    }
}

/// Whether the enclave's own policy allows a target.
fn permit(policy: &EgressPolicy, target: &Target) -> Result<(), Error> {
    // The host's addresses are the host's to know, and closed by its own policy.
    let reason = match policy.judge(target, &OwnAddresses::default()) {
        Ok(Judged::Address(_)) => return Ok(()),
        Ok(Judged::Resolve(name)) if name.is_by_name() => return Ok(()),
        Ok(Judged::Resolve(name)) => format!("no rule by name allows {}:{}", name.name(), name.port()),
        Err(refusal) => refusal.to_string(),
    };
    Err(Error::OwnPolicy { target: target.to_string(), reason })
}

/// Reads the bridge's answer and returns what arrived after it.
async fn answer(stream: &mut Stream, target: &Target) -> Result<Vec<u8>, Error> {
    let mut line = LineReader::new(NAK_MAX_BYTES);
    let mut buf = vec![0; ANSWER_READ_BYTES];
    loop {
        let count = match stream.read(&mut buf).await {
            Ok(count) => count,
            Err(source) => return Err(Error::EgressIo { target: target.to_string(), source }),
        };
        if count == 0 {
            return Err(Error::EgressClosed { target: target.to_string() });
        }
        buf.truncate(count);
        match line.push(&buf) {
            LineProgress::NeedMore => buf.resize(ANSWER_READ_BYTES, 0),
            LineProgress::TooLong => return Err(Error::BadAnswer { target: target.to_string() }),
            LineProgress::Line { consumed } => {
                let read_ahead = buf.split_off(consumed.min(buf.len()));
                return judge(&line.take_line(), target).map(|()| read_ahead);
            }
        }
    }
}

fn judge(line: &[u8], target: &Target) -> Result<(), Error> {
    let [ack, _] = ACK;
    match line.first() {
        Some(&first) if first == ack && line.len() == 1 => Ok(()),
        Some(&NAK_BYTE) => match Nak::parse(line) {
            Ok(nak) => Err(Error::refused(format!("egress to {target}"), &nak)),
            Err(NakParseError::UnknownCode { code, sentence }) => {
                Err(Error::RefusedUnknown { object: format!("egress to {target}"), code, sentence })
            }
            Err(_) => Err(Error::BadAnswer { target: target.to_string() }),
        },
        _ => Err(Error::BadAnswer { target: target.to_string() }),
    }
}

/// A target from what programs have at hand.
pub(crate) fn target(host: &str, port: u16) -> Result<Target, Error> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let line = match bare.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    };
    Target::parse(line.as_bytes()).map_err(|nak| Error::refused("egress", &nak))
}

#[cfg(test)]
mod tests {
    use enclave_bridge_proto::NakCode;

    use super::*;

    #[test]
    fn targets_from_names_and_addresses() {
        for (host, line) in [
            ("example.org", "example.org:443\n"),
            ("192.0.2.1", "192.0.2.1:443\n"),
            ("2001:db8::1", "[2001:db8::1]:443\n"),
            ("[2001:db8::1]", "[2001:db8::1]:443\n"),
        ] {
            assert_eq!(target(host, 443).unwrap().encode_line(), line.as_bytes(), "{host}");
        }
        for host in ["", "a b", "a\nb", "user@host"] {
            assert_eq!(target(host, 443).unwrap_err().code(), Some(NakCode::BadTarget), "{host:?}");
        }
        assert_eq!(target("example.org", 0).unwrap_err().code(), Some(NakCode::BadTarget));
    }
}
