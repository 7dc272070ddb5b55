//! The program `enclave-bridge`: arguments → log → configuration → runtime → bind everything → run → drain → exit code.

#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use enclave_bridge::app::{App, BoundListeners, Ending, HostEnvironment};
use enclave_bridge::config::{self, Command, Config, EXIT_CONFIG, Source};
use enclave_bridge::telemetry::Telemetry;
use enclave_bridge::{exit, monitor};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How many ready tasks run before the sockets are looked at again. tokio's default of 61 lets bulk streams keep
/// small messages waiting; 4 measured best for latency beside bulk at no cost in throughput.
const EVENT_INTERVAL: u32 = 4;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the environment is read")]
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    match config::from_process(arguments, environment.clone()) {
        Ok(Command::Run(config, source)) => run(&config, &source, &environment),
        Ok(Command::Check { file }) => say(io::stdout(), &config::check_report(&file), 0),
        Ok(Command::Help(text) | Command::Version(text)) => say(io::stdout(), text.trim_end(), 0),
        Err(errors) => say(io::stderr(), errors.to_string().trim_end(), errors.exit_code()),
    }
}

/// Writes a last word; nobody is left to tell if that fails.
fn say(mut out: impl Write, text: &str, code: u8) -> ExitCode {
    _ = writeln!(out, "{text}");
    ExitCode::from(code)
}

fn run(config: &Config, source: &Source, environment: &HostEnvironment) -> ExitCode {
    let telemetry = match Telemetry::install(config.log_level.as_str()) {
        Ok(telemetry) => telemetry,
        Err(error) => return say(io::stderr(), &error.to_string(), EXIT_CONFIG),
    };
    // The text of a panic may hold bytes of a peer; where it happened is what a report needs.
    std::panic::set_hook(Box::new(|panic| match panic.location() {
        Some(place) => error!("panic at {place}"),
        None => error!("panic"),
    }));
    for warning in source.warnings() {
        warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(EVENT_INTERVAL).build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("runtime: {error}"), exit::UNAVAILABLE),
    };
    let exit = match prepare(&runtime, config, environment) {
        Ok(prepared) => runtime.block_on(serve(prepared, source, environment, &telemetry)),
        Err(exit) => exit,
    };
    // Tasks that did not end in their time are left to the end of the process.
    runtime.shutdown_background();
    exit
}

/// Everything that the daemon serves with.
struct Prepared {
    signals: Signals,
    app: Arc<App>,
    listeners: BoundListeners,
}

/// Binds everything, or says why not.
fn prepare(runtime: &Runtime, config: &Config, environment: &HostEnvironment) -> Result<Prepared, ExitCode> {
    let _inside = runtime.enter();
    let unavailable = |error: &(dyn Error + 'static)| fail(&error.to_string(), refused_or(error, exit::UNAVAILABLE));
    let signals = Signals::install().map_err(|error| unavailable(&error))?;
    let monitoring = monitor::bind(config.monitor).map_err(|error| unavailable(&error))?;
    let (app, listeners) = App::bind(config, environment, raise_descriptor_limit(), monitoring.address())
        .map_err(|error| fail(&error.to_string(), refused_or(&error, error.exit_code())))?;
    monitoring.start(Arc::clone(&app)).map_err(|error| unavailable(&error))?;
    Ok(Prepared { signals, app, listeners })
}

async fn serve(prepared: Prepared, source: &Source, environment: &HostEnvironment, telemetry: &Telemetry) -> ExitCode {
    let Prepared { signals, app, listeners } = prepared;
    let Signals { mut terminate, mut interrupt, mut hang_up, ignored } = signals;
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let reading = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {
                    reload(&app, source, environment, telemetry);
                    continue;
                }
            }
            if first.is_cancelled() {
                second.cancel();
            }
            first.cancel();
        }
    };
    let ending = tokio::select! {
        ending = app.run(listeners, first.cancelled(), second.cancelled()) => ending,
        never = reading => never,
    };
    drop(ignored);
    match ending {
        Ending::Drained { cut: 0 } => info!("drained: every stream ended"),
        Ending::Drained { cut } => info!("drained: {cut} streams were cut"),
        Ending::AtOnce => warn!("ended at once by a second signal"),
        Ending::EnclaveLost => warn!("ended: the enclave was lost"),
        Ending::Failed => error!("ended: a listener is dead"),
    }
    ExitCode::from(match ending {
        Ending::Drained { .. } => 0,
        Ending::AtOnce => exit::AT_ONCE,
        Ending::EnclaveLost => exit::UNAVAILABLE,
        Ending::Failed => exit::SOFTWARE,
    })
}

fn fail(message: &str, code: u8) -> ExitCode {
    error!("{message}");
    ExitCode::from(code)
}

/// 77 where the system said that the right is missing, else `code`.
fn refused_or(error: &(dyn Error + 'static), code: u8) -> u8 {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    let denied = causes
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::PermissionDenied);
    if denied { exit::PERMISSION } else { code }
}

/// Raises the limit of open files as far as the system lets us; what it is then.
fn raise_descriptor_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                warn!("limit of open files: {soft}, not raised to {hard}: {error}");
                soft
            }
        },
        Ok((soft, _)) => soft,
        Err(error) => {
            warn!("limit of open files: unknown: {error}");
            LEAST_DESCRIPTORS
        }
    }
}

/// What every process may open where nobody has said otherwise.
const LEAST_DESCRIPTORS: u64 = 1024;

/// Reads the configuration again and takes over what may change while running.
fn reload(app: &App, source: &Source, environment: &HostEnvironment, telemetry: &Telemetry) {
    let config = match config::reload(source) {
        Ok(config) => config,
        Err(errors) => return error!("reload: {errors}"),
    };
    if let Err(error) = app.reload(&config, environment) {
        return error!("reload: {error}");
    }
    match telemetry.set_level(config.log_level.as_str()) {
        Ok(()) => info!("reloaded: log level, egress rules, environment patterns, allowed CIDs and ports, resolver"),
        Err(error) => error!("reload: {error}"),
    }
}

/// The signals that mean something, and those that must not end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// Kept installed: their default would end the process.
    ignored: [Signal; 2],
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
        })
    }
}
