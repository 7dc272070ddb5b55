//! `cargo xtask fuzz`: the long run of the fuzz targets under a coverage-guided engine, one target after the other.

use crate::ci::target_folder;
use crate::run::{self, cargo};
use enclave_bridge_fuzz::{TARGETS, Target};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

const USAGE: &str = "\
usage: cargo xtask fuzz [OPTIONS]

  --executions N   inputs tried for each target (1000000)
  --target NAME    only this one; may be given again
  --seed N         what the engine's choices follow from (1)
  --minimise       afterwards the committed corpus becomes the smallest that reaches what was reached
";

/// What the compiler is told, so that the engine sees which edges an input takes and what it is compared with. Stable Rust
/// takes it.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer is a hang: a thousand times what the slowest takes on a loaded machine.
const HANG_SECONDS: u32 = 20;

/// What the whole process may have resident, corpus and engine included: a few times what it has when nothing leaks.
const RESIDENT_MAX_MIB: u32 = 256;

/// What of a corpus is committed, the shortest inputs first: enough for the short run, little enough to clone.
const COMMITTED_FILES_MAX: usize = 250;
const COMMITTED_BYTES_MAX: u64 = 60 * 1024;

/// What the names of inputs that once failed begin with.
const FOUND: &str = "found-";

struct Arguments {
    executions: u64,
    targets: Vec<&'static Target>,
    seed: u64,
    minimise: bool,
}

/// Runs the targets that were asked for.
pub(crate) fn main(words: &[&str]) -> ExitCode {
    let arguments = match parse(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprint!("{error}\n\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    let results = Engine::build().and_then(|engine| {
        println!(
            "{:<18} {:>12} {:>9} {:>7} {:>8} {:>7}  result",
            "target", "executions", "per s", "s", "edges", "kept"
        );
        let mut failed = 0_u32;
        for target in &arguments.targets {
            if !engine.run(target, &arguments)? {
                failed += 1;
            } else if arguments.minimise {
                engine.minimise(target)?;
            }
        }
        Ok(failed)
    });
    match results {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{failed} targets failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[&str]) -> Result<Arguments, String> {
    let mut read = Arguments { executions: 1_000_000, targets: Vec::new(), seed: 1, minimise: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word}: a value is missing"));
        let number = |text: &str| text.parse().map_err(|_| format!("{word}: {text} is not a number"));
        match *word {
            "--executions" => read.executions = number(value()?)?,
            "--seed" => read.seed = number(value()?)?,
            "--minimise" => read.minimise = true,
            "--target" => {
                let name = value()?;
                let found = TARGETS.iter().find(|target| target.name == *name);
                read.targets.push(found.ok_or_else(|| {
                    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                    format!("--target {name}: there are {}", names.join(", "))
                })?);
            }
            _ => return Err(format!("{word}: not an option")),
        }
    }
    if read.targets.is_empty() {
        read.targets = TARGETS.iter().collect();
    }
    Ok(read)
}

/// The program that was built, and where it leaves what it finds.
struct Engine {
    program: PathBuf,
    folder: PathBuf,
}

impl Engine {
    /// Builds the targets with coverage, in a folder of their own.
    fn build() -> Result<Engine, String> {
        let folder = target_folder()?.join("fuzz-engine");
        let host = host()?;
        let arguments =
            ["build", "--package", "enclave-bridge-fuzz", "--bin", "fuzz-engine", "--features", "libfuzzer"];
        // With a target given, build scripts are not covered.
        cargo(arguments)
            .args(["--profile", "fuzz", "--locked", "--target", &host])
            .variable("RUSTFLAGS", COVERAGE)
            .variable("CARGO_TARGET_DIR", &folder)
            .run()?;
        let program = folder.join(host).join("fuzz").join("fuzz-engine");
        Ok(Engine { program, folder })
    }

    /// One target; whether it held.
    fn run(&self, target: &Target, arguments: &Arguments) -> Result<bool, String> {
        let (corpus, log) = (self.corpus(target), self.folder.join(format!("{}.log", target.name)));
        fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
        let start = Instant::now();
        let options = [
            format!("-runs={}", arguments.executions),
            format!("-seed={}", arguments.seed),
            format!("-dict={}", own("dictionaries").join(format!("{}.dict", target.name)).display()),
            "-print_final_stats=1".to_owned(),
        ];
        let folders = [corpus.clone(), committed(target)];
        let succeeded = self.engine(target, &options, &folders, &log)?;
        let seconds = start.elapsed().as_secs();

        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let stat = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map_or("?", str::trim).to_owned();
        let found = text.lines().find_map(|line| line.split("Test unit written to ").nth(1));
        let result = match (succeeded, found) {
            (true, _) => "held".to_owned(),
            (false, Some(input)) => format!("FAILED: {input}"),
            (false, None) => format!("FAILED: see {}", log.display()),
        };
        println!(
            "{:<18} {:>12} {:>9} {:>7} {:>8} {:>7}  {result}",
            target.name,
            stat("stat::number_of_executed_units:"),
            stat("stat::average_exec_per_sec:"),
            seconds,
            edges(&text),
            entries(&corpus),
        );
        Ok(succeeded)
    }

