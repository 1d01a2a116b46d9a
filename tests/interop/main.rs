//! The real binary against an OAuth server that nobody here wrote: `oidc-provider` for Node.
//!
//! The sandbox provider and the sidecar read the same RFCs with the same eyes. This server was certified by others, so
//! it refuses what both might get wrong: Basic credentials that are not form-encoded, a refresh token or a code that
//! comes twice. Every test has a server and a sidecar of its own, and the API behind the sidecar takes only tokens that
//! this server calls live.
//!
//! `npm ci --prefix tests/interop` installs the server; `cargo test --test interop` runs the suite.

mod server;
mod sidecar;
mod wait;

use std::time::Duration;

use self::{
    server::{Client, OAuthServer, ODD_PARTNER, PARTNER, RECIPIENT, REDIRECT_URI, Seen},
    sidecar::Sidecar,
    wait::eventually,
};

/// The sidecar presents a refused grant once more after 30 s, before it says that the user must act.
const CONFIRMED: Duration = Duration::from_secs(45);

#[tokio::test]
async fn a_partner_gets_tokens_with_its_credentials_in_the_basic_header() {
    let server = OAuthServer::start().await;
    let sidecar = Sidecar::start(&server, PARTNER, &[("grant", "client_credentials"), ("client_auth", "basic")]).await;
    sidecar.answers("200").await;
    assert_eq!(server.seen().await.exchanges[0], "client_credentials, credentials in the header");
}

#[tokio::test]
async fn a_partner_gets_tokens_with_its_credentials_in_the_body() {
    let server = OAuthServer::start().await;
    let sidecar = Sidecar::start(&server, PARTNER, &[("grant", "client_credentials"), ("client_auth", "body")]).await;
    sidecar.answers("200").await;
    assert_eq!(server.seen().await.exchanges[0], "client_credentials, credentials in the body");
}

#[tokio::test]
async fn an_id_and_a_secret_that_need_encoding_are_understood_either_way() {
    let server = OAuthServer::start().await;
    for client_auth in ["basic", "body"] {
        let settings = [("grant", "client_credentials"), ("client_auth", client_auth)];
        let sidecar = Sidecar::start(&server, ODD_PARTNER, &settings).await;
        sidecar.answers("200").await;
    }
    assert_eq!(server.seen().await.refusals, [""; 0]);
}

#[tokio::test]
async fn an_allowed_scope_is_granted_and_another_one_is_a_configuration_fault() {
    let server = OAuthServer::start().await;
    let grant = ("grant", "client_credentials");
    Sidecar::start(&server, PARTNER, &[grant, ("scope", "client:admin")]).await.answers("200").await;
    Sidecar::start(&server, PARTNER, &[grant, ("scope", "accounts")]).await.answers("502 token_config").await;
    assert_eq!(server.seen().await.refusals, ["400 invalid_scope"]);
}

#[tokio::test]
async fn a_grant_that_the_client_may_not_use_is_a_configuration_fault() {
    let server = OAuthServer::start().await;
    let sidecar = Sidecar::start(&server, RECIPIENT, &[("grant", "client_credentials")]).await;
    sidecar.answers("502 token_config").await;
}

#[tokio::test]
async fn a_json_body_that_the_server_does_not_read_is_a_configuration_fault_that_names_the_key() {
    let server = OAuthServer::start().await;
    let sidecar = Sidecar::start(&server, PARTNER, &[("grant", "client_credentials"), ("body", "json")]).await;
    sidecar.answers("502 token_config").await;
    sidecar.log_names("token.body").await;
}

#[tokio::test]
async fn a_wrong_secret_is_a_configuration_fault_until_the_file_is_corrected() {
    let server = OAuthServer::start().await;
    let mistaken = Client { secret: "not the secret", ..PARTNER };
    let sidecar = Sidecar::start(&server, mistaken, &[("grant", "client_credentials")]).await;
    sidecar.answers("502 token_config").await;
    sidecar.log_names("token.client_secret_file").await;
    assert_eq!(server.seen().await.refusals, ["401 invalid_client"]);

    sidecar.write("client_secret", PARTNER.secret);
    sidecar.answers("200").await;
}

