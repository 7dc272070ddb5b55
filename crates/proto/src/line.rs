//! The one bounded line reader of the project. No meaning of any line lives here.

use std::fmt;

/// Gathers the bytes of one line until its `0A`, up to a cap.
///
/// Feed what was read with [`push`](Self::push). Once it reports [`LineProgress::Line`], call
/// [`take_line`](Self::take_line); the reader is then empty and ready for the next line. Bytes behind the `0A` are
/// never taken: `consumed` says where they begin. At most `cap` bytes are ever held, whatever is pushed.
pub struct LineReader {
    cap: usize,
    line: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Complete,
    TooLong,
}

/// What a push into a [`LineReader`] or a reader like it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineProgress {
    /// The line goes on; all bytes were taken.
    NeedMore,
    /// The line is complete. `consumed` counts the bytes of this push up to and with the `0A`; the rest belongs to
    /// the caller.
    Line {
        /// Bytes of this push that belong to the line, its `0A` included.
        consumed: usize,
    },
    /// More than the cap came without a `0A`. Nothing further is taken, now or later.
    TooLong,
}

impl LineReader {
    /// A reader of lines of at most `cap` bytes, the `0A` not counted.
    pub fn new(cap: usize) -> Self {
        Self { cap, line: Vec::new(), state: State::Reading }
    }

    /// Takes bytes up to the end of the line. After [`LineProgress::Line`] nothing is taken until the line is.
    pub fn push(&mut self, bytes: &[u8]) -> LineProgress {
        match self.state {
            State::Complete => return LineProgress::Line { consumed: 0 },
            State::TooLong => return LineProgress::TooLong,
            State::Reading => {}
        }
        let room = self.cap.saturating_sub(self.line.len());
        // The 0A itself may stand one byte behind the cap.
        let window = bytes.get(..bytes.len().min(room.saturating_add(1))).unwrap_or_default();
        if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
            self.line.extend_from_slice(window.get(..end).unwrap_or_default());
            self.state = State::Complete;
            return LineProgress::Line { consumed: end.saturating_add(1) };
        }
        if window.len() > room {
            self.line = Vec::new();
            self.state = State::TooLong;
            return LineProgress::TooLong;
        }
        self.line.extend_from_slice(window);
        LineProgress::NeedMore
    }

    /// The line without its `0A`, once it is complete (until then, what there is of it). The reader starts afresh.
    pub fn take_line(&mut self) -> Vec<u8> {
        if self.state == State::Complete {
            self.state = State::Reading;
        }
        std::mem::take(&mut self.line)
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.line.len()
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}

impl fmt::Debug for LineReader {
    /// Without the bytes: a line may carry the environment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineReader")
            .field("cap", &self.cap)
            .field("len", &self.line.len())
            .field("state", &self.state)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_newline_and_leaves_the_rest() {
        let mut reader = LineReader::new(8);
        assert!(reader.is_empty());
        assert_eq!(reader.push(b"ab"), LineProgress::NeedMore);
        assert!(!reader.is_empty());
        assert_eq!(reader.len(), 2);
        assert_eq!(reader.push(b"c\nrest"), LineProgress::Line { consumed: 2 });
        assert_eq!(reader.push(b"rest"), LineProgress::Line { consumed: 0 }, "the line has not been taken");
        assert_eq!(reader.take_line(), b"abc");
        assert_eq!(reader.push(b"rest\n"), LineProgress::Line { consumed: 5 });
        assert_eq!(reader.take_line(), b"rest");
    }

    #[test]
    fn the_cap_does_not_count_the_newline() {
        let mut reader = LineReader::new(3);
        assert_eq!(reader.push(b"abc"), LineProgress::NeedMore);
        assert_eq!(reader.push(b"\n"), LineProgress::Line { consumed: 1 });
        let mut reader = LineReader::new(3);
        assert_eq!(reader.push(b"abc\n"), LineProgress::Line { consumed: 4 });
        let mut reader = LineReader::new(3);
        assert_eq!(reader.push(b"abcd\n"), LineProgress::TooLong);
        assert_eq!(reader.push(b"\n"), LineProgress::TooLong, "too long stays too long");
        assert_eq!(reader.len(), 0);
    }

    #[test]
    fn a_long_push_holds_no_more_than_the_cap() {
        let mut reader = LineReader::new(1000);
        for _ in 0..1000 {
            reader.push(&[b'x'; 4096]);
            assert!(reader.line.capacity() <= 2000);
        }
    }

    #[test]
    fn a_reader_of_empty_lines() {
        let mut reader = LineReader::new(0);
        assert_eq!(reader.push(b"\n\n"), LineProgress::Line { consumed: 1 });
        assert!(reader.is_empty());
        assert_eq!(reader.take_line(), b"");
        assert_eq!(reader.push(b"x"), LineProgress::TooLong);
    }
}
