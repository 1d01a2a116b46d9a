//! A token endpoint without TLS, for what is to be seen apart from rustls's copies. Each exchange gives new tokens.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// How the tokens are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    Plain,
    /// With escapes, as .NET writes `+` and PHP `/`.
    Escaped,
}

/// Serves until the process ends.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    issued: Arc<Mutex<Vec<(String, String)>>>,
}

impl Endpoint {
    pub(crate) fn start(writing: Writing) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/token", listener.local_addr().expect("it is bound"));
        let issued: Arc<Mutex<Vec<_>>> = Arc::default();
        thread::spawn({
            let issued = Arc::clone(&issued);
            move || {
                for stream in listener.incoming() {
                    let pair = (crate::secret(), crate::secret());
                    // Known before it is told: the subject may be quicker than this thread.
                    issued.lock().unwrap_or_else(PoisonError::into_inner).push(pair.clone());
                    answer(stream.expect("a connection"), writing, &pair);
                }
            }
        });
        Self { url, issued }
    }

    /// The access and refresh tokens so far.
    pub(crate) fn issued(&self) -> Vec<(String, String)> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(stream: TcpStream, writing: Writing, (access, refresh): &(String, String)) {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a head");
        match line.to_ascii_lowercase().trim().split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().expect("a number"),
            Some(_) => {}
            None if line == "\r\n" => break,
            None => {}
        }
    }
    stream.read_exact(&mut vec![0; length]).expect("a body");
    let written = |token: &str| match writing {
        Writing::Plain => token.to_owned(),
        Writing::Escaped => format!("\\u{:04x}{}", token.as_bytes()[0], &token[1..]),
    };
    let body = format!(
        r#"{{"access_token":"{}","token_type":"Bearer","expires_in":299,"refresh_token":"{}"}}"#,
        written(access),
        written(refresh)
    );
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    write!(stream.get_mut(), "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("it listens");
}
