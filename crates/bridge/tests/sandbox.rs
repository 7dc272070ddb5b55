//! The sandbox in a process of its own: what is closed answers an error or ends the process, what is needed works.
//!
//! Each canary is this test program once more, told by a variable what to try; nothing of that is in the daemon.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells its own child by a variable what to try"
)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use enclave_bridge::config::SandboxMode;
use enclave_bridge::sandbox::{Needs, enter};
use nix::sys::signal::Signal;

/// What the child is to try, and where.
const TRY: &str = "SANDBOX_CANARY";
const FOLDER: &str = "SANDBOX_FOLDER";

/// Tries one thing in a sandbox whose files are those of `folder`.
fn tried(what: &str, folder: &Path) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "in_the_sandbox", "--ignored", "--nocapture", "--test-threads", "1"]);
    child.env(TRY, what).env(FOLDER, folder);
    child.output().unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sockets")).unwrap();
    std::fs::write(folder.path().join("open.toml"), "strict = true\n").unwrap();
    std::fs::write(folder.path().join("other.toml"), "strict = true\n").unwrap();
    folder
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn r8_what_takes_the_process_over_ends_it() {
    let folder = folder();
    for canary in ["exec", "ptrace", "mount", "setuid", "namespace"] {
        let output = tried(canary, folder.path());
        let signal = output.status.signal();
        assert_eq!(signal, Some(Signal::SIGSYS as i32), "{canary}: {}", said(&output));
        assert!(!said(&output).contains("SUCCEEDED"), "{canary}: {}", said(&output));
    }
}

#[test]
fn r8_what_is_closed_answers_an_error_and_the_process_lives() {
    let folder = folder();
    for (canary, answer) in [
        ("open a host file", "EACCES"),
        ("open a neighbouring file", "EACCES"),
        ("read a folder", "EACCES"),
        ("write a file", "EPERM"),
        ("raw socket", "EPERM"),
        ("packet socket", "EPERM"),
        ("fork", "EPERM"),
        ("signal another process", "EPERM"),
        ("make a socket elsewhere", "EACCES"),
        ("low port", "EACCES"),
        ("truncate", "EPERM"),
        ("chmod", "EPERM"),
        ("rename", "EPERM"),
    ] {
        let output = tried(canary, folder.path());
        assert!(output.status.success(), "{canary}: {}", said(&output));
        assert!(said(&output).contains(&format!("FAILED {answer}")), "{canary}: {}", said(&output));
    }
}

#[test]
fn what_the_daemon_needs_works() {
    let folder = folder();
    for need in
        ["read the configuration", "socket beside the guest's", "tcp both ways", "threads", "addresses", "panic"]
    {
        let output = tried(need, folder.path());
        assert!(said(&output).contains("SUCCEEDED"), "{need}: {}", said(&output));
    }
    // A bug that aborts ends the process by its own signal and not by the filter's.
    assert_eq!(tried("abort", folder.path()).status.signal(), Some(Signal::SIGABRT as i32));
}

/// The child's part.
#[test]
#[ignore = "run by the tests above in a process of its own"]
fn in_the_sandbox() {
    let Ok(what) = std::env::var(TRY) else { return };
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let mut needs = Needs { uds_paths: vec![folder.join("sockets/guest.sock")], ..Needs::default() };
    needs.read(&folder.join("open.toml"));
    let report = enter(SandboxMode::Require, &needs).unwrap();
    println!("{report}");
    match attempt(&what, &folder) {
        Ok(()) => println!("SUCCEEDED"),
        Err(error) => println!("FAILED {:?}", nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    }
}

fn attempt(what: &str, folder: &Path) -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let text = |text: &str| CString::new(text).unwrap();
    match what {
        "exec" => nix::unistd::execv(&text("/bin/true"), &[text("true")]).map(drop)?,
        "ptrace" => nix::sys::ptrace::traceme()?,
        "mount" => {
            let none: Option<&str> = None;
            nix::mount::mount(none, folder, Some("tmpfs"), nix::mount::MsFlags::empty(), none)?;
        }
        "setuid" => nix::unistd::setuid(nix::unistd::Uid::from_raw(12345))?,
        "namespace" => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?,
        "open a host file" => drop(File::open("/etc/passwd")?),
        "open a neighbouring file" => drop(File::open(folder.join("other.toml"))?),
        "read a folder" => drop(std::fs::read_dir(folder)?.next().transpose()?),
        "write a file" => drop(File::options().write(true).open(folder.join("open.toml"))?),
        "raw socket" => drop(socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), None)?),
        "packet socket" => drop(socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?),
        "fork" => drop(Command::new("/bin/true").spawn()?),
        "signal another process" => nix::sys::signal::kill(nix::unistd::getppid(), None)?,
        "make a socket elsewhere" => drop(UnixListener::bind(folder.join("elsewhere.sock"))?),
        "low port" => drop(TcpListener::bind("127.0.0.1:81")?),
        "truncate" => nix::unistd::truncate(&folder.join("open.toml"), 0)?,
        "chmod" => std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?,
        "rename" => std::fs::rename(folder.join("open.toml"), folder.join("new.toml"))?,
        "read the configuration" => drop(std::fs::read(folder.join("open.toml"))?),
        "socket beside the guest's" => {
            let path = folder.join("sockets/guest.sock_5001");
            let listener = UnixListener::bind(&path)?;
            drop(std::os::unix::net::UnixStream::connect(&path)?);
            drop(listener);
            std::fs::remove_file(&path)?;
        }
        "tcp both ways" => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let mut near = TcpStream::connect(listener.local_addr()?)?;
            let mut far = listener.accept()?.0;
            near.write_all(b"there")?;
            far.read_exact(&mut [0; 5])?;
        }
        "threads" => drop(std::thread::Builder::new().name("another".into()).spawn(|| ())?.join()),
        "addresses" => drop(nix::ifaddrs::getifaddrs()?),
        "panic" => assert!(std::panic::catch_unwind(|| panic!("on purpose")).is_err()),
        "abort" => std::process::abort(),
        other => panic!("{other}: no such canary"),
    }
    Ok(())
}
