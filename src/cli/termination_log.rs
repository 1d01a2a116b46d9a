//! Where Kubernetes looks for a container's last words (`terminationMessagePath`).

use std::{
    env,
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{Seek, Write},
};

use crate::report::shortened;

/// Kubernetes' default, which it mounts into each container.
const DEFAULT: &str = "/dev/termination-log";
/// Names another place. Not a key of the configuration, whose own faults are told there.
const VARIABLE: &str = "TOKEN_VALET_TERMINATION_LOG";
/// Kubernetes reads no more; the mark of what is missing included.
const MOST_BYTES: usize = 4_096 - "[...]".len();

/// The file, open from the start: a confined process could not open it at its end.
#[derive(Debug)]
pub(super) struct TerminationLog(File);

impl TerminationLog {
    /// `None` where there is no such file, or it may not be written.
    pub(super) fn open() -> Option<Self> {
        let path = env::var_os(VARIABLE).unwrap_or_else(|| OsString::from(DEFAULT));
        // Not a pipe, which would have to be waited for.
        if !std::fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        Some(Self(OpenOptions::new().write(true).open(path).ok()?))
    }

    /// Has the file say why the process ends, and nothing else. That it cannot be written is not told: standard
    /// error has it all.
    pub(super) fn write(mut self, text: &str) {
        let line = line(text);
        let _ = self.0.set_len(0).and_then(|()| self.0.rewind()).and_then(|()| self.0.write_all(line.as_bytes()));
    }
}

/// The errors of a message on one line, without hints, which are paragraphs of their own.
fn line(text: &str) -> String {
    let errors = text.split("\n\n").filter(|paragraph| !paragraph.starts_with("hint: "));
    let words = errors.map(|error| error.split_whitespace().collect::<Vec<_>>().join(" "));
    shortened(&words.collect::<Vec<_>>().join("; "), MOST_BYTES).into_owned()
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_message_becomes_one_line_without_hints_of_at_most_4096_bytes() {
        let text = "error: `a.b` is 1, expected 2\n  in x.toml:3\n\nhint: write 2\n\nerror: no\n  in x.toml";
        assert_eq!(line(text), "error: `a.b` is 1, expected 2 in x.toml:3; error: no in x.toml");
        assert_eq!(line(&"x".repeat(5_000)).len(), 4_096);
    }
}
