//! Who holds a session: one slot for each peer, by the identity that the transport vouches for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enclave_bridge_net::Peer;

use crate::session::Session;

/// The sessions of the daemon.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: Mutex<HashMap<Peer, Arc<Slot>>>,
    limit: usize,
}

/// The place of one peer's session.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// Held while a session is being replaced, so that two handshakes of one peer cannot cross.
    turn: tokio::sync::Mutex<()>,
    session: Mutex<Option<Arc<Session>>>,
}

impl Sessions {
    pub(crate) fn new(limit: usize) -> Self {
        Self { slots: Mutex::new(HashMap::new()), limit }
    }

    /// The peer's slot, made if there is none; `None` when all are taken by others.
    pub(crate) fn slot(&self, peer: &Peer) -> Option<Arc<Slot>> {
        let mut slots = self.lock();
        // Slots that nobody holds and nobody is in the middle of taking make room.
        slots.retain(|other, slot| other == peer || slot.current().is_some() || Arc::strong_count(slot) > 1);
        if slots.len() >= self.limit && !slots.contains_key(peer) {
            return None;
        }
        Some(Arc::clone(slots.entry(peer.clone()).or_default()))
    }

    /// The session that the peer holds.
    pub(crate) fn of(&self, peer: &Peer) -> Option<Arc<Session>> {
        self.lock().get(peer).and_then(|slot| slot.current())
    }

    /// All sessions.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.lock().values().filter_map(|slot| slot.current()).collect()
    }

    /// Forgets a session that has ended, unless another has taken its place already.
    pub(crate) fn forget(&self, session: &Arc<Session>) {
        if let Some(slot) = self.lock().get(session.peer()) {
            let mut current = slot.lock();
            if current.as_ref().is_some_and(|held| Arc::ptr_eq(held, session)) {
                *current = None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Waits for the turn to change this slot.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The session in it.
    pub(crate) fn current(&self) -> Option<Arc<Session>> {
        self.lock().clone()
    }

    /// Puts a session into it.
    pub(crate) fn put(&self, session: Arc<Session>) {
        *self.lock() = Some(session);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
