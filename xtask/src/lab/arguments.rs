//! What `cargo xtask lab` is told.

use enclave_bridge_lab::kernel::SERIES;
use std::fmt;

/// How the bridge and the enclave stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Both in one guest, over CID 1.
    Loopback,
    /// The bridge on this machine, the enclave in a guest.
    Hybrid,
    /// Each in a guest of its own.
    Pair,
}

impl Mode {
    const ALL: [Mode; 3] = [Mode::Loopback, Mode::Hybrid, Mode::Pair];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Loopback => "loopback",
            Mode::Hybrid => "hybrid",
            Mode::Pair => "pair",
        })
    }
}

/// One thing to be done on one kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task<'a> {
    Suites(Mode),
    Measure(&'a [String]),
}

impl fmt::Display for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Suites(mode) => mode.fmt(f),
            Task::Measure(words) => write!(f, "measure {}", words.join(" ")),
        }
    }
}

/// Everything that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    pub(crate) modes: Vec<Mode>,
    pub(crate) kernels: Vec<String>,
    /// The enclave image on QEMU's machine for it: another guest than the others', only where it is named.
    pub(crate) nitro: bool,
    pub(crate) install: bool,
    pub(crate) write_table: bool,
    /// Only the suites in which the socket matters most.
    pub(crate) quick: bool,
    /// Instead of tests: the words of a measurement.
    pub(crate) measure: Vec<String>,
    /// Names of tests, as cargo's test programs take them.
    pub(crate) tests: Vec<String>,
}

impl Arguments {
    pub(crate) fn parse(words: &[&str]) -> Result<Arguments, String> {
        let mut read = Arguments {
            modes: Vec::new(),
            kernels: Vec::new(),
            nitro: false,
            install: false,
            write_table: false,
            quick: false,
            measure: Vec::new(),
            tests: Vec::new(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word}: a value is missing"));
            match *word {
                "--mode" => {
                    let name = value()?;
                    if *name == "nitro" {
                        read.nitro = true;
                        continue;
                    }
                    let mode = Mode::ALL.into_iter().find(|mode| mode.to_string() == *name);
                    read.modes.push(mode.ok_or_else(|| format!("--mode {name}: no such mode"))?);
                }
                "--kernel" => {
                    let series = value()?;
                    if !SERIES.iter().any(|(known, _)| known == series) {
                        return Err(format!("--kernel {series}: none of\n{}", super::known_series()));
                    }
                    read.kernels.push((*series).to_owned());
                }
                "--install" => read.install = true,
                "--write-table" => read.write_table = true,
                "--quick" => read.quick = true,
                "--measure" => {
                    read.measure = words.by_ref().map(|word| (*word).to_owned()).collect();
                    if read.measure.is_empty() || read.measure.iter().any(|word| !is_test_name(word)) {
                        return Err("--measure: bench, idle, ready, restart or sigterm, and a number".to_owned());
                    }
                }
                "--" => {
                    read.tests = words.by_ref().map(|test| (*test).to_owned()).collect();
                    if let Some(bad) = read.tests.iter().find(|test| !is_test_name(test)) {
                        return Err(format!("{bad}: not the name of a test"));
                    }
                }
                _ => return Err(format!("{word}: unknown")),
            }
        }
        if read.kernels.is_empty() {
            read.kernels = SERIES.iter().map(|(series, _)| (*series).to_owned()).collect();
        }
        Ok(read)
    }

    /// Loopback on every kernel and hybrid on the newest, within ten minutes.
    pub(crate) fn for_ci() -> Arguments {
        let kernels = SERIES.iter().map(|(series, _)| (*series).to_owned()).collect();
        Arguments {
            modes: Vec::new(),
            kernels,
            nitro: false,
            install: false,
            write_table: false,
            quick: true,
            measure: Vec::new(),
            tests: Vec::new(),
        }
    }

    /// Whether figures are wanted, and no tests.
    pub(crate) fn measures(&self) -> bool {
        !self.measure.is_empty()
    }

    /// Whether the bench is among what is measured.
    pub(crate) fn benches(&self) -> bool {
        self.measure.first().is_some_and(|what| what == "bench")
    }

    /// What is to be done on a kernel.
    pub(crate) fn tasks_on(&self, series: &str) -> Vec<Task<'_>> {
        if self.measures() {
            return vec![Task::Measure(&self.measure)];
        }
        self.modes_on(series).into_iter().map(Task::Suites).collect()
    }

    /// The modes for a kernel: those that were named, else all; pair runs on the newest kernel only unless it was named.
    fn modes_on(&self, series: &str) -> Vec<Mode> {
        if !self.modes.is_empty() {
            return self.modes.clone();
        }
        let newest = SERIES.last().is_some_and(|(newest, _)| *newest == series);
        let wanted = |mode: &Mode| match mode {
            Mode::Loopback => true,
            Mode::Hybrid => newest || !self.quick,
            Mode::Pair => newest && !self.quick,
        };
        Mode::ALL.into_iter().filter(wanted).collect()
    }
}

/// Names of tests go through a shell in the guest.
fn is_test_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_words_everything_is_run() {
        let arguments = Arguments::parse(&[]).unwrap();
        assert_eq!(arguments.kernels, ["6.1", "6.12"]);
        assert_eq!(arguments.modes_on("6.1"), [Mode::Loopback, Mode::Hybrid]);
        assert_eq!(arguments.modes_on("6.12"), Mode::ALL);
    }

    #[test]
    fn every_change_is_tried_on_both_kernels_and_once_between_two_machines() {
        let arguments = Arguments::for_ci();
        assert_eq!(arguments.modes_on("6.1"), [Mode::Loopback]);
        assert_eq!(arguments.modes_on("6.12"), [Mode::Loopback, Mode::Hybrid]);
    }

    #[test]
    fn words_narrow_it_down() {
        let words = ["--mode", "pair", "--kernel", "6.1", "--", "half_close"];
        let arguments = Arguments::parse(&words).unwrap();
        assert_eq!(arguments.kernels, ["6.1"]);
        assert_eq!(arguments.modes_on("6.1"), [Mode::Pair]);
        assert_eq!(arguments.tests, ["half_close"]);
    }

    #[test]
    fn the_image_is_booted_where_it_is_named() {
        assert!(!Arguments::parse(&[]).unwrap().nitro);
        let arguments = Arguments::parse(&["--mode", "nitro"]).unwrap();
        assert!(arguments.nitro && arguments.modes.is_empty());
    }

    #[test]
    fn a_measurement_takes_the_place_of_the_suites() {
        let arguments = Arguments::parse(&["--kernel", "6.12", "--measure", "bench", "5"]).unwrap();
        assert!(arguments.measures() && arguments.benches());
        assert!(matches!(arguments.tasks_on("6.12").as_slice(), [Task::Measure(words)] if words.len() == 2));
        assert!(!Arguments::parse(&["--measure", "idle", "10000"]).unwrap().benches());
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        for (words, part) in [
            (&["--mode", "trio"][..], "trio"),
            (&["--kernel", "5.10"], "5.10"),
            (&["--kernel"], "value"),
            (&["loopback"], "loopback"),
            (&["--", "a; reboot"], "a; reboot"),
            (&["--measure"], "--measure"),
            (&["--measure", "idle", "$(reboot)"], "--measure"),
        ] {
            let error = Arguments::parse(words).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
