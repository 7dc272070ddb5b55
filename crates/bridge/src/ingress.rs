//! Ingress: a TCP connection from the world → the port in the enclave that was granted it.

use std::net::SocketAddr;
use std::sync::Arc;

use enclave_bridge_net::{Leg, Route, Scope, Stream, dial, relay};
use enclave_bridge_proto::encode_proxy_v2;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::app::App;
use crate::metrics::{StreamResult, count};
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

/// Serves one client until its stream ends. The client's socket resets unless both directions end in order.
pub(crate) async fn serve(
    app: Arc<App>,
    session: Scope,
    client: Stream,
    from: Option<SocketAddr>,
    to: Arc<Upstream>,
    permit: Permit,
) {
    let counters = &app.metrics.ingress;
    count(&counters.started);
    client.arm_reset();
    // Boxed, so that a stream that is being relayed does not carry the memory of its dial.
    let reached = tokio::select! {
        reached = Box::pin(reach(&app, &client, from, &to)) => reached,
        () = session.cancelled() => return counters.ended.count(StreamResult::Cut),
    };
    match reached {
        Ok(enclave) => {
            let outcome = relay(client, enclave, &app.relay, &counters.meter, session.cancelled()).await;
            counters.ended.count(StreamResult::from(outcome.end));
        }
        Err(error) => {
            if app.refusals_logged.allows() {
                warn!("ingress to enclave port {}: {error}", to.port);
            } else {
                debug!("ingress to enclave port {}: {error}", to.port);
            }
            counters.ended.count(StreamResult::Unreachable);
        }
    }
    drop(permit);
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
