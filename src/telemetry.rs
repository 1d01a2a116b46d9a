//! Log lines on standard error: text for people, JSON for machines.

use std::{
    fmt::{Debug, Formatter, Result},
    io::{self, IsTerminal},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt,
    layer::{Layered, SubscriberExt},
    reload,
};

use crate::config::{Log, LogFormat};

type Leveled = Layered<reload::Layer<LevelFilter, Registry>, Registry>;
type Filtered = Layered<Targets, Leveled>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// A hold on what is logged, and how.
#[derive(Clone)]
pub struct LogControl {
    level: reload::Handle<LevelFilter, Registry>,
    lines: reload::Handle<Lines, Filtered>,
}

impl Debug for LogControl {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("LogControl").finish_non_exhaustive()
    }
}

impl LogControl {
    /// Changes the least level that is written, for the whole process.
    pub fn set_level(&self, level: LevelFilter) {
        // An error means that another log is in use, as when tests run several at once.
        let _ = self.level.reload(level);
    }

    /// Changes all that the configuration says of the log.
    pub fn set(&self, config: &Log) {
        self.set_level(config.level);
        // As above.
        let _ = self.lines.reload(lines(config.format));
    }
}

/// Installs the log for the whole process; a second call changes nothing.
pub fn init(config: &Log) -> LogControl {
    let (filter, level) = reload::Layer::new(config.level);
    let (lines, control) = reload::Layer::new(lines(config.format));
    // An error means that a log is installed already.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(filter).with(own()).with(lines));
    LogControl { level, lines: control }
}

/// The lines of this program. What libraries would say in detail may hold what callers sent.
fn own() -> Targets {
    Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::TRACE).with_default(LevelFilter::WARN)
}

fn lines(format: LogFormat) -> Lines {
    let is_json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    if is_json {
        lines.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    }
}
