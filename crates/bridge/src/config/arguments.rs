//! The command line: sub-commands and, from the table of keys, flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::errors::{ConfigError, ConfigErrors, Origin};
use super::keys::{KEYS, Key, Kind};
use super::layer::{Item, Layer};

/// The name of the argument of `check`.
const CHECKED_FILE: &str = "FILE";

/// The flag of `check` that asks about a target.
const EXPLAIN: &str = "explain";

/// The flag of `check` that says for whom.
const ENCLAVE: &str = "enclave";

/// A command line that was taken apart; flags whose values are not UTF-8 are errors to be told with the others.
pub(super) enum Invocation {
    Run(Result<Layer, Vec<ConfigError>>),
    Check {
        flags: Result<Layer, Vec<ConfigError>>,
        file: Option<PathBuf>,
        explain: Vec<String>,
        enclave: Option<String>,
    },
    Help(String),
    Version(String),
}

pub(super) fn parse(arguments: Vec<OsString>) -> Result<Invocation, ConfigErrors> {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let text = error.render().to_string();
            let kind = error.kind();
            return if kind == ErrorKind::DisplayHelp {
                Ok(Invocation::Help(text))
            } else if kind == ErrorKind::DisplayVersion {
                Ok(Invocation::Version(text))
            } else {
                Err(ConfigErrors::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end()))
            };
        }
    };
    Ok(match matches.subcommand() {
        Some(("check", matches)) => {
            let file = matches.get_one::<PathBuf>(CHECKED_FILE).cloned();
            let explain = matches.get_many::<String>(EXPLAIN).unwrap_or_default().cloned().collect();
            let enclave = matches.get_one::<String>(ENCLAVE).cloned();
            Invocation::Check { flags: flags(matches), file, explain, enclave }
        }
        Some((_, matches)) => Invocation::Run(flags(matches)),
        None => Invocation::Run(flags(&matches)),
    })
}

fn command() -> Command {
    let run = Command::new("run").about("Run the bridge (also without a sub-command)").args(KEYS.iter().map(argument));
    let file = Arg::new(CHECKED_FILE)
        .required_unless_present(EXPLAIN)
        .value_parser(clap::value_parser!(PathBuf))
        .help("The file to check");
    let explain = Arg::new(EXPLAIN)
        .long(EXPLAIN)
        .value_name("TARGET")
        .action(ArgAction::Append)
        .help("Say which egress rule decides about TARGET (host:port) and why; resolves nothing, dials nothing");
    let enclave = Arg::new(ENCLAVE)
        .long(ENCLAVE)
        .value_name("NAME")
        .requires(EXPLAIN)
        .help("Explain for the enclave whose [[enclave]] table has this name, not for one without a table");
    let check = Command::new("check")
        .about("Check a configuration file, with the flags and variables given")
        .arg(file)
        .arg(explain)
        .arg(enclave)
        .args(KEYS.iter().filter(|key| key.in_file).map(argument));
    Command::new("enclave-bridge")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Gives enclaves their network over vsock")
        .after_help(
            "Flags win over environment variables, these over the configuration file. \
             Exit codes: 0 drained, 64 usage, 69 cannot bind or reach, 70 a bug, 75 ended by a second signal, \
             77 permission, 78 configuration.",
        )
        .args_conflicts_with_subcommands(true)
        .args(KEYS.iter().map(argument))
        .subcommand(run)
        .subcommand(check)
}

fn argument(key: &Key) -> Arg {
    let argument = Arg::new(key.name)
        .long(key.flag)
        .help(format!("{} [{}] [default: {}]", key.meaning, key.variable, key.default.replace('`', "")))
        .value_parser(clap::value_parser!(OsString));
    match key.kind {
        // `--strict=false` undoes what a file or a variable says.
        Kind::Switch => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false"),
        Kind::Texts | Kind::Integers => argument.action(ArgAction::Append).value_name(key.value),
        Kind::Text | Kind::Integer | Kind::Ports => argument.action(ArgAction::Set).value_name(key.value),
    }
}

fn flags(matches: &ArgMatches) -> Result<Layer, Vec<ConfigError>> {
    let mut layer = Layer::default();
    let mut errors = Vec::new();
    // `check` has no `--config`: asking for an argument that is not defined is an error, not nothing.
    for key in KEYS {
        let Ok(Some(values)) = matches.try_get_many::<OsString>(key.name) else { continue };
        let origin = Origin::Flag(key.flag);
        let mut items = Vec::new();
        for value in values {
            match value.to_str() {
                None => errors.push(ConfigError::new(origin.clone(), "the value is not UTF-8")),
                Some("") if key.kind == Kind::Ports => {}
                Some(text) if key.kind == Kind::Ports => {
                    items.extend(
                        text.split(',').map(|part| Item { text: part.trim().to_owned(), origin: origin.clone() }),
                    );
                }
                Some(text) => items.push(Item { text: text.to_owned(), origin: origin.clone() }),
            }
        }
        layer.push(key, items);
    }
    if errors.is_empty() { Ok(layer) } else { Err(errors) }
}
