//! Names → addresses, once for each dial; nothing is judged here.
//!
//! The hosts file first, then the name servers of the resolver configuration (both families at once). A name is
//! absolute: no search list is applied, so the name that was judged is the name that is asked for.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use thiserror::Error;

/// How long one family's answer is waited for once the other's is there: RFC 8305 recommends 50 ms for the
/// preferred family; a name server that answers one kind of question only must not cost more than this.
const OTHER_FAMILY: Duration = Duration::from_millis(200);

/// Time for one try at one name server; two tries fit into the limit for the whole.
const ONE_TRY: Duration = Duration::from_secs(2);

/// Answers kept for as long as their own time to live allows. Some 300 bytes each.
const CACHED_NAMES: u64 = 1024;

/// Resolves the names of egress targets.
#[derive(Clone)]
pub(crate) struct Resolve {
    resolver: TokioResolver,
    hosts: Arc<Hosts>,
}

/// The resolver could not be set up.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct ResolverError {
    path: PathBuf,
    source: NetError,
}

/// Why a name has no addresses.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ResolveError {
    /// No such name, or a name without addresses.
    #[error("not found")]
    NotFound,
    /// The name server failed or refused.
    #[error("server failure")]
    Server,
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
    /// The name cannot be asked for.
    #[error("not a name that can be resolved")]
    Malformed,
}

/// The addresses of one family; none is a good answer.
type Answer = Result<Vec<IpAddr>, ResolveError>;

impl Resolve {
    /// Reads the resolver configuration and the system's hosts file. Where the configuration does not exist, only the
    /// hosts file is used. What may no longer be read (a sandboxed process knows these files, not their successors) is as it
    /// was in `before`.
    ///
    /// # Errors
    /// If the configuration exists and cannot be read or used.
    pub(crate) fn from_file(resolv_conf: &Path, before: Option<&Resolve>) -> Result<Self, ResolverError> {
        let failed = |source: NetError| ResolverError { path: resolv_conf.to_owned(), source };
        let (config, options) = match std::fs::read(resolv_conf) {
            Ok(text) => hickory_resolver::system_conf::parse_resolv_conf(text).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!("{}: not found: names resolve by the hosts file only", resolv_conf.display());
                (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default())
            }
            Err(error) => match before {
                Some(before) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::warn!("{}: {error}: names resolve as before", resolv_conf.display());
                    return Ok(before.clone());
                }
                Some(_) | None => return Err(failed(error.into())),
            },
        };
        let hosts = match (Hosts::from_system(), before) {
            (Ok(hosts), _) => Arc::new(hosts),
            (Err(error), Some(before)) => {
                tracing::warn!("hosts file: {error}: it is as before");
                Arc::clone(&before.hosts)
            }
            (Err(error), None) => {
                tracing::warn!("hosts file: {error}: names resolve by name servers only");
                Arc::default()
            }
        };
        Self::new(config, options, hosts).map_err(failed)
    }

    fn new(config: ResolverConfig, mut options: ResolverOpts, hosts: Arc<Hosts>) -> Result<Self, NetError> {
        // The hosts file is asked first and for both families, by `addresses`.
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = ONE_TRY;
        options.attempts = 2;
        options.cache_size = CACHED_NAMES;
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()?;
        Ok(Self { resolver, hosts })
    }

    /// All addresses of a name, IPv6 and IPv4 as they came.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut name = Name::from_utf8(name).map_err(|_| ResolveError::Malformed)?;
        name.set_fqdn(true);
        let local: Vec<IpAddr> =
            [RecordType::AAAA, RecordType::A].iter().flat_map(|kind| self.in_hosts_file(&name, *kind)).collect();
        if !local.is_empty() {
            return Ok(local);
        }
        let v6 = self.ask(name.clone(), RecordType::AAAA);
        let v4 = self.ask(name, RecordType::A);
        tokio::pin!(v6, v4);
        let (first, second) = tokio::select! {
            first = &mut v6 => { let second = other_family(&first, v4).await; (first, second) }
            first = &mut v4 => { let second = other_family(&first, v6).await; (first, second) }
        };
        let mut found = Vec::new();
        let mut failure = ResolveError::NotFound;
        for answer in [first, second] {
            match answer {
                Ok(addresses) => found.extend(addresses),
                Err(error) => failure = error,
            }
        }
        if found.is_empty() { Err(failure) } else { Ok(found) }
    }

    fn in_hosts_file(&self, name: &Name, kind: RecordType) -> Vec<IpAddr> {
        let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        found.map(|lookup| lookup.answers().iter().filter_map(|r| r.data.ip_addr()).collect()).unwrap_or_default()
    }

    async fn ask(&self, name: Name, kind: RecordType) -> Answer {
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) => Ok(lookup.answers().iter().filter_map(|r| r.data.ip_addr()).collect()),
            Err(error) => classify(&error),
        }
    }
}

