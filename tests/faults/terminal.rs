//! Outputs that are closed, broken or full: nobody reads the progress, and the run ends as if somebody did.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use elistimator::prelude::*;

use crate::common::Line;
use crate::support::{data, run_in, text, tool};

const DIR: &str = "ELISTIMATOR_TEST_FAULTS_TERMINAL";
const MODE: &str = "ELISTIMATOR_TEST_FAULTS_MODE";
/// Set for a talker whose terminal is closed in the middle: a directory in which it says that it is there, and is told that
/// the terminal is gone.
const TERMINAL: &str = "ELISTIMATOR_TEST_FAULTS_TERMINAL_DIR";

fn mode(name: &str) -> ProgressMode {
    match name {
        "on" => ProgressMode::On,
        "off" => ProgressMode::Off,
        _ => ProgressMode::Auto,
    }
}

/// Not a test of its own: the child process, which talks as much as it can.
#[test]
fn talker() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let mut estimator = Elistimator::builder(Line::default())
        .seed(3)
        .model_dir(&dir)
        .progress(mode(&std::env::var(MODE).unwrap()))
        .log_every(LogEvery::Steps(1))
        .describe(true)
        .build()
        .unwrap();
    estimator.setup(data()).unwrap();
    while estimator.global_step() < 40 {
        estimator.train_steps(4).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        if let Some(terminal) = std::env::var_os(TERMINAL).filter(|_| estimator.global_step() == 20) {
            closed(Path::new(&terminal));
        }
    }
    estimator.validate().unwrap();
    estimator.save_ckpt().unwrap();
    drop(estimator);
    // The test runner's own last words could fail on a closed output.
    std::process::exit(0);
}

fn closed(dir: &Path) {
    fs::write(dir.join("in the middle"), "").unwrap();
    let begun = Instant::now();
    while !dir.join("closed").exists() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long is waited for another process that has next to nothing to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// The talker's command line for a shell.
fn talker_line() -> String {
    let this = std::env::current_exe().unwrap();
    format!("'{}' terminal::talker --exact --nocapture --test-threads=1", text(&this))
}

fn ends_well(mode: &str, line: &str) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let errors = File::create(dir.path().join("stderr")).unwrap();
    let status = Command::new("bash")
        .args(["-c", line])
        .env(DIR, &run)
        .env(MODE, mode)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .status()
        .unwrap();
    let said = fs::read_to_string(dir.path().join("stderr")).unwrap();
    assert!(status.success(), "{mode}: {line}: {status}: {said}");
    let expected = {
        let dir = tempfile::tempdir().unwrap();
        run_in(dir.path(), 1, 40).hashes().unwrap()
    };
    let found = Elistimator::<Line>::from_disk(&run).unwrap();
    assert_eq!((found.global_step(), found.hashes().unwrap()), (40, expected), "{mode}: {line}");
}

/// Fault 64.
#[test]
fn observers_are_harmless_with_closed_broken_and_full_outputs() {
    if tool("bash", &["-c", "true"]).is_none() {
        return;
    }
    let talker = talker_line();
    for mode in ["auto", "on", "off"] {
        for outputs in ["", ">&- 2>&-", "<&- >&- 2>&-", "2>&-", "2>/dev/full"] {
            ends_well(mode, &format!("{talker} {outputs}"));
        }
        // The status is the talker's, not that of its reader; the test runner's words, which do matter to it, go elsewhere.
        for reader in ["head -n 2", "head -c 1", "true", "(exec <&-; sleep 0.1)"] {
            ends_well(mode, &format!("set -o pipefail; {{ {talker} 2>&1 >&3 | {reader}; }} 3>&1"));
        }
    }
}

/// Fault 64, with a terminal that goes away in the middle of a run that was told to outlive it.
#[test]
fn observers_are_harmless_when_the_terminal_is_closed() {
    if tool("script", &["--version"]).is_none() {
        return;
    }
    let talker = talker_line();
    for mode in ["auto", "on", "off"] {
        // Killed, `script` takes its terminal along; the shell waits until the talker, which goes on, has saved.
        let line = "script -qec \"trap '' HUP; exec $TALKER\" /dev/null & \
                    until_there() { for i in {1..2400}; do [ -e \"$1\" ] && return; sleep 0.05; done; exit $2; }; \
                    until_there \"$TERMINAL/in the middle\" 7; kill -9 $! || exit 9; wait; \
                    [ -d $DIR/checkpoints/model_iter-0000000040 ] && exit 10; touch \"$TERMINAL/closed\"; \
                    until_there $DIR/checkpoints/model_iter-0000000040 8";
        let terminal = tempfile::tempdir().unwrap();
        let line = line.replace("$TALKER", &format!("env {TERMINAL}='{}' {talker}", text(terminal.path())));
        let line = line.replace("$TERMINAL", text(terminal.path()));
        ends_well(mode, &line.replace("$DIR", &format!("\"${DIR}\"")));
    }
}

/// Fault 64: the curves have no room, the checkpoints do.
#[test]
fn observers_are_harmless_when_the_logs_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train", "validation"] {
        std::os::unix::fs::symlink("/dev/full", dir.path().join(name)).unwrap();
    }
    let expected = {
        let dir = tempfile::tempdir().unwrap();
        run_in(dir.path(), 1, 8).hashes().unwrap()
    };
    let mut estimator = run_in(dir.path(), 1, 8);
    estimator.validate().unwrap();
    estimator.save_ckpt().unwrap();
    assert_eq!(estimator.hashes().unwrap(), expected);
    assert_eq!(Elistimator::<Line>::from_disk(dir.path()).unwrap().global_step(), 8);
}
