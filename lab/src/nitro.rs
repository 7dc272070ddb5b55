//! A machine for an enclave's image: QEMU's `nitro-enclave`, or `microvm`, on which that one is built and which every QEMU
//! has. Neither is AWS Nitro.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::LabError;
use crate::guest::{CONSOLE_LINES, MEMORY_MIB, accelerator, last_lines};
use crate::program::{capture, find};

const QEMU: &str = "qemu-system-x86_64";

/// Without ACPI both machines name their devices on the command line, which Debian's kernel does not read.
const FOR_DEBIAN: &str = "acpi=on";

/// What a guest is told where the machine does not tell its own.
const USUAL_KHZ: u64 = 2_500_000;

/// Which machine boots the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Takes the image file itself. In QEMU since 9.2, where it was built with libcbor and gnutls.
    NitroEnclave,
    /// Takes the kernel, the archives and the command line that the image file was made of.
    Microvm,
}

impl Machine {
    /// QEMU's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Machine::NitroEnclave => "nitro-enclave",
            Machine::Microvm => "microvm",
        }
    }

    /// Whether the installed QEMU has it.
    ///
    /// # Errors
    /// Where there is no QEMU, or it does not say what it has.
    pub fn is_offered(self) -> Result<bool, LabError> {
        let offered = capture(QEMU, ["-M", "help"], Path::new("/"))?;
        Ok(is_named(&String::from_utf8_lossy(&offered), self.name()))
    }
}

/// An enclave's image and the parts that it was made of.
#[derive(Debug, Clone)]
pub struct Image {
    /// The image file.
    pub eif: PathBuf,
    /// Its kernel.
    pub kernel: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
    /// Its archives, in order.
    pub ramdisks: Vec<PathBuf>,
}

/// A running enclave. Dropping it ends its process.
#[derive(Debug)]
pub struct Enclave {
    qemu: Child,
    console: PathBuf,
    errors: PathBuf,
}

impl Image {
    /// Boots it on `machine`, at the vsock device that listens at `socket`. Files of the run go to `folder`.
    ///
    /// # Errors
    /// Where QEMU is missing or cannot be started, or a part cannot be read.
    pub fn boot(&self, machine: Machine, socket: &Path, folder: &Path) -> Result<Enclave, LabError> {
        let (console, errors) = (folder.join("enclave.console"), folder.join("enclave.qemu"));
        File::create(&console).map_err(LabError::file(&console))?;
        let mut command = Command::new(find(QEMU)?);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
        command.args(["-accel", accelerator(), "-cpu", "max", "-smp", "1", "-m", &MEMORY_MIB.to_string()]);
        command.arg("-chardev").arg(format!("socket,id=vsock,path={}", socket.display()));
        command.arg("-serial").arg(format!("file:{}", console.display()));
        match machine {
            Machine::NitroEnclave => {
                command.args(["-machine", &format!("nitro-enclave,vsock=vsock,id=lab,{FOR_DEBIAN}")]);
                command.arg("-kernel").arg(&self.eif);
                // QEMU puts this behind the image's own, which is what is measured.
                if let Some(more) = pace() {
                    command.args(["-append", &more]);
                }
            }
            Machine::Microvm => {
                let initrd = folder.join("enclave.cpio");
                fs::write(&initrd, self.joined()?).map_err(LabError::file(&initrd))?;
                command.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on"));
                command.args(["-machine", &format!("microvm,pcie=off,memory-backend=memory,{FOR_DEBIAN}")]);
                command.args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
                command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&initrd);
                let more = pace().unwrap_or_default();
                command.args(["-append", &format!("{} {more}", self.command_line)]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&errors).map_err(LabError::file(&errors))?);
        let qemu = command
            .spawn()
            .map_err(|error| LabError::Command { command: QEMU.to_owned(), reason: error.to_string() })?;
        Ok(Enclave { qemu, console, errors })
    }

    /// The archives as the loader puts them into memory.
    fn joined(&self) -> Result<Vec<u8>, LabError> {
        let mut joined = Vec::new();
        for ramdisk in &self.ramdisks {
            joined.extend(fs::read(ramdisk).map_err(LabError::file(ramdisk))?);
        }
        Ok(joined)
    }
}

impl Enclave {
    /// How QEMU ended, if it did.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn ended(&mut self) -> Result<Option<String>, LabError> {
        let status = self.qemu.try_wait();
        let status = status
            .map_err(|error| LabError::Command { command: "wait for QEMU".to_owned(), reason: error.to_string() })?;
        Ok(status.map(|status| status.to_string()))
    }

    /// The end of its console, and what QEMU said.
    #[must_use]
    pub fn last_words(&self) -> String {
        [&self.console, &self.errors].map(|file| last_lines(file, CONSOLE_LINES)).join("\n")
    }
}

impl Drop for Enclave {
    fn drop(&mut self) {
        // A process that has ended already cannot be killed, and needs no more than being waited for.
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

/// The pace of the processor's counter, for a kernel that has no timer to find it out by: such a machine has none under
/// translation, where the counter is this machine's. KVM tells its guests.
fn pace() -> Option<String> {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    (accelerator() == "tcg").then(|| format!("tsc_early_khz={}", khz(&processor).unwrap_or(USUAL_KHZ)))
}

/// From a line as `cpu MHz : 2596.100`.
fn khz(processor: &str) -> Option<u64> {
    let line = processor.lines().find(|line| line.starts_with("cpu MHz"))?;
    let (mhz, fraction) = line.split_once(':')?.1.trim().split_once('.')?;
    format!("{mhz}{}", fraction.get(..3)?).parse().ok()
}

/// A line for each machine, which begins with its name.
fn is_named(offered: &str, machine: &str) -> bool {
    offered.lines().any(|line| line.split_whitespace().next() == Some(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_says_its_pace() {
        assert_eq!(khz("vendor_id\t: X\ncpu MHz\t\t: 2596.100\ncpu MHz\t\t: 1.000\n"), Some(2_596_100));
        assert_eq!(khz("cpu MHz\t\t: unknown\n"), None);
        assert_eq!(khz(""), None);
    }

    #[test]
    fn a_machine_is_a_line_that_begins_with_its_name() {
        let offered = "Supported machines are:\nmicrovm              microvm (i386)\nnone  empty machine\n";
        assert!(is_named(offered, "microvm"));
        assert!(!is_named(offered, "nitro-enclave"));
        assert!(is_named(&format!("{offered}nitro-enclave        AWS Nitro Enclave\n"), "nitro-enclave"));
        assert!(!is_named("nitro                AWS Nitro\n", "nitro-enclave"));
    }
}
