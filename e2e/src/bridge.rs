//! The bridge under test: the real program in a folder of its own, with a monitoring port of its own.

use crate::http;
use crate::ports;
use crate::process::{Output, Process};
use crate::tunnels;
use crate::v1::{Enclave, INIT_PORT, LOG_PORT, Settings};
use crate::wait::{self, SOON};
use crate::wire::{Endpoint, Meeting};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;

/// The programs under test, built once per test process unless the environment names them.
#[derive(Debug)]
pub struct Programs {
    /// `enclave-bridge`.
    pub bridge: PathBuf,
    /// `simple-enclave`.
    pub simple_enclave: PathBuf,
}

/// `ENCLAVE_BRIDGE_BIN` and `SIMPLE_ENCLAVE_BIN` where both are set; else cargo builds both beside the test.
#[must_use]
pub fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "which programs to test is told to the tests, not to the product"
        )]
        let named = |key: &str| std::env::var_os(key).map(PathBuf::from);
        if let (Some(bridge), Some(simple_enclave)) = (named("ENCLAVE_BRIDGE_BIN"), named("SIMPLE_ENCLAVE_BIN")) {
            return Programs { bridge, simple_enclave };
        }
        let own = std::env::current_exe().expect("the test's own path");
        // target/<profile>/deps/<test>, or target/<profile>/<program>
        let folder = own
            .parent()
            .map(|folder| if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder });
        let folder = folder.expect("a target folder");
        let target = folder.parent().expect("a target folder has a parent");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "enclave-bridge", "--package", "simple-enclave", "--bins"]);
        cargo.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml"));
        cargo.arg("--target-dir").arg(target);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("run cargo").success(), "cargo build of the programs under test");
        Programs { bridge: folder.join("enclave-bridge"), simple_enclave: folder.join("simple-enclave") }
    })
}

/// Another program of this package, which cargo puts beside the tests and the other programs.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn companion(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the program's own path");
    let folder = own.parent().expect("a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("a target folder") } else { folder };
    let program = folder.join(name);
    assert!(program.is_file(), "{}: not built", program.display());
    program
}

/// What a bridge is started with.
#[derive(Debug, Clone)]
pub struct Builder {
    endpoint: Endpoint,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    output: Output,
    descriptor_limit: Option<u32>,
    before: Vec<String>,
    wrapper: Vec<OsString>,
    stdout: Option<PathBuf>,
    folder: Option<Arc<TempDir>>,
    monitor: Option<SocketAddr>,
    own_group: bool,
}

