//! The token endpoint.

mod form;

use std::{
    future,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use tokio::{sync::Notify, time::sleep};

use self::form::{Form, Grant};
use super::{
    Settings, State,
    book::Issued,
    locked,
    record::Exchange,
    reply::{self, Reply},
};
use crate::config::TokenFault;

/// Where it is.
pub(super) const PATH: &str = "/api/v1/token";

const MAX_BODY_BYTES: usize = 64 * 1024;

/// How much later [`TokenFault::Slow`] answers.
const SLOW: Duration = Duration::from_secs(2);

/// Answers one token request, by the rules or by the script.
pub(super) async fn answer(state: &State, cut: &Notify, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
        return reply::bare(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let form = Form::read(&head.headers, &body.to_bytes());
    let (fault, error, retry_after) = {
        let mut script = locked(&state.script);
        let fault = script.take_token_fault(state.started.elapsed());
        (fault, script.token_error.clone(), script.retry_after)
    };
    let (reply, lifetime) = match (fault, error) {
        (Some(fault), _) if fault != TokenFault::Slow => (misbehave(fault, retry_after), None),
        (_, Some((status, error))) => {
            let reply = reply::oauth_error(status, &error, "The script says so.");
            (Some(reply), None)
        }
        (_, None) if head.method != Method::POST => (Some(method_not_allowed()), None),
        (_, None) => {
            let (reply, lifetime) = grant(state, &form);
            (Some(reply), lifetime)
        }
    };

    let fields = form.fields.unwrap_or_default();
    let exchange = Exchange {
        at: Instant::now(),
        grant_type: fields.get("grant_type").cloned(),
        content_type: form.content_type,
        basic: form.basic,
        headers: head.headers,
        fault,
        status: reply.as_ref().map(Reply::status),
        lifetime,
        fields,
    };
    log(&exchange);
    locked(&state.record).exchanges.push(exchange);

    match (fault, reply) {
        (Some(TokenFault::Slow), Some(reply)) => {
            // The token is issued by now: a client that gives up has lost it.
            sleep(SLOW).await;
            reply
        }
        (_, Some(reply)) => reply,
        (Some(TokenFault::Reset | TokenFault::Down), None) => {
            cut.notify_one();
            future::pending().await
        }
        (_, None) => future::pending().await,
    }
}

fn log(exchange: &Exchange) {
    // What the client made up stays out of the log: it may have put a secret in the wrong place.
    let grant = match exchange.grant_type.as_deref() {
        Some("client_credentials") => "client_credentials",
        Some("authorization_code") => "authorization_code",
        Some("refresh_token") => "refresh_token",
        Some(_) => "unsupported",
        None => "none",
    };
    let status = exchange.status.map(|status| status.as_u16());
    let fault = exchange.fault.map(tracing::field::debug);
    tracing::debug!(target: "sandbox", grant, status, fault, "the token endpoint was asked");
}

/// The script's answer; None for none at all.
fn misbehave(fault: TokenFault, retry_after: Duration) -> Option<Reply> {
    const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    let reply = match fault {
        TokenFault::Down | TokenFault::Hang | TokenFault::Reset | TokenFault::Slow => return None,
        TokenFault::Empty => reply::whole(StatusCode::OK, JSON, ""),
        TokenFault::Malformed => reply::whole(StatusCode::OK, JSON, r#"{"access_token":"cut-o"#),
        TokenFault::Html => reply::whole(StatusCode::OK, HTML, "<!doctype html><title>Sign in</title><h1>Sign in</h1>"),
        TokenFault::ServerError => {
            reply::oauth_error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "Something broke.")
        }
        TokenFault::TooManyRequests => {
            let mut reply =
                reply::oauth_error(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests.");
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs()));
            reply
        }
        TokenFault::Redirect => {
            let mut reply = reply::bare(StatusCode::FOUND);
            let elsewhere = HeaderValue::from_static("https://elsewhere.invalid/api/v1/token");
            reply.headers_mut().insert(header::LOCATION, elsewhere);
            reply
        }
    };
    Some(reply)
}

fn method_not_allowed() -> Reply {
    let mut reply = reply::bare(StatusCode::METHOD_NOT_ALLOWED);
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    reply
}

/// The endpoint's own work, and the life of the token that it gave.
fn grant(state: &State, form: &Form) -> (Reply, Option<Duration>) {
    let settings = &state.settings;
    let granted = form
        .authenticated(settings)
        .and_then(Grant::read)
        .and_then(|grant| grant.exchange(settings, &mut locked(&state.book)));
    match granted {
        Ok((issued, scope)) => {
            let mut reply = reply::json(StatusCode::OK, &token_body(settings, issued, scope));
            reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            (reply, Some(settings.token_life))
        }
        Err(refusal) => {
            let mut reply = reply::oauth_error(refusal.status, refusal.error, &refusal.description);
            reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            (reply, None)
        }
    }
}

fn token_body(settings: &Settings, issued: Issued, scope: &str) -> Value {
    let mut body = Map::new();
    body.insert("access_token".to_owned(), Value::from(issued.access_token));
    body.insert("token_type".to_owned(), Value::from("Bearer"));
    let truth = || json!(settings.token_life.as_secs());
    let expires_in = settings.expires_in.clone().unwrap_or_else(truth);
    if !expires_in.is_null() {
        body.insert("expires_in".to_owned(), expires_in);
    }
    if let Some(refresh_token) = issued.refresh_token {
        body.insert("refresh_token".to_owned(), Value::from(refresh_token));
    }
    body.insert("scope".to_owned(), Value::from(scope));
    Value::Object(body)
}
