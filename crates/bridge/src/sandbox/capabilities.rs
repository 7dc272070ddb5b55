//! Capabilities given up, by this thread and all that it starts.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};

/// Gives up every capability in every set; `ports` keeps the one for ports below 1024.
pub(super) fn drop_all(ports: bool) -> io::Result<()> {
    let mut kept = CapsHashSet::new();
    // Who has not got it now does not get it by keeping it.
    if ports && has(CapSet::Permitted, Capability::CAP_NET_BIND_SERVICE)? {
        kept.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    // Leaving the bounding set takes a capability itself. Without it there is nothing to fear from the set: it bounds what
    // starting another program could give, and that is shut off.
    if has(CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding).map_err(io::Error::other)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
        }
    }
    // Kernels before 4.3 have no ambient set: nothing to clear then.
    _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)?;
    let left = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    if left == kept { Ok(()) } else { Err(io::Error::other(format!("{} capabilities are left", left.len()))) }
}

fn has(set: CapSet, capability: Capability) -> io::Result<bool> {
    caps::has_cap(None, set, capability).map_err(io::Error::other)
}
