//! The addresses of this host and the listeners of this daemon: what egress is closed to unless a rule names it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a list of the host's addresses is believed. Reading it is a dump from the kernel, some tens of
/// microseconds; an address that was added a second ago is not worth one for each dial.
const FRESH: Duration = Duration::from_secs(1);

/// The host's interface addresses, read again when they are older than a second.
#[derive(Debug, Default)]
pub(crate) struct HostAddresses(Mutex<Option<(Instant, Vec<IpAddr>)>>);

impl HostAddresses {
    /// The addresses of all interfaces.
    ///
    /// # Errors
    /// If the kernel does not tell and did not within the last second either.
    pub(crate) fn get(&self) -> std::io::Result<Vec<IpAddr>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, addresses)) = &*known
            && at.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        let addresses = read()?;
        *known = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

fn read() -> std::io::Result<Vec<IpAddr>> {
    let addresses = nix::ifaddrs::getifaddrs()?;
    Ok(addresses
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect())
}

/// The TCP listeners of this daemon as they were bound.
#[must_use]
pub(crate) fn listeners(monitor: SocketAddr, ingress: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    std::iter::once(monitor).chain(ingress).collect()
}

#[cfg(test)]
mod tests {
    use super::HostAddresses;

    #[test]
    fn loopback_is_an_address_of_this_host() {
        let addresses = HostAddresses::default();
        assert!(addresses.get().unwrap().iter().any(std::net::IpAddr::is_loopback));
        assert_eq!(addresses.get().unwrap(), addresses.get().unwrap());
    }
}
