//! Files whose paths somebody else chose: opened so that nothing at the path can hold the process up, and
//! read to a bound.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags, open as open_fd, statx};

/// Opens a file to be read. Of a symbolic link, what it leads to.
///
/// # Errors
/// When it cannot be opened, or is a pipe, a device or a directory: to read those could take for ever.
pub fn open(path: &Path) -> io::Result<File> {
    // To open a pipe would wait for its writer.
    let file = File::from(open_fd(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// All that is in such a file.
///
/// # Errors
/// As for [`open`]; and when there are more than `most` bytes.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is over {}", in_words(most))));
    }
    Ok(bytes)
}

/// Returns true if the file is mounted by itself: nothing can be renamed over it, and what is renamed over it where it
/// comes from is not seen. Of a symbolic link, what it leads to. False where there is none, and where the kernel
/// cannot tell (before Linux 5.8).
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let Ok(told) = statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE) else { return false };
    // A bit that the kernel does not know says nothing.
    let known = told.stx_attributes & told.stx_attributes_mask;
    FileType::from_raw_mode(told.stx_mode.into()).is_file() && known.contains(StatxAttributes::MOUNT_ROOT)
}

fn in_words(bytes: u64) -> String {
    let kib = bytes / 1_024;
    if kib.is_multiple_of(1_024) { format!("{} MiB", kib / 1_024) } else { format!("{kib} KiB") }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::{is_mounted, open, read};

    #[test]
    fn what_is_no_file_is_refused_without_waiting_for_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).expect("a free name");
        for path in [&pipe, directory.path(), Path::new("/dev/zero")] {
            let error = open(path).expect_err("no file");
            assert_eq!(error.to_string(), "it is not a regular file", "{path:?}");
        }
    }

    #[test]
    fn what_is_no_mounted_file_is_not_taken_for_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        fs::write(&file, "").expect("writable");
        for path in [&file, directory.path(), &directory.path().join("nothing"), Path::new("/proc")] {
            assert!(!is_mounted(path), "{path:?}");
        }
    }

    #[test]
    fn a_file_is_read_to_its_bound_and_no_further() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        fs::write(&file, vec![b'x'; 2_048]).expect("writable");
        assert_eq!(read(&file, 2_048).expect("within the bound").len(), 2_048);
        assert_eq!(read(&file, 1_024).expect_err("over it").to_string(), "it is over 1 KiB");
        fs::write(&file, vec![b'x'; 1_048_577]).expect("writable");
        assert_eq!(read(&file, 1_048_576).expect_err("over it").to_string(), "it is over 1 MiB");
    }
}
