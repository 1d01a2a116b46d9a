//! The command that the sidecar is there for, when it is given one: it starts after the first token, gets the
//! signals, and its end is the sidecar's.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind, IsTerminal},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ExitStatus,
};

use rustix::{
    fs::{Access, access},
    process::{Pid, Signal, kill_process},
};
use tokio::{
    process::{Child, Command},
    signal::unix::{self, SignalKind},
    sync::{Notify, watch},
};

use crate::{
    process,
    shutdown::{End, Request, Requests, Signals},
    token::Status,
};

/// What the command's environment lacks of the sidecar's: the only secret that a variable may hold.
const SECRETS: [&str; 1] = ["TOKEN_VALET__TOKEN__CLIENT_SECRET"];
/// What tells of sockets that were for the sidecar (sd_listen_fds(3)).
const SOCKETS: [&str; 5] = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD"];
/// Where programs are looked for without `PATH` (execvp(3)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why the command does not run, or is lost sight of.
#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    /// There is no such program.
    #[error("the command {0:?} is not found")]
    NotFound(OsString),
    /// There is one, and the kernel does not start it.
    #[error("the command {0:?} cannot be executed")]
    Refused(OsString, #[source] io::Error),
    /// The kernel refuses to tell of it, or to change the process's own limits.
    #[error("the command cannot be followed")]
    Lost(#[from] io::Error),
}

/// A command that was not started yet.
#[derive(Debug)]
pub struct Errand {
    program: OsString,
    command: Command,
}

impl Errand {
    /// Takes a program and its arguments; needs to be called within a runtime. SIGUSR2 does nothing from now on.
    ///
    /// # Errors
    /// When there is no such program, or it is not executable, as far as that can be told before.
    pub fn new(program: OsString, arguments: Vec<OsString>) -> Result<Self, ErrandError> {
        find(&program)?;
        let mut command = Command::new(&program);
        command.args(arguments).kill_on_drop(true);
        for name in SECRETS.iter().chain(&SOCKETS) {
            command.env_remove(name);
        }
        // The handler stays. Without it, the signal would end the process.
        drop(unix::signal(SignalKind::user_defined2())?);
        Ok(Self { program, command })
    }

    /// Runs it to its end, with the sidecar's limits as they were at the start. Gives its exit code, which is 128 and
    /// the number of the signal if one ended it.
    ///
    /// What the sidecar is sent goes to it, and `quit` has it sent a SIGTERM. Dropping the future kills it.
    ///
    /// # Errors
    /// See [`ErrandError`].
    pub async fn run(
        mut self,
        signals: &mut Signals,
        requests: &mut Requests,
        quit: &Notify,
    ) -> Result<u8, ErrandError> {
        // Sees nothing of what came before there was a command.
        let mut usr2 = unix::signal(SignalKind::user_defined2())?;
        let mut child = self.command.spawn().map_err(|error| refusal(&self.program, error))?;
        // Not before, as the command would have them too.
        process::allow_open_files()?;
        process::dump_no_core()?;
        // Arguments may be secret.
        tracing::info!(program = ?self.program, pid = child.id(), "the command was started");
        loop {
            let signal = tokio::select! {
                status = child.wait() => {
                    let code = exit_code(status?);
                    tracing::info!(code, "the command has ended");
                    return Ok(code);
                }
                end = signals.end() => of_end(end),
                request = requests.next() => Some(match request {
                    Request::Reload => Signal::HUP,
                    Request::Refresh => Signal::USR1,
                }),
                _ = usr2.recv() => Some(Signal::USR2),
                () = quit.notified() => Some(Signal::TERM),
            };
            if let Some(signal) = signal {
                forward(&child, signal);
            }
        }
    }
}

/// Waits for the first token, however long that takes.
///
/// # Cancel safety
/// Dropping the future loses nothing.
pub async fn first_token(mut status: watch::Receiver<Status>) {
    if status.wait_for(|status| status.generation > 0).await.is_err() {
        // Whoever would get it is gone.
        std::future::pending().await
    }
}

/// The signal for the command. A terminal sends what its keys mean to both of us already.
fn of_end(end: End) -> Option<Signal> {
    let (signal, is_key) = match end {
        End::Term => (Signal::TERM, false),
        End::Int => (Signal::INT, true),
        End::Quit => (Signal::QUIT, true),
    };
    (!is_key || !io::stdin().is_terminal()).then_some(signal)
}

fn forward(child: &Child, signal: Signal) {
    // Until it is waited for, nobody else has its number.
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        tracing::warn!(?signal, %error, "a signal could not be forwarded to the command");
    }
}

/// As shells have it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn refusal(program: &OsStr, error: io::Error) -> ErrandError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ErrandError::NotFound(program.to_owned()),
        _ => ErrandError::Refused(program.to_owned(), error),
    }
}

/// Looks for the program as execvp(3) will: by its path, or in the directories of `PATH`.
fn find(program: &OsStr) -> Result<(), ErrandError> {
    if program.as_encoded_bytes().contains(&b'/') {
        return is_executable(program.as_ref()).map_err(|error| refusal(program, error));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut fault = ErrandError::NotFound(program.to_owned());
    for directory in env::split_paths(&path).filter(|_| !program.is_empty()) {
        match is_executable(&directory.join(program)).map_err(|error| refusal(program, error)) {
            Ok(()) => return Ok(()),
            Err(ErrandError::NotFound(_)) => {}
            Err(refused) => fault = refused,
        }
    }
    Err(fault)
}

fn is_executable(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    Ok(access(path, Access::EXEC_OK)?)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::{ErrandError, exit_code, find};

    #[test]
    fn the_exit_code_is_the_command_s_or_tells_the_signal() {
        // wait(2): the code in the upper byte, or the signal in the lower.
        for (status, code) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (15, 143), (9, 137), (11 | 0x80, 139)] {
            assert_eq!(exit_code(ExitStatus::from_raw(status)), code);
        }
    }

    #[test]
    fn programs_are_found_by_path_and_by_name_and_faults_are_told_apart() {
        for found in ["sh", "/bin/sh"] {
            assert!(find(found.as_ref()).is_ok(), "{found}");
        }
        for missing in ["", "no-such-program", "/no/such/program", "/bin/sh/program"] {
            assert!(matches!(find(missing.as_ref()), Err(ErrandError::NotFound(_))), "{missing}");
        }
        for refused in ["/etc", "/etc/passwd"] {
            assert!(matches!(find(refused.as_ref()), Err(ErrandError::Refused(..))), "{refused}");
        }
    }
}
