//! What one proxy made of one case: in words that can be compared, without what may differ between any two proxies.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    case::Case,
    client::{NEXT_TARGET, Reply},
    message::{Framing, Message},
    text::show,
    upstream::usual_answer,
};

/// What a case's own credentials contain, and no upstream may see.
const CALLERS_SECRET: &str = "the-callers-own";
/// What an answer holds that must never be taken for an answer of its own.
const POISON: &str = "POISON";
/// Fields that have no place in trailers (RFC 9110 section 6.5.1).
const NEVER_TRAILERS: [&str; 5] = ["authorization", "connection", "content-length", "host", "transfer-encoding"];

#[derive(Debug, Default)]
pub(crate) struct Observation {
    /// Whether it was forwarded, and the answer.
    pub(crate) outcome: String,
    /// What the upstream and the caller got, by name, and what came then on the connection. Only worth comparing if the
    /// outcome is the same.
    pub(crate) details: BTreeMap<String, String>,
    /// What must never happen.
    pub(crate) violations: Vec<String>,
}

/// Whom the requests must be for, and the token that they must have.
pub(crate) struct Expected<'a> {
    pub(crate) host: SocketAddr,
    pub(crate) is_token: &'a dyn Fn(&str) -> bool,
}

impl Observation {
    pub(crate) fn new(case: &Case, reply: &Reply, requests: &[Message], expected: &Expected<'_>) -> Self {
        let own: Vec<_> = requests.iter().filter(|request| !is_next(request)).collect();
        let whole: Vec<_> = own.iter().filter(|request| request.is_whole).copied().collect();
        let is_final = |answer: &Message| answer.status() >= 200 || answer.status() == 101;
        let finals = reply.answers.iter().position(is_final).unwrap_or(reply.answers.len());
        // The next request's answer is none to this one.
        let first = reply.answers.get(finals).filter(|answer| !of_next(answer));
        let split = finals + usize::from(first.is_some());

        // An early answer may end the upload, at a moment that is not always the same.
        let is_early = case.answer.as_ref().is_some_and(|answer| answer.early);
        let forwarded = match if is_early { own.len().min(1) } else { whole.len() } {
            0 => "refused".to_owned(),
            1 => "forwarded".to_owned(),
            count => format!("forwarded as {count}"),
        };
        let mut answers: Vec<_> = reply.answers[..split].iter().map(in_short).collect();
        if !reply.garbage.is_empty() && reply.answers.is_empty() {
            answers.push("an answer without a head".to_owned());
        } else if !reply.tunnel.is_empty() && reply.answers.is_empty() {
            answers.push(show(&reply.tunnel));
        } else if first.is_none() {
            answers.push("no answer".to_owned());
        }
        let mut then: Vec<_> = reply.answers[split..].iter().map(in_short).collect();
        then.push(if reply.has_ended { "closed" } else { "left open" }.to_owned());

        let mut details = BTreeMap::new();
        if !is_early {
            details.insert("then".to_owned(), then.join(", "));
        }
        for (number, request) in whole.iter().filter(|_| !is_early).enumerate() {
            let prefix = if number == 0 { "request".to_owned() } else { format!("request {}", number + 1) };
            request_details(&mut details, &prefix, request, expected);
        }
        if let Some(answer) = first.filter(|answer| is_upstreams(answer)) {
            answer_details(&mut details, answer);
        }
        if !reply.tunnel.is_empty() {
            details.insert("tunnel".to_owned(), show(&reply.tunnel));
        }
        Self {
            outcome: format!("{forwarded}: {}", answers.join(", ")),
            details,
            violations: violations(case, reply, requests, expected),
        }
    }
}

fn is_next(request: &Message) -> bool {
    request.words()[1] == NEXT_TARGET
}

/// Whether an answer is to the next request.
fn of_next(answer: &Message) -> bool {
    answer.values("x-upstream").iter().any(|request| request.ends_with(NEXT_TARGET))
}

/// The upstream's answers say so; a proxy's own do not.
fn is_upstreams(answer: &Message) -> bool {
    !answer.values("x-upstream").is_empty()
}

fn in_short(answer: &Message) -> String {
    let next = answer.values("x-upstream").first().copied().filter(|request| request.ends_with(NEXT_TARGET));
    let next = match next {
        Some(request) if request.starts_with(b"GET ") => "next ".to_owned(),
        Some(request) => format!("next as `{}` ", show(request)),
        None => String::new(),
    };
    let cut = if answer.is_whole { "" } else { " cut short" };
    format!("{next}{}{cut}", answer.status())
}

