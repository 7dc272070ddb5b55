//! Line → settings, as version-1 peers write them. The rules field by field stand with the reader of each.

#![expect(clippy::wildcard_enum_match_arm, reason = "each field names the values it takes; any other is refused")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{
    APP_NAME_MAX_BYTES, ClientRequest, LogLevel, ParsedSettings, Protocol, SERVER_NAMES_MAX, SETTINGS_DEPTH_MAX,
    SETTINGS_KEYS_MAX, SETTINGS_MAX_BYTES, SETTINGS_TUNNELS_MAX, ServerRequest, Settings, UNKNOWN_KEYS_MAX,
};
use crate::json::{Limits, Node, Schema, read, refusal};
use crate::target::is_name;
use crate::text::quoted;
use crate::{
    Announcement, DEFAULT_REQUEST_TIMEOUT, EnclaveId, Feature, INTERVAL_MAX, INTERVAL_MIN, Nak, NakCode, ParseIdError,
};

static SCHEMA: Schema = Schema::Object(&[
    ("appName", Schema::Leaf),
    ("protocol", Schema::Leaf),
    ("watchdog", Schema::Object(&[("enclaveId", Schema::Leaf), ("interval", Schema::Leaf)])),
    ("logger", Schema::Object(&[("level", Schema::Leaf)])),
    ("servers", Schema::List { of: &SERVER, max: SETTINGS_TUNNELS_MAX, beyond: NakCode::TooMany }),
    ("clients", Schema::List { of: &CLIENT, max: SETTINGS_TUNNELS_MAX, beyond: NakCode::TooMany }),
]);

static SERVER: Schema = Schema::Object(&[
    ("enclaveCid", Schema::Leaf),
    ("enclaveListenPort", Schema::Leaf),
    ("bridgeTcpPort", Schema::Leaf),
    ("proxyProtocol", Schema::Leaf),
    ("bindAddress", Schema::Leaf),
    ("serverNames", Schema::List { of: &Schema::Leaf, max: SERVER_NAMES_MAX, beyond: NakCode::BadConfig }),
    ("framed", Schema::Leaf),
]);

static CLIENT: Schema =
    Schema::Object(&[("enclaveDialPort", Schema::Leaf), ("requestTimeout", Schema::Leaf), ("framed", Schema::Leaf)]);

const LIMITS: Limits = Limits { depth: SETTINGS_DEPTH_MAX, keys: SETTINGS_KEYS_MAX, unknown_keys: UNKNOWN_KEYS_MAX };

pub(super) fn parse(line: &[u8], offered: &Announcement) -> Result<ParsedSettings, Nak> {
    if line.len() > SETTINGS_MAX_BYTES {
        return Err(refusal("", &format!("longer than {SETTINGS_MAX_BYTES} bytes")));
    }
    let (node, unknown_keys) = read(line, &SCHEMA, LIMITS)?;
    if node == Node::Null {
        return Err(refusal("", "null is not an object"));
    }
    let root = Fields::of(&node, "");
    let watchdog = root.object("watchdog");
    let settings = Settings {
        app_name: app_name(&root)?,
        protocol: protocol(&root)?,
        id: id(&watchdog)?,
        interval: interval(&watchdog)?,
        log_level: log_level(&root.object("logger"))?,
        servers: root.list("servers").iter().map(server).collect::<Result<_, _>>()?,
        clients: root.list("clients").iter().map(client).collect::<Result<_, _>>()?,
    };
    if settings.protocol == Protocol::V1 && settings.id.contains_newline() {
        return Err(Nak::new(
            NakCode::BadId,
            "watchdog.enclaveId: a byte of it is 0a, and a version-1 peer reads beats up to that byte",
        ));
    }
    check_extras(&settings, offered)?;
    Ok(ParsedSettings { settings, unknown_keys })
}

