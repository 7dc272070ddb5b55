//! The command line.

use crate::plan;
use crate::targets::{self, Upstream};
use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::path::PathBuf;
use std::time::Duration;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    /// Measure over loopback and Unix sockets.
    Run(Wanted),
    /// Measure over AF_VSOCK in a guest.
    Vsock(Wanted),
    /// Show and write a run that was measured earlier.
    Report {
        /// The rows.
        file: PathBuf,
        /// Into the documents too.
        write: bool,
        /// What a reader has to know first, where the run does not say it.
        note: Option<String>,
    },
    /// Be the imitation.
    Relay {
        /// Bytes of each direction's buffer.
        buffer: usize,
        /// The TCP port of loopback.
        listen: u16,
        /// The enclave.
        upstream: Upstream,
        /// The socket of egress, and the world's port.
        egress: Option<(PathBuf, u16)>,
    },
}

/// What is to be measured, and how long.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Rounds of the timed tests.
    pub(crate) rounds: u32,
    /// Rounds of the others.
    pub(crate) memory_rounds: u32,
    /// Of one timed measurement.
    pub(crate) lasting: Duration,
    /// How long stalled readers are watched.
    pub(crate) stalled_for: Duration,
    /// Connections of the idle tests.
    pub(crate) connections: usize,
    /// The bridge's program.
    pub(crate) bridge: Option<PathBuf>,
    /// Files of results, without their extension.
    pub(crate) output: Option<PathBuf>,
    /// Into the documents too.
    pub(crate) write: bool,
    /// What a reader has to know before the figures.
    pub(crate) note: Option<String>,
    /// The arguments as they came.
    pub(crate) told: String,
    tests: Vec<String>,
    targets: Vec<String>,
}

impl Wanted {
    /// Whether a test is to be run; all of them where none is named.
    pub(crate) fn wants_test(&self, name: &str) -> bool {
        self.tests.is_empty() || self.tests.iter().any(|wanted| wanted == name)
    }

    /// Whether a target is to be measured, likewise.
    pub(crate) fn wants_target(&self, name: &str) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|wanted| wanted == name)
    }
}

/// Reads the command line, or ends with its usage.
pub(crate) fn read() -> Command {
    taken(&command().get_matches(), std::env::args().skip(1))
}

fn taken(matches: &ArgMatches, told: impl Iterator<Item = String>) -> Command {
    let told = without_places(told);
    match matches.subcommand() {
        Some(("vsock", matches)) => Command::Vsock(wanted(matches, told)),
        Some(("report", matches)) => Command::Report {
            file: matches.get_one("file").cloned().unwrap_or_default(),
            write: matches.get_flag("write-spec"),
            note: matches.get_one("note").cloned(),
        },
        Some(("relay", matches)) => {
            let unix = matches.get_one::<PathBuf>("unix").cloned().map(Upstream::Unix);
            let vsock = matches.get_one::<u32>("vsock").copied().map(Upstream::Vsock);
            let egress = matches.get_one::<PathBuf>("egress").cloned();
            Command::Relay {
                buffer: matches.get_one("buffer").copied().unwrap_or(1024),
                listen: matches.get_one("listen").copied().unwrap_or(0),
                upstream: unix.or(vsock).unwrap_or(Upstream::Vsock(0)),
                egress: egress.zip(matches.get_one::<u16>("world").copied()),
            }
        }
        _ => Command::Run(wanted(matches, told)),
    }
}

/// The arguments that a reader needs to do it again: not where files were, and what stands elsewhere.
fn without_places(told: impl Iterator<Item = String>) -> String {
    const PLACES: [&str; 3] = ["--bridge", "--output", "--note"];
    let (mut kept, mut value_of_place) = (Vec::new(), false);
    for word in told {
        let name = word.split('=').next().unwrap_or_default();
        let is_place = PLACES.contains(&name);
        if !is_place && !value_of_place && word != "--write-spec" {
            kept.push(word.clone());
        }
        value_of_place = is_place && !word.contains('=');
    }
    kept.join(" ")
}

fn wanted(matches: &ArgMatches, told: String) -> Wanted {
    let list = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
    let number = |name: &str| matches.get_one::<u32>(name).copied().unwrap_or(1);
    Wanted {
        rounds: number("rounds"),
        memory_rounds: number("memory-rounds"),
        lasting: Duration::from_secs_f64(matches.get_one::<f64>("seconds").copied().unwrap_or(0.25)),
        stalled_for: Duration::from_secs(number("stalled-seconds").into()),
        connections: matches.get_one("connections").copied().unwrap_or(1),
        bridge: matches.get_one("bridge").cloned(),
        output: matches.get_one("output").cloned(),
        write: matches.get_flag("write-spec"),
        note: matches.get_one("note").cloned(),
        told,
        tests: list("tests"),
        targets: list("targets"),
    }
}

