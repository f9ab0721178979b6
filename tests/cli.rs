//! The command `elistimator` on the directories of a small model.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{in_dir, points, train_data};
use elistimator::metrics::ConfusionMatrix;
use elistimator::prelude::*;
use serde_json::Value;

/// Checkpoints of the steps 2, 4, ... 10, validated.
fn trained(dir: &Path) -> Elistimator<common::Line, elistimator::device::Cpu> {
    let mut estimator = in_dir(dir).max_to_keep(0).build().unwrap();
    estimator.setup(Inputs::train(train_data()).validation(points(20).batch(7))).unwrap();
    for _ in 0..5 {
        estimator.train_steps(2).unwrap().validate().unwrap();
        estimator.save_ckpt().unwrap();
    }
    estimator
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_elistimator")).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(code(&output), 0, "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(&[arguments, &["--json"]].concat())).unwrap()
}

/// Fails with this code and one line that says this.
fn fails(arguments: &[&str], expected: i32, says: &str) {
    let output = run(arguments);
    assert_eq!(code(&output), expected, "{arguments:?}: {}", text(&output.stderr));
    let error = text(&output.stderr);
    assert!(error.contains(says), "{arguments:?}: {error}");
    if expected == 1 {
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// Every path below a directory with its length and time.
fn listing(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        found.insert(format!("{:?} {} {:?}", entry.path(), metadata.len(), metadata.modified().unwrap()));
        if metadata.is_dir() {
            found.extend(listing(&entry.path()));
        }
    }
    found
}

fn steps(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|info| info["step"].as_u64().unwrap()).collect()
}

fn path(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

#[test]
fn ls_and_show_say_what_there_is_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = trained(dir.path());
    estimator.pin(4).unwrap();
    let infos = estimator.checkpoints().unwrap();
    let before = listing(dir.path());
    let d = path(dir.path());

    let list = json(&["ls", d]);
    assert_eq!(steps(&list["checkpoints"]), [2, 4, 6, 8, 10]);
    let losses: Vec<f64> = infos.iter().map(|info| info.metrics.as_ref().unwrap()["loss"]).collect();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    for (info, loss) in list["checkpoints"].as_array().unwrap().iter().zip(&losses) {
        assert_eq!(info["metrics"]["loss"].as_f64(), Some(*loss));
        assert_eq!(info["is_best"], *loss == lowest);
        assert_eq!(info["is_latest"], info["step"] == 10);
        assert_eq!(info["is_pinned"], info["step"] == 4);
    }
    let highest = json(&["ls", d, "--monitor", "loss", "--mode", "max"]);
    let best = highest["checkpoints"].as_array().unwrap().iter().position(|info| info["is_best"] == true).unwrap();
    assert_eq!(losses[best], losses.iter().copied().fold(0.0, f64::max));
    let table = succeeds(&["ls", d]);
    assert!(table.contains("pinned") && table.contains("latest") && table.contains("best"), "{table}");

    let shown = json(&["show", d, "--step", "4"]);
    assert_eq!((shown["step"].as_u64(), shown["parameters"].as_u64()), (Some(4), Some(8 * 3 + 8 + 8 + 1)));
    assert_eq!(shown["hyper_parameters"]["learning_rate"], 0.05);
    assert_eq!(shown["signature"]["inputs"][0]["name"], "x");
    let weight = shown["weights"].as_array().unwrap().iter().find(|tensor| tensor["name"] == "hidden.weight").unwrap();
    assert_eq!((&weight["dtype"], weight["shape"][1].as_u64()), (&Value::from("F32"), Some(3)));
    let bytes = fs::read(infos[1].path.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (values, _) = file.tensor("hidden.weight").unwrap().data().as_chunks::<4>();
    let norm: f64 = values.iter().map(|value| f64::from(f32::from_le_bytes(*value)).powi(2)).sum::<f64>().sqrt();
    assert!((weight["norm"].as_f64().unwrap() - norm).abs() < 1e-9);
    assert!(succeeds(&["show", d, "--best"]).contains("hidden.weight"));
    assert!(json(&["show", d])["step"] == 10);
    assert_eq!(json(&["verify", d])["damaged"], 0);
    json(&["prune", d, "--keep", "1", "--dry-run"]);
    assert_eq!(listing(dir.path()), before, "looking changes nothing, also beside a run that writes");
    fails(&["show", d, "--step", "5"], 1, "no checkpoint of step 5");
    fails(&["show", d, "--best", "--monitor", "f1", "--mode", "max"], 1, "\"loss\"");
}

#[test]
fn verify_names_the_file_that_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let infos = trained(dir.path()).checkpoints().unwrap();
    let d = path(dir.path());
    assert!(succeeds(&["verify", d]).contains("step 10: ok"));
    let file = infos[1].path.join("optimizer.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    fs::write(infos[3].path.join("state.bin"), "short").unwrap();
    fs::remove_file(infos[0].path.join("model.safetensors")).unwrap();
    let output = run(&["verify", d, "--json"]);
    assert_eq!(code(&output), 1);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["damaged"], 3);
    let faults = |index: usize| found["checked"][index]["faults"].to_string();
    assert!(faults(1).contains("optimizer.safetensors") && faults(1).contains("checksum"), "{}", faults(1));
    assert!(faults(3).contains("state.bin"), "{}", faults(3));
    assert!(faults(0).contains("model.safetensors"), "{}", faults(0));
    assert_eq!(found["checked"][2]["is_whole"], true);
    assert!(text(&run(&["verify", d]).stdout).contains("step 4: DAMAGED"));
    fails(&["show", d, "--step", "4"], 1, "optimizer.safetensors");
    let out = dir.path().join("out.safetensors");
    fails(&["export", d, "--step", "2", "-o", path(&out)], 1, "model.safetensors");
    assert!(!out.exists());
    // Without the index, what cannot be read at all is left out, with a warning.
    fs::write(dir.path().join("checkpoints/elistimator_meta"), "short").unwrap();
    let output = run(&["ls", d, "--json"]);
    assert!(text(&output.stderr).contains("warning: left out"), "{}", text(&output.stderr));
    assert_eq!(steps(&serde_json::from_slice::<Value>(&output.stdout).unwrap()["checkpoints"]), [2, 4, 6, 10]);
    assert!(text(&run(&["verify", d]).stdout).contains("elistimator_meta"));
}

