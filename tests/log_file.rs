//! The log file in the model directory.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::sync::Mutex;

use common::{in_dir, points};
use elistimator::prelude::*;

/// What the library warns of.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn inputs() -> Inputs {
    Inputs::train(points(10).batch(5)).validation(points(10).batch(5))
}

/// Step and text of each line.
fn lines(dir: &std::path::Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(dir.join("log.txt")).unwrap();
    let line = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        assert!(parts.next().unwrap().ends_with('Z'), "{line}");
        let step = parts.next().unwrap().strip_prefix("step=").unwrap().parse().unwrap();
        (step, parts.next().unwrap().to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn every_event_is_a_line_and_a_resumed_run_appends() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).log_file(true).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap().validate().unwrap();
    estimator.save_ckpt().unwrap();
    // Two epochs and a half.
    estimator.train_steps(5).unwrap();
    drop(estimator);
    let first = lines(dir.path());
    let begins: Vec<(u64, &str)> = first.iter().map(|(step, text)| (*step, text.split(':').next().unwrap())).collect();
    assert_eq!(
        begins,
        [(0, "setup"), (2, "epoch 1 done"), (2, "validation"), (2, "saved"), (4, "epoch 2 done"), (6, "epoch 3 done")]
    );
    assert!(first[2].1.contains("loss=") && first[1].1.contains("loss"), "{first:?}");

    let mut resumed = in_dir(dir.path()).log_file(true).resume_or_start().unwrap();
    resumed.setup(inputs()).unwrap();
    drop(resumed);
    let all = lines(dir.path());
    assert_eq!(all[..first.len()], first);
    assert_eq!(all[first.len()..].iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 2]);
    assert!(all[first.len()].1.starts_with("restored"), "{all:?}");
}

#[test]
fn failures_are_lines_too() {
    let dir = tempfile::tempdir().unwrap();
    let nan = Record::new()
        .with("x", Array::new([5, 3], vec![f32::NAN; 15]).unwrap())
        .with("y", Array::new([5, 1], vec![1.0f32; 5]).unwrap());
    let data = Dataset::from_arrays(nan).unwrap().batch(5);
    let mut estimator = in_dir(dir.path()).log_file(true).build().unwrap();
    assert!(estimator.setup(Inputs::train(data.clone())).unwrap().train().is_err());
    let last = lines(dir.path()).pop().unwrap();
    assert!(last.1.starts_with("stopped") && last.1.contains("loss"), "{last:?}");
    drop(estimator);
    let going_on = in_dir(dir.path()).log_file(true).on_not_finite(elistimator::NotFinite::GoOn);
    let mut estimator = going_on.build().unwrap();
    estimator.setup(Inputs::train(data)).unwrap().train().unwrap();
    estimator.save_ckpt().unwrap();
    let all = lines(dir.path());
    assert!(all.iter().any(|(step, text)| *step == 1 && text.starts_with("warning") && text.contains("loss")));
    assert!(all.last().unwrap().1.contains("not finite"), "{all:?}");
}

#[test]
fn there_is_none_unless_asked_for_and_trouble_with_it_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap().save_ckpt().unwrap();
    assert!(!dir.path().join("log.txt").exists());
    drop(estimator);
    fs::create_dir(dir.path().join("log.txt")).unwrap();
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let mut estimator = in_dir(dir.path()).log_file(true).build().unwrap();
    estimator.setup(inputs()).unwrap().train().unwrap().validate().unwrap();
    estimator.save_ckpt().unwrap();
    let place = dir.path().to_str().unwrap();
    let warnings = WARNINGS.0.lock().unwrap();
    let count = warnings.iter().filter(|text| text.contains("log file") && text.contains(place)).count();
    assert_eq!(count, 1, "{warnings:?}");
}

#[test]
fn what_was_passed_over_and_how_long_the_data_took_are_lines() {
    let dir = tempfile::tempdir().unwrap();
    let data = || {
        // An iterator cannot be sought: what comes before the place is made again.
        let one = |i: i32| Record::new().with("x", vec![i as f32, 0.0, 0.0]).with("y", vec![i as f32]);
        let slow = move |i| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            Ok(one(i))
        };
        Inputs::train(Dataset::from_fn(move || Ok((0..40).map(slow))).batch(5))
    };
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(data()).unwrap().train_steps(3).unwrap().save_ckpt().unwrap();
    let damaged = estimator.train_steps(2).unwrap().save_ckpt().unwrap();
    drop(estimator);
    fs::write(damaged.path.join("model.safetensors"), "short").unwrap();

    let mut estimator = in_dir(dir.path()).log_file(true).resume_or_start().unwrap();
    estimator.setup(data()).unwrap();
    let said = lines(dir.path());
    let find =
        |begin: &str| said.iter().find(|(_, text)| text.starts_with(begin)).unwrap_or_else(|| panic!("{said:?}"));
    let (step, text) = find("warning: a damaged checkpoint is passed over");
    assert!(*step == 3 && text.contains("model_iter-0000000005/model.safetensors: found 5 bytes"), "{text}");
    let (step, text) = find("went to batch 3 of epoch 1 in ");
    let seconds: f64 = text.split(' ').nth_back(1).unwrap().parse().unwrap();
    assert!(*step == 3 && seconds >= 0.2, "{text}");
}

#[test]
fn a_run_beside_an_earlier_one_is_told_of_once() {
    let dir = tempfile::tempdir().unwrap();
    let told = || lines(dir.path()).iter().filter(|(_, text)| text.contains("resume_or_start")).count();
    let mut first = in_dir(dir.path()).log_file(true).build().unwrap();
    first.setup(inputs()).unwrap().train().unwrap().save_ckpt().unwrap();
    first.setup(inputs()).unwrap();
    drop(first);
    in_dir(dir.path()).log_file(true).resume_or_start().unwrap().setup(inputs()).unwrap();
    assert_eq!(told(), 0);
    in_dir(dir.path()).log_file(true).build().unwrap().setup(inputs()).unwrap();
    assert_eq!(told(), 1);
}
