//! A request's way: from the application, with a bearer token, to the API, and the answer back.

mod access;
mod allow;
mod body;
mod error;
mod expect;
mod fields;
mod forwarded;
mod guard;
pub(crate) mod headers;
mod in_flight;
mod live;
mod measure;
mod outbound;
mod replay;
mod response_timeout;
mod retries;
pub(crate) mod target;
mod upgrade;
mod upload;
pub(crate) mod verdict;

use std::{
    cell::{Cell, RefCell},
    mem,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use futures_util::FutureExt as _;
use http::{Response, StatusCode, Version, request::Parts};
use http_body::Body;
use prometheus_client::metrics::{counter::Counter, family::Family};

pub use self::{body::ResponseBody, error::ProxyError, guard::Forbidden, measure::ProxyMetrics};
use self::{
    expect::Gate,
    fields::Fields,
    guard::Guard,
    in_flight::InFlightLimit,
    live::Live,
    measure::Measure,
    outbound::{Api, Outbound},
    replay::ReplayMemory,
    response_timeout::ResponseTimeouts,
    retries::Retries,
    upgrade::Upgrade,
    upload::{Upload, UploadWatch},
    verdict::Verdict,
};
use crate::{
    clock::{Clock, Moment},
    config::{Config, Forwarded},
    http_client::{Connector, Kept, Pool},
    listener::{Answered, Reply, RequestBody},
    metrics::{Answerer, HttpCounts, Rejection},
    token::{Bearer, FollowUp, Renewal, Replay, TokenCell},
};

/// The proxy of one runtime thread: its pool of connections, and the current token.
#[derive(Debug)]
pub struct Proxy {
    pool: Rc<Pool<Upload>>,
    pool_idle_timeout: Duration,
    guard: Guard,
    live: RefCell<Rc<Live>>,
    prefix: String,
    api: Api,
    forwarded: Forwarded,
    response_timeouts: Rc<ResponseTimeouts>,
    idle_body_timeout: Duration,
    tunnel_idle_timeout: Duration,
    in_flight: Rc<InFlightLimit>,
    rejection_statuses: Vec<StatusCode>,
    replay_memory: ReplayMemory,
    tokens: TokenCell,
    renewal: Renewal,
    /// The newest token that this thread saw the API take: told to the others once, not with each answer.
    accepted: Cell<u64>,
    counts: HttpCounts,
    rejections: Family<Rejection, Counter>,
    clock: Clock,
}

/// What the requests of all threads may take together.
#[derive(Clone, Debug)]
pub struct Limits {
    in_flight: InFlightLimit,
    replay_memory: ReplayMemory,
}

impl Limits {
    /// By `upstream.max_in_flight`, `token.max_replay_body` and `token.max_replay_memory`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            in_flight: InFlightLimit::new(config.upstream.max_in_flight),
            replay_memory: ReplayMemory::new(config.token.max_replay_body, config.token.max_replay_memory),
        }
    }
}

impl Proxy {
    /// `limits` are shared by the proxies of all threads.
    #[must_use]
    pub fn new(
        config: &Config,
        connector: Connector,
        limits: Limits,
        tokens: TokenCell,
        renewal: Renewal,
        clock: Clock,
        metrics: &ProxyMetrics,
    ) -> Self {
        let counts = metrics.http.of_this_thread();
        let kept = Kept { idle: config.upstream.pool_max_idle, of_burst: config.kept_of_burst() };
        Self {
            pool: Rc::new(Pool::new(connector, kept, counts.connections())),
            pool_idle_timeout: config.upstream.pool_idle_timeout,
            guard: Guard::new(config),
            live: RefCell::new(Rc::new(Live::new(config))),
            prefix: config.upstream.prefix.clone(),
            api: Api::new(&config.upstream.origin),
            forwarded: config.upstream.forwarded,
            response_timeouts: Rc::new(ResponseTimeouts::new(config.upstream.response_timeout, clock.clone())),
            idle_body_timeout: config.upstream.idle_body_timeout,
            tunnel_idle_timeout: config.upstream.tunnel_idle_timeout,
            in_flight: Rc::new(limits.in_flight),
            rejection_statuses: config.token.rejection_statuses.clone(),
            replay_memory: limits.replay_memory,
            tokens,
            renewal,
            accepted: Cell::new(0),
            counts,
            rejections: metrics.rejections.clone(),
            clock,
        }
    }

    /// Closes connections to the API that nobody uses, and gives up uploads that the API leaves standing. Never
    /// completes; to be spawned once.
    pub fn sweeps_pool(&self) -> impl Future<Output = ()> + use<> {
        let (surplus, connections) = (self.pool.trims(), self.pool.sweeps(self.pool_idle_timeout));
        let uploads = self.pool.gives_up_uploads(self.idle_body_timeout);
        async {
            tokio::join!(surplus, connections, uploads);
        }
    }

