//! The sidecar under strace, which kills it or makes its system calls fail at a step that is named.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread::scope,
    time::Duration,
};

use crate::harness::{Scene, Sidecar};

/// All that changes a file, its name or its lock, and what opens one.
const CALLS: &str = "openat,open,creat,write,pwrite64,writev,fallocate,ftruncate,fchmod,fsync,fdatasync,\
                     rename,renameat,renameat2,link,linkat,flock,unlink,unlinkat";

/// How many steps are tried at once.
const AT_ONCE: usize = 4;

/// How often a step is tried, and how long each time.
const TRIES: usize = 10;
const PATIENCE: Duration = Duration::from_secs(6);

/// One system call on one file: the first of its kind, the second, and so on, of one thread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// Relative to the scene.
    file: &'static str,
    call: String,
    number: usize,
}

impl Step {
    pub(crate) fn new(file: &'static str, call: &str, number: usize) -> Self {
        Self { file, call: call.to_owned(), number }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.call, self.number, self.file)
    }
}

/// The store's files and their directory.
pub(crate) const FILES: [&str; 4] = ["state/state.json.lock", "state/state.json.tmp", "state/state.json", "state"];

/// Runs the sidecar with all the steps on these files noted in `trace`.
pub(crate) fn watch(scene: &Scene) -> Sidecar {
    scene.spawn(command(scene, &FILES, None))
}

/// Runs the sidecar in a new scene until it enters `step`, and kills it there: the call is not made.
///
/// strace counts each thread's calls by themselves, and the runtime may give a job to another thread
/// than the last time. Then no thread gets to the step, and there is another try.
#[allow(clippy::print_stderr, reason = "how often that is")]
pub(crate) fn killed_at(step: &Step, new_scene: impl Fn() -> Scene) -> Scene {
    let inject = format!("inject={}:signal=SIGKILL:when={}", step.call, step.number);
    for _ in 0..TRIES {
        let scene = new_scene();
        let mut sidecar = scene.spawn(command(&scene, &[step.file], Some(&inject)));
        if sidecar.is_killed_within(PATIENCE) {
            return scene;
        }
        eprintln!("not reached: {step}");
    }
    panic!("never reached in {TRIES} tries: {step}");
}

/// Runs the sidecar with `step`, and `times - 1` more of its kind, failing with this error.
pub(crate) fn fail_at(scene: &Scene, step: &Step, times: usize, error: &str) -> Sidecar {
    let (first, last) = (step.number, step.number + times - 1);
    let inject = format!("inject={}:error={error}:when={first}..{last}", step.call);
    scene.spawn(command(scene, &[step.file], Some(&inject)))
}

fn command(scene: &Scene, files: &[&str], inject: Option<&str>) -> Command {
    let is_there = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(is_there.is_ok_and(|status| status.success()), "install strace: apt-get install strace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-s", "0", "-e", "signal=none", "-o"]).arg(trace(scene));
    // Not `-e trace=X` alone: what is made to fail must be among what is traced.
    command.args(["-e", &format!("trace={CALLS}")]);
    for file in files {
        command.arg("-P").arg(scene.path(file));
    }
    if let Some(inject) = inject {
        command.args(["-e", inject]);
    }
    command.args(scene.command_line());
    command
}

fn trace(scene: &Scene) -> PathBuf {
    scene.path("trace")
}

/// Every step that [`watch`] saw so far. For a call on two files, the first counts.
pub(crate) fn steps_seen(scene: &Scene) -> Vec<Step> {
    let mut numbers: BTreeMap<(String, &'static str, String), usize> = BTreeMap::new();
    for Call { thread, file, name } in calls_seen(scene) {
        *numbers.entry((thread, file, name)).or_default() += 1;
    }
    let mut highest: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    for ((_thread, file, name), number) in numbers {
        let known = highest.entry((file, name)).or_default();
        *known = number.max(*known);
    }
    let all = |((file, name), last)| (1..=last).map(move |number| Step { file, call: String::clone(&name), number });
    highest.into_iter().flat_map(all).collect()
}

/// Panics unless each rename that [`watch`] saw comes after the file's sync and before the
/// directory's: a kill cannot tell, as what is not synced is lost in a power cut only.
pub(crate) fn assert_synced(scene: &Scene) {
    let calls: Vec<_> = calls_seen(scene).into_iter().filter(|call| call.file != FILES[0]).collect();
    let renames: Vec<_> = (0..calls.len()).filter(|i| calls[*i].name.starts_with("rename")).collect();
    assert!(!renames.is_empty(), "{calls:#?}");
    for rename in renames {
        let is = |i: usize, file, name| calls.get(i).is_none_or(|call| call.file == file && call.name == name);
        assert!(is(rename - 1, "state/state.json.tmp", "fsync"), "{calls:#?}");
        // None at all where the trace ends.
        assert!(is(rename + 1, "state", "openat") && is(rename + 2, "state", "fsync"), "{calls:#?}");
    }
}

/// One line of the trace.
#[derive(Debug)]
struct Call {
    thread: String,
    file: &'static str,
    name: String,
}

fn calls_seen(scene: &Scene) -> Vec<Call> {
    let text = fs::read_to_string(trace(scene)).unwrap_or_default();
    let call = |line: &str| {
        let (thread, rest) = line.split_once(' ')?;
        // The second half of a call that another one interrupted has no name to begin with.
        let (name, arguments) = rest.trim_start().split_once('(')?;
        Some(Call { thread: thread.to_owned(), file: first_file(scene, arguments)?, name: name.to_owned() })
    };
    text.lines().filter_map(call).collect()
}

fn first_file(scene: &Scene, arguments: &str) -> Option<&'static str> {
    // Paths end in a quote where they are arguments, in an angle bracket where they are of descriptors.
    let ends = |path: &Path| [format!("{}\"", path.display()), format!("{}>", path.display())];
    let position = |file: &&str| ends(&scene.path(file)).iter().filter_map(|end| arguments.find(end.as_str())).min();
    FILES.into_iter().filter_map(|file| Some((position(&file)?, file))).min().map(|(_, file)| file)
}

/// Does `work` for every step, some at once. Panics if any of them does.
pub(crate) fn each(steps: &[Step], work: impl Fn(&Step) + Sync) {
    let next = AtomicUsize::new(0);
    scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(step);
                }
            });
        }
    });
}

/// Panics unless all these calls are among the steps: else the test would kill at fewer places than it says.
pub(crate) fn assert_among(steps: &[Step], wanted: &[(&'static str, &str)]) {
    for (file, call) in wanted {
        assert!(steps.iter().any(|s| s.file == *file && s.call == *call), "no {call} of {file} in {steps:#?}");
    }
}
