//! The composition root: builds the parts, starts them, waits for the end, drains.

mod certificates;
mod ending;
pub mod online;
mod systemd;
mod worker;

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use landlock::RulesetError;
use rustls::pki_types::InvalidDnsNameError;
use tokio::{
    sync::{Notify, watch},
    task::spawn_local,
    time::{sleep, timeout},
};

use self::{
    certificates::{Certificates, Expiries},
    ending::Control,
    worker::Workers,
};
use crate::{
    admin::{Admin, Orders, Sources, Traffic, Vital},
    clock::{Clock, Pulse},
    config::{self, Config, Entry},
    confinement::{self, Confinement},
    errand::{Errand, ErrandError},
    http_client::Connector,
    listener::{HalfClose, HttpLimits, ListenError, Listener},
    metrics::Metrics,
    proxy::{Limits, Proxy, ProxyMetrics},
    reload::{self, Reloader},
    shutdown::{self, Drain, Requests, Signals},
    telemetry::LogControl,
    tls::{self, Rotation, TlsError},
    token::{Refresher, Store, StoreError, TokenClient},
};

/// How long an exchange that is under way at the end may take, as it may bring a new refresh token.
const LAST_EXCHANGE: Duration = Duration::from_secs(10);
/// How long a part of the process may show no sign of life.
const STANDSTILL: Duration = Duration::from_secs(60);
/// Probes are small and quick, whatever the application's requests may be.
const ADMIN_LIMITS: HttpLimits = HttpLimits {
    // Places are few, and callers make a new connection now and then.
    idle_timeout: Duration::from_secs(5),
    header_timeout: Duration::from_secs(5),
    write_timeout: Duration::from_secs(5),
    max_header_bytes: 8 * 1_024,
    half_close: HalfClose::Gone,
};

