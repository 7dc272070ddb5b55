//! Where the bridge is and what the session is called. The one place of the SDK that reads this process's environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use enclave_bridge_net::{Route, Scope};
use enclave_bridge_proto::{DEFAULT_INIT_PORT, DEFAULT_LOG_PORT, INTERVAL_MAX, INTERVAL_MIN, LogLevel};

use crate::Error;

/// Default interval of the beats, as in the example of the wire's description: a loss is noticed within 45 s.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);

/// The host as an AWS Nitro enclave sees it.
const NITRO_PARENT_CID: u32 = 3;
/// The host as every other guest sees it.
const HOST_CID: u32 = 2;
/// There only on Nitro.
const NITRO_DEVICE: &str = "/dev/nsm";

/// The least and the most that [`Options::vsock_window`] takes, in bytes.
pub const VSOCK_WINDOW_MIN: u32 = enclave_bridge_net::VSOCK_WINDOW_MIN_BYTES;
/// See [`VSOCK_WINDOW_MIN`].
pub const VSOCK_WINDOW_MAX: u32 = enclave_bridge_net::VSOCK_WINDOW_MAX_BYTES;

const UDS_PATH: &str = "ENCLAVE_BRIDGE_UDS_PATH";
const HOST_CID_VARIABLE: &str = "ENCLAVE_BRIDGE_HOST_CID";
/// The bridge reads the same two names for each of its ports, so one setting serves both sides of a test.
const INIT_PORT: [&str; 2] = ["ENCLAVE_BRIDGE_INIT_PORT", "ENCLAVE_BRIDGE_VSOCK_INIT_PORT"];
const LOG_PORT: [&str; 2] = ["ENCLAVE_BRIDGE_LOG_PORT", "ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT"];

/// How to reach the bridge, and what to tell it about this program.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) app_name: String,
    pub(crate) transport: Transport,
    pub(crate) init_port: u32,
    pub(crate) log_port: u32,
    pub(crate) interval: Duration,
    pub(crate) log_level: Option<LogLevel>,
    pub(crate) framed: bool,
    pub(crate) vsock_window: Option<u32>,
    pub(crate) scope: Option<Scope>,
}

/// What carries the streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// AF_VSOCK to the host's CID.
    Vsock {
        /// The host as the enclave sees it.
        host_cid: u32,
    },
    /// The Unix sockets of the hybrid transport, without a VM.
    Hybrid {
        /// `P`; the host's ports are at `P_<port>`.
        uds_path: PathBuf,
    },
}

impl Transport {
    fn route(&self, window: Option<u32>) -> Route {
        match self {
            Self::Vsock { host_cid } => Route::Vsock { cid: *host_cid, window },
            Self::Hybrid { uds_path } => Route::HybridGuest { uds_path: uds_path.clone() },
        }
    }
}

impl Options {
    /// The defaults: AF_VSOCK to CID 3 where `/dev/nsm` exists (AWS Nitro) and to CID 2 elsewhere, init port 5000,
    /// log port 4999, a beat interval of 30 s. `app_name` is what the bridge's operator reads.
    #[must_use]
    pub fn new(app_name: impl Into<String>) -> Self {
        let host_cid = if Path::new(NITRO_DEVICE).exists() { NITRO_PARENT_CID } else { HOST_CID };
        Self {
            app_name: app_name.into(),
            transport: Transport::Vsock { host_cid },
            init_port: DEFAULT_INIT_PORT,
            log_port: DEFAULT_LOG_PORT,
            interval: DEFAULT_INTERVAL,
            log_level: None,
            framed: true,
            vsock_window: None,
            scope: None,
        }
    }

    /// [`Options::new`] with the name of the program's file, and what these variables of this process say:
    ///
    /// | variable | |
    /// |---|---|
    /// | `ENCLAVE_BRIDGE_UDS_PATH` | the hybrid transport at this path: development without a VM |
    /// | `ENCLAVE_BRIDGE_HOST_CID` | the host's CID |
    /// | `ENCLAVE_BRIDGE_INIT_PORT`, `ENCLAVE_BRIDGE_VSOCK_INIT_PORT` | the init port |
    /// | `ENCLAVE_BRIDGE_LOG_PORT`, `ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT` | the log port |
    ///
    /// # Errors
    /// [`Error::Variable`] names a variable that holds no such value.
    pub fn from_env() -> Result<Self, Error> {
        let name = std::env::current_exe()
            .ok()
            .and_then(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "enclave".to_owned());
        #[expect(clippy::disallowed_methods, reason = "this is the place where the SDK's configuration is read")]
        Self::new(name).overlaid(|variable| std::env::var_os(variable))
    }

    fn overlaid(mut self, read: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, Error> {
        if let Some(cid) = number(&read, HOST_CID_VARIABLE)? {
            self = self.host_cid(cid);
        }
        // The path wins: it is what development sets, wherever it runs.
        if let Some(path) = read(UDS_PATH).filter(|path| !path.is_empty()) {
            self = self.uds_path(path);
        }
        for variable in INIT_PORT.into_iter().rev() {
            self.init_port = port(&read, variable)?.unwrap_or(self.init_port);
        }
        for variable in LOG_PORT.into_iter().rev() {
            self.log_port = port(&read, variable)?.unwrap_or(self.log_port);
        }
        Ok(self)
    }

    /// The name that the bridge's operator reads.
    #[must_use]
    pub fn app_name(mut self, name: impl Into<String>) -> Self {
        self.app_name = name.into();
        self
    }

    /// Uses the hybrid transport: this program serves the socket `path` and reaches the host at `path_<port>`.
    #[must_use]
    pub fn uds_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.transport = Transport::Hybrid { uds_path: path.into() };
        self
    }

