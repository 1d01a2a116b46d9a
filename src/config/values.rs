//! What a key's value may be: one small parser for each kind, with its bounds and its words.

use std::{
    fmt,
    net::SocketAddr,
    ops::{Range, RangeInclusive},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use config::ValueKind;
use http::StatusCode;
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};

use super::{file, suggest};
use crate::{regular_file, secret::SecretSource};

/// A value, or why it cannot be that.
pub(super) type Parsed<T> = Result<T, Mismatch>;

/// A value as it was given.
pub(super) enum Raw<'a> {
    /// By the file: it has a type, which is not converted.
    Typed(&'a ValueKind),
    /// By the environment or as a default: always text.
    Text(&'a str),
}

impl Raw<'_> {
    /// The value as an environment variable would spell it.
    pub(super) fn spelt(&self) -> String {
        match self {
            Self::Text(text) => (*text).to_owned(),
            Self::Typed(ValueKind::Array(values)) => {
                let values: Vec<String> = values.iter().map(|v| Raw::Typed(&v.kind).spelt()).collect();
                values.join(",")
            }
            // By its names: the values may be secrets.
            Self::Typed(ValueKind::Table(table)) => table.keys().map(String::as_str).collect::<Vec<_>>().join(","),
            Self::Typed(kind) => kind.to_string(),
        }
    }

    /// The same, with the values of a table.
    pub(super) fn in_full(&self) -> String {
        match self {
            Self::Typed(ValueKind::Table(table)) => {
                let mut fields: Vec<String> = table.iter().map(|(name, value)| format!("{name:?} {value:?}")).collect();
                fields.sort_unstable();
                fields.join("\n")
            }
            Self::Typed(_) | Self::Text(_) => self.spelt(),
        }
    }
}

/// For messages: text in quotes, so that `20` and `"20"` differ; nothing of a table.
impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Typed(ValueKind::String(text)) => write!(f, "{text:?}"),
            Self::Typed(ValueKind::Float(number)) => write!(f, "{number:?}"),
            Self::Typed(ValueKind::Array(_)) => f.write_str("a list"),
            Self::Typed(ValueKind::Table(_)) => f.write_str("a table"),
            Self::Typed(kind) => kind.fmt(f),
        }
    }
}

/// Why a value cannot be used.
#[derive(Debug)]
pub(super) struct Mismatch {
    problem: Problem,
    /// What to write instead.
    pub(super) hint: Option<String>,
}

#[derive(Debug)]
enum Problem {
    Expected(String),
    Statement(String),
}

impl Mismatch {
    /// The value is shown beside what should have been there.
    pub(super) fn expected(what: impl Into<String>) -> Self {
        Self { problem: Problem::Expected(what.into()), hint: None }
    }

    /// The value is not shown, or the statement does it.
    pub(super) fn statement(text: impl Into<String>) -> Self {
        Self { problem: Problem::Statement(text.into()), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The rest of a sentence that the key begins.
    pub(super) fn problem(&self, found: &str) -> String {
        match &self.problem {
            Problem::Expected(what) => format!("is {found}, expected {what}"),
            Problem::Statement(text) => text.clone(),
        }
    }
}

/// Any text but none. Without control characters, as it may become part of a header.
pub(super) fn text(raw: &Raw<'_>) -> Parsed<String> {
    let text = string(raw, "text")?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Mismatch::expected("text without control characters, and not empty"));
    }
    Ok(text.to_owned())
}

/// `true` or `false`.
pub(super) fn boolean(raw: &Raw<'_>) -> Parsed<bool> {
    match raw {
        Raw::Typed(ValueKind::Boolean(value)) => Ok(*value),
        Raw::Text("true") => Ok(true),
        Raw::Text("false") => Ok(false),
        Raw::Typed(_) | Raw::Text(_) => Err(Mismatch::expected("true or false")),
    }
}

/// A whole number within `bounds`.
pub(super) fn integer(bounds: RangeInclusive<usize>) -> impl Fn(&Raw<'_>) -> Parsed<usize> {
    move |raw| {
        let number = match raw {
            Raw::Typed(ValueKind::I64(number)) => usize::try_from(*number).ok(),
            Raw::Typed(_) => None,
            Raw::Text(text) => text.parse().ok(),
        };
        let expected = || format!("a whole number from {} to {}", bounds.start(), bounds.end());
        number.filter(|n| bounds.contains(n)).ok_or_else(|| Mismatch::expected(expected()))
    }
}

