//! Egress: a stream from the enclave that names its target → judged → resolved → judged again → dialled → relayed.
//!
//! What is dialled is an address that the policy judged, and nothing else: the type that [`connect`] takes can only
//! be made by the policy.

mod connect;
mod resolve;
mod server_name;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use enclave_bridge_net::{Leg, Prefixed, Screened, Stream, relay};
use enclave_bridge_policy::{ClientGrant, EgressPolicy, Judged, JudgedAddress, NameGrant, OwnAddresses, Refusal};
use enclave_bridge_proto::{ACK, ADDRESS_LINE_MAX_BYTES, LineProgress, LineReader, Nak, NakCode, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use self::connect::connect;
pub(crate) use self::resolve::Resolve;
use self::resolve::ResolveError;
pub use self::resolve::ResolverError;
use self::server_name::Found;
use crate::app::App;
use crate::metrics::{StreamResult, count};
use crate::serving::Serving;
use crate::streams::Permit;

/// How much is read ahead while the address line is looked for: the line at its longest and a first flight of data.
const READ_AHEAD_BYTES: usize = 1024;

/// How a stream ended before there was anything to relay.
enum Unfinished {
    /// The enclave ended it, or did not send its line in time.
    Abandoned,
    /// It was refused, and the enclave was told.
    Refused(Nak),
}

/// The enclave's leg. What came behind the address line belongs to the stream, and so to its records; it is rare, so it
/// pays for itself.
enum Enclave {
    Plain(Leg<Stream>),
    ReadAhead(Box<Leg<Prefixed<Stream>>>),
    /// Nothing of it goes out before its server name was judged.
    Screened(Box<Screened<Leg<Prefixed<Stream>>>>, Arc<Found>),
}

/// What a stream needs while it is relayed.
struct Ready {
    serving: Arc<Serving>,
    enclave: Enclave,
    upstream: Stream,
    permit: Permit,
}

/// Serves one stream of an enclave until it ends. The grant's time limit bounds everything up to the ACK.
pub(crate) fn serve(
    serving: Arc<Serving>,
    stream: Stream,
    granted: Arc<ClientGrant>,
    permit: Permit,
) -> impl Future<Output = ()> + Send + 'static {
    count(&serving.app.metrics.egress.started);
    // On the heap and gone when it has ended, so that a stream that is being relayed does not carry its memory.
    let preparing = Box::pin(prepare(serving, stream, granted, permit));
    async move {
        let Some(Ready { serving, enclave, upstream, permit }) = preparing.await else { return };
        let counters = &serving.app.metrics.egress;
        let (config, meter, cut) = (&serving.relay, &counters.meter, serving.scope.cancelled());
        let result = match enclave {
            Enclave::Plain(enclave) => relay(enclave, upstream, config, meter, cut).await.end.into(),
            Enclave::ReadAhead(enclave) => Box::pin(relay(*enclave, upstream, config, meter, cut)).await.end.into(),
            Enclave::Screened(enclave, found) => {
                let outcome = Box::pin(relay(*enclave, upstream, config, meter, cut)).await;
                if found.refused() { StreamResult::ServerName } else { outcome.end.into() }
            }
        };
        counters.ended.count(result);
        drop(permit);
    }
}

/// Everything up to the ACK; `None` where that came to nothing, which is counted.
async fn prepare(serving: Arc<Serving>, stream: Stream, granted: Arc<ClientGrant>, permit: Permit) -> Option<Ready> {
    let counters = &serving.app.metrics.egress;
    let ready = tokio::select! {
        ready = set_up(&serving, stream, granted.request_timeout) => ready,
        () = serving.scope.cancelled() => {
            counters.ended.count(StreamResult::Cut);
            return None;
        }
    };
    match ready {
        Ok((enclave, upstream, expected)) => {
            let (rest, stream) = enclave.into_parts();
            let enclave = match expected {
                Some(name) => {
                    let leg = Leg::new(Prefixed::new(rest, stream), granted.framed);
                    let (screened, found) = server_name::screen(&serving, leg, name);
                    Enclave::Screened(Box::new(screened), found)
                }
                None if rest.is_empty() => Enclave::Plain(Leg::new(stream, granted.framed)),
                None => Enclave::ReadAhead(Box::new(Leg::new(Prefixed::new(rest, stream), granted.framed))),
            };
            return Some(Ready { serving, enclave, upstream: Stream::connected_tcp(upstream), permit });
        }
        Err(Unfinished::Abandoned) => counters.ended.count(StreamResult::Abandoned),
        Err(Unfinished::Refused(nak)) => {
            serving.app.metrics.refused(nak.code());
            let refused = matches!(nak.code(), NakCode::Denied | NakCode::BadTarget);
            counters.ended.count(if refused { StreamResult::Refused } else { StreamResult::Unreachable });
        }
    }
    None
}

/// Tells an enclave at the limit of streams that there is no room. Its line is not read, and nothing is waited for:
/// the buffer of a new socket takes an answer at once or never.
pub(crate) async fn turn_away(serving: &Serving, mut stream: Stream) {
    let limit = serving.streams.limit().min(serving.app.streams.limit());
    let nak = Nak::new(NakCode::Limit, format!("{limit} streams are open, the most that are allowed"));
    serving.app.metrics.refused(nak.code());
    _ = timeout(Duration::ZERO, stream.write_all(&nak.encode())).await;
}

