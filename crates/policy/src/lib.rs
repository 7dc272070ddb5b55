//! What an enclave may do: pure decisions about egress, ingress and environment.
//!
//! Here live the egress rules and address classes, host names and ports, the patterns for environment variables, rates, and the
//! step from a request to a [`Grant`] or a refusal that names what decided. Nothing here opens a socket, resolves a name, reads a
//! file or asks a clock.
//!
//! Two types are proofs. A [`JudgedAddress`] can be made only by an [`EgressPolicy`]: what is dialled was judged. A [`Grant`]
//! can be made only by [`grant`]: what is bound was permitted.

mod address;
mod egress;
mod environment;
mod name;
mod operator;
mod ports;
mod rate;
mod refusal;
mod rule;

pub use address::{AddressClass, classify};
pub use egress::{EgressPolicy, Judged, JudgedAddress, NameGrant, OwnAddresses};
pub use environment::{EnvPolicy, Glob, GlobError};
pub use operator::{
    ClientGrant, Grant, MAX_CLIENTS_DEFAULT, MAX_SERVERS_DEFAULT, OperatorPolicy, PeerIdentity, ServerGrant, grant,
    permit_peer,
};
pub use ports::{PortRanges, PortRangesError};
pub use rate::TokenBucket;
pub use refusal::Refusal;
pub use rule::{Rule, RuleError};
