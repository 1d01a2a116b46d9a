//! What is left of a secret in a process's memory once it is replaced and its last request is over.
//!
//! The process that is looked at is this test binary, started once more: in it the library's refresher
//! and token client run as they do in the sidecar. The provider and the search are here, in another
//! process, so that what is found was put there by the library.
//!
//! Without TLS nothing at all may be left of a token. With TLS, what rustls leaves of the last messages
//! is excepted, in memory that it gave back: nobody can wipe that without `unsafe`. So is what hyper
//! leaves of a request's head. Such copies are told by the rest of their message, and counted.
//!
//! Needs Linux, and a kernel that lets a process read the memory of what it started.

#![allow(clippy::disallowed_methods, reason = "these wait for another process, by the clock of this one")]

mod endpoint;
mod memory;
mod subject;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use token_valet::sandbox::{Provider, Settings};

use self::{
    endpoint::{Endpoint, Writing},
    memory::Found,
    subject::{Order, Subject},
};

/// Made up anew: this binary's constants are in the memory of the process that is looked at, too.
fn secret() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>())
}

fn provider(settings: Settings) -> Provider {
    Provider::start(Settings { client_auth: None, token_body: None, ..settings }).expect("a free port")
}

fn by_refresh_token(api_url: &str, token_url: &str, ca_pem: Option<&str>, settings: &[(&str, &str)]) -> Subject {
    let subject = Subject::new(api_url, token_url, "refresh_token")
        .file("client_secret_file", &Settings::default().client_secret)
        .file("refresh_token_file", &Settings::default().refresh_token)
        .path("state_file");
    let subject = ca_pem.into_iter().fold(subject, |subject, pem| subject.file("ca_file", pem));
    settings.iter().fold(subject, |subject, (key, value)| subject.set(key, value)).start()
}

/// What may be there beside what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excepted {
    Nothing,
    Messages,
}

#[track_caller]
fn assert_held(what: &str, found: &Found, excepted: Excepted) {
    report(what, found);
    assert!(!found.ours.is_empty(), "{what} is in use and was not found: the search proves nothing");
    let is_left = excepted == Excepted::Nothing && !found.on_the_wire.is_empty();
    assert!(!is_left, "{what} is not only where it is in use: {found:#?}");
}

#[track_caller]
fn assert_gone(what: &str, found: &Found, excepted: Excepted) {
    report(what, found);
    let is_gone = found.ours.is_empty() && (excepted == Excepted::Messages || found.on_the_wire.is_empty());
    assert!(is_gone, "{what} is still in memory: {found:#?}");
}

#[expect(clippy::print_stdout, reason = "the figures are for whoever asks for them")]
fn report(what: &str, found: &Found) {
    println!("{what}: {} copies, and {} within messages", found.ours.len(), found.on_the_wire.len());
}

/// Two replacements; `issued` are the provider's access and refresh tokens.
fn assert_rotation_leaves_nothing(
    mut subject: Subject,
    excepted: Excepted,
    issued: impl Fn() -> Vec<(String, String)>,
) {
    subject.order(Order::Hold);
    let first = issued()[0].clone();
    assert_held("the first access token", &subject.find(&first.0), excepted);
    assert_held("the first refresh token", &subject.find(&first.1), excepted);

    subject.order(Order::Replace);
    assert_held("the access token of a request that is not over", &subject.find(&first.0), excepted);
    assert_gone("the refresh token that was rotated", &subject.find(&first.1), excepted);

    subject.order(Order::Release);
    assert_gone("the access token that was replaced", &subject.find(&first.0), excepted);
    let second = issued()[1].clone();
    assert_held("the second access token", &subject.find(&second.0), excepted);
    assert_held("the second refresh token", &subject.find(&second.1), excepted);

    subject.order(Order::Replace);
    report("the first access token, one exchange later", &subject.find(&first.0));
    assert_gone("the second access token", &subject.find(&second.0), excepted);
    assert_gone("the second refresh token", &subject.find(&second.1), excepted);
}

fn rotation_at_the_provider(jwt: bool, settings: &[(&str, &str)]) {
    let provider = provider(Settings { rotate_refresh_tokens: true, jwt, ..Settings::default() });
    let subject = by_refresh_token(&provider.api_url(), &provider.token_url(), Some(provider.ca_pem()), settings);
    assert_rotation_leaves_nothing(subject, Excepted::Messages, || {
        provider.issued_secrets().chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    });
}

fn rotation_without_tls(writing: Writing) {
    let endpoint = Endpoint::start(writing);
    let subject = by_refresh_token("https://api.example.com", &endpoint.url, None, &[]);
    assert_rotation_leaves_nothing(subject, Excepted::Nothing, || endpoint.issued());
}

#[test]
fn replaced_tokens_are_gone_once_their_last_request_is_over() {
    rotation_without_tls(Writing::Plain);
}

#[test]
fn a_token_is_only_where_it_is_in_use_and_a_refresh_token_of_no_use_nowhere() {
    let endpoint = Endpoint::start(Writing::Plain);
    let subject = Subject::new("https://api.example.com", &endpoint.url, "client_credentials");
    let mut subject = subject.file("client_secret_file", &Settings::default().client_secret).start();
    subject.order(Order::Hold);
    let (access, refresh) = endpoint.issued()[0].clone();
    assert_held("the access token", &subject.find(&access), Excepted::Nothing);
    assert_gone("the refresh token", &subject.find(&refresh), Excepted::Nothing);
}

#[test]
fn replaced_tokens_that_came_with_escapes_are_gone_too() {
    rotation_without_tls(Writing::Escaped);
}

#[test]
fn replaced_opaque_tokens_that_came_over_tls_are_gone_but_for_messages() {
    rotation_at_the_provider(false, &[]);
}

#[test]
fn replaced_jwts_that_came_over_tls_are_gone_but_for_messages() {
    rotation_at_the_provider(true, &[("client_auth", "body"), ("body", "form")]);
}

fn replaced_client_secret_leaves_nothing(settings: &[(&str, &str)]) {
    // Of sizes so different that one does not come to lie where the other was.
    let (old, new) = (secret().repeat(30), secret());
    let provider = provider(Settings { client_secret: new.clone(), ..Settings::default() });
    let subject = Subject::new(&provider.api_url(), &provider.token_url(), "client_credentials")
        .file("ca_file", provider.ca_pem())
        .file("client_secret_file", &old);
    let subject = settings.iter().fold(subject, |subject, (key, value)| subject.set(key, value));
    let mut subject = subject.start();
    subject.order(Order::AwaitFailure);
    assert_held("the first client secret", &subject.find(&old), Excepted::Messages);

    subject.replace("client_secret_file", &new);
    subject.order(Order::Hold);
    assert_held("the second client secret", &subject.find(&new), Excepted::Messages);
    assert_gone("the first client secret", &subject.find(&old), Excepted::Messages);
    let pair = format!("{}:{old}", Settings::default().client_id);
    assert_gone(
        "the first credentials of HTTP Basic",
        &subject.find(&BASE64_STANDARD.encode(pair)),
        Excepted::Messages,
    );
}

#[test]
fn replaced_client_secret_is_gone_once_another_is_read() {
    replaced_client_secret_leaves_nothing(&[]);
}

#[test]
fn replaced_client_secret_is_gone_after_exchanges_with_it_in_the_body_too() {
    replaced_client_secret_leaves_nothing(&[("client_auth", "body"), ("body", "json")]);
    replaced_client_secret_leaves_nothing(&[("client_auth", "body"), ("body", "form")]);
}

/// What [`Subject`] starts; nothing, when it is not asked for.
#[test]
fn subject() {
    subject::run();
}
