//! What a run leaves: one row for each test, target and round, and where and with what it was measured.

use crate::stats::{Estimate, estimate, ratios};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Counted from 0.
    pub(crate) round: u32,
    /// The test.
    pub(crate) test: String,
    /// The target.
    pub(crate) target: String,
    /// Values by metric; none of a void one.
    pub(crate) values: BTreeMap<String, f64>,
    /// Why it is void: bytes that were lost, or a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) void: Option<String>,
    /// The share of the machine that was busy meanwhile, 0 to 1.
    pub(crate) busy: f64,
    /// The load average of the last minute.
    pub(crate) load: f64,
}

/// A target as the reader has to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Its name in the rows.
    pub(crate) name: String,
    /// What it is.
    pub(crate) version: String,
    /// How it was set.
    pub(crate) settings: String,
}

/// Where and how it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The day, UTC.
    pub(crate) date: String,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Processors.
    pub(crate) cores: usize,
    /// Their model.
    pub(crate) processor: String,
    /// The commit of the sources, where git knows it.
    pub(crate) commit: String,
    /// The arguments of this program.
    pub(crate) arguments: String,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// `hybrid`, or `vsock` in a guest.
    pub(crate) transport: String,
    /// What a reader has to know before the figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// Where and how.
    pub(crate) place: Place,
    /// What was measured.
    pub(crate) targets: Vec<Told>,
    /// What could not be, and why.
    pub(crate) left_out: Vec<String>,
    /// Everything that was measured.
    pub(crate) rows: Vec<Row>,
}

impl Run {
    /// A metric by round. Empty where any round of this test and target is void: such a result is no result.
    pub(crate) fn by_round(&self, test: &str, target: &str, metric: &str) -> BTreeMap<u32, f64> {
        if self.void(test, target).is_some() {
            return BTreeMap::new();
        }
        let rows = self.of(test, target);
        rows.filter_map(|row| row.values.get(metric).map(|value| (row.round, *value))).collect()
    }

    /// Median and interval of a metric.
    pub(crate) fn value(&self, test: &str, target: &str, metric: &str) -> Option<Estimate> {
        let values: Vec<f64> = self.by_round(test, target, metric).into_values().collect();
        estimate(&values)
    }

    /// Median and interval of the ratios within the rounds.
    pub(crate) fn ratio(&self, test: &str, target: &str, against: &str, metric: &str) -> Option<Estimate> {
        estimate(&ratios(&self.by_round(test, target, metric), &self.by_round(test, against, metric)))
    }

    /// Why the result of this test and target is void, if it is.
    pub(crate) fn void(&self, test: &str, target: &str) -> Option<&str> {
        let of = |row: &&Row| row.test == test && row.target == target;
        self.rows.iter().filter(of).find_map(|row| row.void.as_deref())
    }

