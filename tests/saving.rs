//! Saves beside training, what runs after a save, and signals.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{Line, in_dir, points, train_data};
use elistimator::prelude::*;

fn inputs() -> Inputs {
    Inputs::train(train_data()).validation(points(17).batch(4))
}

fn steps_on_disk(dir: &Path) -> Vec<u64> {
    in_dir(dir).build().unwrap().checkpoints().unwrap().iter().map(|info| info.step).collect()
}

#[test]
fn saves_in_the_background_are_the_same_checkpoints() {
    let (beside, blocking) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, background) in [(&beside, true), (&blocking, false)] {
        let builder = in_dir(dir.path()).save_every(Every::Steps(7)).max_to_keep(3).background_saving(background);
        let mut estimator = builder.build().unwrap();
        estimator.setup(inputs()).unwrap().train_until(40).unwrap();
        if background {
            assert_eq!(estimator.wait_for_save().unwrap().map(|info| info.step), Some(35));
            assert_eq!(estimator.wait_for_save().unwrap(), None, "told once");
        }
    }
    assert_eq!(steps_on_disk(beside.path()), [21, 28, 35]);
    assert_eq!(steps_on_disk(blocking.path()), [21, 28, 35]);
    for step in [21, 28, 35] {
        let hashes = |dir: &Path| {
            let builder = Builder::<Line, Cpu>::from_disk(dir, Which::Step(step)).unwrap();
            builder.build().unwrap().hashes().unwrap()
        };
        assert_eq!(hashes(beside.path()), hashes(blocking.path()), "step {step}");
    }
}

#[test]
fn a_save_in_the_background_is_of_the_moment_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train_steps(5).unwrap();
    let expected = estimator.hashes().unwrap();
    estimator.save_ckpt_in_background().unwrap().train_steps(30).unwrap();
    // Verbs that need the directory wait for it by themselves.
    estimator.restore_ckpt(5).unwrap();
    assert_eq!(estimator.hashes().unwrap(), expected);
}

#[test]
fn an_estimator_that_is_dropped_brings_its_save_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train_steps(5).unwrap().save_ckpt_in_background().unwrap();
    drop(estimator);
    assert_eq!(steps_on_disk(dir.path()), [5]);
}

#[test]
fn a_save_that_fails_in_the_background_comes_back_as_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).save_every(Every::Steps(4)).background_saving(true).build().unwrap();
    estimator.setup(inputs()).unwrap().train_until(4).unwrap().wait_for_save().unwrap();
    let checkpoints = dir.path().join("checkpoints");
    std::fs::rename(&checkpoints, dir.path().join("elsewhere")).unwrap();
    let error = estimator.train_until(40).map(|_| ()).and_then(|()| estimator.wait_for_save()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("in the background") && error.to_string().contains("checkpoints"), "{error}");
    let done = estimator.global_step();

    std::fs::rename(dir.path().join("elsewhere"), &checkpoints).unwrap();
    estimator.train_until(done + 8).unwrap().wait_for_save().unwrap();
    assert!(steps_on_disk(dir.path()).contains(&4), "the earlier one is as it was");
    assert!(steps_on_disk(dir.path()).len() > 1, "and saving goes on");
}

/// The child of the test below: nobody asks what came of the last save.
#[test]
#[ignore = "run by the test below"]
fn child_that_does_not_wait_for_its_save() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let mut estimator = in_dir(Path::new(&dir)).progress(ProgressMode::Auto).build().unwrap();
    estimator.setup(inputs()).unwrap().train_steps(5).unwrap().save_ckpt().unwrap();
    std::fs::rename(Path::new(&dir).join("checkpoints"), Path::new(&dir).join("elsewhere")).unwrap();
    estimator.train_steps(5).unwrap().save_ckpt_in_background().unwrap();
}

#[test]
fn a_last_save_that_fails_is_said_although_nobody_asks() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_does_not_wait_for_its_save", "--exact", "--ignored", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("error: the last checkpoint was not saved: ") && said.contains("checkpoints"), "{said}");
}

