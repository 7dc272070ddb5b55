//! `cargo xtask tidy`: documents and tree agree with the code.

mod faults;
mod rooms;
mod tables;
mod text;

use crate::run;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Every disagreement at once; warnings are shown and change nothing.
pub(crate) fn run() -> Result<(), String> {
    let root = run::root();
    let mut findings = Findings::default();
    let files = files(&root)?;
    rooms::check(&root, &mut findings)?;
    text::check(&root, &files, &mut findings);
    tables::check(&root, &files, &mut findings);
    faults::check(&root, &files, &mut findings);
    for warning in &findings.warnings {
        println!("warning: {warning}");
    }
    if findings.errors.is_empty() {
        return Ok(());
    }
    let mut all = String::new();
    for error in &findings.errors {
        writeln!(all, "  {error}").map_err(|error| error.to_string())?;
    }
    Err(format!("{} disagreements\n{}", findings.errors.len(), all.trim_end()))
}

/// What was found.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn error(&mut self, place: impl std::fmt::Display, what: impl std::fmt::Display) {
        self.errors.push(format!("{place}: {what}"));
    }

    fn warning(&mut self, place: impl std::fmt::Display, what: impl std::fmt::Display) {
        self.warnings.push(format!("{place}: {what}"));
    }
}

/// The project's own files, relative to its root, without what is built or hidden.
fn files(root: &Path) -> Result<Vec<PathBuf>, String> {
    /// Hidden folders that are ours.
    const OURS: [&str; 4] = [".cargo", ".ci", ".config", ".github"];
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let named = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(named)? {
            let entry = entry.map_err(named)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(named)?;
            if kind.is_dir() {
                if name != "target" && (!name.starts_with('.') || OURS.contains(&name.as_str())) {
                    folders.push(entry.path());
                }
            } else if name == ".git" {
                // In a second work tree this is a file that says where the first one is.
            } else if let Ok(relative) = entry.path().strip_prefix(root) {
                found.push(relative.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
