//! The enclave image on QEMU's `nitro-enclave` machine, with the bridge on this machine over Unix sockets. A QEMU that lacks
//! the machine is said so, and what the image is made of is booted on the machine below it.

use super::Report;
use super::modes::device_program;
use crate::ci::target_folder;
use crate::eif::{self, Boots};
use crate::image::NotTested;
use crate::run::cargo;
use enclave_bridge_lab::device::Port;
use enclave_bridge_lab::nitro::{Enclave, Image, Machine};
use enclave_bridge_lab::{Device, LabError};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A boot and a handshake, translated, beside other work.
const LIMIT: Duration = Duration::from_secs(120);

/// Of one attempt to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first that Nitro gives out.
const CID: u32 = 16;

/// More than the whole answer is no answer of the example.
const ANSWER_MAX_BYTES: u64 = 4096;

/// Builds the image for each kernel and boots it; what is missing is a skip.
pub(super) fn run(series: &[String], folder: &Path, stop: &AtomicBool, report: &mut Report) -> Result<(), String> {
    let machine = match Machine::NitroEnclave.is_offered() {
        Ok(true) => Machine::NitroEnclave,
        Ok(false) => {
            report.skips.push(
                "nitro: this QEMU has no machine nitro-enclave (qemu-system-x86_64 -M help): the parts of the image are \
                 booted on microvm instead"
                    .to_owned(),
            );
            Machine::Microvm
        }
        Err(error) => return Err(error.to_string()),
    };
    for series in series {
        let name = format!("the enclave image with {series} on {}", machine.name());
        println!("\n== lab: {name}");
        let start = Instant::now();
        let outcome = served(series, machine, folder, stop);
        if stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        match outcome {
            Ok(()) => report.tally.passed += 1,
            Err(NotTested::Skipped(reason)) => report.skips.push(format!("{name}: {reason}")),
            Err(NotTested::Failed(reason)) => {
                report.tally.failed += 1;
                report.failures.push(format!("{name}: {reason}"));
            }
        }
        println!("== lab: {name}: {} s", start.elapsed().as_secs());
    }
    Ok(())
}

/// The image boots, its program shakes hands with the bridge and is served.
fn served(series: &str, machine: Machine, folder: &Path, stop: &AtomicBool) -> Result<(), NotTested> {
    let image = eif::once(&Boots::Debian(series.to_owned()), eif::QUICK_PROFILE)?.image;
    let device = device_program(folder)?;
    let work = tempfile::Builder::new().prefix("eb-lab-").tempdir().map_err(|error| error.to_string())?;
    let port = Port { cid: CID, socket: work.path().join("vhost"), uds_path: work.path().join("enclave.sock") };
    let (socket, uds_path) = (port.socket.clone(), port.uds_path.clone());
    let _device = Device::start(&device, vec![port], &work.path().join("device.log"))?;
    let address = free()?;
    let mut bridge = Bridge::start(&uds_path, address)?;
    let mut enclave = image.boot(machine, &socket, work.path())?;
    greeted(&mut enclave, &mut bridge, address, stop)?;
    println!("{}: served over {}", image_name(&image), address);
    Ok(())
}

fn greeted(
    enclave: &mut Enclave,
    bridge: &mut Bridge,
    address: SocketAddr,
    stop: &AtomicBool,
) -> Result<(), NotTested> {
    let deadline = Instant::now() + LIMIT;
    while !greets(address).unwrap_or(false) {
        let ended = match (enclave.ended()?, bridge.ended()?) {
            (Some(status), _) => Some(format!("QEMU ended: {status}")),
            (None, Some(status)) => Some(format!("the bridge ended: {status}")),
            (None, None) if stop.load(Ordering::SeqCst) => return Err(LabError::Interrupted.into()),
            (None, None) if Instant::now() > deadline => Some(format!("not served within {} s", LIMIT.as_secs())),
            (None, None) => None,
        };
        if let Some(reason) = ended {
            return Err(NotTested::Failed(format!("{reason}; its console said last:\n{}", enclave.last_words())));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn greets(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX_BYTES).read_to_string(&mut answer)?;
    Ok(answer.contains("Hello from the enclave!"))
}

fn free() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

fn image_name(image: &Image) -> String {
    image.eif.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The daemon on this machine. Dropping it ends its process.
struct Bridge(Child);

impl Bridge {
    fn start(uds_path: &Path, served: SocketAddr) -> Result<Bridge, String> {
        cargo(["build", "--quiet", "--locked", "--package", "enclave-bridge", "--bin", "enclave-bridge"]).run()?;
        let program = target_folder()?.join("debug/enclave-bridge");
        let mut command = Command::new(&program);
        command.arg("run").arg("--uds-path").arg(uds_path).args(["--monitor", "127.0.0.1:0"]);
        command.args(["--env-allow", "SIMPLE_ENCLAVE_PORT"]).env("SIMPLE_ENCLAVE_PORT", served.port().to_string());
        let bridge = command.stdin(Stdio::null()).spawn();
        bridge.map(Bridge).map_err(|error| format!("{}: {error}", program.display()))
    }

    fn ended(&mut self) -> Result<Option<String>, String> {
        let status = self.0.try_wait().map_err(|error| format!("wait for the bridge: {error}"))?;
        Ok(status.map(|status| status.to_string()))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // A process that has ended already cannot be killed, and needs no more than being waited for.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
