//! What the loop writes, read by the real TensorBoard and by Python's safetensors.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{in_dir, points};
use elistimator::prelude::*;

/// Runs a script with the interpreter that has the modules; `None`, and a line saying so, where there is none.
fn python(modules: &str, script: &str, argument: &Path) -> Option<String> {
    let interpreter = std::env::var("ELISTIMATOR_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&interpreter).args(["-c", &format!("import {modules}")]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: {interpreter} cannot import {modules}; set ELISTIMATOR_PYTHON to one that can");
        return None;
    }
    let output = Command::new(&interpreter).args(["-c", script]).arg(argument).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

const SCALARS: &str = r#"
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
for run, tag in (("train", "loss"), ("train", "learning_rate"), ("validation", "loss")):
    events = EventAccumulator(sys.argv[1] + "/" + run, size_guidance={"scalars": 0})
    events.Reload()
    for event in events.Scalars(tag):
        print(run, tag, event.step, event.value)
"#;

#[test]
fn tensorboard_sees_every_step_once_also_of_a_resumed_run() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = || Inputs::train(points(1072).shuffle(100).batch(1)).validation(points(20).batch(7));
    let mut first = in_dir(dir.path()).build().unwrap();
    first.setup(inputs()).unwrap().train_steps(500).unwrap().save_ckpt().unwrap();
    // Lost work: these points must not be seen beside those of the resumed run.
    first.train_steps(200).unwrap();
    drop(first);
    let mut second = in_dir(dir.path()).resume_or_start().unwrap();
    let metrics = second.setup(inputs()).unwrap().train().unwrap().validate().unwrap();
    drop(second);

    let unbroken_dir = tempfile::tempdir().unwrap();
    let mut unbroken = in_dir(unbroken_dir.path()).build().unwrap();
    unbroken.setup(inputs()).unwrap().train().unwrap().validate().unwrap();
    drop(unbroken);

    let Some(text) = python("tensorboard", SCALARS, dir.path()) else { return };
    let losses: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("train loss "))
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(losses, (1..=1072).collect::<Vec<u64>>());
    assert_eq!(
        Some(text.clone()),
        python("tensorboard", SCALARS, unbroken_dir.path()),
        "the curves are the unbroken run's"
    );
    assert!(text.contains("train learning_rate 1 0.05"), "{}", &text[..200]);
    let validation = text.lines().find_map(|line| line.strip_prefix("validation loss 1072 ")).unwrap();
    let found: f64 = validation.parse().unwrap();
    assert!((found - metrics.get("loss").unwrap()).abs() < 1e-6);
}

#[test]
fn python_opens_the_weights_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).build().unwrap();
    let saved = estimator.save_ckpt().unwrap();
    let script = "import sys\nfrom safetensors.numpy import load_file\n\
                  for name, values in sorted(load_file(sys.argv[1]).items()): print(name, list(values.shape), values.dtype)";
    let Some(text) = python("safetensors.numpy", script, &saved.path.join("model.safetensors")) else { return };
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "hidden.bias [8] float32",
            "hidden.weight [8, 3] float32",
            "out.bias [1] float32",
            "out.weight [1, 8] float32"
        ]
    );
}