    /// Gives up requests that the API does not answer. Never completes; to be spawned once.
    pub fn keeps_response_timeouts(&self) -> impl Future<Output = ()> + use<> {
        let timeouts = Rc::clone(&self.response_timeouts);
        async move { timeouts.keep().await }
    }

    /// Has the requests that come from now on go by another configuration, as far as it may change.
    pub fn reconfigure(&self, config: &Config) {
        self.live.replace(Rc::new(Live::new(config)));
    }

    fn live(&self) -> Rc<Live> {
        Rc::clone(&self.live.borrow())
    }

    /// Answers one request, with the API's response or with the reason why there is none.
    ///
    /// # Errors
    /// Never.
    ///
    /// # Cancel safety
    /// Dropping the future, as happens when the caller goes away, ends the request at the API too.
    #[expect(clippy::manual_async_fn, reason = "an async function has room for its arguments twice")]
    pub fn handle(
        self: Rc<Self>,
        mut head: Parts,
        body: RequestBody,
        reply: Reply,
    ) -> impl Future<Output = Answered<ResponseBody>> {
        async move {
            let began = self.clock.now();
            let measure = Measure::begin(&self.counts, &self.clock, &head.method, began);
            let live = self.live();
            let fields = Fields::default();
            let mut outcome = if reply.is_surplus() {
                Err(ProxyError::Crowded)
            } else {
                self.forward(&mut head, &fields, body, began, &live, &measure).await
            };
            live.access.log(&mut head, &fields, &outcome, || self.clock.now().saturating_since(began));
            match &mut outcome {
                Ok(response) => {
                    measure.answered(response.status(), Answerer::Upstream);
                    response.body_mut().measure(measure);
                }
                Err(error) => measure.failed(error),
            }
            reply.with(outcome.unwrap_or_else(|error| error.response()))
        }
    }

    async fn forward(
        &self,
        head: &mut Parts,
        fields: &Fields,
        body: RequestBody,
        now: Moment,
        live: &Live,
        measure: &Measure,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let in_flight = self.in_flight.enter()?;
        headers::check(head)?;
        let target = target::to_upstream(&head.method, &head.uri, &self.prefix)?;
        let peer = body.peer();
        self.guard.admit(head, peer)?;
        live.allow.check(&head.method, head.uri.path(), &head.headers)?;
        // Before the body is polled: a caller that waits for `100 Continue` does not send it in vain.
        let (bearer, now) = self.bearer(now).await?;

        let (upgrade, (upload, watch)) = match Upgrade::take(head, body) {
            Ok(upgrade) => {
                // There is no body to expect anything for.
                expect::take(&mut head.headers, head.version, false);
                (Some(Box::new(upgrade)), Upload::once())
            }
            Err(body) => (None, self.upload(head, body)),
        };
        headers::to_upstream(&mut head.headers);
        if head.version == Version::HTTP_2 {
            headers::join_cookies(&mut head.headers);
        }
        forwarded::introduce(self.forwarded, head, peer);
        headers::set(&mut head.headers, &live.set_headers);
        fields.set(mem::take(&mut head.headers));
        let mut outbound = Outbound { api: &self.api, method: &head.method, target, fields, upgrade, measure };
        let (generation, mut response) = self.send(&outbound, upload, &watch, bearer, now).await?;
        if upgrade::is_switch(response.status()) {
            let (upgrade, protocol) = outbound.granted(response.headers()).ok_or(ProxyError::Malformed)?;
            return upgrade.switch(response, protocol, self.tunnel_idle_timeout, in_flight);
        }
        if self.may_be_rejection(response.status()) {
            response = self.settle(&outbound, &watch, generation, response).boxed_local().await?;
        } else {
            self.note(generation, response.status());
        }
        response.body_mut().follow(in_flight, live.access.is_on().then_some(outbound.target));
        Ok(response)
    }

    fn upload(&self, head: &mut Parts, body: RequestBody) -> (Upload, UploadWatch) {
        let waits = expect::take(&mut head.headers, head.version, !body.is_end_stream());
        Upload::new(body, waits.then(Gate::new), self.idle_body_timeout, &self.replay_memory, &self.counts, &self.clock)
    }

