//! `token-valet config schema`, `completions` and `man`: texts that are printed as they are.
//!
//! They are files rather than made at run time: what makes them would be three times as large. Tests hold the
//! completions and the commands of the manual page to the command line, and the schema to the configuration.

use std::io::{ErrorKind, Write, stdout};

use clap::ValueEnum;

use super::CliError;

/// What a configuration file may say, as a JSON Schema.
pub(super) const SCHEMA: &str = include_str!("../../config/token-valet.schema.json");
/// The manual page, for `man`.
pub(super) const MANUAL: &str = include_str!("documents/token-valet.1");

/// A shell that completes what is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
    Elvish,
    #[value(name = "powershell")]
    Pwsh,
}

impl Shell {
    /// The script by which it completes.
    pub(super) fn completions(self) -> &'static str {
        match self {
            Self::Bash => include_str!("documents/token-valet.bash"),
            Self::Zsh => include_str!("documents/_token-valet"),
            Self::Fish => include_str!("documents/token-valet.fish"),
            Self::Elvish => include_str!("documents/token-valet.elv"),
            Self::Pwsh => include_str!("documents/_token-valet.ps1"),
        }
    }
}

/// That the reader wants no more of it is no fault.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    match stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(CliError::Print(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
