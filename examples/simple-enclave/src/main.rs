//! The example enclave: a small web service behind the bridge. See README.md.

mod arguments;
mod fetch;
mod pages;

use std::process::ExitCode;
use std::time::Duration;

use enclave_bridge_sdk::{Bridge, Connector, Feature, Listener, LogLayer, LogLevel, Options, Session};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

use crate::arguments::Arguments;
use crate::pages::Pages;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The vsock port of the page, and the host's vsock port of the way out.
const SERVER_PORT: u32 = 5001;
const CLIENT_PORT: u32 = 5002;

/// How long requests that are being answered may go on after the signal to end.
const END_LIMIT: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not by way of the log: it may be the bridge that is missing.
            drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("simple-enclave: {error}\n")));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Error> {
    let arguments = Arguments::from_process()?;
    let mut told_to_end = ToldToEnd::new()?;
    let options =
        Options::from_env()?.app_name("simple-enclave").interval(arguments.interval).log_level(LogLevel::Debug);

    // Everything goes to the bridge's log port; what is wrong also to the own standard error.
    let (log, _guard) = LogLayer::new(&options)?;
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(LevelFilter::WARN);
    tracing_subscriber::registry().with(log.with_filter(LevelFilter::INFO)).with(stderr).init();

    let (session, listener, pages) = tokio::select! {
        ready = set_up(&arguments, options) => ready?,
        () = told_to_end.wait() => return Ok(()),
    };
    let (end, ended) = oneshot::channel::<()>();
    let end_of_service = async {
        drop(ended.await);
    };
    let serving = axum::serve(listener, pages.into_service()).with_graceful_shutdown(end_of_service);
    let mut serving = std::pin::pin!(serving.into_future());
    tokio::select! {
        result = &mut serving => result?,
        () = told_to_end.wait() => {
            tracing::info!("ending");
            drop(end);
            // Requests that are still being answered after this are cut.
            drop(tokio::time::timeout(END_LIMIT, serving).await);
        }
    }
    session.shutdown().await;
    Ok(())
}

/// The session, and what serves in it.
async fn set_up(arguments: &Arguments, options: Options) -> Result<(Session, Listener, Pages), Error> {
    let mut bridge = Bridge::connect(options).await?;
    let port = arguments.bridge_port(bridge.environment())?;
    let roots = fetch::roots(arguments.roots_file(bridge.environment()))?;

    let proxy_v2 = bridge.offers(Feature::ProxyV2);
    let server = bridge.server(SERVER_PORT, port);
    let listener = if proxy_v2 { server.proxy_v2().listen()? } else { server.listen()? };
    let client = fetch::client(Connector::new(bridge.client(CLIENT_PORT)), roots)?;

    let session = bridge.start().await?;
    tracing::info!(port, "serving");
    let pages = Pages { environment: session.environment_changes(), client };
    Ok((session, listener, pages))
}

/// SIGTERM or SIGINT.
struct ToldToEnd {
    terminate: Signal,
    interrupt: Signal,
}

impl ToldToEnd {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
