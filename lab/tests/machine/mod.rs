//! A guest of QEMU that belongs to a test on this machine.
#![allow(dead_code, reason = "each test program uses its own part")]

use enclave_bridge_e2e::wait;
use enclave_bridge_e2e::wire::Meeting;
use enclave_bridge_lab::device::{Device, Port};
use enclave_bridge_lab::guest::{MEMORY_MIB, Sink};
use enclave_bridge_lab::{Boot, Guest, Told};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// A guest's boot and its program's start, translated, beside other work.
pub(crate) const BOOT: Duration = Duration::from_secs(90);

/// A guest of these tests needs no longer, whatever happens.
const LIMIT: Duration = Duration::from_secs(240);

/// The first CID that a hypervisor gives out; each boot has its device anew, as a VMM that starts again does.
const CID: u32 = 3;

/// A guest at a device of its own. Dropping it is a power cut.
pub(crate) struct Machine {
    guest: Guest,
    pub(crate) said: Arc<Mutex<String>>,
    device: Device,
    _folder: TempDir,
}

impl Machine {
    pub(crate) fn boot(meeting: &Meeting, command: &str) -> Machine {
        let told = Told::from_environment().expect("started by cargo xtask lab --mode hybrid");
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vhost");
        let port_of_device = Port { cid: CID, socket: socket.clone(), uds_path: meeting.uds_path().to_owned() };
        let device = Device::start(&told.device, vec![port_of_device], &folder.path().join("device.log")).unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&said);
        let sink: Sink = Arc::new(move |line| {
            println!("[guest] {line}");
            let mut kept = kept.lock().unwrap();
            kept.push_str(line);
            kept.push('\n');
        });
        let boot = Boot {
            name: "enclave",
            kernel: &told.kernel,
            initramfs: &told.initramfs,
            command,
            memory_mib: MEMORY_MIB,
            device: Some(&socket),
            limit: LIMIT,
            folder: folder.path(),
        };
        let guest = boot.start_and_begin(&sink, &AtomicBool::new(false)).unwrap();
        Machine { guest, said, device, _folder: folder }
    }

    /// The machine and its device end at once: with a VMM that has its vsock device within it they are one process.
    pub(crate) fn cut_power(self) {
        drop(self.device);
        self.guest.cut_power();
    }

    pub(crate) fn assert_alive(&self) {
        assert!(std::path::Path::new(&format!("/proc/{}", self.guest.pid())).exists(), "the guest is gone");
    }

    /// Waits until a line of its command's output is `wanted`.
    pub(crate) fn wait_for_line(&self, wanted: &str, within: Duration) {
        wait::until(&format!("the guest's line {wanted:?}"), within, || {
            self.said.lock().unwrap().lines().any(|line| line == wanted)
        });
    }
}
