//! What the process asks of the kernel for its own sake.

use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::set_no_new_privs,
};

/// Keeps the process's memory, and so its secrets, from other processes of the same user, and out of core files:
/// not dumpable (prctl(2), `PR_SET_DUMPABLE`). A program that it starts is.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_memory_private() -> std::io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Leaves no core file of the process and of those that it starts later: `RLIMIT_CORE` 0.
///
/// # Errors
/// When the kernel refuses.
pub fn dump_no_core() -> std::io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Gives up all privileges that starting a program could bring, such as a set-user-ID one: for the calling
/// thread and those that it starts later (prctl(2), `PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// When the kernel refuses.
pub fn gain_no_privileges() -> std::io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// How many files, connections among them, the process may have open at most: the hard limit
/// (getrlimit(2), `RLIMIT_NOFILE`).
#[must_use]
pub fn max_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the limit on open files to what is permitted. Its default is from the time of select(2), which
/// nothing here uses.
///
/// # Errors
/// When the kernel refuses.
pub fn allow_open_files() -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}
