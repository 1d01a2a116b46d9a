//! Every key with its default and its bounds, and the rules between keys.
//!
//! To add a key: a line here, a paragraph in `config/token-valet.toml`, and its shape in
//! `config/token-valet.schema.json`; tests tell what is missing or differs.

use std::path::{Path, PathBuf};

use tracing::level_filters::LevelFilter;

use super::{
    AccessLog, Address, Admin, AllowedHosts, BodyFormat, ClientAuth, Config, ConfigError, Entry, Forwarded, Gate,
    Grant, HttpVersion, Identity, IdentityFiles, Listen, Log, LogFormat, Process, Reload, Roots, SURPLUS_CONNECTIONS,
    Sandbox, Scheme, Shutdown, Socket, TlsVersion, Token, Trust, Upstream,
    address::{is_exposed, mode, socket},
    guard, identity, sandbox,
    set_headers::set_headers,
    source::Source,
    url::{Url, base_url, url},
    values::{
        Mismatch, Raw, boolean, certificates, duration, integer, list, path, rejection_status, replaceable_file,
        secret_file, size, socket_address, span, text, uid, word,
    },
};
use crate::{clock::Clock, process, report::Report, secret::SecretSource};

const ROOTS: &[(&str, Roots)] = &[("bundled", Roots::Bundled), ("system", Roots::System)];
const TLS_VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
const HTTP_VERSIONS: &[(&str, HttpVersion)] =
    &[("1.1", HttpVersion::Http1), ("2", HttpVersion::Http2), ("auto", HttpVersion::Auto)];
const FORWARDED: &[(&str, Forwarded)] =
    &[("off", Forwarded::Off), ("x-forwarded", Forwarded::XForwarded), ("forwarded", Forwarded::Forwarded)];
const LEVELS: &[(&str, LevelFilter)] = &[
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];
const GATES: &[(&str, Gate)] = &[("token", Gate::Token), ("serving", Gate::Serving)];

/// Reads every key, in the order of the reference.
pub(super) fn read(mut source: Source) -> Result<(Config, Vec<Entry>), ConfigError> {
    let s = &mut source;
    let config = Config {
        listen: listen(s),
        upstream: upstream(s),
        token: token(s),
        admin: admin(s),
        shutdown: Shutdown {
            linger: s.value("shutdown.linger", "0s", duration("0s", "1h")),
            grace: s.value("shutdown.grace", "25s", duration("0s", "1h")),
        },
        log: log(s),
        reload: Reload {
            watch: s.value("reload.watch", "true", boolean),
            poll: s.value("reload.poll", "10s", duration("100ms", "1h")),
        },
        process: Process { confine: s.value("process.confine", "true", boolean) },
        sandbox: Sandbox {
            token_life: s.value("sandbox.token_life", "299s", duration("1s", "24h")),
            faults: s.value("sandbox.faults", "", list(sandbox::fault)),
        },
    };
    refuse_shared_address(s, &config);
    refuse_more_files_than_may_be_open(s, &config);
    let entries = source.finish()?;
    Ok((config, entries))
}

