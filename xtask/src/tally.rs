//! Counting what was tried: the summaries of `cargo test` and `cargo nextest`, and single checks beside them.

/// How much passed, failed and was skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Sums every summary in the output of a test run.
    pub(crate) fn of(output: &str) -> Tally {
        let mut tally = Tally::default();
        for line in output.lines() {
            // nextest shows the output of a failed test indented, a summary of its own among it: that is no second count.
            let counts = if let Some(rest) = line.strip_prefix("test result:") {
                rest.split_once(". ").map(|(_, counts)| counts.replace(';', ","))
            } else if line.trim_start().starts_with("Summary [") {
                line.split_once(" run: ").map(|(_, counts)| counts.to_owned())
            } else {
                None
            };
            for count in counts.iter().flat_map(|counts| counts.split(',')) {
                let mut words = count.split_whitespace();
                let Some(number) = words.next().and_then(|number| number.parse::<u64>().ok()) else { continue };
                match words.next() {
                    Some("passed") => tally.passed += number,
                    Some("failed" | "timed" | "exec") => tally.failed += number,
                    Some("ignored" | "skipped") => tally.skipped += number,
                    _ => {}
                }
            }
        }
        tally
    }

    /// Both together.
    pub(crate) fn and(self, other: Tally) -> Tally {
        Tally {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summaries_of_cargo_test_are_summed() {
        let output = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s\n\
                      test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(Tally::of(output), Tally { passed: 5, failed: 4, skipped: 1 });
    }

    #[test]
    fn the_summary_of_nextest_is_read() {
        let output = "     Summary [  12.012s] 9 tests run: 6 passed (2 slow), 2 failed, 1 timed out, 5 skipped";
        assert_eq!(Tally::of(output), Tally { passed: 6, failed: 3, skipped: 5 });
        assert_eq!(Tally::of("     Summary [   0.012s] 1/4 tests run: 1 passed, 0 skipped").passed, 1);
    }

    #[test]
    fn the_shown_output_of_a_failed_test_is_not_counted_again() {
        let output = "  stdout ---\n    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 8 filtered out\n\
                      \x20    Summary [   0.012s] 2 tests run: 1 passed, 1 failed, 0 skipped";
        assert_eq!(Tally::of(output), Tally { passed: 1, failed: 1, skipped: 0 });
    }

    #[test]
    fn what_is_no_summary_counts_for_nothing() {
        assert_eq!(Tally::of("running 3 tests\ntest a ... ok\n3 passed, 0 failed"), Tally::default());
    }
}
