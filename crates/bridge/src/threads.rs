//! Whether the threads that a start needs can be had, asked before anything waits for them: all of them at once, or none.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// The writer of enclaves' lines and monitoring.
pub const BESIDE_THE_STREAMS: usize = 2;

/// The system does not give as many threads as a start needs.
#[derive(Debug, Error)]
#[error("{started} of {wanted} threads can be started: {source}")]
pub struct ThreadsError {
    wanted: usize,
    started: usize,
    source: io::Error,
}

/// Starts so many threads at once, and lets them end.
///
/// # Errors
/// What the first one met that could not be started.
pub fn try_to_start(wanted: usize) -> Result<(), ThreadsError> {
    let mut started = Vec::with_capacity(wanted);
    let gate = Arc::new(Mutex::new(()));
    // Closed until the last has been started, so that all of them are there at the same time.
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let mut failed = None;
    while started.len() < wanted {
        let gate = Arc::clone(&gate);
        match std::thread::Builder::new().name("start".into()).spawn(move || drop(gate.lock())) {
            Ok(thread) => started.push(thread),
            Err(source) => {
                failed = Some(ThreadsError { wanted, started: started.len(), source });
                break;
            }
        }
    }
    drop(closed);
    for thread in started {
        // They do nothing that could panic.
        _ = thread.join();
    }
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_few_threads_can_be_had() {
        super::try_to_start(4).unwrap();
    }
}
