//! The vsock device of this machine's side: `vhost-device-vsock` as a process, one or two guests at it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::LabError;

/// The version that the lab was tried with; `docs/vsock.md` says what it cannot do.
pub const VERSION: &str = "0.3.0";

/// How long the device may take to bind its sockets.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A guest at the device.
#[derive(Debug, Clone)]
pub struct Port {
    /// The guest's CID.
    pub cid: u32,
    /// The socket that QEMU connects to.
    pub socket: PathBuf,
    /// `P` of the hybrid transport on this machine.
    pub uds_path: PathBuf,
}

/// The running device. Dropping it ends its process.
#[derive(Debug)]
pub struct Device {
    child: Child,
    ports: Vec<Port>,
}

impl Device {
    /// Starts `program` for these guests and waits until QEMU can connect.
    ///
    /// # Errors
    /// Where it cannot be started, or ends; with what it said.
    pub fn start(program: &Path, ports: Vec<Port>, log: &Path) -> Result<Device, LabError> {
        let mut command = Command::new(program);
        for port in &ports {
            let (cid, socket, uds_path) = (port.cid, port.socket.display(), port.uds_path.display());
            command.arg("--vm").arg(format!("guest-cid={cid},socket={socket},uds-path={uds_path}"));
        }
        let output = File::create(log).map_err(LabError::file(log))?;
        let errors = output.try_clone().map_err(LabError::file(log))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let failed = |reason: String| LabError::Command { command: "vhost-device-vsock".to_owned(), reason };
        let child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let mut device = Device { child, ports };
        let deadline = Instant::now() + START_LIMIT;
        while !device.ports.iter().all(|port| port.socket.exists()) {
            let ended = device.child.try_wait().map_err(|error| failed(error.to_string()))?;
            if ended.is_some() || Instant::now() > deadline {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                return Err(failed(format!("bound no socket: {}", said.trim_end())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(device)
    }

    /// The id of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and needs no more than being waited for.
        drop(self.child.kill());
        drop(self.child.wait());
        for port in &self.ports {
            for path in [&port.socket, &port.uds_path] {
                // Gone is what it shall be.
                drop(std::fs::remove_file(path));
            }
        }
    }
}
