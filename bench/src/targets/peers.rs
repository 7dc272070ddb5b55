//! Other people's relays, configured as their documentation recommends; the templates are in `bench/peers`.

use super::{Doors, Ground, Running};
use crate::error::BenchError;
use crate::process::{Process, find};
use crate::socket::Address;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HAPROXY_CFG: &str = include_str!("../../peers/haproxy.cfg");
const NGINX_CONF: &str = include_str!("../../peers/nginx.conf");

/// Connections that each relay has to have room for.
const CONNECTIONS: usize = 9_800;

/// Where Debian and Alpine, Fedora, and a build from source keep nginx's modules.
const NGINX_MODULES: [&str; 3] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules"];

pub(super) fn haproxy_version() -> Result<String, BenchError> {
    let said = output(Command::new(program("haproxy", "apt-get install haproxy")?).arg("-v"))?;
    Ok(said.lines().next().unwrap_or_default().split(" - ").next().unwrap_or_default().trim().to_owned())
}

pub(super) fn haproxy(
    name: &'static str,
    buffer: Option<u32>,
    doors: &Doors,
    ground: &Ground,
) -> Result<Running, BenchError> {
    let tuning = buffer.map_or_else(String::new, |bytes| format!("tune.bufsize {bytes}"));
    let config = fill(HAPROXY_CFG, &places(doors, ground, &[("tuning", tuning)]))?;
    let file = write(ground, &format!("{name}.cfg"), &config)?;
    let mut command = Command::new(program("haproxy", "apt-get install haproxy")?);
    command.arg("-db").arg("-q").arg("-f").arg(file);
    one(&mut command, name)
}

pub(super) fn nginx_version() -> Result<String, BenchError> {
    let said = output(Command::new(program("nginx", NGINX_HINT)?).arg("-v"))?;
    nginx_module()?;
    Ok(said.trim().trim_start_matches("nginx version: ").to_owned())
}

const NGINX_HINT: &str = "apt-get install nginx-light libnginx-mod-stream";

pub(super) fn nginx(name: &'static str, doors: &Doors, ground: &Ground) -> Result<Running, BenchError> {
    // Root's nginx gives its workers to nobody, who may not enter the folder of the sockets.
    let user = if nix::unistd::geteuid().is_root() { "user root;".to_owned() } else { String::new() };
    let module = nginx_module()?.display().to_string();
    let config = fill(NGINX_CONF, &places(doors, ground, &[("user", user), ("module", module)]))?;
    let file = write(ground, "nginx.conf", &config)?;
    remove_socket(&doors.egress);
    let mut command = Command::new(program("nginx", NGINX_HINT)?);
    command.arg("-p").arg(&ground.folder).arg("-e").arg("stderr").arg("-c").arg(file);
    one(&mut command, name)
}

fn nginx_module() -> Result<PathBuf, BenchError> {
    let places = NGINX_MODULES.iter().map(|folder| Path::new(folder).join("ngx_stream_module.so"));
    places
        .into_iter()
        .find(|place| place.is_file())
        .ok_or_else(|| BenchError::Missing { program: "nginx's stream module", hint: format!(" ({NGINX_HINT})") })
}

pub(super) fn socat_version() -> Result<String, BenchError> {
    let said = output(Command::new(program("socat", "apt-get install socat")?).arg("-V"))?;
    let line = said.lines().find(|line| line.starts_with("socat version")).unwrap_or("socat");
    Ok(line.split(" on ").next().unwrap_or_default().to_owned())
}

pub(super) fn socat(block: u32, doors: &Doors, ground: &Ground) -> Result<Running, BenchError> {
    let (Address::Unix(enclave), Address::Unix(egress)) = (&ground.enclave, &doors.egress) else {
        return Err(BenchError::Usage("socat is measured over Unix sockets only".to_owned()));
    };
    remove_socket(&doors.egress);
    let (port, world) = (doors.ingress, ground.world);
    let ways = [
        (
            format!("TCP4-LISTEN:{port},bind=127.0.0.1,reuseaddr,nodelay,fork,backlog=4096"),
            format!("UNIX-CONNECT:{}", enclave.display()),
        ),
        (format!("UNIX-LISTEN:{},fork,backlog=4096", egress.display()), format!("TCP4:127.0.0.1:{world},nodelay")),
    ];
    let mut running = Running::default();
    for (listen, connect) in ways {
        let mut command = Command::new(program("socat", "apt-get install socat")?);
        // Half a second after one end it would cut the other: answers to uploads may take longer.
        command.args(["-t", "20", "-b", &block.to_string(), &listen, &connect]);
        // It complains of every reset.
        command.stderr(Stdio::null());
        running.processes.push(Process::start(&mut command, "socat")?);
    }
    Ok(running)
}

fn one(command: &mut Command, name: &str) -> Result<Running, BenchError> {
    Ok(Running { enclave: None, processes: vec![Process::start(command, name)?] })
}

fn places(doors: &Doors, ground: &Ground, more: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let path = |address: &Address| match address {
        Address::Unix(path) => path.display().to_string(),
        Address::Tcp(_) | Address::Vsock(_) => address.to_string(),
    };
    let mut places = vec![
        ("connections", CONNECTIONS.to_string()),
        ("descriptors", (2 * CONNECTIONS + 200).to_string()),
        ("ingress", doors.ingress.to_string()),
        ("enclave", path(&ground.enclave)),
        ("egress", path(&doors.egress)),
        ("world", ground.world.to_string()),
        ("folder", ground.folder.display().to_string()),
    ];
    places.extend(more.iter().cloned());
    places
}

/// Puts values into the `{{places}}` of a template; one that is left over is an error.
fn fill(template: &str, places: &[(&'static str, String)]) -> Result<String, BenchError> {
    let mut text = template.to_owned();
    for (name, value) in places {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    match text.split_once("{{") {
        None => Ok(text),
        Some((_, rest)) => {
            let name = rest.split("}}").next().unwrap_or_default();
            Err(BenchError::Document { what: "template of a peer".to_owned(), reason: format!("no value for {name}") })
        }
    }
}

fn write(ground: &Ground, name: &str, text: &str) -> Result<PathBuf, BenchError> {
    let path = ground.folder.join(name);
    std::fs::write(&path, text).map_err(BenchError::io(format!("write {}", path.display())))?;
    Ok(path)
}

/// Neither nginx nor socat replaces a socket file that an earlier process left.
fn remove_socket(address: &Address) {
    if let Address::Unix(path) = address {
        // Nothing there is the usual case.
        drop(std::fs::remove_file(path));
    }
}

fn program(name: &'static str, hint: &str) -> Result<PathBuf, BenchError> {
    find(name).ok_or_else(|| BenchError::Missing { program: name, hint: format!(" ({hint})") })
}

/// What a program says of itself, on whichever output.
fn output(command: &mut Command) -> Result<String, BenchError> {
    let said = command.output().map_err(BenchError::io("ask a peer for its version"))?;
    let text = if said.stdout.is_empty() { said.stderr } else { said.stdout };
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_template_is_filled_or_named() {
        assert_eq!(fill("a {{b}} {{b}} c", &[("b", "1".to_owned())]).unwrap(), "a 1 1 c");
        let error = fill("a {{b}} {{c}}", &[("b", "1".to_owned())]).unwrap_err();
        assert!(error.to_string().contains("no value for c"), "{error}");
    }
}
