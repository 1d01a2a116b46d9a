//! What the state file says, and its JSON.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::MAX_STATE_BYTES;
use crate::secret::Secret;

/// The version of the format. A change that an older program must not overlook makes it a higher one.
pub(super) const VERSION: u64 = 1;

/// The year 10000, which RFC 3339 cannot write.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_800);

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What the next exchange presents.
    pub refresh_token: Option<Secret>,
    /// When this refresh token was first received, by the wall clock.
    pub obtained_at: Option<SystemTime>,
    /// When an exchange last succeeded, by the wall clock. Whether that alone is worth a write is the writer's decision.
    pub used_at: Option<SystemTime>,
    /// Of the configured refresh token that this one descends from, if it does. When the
    /// configuration gives another one, that is newer than this record.
    pub seed: Option<Fingerprint>,
    /// The authorization code that was presented last, and what became of it.
    pub code: Option<CodeRecord>,
}

/// A code that must not be presented twice (RFC 6749 section 4.1.2). The code itself is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRecord {
    /// Tells it from another code.
    pub fingerprint: Fingerprint,
    /// How far its exchange got.
    pub state: CodeState,
}

impl CodeRecord {
    /// The record of `code`.
    #[must_use]
    pub fn of(code: &Secret, state: CodeState) -> Self {
        Self { fingerprint: Fingerprint::of(code), state }
    }

    /// Returns true if this is the record of `code`.
    #[must_use]
    pub fn matches(&self, code: &Secret) -> bool {
        self.fingerprint.matches(code)
    }
}

/// How far the exchange of a code got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeState {
    /// It was about to be sent. Found after a restart: it may have been, and must not be sent again.
    Exchanging,
    /// Its answer is stored.
    Exchanged,
}

/// The SHA-256 of a secret: enough to know it again. Not shown by `Debug`, as logs must hold no hash of a secret either.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of `secret`.
    #[must_use]
    pub fn of(secret: &Secret) -> Self {
        Self(Sha256::digest(secret.expose()).into())
    }

    /// Returns true if it is that of `secret`.
    #[must_use]
    pub fn matches(&self, secret: &Secret) -> bool {
        *self == Self::of(secret)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(redacted)")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            use fmt::Write;
            write!(hex, "{byte:02x}").map_err(serde::ser::Error::custom)?;
        }
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = Text::deserialize(deserializer)?.0;
        let wrong = || de::Error::custom("expected 64 hexadecimal digits");
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// A time as RFC 3339 has it, for people.
struct Timestamp(SystemTime);

impl Timestamp {
    /// `None` where there is no such text; only a clock that was never set says such a time.
    fn of(time: SystemTime) -> Option<Self> {
        time.duration_since(UNIX_EPOCH).is_ok_and(|since| since < END_OF_TIME).then_some(Self(time))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339(self.0))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?.0;
        humantime::parse_rfc3339(&text).map(Self).map_err(de::Error::custom)
    }
}

/// A string that is borrowed from the file's bytes. A type of its own, as serde borrows a `Cow` only
/// where it is a field by itself: the one of an `Option` would be a copy that nobody zeroes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The fields as they are written.
#[derive(Serialize)]
struct Written<'a> {
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    obtained_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<WrittenCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed_sha256: Option<Fingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// The fields as they are read. One that is not known is refused: the next write would lose it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read<'a> {
    #[serde(rename = "version")]
    _version: u64,
    obtained_at: Option<Timestamp>,
    used_at: Option<Timestamp>,
    code: Option<WrittenCode>,
    seed_sha256: Option<Fingerprint>,
    #[serde(borrow)]
    refresh_token: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCode {
    sha256: Fingerprint,
    state: CodeState,
}

/// All that is read of a file before it is known to be of this version.
#[derive(Deserialize)]
struct Head {
    version: u64,
}

/// A record as the file holds it, in memory that is zeroed after use.
pub(super) struct Json(Zeroizing<Vec<u8>>);

impl Json {
    /// `None` if it is over [`MAX_STATE_BYTES`].
    pub(super) fn of(record: &Record) -> Option<Self> {
        // All the room at once: a buffer that grows would leave copies behind it.
        let mut buffer = Zeroizing::new(vec![0; MAX_STATE_BYTES]);
        let mut rest = buffer.as_mut_slice();
        record.write(&mut rest).ok()?;
        let length = MAX_STATE_BYTES - rest.len();
        buffer.truncate(length);
        Some(Self(buffer))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why bytes are no record. Without serde's message, which may quote them.
#[derive(Debug)]
pub(super) enum Unreadable {
    Damaged { line: usize, column: usize },
    Version(u64),
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged { line: error.line(), column: error.column() }
    }
}

impl Record {
    fn write(&self, into: &mut impl Write) -> io::Result<()> {
        let written = Written {
            version: VERSION,
            obtained_at: self.obtained_at.and_then(Timestamp::of),
            used_at: self.used_at.and_then(Timestamp::of),
            code: self.code.map(|code| WrittenCode { sha256: code.fingerprint, state: code.state }),
            seed_sha256: self.seed,
            refresh_token: self.refresh_token.as_ref().map(Secret::expose),
        };
        serde_json::to_writer_pretty(&mut *into, &written)?;
        into.write_all(b"\n")
    }

    pub(super) fn parse(json: &[u8]) -> Result<Self, Unreadable> {
        let head: Head = serde_json::from_slice(json)?;
        if head.version != VERSION {
            return Err(Unreadable::Version(head.version));
        }
        let read: Read<'_> = serde_json::from_slice(json)?;
        Ok(Self {
            // Owned only if it has escapes, which no provider's has: a quote or a backslash.
            refresh_token: read.refresh_token.map(|token| Secret::new(token.0.into_owned())),
            obtained_at: read.obtained_at.map(|time| time.0),
            used_at: read.used_at.map(|time| time.0),
            seed: read.seed_sha256,
            code: read.code.map(|code| CodeRecord { fingerprint: code.sha256, state: code.state }),
        })
    }
}
