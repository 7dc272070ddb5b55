//! Tables in the documents that are tables in the code.

use super::Findings;
use enclave_bridge::config::{KEYS, keys_table};
use enclave_bridge::metrics;
use enclave_bridge::sandbox::{FATAL_CALLS, SYSTEM_CALLS};
use enclave_bridge_fuzz::TARGETS;
use enclave_bridge_proto::{NakCode, PROTOCOL_KEY};
use std::path::{Path, PathBuf};

/// What every variable of the project begins with.
const PREFIX: &str = "ENCLAVE_BRIDGE_";

/// Variables that are no key of the bridge's configuration: the announcement of the wire, and two of the tests.
const OTHER_VARIABLES: [&str; 4] =
    ["ENCLAVE_BRIDGE_LAB", PROTOCOL_KEY, "ENCLAVE_BRIDGE_BIN", "ENCLAVE_BRIDGE_E2E_ENDPOINT"];

/// A table's rows as the document has them: cells without their code marks and outer spaces.
type Rows = Vec<Vec<String>>;

/// Compares every such table.
pub(super) fn check(root: &Path, files: &[PathBuf], findings: &mut Findings) {
    let codes = NakCode::ALL
        .iter()
        .map(|code| vec![code.as_str().to_owned(), code.place().as_str().to_owned(), plain(code.meaning())]);
    compare(root, "docs/protocol.md", &["code", "where", "meaning"], codes.collect(), findings);

    let names =
        metrics::NAMES.iter().map(|(name, kind, meaning)| vec![(*name).to_owned(), (*kind).to_owned(), plain(meaning)]);
    compare(root, "docs/metrics.md", &["metric", "kind", "meaning"], names.collect(), findings);

    let allowed = SYSTEM_CALLS.iter().map(|call| {
        let cells = [call.name, call.architecture, call.guard.text(), call.reason];
        cells.map(str::to_owned).into()
    });
    compare(root, "docs/sandbox.md", &["system call", "on", "arguments", "for"], allowed.collect(), findings);
    let fatal = FATAL_CALLS.iter().map(|call| vec![call.name.to_owned(), call.reason.to_owned()]);
    compare(root, "docs/sandbox.md", &["ends the process", "for"], fatal.collect(), findings);

    let targets = TARGETS.iter().map(|target| [target.name, target.about, target.holds].map(plain).into());
    compare(root, "docs/fuzzing.md", &["target", "about", "what must hold"], targets.collect(), findings);

    let head = ["key", "variable", "default", "meaning"];
    match table(&keys_table(), &head) {
        Some(keys) => compare(root, "docs/configuration.md", &head, keys, findings),
        None => findings.error("keys_table()", format_args!("no table | {} |", head.join(" | "))),
    }
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        variables(root, file, findings);
    }
}

/// Every variable that a document names has to be one that something reads.
fn variables(root: &Path, file: &Path, findings: &mut Findings) {
    let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
    for rest in text.split(PREFIX).skip(1) {
        let name: String =
            rest.chars().take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_').collect();
        let variable = format!("{PREFIX}{name}");
        let is_key = KEYS.iter().any(|key| key.variable == variable || key.also.contains(&variable.as_str()));
        // The prefix alone speaks of all of them.
        if !name.is_empty() && !is_key && !OTHER_VARIABLES.contains(&variable.as_str()) {
            findings.error(file.display(), format_args!("{variable} is a variable that nothing reads"));
        }
    }
}

/// The table with this head in that document must hold these rows, in any order.
fn compare(root: &Path, document: &str, head: &[&str], code: Rows, findings: &mut Findings) {
    let text = match std::fs::read_to_string(root.join(document)) {
        Ok(text) => text,
        Err(error) => return findings.error(document, error),
    };
    let Some(written) = table(&text, head) else {
        return findings.error(document, format_args!("no table | {} |", head.join(" | ")));
    };
    for row in code.iter().filter(|row| !written.contains(row)) {
        findings.error(document, format_args!("the code has | {} |, the document has not", row.join(" | ")));
    }
    for row in written.iter().filter(|row| !code.contains(row)) {
        findings.error(document, format_args!("the document has | {} |, the code has not", row.join(" | ")));
    }
}

/// The rows of the first table with this head.
fn table(text: &str, head: &[&str]) -> Option<Rows> {
    let mut lines = text.lines().skip_while(|line| cells(line).is_none_or(|cells| cells != head));
    lines.next()?;
    Some(lines.skip(1).map_while(cells).collect())
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    // A bar inside a cell is written with a backslash before it.
    let inner = inner.replace("\\|", "\u{0}");
    Some(inner.split('|').map(|cell| plain(&cell.replace('\u{0}', "|"))).collect())
}

fn plain(text: &str) -> String {
    text.replace('`', "").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_to_its_end() {
        let text = "words\n\n| code | where |\n|---|---|\n| `A` | x \\| y |\n| `B` |  z |\n\n| code | where |\n";
        assert_eq!(
            table(text, &["code", "where"]),
            Some(vec![vec!["A".into(), "x | y".into()], vec!["B".into(), "z".into()]])
        );
        assert_eq!(table(text, &["code"]), None);
    }
}
