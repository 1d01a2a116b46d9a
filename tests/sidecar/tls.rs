//! TLS as it goes wrong and right: whom the sidecar believes, by what it is known, and what it says.

mod api;
mod queue;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::symlink,
    sync::Arc,
    thread,
};

use rcgen::{CertificateParams, date_time_ymd};
use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;
use token_valet::sandbox::{Provider, Settings};

use self::api::{ALL, Api, Authority, ONLY_1_2, Pair, make_authority, server};
use crate::{
    harness::{Connection, Process, Setup, Sidecar, provider, wait_until},
    large_answers::assert_comes_in_parts,
    metrics::{scraped, value},
    online::check_online,
    raw_api::{GET, RawApi},
};

const NOT_SERVED: &str = "a request was not served";
const NO_TOKEN: &str = "the access token could not be refreshed";
const REPLACED: &str = "new connections show the client's new certificate";
const USELESS: &str = "the client's new certificate is of no use; the last good one is shown";

const CERTIFICATE: &str = "upstream.client_cert_file";
const KEY: &str = "upstream.client_key_file";

/// A sidecar's configuration with this API, which is believed by that authority.
fn before(provider: &Provider, api: &Api, authority: &Authority) -> Setup {
    Setup::partner(provider).set("upstream.url", api.url()).set_file("upstream.ca_file", &authority.pem)
}

fn with_pair(setup: Setup, pair: &Pair) -> Setup {
    setup.set_file(CERTIFICATE, &pair.certificate).set_file(KEY, &pair.key)
}

#[track_caller]
fn assert_ok(sidecar: &Sidecar) {
    let response = sidecar.get("/");
    assert_eq!((response.status, &response.body[..]), (200, &b"ok"[..]), "{response:?}");
}

#[track_caller]
fn assert_told(line: &Value, words: &str, look_at: Option<&str>) {
    let error = line["error"].as_str().expect("a text");
    assert!(error.contains(words), "{line}");
    assert_eq!(line["look_at"].as_str(), look_at, "{line}");
}

/// Once as the API and once as the token endpoint: what is said of it, in which key of the table to
/// look, and that nothing arrived.
#[track_caller]
fn assert_refused(
    address: SocketAddr,
    authority: &Authority,
    change: impl Fn(Setup, &str) -> Setup,
    words: &str,
    look_at: Option<&str>,
) {
    let provider = provider(Settings::default());
    let keys = |table: &str| look_at.map(|key| format!("{table}.{key}"));

    let setup = Setup::partner(&provider)
        .set("upstream.url", format!("https://{address}"))
        .set_file("upstream.ca_file", &authority.pem);
    let sidecar = change(setup, "upstream").start();
    sidecar.get("/").assert_problem(502, "upstream_tls");
    assert_told(&sidecar.process.logged(NOT_SERVED), words, keys("upstream").as_deref());

    let setup = Setup::partner(&provider)
        .set("token.wait", "100ms")
        .set("token.url", format!("https://{address}/oauth/token"))
        .set_file("token.ca_file", &authority.pem);
    let sidecar = change(setup, "token").start();
    assert_told(&sidecar.process.logged(NO_TOKEN), words, keys("token").as_deref());
    sidecar.get("/").assert_problem(503, "token_unavailable");
}

/// The same for a server with this certificate.
#[track_caller]
fn assert_not_believed(authority: &Authority, pair: &Pair, words: &str, look_at: Option<&str>) {
    let api = Api::start(server(pair, ALL, None));
    let address = SocketAddr::from(([127, 0, 0, 1], api.port()));
    assert_refused(address, authority, |setup, _| setup, words, look_at);
    assert_eq!(api.requests(), 0, "neither a token nor a secret");
}

#[test]
fn server_with_an_expired_certificate_gets_nothing_and_is_told_so() {
    let authority = Authority::new();
    let pair = authority.issue(&["127.0.0.1"], |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 2, 3);
    });
    assert_not_believed(&authority, &pair, "the host's certificate expired at 2001-02-03T00:00:00Z", None);
}

#[test]
fn server_with_a_certificate_ahead_of_time_gets_nothing_and_is_told_so() {
    let authority = Authority::new();
    let pair = authority.issue(&["127.0.0.1"], |params| params.not_before = date_time_ymd(3000, 1, 1));
    assert_not_believed(&authority, &pair, "is not valid yet, but from 3000-01-01T00:00:00Z", None);
}

