//! What is measured side by side: how each target is started, with what settings, and where it is entered.

mod bridge;
mod imitation;
mod peers;

use crate::error::BenchError;
use crate::load::{Front, one_connection, wait_until};
use crate::plan::{Deed, Test, Way};
use crate::process::{Process, Stop};
use crate::records::Form;
use crate::service::{Before, Held, serve};
use crate::socket::{Address, free_port};
use std::path::{Path, PathBuf};

pub(crate) use bridge::{built, target_folder};
pub(crate) use imitation::{Upstream, relay};

/// The enclave's port on the hybrid transport and over AF_VSOCK; any would do.
const ENCLAVE_PORT: u32 = 5001;

/// Where the enclave dials for egress.
const EGRESS_PORT: u32 = 5002;

/// A kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No relay: the client and the server.
    Direct,
    /// This project, its streams to the enclave in this form.
    Bridge(Form),
    /// The same with raw streams and without its sandbox.
    BridgeOpen,
    /// HAProxy with a buffer of this many bytes, its default where there is none.
    Haproxy(Option<u32>),
    /// nginx's stream module.
    Nginx,
    /// socat, forking, with this block.
    Socat(u32),
    /// The original's loop with this buffer.
    Loop(u32),
}

impl Kind {
    /// Whether it is what is under test.
    pub(crate) fn is_bridge(self) -> bool {
        matches!(self, Kind::Bridge(_) | Kind::BridgeOpen)
    }
}

/// Every target by its name, in the order of the tables.
pub(crate) const ALL: &[(&str, Kind)] = &[
    ("direct", Kind::Direct),
    ("bridge", Kind::Bridge(Form::Raw)),
    ("bridge-framed", Kind::Bridge(Form::Framed)),
    ("bridge-open", Kind::BridgeOpen),
    ("haproxy", Kind::Haproxy(None)),
    ("haproxy-64k", Kind::Haproxy(Some(65536))),
    ("nginx", Kind::Nginx),
    ("socat", Kind::Socat(8192)),
    ("loop-1k", Kind::Loop(1024)),
    ("loop-32k", Kind::Loop(32768)),
];

/// Those of a guest of the lab, where the relays' far side is AF_VSOCK.
pub(crate) const OVER_VSOCK: &[(&str, Kind)] = &[
    ("direct", Kind::Direct),
    ("bridge", Kind::Bridge(Form::Raw)),
    ("loop-8k", Kind::Loop(8192)),
    ("loop-1k", Kind::Loop(1024)),
];

/// The enclave's side of the relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Far {
    /// Unix sockets.
    Hybrid,
    /// AF_VSOCK within one guest.
    Vsock,
}

/// The servers and the places that all targets share.
#[derive(Debug)]
pub(crate) struct Ground {
    /// Sockets and generated configurations.
    pub(crate) folder: PathBuf,
    /// The program under test.
    pub(crate) bridge: PathBuf,
    /// The enclave's side.
    pub(crate) far: Far,
    /// The server of the world, for egress and for direct.
    pub(crate) world: u16,
    /// The enclave's server as other relays dial it.
    pub(crate) enclave: Address,
    /// What the servers hold open.
    pub(crate) held: Held,
    /// Ends everything early.
    pub(crate) stop: Stop,
}

impl Ground {
    /// Starts the servers.
    pub(crate) fn prepare(folder: &Path, bridge: &Path, far: Far, stop: &Stop) -> Result<Ground, BenchError> {
        let enclave = match far {
            Far::Hybrid => Address::Unix(folder.join("enclave.sock")),
            Far::Vsock => Address::Vsock(ENCLAVE_PORT),
        };
        let ground = Ground {
            folder: folder.to_owned(),
            bridge: bridge.to_owned(),
            far,
            world: free_port()?,
            enclave,
            held: Held::default(),
            stop: stop.clone(),
        };
        serve(&Address::Tcp(ground.world), Before::Nothing, &ground.held)?;
        serve(&ground.enclave, Before::Nothing, &ground.held)?;
        if far == Far::Hybrid {
            for guest in [Guest::RAW, Guest::FRAMED, Guest::OPEN] {
                serve(&Address::Unix(ground.guest_socket(guest)), Before::Connect(guest.form), &ground.held)?;
            }
        }
        Ok(ground)
    }

