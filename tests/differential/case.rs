//! The cases, read from text files.
//!
//! A case begins with `case NAME`. Its request is in lines that begin with `> `, each of which stands for its text and
//! CRLF; `>> ` stands for the text alone. The upstream's answer is in lines with `< ` and `<< `; without one, the
//! upstream answers 200. Escapes are those of [`text::unescape`]. `each` begins many cases that differ in one place:
//! its lines have `{}` there, and each line `NAME = VALUE` among them makes the case `PREFIX-NAME`.

use std::{fs, path::Path};

use crate::text;

/// One exchange, the same for every proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The request, in the parts that are sent one by one; before each but the first, something must have come back.
    pub(crate) parts: Vec<Vec<u8>>,
    /// `requests N`: how many requests a strict reader finds here at most. One, unless said.
    pub(crate) requests: usize,
    pub(crate) then: Then,
    /// `unsteady PEER`: the peer does now this, now that, so it is not compared.
    pub(crate) unsteady: Option<String>,
    /// The upstream's answer to the first request.
    pub(crate) answer: Option<Answer>,
}

/// What the caller does when it has sent all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Then {
    /// Sends a good request at once, which asks for the connection's end.
    #[default]
    Next,
    /// `then wait`: waits for the connection's end.
    Wait,
    /// `then end`: ends its side of the connection.
    End,
}

/// What the upstream sends instead of its usual answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    /// `answer close`: the upstream closes the connection after it.
    pub(crate) close: bool,
    /// `answer early`: it goes out after the request's head, before its body is read.
    pub(crate) early: bool,
}

impl Case {
    /// The bytes that were sent before the next request.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.parts.concat()
    }
}

/// The cases of all files in a directory, by name.
pub(crate) fn all(directory: &Path) -> Vec<Case> {
    let files = fs::read_dir(directory).expect("the cases are there");
    let mut cases: Vec<_> = files
        .map(|file| fs::read_to_string(file.expect("the directory is readable").path()).expect("cases are text"))
        .flat_map(|text| parse(&text))
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn parse(text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for block in blocks(text) {
        let (first, lines) = block.split_first().expect("a block is not empty");
        match first.split_once(' ') {
            Some(("case", name)) => cases.push(case(name, lines, "")),
            Some(("each", prefix)) => {
                let (values, lines): (Vec<&str>, Vec<&str>) = lines.iter().copied().partition(|line| is_value(line));
                for value in values {
                    let (name, value) = value.split_once(" =").expect("as above");
                    let value = value.strip_prefix(' ').unwrap_or(value);
                    cases.push(case(&format!("{prefix}-{}", name.trim_end()), &lines, value));
                }
            }
            _ => panic!("neither `case` nor `each`: {first}"),
        }
    }
    cases
}

/// A value's line: a name first, and no directive.
fn is_value(line: &str) -> bool {
    !line.starts_with(['>', '<']) && line.contains(" =")
}

/// The lines from one `case` or `each` to the next, without comments and empty lines.
fn blocks(text: &str) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with("case ") || line.starts_with("each ") {
            blocks.push(Vec::new());
        }
        blocks.last_mut().unwrap_or_else(|| panic!("outside of a case: {line}")).push(line);
    }
    blocks
}

fn case(name: &str, lines: &[&str], value: &str) -> Case {
    let mut case = Case { name: name.to_owned(), parts: vec![Vec::new()], requests: 1, ..Case::default() };
    for line in lines {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let bytes = || text::unescape(&rest.replacen("{}", value, 1));
        match mark {
            ">" | ">>" => {
                let part = case.parts.last_mut().expect("there is always one");
                part.extend(bytes());
                part.extend_from_slice(if mark == ">" { b"\r\n" } else { b"" });
            }
            "<" | "<<" => {
                let answer = case.answer.get_or_insert_default();
                answer.bytes.extend(bytes());
                answer.bytes.extend_from_slice(if mark == "<" { b"\r\n" } else { b"" });
            }
            "pause" => case.parts.push(Vec::new()),
            "unsteady" => case.unsteady = Some(rest.to_owned()),
            "requests" => case.requests = rest.parse().unwrap_or_else(|_| panic!("{name}: {line}")),
            _ => match *line {
                "then wait" => case.then = Then::Wait,
                "then end" => case.then = Then::End,
                "answer close" => case.answer.get_or_insert_default().close = true,
                "answer early" => case.answer.get_or_insert_default().early = true,
                _ => panic!("{name}: an unknown line: {line}"),
            },
        }
    }
    case
}

#[test]
fn case_is_its_lines_with_their_ends() {
    let cases =
        parse("# text\ncase a\n> GET / HTTP/1.1\n>\n>> x\\n\n< HTTP/1.1 204 No\n<\nanswer close\n\nrequests 2\n");
    let [case] = cases.as_slice() else { panic!("{cases:?}") };
    assert_eq!((case.name.as_str(), case.requests), ("a", 2));
    assert_eq!(case.bytes(), b"GET / HTTP/1.1\r\n\r\nx\n");
    let answer = case.answer.as_ref().expect("there is one");
    assert_eq!(answer.bytes, b"HTTP/1.1 204 No\r\n\r\n");
    assert!(answer.close);
}

#[test]
fn each_value_makes_a_case() {
    let cases = parse("each t\n> GET {} HTTP/1.1\none   = /1\ntwo = /2 = 2\n");
    let made: Vec<_> = cases.iter().map(|case| (case.name.as_str(), case.bytes())).collect();
    assert_eq!(made, [("t-one", b"GET /1 HTTP/1.1\r\n".to_vec()), ("t-two", b"GET /2 = 2 HTTP/1.1\r\n".to_vec())]);
}
