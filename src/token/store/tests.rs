use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proptest::prelude::*;
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::geteuid,
};
use tempfile::TempDir;

use super::{
    CodeRecord, CodeState, Fingerprint, Json, MAX_STATE_BYTES, POLL, Record, Store, StoreError, WriteStep,
    record::Unreadable,
};
use crate::{report::Report, secret::Secret};

/// A directory for one test, and where its state file goes.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.json");
    (directory, path)
}

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn record(refresh_token: &str) -> Record {
    Record { refresh_token: Some(secret(refresh_token)), ..Record::default() }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").mode() & 0o7777
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).expect("readable");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("readable").file_name().into_string().expect("ours are ASCII")).collect();
    names.sort();
    names
}

fn refusal(path: &Path) -> StoreError {
    Store::open(path).expect_err("it is not safe")
}

/// What the file holds, by way of a store of its own.
async fn stored(path: &Path) -> Record {
    Store::open(path).expect("safe").lock().await.expect("free").read().expect("whole")
}

#[tokio::test]
async fn a_record_survives_and_a_missing_file_is_an_empty_one() {
    let (directory, path) = place();
    assert_eq!(stored(&path).await, Record::default());
    let kept = Record {
        refresh_token: Some(secret("r1")),
        obtained_at: Some(UNIX_EPOCH + Duration::from_secs(1_750_000_000)),
        used_at: Some(UNIX_EPOCH + Duration::from_millis(1_750_000_000_500)),
        seed: Some(Fingerprint::of(&secret("r0"))),
        code: Some(CodeRecord::of(&secret("c1"), CodeState::Exchanged)),
    };
    Store::open(&path).expect("safe").lock().await.expect("free").write(&kept).await.expect("writable");
    assert_eq!(stored(&path).await, kept);
    assert_eq!(names(&directory), ["state.json", "state.json.lock"]);
    assert_eq!((mode(&path), mode(&directory.path().join("state.json.lock"))), (0o600, 0o600));
    let text = fs::read_to_string(&path).expect("UTF-8");
    assert!(text.starts_with("{\n  \"version\": 1,\n  \"obtained_at\": \"2025-06-15T15:06:40Z\","), "{text}");
}

#[test]
fn a_path_of_no_file_and_a_directory_that_is_missing_or_not_writable_are_refused() {
    let (directory, path) = place();
    for no_file in [Path::new("/"), Path::new(".."), Path::new(""), &path.join("")] {
        assert!(matches!(refusal(no_file), StoreError::NoFileName { .. }), "{}", no_file.display());
    }
    let missing = refusal(&directory.path().join("not-mounted/state.json"));
    assert!(matches!(missing, StoreError::Directory { .. }), "{missing:?}");
    assert!(missing.hint().is_some_and(|hint| hint.contains("mount the volume")));
    // Not even root can create a file there.
    for path in ["/proc/self/state.json", "/dev/null/state.json"] {
        assert!(matches!(refusal(Path::new(path)), StoreError::Directory { .. }), "{path}");
    }
}

#[test]
fn links_are_refused_wherever_they_lead() {
    for name in ["state.json", "state.json.lock"] {
        let (directory, path) = place();
        for target in ["elsewhere", "nowhere"] {
            fs::write(directory.path().join("elsewhere"), "{\"version\":1}").expect("writable");
            let link = directory.path().join(name);
            symlink(directory.path().join(target), &link).expect("free");
            let error = refusal(&path);
            assert!(matches!(&error, StoreError::SymbolicLink { path } if *path == link), "{error:?}");
            assert!(error.hint().is_some());
            fs::remove_file(&link).expect("it is there");
        }
    }
}