    /// The socket of the guest that a bridge is given.
    fn guest_socket(&self, guest: Guest) -> PathBuf {
        self.folder.join(guest.socket)
    }

    /// Where the bridge listens for the guest's connections.
    fn host(&self, guest: Guest, port: u32) -> Address {
        match self.far {
            Far::Hybrid => Address::Unix(self.folder.join(format!("{}_{port}", guest.socket))),
            Far::Vsock => Address::Vsock(port),
        }
    }
}

/// A guest of a bridge: two bridges have two.
#[derive(Debug, Clone, Copy)]
struct Guest {
    form: Form,
    socket: &'static str,
    sandbox: bool,
}

impl Guest {
    const RAW: Guest = Guest { form: Form::Raw, socket: "guest.sock", sandbox: true };
    const FRAMED: Guest = Guest { form: Form::Framed, socket: "framed.sock", sandbox: true };
    const OPEN: Guest = Guest { form: Form::Raw, socket: "open.sock", sandbox: false };

    fn of(kind: Kind) -> Option<Guest> {
        match kind {
            Kind::Bridge(Form::Raw) => Some(Guest::RAW),
            Kind::Bridge(Form::Framed) => Some(Guest::FRAMED),
            Kind::BridgeOpen => Some(Guest::OPEN),
            Kind::Direct | Kind::Haproxy(_) | Kind::Nginx | Kind::Socat(_) | Kind::Loop(_) => None,
        }
    }
}

/// What runs of a target, ended when it is dropped.
#[derive(Debug, Default)]
struct Running {
    // The session ends before its bridge does: fields are dropped in this order.
    #[expect(dead_code, reason = "held for what its end does")]
    enclave: Option<crate::enclave::Enclave>,
    processes: Vec<Process>,
}

/// A target that is up.
#[derive(Debug)]
pub(crate) struct Target {
    /// As the tables name it.
    pub(crate) name: &'static str,
    kind: Kind,
    /// The program's own word for what it is.
    pub(crate) version: String,
    /// Its settings in a line.
    pub(crate) settings: String,
    /// From the world into the enclave.
    pub(crate) ingress: Front,
    /// From the enclave to the world.
    pub(crate) egress: Front,
    /// How many connections at once make sense: socat is a process for each.
    pub(crate) connections_max: usize,
    running: Running,
}

/// Where a target listens, chosen before it starts so that it is the same after a fresh start.
#[derive(Debug, Clone)]
struct Doors {
    ingress: u16,
    egress: Address,
}

impl Target {
    /// Starts a target and waits until a message has come back through it, both ways in.
    pub(crate) fn start(name: &'static str, kind: Kind, ground: &Ground) -> Result<Target, BenchError> {
        let doors = Doors { ingress: free_port()?, egress: Address::Unix(ground.folder.join(format!("{name}.out"))) };
        let version = version(kind, ground)?;
        let mut target = Target {
            name,
            kind,
            version,
            settings: settings(kind),
            ingress: Front { address: Address::Tcp(doors.ingress), line: None },
            egress: Front { address: doors.egress.clone(), line: None },
            connections_max: if matches!(kind, Kind::Socat(_)) { 300 } else { usize::MAX },
            running: Running::default(),
        };
        match kind {
            Kind::Direct => {
                let direct = match ground.far {
                    Far::Hybrid => Address::Tcp(ground.world),
                    Far::Vsock => ground.enclave.clone(),
                };
                target.ingress.address = direct;
                target.egress.address = Address::Tcp(ground.world);
            }
            Kind::Bridge(_) | Kind::BridgeOpen => {
                let guest = Guest::of(kind).unwrap_or(Guest::RAW);
                target.egress = Front {
                    address: ground.host(guest, EGRESS_PORT),
                    line: Some(format!("127.0.0.1:{}\n", ground.world)),
                };
            }
            Kind::Haproxy(_) | Kind::Nginx | Kind::Socat(_) | Kind::Loop(_) => {}
        }
        target.run(ground)?;
        Ok(target)
    }

