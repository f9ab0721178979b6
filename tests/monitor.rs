//! A monitored metric that is not measured is told early, once.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use common::{Line, in_dir, points};
use elistimator::prelude::*;

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        WARNINGS.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// An estimator by this monitor, with one validation set for each name.
fn monitored(dir: &Path, metric: &str, sets: &[&str]) -> Elistimator<Line> {
    let data = || points(10).batch(5);
    let mut estimator = in_dir(dir).log_file(true).monitor(metric, Mode::Min).max_to_keep(2).build().unwrap();
    let with = |inputs: Inputs, set: &&str| match *set {
        "" => inputs.validation(data()),
        name => inputs.validation_named(name, data()),
    };
    estimator.setup(sets.iter().fold(Inputs::train(data()), with)).unwrap();
    estimator
}

/// The lines of the run's notes that tell it.
fn told(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("log.txt")).unwrap();
    text.lines().filter(|line| line.contains("is monitored, but")).map(str::to_owned).collect()
}

#[test]
fn a_misspelt_monitor_is_told_after_the_first_validation_and_rotation_goes_on() {
    let _ = log::set_logger(&Warnings);
    log::set_max_level(log::LevelFilter::Warn);
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = monitored(dir.path(), "lozz", &[""]);
    assert_eq!(told(dir.path()).len(), 0);
    estimator.validate().unwrap();
    let first = told(dir.path());
    assert!(first.len() == 1 && first[0].contains("warning: \"lozz\" is monitored") && first[0].contains("[\"loss\"]"));
    for _ in 0..4 {
        estimator.train().unwrap().validate().unwrap();
        estimator.save_ckpt().unwrap();
    }
    assert_eq!(told(dir.path()), first);
    let warnings = WARNINGS.lock().unwrap().iter().filter(|text| text.contains("lozz")).count();
    assert_eq!(warnings, 1);
    let steps: Vec<u64> = estimator.checkpoints().unwrap().iter().map(|checkpoint| checkpoint.step).collect();
    assert_eq!(steps, [6, 8]);
    let error = estimator.restore_best().unwrap_err().to_string();
    assert!(error.contains("\"lozz\"") && error.contains("loss"), "{error}");
}

#[test]
fn a_set_that_is_still_to_come_may_bring_it() {
    let run = |metric: &str, sets: &[&str], order: &[&str]| -> Vec<usize> {
        let dir = tempfile::tempdir().unwrap();
        let mut estimator = monitored(dir.path(), metric, sets);
        let mut validate = |set: &&str| {
            match *set {
                "" => estimator.validate(),
                name => estimator.validate_named(name),
            }
            .unwrap();
            told(dir.path()).len()
        };
        order.iter().map(&mut validate).collect()
    };
    assert_eq!(run("loss", &[""], &[""]), [0]);
    // The set's own name for it, or that of no set.
    assert_eq!(run("test/loss", &["", "test"], &["", "test", ""]), [0, 0, 0]);
    assert_eq!(run("loss", &["", "test"], &["test", "", "test"]), [0, 0, 0]);
    assert_eq!(run("test/lsos", &["", "test"], &["", "test", ""]), [0, 1, 1]);
    assert_eq!(run("tset/loss", &["", "test"], &["", "test"]), [1, 1]);
    assert_eq!(run("loss", &["test"], &["test"]), [1]);
    assert_eq!(run("test/loss", &["", "tes"], &["tes", ""]), [0, 1]);
}

#[test]
fn it_is_told_again_only_to_another_estimator() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = monitored(dir.path(), "lsos", &[""]);
    estimator.validate().unwrap();
    estimator.setup(Inputs::train(points(10).batch(5)).validation(points(10).batch(2))).unwrap();
    estimator.validate().unwrap();
    assert_eq!(told(dir.path()).len(), 1);
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_with_a_terminal() {
    let dir = std::env::var_os("MONITOR_DIR").unwrap();
    let mut estimator =
        Elistimator::builder(Line::default()).model_dir(&dir).monitor("lsos", Mode::Min).build().unwrap();
    estimator.setup(Inputs::train(points(10).batch(5)).validation(points(10).batch(5))).unwrap();
    estimator.validate().unwrap();
    estimator.validate().unwrap();
}

#[test]
fn it_is_a_line_on_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", "child_with_a_terminal"]).env("MONITOR_DIR", dir.path());
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    assert_eq!(shown.matches("warning: \"lsos\" is monitored, but").count(), 1, "{shown}");
}