fn request_details(details: &mut BTreeMap<String, String>, prefix: &str, request: &Message, expected: &Expected<'_>) {
    let [method, target, version] = request.words();
    let host = expected.host.to_string();
    let mut add =
        |name: &str, value: String| details.insert(format!("{prefix} {name}"), value.replace(&host, "UPSTREAM"));
    add("method", show(method));
    add("target", show(target));
    add("version", show(version));
    for (name, values) in joined(&request.fields) {
        let values = values.into_iter().map(|value| match name.as_str() {
            "authorization" if is_bearer(&value, expected) => "TOKEN".to_owned(),
            _ => value,
        });
        add(&format!("field {name}"), values.collect::<Vec<_>>().join(" | "));
    }
    // Whether a body is chunked may change on the way, as long as either form is in order; `wrong_form` is stricter.
    let is_in_order = request.oddities.is_empty() && request.framing != Framing::NoBody;
    let is_plain = request.values("content-length").iter().all(|length| !length.starts_with(b"0") || *length == b"0");
    add("framing", if is_in_order && is_plain { "a body".to_owned() } else { framing(request) });
    add("body", show(&request.body));
    add("trailers", trailers(request));
}

fn answer_details(details: &mut BTreeMap<String, String>, answer: &Message) {
    let [version, _, reason] = answer.words();
    let mut add = |name: &str, value: String| details.insert(format!("answer {name}"), value);
    add("version", show(version));
    add("reason", show(reason));
    for (name, values) in joined(&answer.fields) {
        if !["date", "server", "x-upstream"].contains(&name.as_str()) {
            add(&format!("field {name}"), values.join(" | "));
        }
    }
    add("trailers", trailers(answer));
    // The usual answer repeats the request, which is compared already.
    if answer.is_whole && !answer.body.is_empty() && show(&answer.body).starts_with("answer to ") {
        return;
    }
    add("framing", framing(answer));
    add("body", show(&answer.body));
}

/// The values under each name, without those of framing and of the connection's life, which are looked at otherwise.
fn joined(fields: &[(String, Vec<u8>)]) -> BTreeMap<String, Vec<String>> {
    let mut joined = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in fields {
        let is_life =
            name == "connection" && [&b"close"[..], b"keep-alive"].contains(&value.to_ascii_lowercase().as_slice());
        if !is_life && name != "content-length" && name != "transfer-encoding" {
            joined.entry(name.clone()).or_default().push(show(value));
        }
    }
    joined
}

fn framing(message: &Message) -> String {
    let raw = |name: &str| {
        let values: Vec<_> = message.values(name).into_iter().map(show).collect();
        values.join(" | ")
    };
    match message.framing {
        Framing::NoBody if message.values("content-length").is_empty() => "no body".to_owned(),
        Framing::NoBody => format!("no body, length {}", raw("content-length")),
        Framing::Length(_) => format!("length {}", raw("content-length")),
        Framing::Chunked => raw("transfer-encoding"),
        Framing::UntilClose => "until the end".to_owned(),
    }
}

fn trailers(message: &Message) -> String {
    let trailers = message.trailers.iter().map(|(name, value)| format!("{name}: {}", show(value)));
    trailers.collect::<Vec<_>>().join(" | ")
}

fn is_bearer(value: &str, expected: &Expected<'_>) -> bool {
    value.strip_prefix("Bearer ").is_some_and(expected.is_token)
}

