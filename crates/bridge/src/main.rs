//! The program `enclave-bridge`: arguments → configuration → bind everything → sandbox → log → runtime → run → drain → exit code.

#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use enclave_bridge::app::{App, BoundListeners, BoundSockets, Ending, HostEnvironment, Means};
use enclave_bridge::config::{self, Command, Config, EXIT_CONFIG, Source};
use enclave_bridge::telemetry::{Telemetry, TelemetryError};
use enclave_bridge::{exit, explain, monitor, sandbox, threads};
use enclave_bridge_net::Workers;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SIGHUP, SIGINT, SIGTERM, SigSet};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the environment is read")]
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    match config::from_process(arguments, environment.clone()) {
        Ok(Command::Run(config, source)) => run(&config, &source, &environment),
        Ok(Command::Check { file, config, explain, enclave }) => check(&file, &config, &explain, enclave.as_deref()),
        Ok(Command::Help(text) | Command::Version(text)) => say(io::stdout(), text.trim_end(), 0),
        Err(errors) => say(io::stderr(), errors.to_string().trim_end(), errors.exit_code()),
    }
}

/// The file is in order; what it says about each target that was asked about.
fn check(file: &Path, config: &Config, targets: &[String], enclave: Option<&str>) -> ExitCode {
    if targets.is_empty() {
        return say(io::stdout(), &config::check_report(file), 0);
    }
    let mut code = 0;
    for target in targets {
        let explained = match explain::egress(config, enclave, target) {
            Ok(explained) => explained,
            Err(error) => return say(io::stderr(), &format!("addresses of this host: {error}"), exit::UNAVAILABLE),
        };
        if !explained.open {
            code = exit::PERMISSION;
        }
        _ = writeln!(io::stdout(), "{explained}");
    }
    ExitCode::from(code)
}

/// Writes a last word; nobody is left to tell if that fails.
fn say(mut out: impl Write, text: &str, code: u8) -> ExitCode {
    _ = writeln!(out, "{text}");
    ExitCode::from(code)
}

fn run(config: &Config, source: &Source, environment: &HostEnvironment) -> ExitCode {
    let chosen = match chosen_threads(environment) {
        Ok(chosen) => chosen,
        Err(error) => return say(io::stderr(), &error.to_string(), EXIT_CONFIG),
    };
    // Before any other thread: the sandbox holds for this one and for all that it starts.
    let begun = begin(config, source, chosen);
    // The text of a panic may hold bytes of a peer; where it happened is what a report needs.
    std::panic::set_hook(Box::new(|panic| match panic.location() {
        Some(place) => error!("panic at {place}"),
        None => error!("panic"),
    }));
    let telemetry = match Telemetry::install(config.log_level.as_str()) {
        Ok(telemetry) => telemetry,
        Err(error @ TelemetryError::Thread) => return say(io::stderr(), &error.to_string(), exit::UNAVAILABLE),
        Err(error) => return say(io::stderr(), &error.to_string(), EXIT_CONFIG),
    };
    for warning in source.warnings() {
        warn!("{warning}");
    }
    let begun = match begun {
        Ok(begun) => begun,
        Err(error) => return refuse(&*error, exit::UNAVAILABLE),
    };
    for warning in &begun.warnings {
        warn!("{warning}");
    }
    match begun.sandbox.missing() {
        [] => info!("{}", begun.sandbox),
        _ => warn!("{}", begun.sandbox),
    }
    if let Err(error) = threads::try_to_start(begun.threads.saturating_add(threads::BESIDE_THE_STREAMS)) {
        return fail(&error.to_string(), exit::UNAVAILABLE);
    }
    // This thread is for handshakes, beats and logs, which no load of streams keeps waiting.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("runtime: {error}"), exit::UNAVAILABLE),
    };
    let exit = match prepare(&runtime, config, environment, begun) {
        Ok(prepared) => runtime.block_on(serve(prepared, source, environment, &telemetry)),
        Err(exit) => exit,
    };
    // Tasks that did not end in their time are left to the end of the process.
    runtime.shutdown_background();
    exit
}

/// What is done while the process is one thread.
struct Begun {
    monitoring: monitor::Bound,
    sockets: BoundSockets,
    descriptors: u64,
    sandbox: sandbox::Report,
    /// Threads for streams, counted while the limits of the machine's groups of processes can still be read.
    threads: usize,
    warnings: Vec<String>,
}

/// Binds everything that may need a right, then gives the rights up.
fn begin(config: &Config, source: &Source, chosen: Option<usize>) -> Result<Begun, Box<dyn Error>> {
    let mut warnings = Vec::new();
    let descriptors = raise_descriptor_limit(&mut warnings);
    // No file of the process's memory, which holds the environment and streams.
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warnings.push(format!("limit of core files: {error}"));
    }
    let threads = chosen.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    let monitoring = monitor::bind(config.monitor)?;
    let sockets = BoundSockets::bind(config)?;
    let low_ports =
        config.policies().any(|policy| (1..FIRST_FREE_PORT).any(|port| policy.ingress_ports.contains(port)));
    let mut needs = sandbox::Needs { low_ports, ..sandbox::Needs::default() };
    needs.read(source.file());
    needs.read(&config.resolv_conf);
    needs.uds_paths.extend(config.endpoints.iter().filter_map(|endpoint| endpoint.uds_path().map(Path::to_owned)));
    let sandbox = sandbox::enter(config.sandbox, &needs)?;
    Ok(Begun { monitoring, sockets, descriptors, sandbox, threads, warnings })
}