#[test]
fn server_with_a_certificate_for_others_gets_nothing_and_their_names_are_told() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.example", "*.b.example"], |_| {});
    let words = "the host's certificate is not for `127.0.0.1`, but for `a.example`, `*.b.example`";
    assert_not_believed(&authority, &pair, words, Some("url"));
}

#[test]
fn server_with_a_self_signed_certificate_gets_nothing_and_is_told_so() {
    let words = "self-signed, or signed by an authority that is not believed";
    assert_not_believed(&Authority::new(), &Pair::self_signed(|_| {}), words, Some("ca_file"));
    // As `openssl req -x509` makes them.
    let words = "the host shows a self-signed certificate that is an authority's";
    assert_not_believed(&Authority::new(), &Pair::self_signed(make_authority), words, Some("ca_file"));
}

#[test]
fn server_by_an_authority_that_is_not_believed_gets_nothing_and_is_told_so() {
    let words = "self-signed, or signed by an authority that is not believed";
    assert_not_believed(&Authority::new(), &Authority::new().server(), words, Some("ca_file"));
    // One that has a new key.
    let (old, new) = (Authority::named("one"), Authority::named("one"));
    let words = "is not signed by the key of the authority that it names";
    assert_not_believed(&old, &new.server(), words, Some("ca_file"));
}

/// A server that answers every first message with these bytes. Returns its address.
fn answering(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            // After its hello a client that gives up has one alert to say (7 bytes), and no more.
            assert!(rest.len() <= 7, "{rest:?}");
        }
    });
    address
}

#[test]
fn server_of_tls_1_1_gets_nothing_and_is_told_so() {
    // RFC 4346 section 7.4.1.3: a ServerHello of version 3.2, as old servers answer whatever is offered.
    const HELLO: &[u8] = b"\x16\x03\x02\0\x2a\x02\0\0\x26\x03\x02\
        0123456789abcdef0123456789abcdef\0\xc0\x13\0";
    // What those say that see from the client's hello that it will come to nothing: `protocol_version`.
    const ALERT: &[u8] = b"\x15\x03\x02\0\x02\x02\x46";
    for answer in [HELLO, ALERT] {
        let words = "the host speaks no TLS version that is new enough";
        assert_refused(answering(answer), &Authority::new(), |setup, _| setup, words, Some("tls_min"));
    }
}

#[test]
fn server_without_tls_gets_nothing_and_is_told_so() {
    let address = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_refused(address, &Authority::new(), |setup, _| setup, "what the host says is not TLS", Some("url"));
}

#[test]
fn server_of_tls_1_2_is_refused_where_1_3_is_the_least_and_served_where_1_2_is() {
    let authority = Authority::new();
    let api = Api::start(server(&authority.server(), ONLY_1_2, None));
    let address = SocketAddr::from(([127, 0, 0, 1], api.port()));
    let least = |setup: Setup, table: &str| setup.set(&format!("{table}.tls_min"), "1.3");
    let words = "the host speaks no TLS version that is new enough";
    assert_refused(address, &authority, least, words, Some("tls_min"));
    assert_eq!(api.connections().len(), 0);

    let provider = provider(Settings::default());
    let sidecar = before(&provider, &api, &authority).set("upstream.tls_min", "1.2").start();
    assert_ok(&sidecar);
}

#[test]
fn server_is_told_by_what_name_it_is_called() {
    let authority = Authority::new();
    let api = Api::start(server(&authority.server(), ALL, None));
    let provider = provider(Settings::default());
    let url = format!("https://localhost:{}", api.port());
    let sidecar = before(&provider, &api, &authority).set("upstream.url", url).start();
    assert_ok(&sidecar);
    assert_eq!(api.connections()[0].server_name.as_deref(), Some("localhost"));
}

#[test]
fn a_large_answer_over_tls_comes_as_far_as_the_api_has_sent_it() {
    let (authority, api) = (Authority::new(), RawApi::start());
    let url = format!("https://{}", api.address());
    let (_provider, sidecar) =
        api.sidecar(|setup| setup.set("upstream.url", url).set_file("upstream.ca_file", &authority.pem));
    for versions in [ALL, ONLY_1_2] {
        let mut config = server(&authority.server(), versions, None);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut caller = sidecar.connect();
        caller.say(GET);
        let session = ServerConnection::new(Arc::new(config)).expect("a sound configuration");
        let mut upstream = StreamOwned::new(session, api.accept().into_stream());
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            upstream.read_exact(&mut byte).expect("a request");
            asked.extend(byte);
        }
        assert_comes_in_parts(&mut caller, &mut upstream);
    }
}