/// A user's id.
pub(super) fn uid(raw: &Raw<'_>) -> Parsed<u32> {
    // The last one means nobody to the kernel.
    integer(0..=4_294_967_294)(raw).and_then(|uid| u32::try_from(uid).map_err(|_| Mismatch::expected("a user's id")))
}

/// A number within `bounds`; never one that is not a number.
pub(super) fn number(bounds: RangeInclusive<f64>) -> impl Fn(&Raw<'_>) -> Parsed<f64> {
    move |raw| {
        let number = match raw {
            Raw::Typed(ValueKind::Float(number)) => Some(*number),
            Raw::Typed(_) => None,
            Raw::Text(text) => text.parse().ok(),
        };
        let expected = || format!("a number from {} to {}", bounds.start(), bounds.end());
        number.filter(|n| bounds.contains(n)).ok_or_else(|| Mismatch::expected(expected()))
    }
}

/// A duration with its unit, such as `"1m 30s"`, from `least` to `most`.
pub(super) fn duration(least: &str, most: &str) -> impl Fn(&Raw<'_>) -> Parsed<Duration> {
    move |raw| {
        let value = with_unit(raw, "a duration", "s", |text| humantime::parse_duration(text).ok())?;
        let bound = |text| humantime::parse_duration(text).expect("bounds are durations");
        if value < bound(least) || value > bound(most) {
            return Err(Mismatch::expected(format!("{least} to {most}")));
        }
        Ok(value)
    }
}

/// A number of bytes with its unit, such as `"32KiB"`, from `least` to `most`.
pub(super) fn size(least: &str, most: &str) -> impl Fn(&Raw<'_>) -> Parsed<usize> {
    move |raw| {
        let value: ByteSize = with_unit(raw, "a size", "B", |text| text.parse().ok())?;
        let bound = |text: &str| text.parse::<ByteSize>().expect("bounds are sizes");
        if value < bound(least) || value > bound(most) {
            return Err(Mismatch::expected(format!("{least} to {most}")));
        }
        usize::try_from(value.as_u64()).map_err(|_| Mismatch::expected(format!("{least} to {most}")))
    }
}