#[test]
fn what_is_no_model_directory_is_an_error_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (missing, file, empty) = (dir.path().join("missing"), dir.path().join("file"), dir.path().join("empty"));
    fs::write(&file, "text").unwrap();
    fs::create_dir(&empty).unwrap();
    let (svg, out) = (dir.path().join("a.svg"), dir.path().join("a.safetensors"));
    let commands: [&[&str]; 6] = [
        &["ls"],
        &["show"],
        &["verify"],
        &["plot", "-o", path(&svg)],
        &["export", "-o", path(&out)],
        &["prune", "--keep", "2"],
    ];
    let before = listing(dir.path());
    for command in commands {
        fails(&[command, &[path(&missing)]].concat(), 1, "there is no");
        fails(&[command, &[path(&empty)]].concat(), 1, path(&empty));
        fails(&[command, &[path(&file)]].concat(), 1, path(&file));
    }
    assert_eq!(listing(dir.path()), before);
    // A model directory without a checkpoint is one all the same.
    fs::create_dir(empty.join("checkpoints")).unwrap();
    assert_eq!(json(&["ls", path(&empty)])["checkpoints"], Value::Array(vec![]));
    assert!(succeeds(&["ls", path(&empty)]).contains("no checkpoints"));
    fails(&["show", path(&empty)], 1, "no checkpoint");
    fails(&["verify", path(&empty)], 1, "no checkpoint");
}

#[test]
fn directories_within_a_model_directory_point_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let estimator = trained(dir.path());
    let own = dir.path().canonicalize().unwrap();
    let checkpoints = dir.path().join("checkpoints");
    let (checkpoint, says) = (estimator.checkpoints().unwrap()[0].path.clone(), format!("; {} is", own.display()));
    fails(&["ls", path(&checkpoints)], 1, &says);
    fails(&["show", path(&checkpoint)], 1, &says);
    // Somebody's own directory of that name is none of ours.
    let other = dir.path().join("runs/checkpoints/mine");
    fs::create_dir_all(&other).unwrap();
    fails(&["ls", path(&other)], 1, "expected that of a model\n");
    let ensemble = dir.path().join("ensemble");
    elistimator::Ensemble::new(vec![estimator]).unwrap().save(&ensemble).unwrap();
    fails(&["ls", path(&ensemble)], 1, "holds an ensemble");
}

