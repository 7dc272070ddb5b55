//! End-to-end tests: the real programs over the hybrid transport.
