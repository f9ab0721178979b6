//! The real TensorBoard reads what is written. It is looked for in the Python that `ELISTIMATOR_PYTHON` names, or `python3`;
//! without it these tests say that they are skipped.

#![allow(clippy::unwrap_used, clippy::panic)]

use elistimator::summary::EventWriter;
use serde_json::Value;
use std::{
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

fn python() -> String {
    std::env::var("ELISTIMATOR_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Is there a TensorBoard? Says so if not.
fn installed(test: &str) -> bool {
    let import = Command::new(python()).args(["-c", "import tensorboard.program"]).output();
    let found = import.is_ok_and(|import| import.status.success());
    if !found {
        println!("SKIPPED {test}: {} has no module tensorboard (pip install tensorboard)", python());
    }
    found
}

fn ask(arguments: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_logs.py");
    let output = Command::new(python()).arg(script).args(arguments).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let Some(result) = stdout.lines().find_map(|line| line.strip_prefix("RESULT ")) else {
        panic!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    serde_json::from_str(result).unwrap()
}

fn points(dir: &Path) -> Value {
    ask(&["points", dir.to_str().unwrap()])
}

/// The answers of the server to the routes, in order.
fn http(dir: &Path, fast: bool, routes: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["http", dir.to_str().unwrap(), if fast { "true" } else { "false" }];
    arguments.extend(routes);
    let answers = ask(&arguments);
    routes.iter().map(|route| answers[route].clone()).collect()
}

fn loss(step: u64) -> f64 {
    2.5 / (step as f64).sqrt()
}

fn time(step: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + 5 * step)
}

#[test]
fn every_step_arrives_with_its_value_and_its_time() {
    if !installed("every_step_arrives_with_its_value_and_its_time") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut train = EventWriter::create(dir.path().join("train"), 1).unwrap();
    for step in 1..=1072 {
        train.scalars_at(&[("loss", loss(step)), ("learning_rate", 1e-3)], step, time(step)).unwrap();
    }
    train.flush().unwrap();
    let mut validation = EventWriter::create(dir.path().join("validation"), 1).unwrap();
    validation.scalars(&[("accuracy", 0.9779), ("loss", f64::NAN)], 1072).unwrap();
    validation.flush().unwrap();

    let read = points(dir.path());
    let losses = read["train"]["loss"].as_array().unwrap();
    assert_eq!(losses.len(), 1072);
    for (point, step) in losses.iter().zip(1..) {
        assert_eq!(point[0], step);
        assert_eq!(point[1].as_f64().unwrap(), f64::from(loss(step) as f32));
        assert_eq!(point[2].as_f64().unwrap(), time(step).duration_since(UNIX_EPOCH).unwrap().as_secs_f64());
    }
    assert_eq!(read["validation"]["accuracy"][0][0], 1072);
    assert_eq!(read["validation"]["loss"][0][1], "nan");

    for fast in [false, true] {
        let routes = [
            "/data/plugin/scalars/scalars?run=train&tag=loss",
            "/data/plugin/scalars/scalars?run=train&tag=learning_rate",
            "/data/plugin/scalars/scalars?run=validation&tag=accuracy",
            "/data/plugin/scalars/tags",
        ];
        let answers = http(dir.path(), fast, &routes);
        let losses = answers[0].as_array().unwrap();
        assert_eq!(losses.len(), 1072, "fast: {fast}");
        for (point, step) in losses.iter().zip(1..) {
            assert_eq!(point[1], step);
            assert_eq!(point[2].as_f64().unwrap() as f32, loss(step) as f32);
        }
        assert_eq!(answers[1].as_array().unwrap().len(), 1072);
        assert_eq!(answers[2][0][2].as_f64().unwrap() as f32, 0.9779f32);
        assert!(answers[3]["validation"]["loss"].is_object(), "{}", answers[3]);
    }
}

#[test]
fn the_curves_of_a_resumed_run_do_not_overlap() {
    if !installed("the_curves_of_a_resumed_run_do_not_overlap") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let train = dir.path().join("train");
    // Killed at step 120; the last checkpoint was at 100. Both sessions within one second.
    for (first, last, value) in [(1, 120, 1.0), (101, 150, 2.0)] {
        let mut writer = EventWriter::create(&train, first).unwrap();
        for step in first..=last {
            writer.scalars(&[("loss", value)], step).unwrap();
        }
        writer.sync().unwrap();
    }
    let check = |losses: &Value, step: usize, value: usize| {
        let losses = losses.as_array().unwrap();
        assert_eq!(losses.len(), 150);
        for (point, expected) in losses.iter().zip(1..) {
            assert_eq!(point[step], expected);
            assert_eq!(point[value], if expected <= 100 { 1.0 } else { 2.0 });
        }
    };
    check(&points(dir.path())["train"]["loss"], 0, 1);
    for fast in [false, true] {
        check(&http(dir.path(), fast, &["/data/plugin/scalars/scalars?run=train&tag=loss"])[0], 1, 2);
    }
}
