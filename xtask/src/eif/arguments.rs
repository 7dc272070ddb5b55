//! What `cargo xtask eif` is told.

use super::Boots;
use std::path::PathBuf;

pub(super) const USAGE: &str =
    "[--twice] [--image] [--profile NAME] [--kernel FILE --init FILE --cmdline FILE [--nsm FILE]]";

/// Everything that was asked for.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) boots: Boots,
    pub(super) profile: String,
    /// Build a second time, from another folder, and compare.
    pub(super) twice: bool,
    /// Make a container image FROM scratch of the program, and compare.
    pub(super) image: bool,
}

impl Arguments {
    pub(super) fn parse(words: &[&str]) -> Result<Arguments, String> {
        let (mut profile, mut twice, mut image) = ("release".to_owned(), false, false);
        let (mut kernel, mut init, mut nsm, mut command_line) = (None, None, None, None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word}: a value is missing"));
            match *word {
                "--twice" => twice = true,
                "--image" => image = true,
                "--profile" => profile = (*value()?).to_owned(),
                "--kernel" => kernel = Some(file(value()?)?),
                "--init" => init = Some(file(value()?)?),
                "--nsm" => nsm = Some(file(value()?)?),
                "--cmdline" => command_line = Some(file(value()?)?),
                _ => return Err(format!("{word}: unknown")),
            }
        }
        let boots = match (kernel, init, command_line) {
            (Some(kernel), Some(init), Some(command_line)) => Boots::Given { kernel, init, nsm, command_line },
            (None, None, None) if nsm.is_none() => Boots::newest(),
            _ => return Err("--kernel, --init and --cmdline belong together, and --nsm to them".to_owned()),
        };
        Ok(Arguments { boots, profile, twice, image })
    }
}

/// Whatever folder a command runs in, the file is the one that was meant here.
fn file(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_words_it_is_for_qemu() {
        let arguments = Arguments::parse(&[]).unwrap();
        assert!(matches!(arguments.boots, Boots::Debian(series) if series == "6.12"));
        assert!(!arguments.twice);
        assert_eq!(arguments.profile, "release");
    }

    #[test]
    fn what_boots_on_nitro_is_given_in_files() {
        let words = ["--twice", "--kernel", "k", "--init", "i", "--cmdline", "c", "--nsm", "n"];
        let arguments = Arguments::parse(&words).unwrap();
        let Boots::Given { kernel, init, nsm, command_line } = arguments.boots else { panic!("{arguments:?}") };
        assert_eq!(
            [kernel, init, nsm.unwrap(), command_line],
            ["k", "i", "n", "c"].map(|name| std::path::absolute(name).unwrap())
        );
        assert!(arguments.twice);
    }

    #[test]
    fn half_of_it_and_nonsense_are_refused() {
        for (words, part) in [
            (&["--kernel", "k"][..], "belong together"),
            (&["--nsm", "n"], "belong together"),
            (&["--init"], "a value is missing"),
            (&["--thrice"], "--thrice"),
        ] {
            let error = Arguments::parse(words).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
