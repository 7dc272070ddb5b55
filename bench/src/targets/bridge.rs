//! The bridge as a target: the release build, with an enclave on the wire by hand.

use super::{Doors, EGRESS_PORT, ENCLAVE_PORT, Far, Ground, Guest, Running};
use crate::enclave::{Enclave, Wishes};
use crate::error::BenchError;
use crate::process::Process;
use crate::socket::free_port;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The bridge's init port where nothing else is set.
const INIT_PORT: u32 = 5000;

/// The CID of an enclave on the hybrid transport, where it is compared with nothing, and in a guest.
const HYBRID_CID: u32 = 16;
const LOCAL_CID: u32 = 1;

/// Where cargo puts what it builds: this program is in `release` of it.
pub(crate) fn target_folder() -> Result<PathBuf, BenchError> {
    let own = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let target = own.parent().and_then(Path::parent).map(Path::to_owned);
    target.ok_or_else(|| BenchError::Usage("no target folder; give --bridge and --output".to_owned()))
}

/// Builds the release program beside this one and says where it is.
pub(crate) fn built() -> Result<PathBuf, BenchError> {
    let target = target_folder()?;
    #[expect(clippy::disallowed_methods, reason = "cargo names itself to the programs that it runs by this variable")]
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet", "--locked", "--package", "enclave-bridge", "--bins"]);
    command.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml"));
    command.arg("--target-dir").arg(&target);
    let status = command.status().map_err(BenchError::io("run cargo"))?;
    if !status.success() {
        return Err(BenchError::Usage(format!("cargo build of enclave-bridge: {status}")));
    }
    Ok(target.join("release").join("enclave-bridge"))
}

pub(super) fn version(ground: &Ground) -> Result<String, BenchError> {
    let output = Command::new(&ground.bridge).arg("--version").output();
    let output = output.map_err(BenchError::io(format!("run {}", ground.bridge.display())))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(super) fn run(guest: Guest, doors: &Doors, ground: &Ground) -> Result<Running, BenchError> {
    let mut command = Command::new(&ground.bridge);
    // What the environment of whoever runs the bench says about bridges is not meant for this one.
    command.env_clear().current_dir(&ground.folder).arg("run");
    let cid = match ground.far {
        Far::Hybrid => {
            command.arg("--uds-path").arg(ground.guest_socket(guest));
            HYBRID_CID
        }
        Far::Vsock => {
            command.args(["--allow-cid", "1"]);
            LOCAL_CID
        }
    };
    command.args(["--monitor", &format!("127.0.0.1:{}", free_port()?)]);
    command.args(["--ingress-address", "127.0.0.1", "--egress-allow", "127.0.0.0/8", "--log-level", "error"]);
    if !guest.sandbox {
        command.args(["--sandbox", "off"]);
    }
    let process = Process::start(&mut command, "enclave-bridge")?;
    let wishes =
        Wishes { cid, listen_port: ENCLAVE_PORT, tcp_port: doors.ingress, dial_port: EGRESS_PORT, form: guest.form };
    let enclave = Enclave::start(&ground.host(guest, INIT_PORT), &wishes, &ground.stop)?;
    Ok(Running { enclave: Some(enclave), processes: vec![process] })
}
