//! Sockets of enclave-bridge: endpoints, listening, dialling, the relay.
