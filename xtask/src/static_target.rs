//! Static builds, for an image or a guest that holds no library: their target and the flag for it.

use crate::run::Line;

/// Links the C library in. The target has to be named beside it, even where it is the host's own: the flag must not reach
/// build scripts and macros.
pub(crate) const FLAG: &str = "-Ctarget-feature=+crt-static";

/// musl where its target is installed, else glibc.
pub(crate) fn target() -> String {
    let architecture = std::env::consts::ARCH;
    let musl = format!("{architecture}-unknown-linux-musl");
    let installed = Line::new("rustup", ["target", "list", "--installed"]).capture().unwrap_or_default();
    if installed.lines().any(|line| line == musl) { musl } else { format!("{architecture}-unknown-linux-gnu") }
}
