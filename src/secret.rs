//! Secrets, kept out of every output and wiped when they go.

use std::{
    fmt,
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::regular_file;

/// The largest secret that is read from a file: 64 KiB.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// What to do about a secret file that others may read.
pub const OPEN_HINT: &str = "`chmod 0400` it, or set `defaultMode: 0400` for the volume in Kubernetes";

/// The right to read of those who neither own a file nor are in its group (chmod(2), `S_IROTH`).
const READABLE_BY_OTHERS: u32 = 0o004;

/// A client secret, an authorization code or a refresh token.
///
/// Its `Debug` shows nothing of it, it has neither `Display` nor `Serialize`, and its memory is
/// zeroed when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over; whoever made it must not keep a copy.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one place that must send, store or hash it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// A file, opened anew by its path at every read: Kubernetes replaces a mounted secret by
    /// swapping a symbolic link, so an open descriptor would go stale.
    File(PathBuf),
    /// A value given by the environment, which cannot change while the process runs.
    Value(Secret),
}

impl SecretSource {
    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Value(_) => None,
        }
    }

    /// Reads the secret as it is now. One line end after it, as editors and `echo` leave, is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read, is over [`MAX_SECRET_BYTES`], is not UTF-8, or is empty.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Value(secret) => Ok(secret.clone()),
            Self::File(path) => read_file(path),
        }
    }
}

/// Returns true if users who neither own the file nor are in its group may read it, as far as its own mode
/// is concerned. Of a symbolic link, the file that it leads to counts. One that cannot be looked at is not open.
#[must_use]
pub fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| is_open(&metadata))
}

fn is_open(metadata: &Metadata) -> bool {
    metadata.mode() & READABLE_BY_OTHERS != 0
}

/// Warns of a secret file that others may read: once for each file that comes to be at its path. It is
/// used all the same, as secrets that are mounted are often open to all of a container.
#[derive(Debug, Default)]
pub struct OpenFileWarning {
    /// The device and the number of the file that was looked at last.
    looked_at: Option<(u64, u64)>,
}

impl OpenFileWarning {
    /// To be called after the file was read.
    pub fn look(&mut self, path: &Path) {
        let Ok(metadata) = fs::metadata(path) else { return };
        let file = Some((metadata.dev(), metadata.ino()));
        if std::mem::replace(&mut self.looked_at, file) != file && is_open(&metadata) {
            tracing::warn!(file = %path.display(), hint = OPEN_HINT, "a secret file is readable by others");
        }
    }
}

fn read_file(path: &Path) -> Result<Secret, SecretError> {
    let fault = |problem| SecretError { path: path.to_owned(), problem };
    let file = regular_file::open(path).map_err(|e| fault(Problem::Unreadable(e)))?;
    // Room for all of it at once: a buffer that grows would leave copies behind it.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES + 1));
    file.take(MAX_SECRET_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|e| fault(Problem::Unreadable(e)))?;
    if bytes.len() > MAX_SECRET_BYTES {
        return Err(fault(Problem::TooLong));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| fault(Problem::NotText))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(fault(Problem::Empty));
    }
    Ok(Secret::new(text.to_owned()))
}

/// A secret file that gave no secret. Names the file, never its content.
#[derive(Debug)]
pub struct SecretError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Unreadable(io::Error),
    TooLong,
    NotText,
    Empty,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted, as a name may hold what forges lines.
        write!(f, "secret file {:?} ", self.path)?;
        match &self.problem {
            Problem::Unreadable(_) => f.write_str("cannot be read"),
            Problem::TooLong => write!(f, "is over {} KiB", MAX_SECRET_BYTES / 1024),
            Problem::NotText => f.write_str("is not UTF-8 text"),
            Problem::Empty => f.write_str("is empty"),
        }
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Unreadable(e) => Some(e),
            Problem::TooLong | Problem::NotText | Problem::Empty => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{MAX_SECRET_BYTES, OPEN_HINT, Problem, Secret, SecretError, SecretSource};
    use crate::readme::{Table, each, text};

    fn read(content: &[u8]) -> Result<Secret, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("writable");
        SecretSource::File(file.path().to_owned()).read().map_err(|e| e.to_string())
    }

    #[test]
    fn debug_of_a_secret_is_censored() {
        let shown = format!("{:?}", SecretSource::Value(Secret::new("hunter2".into())));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn one_line_end_after_a_secret_is_not_part_of_it() {
        assert_eq!(read(b"s3cret\n").expect("valid").expose(), "s3cret");
        assert_eq!(read(b"s3cret\r\n").expect("valid").expose(), "s3cret");
        assert_eq!(read(b" s3cret \n\n").expect("valid").expose(), " s3cret \n");
    }

    #[test]
    fn a_file_that_holds_no_secret_is_named_with_its_fault() {
        assert!(read(b"\n").expect_err("empty").ends_with("is empty"));
        assert!(read(b"\xff").expect_err("binary").ends_with("is not UTF-8 text"));
        assert!(read(&vec![b'x'; MAX_SECRET_BYTES + 1]).expect_err("long").ends_with("is over 64 KiB"));
    }

    #[test]
    fn the_readme_tells_what_each_fault_means() {
        let problems = each!(Problem {
            Problem::Unreadable(_) => [Problem::Unreadable(io::ErrorKind::NotFound.into())],
            Problem::TooLong => [Problem::TooLong],
            Problem::NotText => [Problem::NotText],
            Problem::Empty => [Problem::Empty],
        });
        let texts: Vec<String> =
            problems.into_iter().map(|problem| text(SecretError { path: "FILE".into(), problem })).collect();
        Table::below("Secret files").assert_texts(texts.iter().map(String::as_str));
        let row = Table::below("All lines");
        let row = row.row("a secret file is readable by others");
        assert!(row.action().contains(OPEN_HINT), "{row:?}");
    }
}
