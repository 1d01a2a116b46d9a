//! A request's way: from the application, with a bearer token, to the API, and the answer back.

mod access;
mod body;
mod error;
mod headers;
mod in_flight;
mod target;

use std::{mem, time::Duration};

use http::{HeaderValue, Request, Response, Version, header::AUTHORIZATION, request::Parts};
use hyper::body::Incoming;

use self::{
    access::AccessLog,
    body::{Progress, Upload},
};
pub use self::{body::ResponseBody, error::ProxyError, in_flight::InFlightLimit};
use crate::{
    clock::{Clock, Moment},
    config::Config,
    http_client::{Connector, Pool, SendError},
    token::{Bearer, Renewal, TokenCell},
};

/// The proxy of one runtime thread: its pool of connections, and the current token.
#[derive(Debug)]
pub struct Proxy {
    pool: Pool<Upload>,
    pool_idle_timeout: Duration,
    prefix: String,
    host: HeaderValue,
    response_timeout: Duration,
    idle_body_timeout: Duration,
    in_flight: InFlightLimit,
    access: AccessLog,
    tokens: TokenCell,
    renewal: Renewal,
    clock: Clock,
}

impl Proxy {
    /// `in_flight` is shared by the proxies of all threads.
    #[must_use]
    pub fn new(
        config: &Config,
        connector: Connector,
        in_flight: InFlightLimit,
        tokens: TokenCell,
        renewal: Renewal,
        clock: Clock,
    ) -> Self {
        Self {
            pool: Pool::new(connector, config.upstream.pool_max_idle),
            pool_idle_timeout: config.upstream.pool_idle_timeout,
            prefix: config.upstream.prefix.clone(),
            host: config.upstream.origin.host_header(),
            response_timeout: config.upstream.response_timeout,
            idle_body_timeout: config.upstream.idle_body_timeout,
            in_flight,
            access: AccessLog::new(config.log.access),
            tokens,
            renewal,
            clock,
        }
    }

    /// Closes connections to the API that nobody uses. Never completes; to be spawned once.
    pub fn sweeps_pool(&self) -> impl Future<Output = ()> + use<> {
        self.pool.sweeps(self.pool_idle_timeout)
    }

    /// Answers one request, with the API's response or with the reason why there is none.
    ///
    /// # Cancel safety
    /// Dropping the future, as happens when the caller goes away, ends the request at the API too.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let started = self.clock.now();
        let (mut head, body) = request.into_parts();
        let outcome = self.forward(&mut head, body, started).await;
        self.access.log(&head, &outcome, || self.clock.now().saturating_since(started));
        outcome.unwrap_or_else(|error| error.response())
    }

    async fn forward(
        &self,
        head: &mut Parts,
        body: Incoming,
        now: Moment,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let in_flight = self.in_flight.enter()?;
        let target = target::to_upstream(&head.method, &head.uri, &self.prefix)?;
        // Before the body is polled: a caller that waits for `100 Continue` does not send it in vain.
        let mut bearer = self.bearer(now).await?;

        let (upload, progress) = Upload::new(body, self.idle_body_timeout);
        let mut request = Request::new(upload);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = target;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = mem::take(&mut head.headers);
        headers::to_upstream(request.headers_mut(), &self.host);

        loop {
            let connection = self.pool.checkout().await?;
            if connection.is_new() {
                // Connecting took its time, in which the token may have expired.
                bearer = self.bearer(self.clock.now()).await?;
            }
            request.headers_mut().insert(AUTHORIZATION, bearer.authorization.clone());
            match self.head_of(connection.send(request), &progress).await? {
                Ok(response) => {
                    let mut response = response.map(|body| ResponseBody::api(body, self.idle_body_timeout, in_flight));
                    headers::to_client(response.headers_mut());
                    *response.version_mut() = Version::HTTP_11;
                    return Ok(response);
                }
                // Ends: a connection that was idle leaves the pool for good, and a new one never gives back.
                Err(SendError::Unsent(unsent)) => request = *unsent,
                Err(SendError::Broken(error)) => return Err(error.into()),
            }
        }
    }

    async fn bearer(&self, now: Moment) -> Result<Bearer, ProxyError> {
        match self.tokens.load(now) {
            Some(bearer) => Ok(bearer),
            None => Ok(self.renewal.token().await?),
        }
    }

    /// Waits for the head of the response, `upstream.response_timeout` from the last progress of the upload.
    async fn head_of<T>(&self, response: impl Future<Output = T>, progress: &Progress) -> Result<T, ProxyError> {
        tokio::pin!(response);
        loop {
            match tokio::time::timeout(self.response_timeout, &mut response).await {
                Ok(response) => return Ok(response),
                Err(_) if progress.since_last_look() => {}
                Err(_) => return Err(ProxyError::ResponseTimeout),
            }
        }
    }
}
