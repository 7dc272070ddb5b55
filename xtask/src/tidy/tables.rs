//! Tables in the documents that are tables in the code.

use super::Findings;
use enclave_bridge_proto::NakCode;
use std::path::Path;

/// A table's rows as the document has them: cells without their code marks and outer spaces.
type Rows = Vec<Vec<String>>;

/// Compares every such table.
pub(super) fn check(root: &Path, findings: &mut Findings) {
    let codes = NakCode::ALL
        .iter()
        .map(|code| vec![code.as_str().to_owned(), code.place().as_str().to_owned(), plain(code.meaning())]);
    compare(root, "docs/protocol.md", &["code", "where", "meaning"], codes.collect(), findings);
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
