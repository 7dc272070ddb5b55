//! Debian's kernels, downloaded and unpacked into a cache, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::LabError;
use crate::program::capture;

/// The series that the lab knows, each with why it is worth a run.
pub const SERIES: &[(&str, &str)] = &[
    ("6.1", "the kernel of Debian 12 and of Nitro enclaves until now; vsock before sk_buff"),
    ("6.12", "a guest's large writes are fragments here, which some devices cannot take"),
];

/// Packages without a version in their name, which depend on the one with it. The second is whatever this Debian calls current.
const META_PACKAGES: &[&str] = &["linux-image-{series}-cloud-amd64", "linux-image-cloud-amd64"];

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As asked for: "6.1".
    pub series: String,
    /// The package and its version, which is what a document has to name.
    pub version: String,
    folder: PathBuf,
}

impl Kernel {
    /// The kernel image.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// One that was fetched before, by its folder.
    #[must_use]
    pub fn at(folder: PathBuf) -> Kernel {
        let version = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let named = |series: &&(&str, &str)| version.starts_with(&format!("linux-image-{}.", series.0));
        let series = SERIES.iter().find(named).map_or("", |(series, _)| series).to_owned();
        Kernel { series, version, folder }
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a module, packed or not; `None` where it is built in or not offered.
    #[must_use]
    pub fn module(&self, name: &str) -> Option<PathBuf> {
        let mut folders = vec![self.folder.join("modules")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).ok()?.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                } else if entry.file_name().to_string_lossy().split_once(".ko").is_some_and(|(stem, _)| stem == name) {
                    return Some(entry.path());
                }
            }
        }
        None
    }

    /// The newest kernel of a series that apt offers, from the cache where it is there; without an answer of apt, whatever
    /// of that series the cache holds.
    ///
    /// # Errors
    /// [`LabError::Missing`] where apt offers none and the cache holds none.
    pub fn fetch(series: &str, cache: &Path) -> Result<Kernel, LabError> {
        fs::create_dir_all(cache).map_err(LabError::file(cache))?;
        match offered(series) {
            Ok((package, version)) => {
                let kernel = Kernel::in_cache(series, cache, format!("{package}_{}", version.replace(':', "%3a")));
                if !kernel.image().is_file() {
                    kernel.download(&package, &version, cache)?;
                }
                Ok(kernel)
            }
            Err(error) => {
                let named = format!("linux-image-{series}.");
                let entries = fs::read_dir(cache).map_err(LabError::file(cache))?;
                let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
                let mut cached: Vec<Kernel> = names
                    .filter(|name| name.starts_with(&named))
                    .map(|name| Kernel::in_cache(series, cache, name))
                    .filter(|kernel| kernel.image().is_file())
                    .collect();
                cached.sort_by(|a, b| a.version.cmp(&b.version));
                cached.pop().ok_or(error)
            }
        }
    }

    fn in_cache(series: &str, cache: &Path, version: String) -> Kernel {
        Kernel { series: series.to_owned(), folder: cache.join(&version), version }
    }

    fn download(&self, package: &str, version: &str, cache: &Path) -> Result<(), LabError> {
        let work = tempfile::tempdir_in(cache).map_err(LabError::file(cache))?;
        capture("apt-get", ["-q", "download", &format!("{package}={version}")], work.path())
            .map_err(unreachable_apt)?;
        let entries = fs::read_dir(work.path()).map_err(LabError::file(work.path()))?;
        let deb =
            entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|ext| ext == "deb"));
        let deb = deb.ok_or_else(|| unreachable_apt("apt-get download left no package".to_owned()))?;
        capture("dpkg-deb", ["-x".as_ref(), deb.as_os_str(), "unpacked".as_ref()], work.path())?;
        let unpacked = work.path().join("unpacked");
        let modules =
            only_entry(&unpacked.join("lib/modules")).or_else(|_| only_entry(&unpacked.join("usr/lib/modules")))?;
        let boot = unpacked.join("boot");
        let entries = fs::read_dir(&boot).map_err(LabError::file(&boot))?;
        let image = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"));
        let image = image.ok_or_else(|| LabError::Command {
            command: format!("dpkg-deb -x {package}"),
            reason: "no vmlinuz in it".to_owned(),
        })?;
        // Complete before it gets its name: a run that was interrupted leaves nothing that looks like a kernel.
        let complete = work.path().join("complete");
        let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(LabError::file(from));
        fs::create_dir(&complete).map_err(LabError::file(&complete))?;
        rename(&modules, &complete.join("modules"))?;
        rename(&image.path(), &complete.join("vmlinuz"))?;
        rename(&complete, &self.folder)
    }
}

/// The versioned package of a series and its version.
fn offered(series: &str) -> Result<(String, String), LabError> {
    let root = Path::new("/");
    for meta in META_PACKAGES {
        let meta = meta.replace("{series}", series);
        let Ok(depends) = capture("apt-cache", ["depends", "--important", &meta], root) else { continue };
        let depends = String::from_utf8_lossy(&depends).into_owned();
        let wanted = format!("linux-image-{series}.");
        let package = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|package| package.starts_with(&wanted));
        let Some(package) = package else { continue };
        let policy = capture("apt-cache", ["policy", package], root)?;
        let policy = String::from_utf8_lossy(&policy).into_owned();
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        if let Some(version) = candidate.filter(|version| *version != "(none)") {
            return Ok((package.to_owned(), version.to_owned()));
        }
    }
    Err(LabError::Missing {
        what: format!("kernel {series}"),
        remedy: format!("apt offers no linux-image-{series}.*-cloud-amd64 here (apt-get update, on Debian for amd64)"),
    })
}

fn unreachable_apt(error: impl ToString) -> LabError {
    LabError::Missing {
        what: "the kernel's package".to_owned(),
        remedy: format!("it could not be downloaded: {}", error.to_string()),
    }
}

fn only_entry(folder: &Path) -> Result<PathBuf, LabError> {
    let mut entries = fs::read_dir(folder).map_err(LabError::file(folder))?.flatten();
    entries.next().map(|entry| entry.path()).ok_or_else(|| LabError::Command {
        command: format!("look into {}", folder.display()),
        reason: "empty".to_owned(),
    })
}
