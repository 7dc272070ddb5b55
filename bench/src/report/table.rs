//! Tables of text: what was measured, and how the promises stand.

use super::spelled;
use crate::gates::{Judged, judge};
use crate::plan::{METRICS, Metric, OVER_VSOCK, TESTS};
use crate::rows::Run;

/// Everything that was measured, for a terminal.
pub(crate) fn tables(run: &Run) -> String {
    let mut text = head(run);
    for name in run.tests() {
        let about = TESTS.iter().chain(OVER_VSOCK).find(|test| test.name == name).map_or("", |test| test.about);
        let rounds = run.rounds(name);
        write_line(&mut text, &format!("\n{name}: {about} ({rounds} rounds; medians [95 % intervals])"));
        text.push_str(&aligned(&of_test(run, name)));
    }
    let voids: Vec<String> = run
        .voids()
        .map(|row| {
            let why = row.void.as_deref().unwrap_or_default();
            format!("void: {} of {} in round {}: {why}", row.test, row.target, row.round + 1)
        })
        .collect();
    if !voids.is_empty() {
        write_line(&mut text, &format!("\n{}", voids.join("\n")));
    }
    text
}

/// How the promises stand, for a terminal.
pub(crate) fn gates(run: &Run) -> String {
    format!("\ngates and aims (medians of ratios within rounds [95 % intervals])\n{}", aligned(&gate_rows(run)))
}

/// The machine, the peers, and what was left out.
fn head(run: &Run) -> String {
    let mut text = String::new();
    if let Some(note) = &run.note {
        write_line(&mut text, note);
    }
    write_line(&mut text, &machine(run));
    for target in &run.targets {
        write_line(&mut text, &format!("  {:<12} {}; {}", target.name, target.version, target.settings));
    }
    for left_out in &run.left_out {
        write_line(&mut text, &format!("  left out: {left_out}"));
    }
    text
}

/// The machine in a line.
pub(super) fn machine(run: &Run) -> String {
    let place = &run.place;
    let (busy, load) = state(run);
    format!(
        "{}, commit {}, {}, {} cores, Linux {}, transport {}; machine {:.0} % busy during measurements, load average {:.1} (medians); arguments: {}",
        place.date,
        place.commit,
        place.processor,
        place.cores,
        place.kernel,
        run.transport,
        busy * 100.0,
        load,
        if place.arguments.is_empty() { "none" } else { &place.arguments }
    )
}

fn state(run: &Run) -> (f64, f64) {
    let of = |value: fn(&crate::rows::Row) -> f64| {
        let values: Vec<f64> = run.rows.iter().map(value).collect();
        crate::stats::median(&values).unwrap_or(0.0)
    };
    (of(|row| row.busy), of(|row| row.load))
}

/// A row for each target, a column for each metric and its ratio to the yardstick.
fn of_test(run: &Run, test: &str) -> Vec<Vec<String>> {
    let shown: Vec<&Metric> = METRICS
        .iter()
        .filter(|metric| run.targets.iter().any(|target| run.value(test, &target.name, metric.name).is_some()))
        .collect();
    let mut rows = vec![vec![String::new()]];
    for metric in &shown {
        if let Some(head) = rows.first_mut() {
            head.push(metric.title.to_owned());
            if is_compared(metric) {
                head.push(format!("× {}", run.yardstick()));
            }
        }
    }
    for target in &run.targets {
        let mut row = vec![target.name.clone()];
        for metric in &shown {
            let value = run.value(test, &target.name, metric.name);
            row.push(value.map_or_else(|| "–".to_owned(), |value| spelled(value, metric.digits)));
            if is_compared(metric) {
                let ratio = run.ratio(test, &target.name, run.yardstick(), metric.name);
                row.push(ratio.map_or_else(|| "–".to_owned(), |ratio| spelled(ratio, 2)));
            }
        }
        if row.iter().skip(1).any(|cell| cell != "–") {
            rows.push(row);
        }
    }
    rows
}

/// Counts, and what may be about nothing, have no sensible ratio.
fn is_compared(metric: &Metric) -> bool {
    !matches!(metric.name, "connections" | "growth_kib" | "held_kib_conn")
}

/// The promises as rows, with a head.
pub(super) fn gate_rows(run: &Run) -> Vec<Vec<String>> {
    let head = ["promise", "test", "gate", "aim", "measured", "gate is", "aim is"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(judge(run).iter().map(gate_row));
    rows
}

fn gate_row(judged: &Judged) -> Vec<String> {
    let gate = judged.gate;
    let digits = match gate.against {
        crate::gates::Against::Itself => Metric::named(gate.metric).map_or(2, |metric| metric.digits),
        crate::gates::Against::Target(_) | crate::gates::Against::Smaller(..) => 2,
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    vec![
        gate.what.to_owned(),
        gate.test.to_owned(),
        gate.spell(gate.gate),
        or_dash(gate.aim.map(|aim| gate.spell(aim))),
        or_dash(judged.measured.map(|measured| spelled(measured, digits))),
        judged.verdict.to_string(),
        or_dash(judged.aim.map(|aim| aim.to_string())),
    ]
}

/// Columns under each other, two spaces apart.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            line.push(' ');
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 1 - cell.chars().count()));
        }
        write_line(&mut text, line.trim_end());
    }
    text
}

fn write_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::example;

    #[test]
    fn a_table_shows_values_ratios_and_voids() {
        let mut run = example();
        run.left_out.push("nginx is not installed".to_owned());
        let text = tables(&run);
        assert!(text.contains("0.50 [0.50–0.50]"), "{text}");
        assert!(text.contains("left out: nginx"), "{text}");
        run.rows[2].void = Some("bulk up: 5 bytes arrived of 6".to_owned());
        let text = tables(&run);
        assert!(text.contains("void: bulk-up of haproxy in round 1: bulk up: 5 bytes"), "{text}");
        assert!(!text.contains("0.50 [0.50–0.50]"), "a void result is not shown: {text}");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = vec![
            vec!["a".to_owned(), "µs".to_owned(), "x".to_owned()],
            vec!["bbb".to_owned(), "1".to_owned(), "y".to_owned()],
        ];
        assert_eq!(aligned(&rows), "  a    µs  x\n  bbb  1   y\n");
    }
}
