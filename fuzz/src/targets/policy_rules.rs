//! The text of rules, port lists and patterns of variables: what is read is written in one spelling and reads back, and it
//! means what a plain definition says. The input is four lines: a rule, ports, a pattern, a name.

use enclave_bridge_policy::{EgressPolicy, EnvPolicy, Glob, Judged, OwnAddresses, PortRanges, Rule};
use enclave_bridge_proto::{Host, Target};

use super::is_plain;

pub(crate) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    rule(line());
    ports(line());
    glob(line(), line());
}

fn rule(text: &str) {
    let rule: Rule = match text.parse() {
        Ok(rule) => rule,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let written = rule.to_string();
    assert!(is_plain(&written) && written.is_ascii() && !written.contains(' '), "{written}");
    assert_eq!(written.parse().as_ref(), Ok(&rule), "{text} is written as {written}");
    // With its own text denied, nothing that it names is open. A bare host is its own target.
    let (allow, deny) = (vec![rule.clone()], vec![rule]);
    let own = OwnAddresses::default();
    let host = written.rsplit_once(':').map_or(written.as_str(), |(host, _)| host);
    for line in [format!("{host}:80"), format!("[{written}]:80"), format!("{written}:80"), written.clone()] {
        let Ok(target) = Target::parse(line.as_bytes()) else { continue };
        if let Ok(Judged::Resolve(name)) = EgressPolicy::new(allow.clone(), vec![]).judge(&target, &own)
            && let Host::Name(raw) = &target.host
        {
            assert!(!raw.is_empty() && !name.name().is_empty());
        }
        let denied = EgressPolicy::new(allow.clone(), deny.clone()).judge(&target, &own);
        match denied {
            Ok(Judged::Address(judged)) => panic!("{} is open although {written} is denied", judged.socket_addr()),
            Ok(Judged::Resolve(name)) => assert!(!name.is_by_name(), "{} is denied by name", name.name()),
            Err(_) => {}
        }
    }
}

fn ports(text: &str) {
    let ranges = text.parse::<PortRanges>();
    let plain = plain_ports(text);
    assert_eq!(ranges.is_ok(), plain.is_some(), "{text}");
    let (Ok(ranges), Some(plain)) = (ranges, plain) else { return };
    assert_eq!(ranges.to_string().parse().as_ref(), Ok(&ranges), "{text} reads back");
    assert!(!ranges.contains(0) && !ranges.is_empty());
    for port in plain.iter().flat_map(|(first, last)| [first - 1, *first, *last, last + 1]).chain([1, 65535]) {
        let expected = plain.iter().any(|(first, last)| (*first..=*last).contains(&port));
        assert!(u16::try_from(port).map_or(!expected, |port| ranges.contains(port) == expected), "{text} at {port}");
    }
}

/// A comma-separated list of `443` and `1-1024`, white space around items and around the two ends of a range.
fn plain_ports(text: &str) -> Option<Vec<(u32, u32)>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|number| digits && (1..=65535).contains(number))
    };
    text.split(',')
        .map(|item| {
            let item = item.trim();
            let (first, last) = match item.split_once('-') {
                Some((first, last)) => (number(first.trim())?, number(last.trim())?),
                None => (number(item)?, number(item)?),
            };
            (first <= last).then_some((first, last))
        })
        .collect()
}

/// What both together may have, so that the definition stays quick.
const GLOB_MAX: usize = 48;

fn glob(pattern: &str, name: &str) {
    let Ok(glob) = pattern.parse::<Glob>() else {
        return assert!(pattern.is_empty() || pattern.contains(['=', '\0']));
    };
    assert_eq!(glob.to_string(), pattern);
    let (wanted, found): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let matches = glob.matches(name);
    if wanted.len() <= GLOB_MAX && found.len() <= GLOB_MAX {
        assert_eq!(matches, fits(&wanted, &found), "{pattern} and {name}");
    }
    assert_eq!(EnvPolicy::new(vec![glob.clone()], vec![]).allows(name), matches);
    assert!(!EnvPolicy::new(vec![glob.clone()], vec![glob]).allows(name), "deny wins");
}

/// The definition of a glob: a table of which beginning of the pattern fits which beginning of the name.
fn fits(pattern: &[char], name: &[char]) -> bool {
    let mut row: Vec<bool> = std::iter::once(true).chain(name.iter().map(|_| false)).collect();
    for wanted in pattern {
        let mut next = vec![*wanted == '*' && row[0]];
        for (place, found) in name.iter().enumerate() {
            next.push(match wanted {
                '*' => row[place + 1] || next[place],
                wanted => row[place] && (*wanted == '?' || wanted == found),
            });
        }
        row = next;
    }
    row[name.len()]
}
