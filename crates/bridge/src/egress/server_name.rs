//! The check of the TLS server name: an egress stream to a target asked for by name, where the operator wants it, goes out only if
//! it begins with a ClientHello for that name. TLS is looked at and not ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enclave_bridge_net::{Judge, Screened, Verdict};
use enclave_bridge_policy::NameGrant;
use enclave_bridge_proto::{ClientHelloError, ClientHelloProgress, ClientHelloReader};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::metrics::{Label, ServerNameFault};
use crate::serving::Serving;

/// What was found of a stream, for whoever holds the other end of it.
#[derive(Debug, Default)]
pub(super) struct Found(AtomicBool);

impl Found {
    /// Whether the stream was refused.
    pub(super) fn refused(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The enclave's leg, held back until its server name was judged.
pub(super) fn screen<S>(serving: &Arc<Serving>, leg: S, name: NameGrant) -> (Screened<S>, Arc<Found>) {
    let found = Arc::new(Found::default());
    let deadline = Instant::now() + serving.app.limits.server_name;
    let check =
        Check { serving: Arc::clone(serving), name, reader: ClientHelloReader::new(), found: Arc::clone(&found) };
    (Screened::new(leg, Box::new(check), deadline), found)
}

struct Check {
    serving: Arc<Serving>,
    name: NameGrant,
    reader: ClientHelloReader,
    found: Arc<Found>,
}

impl Check {
    fn refuse(&self, fault: ServerNameFault) {
        self.found.0.store(true, Ordering::Release);
        let app = &self.serving.app;
        app.metrics.server_names.count(fault);
        // Not what the stream asked for instead: that is payload.
        let (name, port, reason) = (self.name.name(), self.name.port(), sentence(fault));
        if app.refusals_logged.allows() {
            warn!(enclave = self.serving.called, reason = fault.text(), "egress to {name}:{port}: reset: {reason}");
        } else {
            debug!(enclave = self.serving.called, reason = fault.text(), "egress to {name}:{port}: reset: {reason}");
        }
    }
}

fn sentence(fault: ServerNameFault) -> &'static str {
    match fault {
        ServerNameFault::NotTls => "it does not begin with a TLS ClientHello",
        ServerNameFault::Malformed => "its TLS ClientHello is malformed",
        ServerNameFault::TooLong => "its TLS ClientHello is too long",
        ServerNameFault::None => "its TLS ClientHello names no server",
        ServerNameFault::Other => "its TLS ClientHello names another server",
        ServerNameFault::Ended => "it ended before its TLS ClientHello was whole",
        ServerNameFault::Late => "its TLS ClientHello was not whole in time",
    }
}

impl Judge for Check {
    fn judge(&mut self, bytes: &[u8]) -> Verdict {
        let fault = match self.reader.push(bytes) {
            Ok(ClientHelloProgress::More) => return Verdict::More,
            Ok(ClientHelloProgress::Whole(Some(name))) if name.is(self.name.name()) => return Verdict::Pass,
            Ok(ClientHelloProgress::Whole(Some(_))) => ServerNameFault::Other,
            Ok(ClientHelloProgress::Whole(None)) => ServerNameFault::None,
            Err(ClientHelloError::NotTls) => ServerNameFault::NotTls,
            Err(ClientHelloError::TooLong) => ServerNameFault::TooLong,
            Err(ClientHelloError::Malformed(_) | _) => ServerNameFault::Malformed,
        };
        self.refuse(fault);
        Verdict::Refuse
    }

    fn ended(&mut self) {
        self.refuse(ServerNameFault::Ended);
    }

    fn late(&mut self) {
        self.refuse(ServerNameFault::Late);
    }
}
