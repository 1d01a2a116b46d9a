//! What the process asks of the kernel for its own sake.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps the process's memory, and so its secrets, out of core files and from other processes of the
/// same user: `RLIMIT_CORE` 0, and not dumpable (prctl(2), `PR_SET_DUMPABLE`).
///
/// # Errors
/// When the kernel refuses.
pub fn keep_memory_private() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
