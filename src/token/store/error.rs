//! Why the state file cannot be used, and what helps.

use std::{fmt, io, path::PathBuf, time::Duration};

/// A state file that cannot be used. Names the file, never its content.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The path ends in no file name.
    #[error("`{}` is not the path of a file", path.display())]
    NoFileName {
        /// As it was given.
        path: PathBuf,
    },
    /// The directory is missing, or nothing can be created in it.
    #[error("the state directory `{}` cannot be written to", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Following it could read or replace another file.
    #[error("`{}` is a symbolic link", path.display())]
    SymbolicLink {
        /// The state file or its lock.
        path: PathBuf,
    },
    /// A directory, a device, a pipe or a socket.
    #[error("`{}` is not a regular file", path.display())]
    NotRegular {
        /// The state file or its lock.
        path: PathBuf,
    },
    /// Whoever owns a file can change it.
    #[error("`{}` belongs to user {owner}, and this process is user {expected}", path.display())]
    ForeignOwner {
        /// The state file or its lock.
        path: PathBuf,
        /// The user id of the owner.
        owner: u32,
        /// The effective user id of this process.
        expected: u32,
    },
    /// All users of the machine may read or change it, so the refresh token may be known by now.
    #[error("`{}` is open to all users (mode {mode:03o})", path.display())]
    Exposed {
        /// The state file or its lock.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another process has been at the same state file for too long.
    #[error("`{}` is held by another process for over {} s", path.display(), patience.as_secs())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long it was tried.
        patience: Duration,
    },
    /// The file is there and cannot be opened or read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The state file or its lock.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The file is not what this program writes.
    #[error("the state file `{}` is damaged at line {line}, column {column}", path.display())]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// Where reading ended; from 1.
        line: usize,
        /// Likewise; 0 before a line's first character.
        column: usize,
    },
    /// Another version of this program wrote the file.
    #[error("the state file `{}` is of version {found}, expected {expected}", path.display())]
    Version {
        /// The state file.
        path: PathBuf,
        /// What it states.
        found: u64,
        /// The only one that can be read.
        expected: u64,
    },
    /// The file, or the record to be written, is over [`MAX_STATE_BYTES`](super::MAX_STATE_BYTES).
    #[error("the state in `{}` is over {} KiB", path.display(), super::MAX_STATE_BYTES / 1024)]
    TooLarge {
        /// The state file.
        path: PathBuf,
    },
    /// The record could not be replaced.
    #[error("the state file `{}` cannot be replaced: {step} failed", path.display())]
    Write {
        /// The state file.
        path: PathBuf,
        /// How far it got.
        step: WriteStep,
        /// What the kernel says.
        source: io::Error,
    },
    /// The thread that did the work ended before its work, and released the lock.
    #[error("work on the state file `{}` was interrupted", path.display())]
    Interrupted {
        /// The state file.
        path: PathBuf,
        /// What is known of it.
        source: io::Error,
    },
}

/// The steps of replacing a file, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStep {
    /// Creating the temporary file and reserving room.
    Create,
    /// Writing it.
    Write,
    /// Syncing it to the disk.
    Sync,
    /// Renaming it over the old file.
    Rename,
    /// Syncing the directory, after which the new name is durable.
    SyncDirectory,
}

impl fmt::Display for WriteStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "creating a temporary file",
            Self::Write => "writing the temporary file",
            Self::Sync => "syncing the temporary file",
            Self::Rename => "renaming the temporary file",
            Self::SyncDirectory => "syncing the directory",
        })
    }
}