    /// Whether the test is one for this target: what framing costs shows where nothing but bytes is measured.
    pub(crate) fn takes_part(&self, test: &Test) -> bool {
        match self.kind {
            Kind::Bridge(Form::Framed) => {
                test.way == Way::Ingress && matches!(test.deed, Deed::Bulk(_, 1) | Deed::Messages)
            }
            Kind::Direct
            | Kind::Bridge(Form::Raw)
            | Kind::BridgeOpen
            | Kind::Haproxy(_)
            | Kind::Nginx
            | Kind::Socat(_)
            | Kind::Loop(_) => true,
        }
    }

    /// Ends its processes and starts them again: what memory tests begin with.
    pub(crate) fn start_afresh(&mut self, ground: &Ground) -> Result<(), BenchError> {
        self.running = Running::default();
        self.run(ground)
    }

    /// The ids of its processes; none of a target without.
    pub(crate) fn roots(&self) -> Vec<u32> {
        self.running.processes.iter().map(Process::id).collect()
    }

    fn run(&mut self, ground: &Ground) -> Result<(), BenchError> {
        let Address::Tcp(ingress) = self.ingress.address else { return Ok(()) };
        let doors = Doors { ingress, egress: self.egress.address.clone() };
        self.running = match self.kind {
            Kind::Direct => return Ok(()),
            Kind::Bridge(_) | Kind::BridgeOpen => {
                bridge::run(Guest::of(self.kind).unwrap_or(Guest::RAW), &doors, ground)?
            }
            Kind::Haproxy(buffer) => peers::haproxy(self.name, buffer, &doors, ground)?,
            Kind::Nginx => peers::nginx(self.name, &doors, ground)?,
            Kind::Socat(block) => peers::socat(block, &doors, ground)?,
            Kind::Loop(buffer) => imitation::run(buffer, &doors, ground)?,
        };
        for (way, front) in [("ingress", &self.ingress), ("egress", &self.egress)] {
            if way == "egress" && ground.far == Far::Vsock && !self.kind.is_bridge() {
                continue;
            }
            let (mut last, running) = (None, &mut self.running);
            let waited = wait_until(&format!("{} to relay {way}", self.name), &ground.stop, || {
                last = one_connection(front).err();
                last.is_none() || !running.processes.iter_mut().all(Process::is_running)
            });
            let reason = match (waited, last) {
                (Ok(()), None) => continue,
                (Err(BenchError::Interrupted), _) => return Err(BenchError::Interrupted),
                (_, Some(error)) => format!("{way}: {error}"),
                (Err(error), None) => error.to_string(),
            };
            return Err(BenchError::Process { name: self.name.to_owned(), reason });
        }
        Ok(())
    }
}

fn version(kind: Kind, ground: &Ground) -> Result<String, BenchError> {
    match kind {
        Kind::Direct => Ok("no relay".to_owned()),
        Kind::Bridge(_) | Kind::BridgeOpen => bridge::version(ground),
        Kind::Haproxy(_) => peers::haproxy_version(),
        Kind::Nginx => peers::nginx_version(),
        Kind::Socat(_) => peers::socat_version(),
        Kind::Loop(_) => Ok("an imitation of the original's relay".to_owned()),
    }
}

fn settings(kind: Kind) -> String {
    match kind {
        Kind::Direct => "client and server alone".to_owned(),
        Kind::Bridge(Form::Raw) => "defaults; raw streams".to_owned(),
        Kind::Bridge(Form::Framed) => "defaults; framed streams, in bulk on one stream and in messages only".to_owned(),
        Kind::BridgeOpen => "--sandbox off; raw streams".to_owned(),
        Kind::Haproxy(None) => "mode tcp, default buffers of 16 KiB (bench/peers/haproxy.cfg)".to_owned(),
        Kind::Haproxy(Some(bytes)) => format!("the same with tune.bufsize {bytes}"),
        Kind::Nginx => "proxy_half_close on, default buffers of 16 KiB (bench/peers/nginx.conf)".to_owned(),
        Kind::Socat(bytes) => format!("fork, -b {bytes}, its default"),
        Kind::Loop(bytes) => format!("a task for each direction, each with {bytes} bytes of its own"),
    }
}
