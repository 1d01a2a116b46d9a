//! The process whose memory is looked at, from without and from within.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use token_valet::{
    clock::Clock,
    config::Config,
    metrics::Metrics,
    sandbox::Settings,
    shutdown, tls,
    token::{Bearer, Class, FollowUp, Refresher, Renewal, State, Store, TokenClient},
};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc,
    task::spawn_local,
    time::sleep,
};

use crate::memory::{self, Found};

/// Names the configuration of the process that is to be one.
const VARIABLE: &str = "WIPE_SUBJECT";
/// What its answers begin with: the test harness writes to the same place.
const DONE: &str = "done: ";
const POLL: Duration = Duration::from_millis(10);

/// What the subject does when it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Take the token as a request does, as soon as there is one.
    Hold,
    /// Report the newest token as rejected, and wait for another.
    Replace,
    /// Let go of the token.
    Release,
    /// Wait until the provider has refused an exchange.
    AwaitFailure,
}

const ORDERS: [(Order, &str); 4] = [
    (Order::Hold, "hold"),
    (Order::Replace, "replace"),
    (Order::Release, "release"),
    (Order::AwaitFailure, "await failure"),
];

impl Order {
    fn name(self) -> &'static str {
        ORDERS.iter().find(|(order, _)| *order == self).map_or("", |(_, name)| name)
    }

    fn named(name: &str) -> Self {
        ORDERS.iter().find(|(_, known)| *known == name).expect("an order").0
    }
}

/// The subject from without. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Subject {
    directory: TempDir,
    text: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Subject {
    pub(crate) fn new(api_url: &str, token_url: &str, grant: &str) -> Self {
        let text = format!(
            "[upstream]\nurl = {api_url:?}\n[token]\nurl = {token_url:?}\ngrant = {grant:?}\nclient_id = {:?}\nwait = \"15s\"\n",
            Settings::default().client_id,
        );
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { directory, text, running: None }
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.text.push_str(&format!("{key} = {value:?}\n"));
        self
    }

    /// Sets a key to the path of a file with this content.
    pub(crate) fn file(self, key: &str, content: &str) -> Self {
        self.replace(key, content);
        self.path(key)
    }

    /// Sets a key to the path of a file that may not exist yet.
    pub(crate) fn path(self, key: &str) -> Self {
        let path = self.directory.path().join(key);
        self.set(key, path.to_str().expect("the path of a temporary directory is UTF-8"))
    }

    pub(crate) fn replace(&self, key: &str, content: &str) {
        let path = self.directory.path().join(key);
        let new = path.with_extension("new");
        fs::write(&new, content).expect("a writable directory");
        fs::rename(new, path).expect("a writable directory");
    }

    pub(crate) fn start(mut self) -> Self {
        let path = self.directory.path().join("valet.toml");
        fs::write(&path, &self.text).expect("a writable directory");
        let mut child = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "subject", "--nocapture"])
            .env(VARIABLE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary can be started");
        let orders = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        self.running = Some(Running { child, orders, answers });
        self
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("it was started")
    }

    /// Has it done, and waits for that.
    #[track_caller]
    pub(crate) fn order(&mut self, order: Order) {
        let Running { orders, answers, .. } = self.running();
        writeln!(orders, "{}", order.name()).expect("it listens");
        let mut line = String::new();
        while !line.contains(DONE) {
            line.clear();
            assert!(answers.read_line(&mut line).is_ok_and(|count| count > 0), "it ended at `{}`", order.name());
        }
    }

    #[track_caller]
    pub(crate) fn find(&mut self, secret: &str) -> Found {
        memory::find(self.running().child.id(), secret)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The subject from within, if this process is one.
pub(crate) fn run() {
    let Some(path) = env::var_os(VARIABLE) else { return };
    let config = Config::load(Path::new(&path), []).expect("a good configuration").token;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect("a runtime").block_on(async {
        let tls = tls::client_config(&config.trust).expect("good certificates");
        let endpoint = TokenClient::new(&config, &tls).expect("a good name");
        let store = config.state_file.as_deref().map(Store::open).transpose().expect("a good place");
        let metrics = Metrics::default().token;
        let (refresher, _cell, renewal) =
            Refresher::new(&config, endpoint, store, Clock::kernel(), rand::make_rng(), metrics);
        let (_trigger, drain) = shutdown::channel();
        spawn_local(refresher.run(drain));
        obey(&renewal).await;
    });
}

#[expect(clippy::print_stdout, reason = "it answers by its output")]
async fn obey(renewal: &Renewal) {
    let (sender, mut orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(Order::named(&line)))
    });
    let mut held: Option<Bearer> = None;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Hold => held = Some(token(renewal).await),
            Order::Replace => {
                let generation = renewal.status().generation;
                // Else the second one in a row would be left at that.
                renewal.accepted(generation);
                renewal.reject(generation, FollowUp::Replay);
                while renewal.status().generation == generation {
                    sleep(POLL).await;
                }
            }
            Order::Release => held = None,
            Order::AwaitFailure => {
                while renewal.status().state != State::Failing(Class::Configuration) {
                    sleep(POLL).await;
                }
            }
        }
        println!("{DONE}{order:?}, holding {}", held.is_some());
    }
}

async fn token(renewal: &Renewal) -> Bearer {
    loop {
        match renewal.token().await {
            Ok(bearer) => return bearer,
            Err(_) => sleep(POLL).await,
        }
    }
}
