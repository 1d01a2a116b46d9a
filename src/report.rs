//! An error with its causes, on one line.

use std::{error::Error, fmt};

/// Displays an error followed by each of its causes, separated by colons, for log fields and the terminal.
///
/// Of what an HTTP/2 peer says as it ends a connection only the code is told: its text may be anything,
/// and long.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a>(pub &'a dyn Error);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut told = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            // Wrappers that say nothing of their own repeat what they wrap.
            let text = match error.downcast_ref().and_then(h2::Error::reason) {
                Some(reason) => format!("HTTP/2 {reason:?}"),
                None => error.to_string(),
            };
            if text != told {
                write!(f, ": {text}")?;
            }
            told = text;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::Report;

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
}
