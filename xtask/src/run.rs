//! Running programs: seen as they speak, or captured, always with an error that names the command.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A command line that can be shown, run and captured.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    program: OsString,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

/// The cargo that runs this program, at the root of the workspace.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Line {
    #[expect(clippy::disallowed_methods, reason = "cargo names itself to the programs that it runs by this variable")]
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Line::new(cargo, arguments)
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Whether a program of that name can be found.
pub(crate) fn is_installed(program: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "where programs are is what this variable is for")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where an administrator's programs are is not always in the path.
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| folder.join(program).is_file())
}

impl Line {
    /// A command.
    pub(crate) fn new<S: AsRef<OsStr>>(program: impl Into<OsString>, arguments: impl IntoIterator<Item = S>) -> Line {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        Line { program: program.into(), arguments, variables: Vec::new() }
    }

    /// More arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Line {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A variable of its environment.
    pub(crate) fn variable(mut self, key: &str, value: impl Into<OsString>) -> Line {
        self.variables.push((key.into(), value.into()));
        self
    }

    /// Runs it with the terminal's outputs.
    pub(crate) fn run(&self) -> Result<(), String> {
        let status = self.command().status().map_err(|error| format!("{self}: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("{self}: {status}")) }
    }

    /// Runs it silently and gives what it wrote to standard output; an error carries what it wrote to standard error.
    pub(crate) fn capture(&self) -> Result<String, String> {
        let output = self.command().stdin(Stdio::null()).output().map_err(|error| format!("{self}: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("{self}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
    }

    /// Runs it, shows both of its outputs as they come and keeps them; whether it succeeded, and the text.
    pub(crate) fn tee(&self) -> Result<(bool, String), String> {
        let named = |error: std::io::Error| format!("{self}: {error}");
        let (reader, writer) = std::io::pipe().map_err(named)?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(named)?).stderr(writer);
        let mut child = command.spawn().map_err(named)?;
        // The writing ends in the command have to go, or the reading never ends.
        drop(command);
        let mut text = String::new();
        let mut line = Vec::new();
        let mut reader = BufReader::new(reader);
        while reader.read_until(b'\n', &mut line).map_err(named)? > 0 {
            let shown = String::from_utf8_lossy(&line);
            print!("{shown}");
            std::io::stdout().flush().map_err(named)?;
            text.push_str(&shown);
            line.clear();
        }
        let status = child.wait().map_err(named)?;
        Ok((status.success(), text))
    }

    /// The command itself, for who has to hold the process.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.variables.iter().cloned()).current_dir(root());
        command
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program);
        write!(f, "{}", name.to_string_lossy())?;
        for argument in &self.arguments {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        Ok(())
    }
}
