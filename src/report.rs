//! An error with its causes, on one line.

use std::{borrow::Cow, error::Error, fmt};

/// The most that an error says of itself, and each of its causes, in bytes: some repeat what others said.
const MAX_TEXT: usize = 1_024;

/// Displays an error followed by each of its causes, separated by colons, for log fields and the terminal.
///
/// Of what an HTTP/2 peer says as it ends a connection only the code is told: its text may be anything,
/// and long.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a>(pub &'a dyn Error);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        f.write_str(&shortened(&told, MAX_TEXT))?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            // Wrappers that say nothing of their own repeat what they wrap.
            let text = match error.downcast_ref().and_then(h2::Error::reason) {
                Some(reason) => format!("HTTP/2 {reason:?}"),
                None => error.to_string(),
            };
            if text != told {
                write!(f, ": {}", shortened(&text, MAX_TEXT))?;
            }
            told = text;
            cause = error.source();
        }
        Ok(())
    }
}

/// The first `most` bytes of a text of others, with a mark if there was more: for log fields.
#[must_use]
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    format!("{}[...]", &text[..text.floor_char_boundary(most)]).into()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{MAX_TEXT, Report, shortened};

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_follow_and_repetitions_are_left_out() {
        let plain = Outer(io::Error::other("inner"));
        assert_eq!(Report(&plain).to_string(), "outer: inner");
        let nested = Outer(io::Error::other(io::Error::other("inner")));
        assert_eq!(Report(&nested).to_string(), "outer: inner");
    }

    #[test]
    fn a_long_text_is_cut_short_and_marked() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("longer", 5), "longe[...]");
        assert_eq!(shortened("ab\u{e9}", 3), "ab[...]", "not within a character");
        let long = Outer(io::Error::other("x".repeat(100_000)));
        assert_eq!(Report(&long).to_string().len(), "outer: [...]".len() + MAX_TEXT);
    }
}
