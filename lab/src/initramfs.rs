//! What a guest holds: an archive in the kernel's own format (cpio, "newc"), written here so that no program is needed for it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

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

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const DEVICE: u32 = 0o020_600;

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
            archive.entry(folder, DIRECTORY, (0, 0), &[]);
        }
        // The kernel opens it for init before anything is mounted.
        archive.entry("dev/console", DEVICE, (5, 1), &[]);
        archive.entry("etc/hosts", PLAIN, (0, 0), b"127.0.0.1 localhost\n::1 localhost\n");
        archive.entry("init", PROGRAM, (0, 0), INIT.as_bytes());
        archive.entry("bin/busybox", PROGRAM, (0, 0), &read(&find("busybox")?)?);
        for (place, name) in MODULES.iter().enumerate() {
            if let Some(file) = kernel.module(name) {
                archive.entry(&format!("modules/{place:02}-{name}.ko"), PLAIN, (0, 0), &module(&file)?);
            }
        }
        for program in programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            archive.entry(&format!("bin/{name}"), PROGRAM, (0, 0), &read(program)?);
        }
        fs::write(&path, &archive.bytes).map_err(LabError::file(&path))?;
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
        rest.entry("command", PLAIN, (0, 0), command.as_bytes());
        rest.entry("TRAILER!!!", 0, (0, 0), &[]);
        let mut file = fs::OpenOptions::new().append(true).open(copy).map_err(LabError::file(copy))?;
        file.write_all(&rest.bytes).map_err(LabError::file(copy))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LabError> {
    fs::read(path).map_err(LabError::file(path))
}

/// A module as the kernel takes it.
fn module(file: &Path) -> Result<Vec<u8>, LabError> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return read(file),
    };
    capture(program, ["-dc".as_ref(), file.as_os_str()], Path::new("/"))
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let (major, minor) = device;
        // inode, mode, user, group, links, time, size, device of the file system, device, length of the name, checksum
        let fields = [
            self.entries,
            mode as usize,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            major as usize,
            minor as usize,
            name.len() + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_the_kernel_documents() {
        let mut archive = Archive::default();
        archive.entry("a/bc", PLAIN, (0, 0), b"12345");
        let header = "070701000000010000 81a4".replace(' ', "");
        assert!(archive.bytes.starts_with(header.as_bytes()), "{}", String::from_utf8_lossy(&archive.bytes));
        // 110 bytes of header, 5 of name, one of padding; 5 of content, 3 of padding.
        assert_eq!(archive.bytes.len(), 116 + 8);
        assert_eq!(&archive.bytes[110..116], b"a/bc\0\0");
        assert_eq!(&archive.bytes[116..], b"12345\0\0\0");
    }
}
