//! Settings → line.

use std::time::Duration;

use serde::Serialize;

use super::{ClientRequest, Protocol, ServerRequest, Settings};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    app_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    watchdog: Watchdog,
    logger: Logger,
    servers: Vec<Server<'a>>,
    clients: Vec<Client>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Watchdog {
    enclave_id: String,
    interval: u64,
}

#[derive(Serialize)]
struct Logger {
    level: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Server<'a> {
    enclave_cid: u32,
    enclave_listen_port: u32,
    bridge_tcp_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    server_names: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    framed: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    enclave_dial_port: u32,
    request_timeout: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    framed: Option<bool>,
}

pub(super) fn encode_line(settings: &Settings) -> Vec<u8> {
    let more = settings.protocol == Protocol::V1_1;
    let document = Document {
        app_name: &settings.app_name,
        protocol: more.then_some("1.1"),
        watchdog: Watchdog { enclave_id: settings.id.to_string(), interval: nanoseconds(settings.interval) },
        logger: Logger { level: settings.log_level.map_or("", |level| level.as_str()) },
        servers: settings.servers.iter().map(|server| Server::of(server, more)).collect(),
        clients: settings.clients.iter().map(|client| Client::of(client, more)).collect(),
    };
    // Writing plain structs of texts and numbers into memory cannot fail.
    let mut line = serde_json::to_vec(&document).unwrap_or_default();
    line.push(b'\n');
    line
}

impl<'a> Server<'a> {
    /// With `more`, the keys of 1.1 that are not at their defaults too.
    fn of(server: &'a ServerRequest, more: bool) -> Self {
        Self {
            enclave_cid: server.enclave_cid,
            enclave_listen_port: server.enclave_listen_port,
            bridge_tcp_port: server.bridge_tcp_port,
            proxy_protocol: (more && server.proxy_v2).then_some("v2"),
            server_names: if more { &server.server_names } else { &[] },
            bind_address: server.bind_address.filter(|_| more).map(|address| address.to_string()),
            framed: (more && server.framed).then_some(true),
        }
    }
}

impl Client {
    fn of(client: &ClientRequest, more: bool) -> Self {
        Self {
            enclave_dial_port: client.enclave_dial_port,
            request_timeout: nanoseconds(client.request_timeout),
            framed: (more && client.framed).then_some(true),
        }
    }
}

/// As the wire counts; what does not fit a signed 64-bit number (292 years) becomes the largest one.
fn nanoseconds(duration: Duration) -> u64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX).unsigned_abs()
}
