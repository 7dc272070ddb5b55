//! What an enclave may do: pure decisions about egress, ingress and environment.
