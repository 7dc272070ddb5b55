//! A Docker engine for the image's test: the one that runs, or one of our own that leaves nothing behind.

use crate::run::{self, Line};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long an engine may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine to talk to.
pub(crate) struct Engine {
    /// `None` is the engine that the `docker` command finds by itself.
    own: Option<Own>,
}

struct Own {
    daemon: Child,
    folder: TempDir,
}

impl Engine {
    /// The running engine, else our own; the reason where there is neither.
    pub(crate) fn find() -> Result<Engine, String> {
        if !run::is_installed("docker") {
            return Err("no docker command".to_owned());
        }
        let running = Engine { own: None };
        if running
            .docker(["info", "--format", "{{.ServerVersion}}"])
            .capture()
            .is_ok_and(|version| !version.trim().is_empty())
        {
            return Ok(running);
        }
        if !run::is_installed("dockerd") {
            return Err("no Docker engine runs here, and there is no dockerd to start".to_owned());
        }
        Engine::start()
    }

    /// A `docker` command for this engine.
    pub(crate) fn docker<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Line {
        let line = Line::new("docker", Vec::<String>::new());
        let line = match &self.own {
            Some(own) => line.args(["--host".to_owned(), socket_of(&own.folder)]),
            None => line,
        };
        line.args(arguments)
    }

    /// A daemon without a network of its own: what it does not touch it cannot leave changed.
    fn start() -> Result<Engine, String> {
        let folder = tempfile::Builder::new().prefix("eb-engine-").tempdir().map_err(|error| error.to_string())?;
        let path = |name: &str| folder.path().join(name);
        let log = std::fs::File::create(path("log")).map_err(|error| error.to_string())?;
        let mut command = Line::new("dockerd", ["--bridge=none", "--iptables=false", "--ip6tables=false", "--host"])
            .args([socket_of(&folder)])
            .args(["--data-root".into(), path("data")])
            .args(["--exec-root".into(), path("exec")])
            .args(["--pidfile".into(), path("pid")])
            .command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = command.spawn().map_err(|error| format!("dockerd: {error}"))?;
        let mut engine = Engine { own: Some(Own { daemon, folder }) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if engine.docker(["info"]).capture().is_ok() {
                return Ok(engine);
            }
            let Some(own) = &mut engine.own else { return Ok(engine) };
            let ended = own.daemon.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(own.folder.path().join("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default().to_owned();
                return Err(format!("dockerd cannot be started here: {last}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some(own) = &mut self.own else { return };
        if let Err(error) = own.end() {
            eprintln!("the engine of the image's test: {error}");
        }
    }
}

impl Own {
    /// Ends the daemon by its own id, and whatever it left mounted in its folder.
    fn end(&mut self) -> Result<(), String> {
        let ended =
            |daemon: &mut Child| daemon.try_wait().map(|status| status.is_some()).map_err(|error| error.to_string());
        if !ended(&mut self.daemon)? {
            Line::new("kill", [self.daemon.id().to_string()]).run()?;
        }
        let deadline = Instant::now() + PATIENCE;
        while !ended(&mut self.daemon)? {
            if Instant::now() > deadline {
                self.daemon.kill().map_err(|error| error.to_string())?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let inside = |mount: &&str| std::path::Path::new(mount).starts_with(self.folder.path());
        for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(inside) {
            Line::new("umount", [mount]).run()?;
        }
        Ok(())
    }
}

fn socket_of(folder: &TempDir) -> String {
    format!("unix://{}", folder.path().join("socket").display())
}