/// A number without its unit would be a guess, so its hint shows how to add one.
fn with_unit<T>(raw: &Raw<'_>, what: &str, unit: &str, parse: impl Fn(&str) -> Option<T>) -> Parsed<T> {
    let spelt = raw.spelt();
    let is_number = spelt.parse::<u64>().is_ok();
    let mismatch = Mismatch::expected(format!("{what} with its unit"));
    if is_number {
        return Err(mismatch.hint(format!("write \"{spelt}{unit}\"")));
    }
    match raw {
        Raw::Text(text) => parse(text).ok_or(mismatch),
        Raw::Typed(ValueKind::String(text)) => parse(text).ok_or(mismatch),
        Raw::Typed(_) => Err(mismatch),
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Raw<'_>) -> Parsed<T> {
    move |raw| {
        let text = string(raw, &any_of(words))?;
        choose(text, words)
    }
}

pub(super) fn choose<T: Copy>(text: &str, words: &[(&str, T)]) -> Parsed<T> {
    let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    chosen.ok_or_else(|| Mismatch {
        hint: suggest::word(text, words.iter().map(|(word, _)| *word)),
        ..Mismatch::expected(any_of(words))
    })
}

fn any_of<T>(words: &[(&str, T)]) -> String {
    let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Any number of entries: a TOML array, or text with commas.
pub(super) fn list<T>(entry: impl Fn(&Raw<'_>) -> Parsed<T>) -> impl Fn(&Raw<'_>) -> Parsed<Vec<T>> {
    let parse = move |raw: &Raw<'_>| {
        entry(raw).map_err(|mismatch| match &mismatch.problem {
            Problem::Expected(what) => {
                Mismatch { problem: Problem::Statement(format!("has the entry {raw}, expected {what}")), ..mismatch }
            }
            Problem::Statement(_) => mismatch,
        })
    };
    move |raw| match raw {
        Raw::Typed(ValueKind::Array(values)) => values.iter().map(|value| parse(&Raw::Typed(&value.kind))).collect(),
        Raw::Typed(_) => Err(Mismatch::expected("a list")),
        Raw::Text("") => Ok(Vec::new()),
        Raw::Text(text) => text.split(',').map(|entry| parse(&Raw::Text(entry.trim()))).collect(),
    }
}

/// Two numbers within `bounds`, the lower first. They may be equal.
pub(super) fn span(bounds: RangeInclusive<f64>) -> impl Fn(&Raw<'_>) -> Parsed<Range<f64>> {
    let numbers = list(number(bounds));
    move |raw| match numbers(raw)?[..] {
        [low, high] if low <= high => Ok(low..high),
        _ => Err(Mismatch::statement("does not have two numbers, the lower first")
            .hint("for one fixed value, write it twice")),
    }
}

/// An IP address and a port.
pub(super) fn socket_address(raw: &Raw<'_>) -> Parsed<SocketAddr> {
    let expected = "an IP address and a port";
    let text = string(raw, expected)?;
    text.parse().map_err(|_| {
        let mismatch = Mismatch::expected(expected);
        match text.split_once(':') {
            Some(("localhost", port)) => mismatch.hint(format!("write \"127.0.0.1:{port}\"")),
            Some(("", port)) => mismatch.hint(format!("write \"0.0.0.0:{port}\" for every address")),
            _ => mismatch.hint("write it as \"127.0.0.1:8080\" or \"[::1]:8080\""),
        }
    })
}

/// A file with a secret, which is read once here to know that it can be.
pub(super) fn secret_file(raw: &Raw<'_>) -> Parsed<SecretSource> {
    let source = SecretSource::File(path(raw)?);
    match source.read() {
        Ok(_) => Ok(source),
        Err(e) => {
            let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}"));
            Err(Mismatch::statement(format!("gives no secret: {e}{}", cause.unwrap_or_default())))
        }
    }
}

/// A PEM file, and its certificates, at least one. Nothing of the file is shown: it may be the wrong one,
/// with a key in it.
pub(super) fn certificates(raw: &Raw<'_>) -> Parsed<(PathBuf, Vec<CertificateDer<'static>>)> {
    let path = path(raw)?;
    let read = file::read(&path).map_err(pem::Error::Io);
    let read = read.and_then(|pem| CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>());
    let are_anchors = |certificates: &[CertificateDer<'static>]| {
        let mut store = RootCertStore::empty();
        !certificates.is_empty() && certificates.iter().all(|c| store.add(c.clone()).is_ok())
    };
    match read {
        Ok(certificates) if are_anchors(&certificates) => Ok((path, certificates)),
        Err(pem::Error::Io(e)) => Err(Mismatch::statement(format!("names {path:?}, which cannot be read: {e}"))),
        Ok(_) | Err(_) => Err(Mismatch::expected("a PEM file of valid certificates, one at least")),
    }
}

/// A status by which the API may say that a token is not good.
pub(super) fn rejection_status(raw: &Raw<'_>) -> Parsed<StatusCode> {
    let expected = || Mismatch::expected("400, 401 or 403");
    let number = integer(400..=403)(raw).map_err(|_| expected())?;
    let status = u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok());
    status.filter(|status| *status != StatusCode::PAYMENT_REQUIRED).ok_or_else(expected)
}

pub(super) fn path(raw: &Raw<'_>) -> Parsed<PathBuf> {
    match string(raw, "a file's path")? {
        "" => Err(Mismatch::expected("a file's path")),
        path => Ok(PathBuf::from(path)),
    }
}

/// A file that is replaced as a whole.
pub(super) fn replaceable_file(raw: &Raw<'_>) -> Parsed<PathBuf> {
    let path = path(raw)?;
    if regular_file::is_mounted(&path) {
        let problem = format!("is {raw}, which is mounted as a single file and cannot be replaced");
        let hint =
            "mount its directory instead, without `subPath` in Kubernetes and with a directory after Docker's `-v`";
        return Err(Mismatch::statement(problem).hint(hint));
    }
    Ok(path)
}

/// The text of a value that is written as text.
pub(super) fn string<'a>(raw: &Raw<'a>, expected: &str) -> Parsed<&'a str> {
    match raw {
        Raw::Text(text) => Ok(text),
        Raw::Typed(ValueKind::String(text)) => Ok(text),
        Raw::Typed(_) => Err(Mismatch::expected(expected)),
    }
}
