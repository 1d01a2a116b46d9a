//! `/`: how it stands, for people. A page without anything from elsewhere, readable on a phone.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_SECURITY_POLICY};
use http_body_util::Full;
use sha2::{Digest, Sha256};

use super::{
    answer,
    status::{Exchange, Minute, Report},
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// How wide and high the pictures are, in their own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 60.0;

/// The page.
pub(super) fn of(report: &Report) -> Response<Full<bytes::Bytes>> {
    let mut page = answer(StatusCode::OK, "text/html; charset=utf-8", html(report));
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    let headers = page.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).expect("ASCII without line ends"));
    for (name, value) in [("referrer-policy", "no-referrer"), ("x-content-type-options", "nosniff")] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    page
}

fn html(report: &Report) -> String {
    let Report { state, meaning, version, uptime_s, token, .. } = report;
    let mut facts = Facts::default();
    facts.add("generation", &token.generation.to_string());
    facts.add("next attempt", &token.next_attempt_in_s.map_or("under way".to_owned(), |s| format!("in {}", span(s))));
    if token.consecutive_failures > 0 {
        facts.add("failed attempts", &token.consecutive_failures.to_string());
    }
    if token.rejections_passed_on {
        facts.add("rejections", "the API rejects fresh tokens too; its answers are passed on");
    }
    if !token.refresh_token_persisted {
        facts.add("refresh token", "in memory only: the state file cannot be written");
    }
    for (name, claim) in token.claims.iter().filter_map(serde_json::Value::as_object).flatten() {
        facts.add(name, claim.as_str().unwrap_or_default());
    }
    for certificate in &report.certificates {
        facts.add(&format!("certificate {}", certificate.cert), &format!("until {}", certificate.expires));
    }
    let error = report.last_error.as_ref().map_or(String::new(), |last| {
        let look_at =
            last.look_at.map_or(String::new(), |keys| format!("<p>Look at <code>{}</code>.</p>", escaped(keys)));
        let error = escaped(&last.error);
        format!("<h2>Last error, {} ago</h2><p class=\"error\">{error}</p>{look_at}", span(last.ago_s))
    });
    // What is not over comes first.
    let (trouble, past) = if token.consecutive_failures > 0 { (error, String::new()) } else { (String::new(), error) };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{state} - token-valet</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript><style>{STYLE}</style></head><body>\
         <header class=\"{state}\" aria-live=\"polite\"><h1>{state}</h1><p>{meaning}</p></header><main>{trouble}\
         <h2>Access token</h2><p>{expiry}</p><dl>{facts}</dl>\
         <h2>Refreshes</h2>{refreshes}{past}\
         <h2>Requests of the last minutes</h2>{traffic}\
         <footer>token-valet {version}, up {uptime}{configuration}</footer></main><script>{SCRIPT}</script></body></html>\n",
        expiry = expiry(report),
        facts = facts.0,
        refreshes = refreshes(&report.attempts),
        traffic = traffic(&report.traffic),
        uptime = span(*uptime_s),
        configuration = report.configuration.as_ref().map_or(String::new(), |hash| format!(", configuration {hash}")),
    )
}

fn expiry(report: &Report) -> String {
    let left = report.token.expires_in_s;
    if report.token.valid {
        format!("expires in <strong id=\"left\" data-seconds=\"{left}\">{}</strong>", span(left))
    } else {
        "<strong>none that is valid</strong>".to_owned()
    }
}

/// Rows of names and values.
#[derive(Default)]
struct Facts(String);

impl Facts {
    fn add(&mut self, name: &str, value: &str) {
        let _ = write!(self.0, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value));
    }
}

/// Each token's life as a bar, each failure as a mark, up to now at the right end.
fn refreshes(attempts: &[Exchange]) -> String {
    let Some(oldest) = attempts.iter().map(|attempt| attempt.ago_s).max() else {
        return "<p>none yet</p>".to_owned();
    };
    let scale = WIDTH / figure(oldest.max(60));
    let x = |ago: u64| WIDTH - figure(ago) * scale;
    let mut marks = String::new();
    for (number, attempt) in attempts.iter().enumerate() {
        let at = x(attempt.ago_s);
        let said =
            format!("{}, {} ago: {} in {} ms", attempt.cause, span(attempt.ago_s), attempt.result, attempt.took_ms);
        let _ = match attempt.life_s {
            Some(life) => {
                let end = x(attempt.ago_s.saturating_sub(life));
                // Lives overlap, so that they take turns.
                let y = if number % 2 == 0 { 8 } else { 26 };
                let width = (end - at).max(2.0);
                write!(
                    marks,
                    "<rect class=\"life\" x=\"{at:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"12\">\
                               <title>{said}</title></rect>"
                )
            }
            None => write!(
                marks,
                "<circle class=\"failure\" cx=\"{at:.1}\" cy=\"50\" r=\"4\"><title>{said}</title></circle>"
            ),
        };
    }
    let failures = attempts.iter().filter(|attempt| attempt.life_s.is_none()).count();
    let tokens = counted((attempts.len() - failures) as u64, "token");
    let label = format!("{tokens} and {} in {}", counted(failures as u64, "failure"), span(oldest));
    picture(&label, &marks)
}

/// A column for each minute, its errors on top.
fn traffic(minutes: &[Minute]) -> String {
    let most = minutes.iter().map(|minute| minute.requests).max().unwrap_or_default().max(1);
    let step = WIDTH / 11.0;
    let mut columns = String::new();
    for (number, minute) in minutes.iter().enumerate() {
        let height = |count: u64| HEIGHT * figure(count) / figure(most);
        let x = step * figure((11 - minutes.len() + number) as u64);
        let (all, errors) = (height(minute.requests), height(minute.errors));
        for (class, top, height) in [("requests", HEIGHT - all, all - errors), ("errors", HEIGHT - errors, errors)] {
            let width = step - 4.0;
            let _ = write!(
                columns,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
            );
        }
    }
    let (requests, errors) =
        minutes.iter().fold((0, 0), |(all, errors), minute| (all + minute.requests, errors + minute.errors));
    picture(&format!("{}, {}", counted(requests, "request"), counted(errors, "error")), &columns)
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn picture(label: &str, content: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">{content}</svg><p>{label}</p>")
}

#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn figure(count: u64) -> f64 {
    count as f64
}

/// As people write it: the two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Fit to stand between tags and in attributes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::{escaped, span};

    #[test]
    fn what_others_wrote_cannot_become_markup() {
        assert_eq!(escaped("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, text) in [(5, "5 s"), (125, "2 min 5 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(span(seconds), text);
        }
    }
}