/// Why the sidecar cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificates of the configuration cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The place of `token.state_file` is of no use.
    #[error("`token.state_file`: {0}")]
    Store(StoreError),
    /// A URL of the configuration names a host that no certificate can have.
    #[error("the host of `upstream.url` or `token.url` cannot be a name in a certificate")]
    Host(#[from] InvalidDnsNameError),
    /// The kernel refuses to confine the process.
    #[error("the process cannot be confined to its files and ports")]
    Confine(#[from] RulesetError),
    /// The kernel refuses a thread, or a worker ended on its own.
    #[error("the process cannot go on")]
    Runtime(#[from] io::Error),
    /// The command that the sidecar is for does not run.
    #[error(transparent)]
    Errand(#[from] ErrandError),
}

/// The configuration, and how it may change.
#[derive(Debug)]
pub struct Setup {
    /// As it is at the start.
    pub config: Config,
    /// Where it comes from and is looked for again, with what was found there; `None` if it never changes.
    pub origin: Option<(reload::Origin, Vec<Entry>)>,
    /// What it says of the log has its effect by this.
    pub log: LogControl,
    /// The command that it is for. None of what the process gives up for itself must be given up then.
    pub errand: Option<Errand>,
}

/// Runs the sidecar until a signal, or the end of its command, has it drained. `started` is told the two addresses
/// once they are open. Gives the exit code.
///
/// Must be called within a [`tokio::runtime::LocalRuntime`]: the control thread's.
///
/// # Errors
/// See [`AppError`]. A provider that is down is none.
pub async fn run(
    Setup { config, origin, log, errand }: Setup,
    (mut signals, mut requests): (Signals, Requests),
    started: impl FnOnce(&Listener, &Listener),
) -> Result<u8, AppError> {
    let config = Arc::new(config);
    let clock = Clock::kernel();
    let metrics = Metrics::default();
    let proxy_metrics = ProxyMetrics::new(&metrics);
    let (trigger, drain) = shutdown::channel();
    let (last_call, exchanges_end) = shutdown::channel();

    let endpoint = token_client(&config.token)?;
    let token_connector = endpoint.connector();
    let store = config.token.state_file.as_deref().map(Store::open).transpose().map_err(AppError::Store)?;
    let (refresher, tokens, renewal) =
        Refresher::new(&config.token, endpoint, store, clock.clone(), rand::make_rng(), metrics.token.clone());

    let connector = api_connector(&config.upstream)?;
    let limits = Limits::new(&config);

    let port = Listener::local(&config.listen)?;
    let admin_port = Listener::tcp(config.admin.address, config.admin.max_connections)?;
    let file = origin.as_ref().map(|(origin, _)| origin.file.as_path());
    // Before there are other threads: it counts for this one and for those that it starts.
    let confine = config.process.confine && errand.is_none();
    let confinement = if confine { confinement::confine(&config, file)? } else { Confinement::None };
    tracing::info!(
        address = %port.address(),
        admin = %admin_port.address(),
        %confinement,
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    started(&port, &admin_port);

    let (changes, reloader) = watch_configuration(&config, origin, &log, &metrics);
    let certificates = Certificates {
        rotation: config
            .upstream
            .identity
            .as_ref()
            .map(|identity| Rotation::new(identity, clock.clone(), &metrics.token.secret_reloads)),
        identity: config.upstream.identity.as_ref().map(|identity| identity.client.clone()),
        to_show: None,
        api: connector.clone(),
        token: token_connector,
        expiries: Expiries::new(&config, &metrics.certificate_expiry),
    };
    spawn_local(certificates.follow(changes.clone(), config.reload.poll));
    let heeded = renewal.clone();
    let refresher_pulse = refresher.pulse();
    let refresher = spawn_local(refresher.run(exchanges_end));
    let quit = Rc::new(Notify::new());
    let ending = Rc::new(Cell::new(false));
    let orders = Orders {
        log,
        quit: config.admin.quit.then(|| Rc::clone(&quit)),
        reloader: reloader.clone(),
        ending: Rc::clone(&ending),
    };
    let traffic = Traffic::new(metrics.http.clone());
    spawn_local(traffic.clone().keep());
    let threads: Vec<Pulse> = (0..config.listen.threads).map(|_| Pulse::default()).collect();
    let sources = Sources {
        tokens: tokens.clone(),
        renewal: renewal.clone(),
        metrics,
        traffic,
        vital: vital(&threads, refresher_pulse, config.token.timeout),
    };
    let admin = Admin::new(&config.admin, sources, clock.clone(), orders);
    spawn_local(serve_admin(admin, admin_port, drain.clone()));
    let (shutdown, startup) = (config.shutdown.clone(), config.admin.startup);
    let http = HttpLimits::new(&config);
    let new_proxy = move || {
        let (connector, limits, clock) = (connector.clone(), limits.clone(), clock.clone());
        Proxy::new(&config, connector, limits, tokens.clone(), renewal.clone(), clock, &proxy_metrics)
    };
    let mut workers = Workers::start(&threads, port, http, &drain, new_proxy, &changes)?;

    spawn_local(systemd::report(heeded.follow(), startup));

    let control = Control {
        signals: &mut signals,
        requests: &mut requests,
        quit: &quit,
        reloader: reloader.as_deref(),
        renewal: &heeded,
    };
    let outcome = tokio::select! {
        code = control.until_over(errand, &shutdown) => code.map_err(AppError::from),
        error = workers.failed() => Err(error.into()),
    };
    ending.set(true);
    systemd::stopping();
    if outcome.is_ok() && !shutdown.linger.is_zero() {
        tokio::select! {
            () = sleep(shutdown.linger) => {}
            signal = signals.end() => {
                tracing::warn!(signal = signal.name(), "requests were cut off by a second signal");
                return outcome;
            }
            _ = workers.failed() => {}
        }
    }
    trigger.start();
    let end = async {
        match timeout(shutdown.grace, workers.drained()).await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => tracing::warn!("requests were cut off: `shutdown.grace` is over"),
        }
        last_call.start();
        if timeout(LAST_EXCHANGE, refresher).await.is_err() {
            tracing::warn!("a token request was cut off");
        }
    };
    tokio::select! {
        () = end => {}
        signal = signals.end() => tracing::warn!(signal = signal.name(), "requests were cut off by a second signal"),
    }
    outcome
}

/// Whose standstill makes the process one to be started anew.
fn vital(threads: &[Pulse], refresher: Pulse, exchange: Duration) -> Vec<Vital> {
    let thread = |pulse: &Pulse| Vital {
        name: "thread",
        pulse: pulse.clone(),
        limit: STANDSTILL,
        complaint: "a thread that serves requests stands still",
    };
    // It does not beat while an exchange is under way, nor while another replica has the state file.
    let limit = STANDSTILL + exchange;
    let complaint = "the refresher stands still";
    let refresher = Vital { name: "refresher", pulse: refresher, limit, complaint };
    threads.iter().map(thread).chain([refresher]).collect()
}

/// Who connects to the token endpoint.
fn token_client(config: &config::Token) -> Result<TokenClient, AppError> {
    Ok(TokenClient::new(config, &tls::client_config(&config.trust)?)?)
}

/// Who connects to the API.
fn api_connector(config: &config::Upstream) -> Result<Connector, AppError> {
    let plain = tls::client_config(&config.trust)?;
    let tls = config.identity.as_ref().map(|identity| tls::with_identity(&plain, &identity.client));
    Ok(Connector::new(
        &config.origin,
        tls.as_ref().unwrap_or(&plain),
        config.http,
        config.connect_timeout,
        config.idle_body_timeout,
    )?)
}

/// Every good configuration from now on, and who looks for it. Without an origin it stays as it is.
fn watch_configuration(
    config: &Arc<Config>,
    origin: Option<(reload::Origin, Vec<Entry>)>,
    log: &LogControl,
    metrics: &Metrics,
) -> (watch::Receiver<Arc<Config>>, Option<Rc<RefCell<Reloader>>>) {
    let Some((origin, entries)) = origin else { return (watch::channel(Arc::clone(config)).1, None) };
    let (reloader, changes) = Reloader::new(origin, Arc::clone(config), entries, log.clone(), metrics.reload.clone());
    let reloader = Rc::new(RefCell::new(reloader));
    if config.reload.watch {
        let (reloader, poll) = (Rc::clone(&reloader), config.reload.poll);
        spawn_local(async move {
            loop {
                sleep(poll).await;
                reloader.borrow_mut().look();
            }
        });
    }
    (changes, Some(reloader))
}

async fn serve_admin(admin: Admin, port: Listener, drain: Drain) {
    let admin = Rc::new(admin);
    let accepted = port.accept(drain.clone(), |accepted| {
        let admin = Rc::clone(&admin);
        spawn_local(accepted.serve(ADMIN_LIMITS, drain.clone(), move |head, body, reply| {
            let (request, peer) = (http::Request::from_parts(head, ()), body.peer());
            let is_surplus = reply.is_surplus();
            let answer = if is_surplus { admin.handle_surplus(&request, peer) } else { admin.handle(&request, peer) };
            std::future::ready(reply.with(answer))
        }));
    });
    if let Err(error) = accepted.await {
        tracing::error!(%error, "the admin port cannot be served");
    }
}