    /// Sends a request, stamped with the token as late as possible, and again where that is safe.
    /// Returns the generation that it went out with. The token was good `now`, from
    /// when its time counts.
    async fn send(
        &self,
        outbound: &Outbound<'_>,
        mut body: Upload,
        watch: &UploadWatch,
        mut bearer: Bearer,
        mut now: Moment,
    ) -> Result<(u64, Response<ResponseBody>), ProxyError> {
        let mut connection = match &outbound.upgrade {
            None => self.pool.checkout(outbound.need()).await?,
            // It is sent once only, and an idle connection may be about to close.
            Some(_) => self.pool.connect(outbound.need()).boxed_local().await?,
        };
        if connection.was_awaited() {
            // That took its time, in which the token may have expired.
            (bearer, now) = self.bearer(self.clock.now()).await?;
        }
        let mut retries = Retries::new(&self.counts);
        loop {
            let Bearer { authorization, generation } = bearer;
            let is_new = connection.is_new();
            let request = outbound.request(body, connection.protocol(), authorization);
            outbound.measure.sent(now);
            let sent = pin!(connection.send(request, |body| ResponseBody::api(body, self.idle_body_timeout)));
            match self.response_timeouts.head_of(sent, watch, now).await? {
                Ok(response) => return Ok((generation, receive(response, watch)?)),
                Err(failure) => body = retries.after(failure, is_new, outbound.method, watch)?,
            }
            // Not an idle one again: the API may have closed them all.
            connection = self.pool.connect(outbound.need()).boxed_local().await?;
            (bearer, now) = self.bearer(self.clock.now()).await?;
        }
    }

    fn may_be_rejection(&self, status: StatusCode) -> bool {
        self.rejection_statuses.contains(&status)
    }

    /// Finds out whether the API rejected the token, and replays the request if so.
    async fn settle(
        &self,
        outbound: &Outbound<'_>,
        watch: &UploadWatch,
        generation: u64,
        response: Response<ResponseBody>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        match verdict::judge(response, outbound.method).await {
            Verdict::Answer(response) => {
                self.note(generation, response.status());
                Ok(response)
            }
            Verdict::Suspect(rejection) => self.replay(outbound, watch, generation, rejection).await,
        }
    }

    /// The API rejected the token: sends the request once more with a newer one, if there is one soon
    /// and that is safe. Otherwise the rejection is the answer.
    async fn replay(
        &self,
        outbound: &Outbound<'_>,
        watch: &UploadWatch,
        generation: u64,
        rejection: Response<ResponseBody>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        // After a 401 the request was not processed (RFC 9110 section 15.5.2); other statuses say nothing of that.
        let is_safe = rejection.status() == StatusCode::UNAUTHORIZED || outbound.method.is_safe();
        let body = watch.again().filter(|_| is_safe);
        let followed = if body.is_some() { FollowUp::Replay } else { FollowUp::None };
        let is_replaced = self.renewal.reject(generation, followed);
        let count = |action| {
            let rejection = Rejection { status: rejection.status().as_u16(), action };
            self.rejections.get_or_create(&rejection).inc();
        };
        let Some(body) = body.filter(|_| is_replaced) else {
            count("pass_on");
            return Ok(rejection);
        };
        let Some(bearer) = self.renewal.after(generation).await else {
            count("pass_on");
            return Ok(rejection);
        };
        count("replay");
        drop(rejection);
        let (generation, response) = self.send(outbound, body, watch, bearer, self.clock.now()).await?;
        let verdict = if self.may_be_rejection(response.status()) {
            verdict::judge(response, outbound.method).await
        } else {
            Verdict::Answer(response)
        };
        Ok(match verdict {
            Verdict::Answer(response) => {
                self.note(generation, response.status());
                // A failure of the API itself says nothing about the token.
                if !response.status().is_server_error() {
                    self.renewal.replayed(Replay::Accepted);
                }
                response
            }
            Verdict::Suspect(response) => {
                self.renewal.replayed(Replay::Rejected);
                response
            }
        })
    }

    /// Notes that the API took the token of this `generation`, if its answer says so.
    fn note(&self, generation: u64, status: StatusCode) {
        if status.is_success() && self.accepted.get() < generation {
            self.accepted.set(generation);
            self.renewal.accepted(generation);
        }
    }

    /// The token to be sent `now`, or as soon as there is one; and when that is.
    async fn bearer(&self, now: Moment) -> Result<(Bearer, Moment), ProxyError> {
        match self.tokens.load(now) {
            Some(bearer) => Ok((bearer, now)),
            None => {
                let bearer = self.renewal.token().boxed_local().await?;
                Ok((bearer, self.clock.now()))
            }
        }
    }
}

/// Makes the API's answer one of ours.
fn receive(mut response: Response<ResponseBody>, watch: &UploadWatch) -> Result<Response<ResponseBody>, ProxyError> {
    headers::check_answer(response.headers())?;
    response.body_mut().keep_guard(watch.answered());
    if !upgrade::is_switch(response.status()) {
        headers::to_client(response.headers_mut());
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}