/// What holds in every case, whatever the peers do.
fn violations(case: &Case, reply: &Reply, requests: &[Message], expected: &Expected<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if !reply.has_ended {
        found.push("neither a whole answer nor an end in time".to_owned());
    }
    if !reply.garbage.is_empty() {
        found.push(format!("the caller got what is no answer: {}", show(&reply.garbage)));
    }
    // Half a request may be a late one, which an earlier caller gave up.
    let whole = requests.iter().filter(|request| request.is_whole);
    let (next, own): (Vec<_>, Vec<_>) = whole.partition(|request| is_next(request));
    if own.len() > case.requests + usize::from(is_unanswered(case)) || next.len() > 1 {
        let lines: Vec<_> = own.iter().chain(&next).map(|request| show(&request.start)).collect();
        found.push(format!("the upstream saw {} requests: {}", lines.len(), lines.join(", ")));
    }
    for request in requests {
        found.extend(request.oddities.iter().map(|oddity| format!("the upstream saw {oddity}")));
        found.extend(wrong_fields(request, expected));
    }
    for answer in &reply.answers {
        found.extend(answer.oddities.iter().map(|oddity| format!("the caller saw {oddity}")));
    }
    if let [request] = own.as_slice() {
        found.extend(wrong_form(case, request));
    }
    found.extend(wrong_answer(case, reply).map(str::to_owned));
    let upstreams: Vec<_> = reply.answers.iter().filter(|a| is_upstreams(a) && a.status() >= 200).collect();
    if upstreams.len() > requests.len() {
        found.push(format!("{} answers of the upstream to {} requests", upstreams.len(), requests.len()));
    }
    for (number, answer) in upstreams.iter().enumerate() {
        let is_scripted = number == 0 && case.answer.is_some();
        if !is_scripted && !is_answer_to_one_of(answer, requests) {
            found.push(format!("the caller got the answer to another request: {}", show(&answer.body)));
        }
    }
    for answer in reply.answers.iter().skip(1) {
        if show(&answer.start).contains(POISON) || show(&answer.body).contains(POISON) {
            found.push("the caller took a part of an answer for an answer".to_owned());
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether the upstream closes the connection before it has answered: a safe request, as those of such
/// cases are, may then be sent once more.
fn is_unanswered(case: &Case) -> bool {
    let Some(answer) = &case.answer else { return false };
    let mut input = answer.bytes.as_slice();
    loop {
        match Message::head(&mut input) {
            Ok(Some(message)) if message.status() < 200 => {}
            Ok(Some(_)) => return false,
            Ok(None) => return true,
            Err(_) => return input.is_empty(),
        }
    }
}

/// A request that leaves nothing to interpretation keeps its method, its body and the way it is framed.
fn wrong_form(case: &Case, request: &Message) -> Option<String> {
    let bytes = case.bytes();
    let mut input = bytes.as_slice();
    let mut sent = Message::head(&mut input).ok()??;
    sent.request_body(&mut input).ok()?;
    if !request.is_whole || !sent.oddities.is_empty() || !input.is_empty() {
        return None;
    }
    let form = |message: &Message| (message.words()[0].to_vec(), message.framing, message.body.clone());
    (form(&sent) != form(request)).then(|| format!("the upstream saw another request: {}", show(&request.start)))
}

/// An answer that leaves nothing to interpretation keeps its body, and one that broke off does not look whole.
fn wrong_answer(case: &Case, reply: &Reply) -> Option<&'static str> {
    let mut input = case.answer.as_ref()?.bytes.as_slice();
    let mut sent = Message::head(&mut input).ok()??;
    while matches!(sent.status(), 100..=199) {
        sent = Message::head(&mut input).ok()??;
    }
    let ended = sent.response_body(&mut input, case.bytes().split(|byte| *byte == b' ').next()?);
    let got = reply.answers.iter().find(|answer| answer.status() >= 200 && is_upstreams(answer))?;
    if !sent.oddities.is_empty() || !got.is_whole || of_next(got) {
        return None;
    }
    match ended {
        Err(_) => Some("an answer that broke off looked whole to the caller"),
        Ok(()) if sent.body != got.body => Some("the caller got another body than the upstream sent"),
        Ok(()) => None,
    }
}

fn wrong_fields(request: &Message, expected: &Expected<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if request.fields.is_empty() {
        return found;
    }
    let tokens = request.values("authorization");
    if !matches!(tokens.as_slice(), [token] if is_bearer(&show(token), expected)) {
        found.push(format!("the upstream saw {} fields Authorization, expected the token", tokens.len()));
    }
    let hosts = request.values("host");
    if !matches!(hosts.as_slice(), [host] if *host == expected.host.to_string().as_bytes()) {
        found.push(format!("the upstream saw {} fields Host, expected its own name", hosts.len()));
    }
    for (name, value) in request.fields.iter().chain(&request.trailers) {
        if show(value).contains(CALLERS_SECRET) {
            found.push(format!("the upstream saw the caller's credentials in {name}"));
        }
    }
    for (name, _) in request.trailers.iter().filter(|(name, _)| NEVER_TRAILERS.contains(&name.as_str())) {
        found.push(format!("the upstream saw {name} among the trailers"));
    }
    found
}

fn is_answer_to_one_of(answer: &Message, requests: &[Message]) -> bool {
    requests.iter().any(|request| {
        let [method, target, _] = request.words();
        let usual = usual_answer(method, target);
        answer.body.is_empty() || usual.ends_with(&answer.body) && answer.is_whole
    })
}
