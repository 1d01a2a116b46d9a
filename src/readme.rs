//! The README's section "What the log says", for the tests beside the errors whose words it explains.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Values of every variant of an error: a new one does not compile without its own.
macro_rules! each {
    ($error:ty { $($variant:pat => [$($value:expr),+ $(,)?]),+ $(,)? }) => {{
        let _complete = |error: &$error| match error { $($variant => ()),+ };
        let mut values: Vec<$error> = Vec::new();
        $($(
            let value: $error = $value;
            assert!(matches!(&value, $variant), "{value:?} is another variant");
            values.push(value);
        )+)+
        values
    }};
}
pub(crate) use each;

/// A number that stands for any; it is an `N` in the README. No text has it of its own.
pub(crate) const ANY: u16 = 7_777;

/// An error's text, as the README has it.
pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string().replace(&ANY.to_string(), "N")
}

/// A row of one of the section's tables.
#[derive(Debug)]
pub(crate) struct Row {
    /// The words of the log that its first cell has.
    texts: Vec<&'static str>,
    /// The cells after that.
    pub(crate) cells: Vec<&'static str>,
}

impl Row {
    /// What to do, which is the last cell.
    pub(crate) fn action(&self) -> &'static str {
        self.cells.last().expect("several cells")
    }

    /// Checks that the cell names these words, separated by commas, and no others.
    #[track_caller]
    pub(crate) fn assert_words(&self, cell: usize, words: &BTreeSet<&str>) {
        let told: BTreeSet<&str> = self.cells[cell].split(", ").map(|word| word.trim_matches('`')).collect();
        assert_eq!(&told, words, "{self:?}");
    }

    /// Checks that what to do names each of these keys.
    #[track_caller]
    pub(crate) fn assert_keys(&self, keys: Option<&str>) {
        for key in keys.into_iter().flat_map(|keys| keys.split(", ")) {
            assert!(self.action().contains(&format!("`{key}`")), "`{key}` is not in {self:?}");
        }
    }
}

/// The table below a heading of the section.
#[derive(Debug)]
pub(crate) struct Table {
    heading: &'static str,
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn below(heading: &'static str) -> Self {
        let part = section().split_once(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no `{heading}`")).1;
        let part = part.split("\n### ").next().expect("it begins");
        let rows = part.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")).skip(2);
        let row = |line: &'static str| {
            let mut cells = line.split(" | ");
            Row { texts: code(cells.next().expect("a first one")), cells: cells.collect() }
        };
        Self { heading, rows: rows.map(row).collect() }
    }

    /// Checks that the first cells have these texts, each once, and no others.
    #[track_caller]
    pub(crate) fn assert_texts<'a>(&self, texts: impl IntoIterator<Item = &'a str>) {
        let known: BTreeSet<&str> = texts.into_iter().collect();
        let mut told = BTreeSet::new();
        for text in self.rows.iter().flat_map(|row| &row.texts) {
            assert!(told.insert(*text), "README.md has two rows for `{text}`");
        }
        let difference = |some: &BTreeSet<_>, others: &_| some.difference(others).copied().collect::<Vec<_>>();
        let (missing, left_over) = (difference(&known, &told), difference(&told, &known));
        assert!(missing.is_empty(), "README.md needs rows below `{}` for {missing:#?}", self.heading);
        assert!(
            left_over.is_empty(),
            "README.md has rows below `{}` for what is not said: {left_over:#?}",
            self.heading
        );
    }

    /// The row of a text that it was found to have.
    #[track_caller]
    pub(crate) fn row(&self, text: &str) -> &Row {
        self.rows.iter().find(|row| row.texts.contains(&text)).unwrap_or_else(|| panic!("no row for `{text}`"))
    }
}

fn section() -> &'static str {
    let section = include_str!("../README.md").split_once("\n## What the log says\n").expect("such a section").1;
    section.split("\n## ").next().expect("it begins")
}

/// What is marked as code (CommonMark section 6.1): between as many backticks as it begins with.
fn code(mut cell: &str) -> Vec<&str> {
    let mut found = Vec::new();
    while let Some(start) = cell.find('`') {
        let rest = cell[start..].trim_start_matches('`');
        let fence = &cell[start..cell.len() - rest.len()];
        let (inner, after) = rest.split_once(fence).unwrap_or_else(|| panic!("code without end: {cell}"));
        // A space of each side lets it begin or end with a backtick.
        found.push(inner.strip_prefix(' ').and_then(|inner| inner.strip_suffix(' ')).unwrap_or(inner));
        cell = after;
    }
    found
}

