//! Bytes of a log connection → whole lines of bounded length, and the text of a line as it may be printed.
//!
//! No sockets and no output here.

use std::fmt::Write as _;

use serde::Serialize;

/// Cuts a byte stream into lines, each at most `cap` bytes; what is longer is cut, and says how much.
#[derive(Debug)]
pub struct LineSplitter {
    cap: usize,
    line: Vec<u8>,
    cut: u64,
}

/// One line as it was received, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub struct RawLine {
    /// The bytes, at most the cap.
    pub bytes: Vec<u8>,
    /// How many bytes of the line were cut off behind them.
    pub cut: u64,
}

impl LineSplitter {
    /// A splitter at the beginning of a line.
    pub fn new(cap: usize) -> Self {
        Self { cap, line: Vec::new(), cut: 0 }
    }

    /// Takes bytes up to and including the next newline; the line if there was one, and the bytes that are left.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> (Option<RawLine>, &'a [u8]) {
        let end = bytes.iter().position(|b| *b == b'\n');
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        let room = self.cap.saturating_sub(self.line.len());
        let (kept, cut) = part.split_at(room.min(part.len()));
        self.line.extend_from_slice(kept);
        self.cut = self.cut.saturating_add(cut.len() as u64);
        match rest.split_first() {
            Some((_newline, rest)) => (Some(self.take()), rest),
            None => (None, rest),
        }
    }

    /// The tail without a newline, when the connection has ended.
    pub fn finish(&mut self) -> Option<RawLine> {
        (!self.line.is_empty() || self.cut > 0).then(|| self.take())
    }

    fn take(&mut self) -> RawLine {
        RawLine { bytes: std::mem::take(&mut self.line), cut: std::mem::take(&mut self.cut) }
    }
}

impl RawLine {
    /// The line as text: what is not UTF-8 becomes U+FFFD, and a cut is said at its end.
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut > 0 {
            // Writing to a String does not fail.
            _ = write!(text, " [cut: {} bytes more]", self.cut);
        }
        text
    }

    /// The text so that it cannot move a cursor, forge a line or break an encoding.
    pub fn printable(&self) -> String {
        escape_controls(&self.text())
    }

    /// The line as a JSON object on one line, without its newline.
    pub fn json(&self, time: &str, enclave: &str, seq: u64) -> String {
        let line = JsonLine { time, enclave, seq, line: &self.text() };
        // Inside a JSON string an escaped character is the character.
        escape_controls(&serde_json::to_string(&line).unwrap_or_default())
    }
}

/// A line in JSON output.
#[derive(Serialize)]
struct JsonLine<'a> {
    time: &'a str,
    enclave: &'a str,
    seq: u64,
    line: &'a str,
}

/// Control characters but TAB as JSON would escape them; nothing else is changed.
fn escape_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push('\t'),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            // Line and paragraph separators end a line for some readers of logs.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(cap: usize, chunks: &[&[u8]]) -> Vec<RawLine> {
        let mut splitter = LineSplitter::new(cap);
        let mut lines = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                let (line, left) = splitter.push(rest);
                lines.extend(line);
                rest = left;
            }
        }
        lines.extend(splitter.finish());
        lines
    }

    fn line(bytes: &[u8], cut: u64) -> RawLine {
        RawLine { bytes: bytes.to_vec(), cut }
    }

    #[test]
    fn lines_are_cut_where_they_end_and_where_they_are_too_long() {
        assert_eq!(
            split(5, &[b"ab\n\ncdef", b"ghij\nk"]),
            [line(b"ab", 0), line(b"", 0), line(b"cdefg", 3), line(b"k", 0)]
        );
        assert_eq!(split(5, &[b"12345\n"]), [line(b"12345", 0)]);
        assert_eq!(split(5, &[]), []);
    }

    #[test]
    fn a_line_cannot_act_on_the_terminal() {
        let hostile = line(b"a\x1b[2J\r\x00\tb\\n\xff\xc2\x85\xe2\x80\xa8\x7f", 7);
        assert_eq!(hostile.printable(), "a\\u001b[2J\\r\\u0000\tb\\n\u{fffd}\\u0085\\u2028\\u007f [cut: 7 bytes more]");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_the_bytes_arrive(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..400) {
            let (a, b) = bytes.split_at(at.min(bytes.len()));
            let mut joined = Vec::new();
            for (i, l) in split(1000, &[a, b]).into_iter().enumerate() {
                if i > 0 { joined.push(b'\n'); }
                prop_assert_eq!(l.cut, 0);
                joined.extend(l.bytes);
            }
            let expected = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            prop_assert_eq!(joined, expected);
        }

        #[test]
        fn what_is_printed_has_no_control_character(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = RawLine { bytes, cut: 0 }.printable();
            prop_assert!(text.chars().all(|c| c == '\t' || !c.is_control()));
        }
    }
}
