//! What a guest of the suites holds: an init that runs one command, the modules of vsock, and programs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::archive::Archive;
use crate::error::LabError;
use crate::kernel::Kernel;
use crate::program::{capture, find};

/// Loaded in this order. What a kernel has built in, or does not offer, is passed over.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vsock_loopback",
    "vmw_vsock_virtio_transport",
];

/// The only place that says that AF_VSOCK may be opened: a guest of the lab. A line that begins with the separator of
/// records (1E) is for the lab, everything else is the command's.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin HOME=/root ENCLAVE_BRIDGE_LAB=1
/bin/busybox mkdir -p /proc /sys /dev /tmp /root /run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t tmpfs tmpfs /tmp
for module in /modules/*; do insmod $module || echo \"lab: cannot load $module\"; done
ifconfig lo 127.0.0.1 up
hostname guest
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
cd /root
printf '\\036began\\n'
sh /command
printf '\\n\\036status %s\\n' $?
reboot -f
";

/// An archive without its end: a boot adds its command and closes a copy of it.
#[derive(Debug)]
pub struct Initramfs {
    path: PathBuf,
}

impl Initramfs {
    /// Writes busybox, the modules of `kernel` and `programs` (static ones, under their own names in `/bin`) to `path`.
    ///
    /// # Errors
    /// Where busybox or a program is not there, or the file cannot be written.
    pub fn build(kernel: &Kernel, programs: &[PathBuf], path: PathBuf) -> Result<Initramfs, LabError> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "etc", "modules"] {
            archive.folder(folder);
        }
        archive.console();
        archive.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
        archive.program("init", INIT.as_bytes());
        archive.program("bin/busybox", &read(&find("busybox")?)?);
        for (place, name) in MODULES.iter().enumerate() {
            if let Some(file) = kernel.module(name) {
                archive.file(&format!("modules/{place:02}-{name}.ko"), &module(&file)?);
            }
        }
        for program in programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            archive.program(&format!("bin/{name}"), &read(program)?);
        }
        fs::write(&path, archive.open()).map_err(LabError::file(&path))?;
        Ok(Initramfs { path })
    }

    /// One that was built before.
    #[must_use]
    pub fn at(path: PathBuf) -> Initramfs {
        Initramfs { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A closed copy with `command`, a line or more for a shell.
    ///
    /// # Errors
    /// Where either file cannot be read or written.
    pub fn with_command(&self, command: &str, copy: &Path) -> Result<(), LabError> {
        fs::copy(&self.path, copy).map_err(LabError::file(copy))?;
        let mut rest = Archive::default();
        rest.file("command", command.as_bytes());
        let mut file = fs::OpenOptions::new().append(true).open(copy).map_err(LabError::file(copy))?;
        file.write_all(&rest.closed()).map_err(LabError::file(copy))
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LabError> {
    fs::read(path).map_err(LabError::file(path))
}

/// A module as the kernel takes it.
pub(crate) fn module(file: &Path) -> Result<Vec<u8>, LabError> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return read(file),
    };
    capture(program, ["-dc".as_ref(), file.as_os_str()], Path::new("/"))
}
