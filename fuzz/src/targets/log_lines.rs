//! An enclave's log: the same lines however the bytes are cut, each within its cap and nothing uncounted; what is printed
//! is one line without a control character, in JSON always valid and with the line unchanged in it.

use enclave_bridge::logs::lines::{LineSplitter, RawLine};

use super::is_plain;
use crate::input::{Cut, Input};

/// Lines of one input that are printed; each is printed by itself, so more of them show nothing new.
const PRINTED_MAX: usize = 8;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (cap, seed) = (usize::from(input.u16() % 300), input.u32());
    let stream = input.rest();
    let expected: Vec<RawLine> = stream
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
        .map(|line| RawLine { bytes: line[..line.len().min(cap)].to_vec(), cut: line.len().saturating_sub(cap) as u64 })
        .collect();
    for cut in Cut::all(seed) {
        assert_eq!(split(&cut.pieces(stream), cap), expected);
    }
    for line in expected.iter().take(PRINTED_MAX) {
        printed(line);
        in_json(line, seed);
    }
}

fn split(pieces: &[&[u8]], cap: usize) -> Vec<RawLine> {
    let mut splitter = LineSplitter::new(cap);
    let mut lines = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (line, left) = splitter.push(rest);
            lines.extend(line);
            assert!(left.len() < rest.len());
            rest = left;
        }
    }
    lines.extend(splitter.finish());
    assert_eq!(splitter.finish(), None, "the tail comes once");
    lines
}

/// A tab is the one control character that a line may have.
fn is_harmless(text: &str) -> bool {
    is_plain(&text.replace('\t', ""))
}

fn printed(line: &RawLine) {
    let (text, printed) = (line.text(), line.printable());
    assert!(is_harmless(&printed));
    assert!(printed.len() <= 6 * line.bytes.len() + 64, "an escape has six bytes at most");
    match String::from_utf8(line.bytes.clone()) {
        Ok(whole) if line.cut == 0 => assert_eq!(text, whole, "text is not changed"),
        Ok(_) => assert!(text.ends_with(&format!(" [cut: {} bytes more]", line.cut)), "a cut is told"),
        Err(_) => assert!(text.contains('\u{fffd}')),
    }
    // A backslash of the enclave's own is left alone, so only without one can the printed text be read back.
    if !text.contains('\\') {
        assert_eq!(unescaped(&printed), text);
        assert!(is_harmless(&text) == (printed == text), "nothing else is changed");
    }
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match characters.next().expect("an escape") {
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'u' => {
                let digits: String = characters.by_ref().take(4).collect();
                out.push(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).expect("a character"));
            }
            other => panic!("an escape of {other:?}"),
        }
    }
    out
}

fn in_json(line: &RawLine, seed: u32) {
    // A socket's path is part of an enclave's name, and the operator may call it as he likes.
    let enclave = if seed & 1 == 0 { "16".to_owned() } else { format!("/run/\"{seed}\"\u{85}\n") };
    let json = line.json("2026-01-01T00:00:00Z", &enclave, u64::from(seed));
    assert!(is_plain(&json), "a raw control character in JSON");
    let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(read["line"], line.text());
    assert_eq!(read["enclave"], enclave);
    assert_eq!(read["seq"], seed);
    assert_eq!(read.as_object().map(serde_json::Map::len), Some(4), "no key but the four");
}
