//! `token-valet check`: every fault of the configuration, and with `--online` whether the provider takes it.

use std::path::Path;

use clap::Args;

use super::{CliError, ConfigFile, Programs, environment, on_control_thread};
use crate::{
    app::online::{self, Fault},
    config::Config,
    secret,
};

#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Connect to the API too, without a request, and fetch a token if that uses nothing up
    #[arg(long)]
    online: bool,
}

pub(super) fn run(Check { file: ConfigFile { config: file }, online }: Check) -> Result<(), CliError> {
    let config = check(&file)?;
    if !online {
        return Ok(());
    }
    on_control_thread(Programs::None, |(mut signals, _)| async move {
        tokio::select! {
            signal = signals.end() => Err(CliError::CutOff(signal.name())),
            tried = try_provider(&config) => tried,
        }
    })
}

fn check(file: &Path) -> Result<Config, CliError> {
    let config = Config::load(file, environment())?;
    for path in config.secret_files().filter(|path| secret::is_open_to_others(path)) {
        eprintln!("warning: the secret file {path:?} is readable by others\n  hint: {}", secret::OPEN_HINT);
    }
    println!("{}: no fault found", file.display());
    Ok(config)
}

/// Says of each part how it is, and of all that is wrong at the end.
async fn try_provider(config: &Config) -> Result<(), CliError> {
    let mut faults = Vec::new();
    for finding in [online::try_api(config).await?, online::try_token(config).await?] {
        match finding {
            Ok(line) => println!("{line}"),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(CliError::Online(faults)) }
}

/// As the faults of a configuration are told.
pub(super) fn told(faults: &[Fault]) -> String {
    let texts: Vec<_> = faults.iter().map(message).collect();
    texts.join("\n\n")
}

fn message(Fault { error, description, place, look_at }: &Fault) -> String {
    let mut text = format!("error: {error}\n  at {place}");
    if let Some(description) = description {
        text.push_str(&format!("\n  which adds: {description}"));
    }
    if let Some(keys) = look_at {
        text.push_str(&format!("\n\nhint: look at `{}`", keys.replace(", ", "`, `")));
    }
    text
}
