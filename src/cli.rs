//! The commands, and the only place that prints errors and chooses exit codes.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "this is the part that talks to the terminal")]

mod ask;
mod check;
mod documents;
mod sandbox;
mod show;
mod termination_log;

use std::{
    ffi::OsString,
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, LocalOptions};

use self::{documents::Shell, termination_log::TerminationLog};
use crate::{
    app::{self, AppError, Setup, online::Fault},
    config::ConfigError,
    errand::{Errand, ErrandError},
    process,
    reload::Origin,
    report::Report,
    shutdown::{Requests, Signals},
    telemetry,
};

/// Adds a fresh OAuth access token to an application's requests to the Flinks Open Banking API.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar
    Run(ConfigFile),
    /// Run the sidecar and, after its first token, a command; end with the command, and its exit code
    #[command(after_help = EXEC_HELP)]
    Exec {
        #[command(flatten)]
        file: ConfigFile,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Tell every fault of the configuration at once
    Check(check::Check),
    /// Ask a running sidecar whether it is alive, started or ready
    Health {
        /// What to ask
        #[arg(value_enum, default_value = "live")]
        probe: ask::Probe,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Have a running sidecar drain and end, where `admin.quit = true` permits it
    Quit(ConfigFile),
    /// Show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Try the sidecar against an imitation of the provider, without credentials
    Sandbox {
        /// A configuration to use instead of the built-in one; the command itself sets URLs, certificates and secrets
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print what completes this command in a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page: `token-valet man | man -l -`
    Man,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// The values in force and where each comes from, without secrets
    Show(ConfigFile),
    /// A JSON Schema of the file, for editors
    Schema,
}

#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "TOKEN_VALET_CONFIG",
        default_value = "/etc/token-valet/config.toml"
    )]
    config: PathBuf,
}

/// What `token-valet exec --help` says beside the arguments.
const EXEC_HELP: &str = "\
The command waits for the first token, however long the provider is down. Once it runs, SIGTERM, SIGINT, SIGQUIT, SIGHUP, \
SIGUSR1 and SIGUSR2 are its own, each time they come, and the sidecar serves until it has ended; then requests in \
flight are finished, and the exit code is the command's, or 128 and the number of the signal that ended it. It is 127 \
if the command is not found and 126 if it cannot be executed. A signal that comes before the command was started ends \
the sidecar with 143 (SIGTERM), 130 (SIGINT) or 131 (SIGQUIT), as nothing was done: with 0, a Job would count as done.

The command has the environment, but for TOKEN_VALET__TOKEN__CLIENT_SECRET and systemd's LISTEN_* variables, the limits \
and the privileges that the sidecar was started with. `process.confine` has no effect, as it would hold for the command too.";

