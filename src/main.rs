//! The `token-valet` command; see the library for everything.

use std::process::ExitCode;

fn main() -> ExitCode {
    token_valet::cli::run()
}
