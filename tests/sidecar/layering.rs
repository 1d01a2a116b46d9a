//! The order of the modules: who may use whom, and how large a file may grow.
//!
//! A single crate has no compiler barrier between its modules, so this reads the paths that begin
//! with `crate::` (or climb there by `super::`) and holds them to a table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A module, and what it may use.
struct Layer {
    level: u8,
    module: &'static str,
    may_use: &'static [Use],
    reason: &'static str,
}

/// What may be used of a module.
enum Use {
    All(&'static str),
    /// These items alone.
    Only(&'static str, &'static [&'static str]),
}

use Use::{All, Only};

impl Use {
    fn module(&self) -> &'static str {
        match self {
            All(module) | Only(module, _) => module,
        }
    }
}

/// Downward only: nobody uses a module of the same or a higher level. A module's own children are its own affair.
const LAYERS: &[Layer] = &[
    Layer { level: 0, module: "certificate", may_use: &[], reason: "what a certificate says of itself" },
    Layer { level: 0, module: "clock", may_use: &[], reason: "time knows nothing of us" },
    Layer { level: 0, module: "executor", may_use: &[], reason: "where tasks run" },
    Layer { level: 0, module: "patience", may_use: &[], reason: "a bound on standing still, whatever it is that does" },
    Layer { level: 0, module: "received", may_use: &[], reason: "the body of a message, from either side" },
    Layer { level: 0, module: "process", may_use: &[], reason: "what is asked of the kernel" },
    Layer { level: 0, module: "regular_file", may_use: &[], reason: "how any file is read" },
    Layer { level: 0, module: "report", may_use: &[], reason: "shows any error" },
    Layer { level: 1, module: "secret", may_use: &[All("regular_file")], reason: "a secret guards itself" },
    Layer { level: 0, module: "shutdown", may_use: &[], reason: "signals and the drain, which all may watch" },
    Layer { level: 0, module: "socket", may_use: &[], reason: "how any socket is read and written" },
    Layer {
        level: 1,
        module: "metrics",
        may_use: &[All("process")],
        reason: "what is counted is told by those who count, and by the kernel",
    },
    Layer {
        level: 2,
        module: "config",
        may_use: &[All("certificate"), All("clock"), All("process"), All("regular_file"), All("secret")],
        reason: "values, and where secrets are",
    },
    Layer {
        level: 3,
        module: "telemetry",
        may_use: &[All("config"), All("secret")],
        reason: "is set up from the configuration",
    },
    Layer {
        level: 3,
        module: "confinement",
        may_use: &[All("config"), All("secret")],
        reason: "what the process needs is configured",
    },
    Layer {
        level: 3,
        module: "tls",
        may_use: &[All("clock"), All("config"), All("metrics"), All("secret")],
        reason: "whom we believe and who we are is configured",
    },
    Layer {
        level: 4,
        module: "http_client",
        may_use: &[
            All("config"),
            All("tls"),
            All("clock"),
            All("socket"),
            All("metrics"),
            All("patience"),
            All("executor"),
            All("received"),
        ],
        reason: "connections to an origin, whatever is sent on them",
    },
    Layer {
        level: 5,
        module: "token",
        may_use: &[
            All("config"),
            All("secret"),
            All("clock"),
            All("http_client"),
            All("metrics"),
            All("shutdown"),
            Only("tls", &["Suspect"]),
        ],
        reason: "the way of a token; it never calls the proxy",
    },
    Layer {
        level: 5,
        module: "listener",
        may_use: &[
            All("config"),
            All("executor"),
            All("socket"),
            All("metrics"),
            All("patience"),
            All("received"),
            All("shutdown"),
        ],
        reason: "accepts, and knows nothing of what is served",
    },
    Layer {
        level: 5,
        module: "reload",
        may_use: &[All("config"), All("regular_file"), All("secret"), All("tls"), All("telemetry"), All("metrics")],
        reason: "changes what may change while running",
    },
    Layer {
        level: 6,
        module: "proxy",
        may_use: &[
            All("config"),
            All("clock"),
            Only("token", &["Bearer", "FollowUp", "Renewal", "Replay", "TokenCell", "Unavailable"]),
            Only("listener", &["Answered", "Peer", "Reply", "RequestBody"]),
            All("patience"),
            All("received"),
            All("http_client"),
            All("metrics"),
            All("shutdown"),
            Only("tls", &["Suspect"]),
        ],
        reason: "the way of a request: of the token side it reads the cell and waits for a renewal, no more",
    },
    Layer {
        level: 6,
        module: "admin",
        may_use: &[
            All("config"),
            All("clock"),
            All("listener"),
            All("telemetry"),
            Only("token", &["Attempt", "Class", "Renewal", "State", "Status", "TokenCell"]),
            All("reload"),
            All("metrics"),
            All("shutdown"),
        ],
        reason: "reads what the others write",
    },
    Layer {
        level: 6,
        module: "sandbox",
        may_use: &[All("config"), All("listener"), All("shutdown")],
        reason: "never token: a wrong field name would agree with itself",
    },
    Layer {
        level: 6,
        module: "errand",
        may_use: &[All("process"), All("shutdown"), Only("token", &["Status"])],
        reason: "waits for a token, and needs to know nothing of it",
    },
    Layer {
        level: 7,
        module: "app",
        may_use: &[
            All("admin"),
            All("certificate"),
            All("clock"),
            All("config"),
            All("confinement"),
            All("errand"),
            All("http_client"),
            All("listener"),
            All("metrics"),
            All("process"),
            All("proxy"),
            All("reload"),
            All("sandbox"),
            All("secret"),
            All("shutdown"),
            All("telemetry"),
            All("tls"),
            All("token"),
        ],
        reason: "puts the parts together",
    },
    Layer {
        level: 8,
        module: "cli",
        may_use: &[
            All("app"),
            All("config"),
            All("errand"),
            All("sandbox"),
            All("telemetry"),
            All("listener"),
            All("process"),
            All("reload"),
            All("secret"),
            All("shutdown"),
        ],
        reason: "says and prints what the terminal sees",
    },
    Layer {
        level: 8,
        module: "parts",
        may_use: &[
            All("clock"),
            Only("proxy", &["ProxyError", "headers", "target", "verdict"]),
            Only("token", &["TokenCell", "client", "wire"]),
        ],
        reason: "shows fuzz targets and benchmarks what reads the network; nobody else sees it",
    },
    Layer { level: 9, module: "main", may_use: &[All("cli")], reason: "hands over to the command line" },
];

/// Where everyone may turn.
const FOR_ALL: &str = "report";

/// The most lines that a file may have, its tests apart.
const MOST_LINES: usize = 400;

fn layer(module: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| layer.module == module)
}

/// A file of `src`: its place among the modules, and its text without comments and tests.
struct Source {
    /// From the top-level module down.
    path: Vec<String>,
    text: String,
}

impl Source {
    fn module(&self) -> &str {
        &self.path[0]
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Every file but those of tests.
fn sources() -> Vec<Source> {
    let all = files(&root()).into_iter().filter(|path| !path.ends_with("tests.rs"));
    let sources: Vec<Source> = all
        .map(|path| {
            let text = without_tests(&fs::read_to_string(&path).expect("a readable source"));
            let relative = path.strip_prefix(root()).expect("it is in there").with_extension("");
            let path = relative.iter().map(|part| part.to_str().expect("UTF-8").to_owned()).collect();
            Source { path, text }
        })
        .collect();
    assert!(sources.len() > 40, "the sources were not found");
    sources
}

/// Cuts out the inline modules that only tests have; rustfmt puts their end in the first column.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let begins_tests =
            line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{'));
        if begins_tests {
            lines.by_ref().find(|line| *line == "}");
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn without_comments(text: &str) -> String {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.fold(String::new(), |text, line| text + line + "\n")
}

/// The paths in `text` that lead to the crate's root, from there on: `crate::{a::B, c::{D, e}}` has three.
fn crate_paths(text: &str, depth: usize) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for (start, _) in text.match_indices(|c: char| c.is_alphabetic()) {
        let before = text[..start].chars().next_back();
        let begins = before.is_none_or(|c| !is_name(c) && c != ':' && c != '"' && c != '\'');
        let rest = &text[start..];
        if begins && ["crate::", "super::", "token_valet::"].iter().any(|root| rest.starts_with(root)) {
            let mut paths = Vec::new();
            tree(rest, &[], &mut paths);
            found.extend(paths.into_iter().filter_map(|path| from_root(&path, depth)));
        }
    }
    found
}

/// Reads one path, which may branch; returns what follows it.
fn tree<'a>(text: &'a str, prefix: &[String], paths: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            rest = tree(rest, prefix, paths).trim_start();
            // `as Name`, then a comma: of no interest.
            let end = rest.find([',', '}']).expect("a group ends");
            rest = rest[end..].strip_prefix(',').unwrap_or(&rest[end..]);
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(text.len());
    let path = [prefix, &[text[..end].to_owned()]].concat();
    match text[end..].strip_prefix("::") {
        // `::<`: the path is over.
        Some(rest) if !rest.starts_with('<') => tree(rest, &path, paths),
        _ => {
            paths.push(path);
            &text[end..]
        }
    }
}

/// The path from the crate's root on, unless it stays below.
fn from_root(path: &[String], depth: usize) -> Option<Vec<String>> {
    let climbed = path.iter().take_while(|part| *part == "super").count();
    let rest = match path.first()?.as_str() {
        "crate" | "token_valet" => &path[1..],
        _ if climbed >= depth => &path[climbed..],
        _ => return None,
    };
    (!rest.is_empty()).then(|| rest.to_vec())
}

/// What is wrong with a use, if anything.
fn fault(user: &str, used: &[String]) -> Option<String> {
    let module = used[0].as_str();
    if module == user || module == FOR_ALL {
        return None;
    }
    let Some(layer) = layer(user) else {
        return Some(format!("`{user}` is not in the table"));
    };
    let refusal = || format!("`{user}` uses `{}`: {}", used.join("::"), layer.reason);
    match layer.may_use.iter().find(|r#use| r#use.module() == module) {
        Some(All(_)) => None,
        // The module by its name would open all of it.
        Some(Only(_, items)) => match used.get(1) {
            Some(item) if items.contains(&item.as_str()) => None,
            Some(_) | None => Some(refusal()),
        },
        None => Some(refusal()),
    }
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut faults = Vec::new();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| source.module() != "lib") {
        for used in crate_paths(&without_comments(&source.text), source.path.len()) {
            faults.extend(fault(source.module(), &used).map(|fault| format!("{}: {fault}", source.path.join("/"))));
            uses.entry(source.module().to_owned()).or_default().insert(used[0].clone());
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Else nothing was read.
    for (user, used) in [("main", "cli"), ("cli", "app"), ("app", "proxy"), ("proxy", "token"), ("token", "config")] {
        assert!(uses[user].contains(used), "`{user}` uses `{used}`: {uses:?}");
    }
}

#[test]
fn table_has_every_module_and_leads_downward() {
    let text = fs::read_to_string(root().join("lib.rs")).expect("a readable source");
    let modules: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() > 10, "{modules:?}");
    for module in modules {
        assert!(layer(module).is_some(), "`{module}` needs a line in the table");
    }
    for user in LAYERS {
        for used in user.may_use {
            let used = layer(used.module()).expect("a module of the table");
            assert!(used.level < user.level, "`{}` must not use `{}`", user.module, used.module);
        }
    }
}

#[test]
fn reader_of_paths_finds_each_of_them() {
    let text = "pub(crate) use crate::{\n    clock::Clock,\n    token::{self, Bearer as B, client::{Class, Exchange}},\n};\n\
                fn f() { crate::report::Report(&e); super::super::tls::make::<crate::secret::Secret>(); }\n\
                use super::sibling;\nuse hyper::body;\nuse mycrate::nothing;\n";
    let paths: Vec<String> = crate_paths(text, 2).iter().map(|path| path.join("::")).collect();
    let expected = [
        "clock::Clock",
        "report::Report",
        "secret::Secret",
        "tls::make",
        "token::Bearer",
        "token::client::Class",
        "token::client::Exchange",
        "token::self",
    ];
    assert_eq!(paths, expected);

    let used = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(fault("proxy", &used("token::Renewal")), None);
    for (user, path) in [
        ("proxy", "token::Refresher"),
        ("proxy", "token"),
        ("proxy", "admin::Admin"),
        ("sandbox", "token::Bearer"),
        ("clock", "config::Config"),
        ("unheard_of", "config::Config"),
    ] {
        assert!(fault(user, &used(path)).is_some(), "{user} uses {path}");
    }
}

#[test]
fn tests_are_cut_out_and_the_rest_is_kept() {
    let text = "#[cfg(test)]\nmod tests;\na\n#[cfg(test)]\nmod tests {\n    use crate::x;\n}\nb\n    #[cfg(test)]\nc\n";
    assert_eq!(without_tests(text), "#[cfg(test)]\nmod tests;\na\nb\n    #[cfg(test)]\nc\n");
}

#[test]
fn no_module_is_a_mod_rs_and_no_file_is_over_400_lines() {
    for source in sources() {
        let name = source.path.join("/");
        assert_ne!(source.path.last().map(String::as_str), Some("mod"), "{name}: use `foo.rs` beside `foo/`");
        let lines = source.text.lines().count();
        assert!(lines <= MOST_LINES, "{name}.rs has {lines} lines without its tests");
    }
}