/// Why a command failed; each has its exit code.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("the imitation provider cannot be started")]
    Sandbox(#[source] std::io::Error),
    #[error("the process cannot be set up")]
    Process(#[source] std::io::Error),
    #[error(transparent)]
    Ask(#[from] ask::AskError),
    #[error("the provider cannot be used")]
    Online(Vec<Fault>),
    #[error("{0} cut it off")]
    CutOff(&'static str),
    #[error("it cannot be printed")]
    Print(#[source] std::io::Error),
}

impl CliError {
    /// 69 and 78 are `EX_UNAVAILABLE` and `EX_CONFIG` of sysexits(3).
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::App(AppError::Tls(_) | AppError::Host(_) | AppError::Store(_)) => 78,
            Self::App(AppError::Listen(_)) => 69,
            // As shells have it.
            Self::App(AppError::Errand(ErrandError::NotFound(_))) => 127,
            Self::App(AppError::Errand(ErrandError::Refused(..))) => 126,
            Self::App(AppError::Confine(_) | AppError::Runtime(_) | AppError::Errand(ErrandError::Lost(_)))
            | Self::Sandbox(_)
            | Self::Process(_)
            | Self::Ask(_)
            | Self::Online(_)
            | Self::CutOff(_)
            | Self::Print(_) => 1,
        }
    }

    fn print(&self) {
        eprintln!("{}", self.text());
        if let Some(hint) = self.hint() {
            eprintln!("\nhint: {hint}");
        }
    }

    fn text(&self) -> String {
        match self {
            // Its faults are whole messages already.
            Self::Config(error) => error.to_string(),
            Self::Online(faults) => check::told(faults),
            Self::App(_) | Self::Sandbox(_) | Self::Process(_) | Self::Ask(_) | Self::CutOff(_) | Self::Print(_) => {
                format!("error: {}", Report(self))
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::App(AppError::Listen(error)) => Some(error.hint()),
            Self::App(AppError::Store(error)) => error.hint(),
            Self::App(AppError::Confine(_)) => Some(
                "set `process.confine = false` (TOKEN_VALET__PROCESS__CONFINE) to run with all files and ports in reach"
                    .to_owned(),
            ),
            Self::App(AppError::Tls(_) | AppError::Host(_) | AppError::Runtime(_) | AppError::Errand(_))
            | Self::Config(_)
            | Self::Sandbox(_)
            | Self::Process(_)
            | Self::Ask(_)
            | Self::Online(_)
            | Self::CutOff(_)
            | Self::Print(_) => None,
        }
    }
}

/// Does what the command line says. Wrong usage ends the process with code 2.
#[must_use]
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(file) => run_sidecar(&file.config, Vec::new()),
        Command::Exec { file, command } => run_sidecar(&file.config, command),
        Command::Check(arguments) => check::run(arguments).map(|()| 0),
        Command::Health { probe, file } => ask::health(&file.config, probe).map(|()| 0),
        Command::Quit(file) => ask::quit(&file.config).map(|()| 0),
        Command::Config(ConfigCommand::Show(file)) => show::run(&file.config).map(|()| 0),
        Command::Config(ConfigCommand::Schema) => documents::print(documents::SCHEMA).map(|()| 0),
        Command::Sandbox { config } => sandbox::run(config.as_deref()),
        Command::Completions { shell } => documents::print(shell.completions()).map(|()| 0),
        Command::Man => documents::print(documents::MANUAL).map(|()| 0),
    };
    ExitCode::from(done.unwrap_or_else(|error| {
        error.print();
        error.exit_code()
    }))
}

/// Without a command, it is there for others. Gives the exit code.
fn run_sidecar(file: &Path, command: Vec<OsString>) -> Result<u8, CliError> {
    // Now, as the process may soon be confined.
    let termination_log = TerminationLog::open();
    let programs = if command.is_empty() { Programs::None } else { Programs::Theirs };
    let done = on_control_thread(programs, |(mut signals, requests)| async move {
        let mut words = command.into_iter();
        let errand = match words.next() {
            Some(program) => {
                signals.add_quit().map_err(CliError::Process)?;
                Some(Errand::new(program, words.collect()).map_err(AppError::from)?)
            }
            None => None,
        };
        let origin = Origin { file: file.to_owned(), environment: environment() };
        let (config, entries) = origin.load()?;
        let log = telemetry::init(&config.log);
        let setup = Setup { config, origin: Some((origin, entries)), log, errand };
        Ok(app::run(setup, (signals, requests), |_, _| {}).await?)
    });
    if let (Err(error), Some(log)) = (&done, termination_log) {
        log.write(&error.text());
    }
    done
}

/// The programs that the process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Programs {
    /// None, ever.
    None,
    /// A user's: it is not to inherit what the process gives up or takes for itself.
    Theirs,
}

/// Runs a command's main future, with the signals' handlers installed before anything else happens.
fn on_control_thread<T, F>(programs: Programs, command: impl FnOnce((Signals, Requests)) -> F) -> Result<T, CliError>
where
    F: Future<Output = Result<T, CliError>>,
{
    let runtime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).map_err(CliError::Process)?;
    let done = runtime.block_on(async {
        let signals = Signals::install().map_err(CliError::Process)?;
        set_up_process(programs).map_err(CliError::Process)?;
        command(signals).await
    });
    // Not to wait for a name's look-up that hangs.
    runtime.shutdown_background();
    done
}

fn set_up_process(programs: Programs) -> std::io::Result<()> {
    process::keep_memory_private()?;
    // Programs inherit the rest.
    if programs == Programs::None {
        process::dump_no_core()?;
        process::gain_no_privileges()?;
        process::allow_open_files()?;
    }
    Ok(())
}

/// The variables that are text; others cannot be ours.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
