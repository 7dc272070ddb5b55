//! "Did you mean": the nearest of a few known words.

/// The most edits between a word and what it was meant to be; more, and the guess would be noise.
const EDITS_MAX: usize = 2;
/// Bytes of a word that is still compared: longer than any known word, and a bound on the work.
const WORD_MAX_BYTES: usize = 64;

/// The known word that is nearest to `word`, if one is near.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > WORD_MAX_BYTES {
        return None;
    }
    known
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= EDITS_MAX)
        .min()
        .map(|(_, word)| word)
}

/// Levenshtein's distance.
fn edits(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, a) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (b, above) in other.chars().zip(row.iter().skip(1)) {
            let best = (diagonal + usize::from(a != b)).min(left + 1).min(above + 1);
            diagonal = *above;
            left = best;
            next.push(best);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        let known = ["monitor", "log_level", "init_port"];
        assert_eq!(nearest("monitr", known.into_iter()), Some("monitor"));
        assert_eq!(nearest("log-level", known.into_iter()), Some("log_level"));
        assert_eq!(nearest("Monitor", known.into_iter()), Some("monitor"));
        assert_eq!(nearest("something", known.into_iter()), None);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", ""), 3);
    }
}