impl StoreError {
    /// What an operator can do, if it is not plain from the error and its cause.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoFileName { .. } => "name a file, such as `/var/lib/token-valet/state.json`".to_owned(),
            Self::Directory { path, source } if source.kind() == io::ErrorKind::NotFound => {
                format!("create `{}`, or mount the volume; it must outlive the process", path.display())
            }
            Self::Directory { path, .. } => {
                format!("make `{}` writable for the user of this process", path.display())
            }
            Self::SymbolicLink { path } => format!("name the file that `{}` leads to", path.display()),
            Self::NotRegular { .. } => "name a regular file, or one that does not exist yet".to_owned(),
            Self::ForeignOwner { path, owner, expected } => {
                format!("run `chown {expected} {}`, or run this process as user {owner}", path.display())
            }
            Self::Exposed { path, .. } => {
                format!("run `chmod 600 {}`; whoever could read it may have the refresh token", path.display())
            }
            Self::Locked { .. } => "only replicas of one grant may share a state file".to_owned(),
            Self::Damaged { path, .. } | Self::TooLarge { path } => {
                format!("move `{}` away to start from the configured grant again", path.display())
            }
            Self::Version { path, .. } => {
                format!("run the version that wrote `{0}`, or move `{0}` away", path.display())
            }
            Self::Read { .. } | Self::Write { .. } | Self::Interrupted { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::{StoreError, WriteStep};
    use crate::readme::{ANY, Table, each, text};

    fn all() -> Vec<StoreError> {
        let path = || "FILE".into();
        let source = || io::Error::from(io::ErrorKind::PermissionDenied);
        let number = u32::from(ANY);
        let missing = StoreError::Directory { path: "DIRECTORY".into(), source: io::ErrorKind::NotFound.into() };
        let steps = each!(WriteStep {
            WriteStep::Create => [WriteStep::Create],
            WriteStep::Write => [WriteStep::Write],
            WriteStep::Sync => [WriteStep::Sync],
            WriteStep::Rename => [WriteStep::Rename],
            WriteStep::SyncDirectory => [WriteStep::SyncDirectory],
        });
        let mut errors = each!(StoreError {
            StoreError::NoFileName { .. } => [StoreError::NoFileName { path: path() }],
            StoreError::Directory { .. } => [
                missing,
                StoreError::Directory { path: "DIRECTORY".into(), source: source() },
            ],
            StoreError::SymbolicLink { .. } => [StoreError::SymbolicLink { path: path() }],
            StoreError::NotRegular { .. } => [StoreError::NotRegular { path: path() }],
            StoreError::ForeignOwner { .. } => [
                StoreError::ForeignOwner { path: path(), owner: number, expected: number },
            ],
            StoreError::Exposed { .. } => [StoreError::Exposed { path: path(), mode: 0o7777 }],
            StoreError::Locked { .. } => [
                StoreError::Locked { path: path(), patience: Duration::from_secs(ANY.into()) },
            ],
            StoreError::Read { .. } => [StoreError::Read { path: path(), source: source() }],
            StoreError::Damaged { .. } => [
                StoreError::Damaged { path: path(), line: ANY.into(), column: ANY.into() },
            ],
            StoreError::Version { .. } => [
                StoreError::Version { path: path(), found: ANY.into(), expected: ANY.into() },
            ],
            StoreError::TooLarge { .. } => [StoreError::TooLarge { path: path() }],
            StoreError::Write { .. } => [
                StoreError::Write { path: path(), step: WriteStep::Create, source: source() },
            ],
            StoreError::Interrupted { .. } => [StoreError::Interrupted { path: path(), source: source() }],
        });
        errors.extend(steps.into_iter().map(|step| StoreError::Write { path: path(), step, source: source() }));
        errors
    }

    /// As the README has it: the steps of a write are told in one row.
    fn words(error: &StoreError) -> String {
        match error {
            StoreError::Write { step, .. } => text(error).replace(&step.to_string(), "STEP"),
            _ => text(error),
        }
    }

    #[test]
    fn the_readme_tells_what_each_of_them_means_and_hints_as_they_do() {
        let table = Table::below("The state file");
        let texts: Vec<String> = all().iter().map(words).collect();
        table.assert_texts(texts.iter().map(String::as_str));
        for error in all() {
            let row = table.row(&words(&error));
            let hint = error.hint().map(text).unwrap_or_default();
            assert!(row.action().contains(&hint), "`{hint}` is not in {row:?}");
            if let StoreError::Write { step, .. } = error {
                assert!(row.cells[0].contains(&step.to_string()), "`{step}` is not in {row:?}");
            }
        }
    }
}
