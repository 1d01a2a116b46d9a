//! Each grant, from the first exchange to the refreshes, as the provider sees it.

use std::collections::BTreeMap;

use token_valet::{
    config::{BodyFormat, ClientAuth},
    sandbox::{Exchange, Provider, Settings},
};

use crate::harness::{ACCOUNTS, Setup, Sidecar, provider, seconds, wait_until};

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn short_lived() -> Settings {
    Settings { token_life: seconds(3), ..Settings::default() }
}

/// Keeps asking until the token has been refreshed twice; no request may notice.
#[track_caller]
fn serves_through_two_refreshes(sidecar: &Sidecar, provider: &Provider) -> Vec<Exchange> {
    let mut caller = sidecar.connect();
    wait_until("two refreshes", || {
        caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
        provider.exchanges().len() >= 3
    });
    // The newest token is in use too.
    caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    let tally = provider.tally();
    assert_eq!((tally.expired, tally.revoked, tally.unknown, tally.missing), (0, 0, 0, 0), "{tally:?}");
    assert!(provider.exchanges().iter().all(|exchange| exchange.status.is_some_and(|status| status == 200)));
    provider.exchanges()
}

#[test]
fn client_credentials_bring_accounts_and_are_exchanged_again_in_time() {
    let provider = provider(short_lived());
    let sidecar = Setup::partner(&provider).set("token.scope", "client:admin").start();
    let exchanges = serves_through_two_refreshes(&sidecar, &provider);
    let settings = Settings::default();
    for exchange in exchanges {
        assert_eq!(exchange.fields, fields(&[("grant_type", "client_credentials"), ("scope", "client:admin")]));
        assert_eq!(exchange.basic, Some((settings.client_id.clone(), settings.client_secret.clone())));
        assert_eq!(exchange.content_type.as_deref(), Some("application/json"));
    }
}

#[test]
fn no_scope_is_asked_for_unless_one_is_configured() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    sidecar.get(ACCOUNTS).assert_accounts();
    assert_eq!(provider.exchanges()[0].fields, fields(&[("grant_type", "client_credentials")]));
}

#[test]
fn client_proves_who_it_is_in_the_configured_place_and_encoding() {
    // What neither JSON, nor a form, nor HTTP Basic can carry as it is.
    let client_secret = "s+e%20c:r/e t=&\"\\é";
    for (auth, client_auth) in [("basic", ClientAuth::Basic), ("body", ClientAuth::Body)] {
        for (body, token_body) in [("json", BodyFormat::Json), ("form", BodyFormat::Form)] {
            let settings = Settings {
                client_secret: client_secret.to_owned(),
                // Anything else is refused.
                client_auth: Some(client_auth),
                token_body: Some(token_body),
                ..Settings::default()
            };
            let client_id = settings.client_id.clone();
            let provider = provider(settings);
            let setup = Setup::partner(&provider).set_file("token.client_secret_file", &format!("{client_secret}\n"));
            let sidecar = setup.set("token.client_auth", auth).set("token.body", body).start();
            sidecar.get(ACCOUNTS).assert_accounts();

            let exchange = &provider.exchanges()[0];
            let grant_type = ("grant_type", "client_credentials");
            if auth == "basic" {
                assert_eq!(exchange.fields, fields(&[grant_type]));
                assert!(exchange.basic.is_some());
            } else {
                let expected = [grant_type, ("client_id", client_id.as_str()), ("client_secret", client_secret)];
                assert_eq!(exchange.fields, fields(&expected));
                assert_eq!(exchange.headers.get("authorization"), None);
            }
        }
    }
}

#[test]
fn code_is_exchanged_once_and_the_refresh_token_it_gave_from_then_on() {
    let provider = provider(short_lived());
    let sidecar = Setup::by_code(&provider).start();
    let exchanges = serves_through_two_refreshes(&sidecar, &provider);
    let settings = Settings::default();
    let first = [
        ("grant_type", "authorization_code"),
        ("code", settings.code.as_str()),
        ("redirect_uri", settings.redirect_uri.as_str()),
    ];
    assert_eq!(exchanges[0].fields, fields(&first));
    // The access token comes first, then the refresh token.
    let refresh_token = provider.issued_secrets()[1].clone();
    for exchange in &exchanges[1..] {
        assert_eq!(exchange.fields, fields(&[("grant_type", "refresh_token"), ("refresh_token", &refresh_token)]));
    }
}

#[test]
fn refresh_token_that_is_not_replaced_is_used_again() {
    let provider = provider(short_lived());
    let sidecar = Setup::by_refresh_token(&provider).start();
    let refresh_token = Settings::default().refresh_token;
    for exchange in serves_through_two_refreshes(&sidecar, &provider) {
        assert_eq!(exchange.fields, fields(&[("grant_type", "refresh_token"), ("refresh_token", &refresh_token)]));
    }
}

#[test]
fn refresh_token_that_is_replaced_is_never_presented_again() {
    let settings = Settings { rotate_refresh_tokens: true, punish_reuse: true, ..short_lived() };
    let provider = provider(settings);
    let sidecar = Setup::by_refresh_token(&provider).start();
    let exchanges = serves_through_two_refreshes(&sidecar, &provider);
    // Each exchange gives an access token, then a refresh token.
    let issued = provider.issued_secrets().into_iter().skip(1).step_by(2);
    let expected: Vec<String> = std::iter::once(Settings::default().refresh_token).chain(issued).collect();
    for (exchange, refresh_token) in exchanges.iter().zip(&expected) {
        assert_eq!(exchange.fields, fields(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token)]));
    }
}