#[test]
fn what_is_not_a_regular_file_is_refused_without_waiting_for_it() {
    let (directory, path) = place();
    fs::create_dir(&path).expect("free");
    assert!(matches!(refusal(&path), StoreError::NotRegular { .. }));
    fs::remove_dir(&path).expect("empty");
    for pipe in [path.clone(), directory.path().join("state.json.lock")] {
        let _ = fs::remove_file(&pipe);
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("free");
        let error = refusal(&path);
        assert!(matches!(error, StoreError::NotRegular { .. }), "{error:?}");
        fs::remove_file(&pipe).expect("it is there");
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !geteuid().is_root() {
        // Only root can give a file away; root's own are refused to everybody else.
        let file = fs::File::open("/etc/passwd").expect("readable");
        let refused = super::file::check(&file, Path::new("/etc/passwd"));
        assert!(matches!(refused, Err(StoreError::ForeignOwner { owner: 0, .. })));
        return;
    }
    let (directory, path) = place();
    for name in ["state.json", "state.json.lock"] {
        let file = directory.path().join(name);
        fs::write(&file, "{\"version\":1}").expect("writable");
        set_mode(&file, 0o600);
        chown(&file, Some(4711), None).expect("root may");
        let error = refusal(&path);
        assert!(matches!(error, StoreError::ForeignOwner { owner: 4711, expected: 0, .. }), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("chown 0 ")));
        fs::remove_file(&file).expect("it is there");
    }
}

#[tokio::test]
async fn a_file_that_is_open_to_all_users_is_refused_at_each_read() {
    let (_directory, path) = place();
    let store = Store::open(&path).expect("safe");
    store.lock().await.expect("free").write(&record("r1")).await.expect("writable");
    for open in [0o604, 0o602, 0o601, 0o666] {
        set_mode(&path, open);
        let error = refusal(&path);
        assert!(matches!(error, StoreError::Exposed { mode, .. } if mode == open), "{error:?}");
        let read = store.lock().await.expect("free").read();
        assert!(matches!(read, Err(StoreError::Exposed { .. })), "{read:?}");
    }
    assert!(refusal(&path).hint().is_some_and(|hint| hint.contains("chmod 600")));
    assert!(refusal(&path).to_string().ends_with("(mode 666)"));
}

#[tokio::test]
async fn permissions_of_the_group_are_taken_away() {
    let (directory, path) = place();
    let lock = directory.path().join("state.json.lock");
    Store::open(&path).expect("safe").lock().await.expect("free").write(&record("r1")).await.expect("writable");
    for file in [&path, &lock] {
        set_mode(file, 0o660);
    }
    assert_eq!(stored(&path).await, record("r1"));
    assert_eq!((mode(&path), mode(&lock)), (0o600, 0o600));
}

