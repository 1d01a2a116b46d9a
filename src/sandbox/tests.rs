use std::{
    error::Error,
    future::Future,
    io::{self, Read as _},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{ApiFault, Certificate, Provider, Settings, TokenState, oauth, script::Script, server::Presence};
use crate::config::{BodyFormat, ClientAuth, SandboxFault, TokenFault};

const ACCOUNTS: &str = "/api/fdx/5/accounts";

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(10);

type Failure = Box<dyn Error + Send + Sync>;

struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    fn error(&self) -> (u16, String) {
        let error = self.json()["error"].as_str().expect("the body has an error").to_owned();
        (self.status.as_u16(), error)
    }
}

fn start(settings: Settings) -> Provider {
    Provider::start(settings).expect("a free port of the loopback interface")
}

async fn connect(provider: &Provider) -> Result<http1::SendRequest<Full<Bytes>>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(provider.ca_pem().as_bytes())?)?;
    let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(provider.address()).await?;
    let name = ServerName::from(provider.address().ip());
    let stream = TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange_on(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Got, Failure> {
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Got { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
}

async fn send(provider: &Provider, request: Request<Full<Bytes>>) -> Result<Got, Failure> {
    let mut sender = connect(provider).await?;
    timeout(DEADLINE, exchange_on(&mut sender, request)).await?
}

fn api_request(method: Method, path: &str, token: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "sandbox")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::new(body.into()))
        .expect("a request made of literals")
}

async fn read(provider: &Provider, token: &str, path: &str) -> Got {
    send(provider, api_request(Method::GET, path, token, "")).await.expect("an answer")
}

fn token_request(content_type: &str, basic: Option<(&str, &str)>, body: String) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(oauth::PATH)
        .header(header::HOST, "sandbox")
        .header(header::CONTENT_TYPE, content_type);
    if let Some((id, secret)) = basic {
        request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(format!("{id}:{secret}"))));
    }
    request.body(Full::new(body.into())).expect("a request made of literals")
}

/// As the default client asks.
fn proper(fields: &Value) -> Request<Full<Bytes>> {
    let settings = Settings::default();
    let basic = Some((settings.client_id.as_str(), settings.client_secret.as_str()));
    token_request("application/json", basic, fields.to_string())
}

async fn ask(provider: &Provider, fields: &Value) -> Got {
    send(provider, proper(fields)).await.expect("an answer")
}

fn client_credentials() -> Value {
    json!({ "grant_type": "client_credentials", "scope": "client:admin" })
}

fn by_code() -> Value {
    let settings = Settings::default();
    json!({ "grant_type": "authorization_code", "code": settings.code, "redirect_uri": settings.redirect_uri })
}

fn by_refresh_token(refresh_token: &str) -> Value {
    json!({ "grant_type": "refresh_token", "refresh_token": refresh_token })
}

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().expect("a field of text").to_owned()
}

async fn token(provider: &Provider) -> String {
    text(&ask(provider, &by_refresh_token(&Settings::default().refresh_token)).await.json(), "access_token")
}

/// Polls until it holds.
async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    timeout(DEADLINE, async {
        while !holds().await {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the condition comes to hold");
}

/// Sends the request, waits until the provider has taken it, and then a little longer for no answer.
async fn stays_unanswered<F: Future<Output = bool>>(
    provider: &Provider,
    request: Request<Full<Bytes>>,
    taken: impl FnMut() -> F,
) {
    let mut sender = connect(provider).await.expect("a connection");
    let answer = exchange_on(&mut sender, request);
    let patience = async {
        until(taken).await;
        sleep(Duration::from_millis(50)).await;
    };
    tokio::select! {
        _ = answer => panic!("there is no answer to wait for"),
        () = patience => {}
    }
}

/// Whether the failure, or anything that caused it, is of this kind.
fn is_caused_by(failure: &Failure, kind: io::ErrorKind) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(failure.as_ref());
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind) {
            return true;
        }
        cause = error.source();
    }
    false
}

// The token endpoint.

