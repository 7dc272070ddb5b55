//! What is made of a run: tables for the terminal and the documents, and the chart.

mod chart;
mod document;
mod table;

pub(crate) use chart::chart;
pub(crate) use document::{README, SPECIFICATION, write_documents};
pub(crate) use table::{gates, tables};

use crate::stats::Estimate;

/// `1.23 [1.10–1.40]`, with no more digits than three before the point leave a meaning to.
fn spelled(estimate: Estimate, digits: usize) -> String {
    let Estimate { median, low, high, .. } = estimate;
    let digits = match high.abs() {
        most if most >= 100.0 => 0,
        most if most >= 10.0 => digits.min(1),
        _ => digits,
    };
    format!("{median:.digits$} [{low:.digits$}–{high:.digits$}]")
}
