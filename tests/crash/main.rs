//! What is left of a grant when the program dies: the real binary, killed at random moments and at
//! each step of storing a refresh token, against the imitation provider.
//!
//! Needs Linux, root and strace, and takes a minute or two, so it runs only when it is asked for:
//!
//! ```sh
//! cargo test --test crash
//! ```
//!
//! `CRASH_SEED` repeats the random moments of an earlier run, `CRASH_KILLS` sets how many there are,
//! `TOKEN_VALET_BIN` names another binary.

#![allow(clippy::disallowed_methods, reason = "these wait for another process, by the clock of this one")]

mod code;
mod disk;
mod harness;
mod random;
mod steps;
mod strace;
