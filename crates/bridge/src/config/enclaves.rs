//! The `[[enclave]]` tables: whom each is about, and what it says.

use std::path::PathBuf;

use super::errors::{ConfigError, Origin};
use super::given::Values;
use super::layer::Layer;
use super::limits::STREAMS;
use super::parse::{cid, count, enclave_name, uds_path};
use super::rights::Rights;
use super::values::EnclaveIdentity;

/// One table as it was read: where it stands, and its values.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) origin: Origin,
    pub(super) layer: Layer,
}

/// One table, typed.
pub(super) struct Enclave {
    pub(super) name: String,
    pub(super) identity: EnclaveIdentity,
    pub(super) rights: Rights,
    pub(super) max_streams: Option<usize>,
}

/// The tables that are in order; for the others there are errors.
pub(super) fn enclaves(tables: &[Table], errors: &mut Vec<ConfigError>) -> Vec<Enclave> {
    let mut names: Vec<(String, Origin)> = Vec::new();
    let mut identities: Vec<(EnclaveIdentity, Origin)> = Vec::new();
    tables
        .iter()
        .filter_map(|table| {
            let mut values = Values { layers: &[&table.layer], errors };
            let rights = Rights::read(&mut values);
            let max_streams = values.value("max_streams", |text| count(text, &STREAMS));
            let name = values.one("name", enclave_name);
            let by_cid = values.one("cid", cid);
            let by_path = values.one("uds_path", uds_path);
            let given = |key: &str| table.layer.all(key).next().is_some();
            if !given("name") {
                let message = "name is missing: what the enclave is called in logs and by check --enclave";
                errors.push(ConfigError::new(table.origin.clone(), message));
            }
            if !given("cid") && !given("uds_path") {
                let message = "cid or uds_path is missing: whom the table is about";
                errors.push(ConfigError::new(table.origin.clone(), message));
            }
            let name = name.filter(|(name, origin)| unique(name, origin, &mut names, errors))?;
            let identity = match (by_cid, by_path) {
                (Some((cid, origin)), None) => (EnclaveIdentity::Cid(cid), origin),
                (None, Some((path, origin))) => (EnclaveIdentity::Path(path), origin),
                (Some(_), Some((_, origin))) => {
                    errors.push(ConfigError::new(origin, "an enclave has a cid or a uds_path, not both"));
                    return None;
                }
                (None, None) => return None,
            };
            let (identity, origin) = identity;
            unique(&identity, &origin, &mut identities, errors).then_some(())?;
            Some(Enclave { name: name.0, identity, rights, max_streams })
        })
        .collect()
}

/// Whether no table before has the same; if one has it is an error that names it.
fn unique<T: Clone + PartialEq>(
    value: &T,
    origin: &Origin,
    known: &mut Vec<(T, Origin)>,
    errors: &mut Vec<ConfigError>,
) -> bool {
    if let Some((_, first)) = known.iter().find(|(other, _)| other == value) {
        errors.push(ConfigError::new(origin.clone(), format!("the same as {}", first.key().unwrap_or("another"))));
        return false;
    }
    known.push((value.clone(), origin.clone()));
    true
}

/// The socket paths of the tables, in their order.
pub(super) fn paths(enclaves: &[Enclave]) -> impl Iterator<Item = &PathBuf> {
    enclaves.iter().filter_map(|enclave| match &enclave.identity {
        EnclaveIdentity::Path(path) => Some(path),
        EnclaveIdentity::Cid(_) => None,
    })
}
