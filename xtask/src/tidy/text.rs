//! Files as text: how long they are, what they are called, what they must not say, and that their links lead somewhere.

use super::Findings;
use std::path::{Path, PathBuf};

/// Past this a file of code should have a reason.
const LONG_LINES: usize = 400;

/// Past this it has none.
const TOO_LONG_LINES: usize = 700;

/// Places of one machine. Put together here, or this file would say them.
const PLACES: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ho", "me/")];

/// Names that say nothing about what lives in a file.
const EMPTY_NAMES: [&str; 6] = ["handler", "manager", "helper", "utils", "util", "common"];

/// Checks every file.
pub(super) fn check(root: &Path, files: &[PathBuf], findings: &mut Findings) {
    for file in files {
        let shown = file.display().to_string();
        // What is not text has neither lines nor links.
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if extension == "rs" {
            code(file, &shown, &text, findings);
        }
        if extension == "md" {
            links(root, file, &text, findings);
        }
        if extension != "lock" {
            for (number, line) in text.lines().enumerate() {
                for place in PLACES.iter().filter(|place| line.contains(**place)) {
                    findings
                        .error(format_args!("{shown}:{}", number + 1), format_args!("a place of one machine: {place}"));
                }
            }
        }
    }
}

fn code(file: &Path, shown: &str, text: &str, findings: &mut Findings) {
    let lines = text.lines().count();
    if lines > TOO_LONG_LINES {
        findings.error(shown, format_args!("{lines} lines; {TOO_LONG_LINES} is the most"));
    } else if lines > LONG_LINES {
        findings.warning(shown, format_args!("{lines} lines; past {LONG_LINES} a file has a reason"));
    }
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if stem.split(['_', '-']).any(|word| EMPTY_NAMES.contains(&word)) {
        findings.error(shown, "a name that does not say what lives here");
    }
    if !text.starts_with("//!") {
        findings.error(shown, "does not begin with a line that says what lives here");
    }
}

/// Links to files of the project; those to the world are not followed.
fn links(root: &Path, file: &Path, text: &str, findings: &mut Findings) {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in targets(line) {
            let path = target.split('#').next().unwrap_or_default();
            let outside = path.contains("://") || path.starts_with("mailto:");
            if !path.is_empty() && !outside && !root.join(folder).join(path).exists() {
                findings.error(format_args!("{}:{}", file.display(), number + 1), format_args!("no such file: {path}"));
            }
        }
    }
}

/// The targets of `[text](target)` in a line.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_a_line() {
        let line = "see [a](docs/a.md#part), [b](https://example.org/) and ![c](c.svg \"title\").";
        assert_eq!(targets(line).collect::<Vec<_>>(), ["docs/a.md#part", "https://example.org/", "c.svg"]);
    }
}
