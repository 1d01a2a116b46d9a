//! The threat model of the README: each of its rows names tests that hold it, and they exist.

use std::{collections::BTreeSet, fs, path::Path};

/// The rows' last cells, below the heads.
fn claims(readme: &str) -> Vec<&str> {
    let section = readme.split_once("\n### Threat model\n").expect("a threat model").1;
    let section = section.split("\n#").next().expect("it begins");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_end_matches([' ', '|']).rsplit_once('|').expect("several cells").1).collect()
}

/// The files and tests that a cell names: a path, then functions of that file, then perhaps another path.
fn named(cell: &str) -> Vec<(&str, Vec<&str>)> {
    let mut files: Vec<(&str, Vec<&str>)> = Vec::new();
    for word in cell.split('`').skip(1).step_by(2) {
        match files.last_mut() {
            _ if word.contains('/') => files.push((word, Vec::new())),
            Some((_, tests)) => tests.push(word),
            None => panic!("a test without its file: {cell}"),
        }
    }
    files
}

/// The functions that are marked as tests, and are run.
fn tests_of(source: &str) -> BTreeSet<&str> {
    let mut is_test = false;
    let mut tests = BTreeSet::new();
    for line in source.lines().map(str::trim) {
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|rest| rest.split_once('('))
            && std::mem::take(&mut is_test)
        {
            tests.insert(name);
        }
        is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        is_test &= !line.starts_with("#[ignore");
    }
    tests
}

/// The methods of a Python file that are run as tests.
fn python_tests_of(source: &str) -> BTreeSet<&str> {
    let mut is_left_out = false;
    let mut tests = BTreeSet::new();
    for line in source.lines().map(str::trim) {
        if let Some((name, _)) = line.strip_prefix("def ").and_then(|rest| rest.split_once("(self"))
            && !std::mem::take(&mut is_left_out)
            && name.starts_with("test_")
        {
            tests.insert(name);
        }
        is_left_out |= line.starts_with("@unittest.");
    }
    tests
}

#[test]
fn each_row_of_the_threat_model_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = include_str!("../../README.md");
    let claims = claims(readme);
    assert!(claims.len() >= 12, "{claims:?}");
    for cell in claims {
        let files = named(cell);
        assert!(!files.is_empty(), "no file: {cell}");
        for (file, tests) in files {
            let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("`{file}`: {e}"));
            let known = if file.ends_with(".py") { python_tests_of(&source) } else { tests_of(&source) };
            assert!(!tests.is_empty(), "no test: {cell}");
            for test in tests {
                assert!(known.contains(test), "`{file}` has no test `{test}`");
            }
        }
    }
}

#[test]
fn a_function_counts_as_a_test_only_where_it_is_run_as_one() {
    let source = [
        "fn a() {}",
        "#[test]",
        "#[should_panic]",
        "fn b() {}",
        "fn c() {}",
        "#[tokio::test(start_paused = true)]",
        "async fn d() {}",
        "#[test]",
        "#[ignore]",
        "fn e() {}",
    ];
    assert_eq!(tests_of(&source.join("\n")), BTreeSet::from(["b", "d"]));
    assert_eq!(named(" `x/y.rs`: `a`, `b`; `x/z.rs`: `c` "), [("x/y.rs", vec!["a", "b"]), ("x/z.rs", vec!["c"])]);
}

#[test]
fn a_python_method_counts_as_a_test_only_where_it_is_run_as_one() {
    let source = [
        "class Attack(unittest.TestCase):",
        "    def test_a(self) -> None:",
        "    def of_none(self) -> None:",
        "    @unittest.skip(\"later\")",
        "    def test_b(self) -> None:",
        "    def test_c(self) -> None:",
        "def test_d() -> None:",
    ];
    assert_eq!(python_tests_of(&source.join("\n")), BTreeSet::from(["test_a", "test_c"]));
}