#[test]
fn saves_come_every_so_many_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let pause = std::time::Duration::from_millis(60);
    let builder = |every| in_dir(dir.path()).save_every(Every::Time(every)).max_to_keep(0);
    let slow = train_data().map(|record| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        Ok(record)
    });
    let mut estimator = builder(pause).build().unwrap();
    estimator.setup(Inputs::train(&slow)).unwrap().train_until(60).unwrap();
    let saved = estimator.checkpoints().unwrap();
    assert!((2..=60).contains(&saved.len()), "{}", saved.len());
    for pair in saved.windows(2) {
        let milliseconds = (pair[1].saved_at - pair[0].saved_at).num_milliseconds();
        assert!(milliseconds >= 55, "{milliseconds} ms between steps {} and {}", pair[0].step, pair[1].step);
    }
    drop(estimator);
    let mut estimator = builder(std::time::Duration::MAX).resume_or_start().unwrap();
    estimator.setup(Inputs::train(&slow)).unwrap().train_until(61).unwrap();
    assert_eq!(estimator.checkpoints().unwrap(), saved);
}

#[test]
fn a_closure_runs_after_each_save_of_a_verb_once_it_is_on_the_disk() {
    for background in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator =
            in_dir(dir.path()).save_every(Every::Steps(5)).background_saving(background).build().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (copy, path) = (Arc::clone(&seen), dir.path().to_owned());
        estimator.after_save(move |estimator, info| {
            let on_disk = Elistimator::<Line>::from_disk(&path)?.checkpoints()?;
            assert!(on_disk.iter().any(|found| found.step == info.step), "step {}", info.step);
            // All verbs are at hand.
            estimator.validate()?;
            copy.lock().unwrap().push(info.step);
            Ok(())
        });
        estimator.setup(inputs()).unwrap().train_until(22).unwrap().wait_for_save().unwrap();
        assert_eq!(*seen.lock().unwrap(), [5, 10, 15, 20], "background: {background}");
        estimator.save_ckpt().unwrap();
        assert_eq!(seen.lock().unwrap().len(), 4, "not after the saves of your own");
    }
}

#[test]
fn errors_and_panics_after_a_save_end_the_verb_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).save_every(Every::Steps(5)).build().unwrap();
    estimator.setup(inputs()).unwrap();
    estimator.after_save(|_, _| Err(Error::new(ErrorKind::InvalidArgument, "enough")));
    let error = estimator.train_until(40).unwrap_err();
    assert!(error.to_string().contains("enough"), "{error}");
    assert_eq!(estimator.global_step(), 5);
    estimator.after_save(|_, _| panic!("oh no"));
    let error = estimator.train_until(40).unwrap_err();
    assert!(error.to_string().contains("oh no") && error.to_string().contains("step 10"), "{error}");
    estimator.after_save(|_, _| Ok(()));
    estimator.train_until(40).unwrap();

    let unbroken_dir = tempfile::tempdir().unwrap();
    let mut unbroken = in_dir(unbroken_dir.path()).build().unwrap();
    unbroken.setup(inputs()).unwrap().train_until(40).unwrap();
    assert_eq!(estimator.hashes().unwrap(), unbroken.hashes().unwrap());
}

const DIR: &str = "ELISTIMATOR_TEST_INTERRUPTED_DIR";
/// How many milliseconds the child takes for each batch.
const PAUSE: &str = "ELISTIMATOR_TEST_INTERRUPTED_PAUSE";

