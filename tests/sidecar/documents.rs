//! `token-valet completions` and `man`, as a shell and a reader meet them.

use std::{
    fs::File,
    io::pipe,
    process::{Command, Stdio},
};

use crate::harness::{Process, binary};

fn printed(arguments: &[&str]) -> String {
    let mut process = Process::spawn(arguments, &[]);
    assert_eq!(process.exit_code(), 0, "{}", process.stderr());
    assert_eq!(process.stderr(), "");
    process.stdout()
}

/// Loads the script that the program prints, and has it complete the last of the words.
const COMPLETE: &str = r#"
source /dev/stdin <<< "$SCRIPT"
[[ $(complete -p token-valet) =~ -F\ ([^ ]+) ]] || exit 3
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"${BASH_REMATCH[1]}" token-valet "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn bash_completes_commands_options_and_words() {
    let script = printed(&["completions", "bash"]);
    for (words, completed) in [
        (&["c"][..], &["check", "config", "completions"][..]),
        (&["config", "s"], &["show", "schema"]),
        (&["config", "show", "--c"], &["--config"]),
        (&["check", "--o"], &["--online"]),
        (&["health", "s"], &["startup"]),
        (&["completions", ""], &["-h", "--help", "bash", "zsh", "fish", "elvish", "powershell"]),
        (&["run", "--x"], &[""]),
    ] {
        let done = Command::new("bash")
            .args(["--norc", "-c", COMPLETE, "bash", "token-valet"])
            .args(words)
            .env("SCRIPT", &script)
            .output()
            .expect("a shell");
        let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert_eq!((done.status.code(), &*stderr), (Some(0), ""), "{words:?}");
        assert_eq!(stdout.lines().collect::<Vec<_>>(), completed, "{words:?}");
    }
}

#[test]
fn every_shell_has_a_script_of_its_own() {
    for (shell, mark) in [
        ("bash", "complete -F "),
        ("zsh", "#compdef token-valet\n"),
        ("fish", "complete -c token-valet "),
        ("elvish", "set edit:completion:arg-completer[token-valet] = "),
        ("powershell", "Register-ArgumentCompleter -Native -CommandName 'token-valet' "),
    ] {
        let script = printed(&["completions", shell]);
        assert!(script.contains(mark), "{shell}: {script}");
        for word in ["online", "schema"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

/// The lines of the manual page's section.
fn section<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let lines = page.lines().skip_while(|line| line.strip_prefix(".SH ").is_none_or(|it| it.trim_matches('"') != name));
    lines.skip(1).take_while(|line| !line.starts_with(".SH ")).collect()
}

/// What is in bold or in italics at the head of each of its items, and between.
fn terms(section: &[&str]) -> String {
    let heads = section.iter().zip(section.iter().skip(1)).filter(|(line, _)| **line == ".TP").map(|(_, head)| *head);
    heads.collect::<Vec<_>>().join("\n").replace(['\\', '"', ' ', ','], " ").replace(" -", "-")
}

#[test]
fn the_manual_page_has_the_sections_of_one_and_tells_every_command() {
    let page = printed(&["man"]);
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    let expected =
        ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "\"EXIT STATUS\"", "FILES", "ENVIRONMENT", "SIGNALS"];
    assert_eq!(sections[..expected.len()], expected);
    assert!(page.starts_with(".TH TOKEN\\-VALET 1 "));

    let commands = section(&page, "COMMANDS");
    let help = printed(&["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a command does may go on for another line, further in.
    let names = listed.filter_map(|line| line.strip_prefix("  ")).filter_map(|line| line.split(' ').next());
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    assert!(names.len() >= 10, "{help}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let heading = format!(".SS \"token-valet {name}");
        assert!(commands.iter().any(|line| line.starts_with(&heading)), "{name}:\n{page}");
    }
}

#[test]
fn the_manual_page_tells_the_exit_codes_variables_and_signals_of_the_readme() {
    let page = printed(&["man"]);
    let readme = include_str!("../../README.md");
    let codes = readme.lines().skip_while(|line| !line.starts_with("| exit code |")).skip(2);
    let codes = codes.map_while(|line| line.strip_prefix("| ")?.split_once(" |").map(|(codes, _)| codes));
    let codes: Vec<&str> = codes.flat_map(|codes| codes.split(", ")).collect();
    assert!(codes.len() >= 10, "{codes:?}");
    let told = terms(&section(&page, "EXIT STATUS"));
    for code in codes {
        assert!(told.contains(&format!(" {code}")), "{code}: {told}");
    }
    let told = terms(&section(&page, "ENVIRONMENT"));
    for variable in ["TOKEN_VALET_CONFIG", "TOKEN_VALET__TOKEN__CLIENT_SECRET", "TOKEN_VALET_TERMINATION_LOG"] {
        assert!(readme.contains(variable) && told.contains(variable), "{variable}: {told}");
    }
    let told = terms(&section(&page, "SIGNALS"));
    for signal in ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"] {
        assert!(readme.contains(signal) && told.contains(signal), "{signal}: {told}");
    }
}

/// What groff(1) would warn of: what is not known, and what opens and does not close.
#[test]
fn the_manual_page_has_requests_that_are_known_and_none_that_stays_open() {
    let page = printed(&["man"]);
    let known = ["TH", "SH", "SS", "TP", "PP", "IP", "RS", "RE", "B", "I", "BI", "BR", "RB", "RI", "IR", "br"];
    let mut depth = 0_u32;
    for line in page.lines() {
        assert!(!line.starts_with('\'') && line.is_ascii(), "{line}");
        let request = line.strip_prefix('.').map(|rest| rest.split(' ').next().unwrap_or_default());
        assert!(request.is_none_or(|request| known.contains(&request)), "{line}");
        match request {
            Some("RS") => depth += 1,
            Some("RE") => depth = depth.checked_sub(1).expect("one was opened"),
            Some(_) | None => {}
        }
        for escape in line.split('\\').skip(1) {
            assert!(["-", "fB", "fI", "fR", "(aq", "(bu"].iter().any(|known| escape.starts_with(known)), "{line}");
        }
        assert_eq!(line.matches('"').count() % 2, 0, "{line}");
    }
    assert_eq!(depth, 0, "indentation that stays");
}

#[test]
fn a_reader_that_goes_is_no_fault_and_a_full_disk_is() {
    let print_to = |stdout: Stdio| {
        let done = Command::new(binary()).arg("man").stdout(stdout).output().expect("the binary can be started");
        (done.status.code(), String::from_utf8(done.stderr).expect("text"))
    };
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    assert_eq!(print_to(writer.into()), (Some(0), String::new()));

    let full = File::options().write(true).open("/dev/full").expect("a disk without space");
    let (code, told) = print_to(full.into());
    assert_eq!(code, Some(1));
    assert!(told.starts_with("error: it cannot be printed: No space left"), "{told}");
}
