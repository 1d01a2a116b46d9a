//! The API: answers each request as planned, and looks at every byte that it gets.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use super::{
    plan::{Fault, Framing, Leave, Plan, digest},
    wire::{Head, Link, is_stuck},
};

/// What both ends know and note.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) seed: u64,
    /// How often the API has got each id.
    seen: Vec<AtomicU8>,
    /// Whether the body of each id has come to its end there.
    read: Vec<AtomicBool>,
    connections: AtomicU64,
    tally: Mutex<BTreeMap<String, u64>>,
    violations: Mutex<Vec<String>>,
}

impl Book {
    pub(super) fn new(seed: u64, requests: u32) -> Self {
        Self {
            seed,
            seen: (0..requests).map(|_| AtomicU8::new(0)).collect(),
            read: (0..requests).map(|_| AtomicBool::new(false)).collect(),
            connections: AtomicU64::new(0),
            tally: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    pub(super) fn count(&self, outcome: String) {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_default() += 1;
    }

    pub(super) fn tally(&self) -> BTreeMap<String, u64> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn violated(&self, what: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_read(&self, id: u32) -> bool {
        self.read[id as usize].load(Relaxed)
    }

    /// A number for each connection, of either end.
    pub(super) fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }
}

pub(super) fn start(book: &Arc<Book>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let book = Arc::clone(book);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let book = Arc::clone(&book);
            thread::spawn(move || serve(stream, &book));
        }
    });
    address
}

fn serve(stream: TcpStream, book: &Book) {
    let Ok(mut link) = Link::new(stream, book.connection()) else { return };
    while link.is_open() {
        let head = match link.head() {
            Ok(head) => head,
            Err(error) => return book.violated(format!("the API got half a head: {error}")),
        };
        let plan = match identified(&head, book) {
            Ok(plan) => plan,
            Err(what) => return book.violated(format!("the API got {what}: {head:?}")),
        };
        match answer(link, &head, &plan, book) {
            Some(open) => link = open,
            None => return,
        }
    }
}

/// The plan of the request that a head is of.
fn identified(head: &Head, book: &Book) -> Result<Plan, String> {
    let mut words = head.start.split(' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().and_then(|target| target.strip_prefix("/mixup/"));
    let id: u32 = target.and_then(|id| id.parse().ok()).ok_or("a target that nobody sent")?;
    let seen = book.seen.get(id as usize).ok_or("an id that nobody sent")?.fetch_add(1, Relaxed) + 1;
    let plan = Plan::of(book.seed, id);
    let (framing, length) = head.framing();
    let expected = plan.upload.map_or((Framing::Close, None), |shape| {
        (shape.framing, (shape.framing == Framing::Length).then_some(shape.bytes().len()))
    });
    if head.all("x-id") != [id.to_string()] {
        Err("two ids on one request".to_owned())
    } else if method != plan.method {
        Err(format!("another method than {}", plan.method))
    } else if (framing, length) != expected {
        Err(format!("another framing than {expected:?}"))
    } else if !head.first("authorization").is_some_and(|value| value.starts_with("Bearer ")) {
        Err("no token".to_owned())
    } else if seen > 1 && !matches!(method, "GET" | "HEAD") || seen > 2 {
        Err(format!("a request for the {seen}. time"))
    } else {
        Ok(plan)
    }
}

/// Returns the connection if it is still of use.
fn answer(mut link: Link, head: &Head, plan: &Plan, book: &Book) -> Option<Link> {
    match plan.fault {
        Fault::NoHead { after_body: false } => return end(link, plan),
        Fault::Early | Fault::EarlyClose => {
            let written = write_answer(&mut link, plan, None, book);
            if plan.fault == Fault::EarlyClose || !written {
                return end(link, plan);
            }
            read_upload(&mut link, head, plan, book)?;
            return Some(link).filter(|_| plan.download.framing != Framing::Close);
        }
        Fault::None | Fault::NoHead { after_body: true } | Fault::HalfHead | Fault::HalfBody(_) => {}
        Fault::CloseAfter { .. } => {}
    }
    let got = read_upload(&mut link, head, plan, book)?;
    match plan.fault {
        Fault::NoHead { .. } => return end(link, plan),
        Fault::HalfHead => {
            let _ = link.write(&format!("HTTP/1.1 200 OK\r\nX-Id: {}\r\nX-Di", plan.id));
            return end(link, plan);
        }
        Fault::None | Fault::HalfBody(_) | Fault::CloseAfter { .. } | Fault::Early | Fault::EarlyClose => {}
    }
    let written = write_answer(&mut link, plan, Some(&digest(&got)), book);
    if matches!(plan.fault, Fault::HalfBody(_)) {
        return end(link, plan);
    }
    let closes = matches!(plan.fault, Fault::CloseAfter { .. }) || plan.download.framing == Framing::Close;
    Some(link).filter(|_| written && !closes)
}

fn end(link: Link, plan: &Plan) -> Option<Link> {
    drop(link.end(plan.fault_how));
    None
}

/// The body of the request, which is whole and as it was planned; `None` if it breaks off.
fn read_upload(link: &mut Link, head: &Head, plan: &Plan, book: &Book) -> Option<Vec<u8>> {
    let Some(shape) = plan.upload else { return Some(Vec::new()) };
    let body = link.body(head.framing(), plan.slow_api);
    book.read[plan.id as usize].store(true, Relaxed);
    match body {
        Ok(body) => {
            if body != shape.bytes() {
                book.violated(format!("the API got {} other bytes as the body of {plan:?}", body.len()));
            } else if matches!(plan.leave, Leave::Upload(_)) {
                book.violated(format!("the API got a request as whole that broke off: {plan:?}"));
            }
            Some(body)
        }
        Err(error) => {
            // A caller that is answered, or goes away, may take its request's end with it.
            if is_stuck(&error) || plan.leave == Leave::Never {
                book.violated(format!("the API got a part of a request: {error}, {plan:?}"));
            }
            None
        }
    }
}

/// Returns true if all of it could be written.
fn write_answer(link: &mut Link, plan: &Plan, digest: Option<&str>, book: &Book) -> bool {
    let shape = plan.download;
    let mut fields = format!("X-Id: {}\r\n", plan.id);
    if let Some(digest) = digest {
        fields.push_str(&format!("X-Digest: {digest}\r\n"));
    }
    match shape.framing {
        Framing::Length => fields.push_str(&format!("Content-Length: {}\r\n", shape.bytes().len())),
        Framing::Chunked => fields.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::Close => {}
    }
    if plan.fault == (Fault::CloseAfter { announced: true }) {
        fields.push_str("Connection: close\r\n");
    }
    let until = if let Fault::HalfBody(until) = plan.fault { Some(until) } else { None };
    let mut write = || {
        link.write(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))?;
        if plan.method == "HEAD" {
            return Ok(());
        }
        link.write_body(shape.bytes(), shape.framing, until, plan.slow_api)
    };
    match write() {
        Ok(()) => true,
        Err(error) => {
            if is_stuck(&error) || (plan.leave == Leave::Never && plan.fault != Fault::EarlyClose) {
                book.violated(format!("the API could not answer: {error}, {plan:?}"));
            }
            false
        }
    }
}