#[test]
fn api_that_demands_a_client_certificate_gets_it_and_says_so_where_it_does_not() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let pair = clients.client();
    for versions in [ALL, ONLY_1_2] {
        for http in ["1.1", "2"] {
            let api = Api::start(server(&authority.server(), versions, Some(&clients)));
            let provider = provider(Settings::default());
            let setup = || before(&provider, &api, &authority).set("upstream.http", http);
            let sidecar = with_pair(setup(), &pair).start();
            assert_ok(&sidecar);
            assert_eq!(api.connections()[0].client, Some(pair.der()));

            let key = Some(CERTIFICATE);
            let sidecar = setup().start();
            sidecar.get("/").assert_problem(502, "upstream_tls");
            assert_told(&sidecar.process.logged(NOT_SERVED), "the host demands a client certificate", key);
            let sidecar = with_pair(setup(), &Authority::new().client()).start();
            sidecar.get("/").assert_problem(502, "upstream_tls");
            let words = "does not know the authority of the client certificate";
            assert_told(&sidecar.process.logged(NOT_SERVED), words, key);
            assert_eq!(api.requests(), 1);
        }
    }
}

#[test]
fn check_online_shows_the_client_certificate_and_tells_where_that_is_not_enough() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let pair = clients.client();
    for (versions, version) in [(ALL, "TLS 1.3"), (ONLY_1_2, "TLS 1.2")] {
        for (http, protocol) in [("1.1", "HTTP/1.1"), ("2", "HTTP/2")] {
            let api = Api::start(server(&authority.server(), versions, Some(&clients)));
            let provider = provider(Settings::default());
            let setup = || before(&provider, &api, &authority).set("upstream.http", http);
            let checked = check_online(&with_pair(setup(), &pair));
            assert_eq!((checked.code, &*checked.stderr), (0, ""));
            let line = format!("the API at 127.0.0.1:{}: ok, {version}, {protocol}\n", api.port());
            assert!(checked.stdout.starts_with(&line), "{checked:?}");

            for (setup, words) in [
                (setup(), "the host demands a client certificate"),
                (
                    with_pair(setup(), &Authority::new().client()),
                    "does not know the authority of the client certificate",
                ),
            ] {
                let checked = check_online(&setup);
                assert_eq!(checked.code, 1, "{checked:?}");
                assert!(checked.stderr.contains(words), "{checked:?}");
                assert!(checked.stderr.ends_with("hint: look at `upstream.client_cert_file`\n"), "{checked:?}");
            }
            assert_eq!(api.requests(), 0);
        }
    }
}

/// How often the log has this line.
fn times(sidecar: &Sidecar, message: &str) -> usize {
    sidecar.process.log().iter().filter(|line| line["message"] == message).count()
}

/// Whom the API took the requests to be from, by connection, and how many there were of each.
fn seen(api: &Api) -> Vec<(Option<Vec<u8>>, usize)> {
    api.connections().iter().map(|seen| (seen.client.as_ref().map(|c| c.to_vec()), seen.requests)).collect()
}