    /// Puts the smallest corpus that reaches what was reached in the place of the committed one.
    fn minimise(&self, target: &Target) -> Result<(), String> {
        let (committed, merged) = (committed(target), self.folder.join("merged").join(target.name));
        let named = |error: std::io::Error| format!("{}: {error}", merged.display());
        if merged.exists() {
            fs::remove_dir_all(&merged).map_err(named)?;
        }
        fs::create_dir_all(&merged).map_err(named)?;
        let log = self.folder.join(format!("{}.merge.log", target.name));
        let folders = [merged.clone(), committed.clone(), self.corpus(target)];
        if !self.engine(target, &["-merge=1".to_owned()], &folders, &log)? {
            return Err(format!("{}: not minimised: see {}", target.name, log.display()));
        }
        let mut inputs: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&merged).map_err(named)? {
            let entry = entry.map_err(named)?;
            inputs.push((entry.metadata().map_err(named)?.len(), entry.path()));
        }
        inputs.sort();
        let (reached, mut bytes) = (inputs.len(), 0_u64);
        inputs.truncate(COMMITTED_FILES_MAX);
        for entry in fs::read_dir(&committed).map_err(named)? {
            let entry = entry.map_err(named)?;
            // What once failed is tried for ever.
            if !entry.file_name().to_string_lossy().starts_with(FOUND) {
                fs::remove_file(entry.path()).map_err(named)?;
            }
        }
        let mut kept = 0_usize;
        for (length, path) in inputs {
            bytes = bytes.saturating_add(length);
            if bytes > COMMITTED_BYTES_MAX {
                break;
            }
            let name = path.file_name().unwrap_or_default();
            fs::copy(&path, committed.join(name)).map_err(named)?;
            kept += 1;
        }
        println!("{:<18} {kept} of {reached} inputs are the corpus", target.name);
        Ok(())
    }

    /// Runs the engine with its output in `log`.
    fn engine(&self, target: &Target, options: &[String], folders: &[PathBuf], log: &Path) -> Result<bool, String> {
        let named = |error: std::io::Error| format!("{}: {error}", log.display());
        let output = File::create(log).map_err(named)?;
        let found = self.folder.join("found");
        fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
        let always = [
            format!("-max_len={}", target.max_len),
            format!("-timeout={HANG_SECONDS}"),
            format!("-rss_limit_mb={RESIDENT_MAX_MIB}"),
            format!("-artifact_prefix={}/{}-", found.display(), target.name),
        ];
        let line =
            run::Line::new(&self.program, always).args(options).args(folders).variable("FUZZ_TARGET", target.name);
        let status = line
            .command()
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(named)?)
            .stderr(output)
            .status()
            .map_err(|error| format!("{line}: {error}"))?;
        Ok(status.success())
    }

    /// Where the engine keeps what it finds new, from one run to the next.
    fn corpus(&self, target: &Target) -> PathBuf {
        self.folder.join("corpus").join(target.name)
    }
}

fn own(name: &str) -> PathBuf {
    run::root().join("fuzz").join(name)
}

fn committed(target: &Target) -> PathBuf {
    own("corpus").join(target.name)
}

/// The triple of this machine, as rustc says it.
fn host() -> Result<String, String> {
    let said = run::Line::new("rustc", ["-vV"]).capture()?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV: no host".to_owned())
}

/// The edges that were reached, as the engine's last line about it says.
fn edges(log: &str) -> &str {
    let last = log.lines().rev().find_map(|line| line.split(" cov: ").nth(1));
    last.and_then(|rest| rest.split(' ').next()).unwrap_or("?")
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_and_refused() {
        let read = parse(&["--executions", "5", "--target", "beats", "--target", "nak", "--seed", "7"]).unwrap();
        let names: Vec<&str> = read.targets.iter().map(|target| target.name).collect();
        assert_eq!((read.executions, read.seed, read.minimise, names), (5, 7, false, vec!["beats", "nak"]));
        assert_eq!(parse(&[]).unwrap().targets.len(), TARGETS.len());
        for words in [&["--target", "none"][..], &["--executions"], &["--executions", "x"], &["more"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_engines_last_word_about_edges() {
        assert_eq!(edges("#2 INITED cov: 3 ft: 4\n#9 NEW cov: 12 ft: 14 corp: 2/3b\nDone\n"), "12");
        assert_eq!(edges(""), "?");
    }
}
