//! The table of `docs/vsock.md`: what the socket suite found out, per kernel, written by the run that found it.

use crate::run::root;
use enclave_bridge_lab::Kernel;

/// A suite's line `fact<TAB>feature<TAB>family<TAB>what was found`.
const FACT: &str = "fact\t";

const BEGIN: &str = "<!-- written by `cargo xtask lab --mode loopback --write-table`: begin -->\n";
const END: &str = "<!-- end -->\n";

#[derive(Default)]
pub(crate) struct Table {
    kernels: Vec<String>,
    features: Vec<String>,
    cells: Vec<Cell>,
}

struct Cell {
    feature: String,
    column: String,
    found: String,
}

impl Table {
    /// Collects the facts of one run.
    pub(crate) fn take(&mut self, kernel: &Kernel, output: &str) {
        for line in output.lines() {
            let Some((_, fact)) = line.split_once(FACT) else { continue };
            let mut fields = fact.split('\t');
            let (Some(feature), Some(family), Some(found)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if !self.kernels.contains(&kernel.version) {
                self.kernels.push(kernel.version.clone());
            }
            if !self.features.iter().any(|known| known == feature) {
                self.features.push(feature.to_owned());
            }
            let column = format!("{family} {}", kernel.series);
            self.cells.push(Cell { feature: feature.to_owned(), column, found: found.to_owned() });
        }
    }

    /// Puts the table into the document, between its marks.
    pub(crate) fn write(&self) -> Result<(), String> {
        if self.cells.is_empty() {
            return Err("no facts to write: the socket suite did not run".to_owned());
        }
        let path = root().join("docs/vsock.md");
        let named = |error: std::io::Error| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(&path).map_err(named)?;
        let marks = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let (before, after) = marks.ok_or_else(|| format!("{}: no marks for the table", path.display()))?;
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", self.text())).map_err(named)
    }

    fn text(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        for family in ["TCP", "Unix", "vsock"] {
            for cell in &self.cells {
                if cell.column.starts_with(family) && !columns.contains(&cell.column.as_str()) {
                    columns.push(&cell.column);
                }
            }
        }
        let mut text = format!("\nKernels: {}.\n\n| |", self.kernels.join(", "));
        for column in &columns {
            text.push_str(&format!(" {column} |"));
        }
        text.push_str("\n| --- |");
        text.push_str(&" --- |".repeat(columns.len()));
        text.push('\n');
        for feature in &self.features {
            text.push_str(&format!("| {feature} |"));
            for column in &columns {
                let found = self.cells.iter().find(|cell| cell.feature == *feature && cell.column == *column);
                text.push_str(&format!(" {} |", found.map_or("not tried", |cell| cell.found.as_str())));
            }
            text.push('\n');
        }
        text.push('\n');
        text
    }
}
