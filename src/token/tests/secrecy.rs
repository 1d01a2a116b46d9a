//! No secret is shown by the `Debug` of anything that holds one.

use prometheus_client::metrics::family::Family;
use tokio::time::sleep;

use super::{Fault, Outcome, Provider, Time, World, config, seconds, world::simulate};
use crate::{
    config,
    secret::{Secret, SecretSource},
    token::{Issued, Refresher, credentials::Credentials},
};

const SENTINELS: [&str; 5] = ["sentinel-client", "sentinel-code", "sentinel-refresh", "sentinel-new", "token-"];

fn assert_silent(shown: &str) {
    for sentinel in SENTINELS {
        assert!(!shown.contains(sentinel), "{sentinel} in: {shown}");
    }
}

fn value(text: &str) -> SecretSource {
    SecretSource::Value(Secret::new(text.to_owned()))
}

fn grants() -> [config::Grant; 3] {
    [
        config::Grant::ClientCredentials,
        config::Grant::AuthorizationCode {
            code: value("sentinel-code"),
            redirect_uri: "https://app.example.com/callback".to_owned(),
        },
        config::Grant::RefreshToken { refresh_token: value("sentinel-refresh") },
    ]
}

#[test]
fn debug_of_every_type_of_the_token_is_censored() {
    for grant in grants() {
        let config = config(|token| {
            token.client_secret = value("sentinel-client");
            token.grant = grant;
        });
        assert_silent(&format!("{config:?}"));
        simulate(async {
            let time = Time::new();
            let provider = Provider::new(time.clone(), |_| unreachable!("it is never started"));
            let world = World::start(&config, 1, time, |_| {
                let refresh_token = Some("sentinel-new".to_owned());
                Outcome::Token { expires_in: Some("60".to_owned()), refresh_token }.after(seconds(1), seconds(0))
            });
            let unstarted = Refresher::new(
                &config,
                provider,
                None,
                world.clock.clone(),
                rand::SeedableRng::seed_from_u64(1),
                world.metrics.clone(),
            );
            assert_silent(&format!("{unstarted:?}"));
            sleep(seconds(100)).await;
            let bearer = world.bearer().await.expect("a token");
            let status = world.renewal.status();
            assert_silent(&format!("{bearer:?} {:?} {:?} {status:?}", world.cell, world.renewal));
            assert_silent(&format!("{:?} {:?}", world.cell.0.load_full(), bearer.authorization));
            assert!(world.provider.count() > 1);
            for call in world.provider.calls().iter() {
                assert_silent(&call.shown);
            }
        });
    }
}

#[test]
fn debug_of_what_is_kept_and_what_came_is_censored() {
    for grant in grants() {
        let config = config(|token| {
            token.client_secret = value("sentinel-client");
            token.grant = grant;
        });
        simulate(async {
            let clock = Time::new().clock();
            let mut credentials = Credentials::new(&config, None, clock, &Family::default());
            for _ in 0..2 {
                let presented = credentials.present().await.expect("all of it is at hand");
                assert_silent(&format!("{presented:?} {credentials:?}"));
                credentials.accepted(Some(Secret::new("sentinel-new".to_owned()))).await;
            }
            assert_silent(&format!("{credentials:?}"));
        });
    }
    let issued = Issued {
        access_token: Some(Secret::new("token-1".to_owned())),
        lifetime: None,
        refresh_token: Some(Secret::new("sentinel-new".to_owned())),
    };
    assert_silent(&format!("{issued:?}"));
}

#[test]
fn an_error_names_a_secret_file_and_nothing_of_its_content() {
    simulate(async {
        let error = Fault::Secret.error(None).await;
        assert_silent(&format!("{error:?} {error}"));
    });
}
