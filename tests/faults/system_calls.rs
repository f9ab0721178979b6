//! Saves that are killed, or refused, at each of their system calls, by `strace`.
//!
//! 120 kills and 120 refusals spread over the calls; `ELISTIMATOR_SYSTEM_CALLS=all` for every one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use elistimator::Hashes;

use crate::support::{check, child_command, expected, fast_dir, text, tool};

/// Three saves; the third one replaces the second, so that setting aside and rotating both happen.
const SCRIPT: &str = "train\nsave\ntrain\nsave\nsave\ntrain\nsave\n";
const KEEP: usize = 1;

/// The calls that change or read the disk; those that a machine does not have are left out by the question mark.
const CALLS: &str = "?open,?openat,?write,?fsync,?fdatasync,?rename,?renameat,?renameat2,?unlink,?unlinkat,?rmdir,?mkdir,\
                     ?mkdirat,?read,?flock,?close,?getdents64,?statx";

/// A name of our own for some of the calls of `close`.
const CLOSE_WRITTEN: &str = "close written";

struct Outcome {
    /// The steps whose save was acknowledged, and the errors.
    saved: Vec<u64>,
    errors: Vec<String>,
    is_success: bool,
    was_killed: bool,
    stderr: String,
}

/// Runs the script in a child under `strace` with these options.
fn run(options: &[&str], dir: &Path) -> Outcome {
    let before = [&["strace", "-f", "-qq"], options].concat();
    let mut command = child_command(&before, dir, KEEP);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // All at once: who is killed early does not read it.
    let _ = child.stdin.take().unwrap().write_all(SCRIPT.as_bytes());
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    // The first reply is about the setup.
    let replies = stdout.lines().filter_map(|line| line.split_once("reply ")).map(|(_, reply)| reply);
    let (mut saved, mut errors) = (Vec::new(), Vec::new());
    for (word, reply) in ["setup"].into_iter().chain(SCRIPT.lines()).zip(replies) {
        match reply.split_once(' ').unwrap() {
            ("ok", step) if word == "save" => saved.push(step.parse().unwrap()),
            ("ok", _) => {}
            // What follows from a failed setup is not another failure.
            (_, error) if error.contains("(WrongOrder)") && !errors.is_empty() => {}
            (_, error) => errors.push(error.to_owned()),
        }
    }
    use std::os::unix::process::ExitStatusExt;
    let was_killed = output.status.signal() == Some(9) || output.status.code() == Some(128 + 9);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome { saved, errors, is_success: output.status.success(), was_killed, stderr }
}

