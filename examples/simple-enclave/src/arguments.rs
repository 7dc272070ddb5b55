//! What the enclave is told: by its command line, its own environment and the host's.

use std::path::PathBuf;
use std::time::Duration;

use enclave_bridge_sdk::{DEFAULT_INTERVAL, Environment};

use crate::Error;

const PORT: u16 = 8080;
const PORT_VARIABLE: &str = "SIMPLE_ENCLAVE_PORT";
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";

/// The command line and the own environment.
pub(crate) struct Arguments {
    pub(crate) interval: Duration,
    port: Option<u16>,
    roots_file: Option<PathBuf>,
}

impl Arguments {
    #[expect(clippy::disallowed_methods, reason = "this is the place where the program's configuration is read")]
    pub(crate) fn from_process() -> Result<Self, Error> {
        let mut read = Self::parse(std::env::args().skip(1))?;
        if let (None, Ok(text)) = (read.port, std::env::var(PORT_VARIABLE)) {
            read.port = Some(port(PORT_VARIABLE, &text)?);
        }
        read.roots_file = std::env::var_os(ROOTS_VARIABLE).map(PathBuf::from);
        Ok(read)
    }

    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut read = Self { interval: DEFAULT_INTERVAL, port: None, roots_file: None };
        let mut arguments = arguments;
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{flag}: a value is missing"));
            match flag.as_str() {
                "--port" => read.port = Some(port(&flag, &value()?)?),
                "--interval" => read.interval = seconds(&flag, &value()?)?,
                _ => return Err(format!("{flag}: usage: simple-enclave [--port N] [--interval SECONDS]").into()),
            }
        }
        Ok(read)
    }

    /// The host's TCP port: as told here, else as the host says.
    pub(crate) fn bridge_port(&self, host: &Environment) -> Result<u16, Error> {
        match (self.port, host.get(PORT_VARIABLE)) {
            (Some(port), _) => Ok(port),
            (None, Some(text)) => port(PORT_VARIABLE, text),
            (None, None) => Ok(PORT),
        }
    }

    /// A file of root certificates to use instead of Mozilla's. The host may name it, but it is a file of the enclave.
    pub(crate) fn roots_file(&self, host: &Environment) -> Option<PathBuf> {
        self.roots_file.clone().or_else(|| host.get(ROOTS_VARIABLE).map(PathBuf::from))
    }
}

fn port(name: &str, text: &str) -> Result<u16, Error> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{name}: not a port from 1 to 65535").into()),
    }
}

fn seconds(name: &str, text: &str) -> Result<Duration, Error> {
    let number = text.strip_suffix('s').unwrap_or(text).parse();
    number.map(Duration::from_secs).map_err(|_| format!("{name}: not a number of seconds").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, Error> {
        Arguments::parse(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn the_port_comes_from_the_flag_then_from_the_host() {
        let mut host = Environment::new();
        assert_eq!(parse(&[]).unwrap().bridge_port(&host).unwrap(), 8080);
        host.insert(PORT_VARIABLE, "9000");
        assert_eq!(parse(&[]).unwrap().bridge_port(&host).unwrap(), 9000);
        assert_eq!(parse(&["--port", "9001"]).unwrap().bridge_port(&host).unwrap(), 9001);
        host.insert(PORT_VARIABLE, "http");
        assert!(parse(&[]).unwrap().bridge_port(&host).is_err());
    }

    #[test]
    fn intervals_are_seconds() {
        assert_eq!(parse(&["--interval", "2s"]).unwrap().interval, Duration::from_secs(2));
        assert_eq!(parse(&["--interval", "3"]).unwrap().interval, Duration::from_secs(3));
        assert!(parse(&["--interval", "2m"]).is_err());
        assert!(parse(&["--interval"]).is_err());
        assert!(parse(&["--other"]).is_err());
    }
}
