//! Where a refresh token survives a restart: one small file, replaced as a whole or not at all.
//!
//! Beside the state file `state.json` there are two of the same directory:
//!
//! - `state.json.lock` is locked from before the record is read until the exchange's answer is
//!   stored, so that replicas on one host take turns. It is never removed: the lock on a file that
//!   is gone keeps nobody out.
//! - `state.json.tmp` is the next record while it is written. Its name is always the same, as only
//!   the holder of the lock touches it: a crash leaves one at most, and the next holder knows whose it was.
//!
//! The fault of every step leaves the old record or the new one. What waits for the disk runs on a
//! thread of its own, as the control thread also answers probes; opening, locking and reading are
//! single calls on a file of a few hundred bytes, and stay where they are called.

mod error;
mod file;
mod record;
#[cfg(test)]
mod tests;

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

pub use self::{
    error::{StoreError, WriteStep},
    record::{CodeRecord, CodeState, Fingerprint, Record},
};
use self::{
    file::{Files, Turn},
    record::Json,
};

/// The largest state file, in bytes: 64 KiB.
pub const MAX_STATE_BYTES: usize = 64 * 1024;

/// How long another process may hold the lock: a whole exchange and its storing, with some to spare.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a lock that is held is tried again. The kernel's own queue would block the thread.
const POLL: Duration = Duration::from_millis(50);

/// A state file that was found to be safe, readable and writable.
#[derive(Clone, Debug)]
pub struct Store {
    files: Arc<Files>,
}

impl Store {
    /// Checks the place, once, at the start; blocks while it does. A file that does not exist yet is
    /// fine, a directory that does not is an error: it would be a volume that was not mounted.
    ///
    /// The place is proven writable by a temporary file, which is removed again; so is what a crash
    /// left of another. While another process holds the lock, only the directory's permissions are checked.
    ///
    /// Permissions for the file's group are taken away with a warning, not refused: Kubernetes adds
    /// them at each mount of a volume with an `fsGroup`.
    ///
    /// # Errors
    /// When the path has no file name, the directory is missing or not writable, the file is a symbolic
    /// link, not a regular file, another user's, open to all users, damaged, or of another version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let files = Arc::new(Files::new(path)?);
        match files.try_lock()? {
            Some(lock) => Turn::new(Arc::clone(&files), lock).prove_writable()?,
            None => files.may_create()?,
        }
        // Without the lock, as it is replaced as a whole.
        files.read()?;
        Ok(Self { files })
    }

    /// Where the record is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// Waits for the lock, for 15 s at most. It is held until the [`Locked`] is dropped, and longer
    /// if a write is still under way then.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if others hold it all the time; those of [`open`](Self::open) that
    /// concern the directory and the lock file.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the lock alone. There is no queue, so no place in it is lost.
    pub async fn lock(&self) -> Result<Locked, StoreError> {
        let lock = async {
            loop {
                // Opened anew each time: after someone removed the file, a lock on the old one means nothing.
                if let Some(lock) = self.files.try_lock()? {
                    return Ok(lock);
                }
                sleep(POLL).await;
            }
        };
        let lock = timeout(PATIENCE, lock).await.unwrap_or_else(|_| {
            let path = self.files.lock_path().to_owned();
            Err(StoreError::Locked { path, patience: PATIENCE })
        })?;
        let turn = Turn::new(Arc::clone(&self.files), lock);
        Ok(Locked { files: Arc::clone(&self.files), hands: Hands::Free(turn) })
    }
}

/// The state file while no other process may read or replace it.
#[derive(Debug)]
pub struct Locked {
    files: Arc<Files>,
    hands: Hands,
}

/// Who has the lock in hand: it moves with the work, so that it cannot be released before that ends.
#[derive(Debug)]
enum Hands {
    Free(Turn),
    Busy(JoinHandle<(Turn, Result<(), StoreError>)>),
    /// The work panicked, and dropped the lock.
    Gone,
}

impl Locked {
    /// Reads the record; [`Record::default`] if the file does not exist. Checks the file as
    /// [`Store::open`] does.
    ///
    /// # Errors
    /// When the file is not safe, cannot be read, is over [`MAX_STATE_BYTES`], is damaged or of another
    /// version. The error names the file and the place in it, never its content.
    pub fn read(&self) -> Result<Record, StoreError> {
        self.files.read()
    }

    /// Creates the temporary file that the next [`write`](Self::write) fills, with room for the
    /// largest record: whether the disk is full or read-only is known before an exchange makes the
    /// old refresh token invalid.
    ///
    /// # Errors
    /// [`StoreError::Write`], or [`StoreError::Interrupted`].
    ///
    /// # Cancel safety
    /// The work goes on without the future, and the next call waits for its end. The temporary file
    /// is removed at the latest when the lock is released.
    pub async fn prove_writable(&mut self) -> Result<(), StoreError> {
        self.work(Turn::prove_writable).await
    }

    /// Replaces the record: writes a temporary file, syncs it, renames it and syncs the directory.
    /// Once this has returned `Ok`, neither a crash nor a power cut loses the record.
    ///
    /// # Errors
    /// [`StoreError::Write`], [`StoreError::TooLarge`] or [`StoreError::Interrupted`]. The file holds the
    /// old record then, or, if syncing the directory was what failed, the new one; never a part
    /// of either. The lock stays held and the call can be repeated.
    ///
    /// # Cancel safety
    /// The write goes on without the future, and the lock is held until it has ended. The next call
    /// waits for that.
    pub async fn write(&mut self, record: &Record) -> Result<(), StoreError> {
        let json = Json::of(record).ok_or_else(|| StoreError::TooLarge { path: self.files.path().to_owned() })?;
        self.work(move |turn| turn.write(json.as_bytes())).await
    }

    async fn work(
        &mut self,
        job: impl FnOnce(&mut Turn) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        // Work that is still under way lost its caller; how it ends matters to nobody.
        let _ = self.finish().await;
        let Hands::Free(mut turn) = std::mem::replace(&mut self.hands, Hands::Gone) else {
            return Err(self.interrupted(io::Error::other("the lock was lost in an earlier step")));
        };
        // Kept before it is awaited: if this future is dropped, the next call finds the work.
        self.hands = Hands::Busy(spawn_blocking(move || {
            let result = job(&mut turn);
            (turn, result)
        }));
        self.finish().await
    }

    /// Waits for the work that is under way, if any.
    async fn finish(&mut self) -> Result<(), StoreError> {
        let Hands::Busy(work) = &mut self.hands else { return Ok(()) };
        let ended = work.await;
        match ended {
            Ok((turn, result)) => {
                self.hands = Hands::Free(turn);
                result
            }
            Err(error) => {
                self.hands = Hands::Gone;
                Err(self.interrupted(error.into()))
            }
        }
    }

    fn interrupted(&self, source: io::Error) -> StoreError {
        StoreError::Interrupted { path: self.files.path().to_owned(), source }
    }
}
