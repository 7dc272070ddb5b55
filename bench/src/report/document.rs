//! The parts of the documents that a run writes: they stand between marks, so that nobody copies figures by hand.

use super::spelled;
use super::table::{gate_rows, machine};
use crate::error::BenchError;
use crate::plan::Metric;
use crate::rows::Run;
use std::path::Path;

/// The promises.
pub(crate) const SPECIFICATION: &str = "SPECIFICATION.md";

/// The front page.
pub(crate) const README: &str = "README.md";

/// Where the chart is kept.
const CHART: &str = "docs/bench.svg";

/// The columns of the front page: test, metric, head.
const FRONT_PAGE: [(&str, &str, &str); 6] = [
    ("bulk-up", "gbit_s", "bulk, Gbit/s"),
    ("bulk-up", "cpu_s_gib", "bulk, CPU s/GiB"),
    ("messages", "p50_us", "64 B there and back, p50 µs"),
    ("mixed", "p50_us", "the same beside bulk, p50 µs"),
    ("short", "conn_s", "short connections/s"),
    ("idle", "kib_conn", "idle, KiB each"),
];

/// Writes the run's parts of the documents below `root`, and its chart.
pub(crate) fn write_documents(run: &Run, root: &Path) -> Result<(), BenchError> {
    if run.transport == "vsock" {
        return replace_in(&root.join(SPECIFICATION), &[("vsock", gates_and_machine(run))]);
    }
    replace_in(&root.join(SPECIFICATION), &[("hybrid", gates_and_machine(run))])?;
    replace_in(&root.join(README), &[("front", front_page(run))])?;
    let chart = root.join(CHART);
    std::fs::write(&chart, super::chart(run)).map_err(BenchError::io(format!("write {}", chart.display())))
}

fn gates_and_machine(run: &Run) -> String {
    let mut text = format!("{}{}.\n\n", note(run), machine(run));
    for target in &run.targets {
        line(&mut text, &format!("- `{}`: {}; {}", target.name, target.version, target.settings));
    }
    for left_out in &run.left_out {
        line(&mut text, &format!("- left out: {left_out}"));
    }
    text.push('\n');
    text.push_str(&markdown(&gate_rows(run)));
    text
}

fn front_page(run: &Run) -> String {
    let mut rows = vec![vec![String::new()]];
    if let Some(head) = rows.first_mut() {
        head.extend(FRONT_PAGE.iter().map(|(_, _, title)| (*title).to_owned()));
    }
    for target in &run.targets {
        let mut row = vec![format!("{} ({})", target.name, target.version)];
        row.extend(FRONT_PAGE.iter().map(|(test, metric, _)| {
            let digits = Metric::named(metric).map_or(2, |metric| metric.digits);
            let value = run.value(test, &target.name, metric);
            value.map_or_else(|| "–".to_owned(), |value| spelled(value, digits))
        }));
        rows.push(row);
    }
    format!(
        "{}{}\nMedians and 95 % intervals. {}. Settings, promises and what is missed: [{SPECIFICATION}]({SPECIFICATION}).\n\n![chart]({CHART})\n",
        note(run),
        markdown(&rows),
        machine(run)
    )
}

/// A paragraph, where there is something to be known first.
fn note(run: &Run) -> String {
    run.note.as_ref().map_or_else(String::new, |note| format!("**{note}**\n\n"))
}

fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        line(&mut text, &format!("| {} |", row.join(" | ")));
        if number == 0 {
            line(&mut text, &format!("|{}", " --- |".repeat(row.len())));
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn replace_in(path: &Path, parts: &[(&str, String)]) -> Result<(), BenchError> {
    let named = || BenchError::io(path.display().to_string());
    let mut text = std::fs::read_to_string(path).map_err(named())?;
    for (mark, part) in parts {
        text = replaced(&text, mark, part).ok_or_else(|| BenchError::Document {
            what: path.display().to_string(),
            reason: format!("no marks {} and {}", begin(mark), end(mark)),
        })?;
    }
    std::fs::write(path, text).map_err(named())
}

/// The text with `part` between the marks; `None` where there are none.
fn replaced(text: &str, mark: &str, part: &str) -> Option<String> {
    let (before, rest) = text.split_once(&begin(mark))?;
    let (_, after) = rest.split_once(&end(mark))?;
    Some(format!("{before}{}\n{}\n{}{after}", begin(mark), part.trim_end(), end(mark)))
}

fn begin(mark: &str) -> String {
    format!("<!-- bench-bridge: {mark} -->")
}

fn end(mark: &str) -> String {
    format!("<!-- bench-bridge: end of {mark} -->")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::example;

    #[test]
    fn a_part_is_replaced_between_its_marks_and_nowhere_else() {
        let text = format!("a\n{}\nold\n{}\nb {}\n", begin("x"), end("x"), begin("y"));
        let once = replaced(&text, "x", "new\n").unwrap();
        assert_eq!(once, format!("a\n{}\nnew\n{}\nb {}\n", begin("x"), end("x"), begin("y")));
        assert_eq!(replaced(&once, "x", "new\n").unwrap(), once);
        assert_eq!(replaced(&text, "y", "new"), None);
    }

    #[test]
    fn the_documents_of_the_project_have_the_marks() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (file, mark) in [(SPECIFICATION, "hybrid"), (SPECIFICATION, "vsock"), (README, "front")] {
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            assert!(replaced(&text, mark, "").is_some(), "{file} has no marks for {mark}");
        }
    }

    #[test]
    fn the_table_of_promises_has_as_many_cells_in_every_row() {
        let text = markdown(&gate_rows(&example()));
        let cells: Vec<usize> = text.lines().map(|line| line.matches('|').count()).collect();
        assert!(cells.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }
}
