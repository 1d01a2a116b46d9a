//! A tiny reader of HTTP/1 messages, which shares nothing with any of the proxies. It only finds where messages end,
//! and notes whatever another reader might understand in another way.

use std::io::{self, BufRead, Read};

use crate::text::show;

/// A message as it came, request or response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The first line, without its end.
    pub(crate) start: Vec<u8>,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// Whether it came to its end.
    pub(crate) is_whole: bool,
    /// What is not as RFC 9112 has it.
    pub(crate) oddities: Vec<String>,
}

/// How a reader knows a message's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    #[default]
    NoBody,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Message {
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_slice()).collect()
    }

    /// The first line's words: method, target and version, or version, status and reason.
    pub(crate) fn words(&self) -> [&[u8]; 3] {
        let mut words = self.start.splitn(3, |byte| *byte == b' ');
        [(); 3].map(|()| words.next().unwrap_or_default())
    }

    pub(crate) fn status(&self) -> u16 {
        std::str::from_utf8(self.words()[1]).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Reads a head; `None` if nothing comes any more.
    pub(crate) fn head(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        if input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut message = Self::default();
        message.start = line(input, &mut message.oddities)?;
        message.fields = fields(input, &mut message.oddities)?;
        Ok(Some(message))
    }

    /// Reads the body of a request.
    pub(crate) fn request_body(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        self.framing = match self.framing_by_fields() {
            Framing::UntilClose => Framing::NoBody,
            framing => framing,
        };
        self.read_body(input)
    }

    /// Reads the body of the answer to a request with this method.
    pub(crate) fn response_body(&mut self, input: &mut impl BufRead, method: &[u8]) -> io::Result<()> {
        let status = self.status();
        self.framing = match self.framing_by_fields() {
            _ if method == b"HEAD" || matches!(status, 100..=199 | 204 | 304) => Framing::NoBody,
            framing => framing,
        };
        self.read_body(input)
    }

    /// By RFC 9112 section 6.3; what is ambiguous there is noted.
    fn framing_by_fields(&mut self) -> Framing {
        let codings: Vec<_> = self.values("transfer-encoding").iter().map(|value| show(value)).collect();
        let lengths: Vec<_> = self.values("content-length").iter().map(|value| show(value)).collect();
        if lengths.len() > 1 {
            self.oddities.push(format!("{} fields Content-Length", lengths.len()));
        }
        if !codings.is_empty() {
            if !lengths.is_empty() {
                self.oddities.push("Content-Length beside Transfer-Encoding".to_owned());
            }
            if codings.len() > 1 || !codings[0].eq_ignore_ascii_case("chunked") {
                self.oddities.push(format!("Transfer-Encoding: {}", codings.join(" | ")));
            }
            return Framing::Chunked;
        }
        let Some(length) = lengths.first() else { return Framing::UntilClose };
        match length.parse() {
            Ok(count) if length.bytes().all(|byte| byte.is_ascii_digit()) => Framing::Length(count),
            _ => {
                self.oddities.push(format!("Content-Length: {length}"));
                Framing::UntilClose
            }
        }
    }

    fn read_body(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        match self.framing {
            Framing::NoBody => {}
            Framing::Length(count) => exactly(input, count, &mut self.body)?,
            Framing::UntilClose => drop(input.read_to_end(&mut self.body)?),
            Framing::Chunked => loop {
                let size = self.chunk_size(input)?;
                if size == 0 {
                    self.trailers = fields(input, &mut self.oddities)?;
                    break;
                }
                exactly(input, size, &mut self.body)?;
                if !line(input, &mut self.oddities)?.is_empty() {
                    self.oddities.push("a chunk that goes on after its end".to_owned());
                    return Err(io::Error::other("a chunk goes on after its end"));
                }
            },
        }
        self.is_whole = true;
        Ok(())
    }

    fn chunk_size(&mut self, input: &mut impl BufRead) -> io::Result<u64> {
        let line = line(input, &mut self.oddities)?;
        let mut parts = line.splitn(2, |byte| *byte == b';');
        let size = std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
        let parsed = u64::from_str_radix(size, 16);
        // Who reads the first thing as a number may read it in another way.
        if parts.next().is_some() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) || parsed.is_err() {
            self.oddities.push(format!("the size of a chunk: {}", show(&line)));
        }
        parsed.map_err(io::Error::other)
    }
}

fn exactly(input: &mut impl BufRead, count: u64, body: &mut Vec<u8>) -> io::Result<()> {
    let copied = io::copy(&mut input.take(count), body)?;
    if copied < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn fields(input: &mut impl BufRead, oddities: &mut Vec<String>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(input, oddities)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        if name.is_empty() || value.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            oddities.push(format!("a field without a proper name: {}", show(&line)));
        }
        let value = value.strip_prefix(b":").unwrap_or(value);
        fields.push((show(&name.to_ascii_lowercase()), value.trim_ascii().to_vec()));
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn line(input: &mut impl BufRead, oddities: &mut Vec<String>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    line.pop().filter(|byte| *byte == b'\n').ok_or(io::ErrorKind::UnexpectedEof)?;
    if line.pop_if(|byte| *byte == b'\r').is_none() {
        oddities.push(format!("a bare LF: {}", show(&line)));
    }
    if line.iter().any(|byte| b"\r\0".contains(byte)) {
        oddities.push(format!("a bare CR or NUL: {}", show(&line)));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::{Framing, Message};

    fn request(mut bytes: &[u8]) -> (Message, usize) {
        let mut message = Message::head(&mut bytes).expect("a head").expect("a message");
        // An error shows in `is_whole`.
        let _ = message.request_body(&mut bytes);
        (message, bytes.len())
    }

    #[test]
    fn messages_end_where_their_framing_says() {
        let (message, left) = request(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabGET");
        assert_eq!((message.framing, message.body.as_slice(), left), (Framing::Length(2), &b"ab"[..], 3));
        let (message, left) =
            request(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: 1\r\n\r\nX");
        assert_eq!((message.framing, message.body.as_slice(), left), (Framing::Chunked, &b"ab"[..], 1));
        assert_eq!(message.trailers, [("t".to_owned(), b"1".to_vec())]);
        assert!(message.is_whole && message.oddities.is_empty());
    }

    #[test]
    fn what_is_ambiguous_is_noted() {
        for head in [
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 0\r\nContent-Length: 0\r\n",
            "Content-Length: +0\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "A: b\n",
            "A : b\r\n",
            "A: b\rc\r\n",
        ] {
            let (message, _) = request(format!("POST / HTTP/1.1\r\n{head}\r\n0\r\n\r\n").as_bytes());
            assert_eq!(message.oddities.len(), 1, "{head}: {:?}", message.oddities);
        }
    }
}
