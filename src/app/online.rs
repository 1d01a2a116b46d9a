//! Whether the provider can be reached with a configuration, and takes it.

use super::{AppError, api_connector, token_client};
use crate::{
    config::{Config, Grant, Origin},
    http_client::Need,
    proxy::ProxyError,
    report::Report,
    token::{FetchError, TokenClient, try_credentials},
};

/// Why one part of the provider is of no use, in the words of the log.
#[derive(Debug)]
pub struct Fault {
    /// What went wrong. Nothing of it is a secret or an unchecked part of an answer.
    pub error: String,
    /// What the token endpoint adds, made safe to be shown.
    pub description: Option<String>,
    /// Host and port.
    pub place: String,
    /// The configuration keys to look at.
    pub look_at: Option<&'static str>,
}

/// One part of the provider: a line that says how it is, or what is wrong with it.
pub type Finding = Result<String, Fault>;

/// Shakes hands with the API as the sidecar would, and sends no request. Takes `upstream.connect_timeout` at most.
///
/// # Errors
/// When no connection could be made whatever the API does.
pub async fn try_api(config: &Config) -> Result<Finding, AppError> {
    let connector = api_connector(&config.upstream)?;
    let place = place(&config.upstream.origin);
    Ok(match connector.greet(Need::Any).await {
        Ok(greeting) => Ok(format!("the API at {place}: ok, {greeting}")),
        Err(error) => {
            let error = ProxyError::Connect(error);
            let (look_at, error) = (error.keys(), Report(&error).to_string());
            Err(Fault { error, description: None, place, look_at })
        }
    })
}

/// Fetches a token where that changes nothing, by client credentials; else shakes hands with the token
/// endpoint. Takes `token.timeout` at most.
///
/// # Errors
/// When no connection could be made whatever the token endpoint does.
pub async fn try_token(config: &Config) -> Result<Finding, AppError> {
    let endpoint = token_client(&config.token)?;
    let told = match &config.token.grant {
        Grant::ClientCredentials => try_credentials(&config.token, &endpoint).await.map(|lifetime| match lifetime {
            Some(lifetime) => format!("ok, a token that lives {} s", lifetime.as_secs()),
            None => "ok, a token that does not say how long it lives (`token.default_lifetime`)".to_owned(),
        }),
        Grant::AuthorizationCode { .. } => without_exchange(&endpoint, "use up the code").await,
        Grant::RefreshToken { .. } => without_exchange(&endpoint, "replace the refresh token").await,
    };
    let place = place(&config.token.origin);
    Ok(match told {
        Ok(told) => Ok(format!("the token endpoint at {place}: {told}")),
        Err(error) => {
            let description = error.description().map(str::to_owned);
            Err(Fault { error: Report(&error).to_string(), description, place, look_at: error.keys() })
        }
    })
}

async fn without_exchange(endpoint: &TokenClient, harm: &str) -> Result<String, FetchError> {
    let greeting = endpoint.connector().greet(Need::Http1).await.map_err(FetchError::Connect)?;
    Ok(format!("ok, {greeting}; no token was asked for, as that could {harm}"))
}

/// Always with its port.
fn place(origin: &Origin) -> String {
    let Origin { host, port, .. } = origin;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
