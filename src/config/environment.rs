//! The environment's part: `TOKEN_VALET__TABLE__KEY` overrides `table.key`.

use std::{collections::BTreeMap, path::Path};

use config::{Environment, File, FileFormat, Map, Value};

use super::error::{ConfigError, Fault, Place};

const PREFIX: &str = "TOKEN_VALET";
/// Double even behind the prefix, so that what Kubernetes sets for a service of that name, such as
/// `TOKEN_VALET_SERVICE_PORT`, is not taken for a key.
const SEPARATOR: &str = "__";

/// Whether a variable is meant for the configuration, be it well spelt or not.
pub(super) fn is_ours(variable: &str) -> bool {
    own_part(variable).is_some()
}

/// The environment variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{SEPARATOR}{}", key.to_uppercase().replace('.', SEPARATOR))
}

/// The dotted name that a variable seems to mean.
pub(super) fn dotted(variable: &str) -> String {
    own_part(variable).unwrap_or(variable).to_lowercase().replace(SEPARATOR, ".")
}

/// Lays the environment over the file. Only names of the form `TABLE__KEY` go in: any other could
/// replace a whole table.
pub(super) fn merge(
    file: &Path,
    text: &str,
    settings: BTreeMap<String, String>,
) -> Result<Map<String, Value>, ConfigError> {
    let is_key = |name: &str| {
        let key = dotted(name);
        variable(&key) == name && key.split('.').count() == 2 && !key.contains('[')
    };
    let settings = settings.into_iter().filter(|(name, _)| is_key(name)).collect();
    let environment =
        Environment::with_prefix(PREFIX).prefix_separator(SEPARATOR).separator(SEPARATOR).source(Some(settings));
    let merged =
        config::Config::builder().add_source(File::from_str(text, FileFormat::Toml)).add_source(environment).build();
    // Not the error itself: it may quote the file.
    merged.and_then(|merged| merged.cache.into_table()).map_err(|_| {
        let place = Place::file(file, None);
        let problem = "the file and the environment cannot be merged".to_owned();
        Fault { key: None, problem, place, hint: None }.into()
    })
}

fn own_part(variable: &str) -> Option<&str> {
    variable.strip_prefix(PREFIX)?.strip_prefix(SEPARATOR)
}