/// The second answer: waited for briefly beside a first that has addresses, else for as long as it takes.
async fn other_family<F>(first: &Answer, second: std::pin::Pin<&mut F>) -> Answer
where
    F: Future<Output = Answer>,
{
    if first.as_ref().is_ok_and(|addresses| !addresses.is_empty()) {
        tokio::time::timeout(OTHER_FAMILY, second).await.unwrap_or(Err(ResolveError::TimedOut))
    } else {
        second.await
    }
}

fn classify(error: &NetError) -> Answer {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows: what is not named is treated alike")]
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NoError => Ok(Vec::new()),
            ResponseCode::NXDomain => Err(ResolveError::NotFound),
            _ => Err(ResolveError::Server),
        },
        NetError::Timeout => Err(ResolveError::TimedOut),
        _ => Err(ResolveError::Server),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig};
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server for one test: answers by the first label of the question.
    async fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        enclave_bridge_net::Scope::root("test").spawn("name server", async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                if let Some(answer) = answer(&buffer[..length]) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        address
    }

    /// The answer to one question, or silence.
    fn answer(question: &[u8]) -> Option<Vec<u8>> {
        let name_end = 12 + question[12..].iter().position(|b| *b == 0).unwrap() + 1;
        let label = &question[13..13 + usize::from(question[12])];
        let wants_v6 = question[name_end + 1] == 28;
        let (code, data): (u8, Option<&[u8]>) = match (label.to_ascii_lowercase().as_slice(), wants_v6) {
            (b"v4", false) | (b"halfmute", false) => (0, Some(&[192, 0, 2, 1])),
            (b"v4", true) => (0, None),
            (b"both", false) => (0, Some(&[192, 0, 2, 2])),
            (b"both", true) => (0, Some(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2])),
            (b"none", _) => (0, None),
            (b"broken", _) => (2, None),
            (b"mute" | b"halfmute", _) => return None,
            _ => (3, None),
        };
        let mut out = question[..2].to_vec();
        out.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
        out.extend(&question[12..name_end + 4]);
        if let Some(data) = data {
            out.extend([0xc0, 12, 0, question[name_end + 1], 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
            out.extend(data);
        }
        Some(out)
    }

    async fn resolve() -> Resolve {
        let server = name_server().await;
        let mut connection = ConnectionConfig::new(ProtocolConfig::Udp);
        connection.port = server.port();
        let server = NameServerConfig::new(server.ip(), true, vec![connection]);
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&b"192.0.2.77 in-hosts-file.example\n"[..]).unwrap();
        Resolve::new(ResolverConfig::from_name_servers(vec![server]), ResolverOpts::default(), hosts.into()).unwrap()
    }

    #[tokio::test]
    async fn answers_and_their_absence_are_told_apart() {
        let resolve = resolve().await;
        let v4 = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        assert_eq!(resolve.addresses("v4.example").await, Ok(vec![v4(1)]));
        let mut both = resolve.addresses("both.example").await.unwrap();
        both.sort();
        assert_eq!(both, [v4(2), "2001:db8::2".parse().unwrap()]);
        assert_eq!(resolve.addresses("in-hosts-file.example").await, Ok(vec![v4(77)]));
        assert_eq!(resolve.addresses("none.example").await, Err(ResolveError::NotFound));
        assert_eq!(resolve.addresses("no-such.example").await, Err(ResolveError::NotFound));
        assert_eq!(resolve.addresses("broken.example").await, Err(ResolveError::Server));
        assert_eq!(resolve.addresses(&"x".repeat(64)).await, Err(ResolveError::Malformed));
    }

    #[tokio::test]
    async fn a_server_that_is_mute_for_one_family_does_not_hide_the_other() {
        let resolve = resolve().await;
        assert_eq!(resolve.addresses("halfmute.example").await, Ok(vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))]));
        let mute = tokio::time::timeout(Duration::from_millis(100), resolve.addresses("mute.example")).await;
        assert!(mute.is_err(), "the limit for the whole is the caller's");
    }

    #[tokio::test]
    async fn without_a_configuration_there_is_the_hosts_file() {
        let resolve = Resolve::from_file(Path::new("/nonexistent/resolv.conf"), None).unwrap();
        assert!(resolve.addresses("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        assert!(resolve.addresses("elsewhere.example").await.is_err());
    }
}
