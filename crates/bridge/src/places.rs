//! A bounded number of places for each peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enclave_bridge_net::Peer;

/// Places of which every peer may hold so many.
#[derive(Debug)]
pub(crate) struct Places {
    held: Arc<Mutex<HashMap<Peer, usize>>>,
    per_peer: usize,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    held: Arc<Mutex<HashMap<Peer, usize>>>,
    peer: Peer,
}

impl Places {
    pub(crate) fn new(per_peer: usize) -> Self {
        Self { held: Arc::default(), per_peer }
    }

    /// A place for this peer, unless it holds as many as it may.
    pub(crate) fn take(&self, peer: &Peer) -> Option<Place> {
        let mut held = lock(&self.held);
        let count = held.entry(peer.clone()).or_default();
        if *count >= self.per_peer {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Place { held: Arc::clone(&self.held), peer: peer.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if let Some(count) = held.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

fn lock(held: &Mutex<HashMap<Peer, usize>>) -> MutexGuard<'_, HashMap<Peer, usize>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_own_places() {
        let places = Places::new(2);
        let (one, two) = (places.take(&Peer::Cid(16)).unwrap(), places.take(&Peer::Cid(16)).unwrap());
        assert!(places.take(&Peer::Cid(16)).is_none());
        let other = places.take(&Peer::Cid(17)).unwrap();
        drop(one);
        let again = places.take(&Peer::Cid(16)).unwrap();
        drop((two, other, again));
        assert!(lock(&places.held).is_empty(), "a peer that has left costs nothing");
    }
}