fn listen(s: &mut Source) -> Listen {
    let listen = Listen {
        address: s.value("listen.address", "127.0.0.1:8080", socket),
        unix_mode: s.value("listen.unix_mode", "0660", mode),
        allow_uids: s.value("listen.allow_uids", "", list(uid)),
        threads: s.value("listen.threads", "1", integer(1..=64)),
        max_connections: s.value("listen.max_connections", "1024", integer(1..=65_536)),
        idle_timeout: s.value("listen.idle_timeout", "75s", duration("100ms", "1h")),
        header_timeout: s.value("listen.header_timeout", "10s", duration("100ms", "5m")),
        max_header_bytes: s.value("listen.max_header_bytes", "32KiB", size("8KiB", "1MiB")),
        half_close: s.value("listen.half_close", "false", boolean),
        allowed_hosts: allowed_hosts(s),
        allow_origins: s.value("listen.allow_origins", "", list(guard::origin)),
        require_header: s.optional("listen.require_header", guard::required_header),
        allow_non_loopback: s.value("listen.allow_non_loopback", "false", boolean),
    };
    // What systemd passes is held to the same rules once it is there.
    let tcp = match &listen.address {
        Socket::Own(Address::Tcp(address)) => Some(address),
        Socket::Own(Address::Unix(_)) | Socket::Systemd(_) => None,
    };
    if tcp.is_some_and(is_exposed) && !listen.allow_non_loopback {
        let hint = "whoever reaches this port uses your token: listen on 127.0.0.1, or set \
                    `listen.allow_non_loopback = true`";
        s.refuse("listen.address", Mismatch::expected("a loopback address").hint(hint));
    }
    if listen.allow_non_loopback && !s.is_set("listen.allowed_hosts") {
        let expected = "the names by which other machines call it";
        s.missing_list("listen.allowed_hosts", expected, &["valet.example", "localhost"]);
    }
    if tcp.is_some() && !listen.allow_uids.is_empty() && s.is_sound("listen.address") {
        let hint = "set `listen.address` to a Unix socket, such as \"unix:/run/token-valet/api.sock\"";
        s.refuse("listen.allow_uids", Mismatch::statement("cannot be checked for a TCP port").hint(hint));
    }
    listen
}

fn allowed_hosts(s: &mut Source) -> AllowedHosts {
    let names = s.value("listen.allowed_hosts", "localhost,127.0.0.1,[::1]", list(guard::host));
    if names == ["*"] {
        return AllowedHosts::Any;
    }
    if names.iter().any(|name| name.contains('*')) {
        s.refuse("listen.allowed_hosts", Mismatch::statement("has a `*` among names, which only stands alone"));
    }
    AllowedHosts::Only(names)
}

fn upstream(s: &mut Source) -> Upstream {
    let url = s.required("upstream.url", "an https URL", "https://api.example.com", base_url);
    let allow_plaintext = s.value("upstream.allow_plaintext", "false", boolean);
    if url.is_exposed() && !allow_plaintext {
        let hint = "the token would cross the network unencrypted: write `https://`, or set \
                    `upstream.allow_plaintext = true`";
        s.refuse("upstream.url", plaintext(&url).hint(hint));
    }
    Upstream {
        identity: client_identity(s, url.origin.scheme),
        prefix: url.prefix(),
        origin: url.origin,
        trust: trust(s, ["upstream.roots", "upstream.ca_file", "upstream.tls_min"]),
        http: s.value("upstream.http", "1.1", word(HTTP_VERSIONS)),
        forwarded: s.value("upstream.forwarded", "off", word(FORWARDED)),
        set_headers: s.optional("upstream.set_headers", set_headers).unwrap_or_default(),
        allow: s.value("upstream.allow", "", list(guard::allow_rule)),
        connect_timeout: s.value("upstream.connect_timeout", "3s", duration("100ms", "60s")),
        response_timeout: s.value("upstream.response_timeout", "60s", duration("100ms", "1h")),
        idle_body_timeout: s.value("upstream.idle_body_timeout", "60s", duration("100ms", "1h")),
        pool_idle_timeout: s.value("upstream.pool_idle_timeout", "60s", duration("100ms", "1h")),
        pool_max_idle: s.value("upstream.pool_max_idle", "64", integer(0..=65_536)),
        tunnel_idle_timeout: s.value("upstream.tunnel_idle_timeout", "10m", duration("100ms", "24h")),
        max_in_flight: s.value("upstream.max_in_flight", "1024", integer(1..=65_536)),
    }
}

