//! The commands, and the only place that prints errors and chooses exit codes.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "this is the part that talks to the terminal")]

mod ask;
mod check;
mod sandbox;
mod show;

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, LocalOptions};

use crate::{
    app::{self, AppError, Setup, online::Fault},
    config::ConfigError,
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
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// The values in force and where each comes from, without secrets
    Show(ConfigFile),
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
}

impl CliError {
    /// 69 and 78 are `EX_UNAVAILABLE` and `EX_CONFIG` of sysexits(3).
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::App(AppError::Tls(_) | AppError::Host(_) | AppError::Store(_)) => 78,
            Self::App(AppError::Listen(_)) => 69,
            Self::App(AppError::Confine(_) | AppError::Runtime(_))
            | Self::Sandbox(_)
            | Self::Process(_)
            | Self::Ask(_)
            | Self::Online(_)
            | Self::CutOff(_) => 1,
        }
    }

    fn print(&self) {
        match self {
            // Its faults are whole messages already.
            Self::Config(error) => eprintln!("{error}"),
            Self::Online(faults) => eprintln!("{}", check::told(faults)),
            Self::App(_) | Self::Sandbox(_) | Self::Process(_) | Self::Ask(_) | Self::CutOff(_) => {
                eprintln!("error: {}", Report(self));
            }
        }
        if let Some(hint) = self.hint() {
            eprintln!("\nhint: {hint}");
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::App(AppError::Listen(_)) => Some(
                "end what listens there, or choose another port with `listen.address` or `admin.address` \
                 (TOKEN_VALET__LISTEN__ADDRESS, TOKEN_VALET__ADMIN__ADDRESS)"
                    .to_owned(),
            ),
            Self::App(AppError::Store(error)) => error.hint(),
            Self::App(AppError::Confine(_)) => Some(
                "set `process.confine = false` (TOKEN_VALET__PROCESS__CONFINE) to run with all files and ports in reach"
                    .to_owned(),
            ),
            Self::App(AppError::Tls(_) | AppError::Host(_) | AppError::Runtime(_))
            | Self::Config(_)
            | Self::Sandbox(_)
            | Self::Process(_)
            | Self::Ask(_)
            | Self::Online(_)
            | Self::CutOff(_) => None,
        }
    }
}

/// Does what the command line says. Wrong usage ends the process with code 2.
#[must_use]
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(file) => run_sidecar(&file.config),
        Command::Check(arguments) => check::run(arguments),
        Command::Health { probe, file } => ask::health(&file.config, probe),
        Command::Quit(file) => ask::quit(&file.config),
        Command::Config(ConfigCommand::Show(file)) => show::run(&file.config),
        Command::Sandbox { config } => sandbox::run(config.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print();
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_sidecar(file: &Path) -> Result<(), CliError> {
    on_control_thread(|signals| async move {
        let origin = Origin { file: file.to_owned(), environment: environment() };
        let (config, entries) = origin.load()?;
        let log = telemetry::init(&config.log);
        let setup = Setup { config, origin: Some((origin, entries)), log };
        Ok(app::run(setup, signals, |_, _| {}).await?)
    })
}

/// Runs a command's main future, with the signals' handlers installed before anything else happens.
fn on_control_thread<F>(command: impl FnOnce((Signals, Requests)) -> F) -> Result<(), CliError>
where
    F: Future<Output = Result<(), CliError>>,
{
    let runtime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).map_err(CliError::Process)?;
    let done = runtime.block_on(async {
        let signals = Signals::install().map_err(CliError::Process)?;
        process::keep_memory_private().map_err(CliError::Process)?;
        process::gain_no_privileges().map_err(CliError::Process)?;
        process::allow_open_files().map_err(CliError::Process)?;
        command(signals).await
    });
    // Not to wait for a name's look-up that hangs.
    runtime.shutdown_background();
    done
}

/// The variables that are text; others cannot be ours.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
