//! The enclave's side of enclave-bridge for Rust programs.
//!
//! An enclave has no network but a vsock to its host. There the bridge listens, and this crate is what a program in
//! the enclave uses of it: the host's environment, TCP connections that come in, TCP connections that go out, and log
//! lines. A session with the bridge survives the bridge: when it goes away and comes back, the same is set up again,
//! and the program and its keys live on.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use enclave_bridge_sdk::{Bridge, Connector, LogLayer, Options};
//! use tracing_subscriber::prelude::*;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // AF_VSOCK to the host; ENCLAVE_BRIDGE_UDS_PATH for development without a VM.
//!     let options = Options::from_env()?.app_name("greeter");
//!
//!     // Log lines go to the bridge, from a bounded buffer; the guard sends the last of them.
//!     let (log, _guard) = LogLayer::new(&options)?;
//!     tracing_subscriber::registry().with(log).init();
//!
//!     // The host's environment comes first; what is asked for may depend on it.
//!     let mut bridge = Bridge::connect(options).await?;
//!     let greeting = bridge.environment().get("GREETING").unwrap_or("Hello").to_owned();
//!
//!     // Ingress: the host's TCP port 8080 arrives at port 5001 here. Egress: by way of port 5002.
//!     let listener = bridge.server(5001, 8080).listen()?;
//!     let connector = Connector::new(bridge.client(5002));
//!
//!     // From here on both work, until the session is shut down.
//!     let session = bridge.start().await?;
//!     tracing::info!("ready");
//!
//!     // The connector is what hyper takes; hyper-rustls wraps it for TLS that ends in the enclave.
//!     let client: hyper_util::client::legacy::Client<_, axum::body::Body> =
//!         hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build(connector);
//!     let status = client.get("http://example.org/".parse()?).await?.status();
//!     tracing::info!(%status, "fetched");
//!
//!     // The listener is what axum takes.
//!     let app = Router::new().route("/", get(move || async move { greeting }));
//!     axum::serve(listener, app).with_graceful_shutdown(session.closed()).await?;
//!     session.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! # What the host can do
//! Everything that arrives here comes from the host: the environment, the client's address, the bytes of a stream. What
//! must be trusted has to be protected end to end, by TLS that ends in the enclave. The host may always refuse to
//! work; it cannot make this crate panic, spin or take memory without bound.
//!
//! # Tasks
//! A session runs one task; with the hybrid transport (development) a second one serves the socket, and one for each
//! connection that has not said yet which port it is for. [`Session::shutdown`] waits for all of them, and dropping
//! [`Bridge`], [`Session`] or a future of theirs ends them. The log has a thread of its own ([`LogGuard`]).
//!
//! # Not here
//! Process control, a global subscriber, an end of the process: these are the program's.

#![forbid(unsafe_code)]

mod beats;
mod bridge;
mod conn;
mod connector;
mod dialer;
mod error;
mod form;
mod handshake;
mod id;
mod listener;
mod log;
mod options;
mod pace;
mod session;
mod values;

pub use bridge::{Bridge, ServerBuilder};
pub use conn::Conn;
pub use connector::{Connector, HttpConn};
pub use dialer::Dialer;
pub use enclave_bridge_net::Scope;
pub use enclave_bridge_policy::{EgressPolicy, Rule, RuleError};
pub use enclave_bridge_proto::{Environment, Feature, Host, LogLevel, NakCode, Target};
pub use error::Error;
pub use listener::{ClientAddr, Listener};
pub use log::{DEFAULT_LOG_BUFFER_MAX_BYTES, LogGuard, LogLayer};
pub use options::{DEFAULT_INTERVAL, Options};
pub use session::{Session, SessionState};