fn command() -> clap::Command {
    let tests: Vec<&str> = plan::TESTS.iter().chain(plan::OVER_VSOCK).map(|test| test.name).collect();
    let names: Vec<&str> = targets::ALL.iter().chain(targets::OVER_VSOCK).map(|(name, _)| *name).collect();
    let lines: String = plan::TESTS.iter().map(|test| format!("  {:<16} {}\n", test.name, test.about)).collect();
    let write = Arg::new("write-spec")
        .long("write-spec")
        .action(ArgAction::SetTrue)
        .help("writes the tables into SPECIFICATION.md and README.md and the chart to docs/bench.svg");
    let note = Arg::new("note").long("note").help("stands before the figures, such as: on a busy machine");
    let common = [
        count("rounds", "20", 1000).help("rounds of the timed tests; every round visits every target"),
        Arg::new("seconds")
            .long("seconds")
            .default_value("0.25")
            .value_parser(seconds)
            .help("of one timed measurement"),
        count("memory-rounds", "3", 100)
            .help("rounds of the tests of memory and system calls, each with fresh processes"),
        Arg::new("connections")
            .long("connections")
            .default_value("10000")
            .value_parser(RangedU64ValueParser::<usize>::new().range(1..=10_000))
            .help("of the idle tests; fewer where the limit of descriptors is lower"),
        count("stalled-seconds", "5", 600).help("how long stalled readers are watched"),
        names_of("tests", &tests).help("only these, by comma"),
        names_of("targets", &names).help("only these, by comma"),
        Arg::new("bridge")
            .long("bridge")
            .value_parser(value_parser!(PathBuf))
            .help("the program; built where it is not given"),
        Arg::new("output")
            .long("output")
            .value_parser(value_parser!(PathBuf))
            .help("where the rows (.json) and the chart (.svg) go; target/bench-bridge where it is not given"),
        write.clone(),
        note.clone(),
    ];
    clap::Command::new("bench-bridge")
        .about("The bridge side by side with other relays, on loopback and Unix sockets")
        .after_help(format!("Tests:\n{lines}"))
        .args_conflicts_with_subcommands(true)
        .args(common.clone())
        .subcommand(clap::Command::new("vsock").about("Over AF_VSOCK, in a guest of the lab").args(common))
        .subcommand(
            clap::Command::new("report")
                .about("Shows the tables of a file of rows")
                .arg(Arg::new("file").required(true).value_parser(value_parser!(PathBuf)))
                .arg(write)
                .arg(note),
        )
        .subcommand(relay())
}

/// How the bench starts itself as a target.
fn relay() -> clap::Command {
    let path = |name: &'static str| Arg::new(name).long(name).value_parser(value_parser!(PathBuf));
    clap::Command::new("relay").hide(true).args([
        Arg::new("buffer")
            .long("buffer")
            .required(true)
            .value_parser(RangedU64ValueParser::<usize>::new().range(1..=1 << 20)),
        Arg::new("listen").long("listen").required(true).value_parser(value_parser!(u16)),
        path("unix").required_unless_present("vsock"),
        Arg::new("vsock").long("vsock").value_parser(value_parser!(u32)),
        path("egress").requires("world"),
        Arg::new("world").long("world").value_parser(value_parser!(u16)),
    ])
}

fn count(name: &'static str, default: &'static str, most: i64) -> Arg {
    Arg::new(name).long(name).default_value(default).value_parser(value_parser!(u32).range(1..=most))
}

fn names_of(name: &'static str, known: &[&str]) -> Arg {
    let mut known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    known.sort();
    known.dedup();
    Arg::new(name).long(name).value_delimiter(',').value_parser(clap::builder::PossibleValuesParser::new(known))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.05..=60.0).contains(&number) => Ok(number),
        _ => Err("from 0.05 to 60".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Command, clap::Error> {
        let words = std::iter::once("bench-bridge").chain(words.iter().copied());
        command().try_get_matches_from(words).map(|matches| taken(&matches, std::iter::empty()))
    }

    #[test]
    fn without_words_everything_is_measured() {
        let Command::Run(wanted) = parse(&[]).unwrap() else { panic!("not a run") };
        assert_eq!((wanted.rounds, wanted.memory_rounds, wanted.connections), (20, 3, 10_000));
        assert!(plan::TESTS.iter().all(|test| wanted.wants_test(test.name)));
        assert!(targets::ALL.iter().all(|(name, _)| wanted.wants_target(name)));
    }

    #[test]
    fn words_narrow_it_down_and_unknown_names_are_refused() {
        let Command::Run(wanted) = parse(&["--tests", "short,mixed", "--targets", "bridge", "--seconds", "1"]).unwrap()
        else {
            panic!("not a run")
        };
        assert!(wanted.wants_test("mixed") && !wanted.wants_test("idle"));
        assert!(wanted.wants_target("bridge") && !wanted.wants_target("nginx"));
        assert_eq!(wanted.lasting, Duration::from_secs(1));
        for words in [&["--tests", "speed"][..], &["--targets", "envoy"], &["--rounds", "0"], &["--seconds", "1e9"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn where_files_were_is_not_told() {
        let words =
            ["--bridge", "/a/b", "--rounds", "3", "--output=/c", "--note", "a b", "--write-spec", "--seconds=1"];
        assert_eq!(without_places(words.into_iter().map(str::to_owned)), "--rounds 3 --seconds=1");
    }

    #[test]
    fn the_bench_starts_itself_as_a_relay() {
        let words = ["relay", "--buffer", "1024", "--listen", "80", "--unix", "/a", "--egress", "/b", "--world", "81"];
        let Command::Relay { buffer, listen, upstream, egress } = parse(&words).unwrap() else { panic!("no relay") };
        assert_eq!((buffer, listen, upstream), (1024, 80, Upstream::Unix("/a".into())));
        assert_eq!(egress, Some(("/b".into(), 81)));
    }
}