/// The variable by which programs built on tokio are told how many threads to have. Read here, for streams.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// More than any machine has processors for; each takes a stack and a poller.
const WORKER_THREADS_MAX: usize = 1024;

/// The environment asks for a number of threads that is none.
#[derive(Debug, thiserror::Error)]
#[error("environment variable {WORKER_THREADS}: not a number from 1 to {WORKER_THREADS_MAX}")]
struct BadNumberOfThreads;

/// How many threads the environment asks for.
fn chosen_threads(environment: &HostEnvironment) -> Result<Option<usize>, BadNumberOfThreads> {
    let Some((_, value)) = environment.iter().find(|(name, _)| name == WORKER_THREADS) else { return Ok(None) };
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(number @ 1..=WORKER_THREADS_MAX) => Ok(Some(number)),
        Some(_) | None => Err(BadNumberOfThreads),
    }
}

/// Ports from here on need no capability, unless the system was told otherwise (`ip_unprivileged_port_start`).
const FIRST_FREE_PORT: u16 = 1024;

/// Everything that the daemon serves with.
struct Prepared {
    signals: Signals,
    app: Arc<App>,
    listeners: BoundListeners,
    sandbox: sandbox::Report,
}

/// Puts everything that was bound into the runtime, or says why not.
fn prepare(
    runtime: &Runtime,
    config: &Config,
    environment: &HostEnvironment,
    begun: Begun,
) -> Result<Prepared, ExitCode> {
    let _inside = runtime.enter();
    let Begun { monitoring, sockets, descriptors, sandbox, threads, .. } = begun;
    let unavailable = |error: &(dyn Error + 'static)| refuse(error, exit::UNAVAILABLE);
    let signals = Signals::install().map_err(|error| unavailable(&error))?;
    let workers = Workers::start(threads).map_err(|error| unavailable(&error))?;
    let means = Means { descriptors, workers };
    let (app, listeners) = App::over(sockets, config, environment, means, monitoring.address())
        .map_err(|error| refuse(&error, error.exit_code()))?;
    monitoring.start(Arc::clone(&app)).map_err(|error| unavailable(&error))?;
    Ok(Prepared { signals, app, listeners, sandbox })
}

async fn serve(prepared: Prepared, source: &Source, environment: &HostEnvironment, telemetry: &Telemetry) -> ExitCode {
    let Prepared { signals, app, listeners, sandbox } = prepared;
    let Signals { mut terminate, mut interrupt, mut hang_up, ignored } = signals;
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let reading = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {
                    reload(&app, source, environment, telemetry, &sandbox);
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

fn refuse(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    fail(&error.to_string(), refused_or(error, code))
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
fn raise_descriptor_limit(warnings: &mut Vec<String>) -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                warnings.push(format!("limit of open files: {soft}, not raised to {hard}: {error}"));
                soft
            }
        },
        Ok((soft, _)) => soft,
        Err(error) => {
            warnings.push(format!("limit of open files: unknown: {error}"));
            LEAST_DESCRIPTORS
        }
    }
}

/// What every process may open where nobody has said otherwise.
const LEAST_DESCRIPTORS: u64 = 1024;

/// Reads the configuration again and takes over what may change while running.
fn reload(app: &App, source: &Source, environment: &HostEnvironment, telemetry: &Telemetry, sandbox: &sandbox::Report) {
    let config = match config::reload(source) {
        Ok(config) => config,
        Err(errors) if sandbox.closes_files() && errors.to_string().contains("permission denied") => {
            return error!(
                "reload: {errors} (in the sandbox a file that was replaced by another can be read only in a folder named enclave-bridge: write into the file, or restart)"
            );
        }
        Err(errors) => return error!("reload: {errors}"),
    };
    if let Err(error) = app.reload(&config, environment) {
        return error!("reload: {error}");
    }
    match telemetry.set_level(config.log_level.as_str()) {
        Ok(()) => info!(
            "reloaded: log level, egress rules, environment patterns, allowed CIDs and ports, enclaves' tables, resolver"
        ),
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
    /// To be called in the thread that lives as long as the process: one that takes signals is enough.
    fn install() -> io::Result<Self> {
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
        };
        // Whoever blocks signals bequeaths that to what it starts. Only now, so that what has come meanwhile drains.
        SigSet::from_iter([SIGTERM, SIGINT, SIGHUP]).thread_unblock()?;
        Ok(signals)
    }
}
