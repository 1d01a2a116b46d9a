//! The search through a process's memory.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

/// How much of a secret is looked for: its end, as the allocator writes over the start of what it is given back.
const NEEDLE_BYTES: usize = 16;
/// How far before a secret the rest of its message is looked for.
const CONTEXT_BYTES: usize = 4 * 1024;

/// The copies of one secret, each with the text around it, printable.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Within an HTTP message, or what is left of one. The library's own JSON looks like that, too.
    pub(crate) on_the_wire: Vec<String>,
    /// Anywhere else.
    pub(crate) ours: Vec<String>,
}

/// Looks for the end of `secret` in all that the process can read and may have written.
#[track_caller]
pub(crate) fn find(process: u32, secret: &str) -> Found {
    let needle = &secret.as_bytes()[secret.len() - NEEDLE_BYTES..];
    let memory = File::open(format!("/proc/{process}/mem")).expect("a process may read the memory of its child");
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("it runs");
    let mut found = Found::default();
    let mut searched = 0;
    for region in maps.lines().filter_map(readable) {
        let bytes = read(&memory, region);
        searched += bytes.len();
        for at in ends(&bytes, needle) {
            let before = text_before(&bytes[..at]);
            let shown = String::from_utf8_lossy(&before[before.len().saturating_sub(120)..]).escape_debug().to_string();
            if is_of_message(before, &bytes[at..]) { found.on_the_wire.push(shown) } else { found.ours.push(shown) }
        }
    }
    assert!(searched > 1024 * 1024, "only {searched} bytes could be read");
    found
}

/// The span of a line of `/proc/PID/maps`, unless it cannot be read, or is of a file and cannot be written.
fn readable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    let is_of_kernel = line.ends_with("[vvar]") || line.ends_with("[vvar_vclock]") || line.ends_with("[vsyscall]");
    let is_of_file = fields.nth(3).is_some_and(|path| path.starts_with('/')) && !rights.contains('w');
    let address = |text| u64::from_str_radix(text, 16).ok();
    (rights.starts_with('r') && !is_of_kernel && !is_of_file).then_some((address(start)?, address(end)?))
}

/// What can be read of a region: it may have been given back since.
fn read(memory: &File, (start, end): (u64, u64)) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(end - start).expect("a 64-bit system")];
    let mut filled = 0;
    while filled < bytes.len() {
        match memory.read_at(&mut bytes[filled..], start + filled as u64) {
            Ok(count) if count > 0 => filled += count,
            Ok(_) | Err(_) => break,
        }
    }
    bytes.truncate(filled);
    bytes
}

/// Whether a field of HTTP or JSON ends after it, or a line of HTTP before it, in the same piece of text.
fn is_of_message(before: &[u8], after: &[u8]) -> bool {
    after.starts_with(b"\"") || after.starts_with(b"\r\n") || before.windows(2).any(|two| two == b"\r\n")
}

/// Where each occurrence ends.
fn ends(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(needle.len()).position(|window| window == needle) {
        from += at + needle.len();
        ends.push(from);
    }
    ends
}

/// The end of it, as far as there is no zero byte.
fn text_before(bytes: &[u8]) -> &[u8] {
    let near = &bytes[bytes.len().saturating_sub(CONTEXT_BYTES)..];
    let start = near.iter().rposition(|byte| *byte == 0).map_or(0, |at| at + 1);
    &near[start..]
}
