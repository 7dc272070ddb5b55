//! The file system, closed but for the files that are read again and the folders of the hybrid sockets (landlock).

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest version of the kernel's interface that was looked at; older kernels do what they can of it. 6 adds that
/// abstract Unix sockets and processes outside cannot be reached.
const KNOWN: ABI = ABI::V6;

/// What stays open.
#[derive(Debug)]
pub(super) struct Files<'a> {
    /// Files, or folders of files, that may be read. What does not exist is left out.
    pub(super) read: &'a [PathBuf],
    /// Folders in which sockets may be made and removed.
    pub(super) sockets: &'a [PathBuf],
}

/// Closes the rest for this thread and all that it starts; in words what the kernel does of it.
pub(super) fn close(open: &Files<'_>) -> io::Result<String> {
    let mut rules = Vec::new();
    for path in open.read {
        rules.extend(rule(path, AccessFs::ReadFile.into())?);
    }
    for folder in open.sockets {
        rules.extend(rule(folder, AccessFs::MakeSock | AccessFs::RemoveFile)?);
    }
    let status = restrict(rules).map_err(io::Error::other)?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => Err(io::Error::other("landlock is switched off")),
        (RulesetStatus::NotEnforced, _) => Err(io::Error::other("the kernel has no landlock")),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(format!("landlock {effective_abi:?}")),
        (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => Ok("landlock".to_owned()),
    }
}

fn restrict(rules: Vec<PathBeneath<PathFd>>) -> Result<landlock::RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rules(rules.into_iter().map(Ok::<_, RulesetError>))?
        .restrict_self()
}

fn rule(path: &Path, access: landlock::BitFlags<AccessFs>) -> io::Result<Option<PathBeneath<PathFd>>> {
    match PathFd::new(path) {
        Ok(place) => Ok(Some(PathBeneath::new(place, access))),
        Err(PathFdError::OpenCall { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}
