//! cargo demo: the bridge and an enclave on one machine, without a VM.
fn main() {}
