//! The wire of enclave-bridge as values and state machines, without I/O.