/// The child of the tests below: trains until a signal comes.
#[test]
#[ignore = "run by the tests below"]
fn interrupted_child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let builder = in_dir(Path::new(&dir)).handle_interrupts(true).save_on_error(true);
    let mut estimator = builder.resume_or_start().unwrap();
    let pause = std::time::Duration::from_millis(std::env::var(PAUSE).unwrap().parse().unwrap());
    let made = std::sync::atomic::AtomicUsize::new(0);
    let slow = train_data().map(move |batch| {
        // The first one is made by `setup`. From the second on the signal comes into the middle of a verb.
        match made.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => return Ok(batch),
            1 => println!("READY"),
            _ => {}
        }
        std::thread::sleep(pause);
        Ok(batch)
    });
    estimator.setup(Inputs::train(slow)).unwrap();
    let error = estimator.train_until(u64::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    // Everything is still usable.
    let step = estimator.global_step();
    estimator.train_steps(1).unwrap();
    assert_eq!(estimator.global_step(), step + 1);
    println!("DONE {step}");
}

/// The child of a test below: a signal comes while the last batch of an epoch is made.
#[test]
#[ignore = "run by the tests below"]
fn child_interrupted_at_the_end_of_an_epoch() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let last = std::sync::atomic::AtomicUsize::new(0);
    let data = points(100).batch(5).map(move |batch| {
        if last.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 19 {
            Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status().unwrap();
            // For the thread that listens, whatever else the machine does.
            std::thread::sleep(std::time::Duration::from_millis(2000));
        }
        Ok(batch)
    });
    let mut estimator = in_dir(Path::new(&dir))
        .handle_interrupts(true)
        .save_every(Every::Steps(20))
        .background_saving(true)
        .build()
        .unwrap();
    estimator.setup(Inputs::train(data).validation(points(17).batch(4))).unwrap();
    let error = estimator.train().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(error.to_string().contains("after step 20"), "{error}");
    assert_eq!(steps_on_disk(Path::new(&dir)), [20], "the save that went on is at its end");
    assert_eq!(estimator.epoch(), 0, "what follows an epoch is still to be done");
    estimator.train().unwrap().validate().unwrap();
    assert_eq!((estimator.global_step(), estimator.epoch()), (20, 1));
    println!("DONE");
}

fn start(dir: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    start_by(Command::new(std::env::current_exe().unwrap()), dir, 20)
}

/// Starts the child, which is in the middle of a training verb when this returns.
fn start_by(mut command: Command, dir: &Path, pause: u32) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command
        .args(["interrupted_child", "--exact", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(PAUSE, pause.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("READY") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child ended before it was ready");
    }
    (child, output)
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
#[cfg(unix)]
fn a_signal_ends_the_verb_after_its_batch_and_leaves_all_usable() {
    for name in ["-TERM", "-INT"] {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, mut output) = start(dir.path());
        signal(&child, name);
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success(), "{name}: {rest}");
        let step: u64 = rest.split("DONE ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        assert!(step > 0);
        assert_eq!(steps_on_disk(dir.path()), [step], "saved on the error, as was asked for");
    }
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    // Far too slow for the first signal to be looked at before the second comes.
    let (mut child, _output) = start_by(Command::new(std::env::current_exe().unwrap()), dir.path(), 60_000);
    signal(&child, "-INT");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the first waits for the batch");
    // The same signal at once would count as the first.
    signal(&child, "-TERM");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
}

#[test]
#[cfg(unix)]
fn a_signal_at_the_end_of_an_epoch_leaves_the_epoch_to_be_ended() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child_interrupted_at_the_end_of_an_epoch", "--exact", "--ignored", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("DONE"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// The program, started to ignore a signal.
#[cfg(unix)]
fn ignoring(signal: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' {signal}; exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    shell
}

/// What a script starts by `&` ignores Ctrl-C, and is interrupted by who sends it that signal all the same.
#[test]
#[cfg(unix)]
fn a_program_in_the_background_is_interrupted_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mut output) = start_by(ignoring("INT"), dir.path(), 20);
    signal(&child, "-INT");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
}

/// `nohup` ignores the signal of a terminal that closes.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mut output) = start_by(ignoring("HUP"), dir.path(), 20);
    signal(&child, "-HUP");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    signal(&child, "-TERM");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
}