#[tokio::test]
async fn client_credentials_give_an_opaque_token_and_no_refresh_token() {
    let provider = start(Settings::default());
    let got = ask(&provider, &client_credentials()).await;
    let body = got.json();
    assert_eq!(got.status, StatusCode::OK);
    assert_eq!(got.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(
        (&body["token_type"], &body["expires_in"], &body["scope"]),
        (&json!("Bearer"), &json!(299), &json!("client:admin"))
    );
    assert_eq!(body.get("refresh_token"), None);
    assert!(!text(&body, "access_token").contains('.'));
    assert_eq!(read(&provider, &text(&body, "access_token"), ACCOUNTS).await.status, StatusCode::OK);
}

#[tokio::test]
async fn code_gives_a_jwt_and_a_refresh_token_that_is_good_for_ever() {
    let provider = start(Settings::default());
    let body = ask(&provider, &by_code()).await.json();
    let access_token = text(&body, "access_token");
    let parts: Vec<&str> = access_token.split('.').collect();
    assert_eq!(parts.len(), 3);
    let claims = URL_SAFE_NO_PAD.decode(parts[1]).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!(text(&claims, "client_id"), Settings::default().client_id);
    assert!(claims["sub"].is_string() && claims["exp"].is_u64());

    let refresh_token = text(&body, "refresh_token");
    for _ in 0..2 {
        let again = ask(&provider, &by_refresh_token(&refresh_token)).await.json();
        assert_eq!(again.get("refresh_token"), None);
        assert_ne!(text(&again, "access_token"), access_token);
    }
    let secrets = provider.issued_secrets();
    assert_eq!(secrets.len(), 4);
    assert!(secrets.contains(&access_token) && secrets.contains(&refresh_token));
}

#[tokio::test]
async fn code_that_comes_twice_is_refused_and_revokes_what_it_gave() {
    let provider = start(Settings::default());
    let first = ask(&provider, &by_code()).await.json();
    assert_eq!(ask(&provider, &by_code()).await.error(), (400, "invalid_grant".to_owned()));
    let refresh = by_refresh_token(&text(&first, "refresh_token"));
    assert_eq!(ask(&provider, &refresh).await.error(), (400, "invalid_grant".to_owned()));
    assert_eq!(read(&provider, &text(&first, "access_token"), ACCOUNTS).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(provider.tally().revoked, 1);
}

#[tokio::test]
async fn redirect_uri_that_differs_in_a_slash_is_refused_and_leaves_the_code_good() {
    let provider = start(Settings::default());
    let mut fields = by_code();
    fields["redirect_uri"] = json!(format!("{}/", Settings::default().redirect_uri));
    assert_eq!(ask(&provider, &fields).await.error(), (400, "invalid_grant".to_owned()));
    assert_eq!(ask(&provider, &by_code()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn rotated_refresh_token_replaces_the_one_before() {
    let provider = start(Settings { rotate_refresh_tokens: true, ..Settings::default() });
    let old = by_refresh_token(&Settings::default().refresh_token);
    let new = text(&ask(&provider, &old).await.json(), "refresh_token");
    assert_eq!(ask(&provider, &old).await.error(), (400, "invalid_grant".to_owned()));
    assert_eq!(ask(&provider, &by_refresh_token(&new)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn replaced_refresh_token_with_grace_is_good_until_its_successor_is_presented() {
    let provider = start(Settings { rotate_refresh_tokens: true, rotation_grace: true, ..Settings::default() });
    let old = by_refresh_token(&Settings::default().refresh_token);
    let lost = text(&ask(&provider, &old).await.json(), "refresh_token");
    let new = text(&ask(&provider, &old).await.json(), "refresh_token");
    assert_ne!(lost, new);
    assert_eq!(ask(&provider, &by_refresh_token(&new)).await.status, StatusCode::OK);
    assert_eq!(ask(&provider, &old).await.error(), (400, "invalid_grant".to_owned()));
}

#[tokio::test]
async fn punished_reuse_revokes_the_replacement_too() {
    let provider = start(Settings { rotate_refresh_tokens: true, punish_reuse: true, ..Settings::default() });
    let old = by_refresh_token(&Settings::default().refresh_token);
    let new = text(&ask(&provider, &old).await.json(), "refresh_token");
    ask(&provider, &old).await;
    assert_eq!(ask(&provider, &by_refresh_token(&new)).await.error(), (400, "invalid_grant".to_owned()));
}

#[tokio::test]
async fn faulty_fields_are_refused_with_the_documented_error() {
    let provider = start(Settings::default());
    let mut refresh_with_scope = by_refresh_token(&Settings::default().refresh_token);
    refresh_with_scope["scope"] = json!("client:admin");
    let mut client_in_body_too = client_credentials();
    client_in_body_too["client_id"] = json!(Settings::default().client_id);
    for (fields, error) in [
        (refresh_with_scope, "invalid_request"),
        (client_in_body_too, "invalid_request"),
        (json!({}), "invalid_request"),
        (json!([]), "invalid_request"),
        (json!({ "grant_type": "refresh_token" }), "invalid_request"),
        (json!({ "grant_type": "refresh_token", "refresh_token": "" }), "invalid_request"),
        (json!({ "grant_type": "refresh_token", "refresh_token": 7 }), "invalid_request"),
        (json!({ "grant_type": "password" }), "unsupported_grant_type"),
        (json!({ "grant_type": "client_credentials", "scope": "all" }), "invalid_scope"),
        (by_refresh_token("never-issued"), "invalid_grant"),
    ] {
        assert_eq!(ask(&provider, &fields).await.error(), (400, error.to_owned()), "{fields}");
    }
    assert_eq!(provider.issued_secrets(), Vec::<String>::new());
}

#[tokio::test]
async fn client_must_authenticate_where_it_is_told_to() {
    let Settings { client_id: id, client_secret: secret, .. } = Settings::default();
    let bare = client_credentials();
    let mut full = bare.clone();
    full["client_id"] = json!(id);
    full["client_secret"] = json!(secret);
    let right = Some((id.as_str(), secret.as_str()));
    let wrong = Some((id.as_str(), "wrong"));
    for (auth, basic, fields, expected) in [
        (Some(ClientAuth::Basic), right, &bare, None),
        (Some(ClientAuth::Basic), wrong, &bare, Some("invalid_client")),
        (Some(ClientAuth::Basic), None, &bare, Some("invalid_request")),
        (Some(ClientAuth::Basic), None, &full, Some("invalid_request")),
        (Some(ClientAuth::Body), None, &full, None),
        (Some(ClientAuth::Body), right, &bare, Some("invalid_request")),
        (None, right, &bare, None),
        (None, None, &full, None),
        (None, right, &full, Some("invalid_request")),
    ] {
        let provider = start(Settings { client_auth: auth, ..Settings::default() });
        let request = token_request("application/json", basic, fields.to_string());
        let got = send(&provider, request).await.expect("an answer");
        match expected {
            None => assert_eq!(got.status, StatusCode::OK, "{auth:?} {basic:?} {fields}"),
            Some(error) => assert_eq!(got.error(), (400, error.to_owned()), "{auth:?} {basic:?} {fields}"),
        }
    }
}

#[tokio::test]
async fn basic_credentials_count_encoded_or_not() {
    let settings = Settings { client_secret: "a b%c".to_owned(), ..Settings::default() };
    let provider = start(settings.clone());
    for secret in ["a b%c", "a+b%25c", "a%20b%25c"] {
        let basic = Some((settings.client_id.as_str(), secret));
        let request = token_request("application/json", basic, client_credentials().to_string());
        assert_eq!(send(&provider, request).await.expect("an answer").status, StatusCode::OK, "{secret}");
    }
}

#[tokio::test]
async fn body_of_the_other_encoding_is_415() {
    let Settings { client_id: id, client_secret: secret, redirect_uri, .. } = Settings::default();
    let form = "grant_type=authorization_code&code=sandbox-authorization-code-5Hq8\
                &redirect_uri=https%3A%2F%2Fapp.example.ca%2Fflinks%2Fcallback";
    let json = client_credentials().to_string();
    for (body, form_status, json_status) in
        [(Some(BodyFormat::Json), 415, 200), (Some(BodyFormat::Form), 200, 415), (None, 200, 200)]
    {
        let provider = start(Settings { token_body: body, ..Settings::default() });
        let basic = Some((id.as_str(), secret.as_str()));
        let request = token_request("application/x-www-form-urlencoded", basic, form.to_owned());
        assert_eq!(send(&provider, request).await.expect("an answer").status, form_status, "{body:?}");
        assert_eq!(provider.exchanges()[0].fields["redirect_uri"], redirect_uri);
        let request = token_request("application/json; charset=utf-8", basic, json.clone());
        assert_eq!(send(&provider, request).await.expect("an answer").status, json_status, "{body:?}");
    }
}

#[tokio::test]
async fn expires_in_says_what_the_settings_say() {
    for lie in [json!("299"), json!(299.9), json!(0), json!(-1), json!({})] {
        let provider = start(Settings { expires_in: Some(lie.clone()), ..Settings::default() });
        assert_eq!(ask(&provider, &client_credentials()).await.json()["expires_in"], lie);
    }
    let provider = start(Settings { expires_in: Some(Value::Null), ..Settings::default() });
    assert_eq!(ask(&provider, &client_credentials()).await.json().get("expires_in"), None);
}

#[tokio::test]
async fn exchange_is_recorded_as_it_arrived() {
    let settings = Settings::default();
    let provider = start(settings.clone());
    ask(&provider, &client_credentials()).await;
    ask(&provider, &by_refresh_token("never-issued")).await;
    let [granted, refused] = &provider.exchanges()[..] else { panic!("there were two exchanges") };
    assert_eq!(granted.grant_type.as_deref(), Some("client_credentials"));
    assert_eq!(granted.fields["scope"], "client:admin");
    assert_eq!(granted.content_type.as_deref(), Some("application/json"));
    assert_eq!(granted.basic, Some((settings.client_id, settings.client_secret)));
    assert_eq!((granted.status, granted.lifetime), (Some(StatusCode::OK), Some(settings.token_life)));
    assert_eq!((refused.status, refused.lifetime), (Some(StatusCode::BAD_REQUEST), None));
}

#[tokio::test]
async fn token_endpoint_takes_post_and_64_kib_only() {
    let provider = start(Settings::default());
    assert_eq!(read(&provider, "x", oauth::PATH).await.status, StatusCode::METHOD_NOT_ALLOWED);
    let request = token_request("application/json", None, " ".repeat(64 * 1024 + 1));
    assert_eq!(send(&provider, request).await.expect("an answer").status, StatusCode::PAYLOAD_TOO_LARGE);
}

// Faults of the token endpoint.

#[tokio::test]
async fn next_faults_come_one_each_and_then_it_works() {
    let provider = start(Settings::default());
    provider.set_retry_after(Duration::from_secs(7));
    provider.next_token_faults([
        TokenFault::Empty,
        TokenFault::Malformed,
        TokenFault::Html,
        TokenFault::ServerError,
        TokenFault::TooManyRequests,
        TokenFault::Redirect,
    ]);
    let empty = ask(&provider, &client_credentials()).await;
    assert_eq!((empty.status.as_u16(), empty.body.len()), (200, 0));
    let malformed = ask(&provider, &client_credentials()).await;
    assert!(serde_json::from_slice::<Value>(&malformed.body).is_err() && malformed.status == 200);
    let html = ask(&provider, &client_credentials()).await;
    assert!(html.body.starts_with(b"<!doctype html>") && html.status == 200);
    let broken = ask(&provider, &client_credentials()).await;
    assert_eq!(broken.error(), (500, "server_error".to_owned()));
    let busy = ask(&provider, &client_credentials()).await;
    assert_eq!((busy.status.as_u16(), &busy.headers[header::RETRY_AFTER]), (429, &"7".parse().expect("a number")));
    let redirect = ask(&provider, &client_credentials()).await;
    assert_eq!(redirect.headers[header::LOCATION], "https://elsewhere.invalid/api/v1/token");
    assert_eq!(ask(&provider, &client_credentials()).await.status, StatusCode::OK);

    let seen = provider.exchanges();
    assert_eq!(seen[2].fault, Some(TokenFault::Html));
    assert_eq!((seen[6].fault, seen[6].status), (None, Some(StatusCode::OK)));
    assert_eq!(provider.issued_secrets().len(), 1);
}

#[tokio::test]
async fn standing_fault_and_error_last_until_cleared() {
    let provider = start(Settings::default());
    provider.set_token_fault(Some(TokenFault::ServerError));
    for _ in 0..2 {
        assert_eq!(ask(&provider, &client_credentials()).await.error(), (500, "server_error".to_owned()));
    }
    provider.set_token_fault(None);
    provider.set_token_error(Some((StatusCode::BAD_REQUEST, "access_denied")));
    assert_eq!(ask(&provider, &client_credentials()).await.error(), (400, "access_denied".to_owned()));
    provider.set_token_error(None);
    assert_eq!(ask(&provider, &client_credentials()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn reset_exchange_sees_a_reset_connection() {
    for fault in [TokenFault::Reset, TokenFault::Down] {
        let provider = start(Settings::default());
        provider.next_token_faults([fault]);
        let failure = send(&provider, proper(&client_credentials())).await.err().expect("no answer");
        assert!(is_caused_by(&failure, io::ErrorKind::ConnectionReset), "{failure:?}");
        assert_eq!(ask(&provider, &client_credentials()).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn hanging_exchange_gets_no_answer_and_no_token() {
    let provider = start(Settings::default());
    provider.next_token_faults([TokenFault::Hang]);
    let hung = Some(TokenFault::Hang);
    let taken = async || provider.exchanges().iter().any(|exchange| exchange.fault == hung);
    stays_unanswered(&provider, proper(&client_credentials()), taken).await;
    assert!(provider.issued_secrets().is_empty());
}

#[tokio::test]
async fn slow_exchange_has_issued_its_token_before_the_answer() {
    let provider = start(Settings::default());
    provider.next_token_faults([TokenFault::Slow]);
    let began = Instant::now();
    let fields = client_credentials();
    let slow = ask(&provider, &fields);
    let (got, ()) = tokio::join!(slow, until(async || provider.exchanges().iter().any(|seen| seen.lifetime.is_some())));
    assert_eq!(got.status, StatusCode::OK);
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[test]
fn scheduled_fault_gives_way_to_a_standing_one_and_that_to_the_next_one() {
    let second = Duration::from_secs;
    let entry = |fault, during| SandboxFault { fault, during };
    let mut script =
        Script::new(vec![entry(TokenFault::Down, second(2)..second(4)), entry(TokenFault::Html, second(1)..second(3))]);
    assert_eq!(script.take_token_fault(second(0)), None);
    assert_eq!(script.take_token_fault(second(1)), Some(TokenFault::Html));
    assert_eq!(script.take_token_fault(second(3)), None);
    script.token_fault = Some(TokenFault::Empty);
    script.next_token_faults.push_back(TokenFault::Hang);
    assert_eq!(script.take_token_fault(second(1)), Some(TokenFault::Hang));
    assert_eq!(script.take_token_fault(second(1)), Some(TokenFault::Empty));

    assert_eq!(script.presence(second(0)), (Presence::Up, Some(second(2))));
    assert_eq!(script.presence(second(2)), (Presence::Down, Some(second(4))));
    assert_eq!(script.presence(second(4)), (Presence::Up, None));
    script.down = true;
    assert_eq!(script.presence(second(4)), (Presence::Down, None));
}

#[tokio::test]
async fn scheduled_down_comes_and_goes_by_time() {
    let during = Duration::from_millis(50)..Duration::from_millis(1050);
    let faults = vec![SandboxFault { fault: TokenFault::Down, during }];
    let provider = start(Settings { faults, ..Settings::default() });
    until(async || TcpStream::connect(provider.address()).await.is_err()).await;
    until(async || TcpStream::connect(provider.address()).await.is_ok()).await;
    assert_eq!(ask(&provider, &client_credentials()).await.status, StatusCode::OK);
}

// The data API.

#[tokio::test]
async fn token_is_good_until_its_life_is_over() {
    let provider = start(Settings { token_life: Duration::from_secs(1), ..Settings::default() });
    let token = token(&provider).await;
    assert_eq!(read(&provider, &token, ACCOUNTS).await.status, StatusCode::OK);
    until(async || read(&provider, &token, ACCOUNTS).await.status == StatusCode::UNAUTHORIZED).await;
    let refused = read(&provider, &token, ACCOUNTS).await;
    assert!(refused.json()["message"].is_string());
    assert_eq!((refused.json().get("code"), refused.json().get("debugMessage")), (None, None));
    assert!(refused.headers.contains_key("ob-correlation-id") && refused.headers.contains_key("ob-trace-id"));
    let tally = provider.tally();
    assert_eq!((tally.expired, tally.by_status[&401]), (2, 2));
    assert_eq!(tally.valid, tally.by_status[&200]);
}

#[tokio::test]
async fn refusal_has_the_status_of_the_settings() {
    let provider = start(Settings { refusal: StatusCode::FORBIDDEN, ..Settings::default() });
    let refused = read(&provider, "never-issued", ACCOUNTS).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.json().get("code"), None);
    let mut bare = api_request(Method::GET, ACCOUNTS, "", "");
    bare.headers_mut().remove(header::AUTHORIZATION);
    assert_eq!(send(&provider, bare).await.expect("an answer").status, StatusCode::FORBIDDEN);
    let states: Vec<TokenState> = provider.requests().iter().map(|seen| seen.token).collect();
    assert_eq!(states, [TokenState::Unknown, TokenState::Missing]);
}

#[tokio::test]
async fn revoked_tokens_are_refused_and_the_grant_lives_on() {
    let provider = start(Settings::default());
    let old = token(&provider).await;
    provider.revoke_tokens();
    let refused = read(&provider, &old, ACCOUNTS).await;
    assert_eq!((refused.status, refused.json().get("code")), (StatusCode::UNAUTHORIZED, None));
    let new = token(&provider).await;
    assert_eq!(read(&provider, &new, ACCOUNTS).await.status, StatusCode::OK);
    assert_eq!(provider.requests()[0].token, TokenState::Revoked);
}

#[tokio::test]
async fn revoked_consent_is_602_and_an_invalid_grant() {
    for by_client in [false, true] {
        let provider = start(Settings::default());
        let token = token(&provider).await;
        if by_client {
            let revoke = api_request(Method::DELETE, "/api/v1/revoke", &token, "");
            assert_eq!(send(&provider, revoke).await.expect("an answer").status, StatusCode::NO_CONTENT);
        } else {
            provider.revoke_consent();
        }
        let refused = read(&provider, &token, ACCOUNTS).await;
        assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::UNAUTHORIZED, &json!(602)));
        let refresh = by_refresh_token(&Settings::default().refresh_token);
        assert_eq!(ask(&provider, &refresh).await.error(), (400, "invalid_grant".to_owned()));
        assert_eq!(ask(&provider, &by_code()).await.error(), (400, "invalid_grant".to_owned()));
    }
}

#[tokio::test]
async fn accounts_come_in_pages_and_detail_as_asked() {
    let provider = start(Settings::default());
    let token = token(&provider).await;
    let all = read(&provider, &token, ACCOUNTS).await.json();
    assert_eq!(all["accounts"].as_array().map(Vec::len), Some(3));
    assert_eq!(all["accounts"][0]["depositAccount"].get("currentBalance"), None);
    let page = read(&provider, &token, &format!("{ACCOUNTS}?resultType=details&offset=1&limit=1")).await.json();
    assert_eq!(page["page"], json!({ "totalElements": 3, "nextOffset": "2" }));
    assert_eq!(page["accounts"][0]["depositAccount"]["currentBalance"], json!(18_300.0));
    let id = text(&page["accounts"][0]["depositAccount"], "accountId");
    let one = read(&provider, &token, &format!("{ACCOUNTS}?accountId={id}")).await.json();
    assert_eq!(one["page"]["totalElements"], 1);
    assert_eq!(read(&provider, &token, &format!("{ACCOUNTS}/{id}")).await.json()["depositAccount"]["accountId"], id);

    let path = format!("{ACCOUNTS}/{id}/transactions?startTime=2026-03-18&endTime=2026-03-25T23%3A59%3A59Z");
    assert_eq!(read(&provider, &token, &path).await.json()["page"]["totalElements"], 3);
    let path = format!("{ACCOUNTS}/{id}/statements?limit=2");
    assert_eq!(read(&provider, &token, &path).await.json()["statements"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn faulty_requests_get_the_errors_of_fdx() {
    let provider = start(Settings::default());
    let token = token(&provider).await;
    for (method, path, status, code) in [
        (Method::GET, "/api/fdx/5/accounts/none", 404, 701),
        (Method::GET, "/api/fdx/5/accounts?limit=none", 400, 401),
        (Method::GET, "/api/fdx/5/nothing", 404, 601),
        (Method::GET, "/nothing", 404, 601),
        (Method::GET, "/sandbox/nothing", 404, 601),
        (Method::PUT, "/api/fdx/5/accounts", 405, 501),
        (Method::GET, "/api/v1/revoke", 405, 501),
    ] {
        let got = send(&provider, api_request(method, path, &token, "")).await.expect("an answer");
        assert_eq!((got.status.as_u16(), &got.json()["code"]), (status, &json!(code)), "{path}");
    }
}

// Faults of the data API.

#[tokio::test]
async fn api_faults_answer_as_documented() {
    let provider = start(Settings::default());
    let token = token(&provider).await;
    for (fault, status, code) in [
        (ApiFault::AlwaysUnauthorized, 401, None),
        (ApiFault::ConsentRevoked, 401, Some(602)),
        (ApiFault::TooManyRequests, 429, Some(1207)),
        (ApiFault::Maintenance, 503, Some(503)),
        (ApiFault::SlowHead(Duration::from_millis(20)), 200, None),
    ] {
        provider.set_api_fault(Some(fault));
        let got = read(&provider, &token, ACCOUNTS).await;
        assert_eq!(got.status.as_u16(), status, "{fault:?}");
        assert_eq!(got.json().get("code").and_then(Value::as_u64), code, "{fault:?}");
        assert_eq!(got.headers.contains_key(header::RETRY_AFTER), status == 429);
    }
    provider.set_api_fault(Some(ApiFault::ConsentRevokedGzip));
    let got = read(&provider, &token, ACCOUNTS).await;
    assert_eq!((got.status.as_u16(), &got.headers[header::CONTENT_ENCODING]), (401, &"gzip".parse().expect("a word")));
    let mut body = String::new();
    GzDecoder::new(&got.body[..]).read_to_string(&mut body).expect("gzip of text");
    assert!(body.contains("602"));
}

#[tokio::test]
async fn hanging_and_dying_responses_do_not_end_well() {
    let provider = start(Settings::default());
    let token = token(&provider).await;
    provider.set_api_fault(Some(ApiFault::DieInBody));
    let mut sender = connect(&provider).await.expect("a connection");
    let response = sender.send_request(api_request(Method::GET, ACCOUNTS, &token, "")).await.expect("a head");
    assert_eq!(response.status(), StatusCode::OK);
    let body = timeout(DEADLINE, response.into_body().collect()).await.expect("an end");
    assert!(body.is_err());

    provider.set_api_fault(Some(ApiFault::Hang));
    let request = api_request(Method::GET, ACCOUNTS, &token, "");
    stays_unanswered(&provider, request, async || provider.requests().len() == 2).await;
    let statuses: Vec<Option<StatusCode>> = provider.requests().iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [Some(StatusCode::OK), None]);
}

// The port.

#[tokio::test]
async fn down_refuses_resets_and_comes_back_on_the_same_port() {
    let provider = start(Settings::default());
    let token = token(&provider).await;
    for _ in 0..3 {
        let mut idle = connect(&provider).await.expect("a connection");
        exchange_on(&mut idle, api_request(Method::GET, ACCOUNTS, &token, "")).await.expect("an answer");
        let mut busy = connect(&provider).await.expect("a connection");
        let request = api_request(Method::GET, "/sandbox/slow/60000", &token, "");
        let before = provider.requests().len();
        let waiting = tokio::spawn(async move { exchange_on(&mut busy, request).await });
        until(async || provider.requests().len() > before).await;

        provider.go_down();
        let failure = waiting.await.expect("no panic").err().expect("no answer");
        assert!(is_caused_by(&failure, io::ErrorKind::ConnectionReset), "{failure:?}");
        let failure = TcpStream::connect(provider.address()).await.expect_err("refused");
        assert_eq!(failure.kind(), io::ErrorKind::ConnectionRefused);
        until(async || idle.is_closed()).await;

        provider.come_back();
        assert_eq!(read(&provider, &token, ACCOUNTS).await.status, StatusCode::OK);
    }
    provider.set_token_fault(Some(TokenFault::Down));
    assert!(TcpStream::connect(provider.address()).await.is_err());
    provider.set_token_fault(None);
    assert!(TcpStream::connect(provider.address()).await.is_ok());
}

#[tokio::test]
async fn dropped_provider_leaves_its_port() {
    let provider = start(Settings::default());
    let address = provider.address();
    drop(provider);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn faulty_certificate_fails_the_handshake() {
    for certificate in [Certificate::Expired, Certificate::OtherHost] {
        let provider = start(Settings { certificate, ..Settings::default() });
        assert!(connect(&provider).await.is_err(), "{certificate:?}");
    }
}

// The paths for tests.

#[tokio::test]
async fn connection_serves_request_after_request() {
    let provider = start(Settings::default());
    let token = token(&provider).await;
    let mut sender = connect(&provider).await.expect("a connection");
    for path in ["/sandbox/bytes/0", "/sandbox/bytes/200000", "/sandbox/chunked/200000", "/sandbox/drip/3/1"] {
        let got = exchange_on(&mut sender, api_request(Method::GET, path, &token, "")).await.expect("an answer");
        let count: usize = path.split('/').nth(3).and_then(|count| count.parse().ok()).expect("a number");
        assert_eq!(got.body.len(), count, "{path}");
        assert_eq!(got.headers.contains_key(header::CONTENT_LENGTH), path.contains("bytes"), "{path}");
    }
    let got = exchange_on(&mut sender, api_request(Method::GET, "/sandbox/status/418", &token, "")).await;
    assert_eq!(got.expect("an answer").status, StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn sink_digests_and_echo_mirrors_the_request() {
    let provider = start(Settings::default());
    let token = token(&provider).await;
    let body = vec![b'z'; 300_000];
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let request = api_request(Method::POST, "/sandbox/sink", &token, body);
    let got = send(&provider, request).await.expect("an answer").json();
    assert_eq!(got, json!({ "bytes": 300_000, "sha256": digest }));

    let target = "/sandbox/echo?a=%2F&b";
    let got = send(&provider, api_request(Method::PUT, target, &token, "hello")).await.expect("an answer").json();
    assert_eq!((&got["method"], &got["target"], &got["body"]), (&json!("PUT"), &json!(target), &json!("hello")));
    assert!(got["headers"].as_array().expect("a list").contains(&json!(["host", "sandbox"])));
    let seen = provider.requests();
    assert_eq!(seen.last().map(|seen| seen.target.as_str()), Some(target));
}

#[tokio::test]
async fn record_keeps_the_latest_and_the_tally_counts_all() {
    let provider = start(Settings { memory: 2, ..Settings::default() });
    let token = token(&provider).await;
    for number in 0..5 {
        read(&provider, &token, &format!("/sandbox/bytes/{number}")).await;
    }
    let targets: Vec<String> = provider.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/sandbox/bytes/3", "/sandbox/bytes/4"]);
    assert_eq!(provider.tally().valid, 5);
}
