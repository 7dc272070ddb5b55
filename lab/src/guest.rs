//! One guest from its boot to its end. It runs one command; its process belongs to a value and goes with it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::initramfs::Initramfs;
use crate::kernel::Kernel;
use crate::program::find;

/// How often a guest that ended before it reached its command is booted in all. Under TCG a boot is lost now and then; what
/// has run nothing may be run again, what has begun never.
pub const BOOT_ATTEMPTS: u32 = 3;

/// A guest that has not reached its command by then hangs, which under TCG a boot does now and then. It takes five seconds
/// on an idle machine, and took 25 on one with five times as much to do as it has processors.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Memory of a guest, MiB: the programs unpacked, the archive that they came from, and the 64 MiB streams of the tests.
pub const MEMORY_MIB: u32 = 512;

/// Memory of a guest that holds 10,000 connections, MiB: some 20 KiB of the kernel's for each of both ends of both sockets.
pub const MEMORY_OF_MANY_CONNECTIONS_MIB: u32 = 1536;

/// How often a guest's process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A longer line of output is cut into pieces.
const LINE_MAX_BYTES: u64 = 64 * 1024;

/// How much of a console an error shows.
pub(crate) const CONSOLE_LINES: usize = 25;

/// What a guest is booted with.
#[derive(Debug)]
pub struct Boot<'a> {
    /// What errors call it.
    pub name: &'a str,
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// What it holds.
    pub initramfs: &'a Initramfs,
    /// What it runs, for a shell.
    pub command: &'a str,
    /// Its memory, MiB.
    pub memory_mib: u32,
    /// The socket of the vsock device that it is connected to; without one it has CID 1 only.
    pub device: Option<&'a Path>,
    /// It is stopped then.
    pub limit: Duration,
    /// Files of this guest.
    pub folder: &'a Path,
}

/// How a guest's command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The command's exit status.
    pub status: u8,
}

/// Takes the lines of a command's output.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// A running guest. Dropping it ends its process.
pub struct Guest {
    name: String,
    qemu: Child,
    console: PathBuf,
    started: Instant,
    limit: Duration,
    heard: Arc<Mutex<Heard>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    began: bool,
    status: Option<u8>,
}

