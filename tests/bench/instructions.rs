//! How many instructions our own part of a request takes in user space, counted by valgrind: nearly the same in every
//! run of one build, however busy the machine is, so it can be held to a bound where time cannot.
//!
//! `cargo run --release --features parts --example instructions` counts; `... -- CASE TIMES` is what is counted.

#![allow(clippy::print_stdout, reason = "it tells what it counted")]

use std::{
    env, fs,
    hint::black_box,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio, exit},
    thread,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, request::Parts};
use token_valet::{clock::Clock, parts};

/// What is counted, and the most instructions that it may take each time: those of the last change that moved them, and
/// a tenth, as copies take other instructions on other processors. Whoever makes one cheaper lowers its bound.
const CASES: [Case; 8] = [
    Case { name: "the target", run: target, bound: 87 },
    Case { name: "the target behind a prefix", run: prefixed_target, bound: 1_575 },
    Case { name: "a look for what may be misread", run: check, bound: 254 },
    Case { name: "the fields of a request", run: fields_of_request, bound: 1_900 },
    Case { name: "the fields of an answer", run: fields_of_answer, bound: 1_880 },
    Case { name: "a token", run: token, bound: 176 },
    Case { name: "the verdict on a refusal of the API's own", run: verdict_on_api, bound: 4_500 },
    Case { name: "the verdict on a refusal of the token", run: verdict_on_token, bound: 3_785 },
];
/// The same for a whole request through the program, with all of its libraries.
const WHOLE: u64 = 33_540;
/// The same through what `deploy/static-binary` makes. Too many are the sign of a profile that no more fits the source, the
/// compiler or Cargo.lock: `tests/bench/train` makes it anew.
const WHOLE_AS_SHIPPED: u64 = 25_390;
/// How far below its bound something may be before the bound says nothing any more.
const SLACK: f64 = 0.8;
/// Each is counted for two numbers of times, and the difference is theirs alone.
const TIMES: [u32; 2] = [100, 1_100];
/// How often, and how long apart, the program is tried until it listens: a minute.
const TRIES: u32 = 1_200;
const PAUSE: Duration = Duration::from_millis(50);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Case {
    name: &'static str,
    run: fn(u32),
    bound: u64,
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [case, times] = &arguments[..] {
        let case = CASES.iter().find(|one| one.name == case).expect("a case");
        (case.run)(times.parse().expect("a number"));
        return;
    }
    let mut is_good = true;
    let ourselves = env::current_exe().expect("it runs");
    for Case { name, bound, .. } in CASES {
        let counted = TIMES.map(|times| {
            let mut command = counting(&ourselves);
            command.args([name, &times.to_string()]);
            Counted::start(command).instructions()
        });
        is_good &= judge(name, per_time(counted), bound);
    }
    let mut judge_whole = |name: &str, program: &Path, bound: u64| {
        is_good &= judge(name, per_time(TIMES.map(|times| whole(program, times))), bound);
    };
    judge_whole("a request through the program", &program(), WHOLE);
    match env::var_os("TOKEN_VALET_STATIC_BIN") {
        Some(program) => judge_whole("a request through what ships", Path::new(&program), WHOLE_AS_SHIPPED),
        None => {
            println!("not counted: what ships, a program of deploy/static-binary that TOKEN_VALET_STATIC_BIN names")
        }
    }
    if !is_good {
        exit(1);
    }
}

fn judge(name: &str, each: u64, bound: u64) -> bool {
    let (word, is_good) = match each {
        more if more > bound => ("TOO MANY", false),
        few if (few as f64) < bound as f64 * SLACK => ("so few that the bound is to be lowered", false),
        _ => ("", true),
    };
    println!("{name:42} {each:6} of {bound:6} {word}");
    is_good
}

fn per_time([few, many]: [u64; 2]) -> u64 {
    (many - few) / u64::from(TIMES[1] - TIMES[0])
}

