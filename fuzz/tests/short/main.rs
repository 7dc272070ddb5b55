//! The short run, for every day and on stable Rust: each target over its corpus, then over inputs invented from it with a
//! fixed seed. It has no eye for coverage; the long run (`cargo xtask fuzz`) has, and its finds are the corpus.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, its setup too, and tells what it met"
)]

mod dictionary;
mod invent;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use enclave_bridge_fuzz::{TARGETS, Target};

use self::invent::Inventor;

/// From which every invented input follows. Another one is tried with `FUZZ_SEED`.
const SEED: u64 = 0x656e_636c_6176_6500;

/// Invented inputs for each target, if [`TIME`] suffices.
const INPUTS: u32 = 20_000;

/// The time of one target, far above what it takes on an idle machine: a slow one tries less, and says how much.
const TIME: Duration = Duration::from_secs(5);

macro_rules! short_runs {
    ($($name:ident)*) => {
        $(#[test] fn $name() { short_run(stringify!($name)); })*

        #[test]
        fn every_target_has_a_short_run_a_corpus_and_a_dictionary() {
            let here: Vec<&str> = vec![$(stringify!($name)),*];
            assert_eq!(here, TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
            for target in TARGETS {
                assert!(!corpus(target).is_empty(), "{}: no corpus", target.name);
                assert!(!words(target).is_empty(), "{}: no dictionary", target.name);
            }
        }
    };
}

short_runs! {
    first_bytes handshake_host handshake_enclave line_reader settings environment beats nak target_line policy_rules
    policy_targets policy_addresses log_lines proxy_header hybrid_line records
}

fn short_run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(target);
    for (path, input) in &corpus {
        let _told = Told { target, what: path.display().to_string(), input };
        (target.run)(input);
    }
    let inputs = corpus.into_iter().map(|(_, input)| input).collect();
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration but this")]
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let mut inventor = Inventor::new(seed, inputs, words(target), target.max_len);
    let start = Instant::now();
    for number in 0..INPUTS {
        let input = inventor.invent();
        let what = format!("seed {seed}, input {number}");
        let _told = Told { target, what, input: &input };
        (target.run)(&input);
        if start.elapsed() > TIME {
            println!("{name}: {} of {INPUTS} inputs in {} s", number + 1, TIME.as_secs());
            break;
        }
    }
}

/// Tells which input it was when a target panics, and keeps it.
struct Told<'a> {
    target: &'a Target,
    what: String,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("fuzz-{}-{}", self.target.name, std::process::id()));
            let kept = match std::fs::write(&path, self.input) {
                Ok(()) => path.display().to_string(),
                Err(error) => format!("not kept: {error}"),
            };
            eprintln!("{}: {}: {kept}\n{}", self.target.name, self.what, self.input.escape_ascii());
        }
    }
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The committed inputs, in the order of their names.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder().join("corpus").join(target.name);
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// The words of the target's dictionary.
fn words(target: &Target) -> Vec<Vec<u8>> {
    let path = folder().join("dictionaries").join(format!("{}.dict", target.name));
    dictionary::read(&std::fs::read_to_string(path).unwrap()).unwrap()
}
