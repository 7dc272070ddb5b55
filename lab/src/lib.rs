//! Machines of our own in which AF_VSOCK is real: a Debian kernel, an initramfs with our programs, QEMU.
//!
//! What lives here: fetching a kernel without installing it ([`kernel`]), packing what a guest holds ([`initramfs`]), a guest
//! from its boot to its end ([`guest`]), what an enclave's image holds ([`ramdisk`]) and the machine for it ([`nitro`]), the device that carries vsock between guests and this machine ([`device`]). The
//! suites are in `tests/`; they open AF_VSOCK and run in a guest, started by `cargo xtask lab`. What may not live here:
//! anything that opens AF_VSOCK on the machine that runs the lab.

pub mod archive;
pub mod device;
pub mod error;
pub mod guest;
pub mod initramfs;
pub mod kernel;
pub mod nitro;
pub mod program;
pub mod ramdisk;
pub mod told;

pub use device::Device;
pub use error::LabError;
pub use guest::{Boot, Ended, Guest};
pub use initramfs::Initramfs;
pub use kernel::Kernel;
pub use told::Told;
