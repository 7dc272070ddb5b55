//! Processes that the bench starts, ended by id whatever happens, and the flag that SIGINT and SIGTERM set.

use crate::error::BenchError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// A process that is asked to end has this long before it is killed.
const END_WITHIN: Duration = Duration::from_secs(3);

/// Set once the run is to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on SIGINT, SIGTERM and SIGHUP set the flag and do nothing else.
    pub(crate) fn on_signals() -> Result<Stop, BenchError> {
        let named = |source| BenchError::Io { what: "signals".to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(named)?;
        let mut signals = {
            let _entered = runtime.enter();
            let listen = |kind| signal(kind).map_err(named);
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
        };
        let stop = Stop::default();
        let set = stop.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = signals.0.recv() => {}
                    _ = signals.1.recv() => {}
                    _ = signals.2.recv() => {}
                }
            });
            set.0.store(true, Ordering::SeqCst);
        });
        Ok(stop)
    }

    /// Whether the run is to end.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once the run is to end.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        if self.is_set() { Err(BenchError::Interrupted) } else { Ok(()) }
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts it without a standard input.
    pub(crate) fn start(command: &mut Command, name: &str) -> Result<Process, BenchError> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(BenchError::io(format!("start {name}")))?;
        Ok(Process { child, name: name.to_owned() })
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it lives.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// As Ctrl-C, and waits for its end.
    pub(crate) fn interrupt_and_wait(&mut self) -> Result<(), BenchError> {
        self.signal(Signal::SIGINT);
        if self.ends_within(END_WITHIN) {
            return Ok(());
        }
        Err(BenchError::Process { name: self.name.clone(), reason: "does not end".to_owned() })
    }

    fn signal(&self, signal: Signal) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // One that has ended already needs no signal; it is not reaped yet, so the id is still its own.
            kill(Pid::from_raw(id), signal).ok();
        }
    }

    fn ends_within(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        // nginx's master ends its workers when it is asked, and not when it is killed.
        self.signal(Signal::SIGTERM);
        if !self.ends_within(END_WITHIN) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "where programs are is what this variable is for")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where an administrator's programs are is not always in the path.
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|place| place.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_owner() {
        let process = Process::start(Command::new("sleep").arg("60"), "sleep").unwrap();
        let id = process.id();
        assert!(crate::procfs::tree(&[id]).contains(&id));
        drop(process);
        assert!(crate::procfs::tree(&[id]).is_empty());
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert!(find("sh").is_some());
        assert_eq!(find("a program that nobody has"), None);
    }
}
