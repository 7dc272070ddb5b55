//! The environment at the SDK: exactly the JSON objects of texts without a name given twice, bounded; no value in an error or
//! in `Debug`; what was read is written and read again the same.

use std::collections::BTreeMap;

use enclave_bridge_proto::{
    Announcement, ENVIRONMENT_NAMES_MAX, Environment, EnvironmentError, FEATURES_MAX, Feature, PROTOCOL_KEY,
};

use super::is_plain;

pub(crate) fn run(line: &[u8]) {
    let plain = serde_json::from_slice::<BTreeMap<String, String>>(line);
    match Environment::parse(line) {
        Ok(environment) => {
            let read: BTreeMap<&str, &str> = environment.iter().collect();
            let plain = plain.expect("what is no object of texts is no environment");
            assert!(read.into_iter().eq(plain.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
            taken(&environment);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() <= 400 && is_plain(&text), "{text}");
            match error {
                // The plain reader takes the last of two values.
                EnvironmentError::Duplicate(_) => {}
                EnvironmentError::TooMany => assert!(plain.is_ok_and(|plain| plain.len() > ENVIRONMENT_NAMES_MAX)),
                _ => assert!(plain.is_err(), "an environment is refused: {text}"),
            }
        }
    }
    announcement(&String::from_utf8_lossy(line));
}

fn taken(environment: &Environment) {
    assert!(environment.len() <= ENVIRONMENT_NAMES_MAX);
    let debug = format!("{environment:?}");
    for (name, value) in environment.iter() {
        assert_eq!(environment.get(name), Some(value));
        let told = value.len() < 6 || value.contains(['\\', '"']) || !is_plain(value);
        if !told && environment.iter().all(|(name, _)| !name.contains(value)) {
            assert!(!debug.contains(&format!("{value:?}")), "a value in Debug");
        }
    }
    let announced = Announcement::v1_1(&[Feature::Framed, Feature::Bind]);
    let line = environment.encode_line(&announced).expect("what came in a line fits a line");
    assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
    let read = Environment::parse(&line[..line.len() - 1]).expect("what was read can be read again");
    let mut expected = environment.clone();
    expected.insert(PROTOCOL_KEY, announced.to_string());
    assert!(read == expected);
    assert_eq!(read.announcement(), Some(announced));
    if let Some(text) = environment.get(PROTOCOL_KEY) {
        assert_eq!(environment.announcement(), Announcement::parse(text));
        announcement(text);
    }
}

fn announcement(text: &str) {
    let Some(announced) = Announcement::parse(text) else { return };
    assert!(text.starts_with("1.") && announced.minor() >= 1);
    assert!(announced.features().count() <= FEATURES_MAX);
    assert!(announced.features().all(|word| !word.is_empty() && !word.contains(',') && word.trim() == word));
    let again = Announcement::parse(&announced.to_string());
    assert_eq!(again.as_ref(), Some(&announced), "an announcement reads back");
}
