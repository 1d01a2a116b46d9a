//! An API that a test writes byte by byte.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use token_valet::sandbox::{Provider, Settings};

use crate::harness::{Setup, Sidecar, provider};

/// Reads the head of one request on each connection, and leaves the rest to a script.
#[derive(Debug)]
pub(crate) struct ScriptedApi {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<Vec<String>>>>,
}

impl ScriptedApi {
    pub(crate) fn start(script: impl Fn(BufReader<TcpStream>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let api = Self { address: listener.local_addr().expect("it is bound"), heads: Arc::default() };
        let (script, heads) = (Arc::new(script), Arc::clone(&api.heads));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, heads) = (Arc::clone(&script), Arc::clone(&heads));
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    let head = lines(&mut stream);
                    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
                    script(stream);
                });
            }
        });
        api
    }

    /// Answers the requests, whose bodies it does not read, with these in turn.
    pub(crate) fn answering(answers: &'static [&'static str]) -> Self {
        let next = Mutex::new(answers.iter());
        Self::start(move |mut stream| {
            let answer = next.lock().unwrap_or_else(PoisonError::into_inner).next().expect("no more requests");
            // An error means that the sidecar has gone, which the test will notice.
            let _ = stream.get_mut().write_all(answer.as_bytes());
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The lines of the heads that have come, each without its end.
    pub(crate) fn heads(&self) -> Vec<Vec<String>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The request lines that have come.
    pub(crate) fn request_lines(&self) -> Vec<String> {
        self.heads().into_iter().filter_map(|head| head.into_iter().next()).collect()
    }

    /// A sidecar before it, and the provider of its tokens.
    pub(crate) fn sidecar(&self) -> (Provider, Sidecar) {
        let provider = provider(Settings::default());
        let sidecar = Setup::partner(&provider).set("upstream.url", format!("http://{}", self.address)).start();
        (provider, sidecar)
    }
}

/// The lines up to the next empty one, or the end.
pub(crate) fn lines(stream: &mut impl BufRead) -> Vec<String> {
    let lines = stream.by_ref().lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect()
}