impl Builder {
    /// A bridge that is told nothing but where to meet its enclave and where to be monitored.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Builder {
        Builder {
            endpoint,
            arguments: Vec::new(),
            environment: Vec::new(),
            output: Output::Kept,
            descriptor_limit: None,
            before: Vec::new(),
            wrapper: Vec::new(),
            stdout: None,
            folder: None,
            monitor: None,
            own_group: false,
        }
    }

    /// Adds arguments of `run`.
    #[must_use]
    pub fn arguments<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Builder {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Allows 127.0.0.0/8 as an egress target: the tests' servers live there, and the default is closed.
    #[must_use]
    pub fn loopback_egress(self) -> Builder {
        self.arguments(["--egress-allow", "127.0.0.0/8"])
    }

    /// Sets a variable of the bridge's environment, which is otherwise nearly empty.
    #[must_use]
    pub fn variable(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Builder {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Where its standard output goes.
    #[must_use]
    pub fn output(mut self, output: Output) -> Builder {
        self.output = output;
        self
    }

    /// The hard and the soft limit of open descriptors.
    #[must_use]
    pub fn descriptor_limit(mut self, limit: u32) -> Builder {
        self.descriptor_limit = Some(limit);
        self
    }

    /// In a process group of its own: a Ctrl-C at the terminal is meant for who started it.
    #[must_use]
    pub fn in_a_group_of_its_own(mut self) -> Builder {
        self.own_group = true;
        self
    }

    /// Runs these words of a shell in the process that becomes the bridge.
    #[must_use]
    pub fn before(mut self, words: impl Into<String>) -> Builder {
        self.before.push(words.into());
        self
    }

    /// Starts the bridge by another program, which is given these words and then the bridge's, and in whose process the
    /// bridge then runs.
    #[must_use]
    pub fn wrapped<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Builder {
        self.wrapper.extend(words.into_iter().map(Into::into));
        self
    }

    /// Its standard output is this file, which it opens for writing, waiting for a reader if it is a pipe.
    #[must_use]
    pub fn stdout_to(mut self, path: PathBuf) -> Builder {
        self.stdout = Some(path);
        self
    }

    /// Uses the folder of an earlier bridge, so that an enclave finds the new one at the old place.
    #[must_use]
    pub fn in_folder_of(mut self, earlier: &Bridge) -> Builder {
        self.folder = Some(earlier.folder.clone());
        self.monitor = Some(earlier.monitor);
        self
    }

    /// Starts it and waits until it listens everywhere.
    #[must_use]
    pub fn start(self) -> Bridge {
        let again = self.monitor.is_none().then(|| self.clone());
        let mut bridge = self.launch();
        wait::until("the bridge's monitoring and its sockets", SOON, || {
            // A port that was free when it was chosen may have become another's: then it starts with the next.
            let taken = bridge.ended().is_some() && bridge.stderr.text().contains("Address already in use");
            if let (true, Some(builder)) = (taken, &again) {
                bridge = builder.clone().launch();
            }
            bridge.process.assert_alive();
            // It answers here once everything is bound: asking for a vsock port before that might be in its way.
            http::get(bridge.monitor, "/health/live").is_ok_and(|answer| answer.status == 200)
                && bridge.meeting.host_listens(INIT_PORT)
                && bridge.meeting.host_listens(LOG_PORT)
        });
        bridge
    }

    /// Starts it and waits for nothing.
    #[must_use]
    pub fn launch(self) -> Bridge {
        let folder = self.folder.unwrap_or_else(|| {
            // A short path: a Unix address holds 108 bytes.
            Arc::new(tempfile::Builder::new().prefix("eb-").tempdir().expect("a temporary folder"))
        });
        let monitor = self.monitor.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free())));
        let meeting = Meeting::new(self.endpoint, folder.path());
        let mut words = self.wrapper.into_iter().chain([programs().bridge.clone().into_os_string()]);
        let mut before = self.before;
        before.extend(self.descriptor_limit.map(|limit| format!("ulimit -n {limit}")));
        before.extend(self.stdout.map(|path| format!("exec >{}", path.display())));
        let mut command = if before.is_empty() {
            Command::new(words.next().expect("the program at least"))
        } else {
            // The shell's own limits hold for what it becomes; its process id stays.
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{}; exec \"$0\" \"$@\"", before.join(" && "))]);
            shell
        };
        command.args(words);
        command.arg("run").args(meeting.bridge_arguments()).arg("--monitor").arg(monitor.to_string());
        command.args(&self.arguments).current_dir(folder.path());
        command.env_clear().envs(self.environment);
        if self.own_group {
            command.process_group(0);
        }
        let process = Process::start(command, "enclave-bridge", self.output);
        Bridge { process, meeting, monitor, folder }
    }
}

/// A running bridge.
#[derive(Debug)]
pub struct Bridge {
    process: Process,
    /// Where it meets its enclave.
    pub meeting: Meeting,
    /// Its monitoring.
    pub monitor: SocketAddr,
    folder: Arc<TempDir>,
}

impl Bridge {
    /// A bridge over the endpoint under test, told nothing more.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new(Endpoint::under_test())
    }

    /// Fails unless this very process still serves: a version-1 enclave shakes hands, and a stream through it echoes.
    pub fn assert_serves(&mut self) {
        self.process.assert_alive();
        let port = ports::free();
        let settings = Settings::new(Duration::from_secs(30)).server(5001, port);
        let _enclave = Enclave::echo(&self.meeting, &settings, 5001);
        let mut stream = tunnels::tcp(Bridge::tcp(port));
        let heard = tunnels::speak_then_listen(&mut stream, 1, 1000).expect("a stream through a bridge that serves");
        assert_eq!(heard, tunnels::Heard::pattern(1, 1000));
        self.process.assert_alive();
    }

    /// Its working folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The status of `/health/ready`.
    #[must_use]
    pub fn ready_status(&self) -> u16 {
        http::get(self.monitor, "/health/ready").map_or(0, |answer| answer.status)
    }

    /// Waits until `/health/ready` says so.
    pub fn wait_ready(&self) {
        wait::until("a ready session", SOON, || self.ready_status() == 200);
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn metrics(&self) -> String {
        http::get(self.monitor, "/metrics").expect("metrics").text()
    }

    /// The sum over all labels of a metric, by its whole name; `None` where it is not exposed.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics();
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let series = series.split('{').next()?;
            (series == name).then(|| value.parse::<f64>().ok()).flatten()
        });
        let values: Vec<f64> = samples.collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// A TCP address of the host, on loopback.
    #[must_use]
    pub fn tcp(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

impl Deref for Bridge {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Bridge {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
