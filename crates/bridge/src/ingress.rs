//! Ingress: a TCP connection from the world → the port in the enclave that was granted it.

use std::net::SocketAddr;
use std::sync::Arc;

use enclave_bridge_net::{Leg, Route, Stream, dial, relay};
use enclave_bridge_proto::encode_proxy_v2;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::app::App;
use crate::metrics::{StreamResult, count};
use crate::serving::Serving;
use crate::streams::Permit;

/// Where an ingress stream goes.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    /// The way to the enclave.
    pub(crate) route: Route,
    /// The enclave's port.
    pub(crate) port: u32,
    /// Whether the enclave is told the client's address by a PROXY protocol v2 header.
    pub(crate) proxy_v2: bool,
    /// Whether the enclave's leg is framed.
    pub(crate) framed: bool,
}

/// A client on its way to the enclave.
pub(crate) struct Client {
    pub(crate) serving: Arc<Serving>,
    pub(crate) stream: Stream,
    pub(crate) from: Option<SocketAddr>,
    pub(crate) to: Arc<Upstream>,
    pub(crate) permit: Permit,
}

/// A client and the enclave's answer to it: all that a stream needs while it is relayed.
struct Reached {
    serving: Arc<Serving>,
    client: Stream,
    enclave: Leg<Stream>,
    permit: Permit,
}

/// Serves one client until its stream ends. The client's socket, armed by its listener, resets unless both directions end
/// in order.
pub(crate) fn serve(client: Client) -> impl Future<Output = ()> + Send + 'static {
    count(&client.serving.app.metrics.ingress.started);
    // On the heap and gone when it has ended, so that a stream that is being relayed does not carry its memory.
    let reaching = Box::pin(client.reach());
    async move {
        let Some(Reached { serving, client, enclave, permit }) = reaching.await else { return };
        let meter = &serving.app.metrics.ingress.meter;
        let outcome = relay(client, enclave, &serving.relay, meter, serving.scope.cancelled()).await;
        serving.app.metrics.ingress.ended.count(StreamResult::from(outcome.end));
        drop(permit);
    }
}

impl Client {
    /// Dials the enclave; `None` where that came to nothing, which is counted.
    async fn reach(self) -> Option<Reached> {
        let Client { serving, stream: client, from, to, permit } = self;
        let app = &serving.app;
        let counters = &app.metrics.ingress;
        let reached = tokio::select! {
            reached = reach(app, &client, from, &to) => reached,
            () = serving.scope.cancelled() => {
                counters.ended.count(StreamResult::Cut);
                return None;
            }
        };
        match reached {
            Ok(enclave) => Some(Reached { serving, client, enclave, permit }),
            Err(error) => {
                if app.refusals_logged.allows() {
                    warn!(enclave = serving.called, "ingress to enclave port {}: {error}", to.port);
                } else {
                    debug!(enclave = serving.called, "ingress to enclave port {}: {error}", to.port);
                }
                counters.ended.count(StreamResult::Unreachable);
                None
            }
        }
    }
}

async fn reach(
    app: &App,
    client: &Stream,
    from: Option<SocketAddr>,
    to: &Upstream,
) -> Result<Leg<Stream>, Box<dyn std::error::Error + Send + Sync>> {
    let deadline = Instant::now() + app.limits.enclave_connect;
    let mut enclave = dial(&to.route, to.port, deadline).await?;
    if to.proxy_v2 {
        let (Some(source), Some(destination)) = (from, client.local_addr_tcp()) else {
            return Err("the client's address is unknown".into());
        };
        let header = encode_proxy_v2(source, destination);
        timeout(app.limits.answer_write, enclave.write_all(&header)).await??;
    }
    // The header came before the stream, and before its first record.
    Ok(Leg::new(enclave, to.framed))
}

#[cfg(test)]
mod tests {
    use super::{Client, serve};
    use crate::streams::SERVE_MAX_BYTES;

    #[test]
    fn an_idle_stream_is_no_larger_than_was_counted_on() {
        fn returned<F>(_: fn(Client) -> F) -> usize {
            size_of::<F>()
        }
        assert!(returned(serve) <= SERVE_MAX_BYTES, "{} bytes", returned(serve));
    }
}
