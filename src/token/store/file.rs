//! The steps on the disk, each a blocking call.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Access, AtFlags, CWD, FallocateFlags, OFlags, accessat, fallocate},
    io::Errno,
    process::geteuid,
};
use zeroize::Zeroizing;

use super::{
    MAX_STATE_BYTES, StoreError, WriteStep,
    record::{Record, Unreadable, VERSION},
};

/// For all files: nobody else's business.
const MODE: u32 = 0o600;
const GROUP: u32 = 0o070;
const OTHERS: u32 = 0o007;

/// The three files and their directory.
#[derive(Debug)]
pub(super) struct Files {
    state: PathBuf,
    lock: PathBuf,
    next: PathBuf,
    directory: PathBuf,
}

impl Files {
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let no_file_name = || StoreError::NoFileName { path: path.to_owned() };
        let name = path.file_name().ok_or_else(no_file_name)?;
        // A path that ends in a slash names a directory, whatever `file_name` makes of it.
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(no_file_name());
        }
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        let sibling = |suffix: &str| {
            let mut name = name.to_owned();
            name.push(OsStr::new(suffix));
            directory.join(name)
        };
        Ok(Self { state: path.to_owned(), lock: sibling(".lock"), next: sibling(".tmp"), directory })
    }

    pub(super) fn path(&self) -> &Path {
        &self.state
    }

    pub(super) fn lock_path(&self) -> &Path {
        &self.lock
    }

    /// The lock; `None` if another process has it. Closing the file releases it, and so does the end of the process.
    pub(super) fn try_lock(&self) -> Result<Option<File>, StoreError> {
        let mut options = careful();
        options.write(true).create(true).truncate(false).mode(MODE);
        let file = options.open(&self.lock).map_err(|source| match fault_of_path(&self.lock) {
            Some(fault) => fault,
            None => StoreError::Directory { path: self.directory.clone(), source },
        })?;
        // Whoever can open a file can lock it, for ever.
        check(&file, &self.lock)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(StoreError::Read { path: self.lock.clone(), source }),
        }
    }

    /// Checks that files can be created, without creating one.
    pub(super) fn may_create(&self) -> Result<(), StoreError> {
        accessat(CWD, &self.directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|errno| StoreError::Directory { path: self.directory.clone(), source: errno.into() })
    }

    /// The record; the default one if there is no file.
    pub(super) fn read(&self) -> Result<Record, StoreError> {
        let path = || self.state.clone();
        let unreadable = |source| StoreError::Read { path: path(), source };
        let file = match careful().read(true).open(&self.state) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
            Err(error) => return Err(fault_of_path(&self.state).unwrap_or_else(|| unreadable(error))),
        };
        check(&file, &self.state)?;
        // Room for all of it at once: a buffer that grows would leave copies behind it.
        let mut json = Zeroizing::new(Vec::with_capacity(MAX_STATE_BYTES + 1));
        file.take(MAX_STATE_BYTES as u64 + 1).read_to_end(&mut json).map_err(unreadable)?;
        if json.len() > MAX_STATE_BYTES {
            return Err(StoreError::TooLarge { path: path() });
        }
        Record::parse(&json).map_err(|fault| match fault {
            Unreadable::Damaged { line, column } => StoreError::Damaged { path: path(), line, column },
            Unreadable::Version(found) => StoreError::Version { path: path(), found, expected: VERSION },
        })
    }

    fn failed(&self, step: WriteStep) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Write { path: self.state.clone(), step, source }
    }
}

/// What the holder of the lock may do. Dropping it removes the temporary file, then releases the lock.
#[derive(Debug)]
pub(super) struct Turn {
    files: Arc<Files>,
    next: Option<Next>,
    /// Declared last, so dropped last.
    _lock: File,
}

impl Turn {
    pub(super) fn new(files: Arc<Files>, lock: File) -> Self {
        Self { files, next: None, _lock: lock }
    }

    pub(super) fn prove_writable(&mut self) -> Result<(), StoreError> {
        if self.next.is_none() {
            self.next = Some(self.create_next()?);
        }
        Ok(())
    }

    pub(super) fn write(&mut self, json: &[u8]) -> Result<(), StoreError> {
        let files = &self.files;
        let mut next = match self.next.take() {
            Some(next) => next,
            None => self.create_next()?,
        };
        next.file.write_all(json).map_err(files.failed(WriteStep::Write))?;
        // Gives back what was reserved and is not used.
        next.file.set_len(json.len() as u64).map_err(files.failed(WriteStep::Write))?;
        // Before the rename: a power cut after it must not find the new name on an empty file.
        next.file.sync_all().map_err(files.failed(WriteStep::Sync))?;
        fs::rename(&next.path, &files.state).map_err(files.failed(WriteStep::Rename))?;
        next.renamed = true;
        let directory = File::open(&files.directory).map_err(files.failed(WriteStep::SyncDirectory))?;
        directory.sync_all().map_err(files.failed(WriteStep::SyncDirectory))
    }

    fn create_next(&self) -> Result<Next, StoreError> {
        let path = &self.files.next;
        let create = || careful().write(true).create_new(true).mode(MODE).open(path);
        let created = match create() {
            // Left by a crash: its maker had the lock, and has it no more.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(path).and_then(|()| create()),
            other => other,
        };
        let file = created.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::Directory { path: self.files.directory.clone(), source }
            }
            _ => self.files.failed(WriteStep::Create)(source),
        })?;
        let next = Next { file, path: path.clone(), renamed: false };
        next.reserve().map_err(self.files.failed(WriteStep::Create))?;
        Ok(next)
    }
}

/// The next record, until it is renamed.
#[derive(Debug)]
struct Next {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Next {
    /// Room for the largest record: on a full disk a file can still be created, but not written to.
    fn reserve(&self) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, MAX_STATE_BYTES as u64) {
            // Some file systems cannot reserve. There the write itself will tell.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        if !self.renamed {
            // An error leaves a file that the next holder of the lock removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Follows no link at the path's end, and does not wait for the other end of a pipe. The standard
/// library adds `O_CLOEXEC`.
fn careful() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

/// Checks an open file, so that nobody can swap it after the check.
pub(super) fn check(file: &File, path: &Path) -> Result<(), StoreError> {
    let unreadable = |source| StoreError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(unreadable)?;
    if let Some(fault) = fault_of(&metadata, path) {
        return Err(fault);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & GROUP != 0 {
        file.set_permissions(fs::Permissions::from_mode(mode & !GROUP)).map_err(unreadable)?;
        tracing::warn!(file = %path.display(), "the group's permissions for the state file were taken away");
    }
    Ok(())
}

/// The fault of what is at a path that could not be opened.
fn fault_of_path(path: &Path) -> Option<StoreError> {
    fault_of(&fs::symlink_metadata(path).ok()?, path)
}

fn fault_of(metadata: &Metadata, path: &Path) -> Option<StoreError> {
    let path = || path.to_owned();
    let (owner, expected, mode) = (metadata.uid(), geteuid().as_raw(), metadata.mode() & 0o7777);
    if metadata.is_symlink() {
        Some(StoreError::SymbolicLink { path: path() })
    } else if !metadata.is_file() {
        Some(StoreError::NotRegular { path: path() })
    } else if owner != expected {
        Some(StoreError::ForeignOwner { path: path(), owner, expected })
    } else if mode & OTHERS != 0 {
        Some(StoreError::Exposed { path: path(), mode })
    } else {
        None
    }
}
