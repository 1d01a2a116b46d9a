//! The composition root: builds the parts, starts them, waits for a signal, drains.

mod certificates;
mod worker;

use std::{io, rc::Rc, time::Duration};

use landlock::RulesetError;
use rustls::pki_types::InvalidDnsNameError;
use tokio::{sync::Notify, task::spawn_local, time::timeout};

use self::{
    certificates::{Expiries, rotate},
    worker::Workers,
};
use crate::{
    admin::{Admin, Orders},
    clock::Clock,
    config::{Address, Config},
    confinement::{self, Confinement},
    http_client::Connector,
    listener::{HalfClose, HttpLimits, ListenError, Listener},
    metrics::Metrics,
    proxy::{Limits, Proxy, ProxyMetrics},
    shutdown::{self, Drain, Signals},
    telemetry::LogLevel,
    tls::{self, Rotation, TlsError},
    token::{Refresher, Store, StoreError, TokenClient},
};

/// How long an exchange that is under way at the end may take, as it may bring a new refresh token.
const LAST_EXCHANGE: Duration = Duration::from_secs(10);
/// Probes are small and quick, whatever the application's requests may be.
const ADMIN_LIMITS: HttpLimits = HttpLimits {
    idle_timeout: Duration::from_secs(30),
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
}

/// Runs the sidecar until a signal has it drained. `started` is told the two addresses once they are open.
///
/// Must be called within a [`tokio::runtime::LocalRuntime`]: the control thread's.
///
/// # Errors
/// See [`AppError`]. A provider that is down is none.
pub async fn run(
    config: Config,
    log_level: LogLevel,
    mut signals: Signals,
    started: impl FnOnce(&Listener, &Listener),
) -> Result<(), AppError> {
    let clock = Clock::kernel();
    let metrics = Metrics::default();
    let proxy_metrics = ProxyMetrics::new(&metrics);
    let (trigger, drain) = shutdown::channel();
    let (last_call, exchanges_end) = shutdown::channel();

    let token_tls = tls::client_config(&config.token.trust)?;
    let endpoint = TokenClient::new(&config.token, &token_tls)?;
    let store = config.token.state_file.as_deref().map(Store::open).transpose().map_err(AppError::Store)?;
    let (refresher, tokens, renewal) =
        Refresher::new(&config.token, endpoint, store, clock.clone(), rand::make_rng(), metrics.token.clone());

    let plain_tls = tls::client_config(&config.upstream.trust)?;
    let api_tls = config.upstream.identity.as_ref().map(|identity| tls::with_identity(&plain_tls, &identity.client));
    let connector = Connector::new(
        &config.upstream.origin,
        api_tls.as_ref().unwrap_or(&plain_tls),
        config.upstream.http,
        config.upstream.connect_timeout,
        config.upstream.idle_body_timeout,
    )?;
    let limits = Limits::new(&config);

    let listen = &config.listen;
    let port = Listener::bind(&listen.address, listen.unix_mode, listen.max_connections)?;
    let admin_address = Address::Tcp(config.admin.address);
    let admin_port = Listener::bind(&admin_address, 0, config.admin.max_connections)?;
    // Before there are other threads: it counts for this one and for those that it starts.
    let confinement = if config.process.confine { confinement::confine(&config)? } else { Confinement::None };
    tracing::info!(
        address = %port.address(),
        admin = %admin_port.address(),
        %confinement,
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    started(&port, &admin_port);

    let expiries = Expiries::new(&config, &metrics.certificate_expiry);
    if let Some(identity) = &config.upstream.identity {
        let rotation = Rotation::new(identity, clock.clone(), &metrics.token.secret_reloads);
        spawn_local(rotate(rotation, plain_tls, connector.clone(), expiries, config.reload.poll));
    }
    let refresher = spawn_local(refresher.run(exchanges_end));
    let quit = Rc::new(Notify::new());
    let orders = Orders { log_level, quit: config.admin.quit.then(|| Rc::clone(&quit)) };
    let admin = Admin::new(&config.admin, tokens.clone(), renewal.clone(), clock.clone(), metrics, orders);
    spawn_local(serve_admin(admin, admin_port, drain.clone()));
    let (grace, threads, http) = (config.shutdown.grace, config.listen.threads, HttpLimits::new(&config));
    let new_proxy = move || {
        let (connector, limits, clock) = (connector.clone(), limits.clone(), clock.clone());
        Proxy::new(&config, connector, limits, tokens.clone(), renewal.clone(), clock, &proxy_metrics)
    };
    let mut workers = Workers::start(threads, port, http, &drain, new_proxy)?;

    let outcome = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, grace_s = grace.as_secs(), "draining");
            Ok(())
        }
        () = quit.notified() => {
            tracing::info!(grace_s = grace.as_secs(), "draining, as asked at the admin port");
            Ok(())
        }
        error = workers.failed() => Err(error.into()),
    };
    trigger.start();
    let end = async {
        match timeout(grace, workers.drained()).await {
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
        signal = signals.next() => tracing::warn!(signal, "requests were cut off by a second signal"),
    }
    outcome
}

async fn serve_admin(admin: Admin, port: Listener, drain: Drain) {
    let admin = Rc::new(admin);
    let accepted = port.accept(drain.clone(), |accepted| {
        let (admin, is_surplus) = (Rc::clone(&admin), accepted.is_surplus());
        spawn_local(accepted.serve(ADMIN_LIMITS, drain.clone(), move |request| {
            let peer = request.body().peer();
            std::future::ready(if is_surplus { admin.refuse() } else { admin.handle(&request, peer) })
        }));
    });
    if let Err(error) = accepted.await {
        tracing::error!(%error, "the admin port cannot be served");
    }
}