    /// The tests that there are rows of, in the order of their first.
    pub(crate) fn tests(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !names.contains(&row.test.as_str()) {
                names.push(&row.test);
            }
        }
        names
    }

    /// Rounds of a test.
    pub(crate) fn rounds(&self, test: &str) -> u32 {
        self.rows.iter().filter(|row| row.test == test).map(|row| row.round + 1).max().unwrap_or(0)
    }

    /// The target that the others are compared with where no gate says otherwise; of a run that was narrowed down, the
    /// bridge or no relay at all.
    pub(crate) fn yardstick(&self) -> &'static str {
        let measured = |name: &&str| self.targets.iter().any(|target| target.name == **name);
        let wanted: &[&'static str] = if self.transport == "vsock" { &["direct"] } else { &["haproxy", "bridge"] };
        wanted.iter().copied().find(measured).unwrap_or("direct")
    }

    /// Rows that are void.
    pub(crate) fn voids(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.void.is_some())
    }

    /// The run as lines of JSON, none of them long: everything else, then a line for each row. A guest's console cuts
    /// long lines.
    pub(crate) fn lines(&self) -> io::Result<String> {
        let head = Run { rows: Vec::new(), ..self.clone() };
        let mut text = serde_json::to_string(&head)? + "\n";
        for row in &self.rows {
            text.push_str(&serde_json::to_string(row)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// The run of a file, or of such lines amid other output.
    pub(crate) fn parse(text: &str) -> Option<Run> {
        if let Ok(run) = serde_json::from_str(text) {
            return Some(run);
        }
        let mut lines = text.lines().map(str::trim_end);
        let mut run: Run = lines.find_map(|line| serde_json::from_str(line).ok())?;
        run.rows.extend(lines.filter_map(|line| serde_json::from_str::<Row>(line).ok()));
        Some(run)
    }

    fn of<'a>(&'a self, test: &'a str, target: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.test == test && row.target == target)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of three targets with noise that is common to a round.
    pub(crate) fn example() -> Run {
        let mut rows = Vec::new();
        for round in 0..9 {
            let noise = 1.0 + f64::from(round * 5 % 7) / 4.0;
            for (target, cpu) in [("direct", None), ("bridge", Some(0.4)), ("haproxy", Some(0.8))] {
                let mut values = BTreeMap::from([("gbit_s".to_owned(), 8.0 / noise)]);
                values.extend(cpu.map(|cpu| ("cpu_s_gib".to_owned(), cpu * noise)));
                let row = Row {
                    round,
                    test: "bulk-up".to_owned(),
                    target: target.to_owned(),
                    values,
                    void: None,
                    busy: 0.75,
                    load: 1.5,
                };
                rows.push(row);
            }
        }
        let told = |name: &str| Told { name: name.to_owned(), version: "v".to_owned(), settings: "s".to_owned() };
        Run {
            transport: "hybrid".to_owned(),
            note: None,
            place: Place {
                date: "2026-01-02".to_owned(),
                kernel: "6.12".to_owned(),
                cores: 2,
                processor: "a processor".to_owned(),
                commit: "0123456".to_owned(),
                arguments: "--rounds 9".to_owned(),
            },
            targets: vec![told("direct"), told("bridge"), told("haproxy")],
            left_out: Vec::new(),
            rows,
        }
    }

    #[test]
    fn noise_that_all_targets_of_a_round_share_is_not_in_the_ratio() {
        let ratio = example().ratio("bulk-up", "bridge", "haproxy", "cpu_s_gib").unwrap();
        assert!((ratio.median - 0.5).abs() < 1e-9 && (ratio.high - ratio.low).abs() < 1e-9, "{ratio:?}");
        let value = example().value("bulk-up", "bridge", "cpu_s_gib").unwrap();
        assert!(value.high > value.low, "{value:?}");
    }

    #[test]
    fn a_narrow_run_is_compared_with_what_it_has() {
        let mut run = example();
        assert_eq!(run.yardstick(), "haproxy");
        run.targets.retain(|target| target.name != "haproxy");
        assert_eq!(run.yardstick(), "bridge");
        run.transport = "vsock".to_owned();
        assert_eq!(run.yardstick(), "direct");
    }

    #[test]
    fn one_void_round_voids_the_result_and_every_ratio_with_it() {
        let mut run = example();
        run.rows[1].void = Some("bulk up: 5 bytes arrived of 6".to_owned());
        assert_eq!(run.value("bulk-up", "bridge", "gbit_s"), None);
        assert_eq!(run.ratio("bulk-up", "bridge", "haproxy", "gbit_s"), None);
        assert!(run.value("bulk-up", "haproxy", "gbit_s").is_some());
        assert_eq!(run.voids().count(), 1);
    }

    #[test]
    fn a_run_comes_back_from_its_file() {
        let mut run = example();
        // The others have values that decimal digits do not hold exactly.
        run.rows.truncate(3);
        run.rows[0].void = Some("x".to_owned());
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(Run::parse(&text).unwrap(), run);
        let console = format!("a table\n{{ not ours }}\n{}\r\nthe end\n", run.lines().unwrap().replace('\n', "\r\n"));
        assert_eq!(Run::parse(&console).unwrap(), run);
        assert_eq!(Run::parse("nothing"), None);
    }
}