#[tokio::test]
async fn a_code_is_sent_once_and_its_refresh_token_rotates_over_several_lives() {
    let server = OAuthServer::start().await;
    let sidecar = start_with_code(&server, &server.code(RECIPIENT).await).await;
    sidecar.answers("200").await;
    let seen = steady_until_rotated(&server, &sidecar, 4).await;
    assert_eq!(seen.exchanges[0], "authorization_code, credentials in the header");
    assert!(seen.exchanges[1..].iter().all(|exchange| exchange == "refresh_token, credentials in the header"));
}

#[tokio::test]
async fn a_refresh_token_from_a_file_is_used_once_and_its_successors_are_adopted() {
    let server = OAuthServer::start().await;
    let sidecar = start_with_refresh_token(&server, &server.refresh_token(RECIPIENT).await).await;
    sidecar.answers("200").await;
    let seen = steady_until_rotated(&server, &sidecar, 4).await;
    assert!(seen.exchanges.iter().all(|exchange| exchange == "refresh_token, credentials in the body"));
}

#[tokio::test]
async fn a_withdrawn_consent_stops_requests_until_the_file_has_a_new_refresh_token() {
    let server = OAuthServer::start().await;
    let sidecar = start_with_refresh_token(&server, &server.refresh_token(RECIPIENT).await).await;
    sidecar.answers("200").await;

    server.withdraw_consent().await;
    sidecar.answers("503 token_unavailable").await;
    assert_eq!(server.seen().await.refusals, ["400 invalid_grant"]);

    sidecar.write("refresh_token", &server.refresh_token(RECIPIENT).await);
    sidecar.answers("200").await;
}

#[tokio::test]
async fn a_stolen_refresh_token_ends_the_grant_until_a_new_code_heals_it() {
    let server = OAuthServer::start().await;
    let sidecar = start_with_code(&server, &server.code(RECIPIENT).await).await;
    sidecar.answers("200").await;
    let stolen = steady_until_rotated(&server, &sidecar, 1).await.refresh_tokens[0].value.clone();

    assert_eq!(server.refresh(RECIPIENT, &stolen).await, "400 invalid_grant");
    assert_eq!(server.seen().await.grants_revoked, 1);
    sidecar.answers("503 token_unavailable").await;
    sidecar.answers_within(CONFIRMED, "502 reauthorize").await;

    sidecar.write("code", &server.code(RECIPIENT).await);
    sidecar.answers("200").await;
    assert_eq!(server.seen().await.grants_revoked, 1, "the sidecar presents nothing twice");
}

async fn start_with_code(server: &OAuthServer, code: &str) -> Sidecar {
    let settings = [("grant", "authorization_code"), ("redirect_uri", REDIRECT_URI), ("state_file", "state.json")];
    Sidecar::start_with_file(server, RECIPIENT, &settings, ("code", code)).await
}

async fn start_with_refresh_token(server: &OAuthServer, token: &str) -> Sidecar {
    let settings = [("grant", "refresh_token"), ("client_auth", "body")];
    Sidecar::start_with_file(server, RECIPIENT, &settings, ("refresh_token", token)).await
}

/// Sends requests until the server has rotated the refresh token so often. Each of them must succeed, and no refresh
/// token may come twice.
async fn steady_until_rotated(server: &OAuthServer, sidecar: &Sidecar, times: usize) -> Seen {
    eventually("rotations", Duration::from_secs(30), async || {
        assert_eq!(sidecar.get().await, "200", "{}", sidecar.log());
        let seen = server.seen().await;
        assert_eq!(seen.refusals, [""; 0]);
        let (newest, older) = seen.refresh_tokens.split_last().expect("the grant begins with a refresh token");
        assert!(newest.consumed <= 1 && older.iter().all(|token| token.consumed == 1), "{seen:?}");
        if older.len() >= times { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await
}
