//! Sockets of enclave-bridge: endpoints, listening, dialling, the relay.
//!
//! Everything that touches a socket and is the same for the host daemon and the enclave's side lives here: the three
//! kinds of stream behind one type ([`Stream`]), listening that survives a lack of descriptors ([`Listener`]), dialling
//! with a deadline that names the stage it failed in ([`dial`]), the enclave's end of the hybrid transport for
//! development without a VM ([`HybridGuest`]), the one relay ([`relay()`]), the framed form of an enclave's leg
//! ([`Framed`], [`Leg`]), streams that replay what was read ahead ([`Prefixed`]) or are judged first ([`Screened`]), the threads that streams run on
//! ([`Workers`]), and the one place that spawns ([`Scope`]).
//!
//! Not here: policy, configuration files, names of metrics, the wire beyond the two lines of the hybrid transport.

#![forbid(unsafe_code)]

mod address;
mod bound;
mod dial;
mod framed;
mod guest;
mod leg;
mod line;
mod listen;
mod prefixed;
mod relay;
mod scope;
mod screened;
mod socket_file;
mod stream;
mod sync;
mod vsock;
mod workers;

pub use address::{Listen, Origin, Peer, Route, hybrid_path};
pub use bound::BoundSocket;
pub use dial::{DialCause, DialError, DialStage, UNIX_BACKLOG_PAUSE, dial};
pub use framed::Framed;
pub use guest::{
    GUEST_QUEUE_MAX, GUEST_REQUEST_TIMEOUT, GUEST_UNFINISHED_MAX, GuestListener, HybridGuest, RegisterError,
};
pub use leg::Leg;
pub use listen::{ACCEPT_PAUSE_MAX, ACCEPT_PAUSE_MIN, AcceptError, BACKLOG, BindError, Listener};
pub use prefixed::Prefixed;
pub use relay::{
    BUDGET_BYTES, End, Meter, Outcome, PIPE_BYTES, PIPES_IDLE_MAX, PIPES_MAX, Pipes, RelayConfig, SCRATCH_BYTES, Side,
    UNIX_READ_MAX_BYTES, VSOCK_WRITE_MAX_BYTES, WATCH_INTERVAL, relay,
};
pub use scope::Scope;
pub use screened::{Judge, Screened, Verdict};
pub use stream::{RelayStream, Stream, StreamKind};
pub use vsock::{VSOCK_WINDOW_MAX_BYTES, VSOCK_WINDOW_MIN_BYTES};
pub use workers::{Worker, Workers};
