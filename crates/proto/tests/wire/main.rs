//! The wire, both sides against each other and against recorded bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "test code: what goes wrong here is to be loud"
)]

mod beats;
mod client_hello;
mod debug;
mod documents;
mod handshake;
mod pair;
mod properties;
mod records;
mod settings;
mod splits;
mod traces;

use enclave_bridge_proto::{
    Announcement, ClientRequest, EnclaveId, Environment, Feature, LogLevel, Protocol, ServerRequest, Settings,
};
use std::time::Duration;

pub(crate) fn id() -> EnclaveId {
    "f6a1c1a2-6f0e-4f0e-9a53-2f1f0c9d7d10".parse().unwrap()
}

pub(crate) fn offered() -> Announcement {
    Announcement::v1_1(&[Feature::ProxyV2, Feature::Bind])
}

pub(crate) fn environment() -> Environment {
    let mut environment = Environment::new();
    environment.insert("REGION", "eu-central-1");
    environment.insert("MOTTO", "two\nlines and a \"quote\" ä");
    environment
}

pub(crate) fn settings(protocol: Protocol) -> Settings {
    let mut server = ServerRequest::new(16, 5001, 8080);
    if protocol == Protocol::V1_1 {
        server.bind_address = Some("127.0.0.1".parse().unwrap());
        server.proxy_v2 = true;
    }
    Settings {
        app_name: "simple-enclave".into(),
        protocol,
        id: id(),
        interval: Duration::from_secs(30),
        log_level: Some(LogLevel::Debug),
        servers: vec![server],
        clients: vec![ClientRequest::new(5002)],
    }
}
