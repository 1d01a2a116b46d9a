//! A token request outside of the token's life, to see that it can be made.

use std::time::Duration;

use super::{Bearer, Exchange, FetchError, Presented, credentials::PresentedGrant};
use crate::config;

/// Asks for a token by the client's own credentials, whatever the grant is, and throws it away. Gives how
/// long it would live; `None` if the answer does not say.
///
/// # Errors
/// See [`FetchError`].
pub async fn try_credentials(config: &config::Token, endpoint: &impl Exchange) -> Result<Option<Duration>, FetchError> {
    let client_secret = config.client_secret.read().map_err(FetchError::Secret)?;
    let presented = Presented { client_secret, grant: PresentedGrant::ClientCredentials };
    let issued = endpoint.exchange(&presented).await?;
    let access_token = issued.access_token.ok_or(FetchError::NotBearer)?;
    Bearer::new(access_token.expose(), 1).ok_or(FetchError::UnusableToken)?;
    Ok(issued.lifetime)
}