/// Whatever 1.1 adds is granted only to a peer that says it speaks 1.1, and only where it was announced. To ignore it
/// would be worse than to refuse it: a listener on another address, a stream that begins otherwise than expected.
fn check_extras(settings: &Settings, offered: &Announcement) -> Result<(), Nak> {
    let check = |asked: bool, path: String, feature: Feature| {
        if !asked {
            Ok(())
        } else if settings.protocol == Protocol::V1 {
            Err(refusal(&path, "asked for without \"protocol\": \"1.1\""))
        } else if !offered.offers(feature) {
            Err(refusal(&path, &format!("this bridge does not offer {feature}")))
        } else {
            Ok(())
        }
    };
    for (index, server) in settings.servers.iter().enumerate() {
        check(server.proxy_v2, format!("servers[{index}].proxyProtocol"), Feature::ProxyV2)?;
        check(server.bind_address.is_some(), format!("servers[{index}].bindAddress"), Feature::Bind)?;
        check(!server.server_names.is_empty(), format!("servers[{index}].serverNames"), Feature::Sni)?;
        check(server.framed, format!("servers[{index}].framed"), Feature::Framed)?;
    }
    for (index, client) in settings.clients.iter().enumerate() {
        check(client.framed, format!("clients[{index}].framed"), Feature::Framed)?;
    }
    Ok(())
}

fn app_name(root: &Fields<'_>) -> Result<String, Nak> {
    let field = root.field("appName");
    let name = field.text()?;
    if name.len() > APP_NAME_MAX_BYTES {
        return Err(field.refuse(&format!("longer than {APP_NAME_MAX_BYTES} bytes")));
    }
    Ok(name.to_owned())
}

/// Nothing is version 1. Later minor versions only add what must be asked for, so they are read as 1.1.
fn protocol(root: &Fields<'_>) -> Result<Protocol, Nak> {
    let field = root.field("protocol");
    match field.text()? {
        "" | "1" | "1.0" => Ok(Protocol::V1),
        text => match crate::environment::minor_version(text) {
            Some(_) => Ok(Protocol::V1_1),
            None => Err(field.refuse(&format!("{} is no version 1.x", quoted(text)))),
        },
    }
}

/// A version-1 peer always sends it, be it the nil id.
fn id(watchdog: &Fields<'_>) -> Result<EnclaveId, Nak> {
    let field = watchdog.field("enclaveId");
    let nil = || Nak::new(NakCode::BadId, format!("{}: the nil id", field.path));
    match field.node {
        Node::Null => Err(field.refuse(MISSING)),
        _ => field.text()?.parse().map_err(|error| match error {
            ParseIdError::Nil => nil(),
            ParseIdError::NotAUuid => field.refuse("not a UUID"),
        }),
    }
}

/// A version-1 peer always sends it, be it 0.
fn interval(watchdog: &Fields<'_>) -> Result<Duration, Nak> {
    let field = watchdog.field("interval");
    let interval = match field.node {
        Node::Null => return Err(field.refuse(MISSING)),
        Node::Unsigned(nanoseconds) => Some(Duration::from_nanos(*nanoseconds)),
        Node::Negative => None,
        other => return Err(field.refuse(&format!("{} is not a number of nanoseconds", other.kind()))),
    };
    match interval {
        Some(interval) if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) => Ok(interval),
        Some(interval) => {
            let sentence = format!("{}: {interval:?} is outside 1 s to 1 h (the unit is nanoseconds)", field.path);
            Err(Nak::new(NakCode::BadInterval, sentence))
        }
        None => Err(Nak::new(NakCode::BadInterval, format!("{}: negative", field.path))),
    }
}

/// Version 1 compares levels in any letter case.
fn log_level(logger: &Fields<'_>) -> Result<Option<LogLevel>, Nak> {
    let field = logger.field("level");
    let text = field.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    match LogLevel::ALL.iter().find(|level| level.as_str().eq_ignore_ascii_case(text)) {
        Some(level) => Ok(Some(*level)),
        None => Err(field.refuse(&format!("{} is no log level", quoted(text)))),
    }
}

fn server(fields: &Fields<'_>) -> Result<ServerRequest, Nak> {
    Ok(ServerRequest {
        enclave_cid: cid(&fields.field("enclaveCid"))?,
        enclave_listen_port: port(&fields.field("enclaveListenPort"))?.into(),
        bridge_tcp_port: port(&fields.field("bridgeTcpPort"))?,
        proxy_v2: proxy_v2(&fields.field("proxyProtocol"))?,
        bind_address: bind_address(&fields.field("bindAddress"))?,
        server_names: server_names(fields)?,
        framed: fields.field("framed").flag()?,
    })
}

fn client(fields: &Fields<'_>) -> Result<ClientRequest, Nak> {
    Ok(ClientRequest {
        enclave_dial_port: port(&fields.field("enclaveDialPort"))?.into(),
        request_timeout: request_timeout(&fields.field("requestTimeout"))?,
        framed: fields.field("framed").flag()?,
    })
}