#[test]
fn files_of_other_formats_are_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let _estimator = trained(&model);
    let before = listing(dir.path());
    for name in ["curves.png", "curves.PDF"] {
        fails(&["plot", path(&model), "-o", path(&dir.path().join(name))], 1, "SVG");
    }
    fails(&["plot", path(&model), "-o", "-"], 1, "SVG");
    fails(&["export", path(&model), "-o", "-"], 1, "name of a file");
    assert_eq!(listing(dir.path()), before);
}

#[test]
fn wrong_usage_is_code_2() {
    for arguments in [
        &["ls"] as &[&str],
        &["list", "x"],
        &["show", "x", "--step", "-1"],
        &["show", "x", "--step", "1", "--best"],
        &["show", "x", "--monitor", "f1"],
        &["prune", "x", "--keep", "0"],
        &["prune", "x"],
        &["export", "x"],
    ] {
        fails(arguments, 2, "");
    }
    assert!(succeeds(&["--help"]).contains("prune"));
}

#[test]
fn an_export_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = trained(dir.path());
    let best = {
        let mut infos = estimator.checkpoints().unwrap();
        infos.sort_by(|a, b| a.metrics.as_ref().unwrap()["loss"].total_cmp(&b.metrics.as_ref().unwrap()["loss"]));
        infos.remove(0)
    };
    let d = path(dir.path());
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("best.safetensors");
    // Without metrics, so it is not the best.
    estimator.train_steps(2).unwrap();
    let latest = estimator.save_ckpt().unwrap().step;
    assert_ne!(best.step, latest);
    for (choice, step) in [("--best", best.step), ("--latest", latest)] {
        assert_eq!(json(&["export", d, "-o", path(&out), choice])["step"], step);
        for name in ["best.safetensors", "best.json"] {
            fs::remove_file(target.path().join(name)).unwrap();
        }
    }
    assert_eq!(json(&["export", d, "-o", path(&out)])["step"], best.step);
    let bytes = fs::read(&out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("hidden.weight").unwrap().shape(), [8, 3]);
    assert_eq!(bytes, fs::read(best.path.join("model.safetensors")).unwrap());
    let beside: Value = serde_json::from_slice(&fs::read(target.path().join("best.json")).unwrap()).unwrap();
    assert_eq!(beside["hyper_parameters"]["learning_rate"], 0.05);
    assert_eq!(beside["signature"]["inputs"][1]["name"], "y");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 2, "nothing else is left");

    let before = listing(target.path());
    fails(&["export", d, "-o", path(&out)], 1, "--force");
    assert_eq!(listing(target.path()), before);
    // One of the two is enough to refuse.
    fs::remove_file(&out).unwrap();
    fails(&["export", d, "-o", path(&out)], 1, "best.json exists");
    assert!(!out.exists());
    assert_eq!(json(&["export", d, "-o", path(&out), "--step", "4", "--force"])["step"], 4);
    assert!(out.exists());
    fails(&["export", d, "-o", path(target.path()), "--force"], 1, "");
    fails(&["export", d, "-o", path(&target.path().join("a.json"))], 1, ".json");
    fails(&["export", d, "-o", path(&target.path().join("no/a.safetensors"))], 1, "there is no");
    let inside = best.path.join("model.safetensors");
    fails(&["export", d, "-o", path(&inside), "--force"], 1, "among the checkpoints");
    assert_eq!(json(&["verify", d])["damaged"], 0);
}

#[test]
fn of_a_run_without_metrics_the_latest_is_exported() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut estimator = in_dir(dir.path()).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap();
    for _ in 0..2 {
        estimator.train_steps(2).unwrap();
        estimator.save_ckpt().unwrap();
    }
    let (d, out) = (path(dir.path()), target.path().join("weights.safetensors"));
    fails(&["export", d, "-o", path(&out), "--best"], 1, "to be the best by");
    assert_eq!(json(&["export", d, "-o", path(&out)])["step"], 4);
}

