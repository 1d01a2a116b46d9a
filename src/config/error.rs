//! What is wrong with a configuration: every fault at once, each with its place and a way out.

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
};

/// A configuration that cannot be used, with all of its faults.
///
/// Its `Display` is what an operator reads: one paragraph or two for each fault, a blank line
/// between. No secret is ever in it.
#[derive(Debug)]
pub struct ConfigError {
    faults: Vec<Fault>,
}

impl ConfigError {
    /// Takes the faults in any order and puts them into that of the file, those of the environment last.
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| a.place.cmp(&b.place));
        Self { faults }
    }

    /// The faults, never none: those without a line first, then by line, then those of the environment.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        Self::new(vec![fault])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "\n\n" })?;
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl Error for ConfigError {}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key's dotted name, such as `token.timeout`, or a variable's; none when it is the file as a whole.
    pub key: Option<String>,
    /// What was found there and what was expected: the rest of the sentence that the key begins.
    pub problem: String,
    /// Where the value came from.
    pub place: Place,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("error: ")?;
        if let Some(key) = &self.key {
            write!(f, "`{key}` ")?;
        }
        write!(f, "{}\n  in {}", self.problem, self.place)?;
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Where a value came from, or should have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The configuration file.
    File {
        /// As it was named by the caller.
        path: PathBuf,
        /// Counted from 1; none for what is missing.
        line: Option<usize>,
        /// Counted from 1, in characters; only for TOML that cannot be parsed.
        column: Option<usize>,
    },
    /// The environment variable of this name.
    Variable(String),
}

impl Place {
    /// A line of the file, or the file as a whole.
    pub(super) fn file(path: &Path, line: Option<usize>) -> Self {
        let path = path.to_owned();
        Self::File { path, line, column: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => {
                write!(f, "{}", path.display())?;
                for number in [line, column].into_iter().flatten() {
                    write!(f, ":{number}")?;
                }
                Ok(())
            }
            Self::Variable(name) => write!(f, "environment variable `{name}`"),
        }
    }
}