/// An error of hyper's, which nobody else can make: the other side closes the connection.
pub(crate) fn broken() -> hyper::Error {
    let (ours, theirs) = tokio::io::duplex(64);
    drop(theirs);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let io = hyper_util::rt::TokioIo::new(ours);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("nothing is sent yet");
        let request = http::Request::new(http_body_util::Empty::<bytes::Bytes>::new());
        let (answer, _) = tokio::join!(sender.send_request(request), connection);
        answer.expect_err("nobody answers")
    })
}

/// The sources, without their tests, which come last.
fn sources(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests.rs")
            && !path.ends_with("readme.rs")
        {
            let text = fs::read_to_string(&path).expect("a readable source");
            found.push(text.split("\n#[cfg(test)]\nmod tests {").next().expect("it begins").to_owned());
        }
    }
    found
}

/// The messages of the log's lines that a macro writes: the last text of each.
fn messages<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let calls = source.match_indices(name).filter(|(start, _)| {
        // No part of a longer name.
        !source[..*start].ends_with(|c: char| c.is_alphanumeric() || c == '_')
    });
    calls.map(|(start, _)| last_text(&source[start + name.len()..])).collect()
}

/// The last text before the bracket that closes.
fn last_text(call: &str) -> &str {
    let (mut depth, mut begun, mut last) = (0, None, None);
    let mut is_escaped = false;
    for (at, c) in call.char_indices() {
        match (begun, c) {
            (Some(_), _) if std::mem::take(&mut is_escaped) => {}
            (Some(_), '\\') => is_escaped = true,
            (Some(start), '"') => {
                last = Some(&call[start..at]);
                begun = None;
            }
            (Some(_), _) => {}
            (None, '"') => begun = Some(at + 1),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            (None, _) => {}
        }
    }
    last.unwrap_or_else(|| panic!("a line without a message: {}", &call[..call.len().min(100)]))
}

#[test]
fn each_line_that_warns_has_its_row_and_each_row_its_line() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = sources(&root);
    let mut levels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in &sources {
        for (name, level) in [("warn!", "warn"), ("error!", "error")] {
            for message in messages(source, name) {
                levels.entry(message).or_default().insert(level);
            }
        }
        // Whose level is one of those that its file names.
        for message in messages(source, "event!") {
            let named = [("Level::WARN", "warn"), ("Level::ERROR", "error")];
            let named = named.iter().filter(|(name, _)| source.contains(name)).map(|(_, level)| *level);
            levels.entry(message).or_default().extend(named);
        }
    }
    let table = Table::below("All lines");
    table.assert_texts(levels.keys().copied());
    for (message, levels) in &levels {
        table.row(message).assert_words(0, levels);
    }
}

#[test]
fn each_key_that_the_section_names_is_in_the_table_of_keys_and_each_link_has_its_heading() {
    let readme = include_str!("../README.md");
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let tables = ["listen", "upstream", "token", "admin", "shutdown", "log", "reload", "process"];
    let mut keys = BTreeSet::new();
    for word in section().split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.') {
        let word = word.trim_end_matches('.');
        if let Some((table, key)) = word.split_once('.')
            && tables.contains(&table)
            && is_name(key)
        {
            keys.insert(word);
        }
    }
    // A field of the line.
    assert!(keys.remove("token.valid") && keys.len() > 20, "{keys:?}");
    for key in keys {
        assert!(readme.contains(&format!("\n| `{key}` | ")), "`{key}` is no key");
    }
    let anchor = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    let anchors: BTreeSet<String> = readme.lines().filter(|line| line.starts_with("##")).map(anchor).collect();
    for link in readme.split("](#").skip(1) {
        let link = link.split(')').next().expect("it begins");
        assert!(anchors.contains(link), "no heading for #{link}");
    }
}

#[test]
fn the_message_is_the_last_text_of_a_line() {
    let source = r#"tracing::warn!(a = f(")"), b = "x", "one \"of\" (many"); compile_error!("no"); log::warn!("two")"#;
    assert_eq!(messages(source, "warn!"), [r#"one \"of\" (many"#, "two"]);
    assert!(messages(source, "error!").is_empty());
}

#[test]
fn code_is_told_by_its_backticks() {
    assert_eq!(code("`a b`, or `` c `d` `` else"), ["a b", "c `d`"]);
}