fn trust(s: &mut Source, [roots, ca_file, tls_min]: [&'static str; 3]) -> Trust {
    let roots = s.value(roots, "bundled", word(ROOTS));
    let (ca_file, extra) = s.optional(ca_file, certificates).unzip();
    Trust { roots, ca_file, extra: extra.unwrap_or_default(), tls_min: s.value(tls_min, "1.2", word(TLS_VERSIONS)) }
}

/// Both of its files or neither, and a pair that fits.
fn client_identity(s: &mut Source, scheme: Scheme) -> Option<Identity> {
    use identity::{CERTIFICATE, KEY};
    let (certificate, key) = (s.optional(CERTIFICATE, path), s.optional(KEY, path));
    match (s.is_set(CERTIFICATE), s.is_set(KEY)) {
        (true, false) => s.missing(KEY, "the key of the certificate", "/run/secrets/client.key"),
        (false, true) => s.missing(CERTIFICATE, "the certificate of the key", "/run/secrets/client.crt"),
        (true, true) if scheme == Scheme::Http => {
            s.refuse(CERTIFICATE, Mismatch::statement("has no meaning while `upstream.url` is plain http"));
        }
        (true, true) | (false, false) => {}
    }
    let files = IdentityFiles { certificate: certificate?, key: key? };
    let read = files.read().and_then(|text| Ok((text.parse(Clock::kernel().wall())?, text)));
    match read {
        Ok((client, text)) => Some(Identity { files, text, client }),
        Err(error) => {
            let mut mismatch = Mismatch::statement(Report(&error).to_string());
            mismatch.hint = error.hint().map(str::to_owned);
            s.refuse(error.key(), mismatch);
            None
        }
    }
}

fn plaintext(url: &Url) -> Mismatch {
    let host = &url.origin.host;
    Mismatch::statement(format!("is plain http to `{host}`, expected https, or http to this machine"))
}

fn token(s: &mut Source) -> Token {
    let example = "https://auth.example.com/oauth/token";
    let url = s.required("token.url", "an https URL", example, url);
    if url.is_exposed() {
        let hint = "the client's secret would cross the network unencrypted: write `https://`";
        s.refuse("token.url", plaintext(&url).hint(hint));
    }
    let state_file = s.optional("token.state_file", replaceable_file);
    Token {
        origin: url.origin,
        path: url.path,
        grant: grant(s, state_file.as_deref()),
        client_id: s.required("token.client_id", "the id given at onboarding", "my-client", text),
        client_secret: client_secret(s),
        client_auth: s.value(
            "token.client_auth",
            "basic",
            word(&[("basic", ClientAuth::Basic), ("body", ClientAuth::Body)]),
        ),
        body: s.value("token.body", "json", word(&[("json", BodyFormat::Json), ("form", BodyFormat::Form)])),
        scope: s.optional("token.scope", text),
        trust: trust(s, ["token.roots", "token.ca_file", "token.tls_min"]),
        refresh_at: s.value("token.refresh_at", "0.7,0.8", span(0.1..=0.95)),
        default_lifetime: s.value("token.default_lifetime", "120s", duration("1s", "24h")),
        timeout: s.value("token.timeout", "10s", duration("1s", "60s")),
        wait: s.value("token.wait", "2s", duration("0s", "60s")),
        retry_max: s.value("token.retry_max", "30s", duration("1s", "5m")),
        max_waiters: s.value("token.max_waiters", "1024", integer(1..=65_536)),
        rejection_statuses: s.value("token.rejection_statuses", "401,403", list(rejection_status)),
        max_replay_body: s.value("token.max_replay_body", "64KiB", size("0B", "1MiB")),
        max_replay_memory: s.value("token.max_replay_memory", "8MiB", size("0B", "1GiB")),
        state_file,
    }
}

fn grant(s: &mut Source, state_file: Option<&Path>) -> Grant {
    // What is in the state file replaces the code or refresh token that it came from, which may be gone.
    let is_started = state_file.is_some_and(Path::exists);
    let first = move |raw: &Raw<'_>| if is_started { path(raw).map(SecretSource::File) } else { secret_file(raw) };
    let expected = "how the access token is obtained";
    let kind = s.required("token.grant", expected, "client_credentials", word(GRANTS));
    let code = s.optional("token.code_file", first);
    let redirect_uri = s.optional("token.redirect_uri", text);
    let refresh_token = s.optional("token.refresh_token_file", first);
    if s.is_sound("token.grant") {
        check_keys_of_grants(s, kind);
    }
    // What is missing was noted: the stand-ins never leave this pass.
    let stand_in = || SecretSource::File(PathBuf::new());
    match kind {
        GrantKind::ClientCredentials => Grant::ClientCredentials,
        GrantKind::AuthorizationCode => Grant::AuthorizationCode {
            code: code.unwrap_or_else(stand_in),
            redirect_uri: redirect_uri.unwrap_or_default(),
        },
        GrantKind::RefreshToken => Grant::RefreshToken { refresh_token: refresh_token.unwrap_or_else(stand_in) },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GrantKind {
    ClientCredentials,
    AuthorizationCode,
    RefreshToken,
}

const GRANTS: &[(&str, GrantKind)] = &[
    ("client_credentials", GrantKind::ClientCredentials),
    ("authorization_code", GrantKind::AuthorizationCode),
    ("refresh_token", GrantKind::RefreshToken),
];

/// A key that means something to some grants only, and to those may be indispensable.
struct KeyOfGrant {
    key: &'static str,
    grants: &'static [GrantKind],
    /// What to expect and an example, if those grants cannot do without.
    required: Option<(&'static str, &'static str)>,
}

const KEYS_OF_GRANTS: [KeyOfGrant; 5] = [
    KeyOfGrant { key: "token.scope", grants: &[GrantKind::ClientCredentials], required: None },
    KeyOfGrant {
        key: "token.code_file",
        grants: &[GrantKind::AuthorizationCode],
        required: Some(("the file that holds the callback's code", "/run/secrets/code")),
    },
    KeyOfGrant {
        key: "token.redirect_uri",
        grants: &[GrantKind::AuthorizationCode],
        required: Some(("that of the authorization request", "https://app.example.com/callback")),
    },
    KeyOfGrant {
        key: "token.refresh_token_file",
        grants: &[GrantKind::RefreshToken],
        required: Some(("the file that holds the refresh token", "/run/secrets/refresh_token")),
    },
    KeyOfGrant {
        key: "token.state_file",
        grants: &[GrantKind::AuthorizationCode, GrantKind::RefreshToken],
        required: None,
    },
];

/// A key of another grant would be ignored in silence, so it is refused.
fn check_keys_of_grants(s: &mut Source, chosen: GrantKind) {
    // A refresh token from a file can be presented again after a restart, a code must not.
    if chosen == GrantKind::AuthorizationCode && !s.is_set("token.state_file") {
        let expected = "a file that remembers that the code was used";
        s.missing("token.state_file", expected, "/var/lib/token-valet/state.json");
    }
    for KeyOfGrant { key, grants, required } in KEYS_OF_GRANTS {
        match (s.is_set(key), required) {
            (true, _) if !grants.contains(&chosen) => {
                let name = |kind| GRANTS.iter().find(|(_, k)| *k == kind).map_or("", |(name, _)| name);
                let problem = format!("has no meaning for the grant `{}`", name(chosen));
                let hint = format!("remove it, or set `token.grant = {:?}`", name(grants[0]));
                s.refuse(key, Mismatch::statement(problem).hint(hint));
            }
            (false, Some((expected, example))) if grants.contains(&chosen) => s.missing(key, expected, example),
            (true | false, _) => {}
        }
    }
}

/// From the environment or, unless it is there, from a file.
fn client_secret(s: &mut Source) -> SecretSource {
    const VALUE: &str = "token.client_secret";
    const FILE: &str = "token.client_secret_file";
    if let Some(secret) = s.secret(VALUE) {
        s.optional(FILE, text);
        return SecretSource::Value(secret);
    }
    let file = s.optional(FILE, secret_file);
    if !s.is_set(FILE) && !s.is_set(VALUE) {
        s.missing(FILE, "the file that holds the client's secret", "/run/secrets/client_secret");
    }
    file.unwrap_or_else(|| SecretSource::File(PathBuf::new()))
}

fn admin(s: &mut Source) -> Admin {
    Admin {
        address: s.value("admin.address", "127.0.0.1:9901", socket_address),
        quit: s.value("admin.quit", "false", boolean),
        startup: s.value("admin.startup", "token", word(GATES)),
        readiness: s.value("admin.readiness", "token", word(GATES)),
        max_connections: s.value("admin.max_connections", "64", integer(1..=65_536)),
    }
}

fn log(s: &mut Source) -> Log {
    const FORMATS: &[(&str, LogFormat)] =
        &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    const ACCESS: &[(&str, AccessLog)] =
        &[("off", AccessLog::Off), ("errors", AccessLog::Errors), ("all", AccessLog::All)];
    Log {
        level: s.value("log.level", "info", word(LEVELS)),
        format: s.value("log.format", "auto", word(FORMATS)),
        access: s.value("log.access", "errors", word(ACCESS)),
        slow: s.value("log.slow", "2s", duration("0s", "1h")),
    }
}

/// What a word of `log.level` means.
pub(crate) fn log_level(word: &str) -> Option<LevelFilter> {
    LEVELS.iter().find(|(name, _)| *name == word).map(|(_, level)| *level)
}

/// Two listeners cannot have one port; an unspecified address takes the port of all.
fn refuse_shared_address(s: &mut Source, config: &Config) {
    let Socket::Own(Address::Tcp(listen)) = config.listen.address else { return };
    let admin = config.admin.address;
    let overlap = listen.ip() == admin.ip() || listen.ip().is_unspecified() || admin.ip().is_unspecified();
    if overlap && listen.port() == admin.port() && listen.port() != 0 {
        s.refuse("admin.address", Mismatch::expected("another port than that of `listen.address`"));
    }
}

impl Config {
    /// How many connections to the API each thread keeps for a while after a burst, beyond `upstream.pool_max_idle`:
    /// its share of `upstream.max_in_flight`. Where none is kept, none of a burst is either.
    pub(crate) fn kept_of_burst(&self) -> usize {
        if self.upstream.pool_max_idle == 0 { 0 } else { self.upstream.max_in_flight / self.listen.threads }
    }
}

/// Beside what the limits allow: a few for each thread, the log, secret files, and the token endpoint.
const OTHER_FILES: usize = 64;

/// A limit that the kernel cuts short would show as connections that cannot be made.
fn refuse_more_files_than_may_be_open(s: &mut Source, config: &Config) {
    let (listen, upstream) = (&config.listen, &config.upstream);
    let connections = [
        listen.max_connections + SURPLUS_CONNECTIONS,
        config.admin.max_connections + SURPLUS_CONNECTIONS,
        upstream.max_in_flight,
        upstream.pool_max_idle * listen.threads,
        // What a burst leaves, and what is made for it in vain.
        config.kept_of_burst() * listen.threads,
    ];
    let needed = connections.iter().sum::<usize>() + 4 * listen.threads + OTHER_FILES;
    let permitted = process::max_open_files();
    if needed as u64 > permitted {
        let problem = format!(
            "allows too much: with `upstream.max_in_flight`, `upstream.pool_max_idle` and `admin.max_connections` it \
             comes to {needed} open files, and the process may have {permitted}"
        );
        let hint = "lower one of them, or raise the limit (`ulimit -Hn`, or `LimitNOFILE` of a systemd service)";
        s.refuse("listen.max_connections", Mismatch::statement(problem).hint(hint));
    }
}
