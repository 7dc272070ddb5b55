//! What an enclave's image holds beside its kernel: two archives, in the layout of Nitro's own. The first boots (PCR1 is of
//! kernel, command line and this one), the second is the application (PCR2).

use std::fs;
use std::path::Path;

use crate::archive::Archive;
use crate::error::LabError;
use crate::initramfs::{module, read};
use crate::kernel::Kernel;
use crate::program::find;

/// What Debian's kernel needs to reach its vsock on a machine without PCI.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
];

/// Does what Nitro's init does with `/env`, `/cmd` and `/rootfs`, without the security module (whose presence would say
/// that the parent is at CID 3) and without the sign of life to port 9000.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
for module in /modules/*; do insmod $module || echo \"init: cannot load $module\"; done
ifconfig lo 127.0.0.1 up
mount -t devtmpfs devtmpfs /rootfs/dev
mount -t proc proc /rootfs/proc
mount -t sysfs sysfs /rootfs/sys
mount -t tmpfs -o mode=1777 tmpfs /rootfs/tmp
mount -t tmpfs -o mode=755 tmpfs /rootfs/run
set --
while IFS= read -r word; do set -- \"$@\" \"$word\"; done </cmd
while IFS= read -r variable; do export \"$variable\"; done </env
chroot /rootfs \"$@\"
echo \"init: $1 ended with $?\"
reboot -f
";

/// The mount points that either init expects in the application's root.
const MOUNT_POINTS: &[&str] = &["dev", "proc", "run", "sys", "tmp", "var"];

/// Who boots the application.
#[derive(Debug, Clone, Copy)]
pub enum Init<'a> {
    /// A shell script and the modules of a Debian kernel, for QEMU.
    Own(&'a Kernel),
    /// Programs for Nitro: its init, and the driver of its security module where the kernel has none built in.
    Given {
        /// The program.
        init: &'a Path,
        /// The module.
        nsm: Option<&'a Path>,
    },
}

/// Writes the first archive to `path`.
///
/// # Errors
/// Where busybox or a file is not there, or the archive cannot be written.
pub fn bootstrap(init: Init<'_>, path: &Path) -> Result<(), LabError> {
    let mut archive = Archive::default();
    archive.folder("dev");
    archive.console();
    match init {
        Init::Own(kernel) => {
            for folder in ["bin", "modules", "proc"] {
                archive.folder(folder);
            }
            archive.program("init", INIT.as_bytes());
            archive.program("bin/busybox", &read(&find("busybox")?)?);
            for (place, name) in MODULES.iter().enumerate() {
                if let Some(file) = kernel.module(name) {
                    archive.file(&format!("modules/{place:02}-{name}.ko"), &module(&file)?);
                }
            }
        }
        Init::Given { init, nsm } => {
            archive.program("init", &read(init)?);
            if let Some(nsm) = nsm {
                archive.file("nsm.ko", &read(nsm)?);
            }
        }
    }
    fs::write(path, archive.closed()).map_err(LabError::file(path))
}

/// Writes the second archive to `path`: `program` alone in its root, as in an image FROM scratch, and its command line.
///
/// # Errors
/// Where the program cannot be read or the archive cannot be written.
pub fn application(program: &Path, path: &Path) -> Result<(), LabError> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let mut archive = Archive::default();
    archive.file("cmd", format!("/{name}\n").as_bytes());
    archive.file("env", b"");
    archive.folder("rootfs");
    for place in MOUNT_POINTS {
        archive.folder(&format!("rootfs/{place}"));
    }
    archive.program(&format!("rootfs/{name}"), &read(program)?);
    fs::write(path, archive.closed()).map_err(LabError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(archive: &Path) -> String {
        let bytes = fs::read(archive).unwrap();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    }

    #[test]
    fn an_application_is_its_program_its_command_line_and_mount_points() {
        let folder = tempfile::tempdir().unwrap();
        let (program, first, second) = (folder.path().join("served"), folder.path().join("1"), folder.path().join("2"));
        fs::write(&program, "the program").unwrap();
        application(&program, &first).unwrap();
        let text = listed(&first);
        for part in ["cmd", "/served\n", "env", "rootfs/dev", "rootfs/served", "the program", "TRAILER!!!"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Another moment and another owner's file with the same content: the same archive.
        fs::remove_file(&program).unwrap();
        fs::write(&program, "the program").unwrap();
        application(&program, &second).unwrap();
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    }

    #[test]
    fn a_given_init_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (init, nsm, path) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        fs::write(&init, "boots").unwrap();
        fs::write(&nsm, "attests").unwrap();
        bootstrap(Init::Given { init: &init, nsm: Some(&nsm) }, &path).unwrap();
        let text = listed(&path);
        assert!(text.contains("init") && text.contains("boots"), "{text}");
        assert!(text.contains("nsm.ko") && text.contains("attests"), "{text}");
        assert!(!text.contains("busybox"), "{text}");
        bootstrap(Init::Given { init: &init, nsm: None }, &path).unwrap();
        assert!(!listed(&path).contains("nsm.ko"));
    }
}
