//! Log lines on standard error: text for people, JSON for machines.

use std::io::{self, IsTerminal};

use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Installs the log for the whole process; a second call changes nothing.
pub fn init(config: &Log) {
    let json = match config.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let log = fmt::Subscriber::builder().with_max_level(config.level).with_writer(io::stderr).with_target(false);
    // An error means that a log is installed already, as when tests run several at once.
    let _ = if json {
        tracing::subscriber::set_global_default(log.json().flatten_event(true).with_current_span(false).finish())
    } else {
        tracing::subscriber::set_global_default(log.with_ansi(io::stderr().is_terminal()).finish())
    };
}
