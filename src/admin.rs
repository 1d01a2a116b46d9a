//! The port for probes: is the process alive, has it started, can it serve.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;

use crate::{
    clock::Clock,
    config::{self, Gate},
    token::{Renewal, TokenCell},
};

/// Answers probes.
#[derive(Debug)]
pub struct Admin {
    startup: Gate,
    readiness: Gate,
    tokens: TokenCell,
    renewal: Renewal,
    clock: Clock,
}

impl Admin {
    /// It only reads what the others write.
    #[must_use]
    pub fn new(config: &config::Admin, tokens: TokenCell, renewal: Renewal, clock: Clock) -> Self {
        Self { startup: config.startup, readiness: config.readiness, tokens, renewal, clock }
    }

    /// Answers one request; the body of it is not read.
    #[must_use]
    pub fn handle<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let probe = match request.uri().path() {
            "/livez" => Ok("alive"),
            "/startupz" => self.started(),
            "/readyz" => self.ready(),
            _ => return answer(StatusCode::NOT_FOUND, "no such page: /livez, /startupz, /readyz"),
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD only");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match probe {
            Ok(text) => answer(StatusCode::OK, text),
            Err(text) => answer(StatusCode::SERVICE_UNAVAILABLE, text),
        }
    }

    fn started(&self) -> Result<&'static str, &'static str> {
        match self.startup {
            Gate::Token if self.renewal.status().generation == 0 => Err("waiting for the first access token"),
            Gate::Token | Gate::Serving => Ok("started"),
        }
    }

    fn ready(&self) -> Result<&'static str, &'static str> {
        match self.readiness {
            Gate::Token if self.tokens.time_left(self.clock.now()).is_none() => Err("no valid access token"),
            Gate::Token | Gate::Serving => Ok("ready"),
        }
    }
}

fn answer(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
