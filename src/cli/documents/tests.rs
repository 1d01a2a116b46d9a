//! What is printed, held to the command line as it is.
//!
//! After a change of the commands, `TOKEN_VALET_WRITE=1 cargo test --lib documents` writes the files anew, and fails.

use std::{env, fs, path::Path};

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::{aot, generate};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::{MANUAL, Shell};
use crate::cli::Cli;

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/documents");
/// Between them stands in the manual page what is made of the command line.
const COMMANDS: [&str; 2] = [".SH COMMANDS\n", ".SH \"EXIT STATUS\"\n"];

/// Compares the files with their text and what is expected, or writes all of them. That fails too: nothing was compared.
#[track_caller]
fn assert_up_to_date(files: &[(&str, &str, String)]) {
    if env::var_os("TOKEN_VALET_WRITE").is_some() {
        for (file, _, expected) in files {
            fs::write(Path::new(FILES).join(file), expected).expect("a writable source");
        }
        panic!("written; run again without TOKEN_VALET_WRITE");
    }
    let what_to_do = "to write it anew: TOKEN_VALET_WRITE=1 cargo test --lib documents";
    for (file, text, expected) in files {
        assert!(text == expected, "{file} is not what is made of the command line; {what_to_do}");
    }
}

#[test]
fn completions_are_those_of_the_command_line() {
    let document = |shell: &Shell| {
        let (file, maker) = match shell {
            Shell::Bash => ("token-valet.bash", aot::Shell::Bash),
            Shell::Zsh => ("_token-valet", aot::Shell::Zsh),
            Shell::Fish => ("token-valet.fish", aot::Shell::Fish),
            Shell::Elvish => ("token-valet.elv", aot::Shell::Elvish),
            Shell::Pwsh => ("_token-valet.ps1", aot::Shell::PowerShell),
        };
        let mut made = Vec::new();
        generate(maker, &mut Cli::command(), "token-valet", &mut made);
        let made = String::from_utf8(made).expect("text");
        // In bash, a name with a hyphen is spelt in two ways: https://github.com/clap-rs/clap/issues/6421.
        (file, shell.completions(), made.replace("token__subcmd__valet", "token__valet"))
    };
    let documents: Vec<_> = Shell::value_variants().iter().map(document).collect();
    assert_up_to_date(&documents);
}

#[test]
fn the_manual_page_tells_the_commands_and_options_of_the_command_line() {
    let [start, end] = COMMANDS;
    let (before, rest) = MANUAL.split_once(start).expect("the section of the commands");
    let (_, after) = rest.split_once(end).expect("the section behind it");
    // What `--help` does needs no telling for each.
    let mut cli = Cli::command().disable_help_subcommand(true).mut_subcommands(without_help);
    cli.build();
    let mut made = String::new();
    commands(&cli, &mut made);
    assert_up_to_date(&[("token-valet.1", MANUAL, [before, start, &made, end, after].concat())]);
}

fn without_help(command: Command) -> Command {
    let command = command.disable_help_flag(true).disable_help_subcommand(true);
    command.mut_subcommands(without_help)
}

/// Without what defines the string that stands for an apostrophe.
fn rendered(roff: &Roff) -> String {
    roff.render().replace(&Roff::default().render(), "").replace("\\*(Aq", "\\(aq")
}

/// A part for each command that has none of its own below it, in the order of `--help`.
fn commands(parent: &Command, page: &mut String) {
    for command in parent.get_subcommands() {
        if command.has_subcommands() {
            commands(command, page);
            continue;
        }
        let usage = command.clone().render_usage().to_string();
        let mut roff = Roff::default();
        roff.control("SS", [usage.trim_start_matches("Usage: ")]);
        roff.text([roman(format!("{}.", command.get_about().expect("each says what it does")))]);
        page.push_str(&rendered(&roff));

        let mut options = Vec::new();
        Man::new(command.clone()).render_options_section(&mut options).expect("memory takes all");
        let options = String::from_utf8(options).expect("text").replace("\\*(Aq", "\\(aq");
        // Those of a part are under its own heading.
        let options = options.split_once(".SH OPTIONS\n").map_or("", |(_, options)| options);
        options.lines().for_each(|line| page.extend([line.trim_end(), "\n"]));

        for paragraph in command.get_after_help().map(ToString::to_string).iter().flat_map(|text| text.split("\n\n")) {
            let mut roff = Roff::default();
            roff.control("PP", []);
            roff.text([roman(paragraph)]);
            page.push_str(&rendered(&roff));
        }
    }
}
