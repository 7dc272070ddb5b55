//! The image file by AWS's own `eif_build`, which says what a Nitro enclave measures of it.

use crate::image::NotTested;
use crate::run::{self, Line, cargo};
use enclave_bridge_lab::nitro::Image;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};

/// The newest in the registry; with its own lock file it takes version 0.3.0 of `aws-nitro-enclaves-image-format`.
const VERSION: &str = "0.2.1";

/// What every image has: of everything, of what boots, of the application.
const REGISTERS: [&str; 3] = ["PCR0", "PCR1", "PCR2"];

/// SHA-384 in hexadecimal digits.
const DIGITS: usize = 96;

/// Goes into the file's metadata, which no register measures: nothing of the moment there either.
const BUILD_TIME: &str = "1970-01-01T00:00:00Z";

/// The registers of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Measurements([String; 3]);

impl Measurements {
    /// Reads what `eif_build` printed: a line, then an object.
    fn read(output: &str) -> Result<Measurements, String> {
        let (_, object) = output.split_once('{').ok_or_else(|| format!("eif_build: no measurements in {output:?}"))?;
        let object: serde_json::Value =
            serde_json::from_str(&format!("{{{object}")).map_err(|error| format!("eif_build: {error}"))?;
        let mut registers = REGISTERS.map(str::to_owned);
        for register in &mut registers {
            let value = object.get(&*register).and_then(serde_json::Value::as_str).unwrap_or_default();
            // All zero is what a verifier sees of an enclave in debug mode; no image measures so.
            let is_digest = value.len() == DIGITS && value.chars().all(|digit| digit.is_ascii_hexdigit());
            if !is_digest || value.chars().all(|digit| digit == '0') {
                return Err(format!("eif_build: {register} is {value:?}, no SHA-384"));
            }
            value.clone_into(register);
        }
        Ok(Measurements(registers))
    }

    /// The registers that are not the same.
    pub(super) fn different(&self, other: &Measurements) -> Vec<String> {
        let both = REGISTERS.iter().zip(self.0.iter().zip(&other.0));
        both.filter(|(_, (one, two))| one != two)
            .map(|(name, (one, two))| format!("{name} ({one} and {two})"))
            .collect()
    }
}

impl fmt::Display for Measurements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        REGISTERS.iter().zip(&self.0).try_for_each(|(name, value)| writeln!(f, "{name}    {value}"))
    }
}

/// The program, built from its crate once.
pub(super) fn eif_build(target: &Path) -> Result<PathBuf, NotTested> {
    let root = target.join(format!("eif/eif_build-{VERSION}"));
    let program = root.join("bin/eif_build");
    if program.is_file() {
        return Ok(program);
    }
    let openssl = run::is_installed("pkg-config") && Line::new("pkg-config", ["--exists", "openssl"]).capture().is_ok();
    if !openssl {
        return Err(NotTested::Skipped(
            "eif_build takes OpenSSL: apt-get install --no-install-recommends libssl-dev pkg-config".to_owned(),
        ));
    }
    let line = cargo(["install", "--locked", "--quiet", "--version", VERSION, "--root"]);
    let line = line
        .args([root.as_os_str(), "eif_build".as_ref()])
        .variable("CARGO_TARGET_DIR", target.join("eif/eif_build-target"));
    line.run().map_err(|error| NotTested::Skipped(format!("eif_build is not to be had: {error}")))?;
    Ok(program)
}

/// Writes the image file from its parts.
pub(super) fn assemble(eif_build: &Path, image: &Image, name: &str) -> Result<Measurements, String> {
    let mut line = Line::new(eif_build, ["--arch", std::env::consts::ARCH, "--name", name, "--build-time", BUILD_TIME])
        .args(["--kernel".as_ref(), image.kernel.as_os_str(), "--output".as_ref(), image.eif.as_os_str()])
        .args(["--cmdline", &image.command_line]);
    for ramdisk in &image.ramdisks {
        line = line.args(["--ramdisk".as_ref(), ramdisk.as_os_str()]);
    }
    Measurements::read(&line.capture()?)
}

/// SHA-256 of a file.
pub(super) fn digest(file: &Path) -> Result<String, String> {
    let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(pcr1: &str) -> String {
        let (a, c) = ("a".repeat(DIGITS), "c".repeat(DIGITS));
        format!(
            "Output file: x.eif\n{{\n \"HashAlgorithm\": \"Sha384 {{ ... }}\",\n \"PCR0\": \"{a}\", \"PCR1\": \"{pcr1}\", \"PCR2\": \"{c}\"\n}}\n"
        )
    }

    #[test]
    fn what_is_printed_is_read_and_compared() {
        let one = Measurements::read(&output(&"b".repeat(DIGITS))).unwrap();
        let two = Measurements::read(&output(&"d".repeat(DIGITS))).unwrap();
        assert!(one.different(&one).is_empty());
        let different = one.different(&two);
        assert_eq!(different.len(), 1);
        assert!(different[0].starts_with("PCR1"), "{different:?}");
        assert!(one.to_string().contains(&format!("PCR2    {}", "c".repeat(DIGITS))));
    }

    #[test]
    fn what_is_no_measurement_is_refused() {
        for bad in ["", "b", &"0".repeat(DIGITS), &"x".repeat(DIGITS)] {
            let error = Measurements::read(&output(bad)).unwrap_err();
            assert!(error.contains("PCR1"), "{error}");
        }
        assert!(Measurements::read("panicked").is_err());
    }
}
