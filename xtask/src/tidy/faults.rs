//! The matrix of faults and the lessons: a test that they name is in the tree, and a test that is named after a fault is
//! in the matrix.

use super::Findings;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MATRIX: &str = "docs/faults.md";
const MATRIX_HEAD: [&str; 6] = ["id", "what is done", "what is expected", "test", "how it is run", "result"];
const LESSONS: &str = "docs/lessons.md";
const LESSONS_HEAD: [&str; 4] = ["mistake", "where it was made", "what is done here", "held by"];

/// What the result of a case without a test begins with.
const WITHOUT_A_TEST: [&str; 2] = ["does not apply", "not done"];

/// What stands before the id in the name of a test that has more time.
const SLOW: &str = "slow_";

/// The names of all tests, by file.
type Tests = BTreeMap<PathBuf, BTreeSet<String>>;

/// A case of the matrix: the letter of its section, and its number there.
type Id = (char, u32);

/// Checks both documents.
pub(super) fn check(root: &Path, files: &[PathBuf], findings: &mut Findings) {
    let mut tests = Tests::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        tests.insert(file.clone(), tests_of(&text));
    }
    if let Some(text) = document(root, MATRIX, findings) {
        matrix(&text, &tests, findings);
    }
    if let Some(text) = document(root, LESSONS, findings) {
        lessons(&text, &tests, findings);
    }
}

fn document(root: &Path, name: &str, findings: &mut Findings) -> Option<String> {
    std::fs::read_to_string(root.join(name)).map_err(|error| findings.error(name, error)).ok()
}

fn matrix(text: &str, tests: &Tests, findings: &mut Findings) {
    let mut listed = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for row in rows(text, &MATRIX_HEAD) {
        let [id, _, _, named, _, result] = &row[..] else {
            findings.error(MATRIX, format_args!("not six cells: | {} |", row.join(" | ")));
            continue;
        };
        let Some(known) = parse_id(id) else {
            findings.error(MATRIX, format_args!("{id} is not the id of a case"));
            continue;
        };
        if !ids.insert(known) {
            findings.error(MATRIX, format_args!("{id} stands there twice"));
        }
        let has_command = spans(named).any(is_command);
        let named = references(named, &format!("{MATRIX}: {id}"), findings);
        if named.is_empty() {
            if !has_command && !WITHOUT_A_TEST.iter().any(|words| result.starts_with(words)) {
                findings.error(MATRIX, format_args!("{id} has neither a test nor a reason for having none"));
            }
            continue;
        }
        exist(&named, tests, &format!("{MATRIX}: {id}"), findings);
        let word = id.to_lowercase();
        if !named.iter().any(|(_, test)| test.split('_').any(|part| part == word)) {
            findings.error(MATRIX, format_args!("{id}: no test carries the id in its name"));
        }
        listed.extend(named);
    }
    if ids.is_empty() {
        findings.error(MATRIX, format_args!("no table | {} |", MATRIX_HEAD.join(" | ")));
    }
    for (letter, number) in &ids {
        if *number > 1 && !ids.contains(&(*letter, number - 1)) {
            findings.error(MATRIX, format_args!("{letter}{} is missing", number - 1));
        }
    }
    // A letter without a section is no id: c1_… could be anything.
    let letters: BTreeSet<char> = ids.iter().map(|(letter, _)| *letter).collect();
    for (file, names) in tests {
        for name in names.iter().filter(|name| id_of_test(name).is_some_and(|(letter, _)| letters.contains(&letter))) {
            if !listed.contains(&(file.clone(), name.clone())) {
                findings.error(file.display(), format_args!("{name} is not in {MATRIX}"));
            }
        }
    }
}

fn lessons(text: &str, tests: &Tests, findings: &mut Findings) {
    let rows = rows(text, &LESSONS_HEAD);
    if rows.is_empty() {
        findings.error(LESSONS, format_args!("no table | {} |", LESSONS_HEAD.join(" | ")));
    }
    for row in rows {
        let [mistake, _, _, named] = &row[..] else {
            findings.error(LESSONS, format_args!("not four cells: | {} |", row.join(" | ")));
            continue;
        };
        let place = format!("{LESSONS}: {mistake}");
        let named = references(named, &place, findings);
        if named.is_empty() {
            findings.error(&place, "no test holds it");
        }
        exist(&named, tests, &place, findings);
    }
}