fn counting(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A program that is counted; it ends with this.
struct Counted(Child);

impl Counted {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().expect("valgrind is installed"))
    }

    /// Waits for its end.
    fn instructions(mut self) -> u64 {
        let mut told = String::new();
        self.0.stderr.take().expect("it is piped").read_to_string(&mut told).expect("it is text");
        let count = told.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
        count.unwrap_or_else(|| panic!("nothing was counted:\n{told}"))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn uri() -> Uri {
    Uri::from_static("/api/fdx/5/accounts?limit=50&offset=100")
}

fn fields(of: &[(&'static str, &'static str)]) -> HeaderMap {
    of.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn request() -> Parts {
    let mut request = Request::new(());
    *request.uri_mut() = uri();
    *request.headers_mut() = fields(&[
        ("host", "localhost:8080"),
        ("user-agent", "legacy/1.0"),
        ("accept", "application/json"),
        ("connection", "keep-alive"),
        ("x-request-id", "0123456789abcdef"),
    ]);
    request.into_parts().0
}

fn answer() -> HeaderMap {
    fields(&[
        ("content-type", "application/json"),
        ("content-length", "1024"),
        ("connection", "keep-alive"),
        ("date", "Tue, 03 Mar 2026 10:00:00 GMT"),
        ("ob-correlation-id", "0123456789abcdef"),
    ])
}

fn target(times: u32) {
    let uri = uri();
    for _ in 0..times {
        black_box(parts::target_to_upstream(black_box(&Method::GET), black_box(&uri), "").expect("it is good"));
    }
}

fn prefixed_target(times: u32) {
    let uri = uri();
    for _ in 0..times {
        black_box(parts::target_to_upstream(black_box(&Method::GET), black_box(&uri), "/v1").expect("it is good"));
    }
}

fn check(times: u32) {
    let head = request();
    for _ in 0..times {
        parts::check(black_box(&head)).expect("it is good");
    }
}

/// With their copy, as for a request that may be sent twice.
fn fields_of_request(times: u32) {
    let head = request();
    for _ in 0..times {
        let mut headers = head.headers.clone();
        parts::headers_to_upstream(black_box(&mut headers));
        black_box(headers);
    }
}

/// With their copy, or there would be but one answer.
fn fields_of_answer(times: u32) {
    let answer = answer();
    for _ in 0..times {
        let mut headers = answer.clone();
        parts::check_answer(&headers).expect("it is good");
        parts::headers_to_client(black_box(&mut headers));
        black_box(headers);
    }
}

fn token(times: u32) {
    let clock = Clock::kernel();
    let cell = parts::token_cell(&"t".repeat(1_000), clock.now()).expect("it is good");
    for _ in 0..times {
        black_box(cell.load(black_box(clock.now())).expect("it is valid"));
    }
}

fn verdict_on_api(times: u32) {
    verdict(times, br#"{"code":602,"message":"Customer not authorized","debugMessage":"consent revoked"}"#, false);
}

fn verdict_on_token(times: u32) {
    verdict(times, br#"{"message":"Unauthorized","detail":"the token has expired"}"#, true);
}

fn verdict(times: u32, body: &[u8], is_about_token: bool) {
    let headers = answer();
    for _ in 0..times {
        let verdict = parts::is_about_the_token(StatusCode::UNAUTHORIZED, black_box(&headers), black_box(body), false);
        assert_eq!(verdict, is_about_token);
    }
}

/// `TOKEN_VALET_BIN`, or the release build.
fn program() -> PathBuf {
    let named = env::var_os("TOKEN_VALET_BIN").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/token-valet"))
}

/// Instructions of the program from its start to its end, with so many requests in between.
fn whole(program: &Path, requests: u32) -> u64 {
    let api = provider();
    let directory = tempfile::tempdir().expect("there is a place for files");
    let (file, port) = (directory.path().join("valet.toml"), free_port());
    let text = format!(
        "[listen]\naddress = \"{port}\"\n[upstream]\nurl = \"http://{api}\"\n[token]\nurl = \"http://{api}/token\"\n\
         timeout = \"60s\"\nwait = \"60s\"\n\
         grant = \"client_credentials\"\nclient_id = \"id\"\n[admin]\naddress = \"127.0.0.1:0\"\n"
    );
    fs::write(&file, text).expect("the place can be written to");
    let mut command = counting(program);
    command.args(["run", "-c"]).arg(&file).env("TOKEN_VALET__TOKEN__CLIENT_SECRET", "secret");
    let counted = Counted::start(command);
    let mut caller = connected(port);
    caller.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    for _ in 0..requests {
        caller
            .write_all(b"GET /api/fdx/5/accounts HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")
            .expect("it is open");
        let head = read_message(&mut caller).expect("an answer");
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    let ended = Command::new("kill").arg(counted.0.id().to_string()).status().expect("kill is there");
    assert!(ended.success());
    counted.instructions()
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port")
}

fn connected(port: SocketAddr) -> TcpStream {
    let mut tries = (0..TRIES).map(|_| TcpStream::connect(port).inspect_err(|_| thread::sleep(PAUSE)));
    tries.find_map(Result::ok).expect("the program listens")
}

/// A token endpoint at `/token`, and an API that answers 1 KiB to everything else.
fn provider() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    while let Some(head) = read_message(&mut stream) {
        let body = if head.starts_with("post /token") {
            r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#.to_owned()
        } else {
            "x".repeat(1_024)
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Tue, 03 Mar 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: keep-alive\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The head of the next message, whose body is read too; `None` at the end.
fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(head)
}
