//! The local port as a Unix socket.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::process::{Signal, getuid};
use serde_json::{Value, json};
use tempfile::TempDir;
use token_valet::sandbox::{Provider, Settings};

use crate::harness::{DEADLINE, Process, Setup, provider, wait_until};

/// A directory for a socket, and a sidecar's configuration to listen there.
fn setup(provider: &Provider) -> (TempDir, PathBuf, Setup) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("api.sock");
    let setup = Setup::partner(provider).set("listen.address", address(&path));
    (directory, path, setup)
}

fn address(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// The whole answer to one request that closes the connection.
#[track_caller]
fn ask(path: &Path, target: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let request = format!("GET {target} HTTP/1.1\r\nHost: whatever.example\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[track_caller]
fn assert_serves(path: &Path) {
    wait_until("the socket", || UnixStream::connect(path).is_ok());
    let answer = ask(path, "/api/fdx/5/accounts");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"accounts\""), "{answer}");
}

#[track_caller]
fn end(mut process: Process) {
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), 0);
}

#[test]
fn the_socket_serves_with_its_permissions_and_is_removed_at_the_end() {
    let provider = provider(Settings::default());
    let (_directory, path, setup) = setup(&provider);
    let setup = setup.set("listen.unix_mode", "0620").set("listen.threads", 2);
    let process = setup.spawn("run");
    for _ in 0..4 {
        assert_serves(&path);
    }
    let found = fs::symlink_metadata(&path).expect("it is there");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o620);
    assert_eq!(process.logged("listening")["address"], address(&path));
    end(process);
    assert!(!path.exists(), "the socket was left behind");
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_a_successor_s_is_not_removed() {
    let provider = provider(Settings::default());
    let (_directory, path, first) = setup(&provider);
    drop(UnixListener::bind(&path).expect("a free path"));
    let process = first.spawn("run");
    assert_serves(&path);

    fs::remove_file(&path).expect("it is ours");
    let second = Setup::partner(&provider).set("listen.address", address(&path));
    let successor = second.spawn("run");
    assert_serves(&path);
    end(process);
    assert_serves(&path);
    end(successor);
    assert!(!path.exists());
}

#[test]
fn a_path_that_is_taken_by_anything_else_is_left_alone() {
    let provider = provider(Settings::default());
    let (directory, path, setup) = setup(&provider);
    let listening = UnixListener::bind(&path).expect("a free path");
    let refused = |process: &mut Process| {
        assert_eq!(process.exit_code(), 69);
        let error = process.stderr();
        assert!(error.contains(&format!("cannot listen on {}", address(&path))), "{error}");
        assert!(error.contains("`listen.address`"), "{error}");
    };
    refused(&mut setup.spawn("run"));
    drop(listening);

    let elsewhere = directory.path().join("precious");
    fs::write(&elsewhere, "data").expect("writable");
    fs::remove_file(&path).expect("ours");
    symlink(&elsewhere, &path).expect("a free path");
    refused(&mut setup.spawn("run"));
    fs::remove_file(&path).expect("ours");
    fs::write(&path, "data").expect("writable");
    refused(&mut setup.spawn("run"));
    for file in [&path, &elsewhere] {
        assert_eq!(fs::read_to_string(file).expect("readable"), "data");
        assert_eq!(fs::symlink_metadata(file).expect("it is there").nlink(), 1);
    }
}

#[test]
fn callers_of_other_users_are_told_which_key_they_would_need() {
    let provider = provider(Settings::default());
    let own = getuid().as_raw();
    let (_directory, path, others) = setup(&provider);
    let others = others.set("listen.allow_uids", json!([own + 1]));
    let process = others.spawn("run");
    wait_until("the socket", || UnixStream::connect(&path).is_ok());
    let before = provider.requests().len();
    let answer = ask(&path, "/api/fdx/5/accounts");
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    assert_eq!(body["detail"], format!("the caller's uid {own} is not in `listen.allow_uids`"));
    assert_eq!(provider.requests().len(), before, "nothing reached the API");
    end(process);

    let (_directory, path, ours) = setup(&provider);
    let ours = ours.set("listen.allow_uids", json!([own + 1, own]));
    let _process = ours.spawn("run");
    assert_serves(&path);
}
