//! What `cargo xtask lab` tells the suites that boot guests themselves, as variables of their environment.

use std::path::PathBuf;

use crate::initramfs::Initramfs;
use crate::kernel::Kernel;

/// The folder of the kernel.
pub const KERNEL: &str = "ENCLAVE_BRIDGE_LAB_KERNEL";
/// The archive with the programs of the guest.
pub const INITRAMFS: &str = "ENCLAVE_BRIDGE_LAB_INITRAMFS";
/// The program of the device.
pub const DEVICE: &str = "ENCLAVE_BRIDGE_LAB_DEVICE";

/// What a suite needs to boot guests.
#[derive(Debug)]
pub struct Told {
    /// What they boot.
    pub kernel: Kernel,
    /// What they hold.
    pub initramfs: Initramfs,
    /// What carries their vsock.
    pub device: PathBuf,
}

impl Told {
    /// Reads the variables; `None` where one is missing: the suite was not started by `cargo xtask lab`.
    #[must_use]
    pub fn from_environment() -> Option<Told> {
        #[expect(clippy::disallowed_methods, reason = "the place where the suites are told")]
        let path = |key: &str| std::env::var_os(key).map(PathBuf::from);
        Some(Told {
            kernel: Kernel::at(path(KERNEL)?),
            initramfs: Initramfs::at(path(INITRAMFS)?),
            device: path(DEVICE)?,
        })
    }
}
