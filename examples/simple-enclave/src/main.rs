//! The example enclave: a page of code behind the bridge.
fn main() {}
