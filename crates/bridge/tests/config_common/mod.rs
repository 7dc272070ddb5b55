//! What the tests of the configuration share: command lines and environments as texts, files in a temporary directory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its setup too")]

use std::ffi::OsString;
use std::path::Path;

use enclave_bridge::config::{Command, Config, ConfigErrors, Source, from_process_with};

/// A file that does not exist, in the place of the default one.
pub(crate) const NO_FILE: &str = "/nonexistent/enclave-bridge/config.toml";

pub(crate) fn parse(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command, ConfigErrors> {
    parse_with(arguments, environment, Path::new(NO_FILE))
}

pub(crate) fn parse_with(
    arguments: &[&str],
    environment: &[(&str, &str)],
    default_file: &Path,
) -> Result<Command, ConfigErrors> {
    let arguments = std::iter::once("enclave-bridge").chain(arguments.iter().copied()).map(OsString::from).collect();
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    from_process_with(arguments, environment, default_file)
}

pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Config, Source) {
    match parse(arguments, environment) {
        Ok(Command::Run(config, source)) => (config, source),
        other => panic!("{arguments:?} {environment:?}: {other:?}"),
    }
}

/// The text of the errors and the exit code.
pub(crate) fn errors(arguments: &[&str], environment: &[(&str, &str)]) -> (String, u8) {
    let errors = parse(arguments, environment).unwrap_err();
    (errors.to_string(), errors.exit_code())
}

/// Writes a file into a directory and returns its path as text.
pub(crate) fn file(directory: &tempfile::TempDir, text: &str) -> String {
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