#[test]
fn prune_keeps_the_best_the_latest_and_the_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = trained(dir.path());
    estimator.pin(6).unwrap();
    let d = path(dir.path());
    fails(&["prune", d, "--keep", "1"], 1, "being written");
    assert_eq!(estimator.checkpoints().unwrap().len(), 5);
    drop(estimator);
    let list = json(&["ls", d, "--monitor", "loss", "--mode", "max"]);
    let worst = list["checkpoints"].as_array().unwrap().iter().find(|info| info["is_best"] == true).unwrap();
    let list = json(&["ls", d]);
    let best = list["checkpoints"].as_array().unwrap().iter().find(|info| info["is_best"] == true).unwrap();
    let mut kept: BTreeSet<u64> = [&worst["step"], &best["step"]].map(|step| step.as_u64().unwrap()).into();
    kept.extend([6, 10]);
    let kept: Vec<u64> = kept.into_iter().collect();
    let arguments = ["prune", d, "--keep", "1", "--monitor", "loss", "--mode", "max"];
    assert_eq!(steps(&json(&[&arguments[..], &["--dry-run"]].concat())["kept"]), kept);
    assert_eq!(json(&["ls", d])["checkpoints"].as_array().unwrap().len(), 5);
    assert_eq!(steps(&json(&arguments)["kept"]), kept);
    assert_eq!(steps(&json(&["ls", d])["checkpoints"]), kept);
    assert_eq!(json(&["verify", d])["damaged"], 0);

    // What is kept has to be whole before anything goes.
    let latest = dir.path().join("checkpoints/model_iter-0000000010/model.safetensors");
    fs::write(latest, "short").unwrap();
    let count = kept.len();
    fails(&["prune", d, "--keep", "1"], 1, "model.safetensors");
    assert_eq!(json(&["ls", d])["checkpoints"].as_array().unwrap().len(), count);
}

#[test]
fn the_runs_own_monitor_decides_what_is_best() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).monitor("loss", Mode::Max).build().unwrap();
    estimator.setup(Inputs::train(train_data()).validation(points(20).batch(7))).unwrap();
    for _ in 0..3 {
        estimator.train_steps(2).unwrap().validate().unwrap();
        estimator.save_ckpt().unwrap();
    }
    let infos = estimator.checkpoints().unwrap();
    drop(estimator);
    let by_loss =
        |info: &&elistimator::checkpoint::CheckpointInfo| (info.metrics.as_ref().unwrap()["loss"] * 1e9) as u64;
    let expected = infos.iter().max_by_key(by_loss).unwrap().step;
    assert_eq!(json(&["show", path(dir.path()), "--best"])["step"], expected);
    let kept = steps(&json(&["prune", path(dir.path()), "--keep", "1"])["kept"]);
    assert!(kept.contains(&expected), "{kept:?}");
}

#[test]
fn plot_draws_what_the_run_logged() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = trained(dir.path());
    let own = dir.path().join("own.svg");
    estimator.plot(&own).unwrap();
    drop(estimator);
    let svg = dir.path().join("curves.svg");
    let drawn = json(&["plot", path(dir.path()), "-o", path(&svg)]);
    assert!(drawn["series"].as_array().unwrap().contains(&"validation/loss".into()), "{drawn}");
    let drawing = fs::read_to_string(&svg).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.contains("validation"));
    assert!(!drawing.contains("data_wait"));
    assert_eq!(drawing, fs::read_to_string(own).unwrap(), "the run draws the same");
    succeeds(&["plot", path(dir.path()), "-o", path(&svg), "--all"]);
    assert!(fs::read_to_string(&svg).unwrap().contains("data_wait"));
    // A confusion matrix that a validation has logged stands below the curves.
    assert_eq!(drawn["matrices"], serde_json::json!([]));
    let counts = ConfusionMatrix::from_classes(&[0, 1, 1], &[0, 0, 1], 2).unwrap();
    let mut history = elistimator::summary::HistoryWriter::create(dir.path(), 1_000_000);
    history.measured("validation", 40, &[("confusion", 0.7)], &[("confusion".to_owned(), counts.into())]);
    drop(history);
    let drawn = json(&["plot", path(dir.path()), "-o", path(&svg)]);
    assert_eq!(drawn["matrices"], serde_json::json!(["validation/confusion"]));
    assert!(fs::read_to_string(&svg).unwrap().contains("validation/confusion, step 40"));
    let mut fresh = in_dir(&dir.path().join("fresh")).build().unwrap();
    let error = fresh.plot(dir.path().join("nothing.svg")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    drop(trained(dir.path()));
    for command in ["ls", "show"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_elistimator"))
            .args([command, path(dir.path())])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((code(&output), text(&output.stderr)), (0, ""));
    }
}
