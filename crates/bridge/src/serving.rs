//! What every stream of a session needs while it is served: one value for all of them, for each idle stream has a pointer to it.

use std::sync::Arc;

use enclave_bridge_net::{Peer, RelayConfig, Scope};

use crate::app::App;
use crate::streams::Streams;
use crate::tenant::Tenant;

/// A session as its streams see it.
pub(crate) struct Serving {
    pub(crate) app: Arc<App>,
    /// The session's scope: cancelled when it ends.
    pub(crate) scope: Scope,
    pub(crate) peer: Peer,
    /// The peer as log lines name it.
    pub(crate) called: String,
    /// The relay's limits for this enclave.
    pub(crate) relay: RelayConfig,
    /// This enclave's part of all streams.
    pub(crate) streams: Streams,
}

impl Serving {
    pub(crate) fn new(app: &Arc<App>, scope: &Scope, peer: &Peer, tenant: &Tenant) -> Arc<Self> {
        Arc::new(Self {
            app: Arc::clone(app),
            scope: scope.clone(),
            peer: peer.clone(),
            called: tenant.call(peer),
            relay: tenant.relay(&app.relay),
            streams: app.streams.share(tenant.max_streams),
        })
    }
}