fn cid(field: &Field<'_>) -> Result<u32, Nak> {
    let cid = match field.node {
        Node::Null => return Err(field.refuse(MISSING)),
        Node::Unsigned(number) => u32::try_from(*number).ok(),
        _ => None,
    };
    cid.ok_or_else(|| field.refuse("not a number from 0 to 4294967295"))
}

/// A version-1 peer always sends it, be it 0.
fn port(field: &Field<'_>) -> Result<u16, Nak> {
    let number = match field.node {
        Node::Null => return Err(field.refuse(MISSING)),
        Node::Unsigned(number) => *number,
        other => return Err(field.refuse(&format!("{} is not a port", other.kind()))),
    };
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(Nak::new(NakCode::PortNotAllowed, format!("{}: {number} is not a port", field.path))),
    }
}

/// Signed 64 bits of nanoseconds, as version 1 has them; 0 stands for the default.
fn request_timeout(field: &Field<'_>) -> Result<Duration, Nak> {
    match field.node {
        Node::Null | Node::Unsigned(0) => Ok(DEFAULT_REQUEST_TIMEOUT),
        Node::Unsigned(nanoseconds) if i64::try_from(*nanoseconds).is_ok() => Ok(Duration::from_nanos(*nanoseconds)),
        Node::Unsigned(_) => Err(field.refuse("does not fit 64 bits with a sign")),
        other => Err(field.refuse(&format!("{} is not a number of nanoseconds", other.kind()))),
    }
}

fn proxy_v2(field: &Field<'_>) -> Result<bool, Nak> {
    match field.text()? {
        "" => Ok(false),
        "v2" => Ok(true),
        other => Err(field.refuse(&format!("{} is not \"v2\"", quoted(other)))),
    }
}

fn bind_address(field: &Field<'_>) -> Result<Option<IpAddr>, Nak> {
    match field.text()? {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| field.refuse(&format!("{} is not an IP address", quoted(text)))),
    }
}

fn server_names(fields: &Fields<'_>) -> Result<Vec<String>, Nak> {
    let field = fields.field("serverNames");
    let Node::List(nodes) = field.node else { return Ok(Vec::new()) };
    let name = |(index, node): (usize, &Node)| {
        let element = Field { node, path: format!("{}[{index}]", field.path) };
        match node {
            Node::Text(name) if is_name(name) => Ok(name.clone()),
            Node::Text(name) => Err(element.refuse(&format!("{} is not a name", quoted(name)))),
            other => Err(element.refuse(&format!("{} is not a name", other.kind()))),
        }
    };
    nodes.iter().enumerate().map(name).collect()
}

/// What is said of a field that has to be there.
const MISSING: &str = "missing";

static NOTHING: Node = Node::Null;

/// One object of the document; none where it was missing or null.
struct Fields<'a> {
    fields: Option<&'a BTreeMap<&'static str, Node>>,
    path: String,
}

impl<'a> Fields<'a> {
    fn of(node: &'a Node, path: &str) -> Self {
        let fields = if let Node::Object(fields) = node { Some(fields) } else { None };
        Self { fields, path: path.to_owned() }
    }

    fn field(&self, key: &'static str) -> Field<'a> {
        let node = self.fields.and_then(|fields| fields.get(key)).unwrap_or(&NOTHING);
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Field { node, path }
    }

    fn object(&self, key: &'static str) -> Fields<'a> {
        let field = self.field(key);
        Fields::of(field.node, &field.path)
    }

    fn list(&self, key: &'static str) -> Vec<Fields<'a>> {
        let field = self.field(key);
        let Node::List(nodes) = field.node else { return Vec::new() };
        nodes.iter().enumerate().map(|(index, node)| Fields::of(node, &format!("{}[{index}]", field.path))).collect()
    }
}

/// One value with its path; null where it was missing.
struct Field<'a> {
    node: &'a Node,
    path: String,
}

impl<'a> Field<'a> {
    fn refuse(&self, what: &str) -> Nak {
        refusal(&self.path, what)
    }

    /// A text; nothing is an empty one.
    fn text(&self) -> Result<&'a str, Nak> {
        match self.node {
            Node::Null => Ok(""),
            Node::Text(text) => Ok(text),
            other => Err(self.refuse(&format!("{} is not a text", other.kind()))),
        }
    }

    fn flag(&self) -> Result<bool, Nak> {
        match self.node {
            Node::Null => Ok(false),
            Node::Bool(flag) => Ok(*flag),
            other => Err(self.refuse(&format!("{} is not true or false", other.kind()))),
        }
    }
}
