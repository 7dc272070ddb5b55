//! The enclave's side of enclave-bridge for Rust programs.