#[track_caller]
fn assert_rotates(http: &str) {
    let (authority, clients) = (Authority::new(), Authority::new());
    let ending = |year| clients.issue(&["client.example"], |params| params.not_after = date_time_ymd(year, 1, 1));
    let (first, second) = (ending(2100), ending(2101));
    let api = Api::start(server(&authority.server(), ALL, Some(&clients)));
    let provider = provider(Settings::default());
    let setup = before(&provider, &api, &authority).set("upstream.http", http);
    let setup = setup.set("reload.poll", "100ms").set("log.level", "trace");
    let sidecar = with_pair(setup, &first).start();
    assert_ok(&sidecar);
    assert_ok(&sidecar);
    let first_der = Some(first.der().to_vec());
    assert_eq!(seen(&api), [(first_der.clone(), 2)], "the connection is kept");
    const EXPIRY: &str = r#"tls_certificate_expiry_timestamp_seconds{cert="client"}"#;
    assert_eq!(value(&scraped(&sidecar), EXPIRY), 4_102_444_800.0);

    // A request is under way, on the connection that was kept.
    let mut slow = sidecar.connect();
    slow.send_head("GET", "/slow", &[]).expect("an open connection");
    wait_until("the slow request", || seen(&api)[0].1 == 3);

    // Half of it: warned of once, and nothing changes.
    sidecar.setup.replace_file(KEY, &second.key);
    let warning = sidecar.process.logged(USELESS);
    assert_eq!((warning["level"].as_str(), warning["key"].as_str()), (Some("WARN"), Some(KEY)));
    assert_ok(&sidecar);
    assert!(seen(&api).iter().all(|(client, _)| *client == first_der), "{:?}", seen(&api));
    assert_eq!(times(&sidecar, REPLACED), 0);

    // The other half.
    sidecar.setup.replace_file(CERTIFICATE, &second.certificate);
    sidecar.process.logged(REPLACED);
    let before = seen(&api).len();
    assert_ok(&sidecar);
    assert_ok(&sidecar);
    assert_eq!(seen(&api)[before..], [(Some(second.der().to_vec()), 2)], "one new connection, which is kept");
    assert_eq!(value(&scraped(&sidecar), EXPIRY), 4_133_980_800.0);
    assert_eq!(times(&sidecar, USELESS), 1);

    // What was under way ends well, and its connection is not used again.
    api.permits.add_permits(1);
    assert_eq!(slow.response("GET").expect("an answer").status, 200);
    assert_ok(&sidecar);
    assert_eq!(seen(&api)[before..], [(Some(second.der().to_vec()), 3)]);
    assert_eq!(seen(&api).iter().map(|(_, requests)| requests).sum::<usize>(), 7);

    let log = sidecar.process.stderr();
    for pair in [&first, &second] {
        for line in pair.key.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!log.contains(line), "a piece of a key is in the log");
        }
    }
    assert!(!log.contains("PRIVATE KEY"));
}

#[test]
fn replaced_client_certificate_is_shown_on_new_connections_of_http_1() {
    assert_rotates("1.1");
}

#[test]
fn replaced_client_certificate_is_shown_on_new_connections_of_http_2() {
    assert_rotates("2");
}

#[test]
fn client_certificate_is_replaced_also_while_the_configuration_changes_all_the_time() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (first, second) = (clients.client(), clients.client());
    let api = Api::start(server(&authority.server(), ALL, Some(&clients)));
    let provider = provider(Settings::default());
    let setup = before(&provider, &api, &authority).set("reload.poll", "2s");
    let mut sidecar = with_pair(setup, &first).start();
    assert_ok(&sidecar);
    sidecar.setup.replace_file(CERTIFICATE, &second.certificate);
    sidecar.setup.replace_file(KEY, &second.key);
    let mut version = 0;
    wait_until("the new certificate", || {
        version += 1;
        sidecar.setup.rewrite("upstream.allow", vec![format!("GET /version/{version}"), "GET /**".to_owned()]);
        let reloaded = Connection::open(sidecar.admin).ask("POST", "/reload", &[], b"").expect("an answer");
        assert_eq!(reloaded.status, 200, "{reloaded:?}");
        times(&sidecar, REPLACED) == 1
    });
}

#[test]
fn client_certificate_of_a_mounted_secret_is_replaced_by_its_symbolic_link() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (first, second) = (clients.client(), clients.client());
    let mount = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| mount.path().join(name);
    for (version, pair) in [("v1", &first), ("v2", &second)] {
        fs::create_dir(at(version)).expect("a writable directory");
        fs::write(at(version).join("tls.crt"), &pair.certificate).expect("a writable directory");
        fs::write(at(version).join("tls.key"), &pair.key).expect("a writable directory");
    }
    symlink("v1", at("..data")).expect("a writable directory");
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), at(name)).expect("a writable directory");
    }
    let api = Api::start(server(&authority.server(), ALL, Some(&clients)));
    let provider = provider(Settings::default());
    let path = |name: &str| at(name).to_str().expect("UTF-8").to_owned();
    let sidecar = before(&provider, &api, &authority)
        .set(CERTIFICATE, path("tls.crt"))
        .set(KEY, path("tls.key"))
        .set("reload.poll", "100ms")
        .start();
    assert_ok(&sidecar);
    symlink("v2", at("..new")).expect("a writable directory");
    fs::rename(at("..new"), at("..data")).expect("a writable directory");
    sidecar.process.logged(REPLACED);
    assert_ok(&sidecar);
    let shown: Vec<_> = seen(&api).into_iter().filter_map(|(client, _)| client).collect();
    assert_eq!(shown, [first.der().to_vec(), second.der().to_vec()]);
}

