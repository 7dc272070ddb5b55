//! Untrusted text on its way into a sentence: capped, quoted and without control characters. Only crate-internal.

/// How much of a peer's own text a sentence repeats, in bytes before escaping. Enough to recognise a key or a name,
/// little enough that the sentence still fits a refusal of 256 bytes.
const ECHO_MAX_BYTES: usize = 48;

/// The same after escaping, its quotes included: an escape has up to ten bytes for one, and what follows the text in a
/// sentence is to have its place too.
const ESCAPED_MAX_BYTES: usize = 100;

/// `text` in double quotes, cut after [`ECHO_MAX_BYTES`] and with everything but plain characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut cut = cut_to(text, ECHO_MAX_BYTES);
    let mut shown = format!("{cut:?}");
    while shown.len() > ESCAPED_MAX_BYTES {
        cut = cut_to(cut, cut.len().saturating_sub(1));
        shown = format!("{cut:?}");
    }
    if cut.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// `text` as one step of a path: as it is when it is an ordinary key, quoted otherwise.
pub(crate) fn path_step(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.len() <= ECHO_MAX_BYTES && text.chars().all(plain) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// The longest beginning of `text` that has at most `max` bytes and ends between two characters.
pub(crate) fn cut_to(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    loop {
        match text.split_at_checked(end) {
            Some((head, _)) => return head,
            None => end = end.saturating_sub(1),
        }
    }
}

/// `text` with every control character replaced by its escape (`\n`, `\u{1b}`), so that it stays on its line.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut_to("aäb", 2), "a");
        assert_eq!(cut_to("aäb", 3), "aä");
        assert_eq!(cut_to("aäb", 99), "aäb");
        assert_eq!(cut_to("ä", 1), "");
    }

    #[test]
    fn echoed_text_is_capped_and_escaped() {
        assert_eq!(quoted("a\n\u{1b}[0m"), "\"a\\n\\u{1b}[0m\"");
        let long = quoted(&"x".repeat(100_000));
        assert!(long.len() < 60 && long.ends_with('…'), "{long}");
        let escaped = quoted(&"\u{1}".repeat(48));
        assert!(escaped.len() <= ESCAPED_MAX_BYTES + '…'.len_utf8() && escaped.ends_with("\\u{1}\"…"), "{escaped}");
        assert_eq!(path_step("bridgeTcpPort"), "bridgeTcpPort");
        assert_eq!(path_step("a.b"), "\"a.b\"");
        assert_eq!(path_step(""), "\"\"");
    }

    #[test]
    fn a_sentence_stays_on_its_line() {
        assert_eq!(one_line("a\r\nb\u{202e}c"), "a\\r\\nb\\u{202e}c");
    }
}