impl Boot<'_> {
    /// Boots, waits for the end of the command, and gives its status. A guest that never reached its command is booted
    /// again.
    ///
    /// # Errors
    /// [`LabError::Limit`], [`LabError::Lost`], [`LabError::Interrupted`] once `stop` is set.
    pub fn run(&self, sink: &Sink, stop: &AtomicBool) -> Result<Ended, LabError> {
        let mut attempt = 1;
        loop {
            let mut guest = self.start(sink)?;
            match guest.wait(stop) {
                Err(LabError::Lost { qemu, .. }) if !guest.has_begun() && attempt < BOOT_ATTEMPTS => {
                    sink(&format!("lab: guest {}: boot {attempt} ended before the command ({qemu}), again", self.name));
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    /// Boots and waits until the command begins, for who has to hold the guest. Retries as [`Boot::run`] does.
    ///
    /// # Errors
    /// As [`Boot::run`].
    pub fn start_and_begin(&self, sink: &Sink, stop: &AtomicBool) -> Result<Guest, LabError> {
        let mut attempt = 1;
        loop {
            let mut guest = self.start(sink)?;
            while !guest.has_begun() {
                match guest.look(stop) {
                    Ok(None) => std::thread::sleep(LOOK_EVERY),
                    Ok(Some(_)) => break,
                    Err(LabError::Lost { .. }) if attempt < BOOT_ATTEMPTS => break,
                    Err(error) => return Err(error),
                }
            }
            if guest.has_begun() {
                return Ok(guest);
            }
            attempt += 1;
        }
    }

    /// Boots; the lines of its command's output go to `sink` as they come.
    ///
    /// # Errors
    /// Where QEMU is missing or cannot be started.
    pub fn start(&self, sink: &Sink) -> Result<Guest, LabError> {
        let archive = self.folder.join(format!("{}.cpio", self.name));
        let console = self.folder.join(format!("{}.console", self.name));
        self.initramfs.with_command(self.command, &archive)?;
        File::create(&console).map_err(LabError::file(&console))?;
        let mut command = Command::new(find("qemu-system-x86_64")?);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
        command.args(["-accel", accelerator(), "-cpu", "max", "-smp", "1", "-m", &self.memory_mib.to_string()]);
        // A vhost-user device reads and writes the guest's memory, so that memory is shared with it.
        command.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={}M,share=on", self.memory_mib));
        command.args(["-machine", "q35,memory-backend=memory"]);
        command.arg("-kernel").arg(self.kernel.image()).arg("-initrd").arg(&archive);
        command.args([
            "-append",
            // A translated timer that comes late is no broken timer, which the kernel otherwise looks for without an end.
            "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off random.trust_cpu=on no_timer_check",
        ]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.args(["-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"]);
        if let Some(socket) = self.device {
            command.arg("-chardev").arg(format!("socket,id=vsock,path={}", socket.display()));
            command.args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let errors = self.folder.join(format!("{}.qemu", self.name));
        command.stderr(File::create(&errors).map_err(LabError::file(&errors))?);
        let mut qemu = command.spawn().map_err(|error| LabError::Command {
            command: "qemu-system-x86_64".to_owned(),
            reason: error.to_string(),
        })?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let reader = qemu.stdout.take().map(|output| {
            let (heard, sink) = (Arc::clone(&heard), Arc::clone(sink));
            std::thread::spawn(move || follow(output, &heard, &sink))
        });
        Ok(Guest {
            name: self.name.to_owned(),
            qemu,
            console,
            started: Instant::now(),
            limit: self.limit,
            heard,
            reader,
        })
    }
}

impl Guest {
    /// Whether its command has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).began
    }

    /// Writes a line for the command to read from `/dev/ttyS1`.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub fn say(&mut self, line: &str) -> Result<(), LabError> {
        let failed = |reason: String| LabError::Command { command: format!("speak to guest {}", self.name), reason };
        let input = self.qemu.stdin.as_mut().ok_or_else(|| failed("it does not listen".to_owned()))?;
        writeln!(input, "{line}").and_then(|()| input.flush()).map_err(|error| failed(error.to_string()))
    }

    /// The id of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// Waits for the end of its command.
    ///
    /// # Errors
    /// [`LabError::Limit`], [`LabError::Lost`], [`LabError::Interrupted`] once `stop` is set.
    pub fn wait(&mut self, stop: &AtomicBool) -> Result<Ended, LabError> {
        loop {
            if let Some(ended) = self.look(stop)? {
                return Ok(ended);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn look(&mut self, stop: &AtomicBool) -> Result<Option<Ended>, LabError> {
        if let Some(status) = self.heard.lock().unwrap_or_else(PoisonError::into_inner).status {
            return Ok(Some(Ended { status }));
        }
        if stop.load(Ordering::SeqCst) {
            return Err(LabError::Interrupted);
        }
        match self.qemu.try_wait() {
            Ok(None) if !self.has_begun() && self.started.elapsed() > BOOT_LIMIT => Err(LabError::Lost {
                guest: self.name.clone(),
                qemu: format!("not at its command after {} s", BOOT_LIMIT.as_secs()),
                console: self.last_words(),
            }),
            Ok(None) if self.started.elapsed() < self.limit => Ok(None),
            Ok(None) => {
                Err(LabError::Limit { guest: self.name.clone(), limit: self.limit, console: self.last_words() })
            }
            Ok(Some(status)) => self.after(status).map(Some),
            Err(error) => Err(LabError::Command { command: "wait for QEMU".to_owned(), reason: error.to_string() }),
        }
    }

    /// QEMU is gone; its last words may still be on their way.
    fn after(&mut self, status: ExitStatus) -> Result<Ended, LabError> {
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            return Err(LabError::Command { command: "read the guest".to_owned(), reason: "panicked".to_owned() });
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).status;
        heard.map(|status| Ended { status }).ok_or_else(|| LabError::Lost {
            guest: self.name.clone(),
            qemu: status.to_string(),
            console: self.last_words(),
        })
    }

    fn last_words(&self) -> String {
        [&self.console, &self.console.with_extension("qemu")].map(|file| last_lines(file, CONSOLE_LINES)).join("\n")
    }

    /// Ends the machine at once, as a power cut does.
    pub fn cut_power(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // A process that has ended already cannot be killed, and needs no more than being waited for.
        drop(self.qemu.kill());
        drop(self.qemu.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

/// KVM where the processor itself can run guests and the device may be used: the device alone proves little, some
/// machines have it without the processor behind it. Else translation, some ten times slower.
#[must_use]
pub fn accelerator() -> &'static str {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let can = processor.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    let may = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if can && may { "kvm" } else { "tcg" }
}

/// The end of a file that a guest or QEMU wrote; nothing where there is no such file.
pub(crate) fn last_lines(file: &Path, count: usize) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let whole = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = whole.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

fn follow(output: impl Read, heard: &Mutex<Heard>, sink: &Sink) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output).take(LINE_MAX_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        match text.strip_prefix('\u{1e}') {
            Some("began") => heard.lock().unwrap_or_else(PoisonError::into_inner).began = true,
            Some(record) => {
                let status = record.strip_prefix("status ").and_then(|status| status.parse().ok());
                heard.lock().unwrap_or_else(PoisonError::into_inner).status = status;
            }
            None => sink(text),
        }
    }
}
