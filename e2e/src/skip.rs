//! Tests that cannot be tried here say so: on standard error, and in a file that `cargo xtask ci` reads out at its end.

use std::io::Write as _;

/// Says that `test` was not tried, and why. What lacks is a right or a tool of the machine, never of the product.
#[expect(clippy::print_stderr, reason = "what is left out is said aloud")]
pub fn skipped(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    #[expect(clippy::disallowed_methods, reason = "where to list it is told to the tests, not to the product")]
    let Some(list) = std::env::var_os("ENCLAVE_BRIDGE_SKIPS") else { return };
    // One write of a short line: tests run beside each other.
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(list);
    let _ = opened.and_then(|mut list| list.write_all(format!("{test}: {reason}\n").as_bytes()));
}
