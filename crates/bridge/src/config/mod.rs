//! The configuration of the daemon: flags, environment and file become one typed [`Config`], or all their errors at once.
//!
//! Here live the table of keys, the reading of the three sources, their order of precedence, the types and the errors. What the
//! values do is not decided here; nothing but the configuration file is opened.
//!
//! Flags win over the environment, the environment over the file. A value that is given replaces the default, lists too.

mod arguments;
mod build;
mod duration;
mod enclaves;
mod errors;
mod file;
mod given;
mod keys;
mod layer;
mod limits;
mod log_level;
mod parse;
mod rights;
mod size;
mod suggest;
mod values;
mod variables;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use arguments::Invocation;
use layer::Layer;

pub use duration::{DurationError, parse_duration};
pub use errors::{ConfigError, ConfigErrors, EXIT_CONFIG, EXIT_USAGE, Origin};
pub use file::FILE_MAX_BYTES;
pub use keys::{KEYS, Key, Kind, keys_table};
pub use log_level::{LogLevel, LogLevelError};
pub use rights::KEYS_OF_TABLES;
pub use values::{
    Config, EnclaveConfig, EnclaveIdentity, EnclavePolicy, EndpointConfig, LogFormat, OnLoss, SandboxMode,
};

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/enclave-bridge/config.toml";

/// What the program was started for.
#[derive(Clone, Debug)]
pub enum Command {
    /// `run`, also without a sub-command.
    Run(Config, Source),
    /// `check FILE`: the file, the flags and the environment are in order; [`check_report`] is what to print.
    Check {
        /// The file that was checked.
        file: PathBuf,
        /// What it says.
        config: Config,
        /// Egress targets that were asked about.
        explain: Vec<String>,
        /// The name of the table that they were asked about for; there is such a table.
        enclave: Option<String>,
    },
    /// `--help`: print this to standard output and end with 0.
    Help(String),
    /// `--version`: print this to standard output and end with 0.
    Version(String),
}

/// Where a configuration came from, kept so that it can be read again.
#[derive(Clone, Debug)]
pub struct Source {
    flags: Layer,
    variables: Layer,
    file: FileChoice,
    warnings: Vec<String>,
}

impl Source {
    /// What is odd but no error, one line each: variables with the program's prefix that are no key, for instance.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The file that is read at start and on a reload: the named one, or the default one, which may not exist.
    pub fn file(&self) -> &Path {
        &self.file.path
    }
}

#[derive(Clone, Debug)]
struct FileChoice {
    path: PathBuf,
    /// Whether it is an error that it does not exist.
    named: bool,
}

/// Reads the configuration of a process. `arguments` begins with the program's name, as `std::env::args_os` does.
///
/// # Errors
/// All errors of all sources at once; with a wrong command line only what is wrong with it.
pub fn from_process(arguments: Vec<OsString>, environment: Vec<(OsString, OsString)>) -> Result<Command, ConfigErrors> {
    from_process_with(arguments, environment, Path::new(DEFAULT_FILE))
}

/// [`from_process`] with another file in the place of [`DEFAULT_FILE`].
///
/// # Errors
/// As [`from_process`].
pub fn from_process_with(
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    default_file: &Path,
) -> Result<Command, ConfigErrors> {
    let (flags, check) = match arguments::parse(arguments)? {
        Invocation::Run(flags) => (flags, None),
        Invocation::Check { flags, file, explain, enclave } => (flags, Some((file, explain, enclave))),
        Invocation::Help(text) => return Ok(Command::Help(text)),
        Invocation::Version(text) => return Ok(Command::Version(text)),
    };
    let mut errors = Vec::new();
    let flags = flags.unwrap_or_else(|found| {
        errors.extend(found);
        Layer::default()
    });
    let (variables, warnings) = variables::read(environment, &mut errors);
    let checked = check.as_ref().and_then(|(file, ..)| file.clone());
    let named = checked.or_else(|| file_key(&flags)).or_else(|| file_key(&variables));
    let file = match named {
        Some(path) => FileChoice { path, named: true },
        None => FileChoice { path: default_file.to_owned(), named: false },
    };
    let source = Source { flags, variables, file, warnings };
    let config = build_from(&source, errors)?;
    Ok(match check {
        Some((_, explain, enclave)) => {
            if let Some(name) = enclave.as_deref().filter(|name| config.enclaves.iter().all(|one| one.name != **name)) {
                let names: Vec<&str> = config.enclaves.iter().map(|enclave| enclave.name.as_str()).collect();
                let known = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
                let name = name.escape_debug();
                return Err(ConfigErrors::usage(format!(
                    "--enclave {name}: no [[enclave]] table has that name: {known}"
                )));
            }
            Command::Check { file: source.file().to_owned(), config, explain, enclave }
        }
        None => Command::Run(config, source),
    })
}

/// Reads the file again, under the flags and the environment of the start.
///
/// # Errors
/// As [`from_process`]; the running configuration is not touched.
pub fn reload(source: &Source) -> Result<Config, ConfigErrors> {
    build_from(source, Vec::new())
}

/// What `check` prints to standard output for a file in order, without a newline.
pub fn check_report(file: &Path) -> String {
    format!("{}: ok", file.display())
}

fn build_from(source: &Source, mut errors: Vec<ConfigError>) -> Result<Config, ConfigErrors> {
    let file = file::read(&source.file, &mut errors);
    let config = build::build(&[&source.flags, &source.variables, &file.top], &file.enclaves, &mut errors);
    match ConfigErrors::from_errors(errors) {
        Some(errors) => Err(errors),
        None => config.ok_or_else(ConfigErrors::internal),
    }
}

fn file_key(layer: &Layer) -> Option<PathBuf> {
    layer.all("config").next().and_then(|given| given.items.first()).map(|item| PathBuf::from(&item.text))
}
