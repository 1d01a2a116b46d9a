//! Bytes as text: how the cases write them, and how the table shows them.

/// The longest value that is shown whole.
const SHOWN: usize = 120;

/// The bytes that a line of a case stands for: `\r`, `\n`, `\t`, `\0`, `\\`, `\xNN`, and `\{text*1000}` for a repetition.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let kind = rest.as_bytes().get(at + 1).unwrap_or_else(|| panic!("an escape without its letter: {text}"));
        rest = &rest[at + 2..];
        match kind {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'0' => bytes.push(0),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                let (code, after) = rest.split_at(2);
                bytes.push(u8::from_str_radix(code, 16).unwrap_or_else(|_| panic!("no hexadecimal code: {text}")));
                rest = after;
            }
            b'{' => {
                let (repeated, after) = rest.split_once('}').unwrap_or_else(|| panic!("no end: {text}"));
                let (part, count) = repeated.rsplit_once('*').unwrap_or_else(|| panic!("no count: {text}"));
                let count = count.parse().unwrap_or_else(|_| panic!("no count: {text}"));
                bytes.extend(unescape(part).repeat(count));
                rest = after;
            }
            _ => panic!("an unknown escape: {text}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Bytes for people. What is long is cut, with its length.
pub(crate) fn show(bytes: &[u8]) -> String {
    if bytes.len() <= SHOWN {
        return bytes.escape_ascii().to_string();
    }
    format!("{}... ({} bytes)", bytes[..SHOWN / 3].escape_ascii(), bytes.len())
}

/// Whether a name is one of a pattern's, in which a `*` stands for anything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

#[test]
fn escapes_stand_for_their_bytes() {
    assert_eq!(unescape(r"a\r\n\t\0\\\xfFb"), b"a\r\n\t\0\\\xffb");
    assert_eq!(unescape(r"\{ab\x00*2}c"), b"ab\0ab\0c");
}

#[test]
fn star_stands_for_anything() {
    assert!(matches("a*c*", "abc") && matches("*", "") && matches("a", "a"));
    assert!(!matches("a*c", "abd") && !matches("a", "ab"));
}