/// The stream behind its line, the connection to its target, and the name that it must begin with a TLS ClientHello for.
async fn set_up(
    serving: &Serving,
    mut stream: Stream,
    limit: Duration,
) -> Result<(Prefixed<Stream>, TcpStream, Option<NameGrant>), Unfinished> {
    let app = &*serving.app;
    let deadline = Instant::now() + limit;
    let (line, rest) = match timeout_at(deadline, timeout(app.limits.address_line, read_line(&mut stream))).await {
        Ok(Ok(Ok(read))) => read,
        Ok(Ok(Err(refused @ Unfinished::Refused(_)))) => return Err(refuse(app, stream, refused).await),
        Ok(Ok(Err(Unfinished::Abandoned)) | Err(_)) | Err(_) => return Err(Unfinished::Abandoned),
    };
    let target = match Target::parse(&line) {
        Ok(target) => target,
        Err(nak) => return Err(refuse(app, stream, Unfinished::Refused(nak)).await),
    };
    let reached = match timeout_at(deadline, reach(serving, &target, deadline)).await {
        Ok(reached) => reached,
        Err(_elapsed) => Err(Nak::new(NakCode::Timeout, format!("{target}: no answer within {limit:?}"))),
    };
    match reached {
        Ok((upstream, expected)) => {
            if !answer(app, &mut stream, &ACK).await {
                return Err(Unfinished::Abandoned);
            }
            debug!(enclave = serving.called, "egress to {target}: connected");
            Ok((Prefixed::new(rest, stream), upstream, expected))
        }
        Err(nak) => {
            if app.refusals_logged.allows() {
                info!(enclave = serving.called, "egress to {target}: {nak}");
            }
            Err(refuse(app, stream, Unfinished::Refused(nak)).await)
        }
    }
}

/// The address line without its newline, and what came behind it in the same read.
async fn read_line(stream: &mut Stream) -> Result<(Vec<u8>, Vec<u8>), Unfinished> {
    let mut reader = LineReader::new(ADDRESS_LINE_MAX_BYTES);
    let mut buffer = [0; READ_AHEAD_BYTES];
    loop {
        let read = stream.read(&mut buffer).await.map_err(|_| Unfinished::Abandoned)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Err(Unfinished::Abandoned);
        }
        match reader.push(bytes) {
            LineProgress::NeedMore => {}
            LineProgress::Line { consumed } => {
                return Ok((reader.take_line(), bytes.get(consumed..).unwrap_or_default().to_vec()));
            }
            LineProgress::TooLong => {
                let sentence = format!("no newline within {ADDRESS_LINE_MAX_BYTES} bytes");
                return Err(Unfinished::Refused(Nak::new(NakCode::BadTarget, sentence)));
            }
        }
    }
}

async fn reach(serving: &Serving, target: &Target, deadline: Instant) -> Result<(TcpStream, Option<NameGrant>), Nak> {
    let app = &*serving.app;
    let own = app.own_addresses().map_err(|error| {
        Nak::new(NakCode::Internal, format!("{target}: the host's own addresses are unknown: {error}"))
    })?;
    let live = app.live();
    let policy = &live.tenants.of(&serving.peer).egress;
    let (judged, expected) = match policy.judge(target, &own)? {
        Judged::Address(address) => (vec![address], None),
        Judged::Resolve(name) => {
            let judged = resolve_and_judge(app, policy, &live.resolve, target, &name, &own).await?;
            let expected = policy.server_name_rule(&name).is_some().then_some(name);
            (judged, expected)
        }
    };
    let left = deadline.saturating_duration_since(Instant::now()).min(app.limits.connect);
    let connected = connect(&judged, &app.limits, left).await;
    connected.map(|stream| (stream, expected)).map_err(|error| Nak::new(error.code(), format!("{target}: {error}")))
}

/// Every address of the name that the policy allows, at most as many as are tried. If none is left, why the first
/// was refused.
async fn resolve_and_judge(
    app: &App,
    policy: &EgressPolicy,
    resolve: &Resolve,
    target: &Target,
    name: &NameGrant,
    own: &OwnAddresses,
) -> Result<Vec<JudgedAddress>, Nak> {
    let found: Result<Vec<IpAddr>, ResolveError> =
        timeout(app.limits.resolve, resolve.addresses(name.name())).await.unwrap_or(Err(ResolveError::TimedOut));
    let found = found.map_err(|error| Nak::new(NakCode::Dns, format!("{target}: {error}")))?;
    let mut judged = Vec::new();
    let mut refusal: Option<Refusal> = None;
    for address in found {
        match policy.judge_address(name, address, own) {
            Ok(address) => judged.push(address),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    judged.truncate(app.limits.addresses_tried);
    match (judged.is_empty(), refusal) {
        (true, Some(refusal)) => Err(refusal.into()),
        (true, None) => Err(Nak::new(NakCode::Dns, format!("{target}: {}", ResolveError::NotFound))),
        (false, _) => Ok(judged),
    }
}

async fn refuse(app: &App, mut stream: Stream, refusal: Unfinished) -> Unfinished {
    if let Unfinished::Refused(nak) = &refusal {
        answer(app, &mut stream, &nak.encode()).await;
        _ = timeout(app.limits.answer_write, stream.shutdown()).await;
    }
    refusal
}

/// Writes a few bytes within the limit; whether the enclave took them.
async fn answer(app: &App, stream: &mut Stream, bytes: &[u8]) -> bool {
    matches!(timeout(app.limits.answer_write, stream.write_all(bytes)).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::SERVE_MAX_BYTES;

    #[test]
    fn an_idle_stream_is_no_larger_than_was_counted_on() {
        fn returned<F>(_: fn(Arc<Serving>, Stream, Arc<ClientGrant>, Permit) -> F) -> usize {
            size_of::<F>()
        }
        // One step of tasks more than ingress: the choice of the enclave's leg stays in the future.
        assert!(returned(serve) <= SERVE_MAX_BYTES + 128, "{} bytes", returned(serve));
    }
}