#[test]
fn ends_of_authorities_are_told_and_of_several_the_first() {
    let ending = |year| {
        Pair::self_signed(|params: &mut CertificateParams| {
            make_authority(params);
            params.not_after = date_time_ymd(year, 1, 1);
        })
    };
    let bundle = format!("{}{}", ending(2101).certificate, ending(2100).certificate);
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set_file("upstream.ca_file", &bundle).start();
    let text = scraped(&sidecar);
    let expiry = |cert: &str| value(&text, &format!("tls_certificate_expiry_timestamp_seconds{{cert=\"{cert}\"}}"));
    assert_eq!(expiry("upstream_ca"), 4_102_444_800.0);
    assert!(expiry("token_ca") > 4_102_444_800.0);
    assert!(!text.contains(r#"cert="client""#), "there is none");
}

/// What `check` says of this configuration.
#[track_caller]
fn faults(setup: &Setup) -> String {
    let mut process: Process = setup.spawn("check");
    assert_eq!(process.exit_code(), 78, "{}", process.stderr());
    process.stderr()
}

#[test]
fn check_tells_each_fault_of_a_client_certificate_in_its_own_words() {
    let clients = Authority::new();
    let (pair, other) = (clients.client(), clients.client());
    let provider = provider(Settings::default());
    let setup = || Setup::partner(&provider);

    let told = faults(&setup().set_file(CERTIFICATE, &pair.certificate));
    assert!(told.contains("`upstream.client_key_file` is missing, expected the key of the certificate"), "{told}");
    assert!(told.contains("hint: write `client_key_file = "), "{told}");
    let told = faults(&setup().set_file(KEY, &pair.key));
    assert!(told.contains("`upstream.client_cert_file` is missing"), "{told}");
    let told = faults(&with_pair(setup(), &pair).set("upstream.url", "http://127.0.0.1:1"));
    assert!(told.contains("`upstream.client_cert_file` has no meaning while `upstream.url` is plain http"), "{told}");

    let expired = clients.issue(&["client.example"], |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    // A PEM of the right kind that holds no key.
    let unusable = "-----BEGIN PRIVATE KEY-----\naHVudGVyMw==\n-----END PRIVATE KEY-----\n".to_owned();
    let cases = [
        (
            &pair.certificate,
            &other.key,
            "`upstream.client_key_file` holds a key that does not belong to the certificate",
        ),
        (&pair.certificate, &pair.certificate, "`upstream.client_key_file` holds no PEM private key"),
        (&pair.certificate, &unusable, "`upstream.client_key_file` holds a private key of a kind"),
        (&pair.key, &pair.key, "`upstream.client_cert_file` holds no PEM certificate"),
        (&expired.certificate, &expired.key, "holds a certificate that expired at 2001-01-01T00:00:00Z"),
    ];
    for (certificate, key, words) in cases {
        let told = faults(&setup().set_file(CERTIFICATE, certificate).set_file(KEY, key));
        assert!(told.contains(words), "{told}");
        assert!(told.contains("\n\nhint: "), "{told}");
        for line in pair.key.lines().chain(other.key.lines()).chain(unusable.lines()) {
            assert!(line.starts_with("-----") || !told.contains(line), "{told}");
        }
    }
    let told = faults(&with_pair(setup(), &pair).set(KEY, "/nowhere/key"));
    assert!(
        told.contains("`upstream.client_key_file` gives no key: secret file \"/nowhere/key\" cannot be read"),
        "{told}"
    );
    let told = faults(&with_pair(setup(), &pair).set(CERTIFICATE, "/nowhere/crt"));
    assert!(told.contains("`upstream.client_cert_file` gives no certificate: secret file"), "{told}");

    let told = faults(&setup().set("upstream.tls_min", "1.1").set("token.tls_min", "1.0"));
    assert!(told.contains("`upstream.tls_min` is \"1.1\", expected \"1.2\" or \"1.3\""), "{told}");
    assert!(told.contains("`token.tls_min` is \"1.0\""), "{told}");
}