fn exist(named: &[(PathBuf, String)], tests: &Tests, place: &str, findings: &mut Findings) {
    for (file, test) in named {
        match tests.get(file) {
            None => findings.error(place, format_args!("no such file: {}", file.display())),
            Some(names) if !names.contains(test) => {
                findings.error(place, format_args!("no test {test} in {}", file.display()));
            }
            Some(_) => {}
        }
    }
}

/// What stands between code marks.
fn spans(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// A measurement, which is no test and has no name in the tree.
fn is_command(span: &str) -> bool {
    span.starts_with("cargo ")
}

/// The tests that a cell names: a file, and then the functions in it, each between code marks; or `file.rs::function`.
fn references(cell: &str, place: &str, findings: &mut Findings) -> Vec<(PathBuf, String)> {
    let mut file: Option<PathBuf> = None;
    let mut found = Vec::new();
    for span in spans(cell).filter(|span| !is_command(span)) {
        let (path, test) = match span.split_once("::") {
            Some((path, test)) => (Some(path), Some(test)),
            None if span.ends_with(".rs") => (Some(span), None),
            None => (None, Some(span)),
        };
        file = path.map(PathBuf::from).or(file);
        match (&file, test) {
            (Some(file), Some(test)) => found.push((file.clone(), test.to_owned())),
            (None, Some(test)) => findings.error(place, format_args!("{test}: in which file?")),
            (_, None) => {}
        }
    }
    found
}

/// The functions with an attribute that makes them a test.
fn tests_of(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim_start) {
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let declared = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some(declared) = declared.filter(|_| marked) {
            marked = false;
            found.insert(declared.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

/// `h1_…` and `slow_h1_…` are of case H1.
fn id_of_test(name: &str) -> Option<Id> {
    let (first, _) = name.strip_prefix(SLOW).unwrap_or(name).split_once('_')?;
    parse_id(&first.to_uppercase())
}

fn parse_id(text: &str) -> Option<Id> {
    let mut rest = text.chars();
    let letter = rest.next().filter(char::is_ascii_uppercase)?;
    let digits = rest.as_str();
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    Some((letter, digits.parse().ok().filter(|_| plain)?))
}

/// The rows of every table with this head, their cells as they are written.
fn rows(text: &str, head: &[&str]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let Some(cells) = cells(line) else {
            inside = false;
            continue;
        };
        if cells == head {
            inside = true;
        } else if inside && !cells.iter().all(|cell| cell.chars().all(|c| c == '-')) {
            found.push(cells);
        }
    }
    found
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    // A bar inside a cell is written with a backslash before it.
    let inner = inner.replace("\\|", "\u{0}");
    Some(inner.split('|').map(|cell| cell.replace('\u{0}', "|").trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tests {
        let text = "#[test]\nfn h1_a() {}\nfn h2_not_one() {}\n#[tokio::test(start_paused = true)]\n#[ignore = \"so\"]\nasync fn slow_h2_b() {}\n";
        Tests::from([(PathBuf::from("a.rs"), tests_of(text))])
    }

    fn found(table: &str) -> Vec<String> {
        let mut findings = Findings::default();
        let head = format!("| {} |\n|---|---|---|---|---|---|\n", MATRIX_HEAD.join(" | "));
        matrix(&format!("{head}{table}"), &tree(), &mut findings);
        findings.errors
    }

    #[test]
    fn tests_are_told_from_other_functions() {
        let names: Vec<String> = tree().remove(Path::new("a.rs")).unwrap().into_iter().collect();
        assert_eq!(names, ["h1_a", "slow_h2_b"]);
        assert_eq!(id_of_test("slow_h2_b"), Some(('H', 2)));
        for other in ["harness", "v1", "h1", "h_1", "a_version_one_enclave", "ip6_x", "h01_x"] {
            assert_eq!(id_of_test(other), None, "{other}");
        }
    }

    #[test]
    fn a_matrix_that_agrees_has_no_finding() {
        let rows = "| H1 | x | y | `a.rs` `h1_a` | default | ok |\n| H2 | x \\| z | y | `a.rs::slow_h2_b` | lab | ok |\n| H3 | x | y | | | not done: no root |\n";
        assert_eq!(found(rows), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_on_either_side_is_found() {
        let rows = "| H1 | x | y | `a.rs` `h1_b` | default | ok |\n| H3 | x | y | | | ok |\n";
        assert_eq!(
            found(rows),
            [
                "docs/faults.md: H1: no test h1_b in a.rs",
                "docs/faults.md: H3 has neither a test nor a reason for having none",
                "docs/faults.md: H2 is missing",
                "a.rs: h1_a is not in docs/faults.md",
                "a.rs: slow_h2_b is not in docs/faults.md",
            ]
        );
    }
}
