//! Log lines on standard error: text for people, JSON for machines.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, fmt, layer::SubscriberExt, reload};

use crate::config::{Log, LogFormat};

/// A hold on the least level that is written.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    /// Changes it for the whole process.
    pub fn set(&self, level: LevelFilter) {
        // An error means that another log is in use, as when tests run several at once.
        let _ = self.0.reload(level);
    }
}

/// Installs the log for the whole process; a second call changes nothing.
pub fn init(config: &Log) -> LogLevel {
    let json = match config.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let (filter, level) = reload::Layer::new(config.level);
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    // An error means that a log is installed already.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines));
    LogLevel(level)
}
