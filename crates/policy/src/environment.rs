//! Which of the host's environment variables an enclave is given, by name. Values are not seen here.

use std::fmt;
use std::str::FromStr;

/// What is wrong with a pattern for variable names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GlobError {
    /// An empty pattern matches nothing that exists.
    #[error("the pattern is empty")]
    Empty,
    /// `=` and NUL cannot occur in the name of a variable.
    #[error("a variable's name has neither '=' nor NUL in it")]
    NotAName,
}

/// A pattern for the names of variables: `*` is any run of characters, `?` any one character, letter case counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
}

impl Glob {
    /// Whether the whole of `name` fits.
    ///
    /// Takes at most the product of both lengths in steps: only the last `*` is ever gone back to.
    pub fn matches(&self, name: &str) -> bool {
        let mut pattern = self.text.chars();
        let mut rest = name.chars();
        let mut back: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
        loop {
            let mut ahead = pattern.clone();
            let fits = match ahead.next() {
                Some('*') => {
                    back = Some((ahead.clone(), rest.clone()));
                    pattern = ahead;
                    continue;
                }
                Some(wanted) => {
                    let mut name_ahead = rest.clone();
                    let met = name_ahead.next().is_some_and(|found| wanted == '?' || wanted == found);
                    if met {
                        rest = name_ahead;
                        pattern = ahead;
                    }
                    met
                }
                None => {
                    if rest.as_str().is_empty() {
                        return true;
                    }
                    false
                }
            };
            if !fits {
                let Some((after_star, mut from)) = back.take() else { return false };
                if from.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                rest = from.clone();
                back = Some((after_star, from));
            }
        }
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.contains(['=', '\0']) {
            return Err(GlobError::NotAName);
        }
        Ok(Self { text: text.to_owned() })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Patterns of variables that go to the enclave and of those that do not; deny wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvPolicy {
    allow: Vec<Glob>,
    deny: Vec<Glob>,
}

impl EnvPolicy {
    /// A variable goes to the enclave if a pattern of `allow` fits its name and none of `deny` does.
    pub fn new(allow: Vec<Glob>, deny: Vec<Glob>) -> Self {
        Self { allow, deny }
    }

    /// Whether the variable called `name` goes to the enclave.
    pub fn allows(&self, name: &str) -> bool {
        self.allow.iter().any(|glob| glob.matches(name)) && !self.deny.iter().any(|glob| glob.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        text.parse().unwrap()
    }

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "PATH", true),
            ("APP_*", "APP_", true),
            ("APP_*", "APP_X", true),
            ("APP_*", "MY_APP_X", false),
            ("APP_*", "app_x", false),
            ("*_KEY", "A_KEY_KEY", true),
            ("*_KEY", "A_KEYS", false),
            ("A?C", "ABC", true),
            ("A?C", "AC", false),
            ("A?C", "AéC", true),
            ("*A*B*", "xAyBz", true),
            ("*A*B*", "xByAz", false),
            ("PATH", "PATH", true),
            ("PATH", "PATHX", false),
        ] {
            assert_eq!(glob(pattern).matches(name), expected, "{pattern} {name}");
        }
        assert_eq!("".parse::<Glob>(), Err(GlobError::Empty));
        assert_eq!("A=B".parse::<Glob>(), Err(GlobError::NotAName));
    }

    #[test]
    fn deny_wins_and_an_empty_policy_gives_nothing() {
        let policy = EnvPolicy::new(vec![glob("*")], vec![glob("*SECRET*")]);
        assert!(policy.allows("HOME") && !policy.allows("MY_SECRET_KEY"));
        assert!(!EnvPolicy::default().allows("HOME"));
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = glob(&"*a".repeat(200));
        assert!(!pattern.matches(&"a".repeat(199)));
        assert!(pattern.matches(&"a".repeat(5000)));
    }

    /// The definition of a glob, by recursion: slow and plain.
    fn oracle(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(('*', rest)), None) => oracle(rest, name),
            (Some(('*', rest)), Some((_, name_rest))) => oracle(rest, name) || oracle(pattern, name_rest),
            (Some(_), None) => false,
            (Some((wanted, rest)), Some((found, name_rest))) => {
                (*wanted == '?' || wanted == found) && oracle(rest, name_rest)
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?]{1,8}", name in "[ab]{0,8}") {
            let characters: Vec<char> = pattern.chars().collect();
            let letters: Vec<char> = name.chars().collect();
            prop_assert_eq!(glob(&pattern).matches(&name), oracle(&characters, &letters));
        }
    }
}