    /// Uses AF_VSOCK and this CID for the host.
    #[must_use]
    pub fn host_cid(mut self, cid: u32) -> Self {
        self.transport = Transport::Vsock { host_cid: cid };
        self
    }

    /// The vsock port of handshake and beats.
    #[must_use]
    pub fn init_port(mut self, port: u32) -> Self {
        self.init_port = port;
        self
    }

    /// The vsock port of the log.
    #[must_use]
    pub fn log_port(mut self, port: u32) -> Self {
        self.log_port = port;
        self
    }

    /// The interval of the beats, 1 s to 1 h. A beat is sent every third of it; a bridge that is silent for one and a
    /// half of it is lost.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The log level that is told to the bridge. What the program itself logs is up to its own filters.
    #[must_use]
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.log_level = Some(level);
        self
    }

    /// Whether streams are framed where the bridge offers it, which they are unless this says otherwise. A raw vsock shows
    /// a reset, and the death of either side, as an ordinary end; a framed stream tells them apart on every transport.
    #[must_use]
    pub fn framed(mut self, framed: bool) -> Self {
        self.framed = framed;
        self
    }

    /// How many bytes of a stream over AF_VSOCK may be on their way to this program and, on new kernels, from it:
    /// [`VSOCK_WINDOW_MIN`] to [`VSOCK_WINDOW_MAX`]. Without it the kernel decides, usually 256 KiB. A larger window carries
    /// more on a fast device and many small messages on kernels that count packets; it is memory of the kernel's for each
    /// stream whose bytes nobody takes. The bridge has a setting of its own for its side.
    #[must_use]
    pub fn vsock_window(mut self, bytes: u32) -> Self {
        self.vsock_window = Some(bytes);
        self
    }

    /// Runs the SDK's tasks as children of this scope, for a program that keeps a tree of tasks itself.
    #[must_use]
    pub fn scope(mut self, scope: &Scope) -> Self {
        self.scope = Some(scope.clone());
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&self.interval) {
            return Err(Error::Interval { given: self.interval });
        }
        match self.vsock_window {
            Some(given) if !(VSOCK_WINDOW_MIN..=VSOCK_WINDOW_MAX).contains(&given) => Err(Error::VsockWindow { given }),
            _ => Ok(()),
        }
    }

    /// How this program reaches the bridge.
    pub(crate) fn route(&self) -> Route {
        self.transport.route(self.vsock_window)
    }
}

fn number(read: &impl Fn(&str) -> Option<std::ffi::OsString>, variable: &'static str) -> Result<Option<u32>, Error> {
    let Some(text) = read(variable).filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Error::Variable { variable, reason: "not a number of 32 bits".to_owned() })
}

fn port(read: &impl Fn(&str) -> Option<std::ffi::OsString>, variable: &'static str) -> Result<Option<u32>, Error> {
    match number(read, variable)? {
        Some(port) if !(1..=65535).contains(&port) => {
            Err(Error::Variable { variable, reason: "not a port from 1 to 65535".to_owned() })
        }
        port => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaid(variables: &[(&str, &str)]) -> Result<Options, Error> {
        Options::new("test")
            .overlaid(|wanted| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn variables_choose_transport_and_ports() {
        let options = overlaid(&[
            ("ENCLAVE_BRIDGE_UDS_PATH", "/run/p"),
            ("ENCLAVE_BRIDGE_HOST_CID", "7"),
            ("ENCLAVE_BRIDGE_VSOCK_INIT_PORT", "6000"),
            ("ENCLAVE_BRIDGE_LOG_PORT", "6001"),
            ("ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT", "6002"),
        ])
        .unwrap();
        assert_eq!(options.transport, Transport::Hybrid { uds_path: "/run/p".into() });
        assert_eq!((options.init_port, options.log_port), (6000, 6001));
        let vsock = overlaid(&[("ENCLAVE_BRIDGE_HOST_CID", "7"), ("ENCLAVE_BRIDGE_UDS_PATH", "")]).unwrap();
        assert_eq!(vsock.transport, Transport::Vsock { host_cid: 7 });
    }

    #[test]
    fn a_bad_variable_is_named_and_its_value_is_not_shown() {
        for (variable, value) in [
            ("ENCLAVE_BRIDGE_INIT_PORT", "0"),
            ("ENCLAVE_BRIDGE_VSOCK_INIT_PORT", "65536"),
            ("ENCLAVE_BRIDGE_LOG_PORT", "s3cret"),
            ("ENCLAVE_BRIDGE_HOST_CID", "-1"),
        ] {
            let error = overlaid(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.starts_with(variable), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_interval_has_the_wires_bounds() {
        assert!(Options::new("x").interval(Duration::from_millis(999)).check().is_err());
        assert!(Options::new("x").interval(Duration::from_secs(1)).check().is_ok());
        assert!(Options::new("x").interval(Duration::from_secs(3601)).check().is_err());
    }

    #[test]
    fn the_window_has_bounds_and_goes_with_the_route() {
        for (bytes, right) in [(1 << 20, true), (8 << 20, true), ((1 << 20) - 1, false), ((8 << 20) + 1, false)] {
            assert_eq!(Options::new("x").vsock_window(bytes).check().is_ok(), right, "{bytes}");
        }
        let route = Options::new("x").host_cid(7).vsock_window(1 << 20).route();
        assert_eq!(route, Route::Vsock { cid: 7, window: Some(1 << 20) });
    }
}
