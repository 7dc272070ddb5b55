//! The demo's command line.

use std::net::{Ipv4Addr, SocketAddr};

/// What the demo was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The TCP port of the enclave's page.
    pub(crate) port: u16,
    /// Where the bridge's monitoring listens.
    pub(crate) monitor: SocketAddr,
    /// Whether the bridge has to be told where: not so when its own variable says it already.
    pub(crate) pass_monitor: bool,
}

const PORT: u16 = 8080;
const MONITOR_PORT: u16 = 8888;
const MONITOR_VARIABLE: &str = "ENCLAVE_BRIDGE_MONITOR";

/// `None` where help was asked for.
pub(crate) fn from_process() -> Result<Option<Arguments>, String> {
    #[expect(clippy::disallowed_methods, reason = "this is the place where the demo's configuration is parsed")]
    let monitor = std::env::var(MONITOR_VARIABLE).ok();
    parse(std::env::args().skip(1), monitor.as_deref())
}

fn parse(arguments: impl Iterator<Item = String>, monitor: Option<&str>) -> Result<Option<Arguments>, String> {
    let mut port = PORT;
    let mut monitor_port = None;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        match flag.as_str() {
            "--port" => port = number(&flag, value.or_else(|| arguments.next()))?,
            "--monitor-port" => monitor_port = Some(number(&flag, value.or_else(|| arguments.next()))?),
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("{other}: no such argument; see cargo demo --help")),
        }
    }
    let (monitor, pass_monitor) = match (monitor_port, monitor) {
        (None, Some(text)) => {
            let address = text.parse().map_err(|_| format!("{MONITOR_VARIABLE}: not ADDRESS:PORT"))?;
            (address, false)
        }
        (port, _) => (SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.unwrap_or(MONITOR_PORT))), true),
    };
    if port == monitor.port() {
        return Err(format!("--port and --monitor-port are both {port}"));
    }
    Ok(Some(Arguments { port, monitor, pass_monitor }))
}

fn number(flag: &str, value: Option<String>) -> Result<u16, String> {
    let value = value.ok_or_else(|| format!("{flag}: a number is missing"))?;
    match value.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{flag}: {value:?} is no port from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str], monitor: Option<&str>) -> Result<Option<Arguments>, String> {
        parse(arguments.iter().map(|argument| (*argument).to_owned()), monitor)
    }

    #[test]
    fn defaults_flags_and_the_bridges_own_variable() {
        let defaults = of(&[], None).unwrap().unwrap();
        assert_eq!((defaults.port, defaults.monitor.to_string().as_str()), (8080, "0.0.0.0:8888"));
        let given = of(&["--port", "9000", "--monitor-port=9001"], Some("127.0.0.1:7")).unwrap().unwrap();
        assert_eq!((given.port, given.monitor.port(), given.pass_monitor), (9000, 9001, true));
        let variable = of(&[], Some("127.0.0.1:7000")).unwrap().unwrap();
        assert_eq!((variable.monitor.to_string().as_str(), variable.pass_monitor), ("127.0.0.1:7000", false));
        assert_eq!(of(&["--help"], None), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arguments, named) in [
            (&["--port"][..], "--port: a number is missing"),
            (&["--port", "0"], "--port: \"0\" is no port"),
            (&["--monitor-port", "65536"], "--monitor-port: \"65536\""),
            (&["--bogus"], "--bogus"),
            (&["--port", "8888"], "both 8888"),
        ] {
            let error = of(arguments, None).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