#[tokio::test]
async fn a_file_that_is_torn_is_refused_at_whatever_byte() {
    let (_directory, path) = place();
    Store::open(&path).expect("safe").lock().await.expect("free").write(&record("r1")).await.expect("writable");
    let whole = fs::read(&path).expect("readable");
    // Without its last byte, a line end, it is whole.
    for length in 0..whole.len() - 1 {
        fs::write(&path, &whole[..length]).expect("writable");
        let error = refusal(&path);
        assert!(matches!(error, StoreError::Damaged { .. }), "{length} bytes: {error:?}");
    }
    fs::write(&path, vec![0; whole.len()]).expect("writable");
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Damaged { line: 1, column: 1, .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().expect("UTF-8")), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_file_of_another_version_or_with_more_than_is_known_is_refused() {
    let (_directory, path) = place();
    let error_of = |json: &str| {
        fs::write(&path, json).expect("writable");
        set_mode(&path, 0o600);
        refusal(&path)
    };
    let newer = error_of("{\"version\":2,\"refresh_token\":{\"nested\":true}}");
    assert!(matches!(newer, StoreError::Version { found: 2, expected: 1, .. }), "{newer:?}");
    for json in ["{}", "{\"version\":\"1\"}", "[]", "{\"version\":1,\"refresh_tokn\":\"r\"}", "{\"version\":1}}"] {
        let error = error_of(json);
        assert!(matches!(error, StoreError::Damaged { .. }), "{json}: {error:?}");
    }
    assert!(matches!(error_of(&" ".repeat(MAX_STATE_BYTES + 1)), StoreError::TooLarge { .. }));
}

#[test]
fn neither_an_error_nor_debug_shows_what_the_file_holds() {
    let (_directory, path) = place();
    for json in [
        r#"{"version":1,"code":"sentinel"}"#,
        r#"{"version":"sentinel"}"#,
        r#"{"version":1,"sentinel":1}"#,
        r#"{"version":1,"obtained_at":"sentinel"}"#,
        r#"{"version":1,"code":{"sha256":"sentinel","state":"exchanged"}}"#,
        r#"{"version":1,"refresh_token":"sentinel"#,
    ] {
        fs::write(&path, json).expect("writable");
        set_mode(&path, 0o600);
        let error = refusal(&path);
        let shown = format!("{error:?} {} {:?}", Report(&error), error.hint());
        assert!(!shown.contains("sentinel"), "{shown}");
    }
    let kept = Record { code: Some(CodeRecord::of(&secret("sentinel"), CodeState::Exchanging)), ..record("sentinel") };
    let shown = format!("{kept:?}");
    assert!(!shown.contains("sentinel") && !shown.contains("1f"), "{shown}");
    assert!(shown.contains("Exchanging"), "{shown}");
}

#[tokio::test]
async fn the_old_record_survives_a_write_that_fails() {
    let (directory, path) = place();
    let mut locked = Store::open(&path).expect("safe").lock().await.expect("free");
    locked.write(&record("r1")).await.expect("writable");

    let error = locked.write(&record(&"x".repeat(MAX_STATE_BYTES))).await.expect_err("too long");
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    assert_eq!(locked.read().expect("whole"), record("r1"));

    let (here, away) = (directory.path().to_owned(), directory.path().with_extension("away"));
    fs::rename(&here, &away).expect("same file system");
    let error = locked.write(&record("r2")).await.expect_err("there is no directory");
    assert!(matches!(error, StoreError::Directory { .. }), "{error:?}");
    fs::rename(&away, &here).expect("same file system");
    assert_eq!(locked.read().expect("whole"), record("r1"));

    fs::remove_file(&path).expect("it is there");
    fs::create_dir(&path).expect("free");
    let error = locked.write(&record("r2")).await.expect_err("a directory cannot be replaced");
    assert!(matches!(error, StoreError::Write { step: WriteStep::Rename, .. }), "{error:?}");
    assert_eq!(names(&directory), ["state.json", "state.json.lock"]);

    // The same turn goes on once the cause is gone.
    fs::remove_dir(&path).expect("empty");
    locked.write(&record("r2")).await.expect("writable");
    assert_eq!(locked.read().expect("whole"), record("r2"));
}

#[tokio::test]
async fn a_place_proven_writable_is_left_clean() {
    let (directory, path) = place();
    let next = directory.path().join("state.json.tmp");
    let store = Store::open(&path).expect("safe");
    assert_eq!(names(&directory), ["state.json.lock"]);

    let mut locked = store.lock().await.expect("free");
    locked.prove_writable().await.expect("writable");
    assert_eq!((fs::metadata(&next).expect("made ahead").len(), mode(&next)), (0, 0o600));
    drop(locked);
    assert_eq!(names(&directory), ["state.json.lock"]);

    let mut locked = store.lock().await.expect("free");
    locked.prove_writable().await.expect("writable");
    locked.write(&record("r1")).await.expect("writable");
    assert_eq!(names(&directory), ["state.json", "state.json.lock"]);
    let (length, blocks) = fs::metadata(&path).map(|file| (file.len(), file.blocks())).expect("it is there");
    assert!(blocks * 512 <= length.next_multiple_of(4_096).max(16_384), "{blocks} blocks stay reserved");

    // Somebody cleans up in the middle: this write fails, the next one does not.
    locked.prove_writable().await.expect("writable");
    fs::remove_file(&next).expect("made ahead");
    let error = locked.write(&record("r2")).await.expect_err("it is gone");
    assert!(matches!(error, StoreError::Write { step: WriteStep::Rename, .. }), "{error:?}");
    locked.write(&record("r2")).await.expect("writable");
    assert_eq!(locked.read().expect("whole"), record("r2"));
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_nothing_else() {
    let (directory, path) = place();
    for name in ["state.json.tmp", "state.json.tmp2", "other.json.tmp"] {
        fs::write(directory.path().join(name), "{\"vers").expect("writable");
    }
    let store = Store::open(&path).expect("safe");
    assert_eq!(names(&directory), ["other.json.tmp", "state.json.lock", "state.json.tmp2"]);

    // Not while another process may be writing it.
    let mut locked = store.lock().await.expect("free");
    locked.prove_writable().await.expect("writable");
    Store::open(&path).expect("it does not wait for the lock");
    locked.write(&record("r1")).await.expect("its temporary file was not touched");
}

#[tokio::test]
async fn a_second_process_gets_the_lock_when_the_first_releases_it() {
    let (_directory, path) = place();
    let (first, second) = (Store::open(&path).expect("safe"), Store::open(&path).expect("safe"));
    let mut held = first.lock().await.expect("free");
    let waiter = tokio::spawn(async move { second.lock().await.and_then(|locked| locked.read()) });
    tokio::time::sleep(3 * POLL).await;
    assert!(!waiter.is_finished());
    held.write(&record("r1")).await.expect("writable");
    drop(held);
    assert_eq!(waiter.await.expect("no panic").expect("released"), record("r1"));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_held_too_long_is_an_error_and_blocks_no_other_task() {
    let (_directory, path) = place();
    let store = Store::open(&path).expect("safe");
    let _held = store.lock().await.expect("free");
    let started = tokio::time::Instant::now();
    let error = store.lock().await.expect_err("held");
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn a_write_whose_future_is_dropped_still_ends_and_holds_the_lock_until_then() {
    let (directory, path) = place();
    let store = Store::open(&path).expect("safe");
    for round in 0..50 {
        let (old, new) = (record(&format!("old-{round}")), record(&format!("new-{round}").repeat(1_000)));
        let mut locked = store.lock().await.expect("free");
        locked.write(&old).await.expect("writable");
        // Polled once: the work is under way, its caller is not there any more.
        let dropped = tokio::time::timeout(Duration::ZERO, locked.write(&new)).await;
        if round % 2 == 0 {
            drop(locked);
            assert_eq!(store.lock().await.expect("released").read().expect("whole"), new);
        } else {
            locked.write(&old).await.expect("it waits for the one before");
            assert_eq!(locked.read().expect("whole"), old, "{dropped:?}");
        }
    }
    assert_eq!(names(&directory), ["state.json", "state.json.lock"]);
}

#[tokio::test]
async fn a_lost_thread_is_an_error_and_releases_the_lock() {
    let (_directory, path) = place();
    let store = Store::open(&path).expect("safe");
    let mut locked = store.lock().await.expect("free");
    let error = locked.work(|_| panic!("of a bug")).await.expect_err("it panicked");
    assert!(matches!(error, StoreError::Interrupted { .. }), "{error:?}");
    let error = locked.write(&record("r1")).await.expect_err("the lock is gone");
    assert!(matches!(error, StoreError::Interrupted { .. }), "{error:?}");
    store.lock().await.expect("released").write(&record("r1")).await.expect("writable");
}

#[test]
fn a_code_is_known_again_and_no_other_is() {
    let kept = CodeRecord::of(&secret("c1"), CodeState::Exchanging);
    assert!(kept.matches(&secret("c1")));
    assert!(!kept.matches(&secret("c2")));
}

#[test]
fn a_time_that_cannot_be_written_is_left_out() {
    let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
    for time in [UNIX_EPOCH - Duration::from_secs(1), far] {
        let json = Json::of(&Record { used_at: Some(time), ..record("r") }).expect("small");
        assert_eq!(Record::parse(json.as_bytes()).expect("whole"), record("r"));
    }
}

fn any_secret() -> impl Strategy<Value = Secret> {
    prop_oneof!["[ -~]{1,200}", any::<String>()].prop_map(Secret::new)
}

fn any_time() -> impl Strategy<Value = SystemTime> {
    (0..253_402_300_800_u64, 0..1_000_000_000_u32).prop_map(|(s, n)| UNIX_EPOCH + Duration::new(s, n))
}

fn any_code() -> impl Strategy<Value = CodeRecord> {
    let state = prop_oneof![Just(CodeState::Exchanging), Just(CodeState::Exchanged)];
    (any_secret(), state).prop_map(|(code, state)| CodeRecord::of(&code, state))
}

prop_compose! {
    fn any_record()(
        refresh_token in proptest::option::of(any_secret()),
        obtained_at in proptest::option::of(any_time()),
        used_at in proptest::option::of(any_time()),
        seed in proptest::option::of(any_secret()),
        code in proptest::option::of(any_code()),
    ) -> Record {
        Record { refresh_token, obtained_at, used_at, seed: seed.as_ref().map(Fingerprint::of), code }
    }
}

proptest! {
    #[test]
    fn any_record_comes_back_as_it_was(kept in any_record()) {
        let json = Json::of(&kept).expect("small");
        prop_assert_eq!(Record::parse(json.as_bytes()).expect("whole"), kept);
    }

    #[test]
    fn bytes_that_are_no_record_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let refused = matches!(Record::parse(&bytes), Err(Unreadable::Damaged { .. }));
        prop_assert!(refused);
    }
}
