//! What the configuration says about one egress target, for `check --explain`: judged as the running daemon would, with nothing
//! resolved and nothing dialled.

use std::fmt;
use std::io;

use enclave_bridge_policy::{Judged, OwnAddresses};
use enclave_bridge_proto::{Nak, Target};

use crate::config::Config;
use crate::own::{self, HostAddresses};

/// The decision about a target and what made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Whether an enclave may reach it; with a name, whether it is resolved and its addresses are judged.
    pub open: bool,
    lines: Vec<String>,
}

/// Explains the decision about `target`, written as an enclave writes it (`host:port`): for the enclave whose table has that
/// name, or for one without a table.
///
/// # Errors
/// If the host's own addresses cannot be read.
pub fn egress(config: &Config, enclave: Option<&str>, target: &str) -> io::Result<Explained> {
    let named = config.enclaves.iter().find(|one| Some(one.name.as_str()) == enclave);
    let policy = named.map_or(&config.policy, |enclave| &enclave.policy);
    let own = OwnAddresses {
        addresses: HostAddresses::default().get()?,
        listeners: own::listeners(config.monitor, std::iter::empty()),
    };
    let shown = target.escape_debug();
    let judged = Target::parse(target.as_bytes()).and_then(|target| Ok(policy.egress.judge(&target, &own)?));
    Ok(match judged {
        Ok(Judged::Address(address)) => {
            let line = format!("{shown}: allowed by rule {}, dialled as {}", address.rule(), address.socket_addr());
            Explained { open: true, lines: vec![line] }
        }
        Ok(Judged::Resolve(name)) => {
            let first = format!("{shown}: resolved as {}; then of its addresses:", name.name());
            let addresses = policy.egress.explain(&name);
            let open = true;
            Explained {
                open,
                lines: std::iter::once(first).chain(addresses.into_iter().map(|l| format!("  {l}"))).collect(),
            }
        }
        Err(nak) => Explained { open: false, lines: vec![refused(&shown.to_string(), &nak)] },
    })
}

fn refused(target: &str, nak: &Nak) -> String {
    format!("{target}: refused, {nak}")
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::*;
    use crate::config::{Command, from_process_with};

    fn explained(flags: &[&str], target: &str) -> Explained {
        let arguments = ["enclave-bridge", "--monitor", "127.0.0.1:8888"].iter().chain(flags).map(OsString::from);
        let config = from_process_with(arguments.collect(), Vec::new(), Path::new("/nonexistent/config.toml"));
        let Ok(Command::Run(config, _)) = config else { panic!("{config:?}") };
        egress(&config, None, target).unwrap()
    }

    #[test]
    fn the_deciding_rule_is_named() {
        for (flags, target, open, text) in [
            (&[][..], "8.8.8.8:53", true, "allowed by rule public, dialled as 8.8.8.8:53"),
            (&[], "10.0.0.77:80", false, "no rule allows 10.0.0.77:80"),
            (&[], "169.254.169.254:80", false, "the metadata service, open only to a rule that names the address"),
            (&[], "[::ffff:169.254.169.254]:80", false, "the metadata service"),
            (&["--egress-allow", "127.0.0.0/8"], "127.0.0.1:8888", false, "the bridge's own listener"),
            (&["--egress-deny", "8.8.0.0/16"], "8.8.8.8:53", false, "denied by rule 8.8.0.0/16"),
            (&["--strict"], "example.org:443", false, "no rule allows example.org:443"),
            (&["--egress-allow", "*.example.org:443"], "A.Example.Org.:443", true, "resolved as a.example.org"),
            (
                &["--egress-allow", "*.example.org:443"],
                "a.example.org:443",
                true,
                "public addresses: allowed by rule *.example.org:443",
            ),
            (
                &["--egress-allow", "example.org"],
                "example.org:443",
                true,
                "public and private addresses: allowed by rule example.org",
            ),
            (&["--egress-deny", "private"], "example.org:443", true, "private addresses: denied by rule private"),
            (&[], "0x7f.1:80", false, "four decimal numbers"),
            (
                &["--egress-server-name", "**:443"],
                "Example.org:443",
                true,
                "must begin with a TLS ClientHello for example.org: rule **:443",
            ),
            (&[], "nothing", false, "BAD_TARGET"),
        ] {
            let explained = explained(flags, target);
            assert_eq!(explained.open, open, "{target}: {explained}");
            assert!(explained.to_string().contains(text), "{target}: {explained}");
        }
    }
}
