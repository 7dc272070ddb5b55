//! Dictionaries as libFuzzer reads them: a word in double quotes on each line, `\xAB`, `\\` and `\"` in it, `#` before remarks.

/// The words; an error names the line.
pub(crate) fn read(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| word(line).ok_or_else(|| format!("no word: {line}"))).collect()
}

fn word(line: &str) -> Option<Vec<u8>> {
    let mut rest = line.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut word = Vec::new();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            word.push(byte);
            continue;
        }
        let (escape, behind) = rest.split_first()?;
        rest = behind;
        match escape {
            b'\\' | b'"' => word.push(*escape),
            b'x' => {
                let (digits, behind) = rest.split_first_chunk::<2>()?;
                word.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = behind;
            }
            _ => return None,
        }
    }
    Some(word)
}

#[test]
fn words_are_read() {
    let text = "# two\n\"a\\x0A\\\\\\\"\"\n\n\"b\"\n";
    assert_eq!(read(text), Ok(vec![b"a\n\\\"".to_vec(), b"b".to_vec()]));
    assert!(read("\"\\q\"").is_err() && read("word").is_err() && read("\"\\x1\"").is_err());
}