/// Whether `strace` is there and may trace, which containers forbid as a rule, and make a call fail; says so if not.
fn may_trace() -> bool {
    let options =
        ["-f", "-qq", "-y", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK", "-o", "/dev/null", "true"];
    tool("strace", &options).is_some()
}

/// Every call about the checkpoints in an undisturbed run, as a name and which one of its thread it was.
fn calls() -> Option<BTreeMap<String, BTreeSet<usize>>> {
    if !may_trace() {
        return None;
    }
    let dir = fast_dir();
    let log = dir.path().join("log");
    let options = ["-y", "-s", "0", "-e", &format!("trace={CALLS}"), "-e", "signal=none", "-o", text(&log)];
    let outcome = run(&options, &dir.path().join("run"));
    assert!(outcome.is_success, "{}", outcome.stderr);
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut calls: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let log = fs::read_to_string(&log).unwrap();
    for line in log.lines().filter(|line| !line.contains("resumed>")) {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim().split_once('(') else { continue };
        let count = counts.entry((thread, name)).or_default();
        *count += 1;
        // The first one of another thread is the test harness saying what it runs.
        if line.contains("/checkpoints") && (name, *count) != ("write", 1) {
            calls.entry(name.to_owned()).or_default().insert(*count);
            if name == "close" && line.contains("/.tmp-") && line.contains(".safetensors>") {
                calls.entry(CLOSE_WRITTEN.to_owned()).or_default().insert(*count);
            }
        }
    }
    assert!(calls.values().map(BTreeSet::len).sum::<usize>() > 100, "{calls:?}");
    Some(calls)
}

/// All, or some spread over all.
fn chosen(all: Vec<(String, usize)>) -> Vec<(String, usize)> {
    let is_all = std::env::var("ELISTIMATOR_SYSTEM_CALLS").is_ok_and(|which| which == "all");
    let stride = if is_all { 1 } else { all.len().div_ceil(120).max(1) };
    all.into_iter().step_by(stride).collect()
}

/// What was acknowledged, or something newer, is there and whole; and a run goes on from it.
fn check_what_is_left(dir: &Path, outcome: &Outcome, expected: &BTreeMap<u64, Hashes>, place: &str) {
    assert!(!outcome.stderr.contains("panicked"), "{place}: {}", outcome.stderr);
    let Some(&last) = outcome.saved.last() else { return };
    let found = check(dir, expected);
    assert!(found >= last, "{place}: step {last} was acknowledged, {found} is there");
    // A writer that tidies up and does no more.
    drop(crate::support::run_in(dir, KEEP, 0));
    assert_eq!(check(dir, expected), found, "{place}: tidied up");
    let again = run(&[], dir);
    assert!(again.is_success && again.errors.is_empty(), "{place}: {:?} {}", again.errors, again.stderr);
    assert_eq!(again.saved, [found + 1, found + 2, found + 2, found + 3], "{place}");
    let left = crate::support::names(&dir.join("checkpoints"));
    let is_expected = |name: &String| name.starts_with("model_iter-") || name == "lock" || name == "elistimator_meta";
    assert!(left.len() == 3 && left.iter().all(is_expected), "{place}: {left:?}");
}

/// Fault 2, and with it 4, 5, 8.
#[test]
fn whole_when_killed_at_any_system_call() {
    let Some(calls) = calls() else { return };
    let expected = expected(8);
    let calls = calls.into_iter().filter(|(name, _)| name != CLOSE_WRITTEN);
    let all = calls.flat_map(|(name, counts)| counts.into_iter().map(move |count| (name.clone(), count)));
    let mut killed = 0;
    for (name, count) in chosen(all.collect()) {
        let dir = fast_dir();
        let place = format!("killed at {name} {count}");
        let inject = format!("inject={name}:signal=KILL:when={count}");
        let log = dir.path().join("log");
        let outcome = run(&["-e", &format!("trace={name}"), "-e", &inject, "-o", text(&log)], &dir.path().join("run"));
        killed += usize::from(outcome.was_killed);
        assert!(outcome.was_killed || outcome.is_success, "{place}: {}", outcome.stderr);
        check_what_is_left(&dir.path().join("run"), &outcome, &expected, &place);
    }
    assert!(killed > 20, "only {killed} were killed");
}

/// Faults 10, 11, 12, 13, 16, 26, 53: the run goes on, and says what was refused. `EINTR` is nobody's error, nor is what comes when
/// a file is closed that was synced before.
#[test]
fn harmless_failure_at_any_system_call() {
    let Some(calls) = calls() else { return };
    let expected = expected(8);
    let refusals = [
        ("fsync", "EIO"),
        ("close", "EIO"),
        ("write", "ENOSPC"),
        ("write", "EINTR"),
        ("rename", "EIO"),
        ("openat", "EMFILE"),
        ("openat", "EINTR"),
        ("read", "EIO"),
        ("read", "EINTR"),
        ("unlink", "EIO"),
        ("unlinkat", "EIO"),
        ("mkdir", "ENOSPC"),
        ("statx", "EIO"),
        ("getdents64", "EIO"),
    ];
    let mut all = Vec::new();
    for (name, error) in refusals {
        // Of the closed ones those that were written: the standard library takes a directory that cannot be closed for a bug.
        let name_of_calls = if name == "close" { CLOSE_WRITTEN } else { name };
        let counts = calls.get(name_of_calls).cloned().unwrap_or_default();
        assert!(name != "close" || counts.len() > 5, "{calls:?}");
        all.extend(counts.into_iter().map(|count| (format!("{name}:error={error}"), count)));
    }
    let mut refused = 0;
    for (fault, count) in chosen(all) {
        let dir = fast_dir();
        let (place, name) = (format!("{fault} {count}"), fault.split(':').next().unwrap());
        let inject = format!("inject={fault}:when={count}");
        let log = dir.path().join("log");
        let trace = ["-y", "-e", &format!("trace={name}"), "-e", &inject, "-o", text(&log)];
        let outcome = run(&trace, &dir.path().join("run"));
        // Calls are counted in each thread, and the first ones of the program itself are its loader's.
        if outcome.stderr.contains("while loading shared libraries") {
            continue;
        }
        assert!(outcome.is_success, "{place}: {}", outcome.stderr);
        if name == "fsync" {
            is_not_synced_again(&fs::read_to_string(&log).unwrap(), &place);
        }
        assert!(name != "close" || outcome.errors.is_empty(), "{place}: {:?}", outcome.errors);
        assert!(outcome.errors.len() <= 1, "{place}: one refusal, one error: {:?}", outcome.errors);
        assert!(!fault.ends_with("EINTR") || outcome.errors.is_empty(), "{place}: {:?}", outcome.errors);
        for error in &outcome.errors {
            assert!(error.contains(text(&dir.path().join("run"))), "{place}: the file is named: {error}");
            assert!(error.contains("os error"), "{place}: the cause is given: {error}");
        }
        refused += outcome.errors.len();
        check_what_is_left(&dir.path().join("run"), &outcome, &expected, &place);
    }
    assert!(refused > 5, "only {refused} were refused");
}

/// After a refused sync the system may have dropped the bytes and call the next sync of the same file a success.
fn is_not_synced_again(log: &str, place: &str) {
    let path = |line: &str| Some(line.split_once('<')?.1.split_once('>')?.0.to_owned());
    let is_file = |path: &String| path.contains("/.tmp-") && Path::new(path).extension().is_some();
    let mut lines = log.lines().skip_while(|line| !line.contains("INJECTED"));
    if let Some(refused) = lines.next().and_then(path).filter(is_file) {
        assert!(lines.filter_map(path).all(|path| path != refused), "{place}: {refused} is synced again: {log}");
    }
}

/// That `strace` does what these tests believe it does.
#[test]
fn a_refused_setup_is_an_error() {
    if !may_trace() {
        return;
    }
    let dir = fast_dir();
    let log = dir.path().join("log");
    let options = ["-e", "trace=flock", "-e", "inject=flock:error=ENOLCK", "-o", text(&log)];
    let outcome = run(&options, dir.path());
    assert!(outcome.errors.iter().all(|error| error.contains("lock")), "{:?}", outcome.errors);
    assert!(outcome.saved.is_empty() && outcome.errors.len() == 5 && outcome.is_success);
}

/// Faults 6 and 7 on the real disk: that every file is synced, and the directory with their names, before the checkpoint gets
/// its name, and the directory with that name afterwards. What a power cut would do otherwise is in the tests of the store.
/// For: the sync of files, the sync of directories.
///
/// Guards, as `scripts/mutations.py` shows: the sync of files; the sync of directories on the disk.
#[test]
fn everything_is_synced_before_it_has_its_name() {
    if !may_trace() {
        return;
    }
    let dir = fast_dir();
    let log = dir.path().join("log");
    let run_dir = dir.path().join("run");
    let trace = "trace=?openat,?open,?fsync,?fdatasync,?rename,?renameat,?renameat2";
    let outcome = run(&["-y", "-s", "4096", "-e", trace, "-e", "signal=none", "-o", text(&log)], &run_dir);
    assert!(outcome.is_success, "{}", outcome.stderr);
    let checkpoints = run_dir.join("checkpoints");
    let log = fs::read_to_string(&log).unwrap();
    let (mut made, mut synced) = (BTreeSet::new(), BTreeSet::new());
    let (mut commits, mut pending) = (0, false);
    for line in log.lines().filter(|line| line.contains(text(&checkpoints)) && line.trim_end().ends_with(|c| c != '?'))
    {
        let call = line.split_once(' ').unwrap().1.trim();
        let quoted: Vec<&str> = call.split('"').skip(1).step_by(2).collect();
        if call.starts_with("open") && call.contains("O_CREAT") && call.contains("/.tmp-") {
            made.insert(quoted[0].to_owned());
        } else if call.starts_with("fsync") || call.starts_with("fdatasync") {
            let path = call.split_once('<').unwrap().1.split_once('>').unwrap().0;
            synced.insert(path.to_owned());
            pending &= path != text(&checkpoints);
        } else if call.starts_with("rename") {
            assert!(!pending, "the name of the last checkpoint was not synced before {call}");
            let (from, to) = (quoted[0], quoted[1]);
            if to.contains("model_iter-")
                && !to.ends_with(".replaced")
                && from.contains("/.tmp-")
                && !to.contains(".bin")
            {
                let files: Vec<&String> = made.iter().filter(|path| path.starts_with(from)).collect();
                assert!(files.len() >= 4, "{from}: {files:?}");
                for file in files {
                    assert!(synced.contains(file), "{file} was not synced before {call}");
                }
                assert!(synced.contains(from), "{from} was not synced before {call}");
                (commits, pending) = (commits + 1, true);
                synced.clear();
            }
        }
    }
    assert_eq!(commits, 4, "{log}");
    assert!(!pending);
}
