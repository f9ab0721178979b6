//! The real TensorBoard reads what is written. It is looked for in the Python that `ELISTIMATOR_PYTHON` names, or `python3`;
//! without it these tests say that they are skipped.

#![allow(clippy::unwrap_used, clippy::panic)]

use elistimator::summary::{Chart, Embedding, EventWriter, Histogram, HyperParameters, Image, Layout, PrCurve};
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

fn digit_3() -> PrCurve {
    let labels: Vec<bool> = (0..1000).map(|i| i * 7919 % 1000 > 500).collect();
    let predictions: Vec<f32> =
        (0..1000).map(|i| (i * 7919 % 1000) as f32 / 1000.0 * 0.6 + (i * 31 % 400) as f32 / 1000.0).collect();
    PrCurve::of(&labels, &predictions, 51).unwrap()
}

/// A run of everything there is, as a model directory has it.
fn write_all(dir: &Path, learning_rate: f64) {
    let mut root = EventWriter::create(dir, 0).unwrap();
    let model = serde_json::json!({ "learning_rate": learning_rate, "augment": true, "optimizer": { "name": "sgd" } });
    root.hyper_parameters(&HyperParameters::of(&model).unwrap()).unwrap();
    let mut train = EventWriter::create(dir.join("train"), 0).unwrap();
    let charts = [Chart::lines("losses", ["loss", "critic/loss"]), Chart::margin("bounds", "loss", "low", "high")];
    train.layout(&Layout::new().category("Losses", charts)).unwrap();
    for step in 0..10u64 {
        let at = step as f64;
        let loss = 2.0 * (-learning_rate * 40.0 * at).exp() + 0.05;
        let values = [("loss", loss), ("critic/loss", 1.0 / (at + 1.0)), ("low", loss * 0.8), ("high", loss * 1.2)];
        train.scalars(&values, 100 * step).unwrap();
        let noise = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
        let weights: Vec<f32> =
            (0..2000).map(|i| ((0..6).map(|k| noise(6 * i + k)).sum::<f64>() / 3.0 - 1.0 + 0.05 * at) as f32).collect();
        train.histogram("dense/weight", &Histogram::of(&weights), 100 * step).unwrap();
    }
    let pixels: Vec<u8> = (0..64u32 * 48).flat_map(|i| [(i % 64 * 4) as u8, (i / 64 * 5) as u8, 128]).collect();
    train.image("samples/colour", &Image::rgb(64, 48, pixels).unwrap(), 900).unwrap();
    let pixels: Vec<u8> = (0..64u32 * 48).map(|i| (i % 64 * 4) as u8).collect();
    train.image("samples/gray", &Image::gray(64, 48, pixels).unwrap(), 900).unwrap();
    train.text("network", "| layer | parameters |\n|---|---|\n| conv1 | 832 |\n| **all** | 3274634 |", 0).unwrap();
    let points: Vec<f32> = (0..200).flat_map(|i| [0.3, 0.7, 1.1].map(|k| (i as f32 * k).sin())).collect();
    Embedding::new(points, 3)
        .unwrap()
        .column("word", (0..200).map(|i| format!("word {i}")))
        .unwrap()
        .column("class", (0..200).map(|i| format!("{}", i % 5)))
        .unwrap()
        .write(dir.join("train"), "words")
        .unwrap();
    train.flush().unwrap();

    let mut validation = EventWriter::create(dir.join("validation"), 0).unwrap();
    validation.scalars(&[("accuracy", 1.0 - learning_rate), ("loss", 0.5)], 900).unwrap();
    validation.pr_curve("digit_3", &digit_3(), 900).unwrap();
    validation.flush().unwrap();
    root.session_end(true).unwrap();
    root.flush().unwrap();
}

#[test]
fn every_kind_of_summary_arrives() {
    if !installed("every_kind_of_summary_arrives") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_all(&dir.path().join("a"), 0.01);
    write_all(&dir.path().join("b"), 0.03);
    // What can go wrong in a run must not spoil the pages of the others.
    let mut strange = EventWriter::create(dir.path().join("strange/train"), 0).unwrap();
    strange.histogram("nothing", &Histogram::of(&[f32::NAN]), 0).unwrap();
    strange.scalars(&[("", f64::INFINITY), ("ü \u{1f980}/\n", f64::MAX)], u64::MAX).unwrap();
    strange.text("", "", 0).unwrap();
    strange.pr_curve("nothing", &PrCurve::of(&[], &[], 2).unwrap(), 0).unwrap();
    strange.flush().unwrap();
    let experiment = r#"POST /data/plugin/hparams/experiment {"experimentName": ""}"#;
    let metric = |tag: &str| serde_json::json!({ "metric": { "group": "validation", "tag": tag } });
    let columns = serde_json::json!([{ "hparam": "learning_rate", "order": "ORDER_ASC" }, metric("accuracy")]);
    let query = serde_json::json!({
        "experimentName": "", "startIndex": 0, "sliceSize": 10, "colParams": columns,
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "aggregationType": "AGGREGATION_AVG",
    });
    let sessions = format!("POST /data/plugin/hparams/session_groups {query}");
    let routes = [
        "/data/plugin/histograms/histograms?run=a/train&tag=dense/weight",
        "/data/plugin/images/images?run=a/train&tag=samples/colour&sample=0",
        "/data/plugin/text/text?run=a/train&tag=network",
        "/data/plugin/pr_curves/pr_curves?run=a/validation&tag=digit_3",
        "/data/plugin/custom_scalars/layout",
        "/data/plugin/projector/runs",
        "/data/plugin/projector/info?run=a/train",
        "/data/plugin/projector/metadata?run=a/train&name=words",
        "/data/plugin/projector/tensor?run=a/train&name=words",
        "/data/plugin/histograms/tags",
        "/data/plugin/images/tags",
        experiment,
        &sessions,
    ];
    for fast in [false, true] {
        let answers = http(dir.path(), fast, &routes);
        let text = |i: usize| answers[i].to_string();

        let histograms = answers[0].as_array().unwrap();
        assert_eq!(histograms.len(), 10, "{}", text(0));
        for (point, at) in histograms.iter().zip(0..) {
            assert_eq!(point[1], 100 * at);
            let counts = point[2].as_array().unwrap().iter().map(|bucket| bucket[2].as_f64().unwrap());
            assert_eq!(counts.sum::<f64>(), 2000.0);
        }

        assert_eq!(answers[1][0]["step"], 900, "{}", text(1));
        let picture = format!("/data/plugin/images/individualImage?{}", answers[1][0]["query"].as_str().unwrap());
        let picture = &http(dir.path(), fast, &[&picture])[0];
        assert_eq!(picture["type"], "image/png", "{picture}");
        assert!(picture["base64"].as_str().unwrap().starts_with("iVBORw0KGgo"), "{picture}");
        assert!(text(2).contains("<strong>all</strong>") && text(2).contains("3274634"), "{}", text(2));

        let curve = &answers[3]["a/validation"][0];
        // The page leaves out the thresholds that nothing reaches.
        let precision = curve["precision"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32);
        let expected = digit_3().precision().into_iter().filter(|&value| value > 0.0).map(|value| value as f32);
        assert!(precision.eq(expected), "{}", text(3));
        assert_eq!(curve["recall"][0], 1.0);
        assert_eq!(curve["true_positives"][0], 499);

        assert_eq!(answers[4]["category"][0]["chart"][0]["multiline"]["tag"][1], "critic/loss", "{}", text(4));
        assert_eq!(answers[4]["category"][0]["chart"][1]["margin"]["series"][0]["upper"], "high");

        assert!(text(5).contains("a/train") && text(5).contains("b/train"), "{}", text(5));
        assert_eq!(answers[6]["embeddings"][0]["tensorShape"], serde_json::json!([200, 3]), "{}", text(6));
        assert!(text(7).contains("word\\tclass\\nword 0\\t0"), "{}", text(7));
        assert!(answers[8].is_object() || answers[8].is_string(), "{}", text(8));
        assert!(text(9).contains("dense/weight") && text(10).contains("samples/gray"));

        assert!(text(11).contains("learning_rate") && text(11).contains("optimizer.name"), "{}", text(11));
        let groups = answers[12]["sessionGroups"].as_array().unwrap();
        assert_eq!(groups.len(), 2, "{}", text(12));
        for (group, learning_rate) in groups.iter().zip([0.01, 0.03]) {
            assert_eq!(group["hparams"]["learning_rate"], learning_rate);
            assert_eq!(group["hparams"]["augment"], true);
            assert_eq!(group["sessions"][0]["status"], "STATUS_SUCCESS");
            let metric =
                |metric: &&Value| metric["name"]["group"] == "validation" && metric["name"]["tag"] == "accuracy";
            let accuracy = group["metricValues"].as_array().unwrap().iter().find(metric).unwrap();
            assert_eq!(accuracy["value"].as_f64().unwrap() as f32, (1.0 - learning_rate) as f32);
        }
    }
}

/// Writes two runs to look at: `GALLERY=dir cargo test --test tensorboard -- --ignored`.
#[test]
#[ignore = "writes runs to look at into the directory GALLERY"]
fn gallery() {
    let dir = std::env::var_os("GALLERY").unwrap();
    write_all(&Path::new(&dir).join("mnist"), 0.01);
    write_all(&Path::new(&dir).join("mnist_fast"), 0.03);
}

/// A classifier that calls points positive by a line, and has everything there is to draw of an evaluation.
mod classifier {
    use elistimator::metrics::{ConfusionMatrix, PrCurve};
    use elistimator::prelude::*;

    #[derive(Serialize, Deserialize)]
    pub struct Sign;

    impl Sign {
        fn logits(net: &Linear<Cpu>, features: &Features<Cpu>) -> ModelResult<Tensor<(usize, usize), Cpu>> {
            net.forward(features.tensor::<(usize, usize)>("x")?)
        }
    }

    impl ModelFn for Sign {
        type Net = Linear<Cpu>;

        fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
            Linear::new(device, 3, 2)
        }

        fn optimizer(&self) -> OptimizerConfig {
            Sgd::new(0.1).into()
        }

        fn train(
            &self,
            net: &mut Self::Net,
            features: &Features<Cpu>,
            step: &mut Step<'_, Cpu>,
        ) -> ModelResult<TrainSpec<Cpu>> {
            let logits = net.forward(features.tensor::<(usize, usize)>("x")?.traced(step.tape()?))?;
            Ok(TrainSpec::new(sparse_cross_entropy(logits, &features.indices("label")?)?))
        }

        fn evaluate(&self, net: &Self::Net, features: &Features<Cpu>) -> ModelResult<EvaluationSpec<Cpu>> {
            let logits = Self::logits(net, features)?;
            let labels = features.indices("label")?;
            let labels: Vec<usize> = labels.iter().copied().collect();
            let scores = logits.as_vec().chunks(2).map(|two| 1.0 / (1.0 + (two[0] - two[1]).exp())).collect::<Vec<_>>();
            Ok(EvaluationSpec::new(sparse_cross_entropy(logits.clone(), &features.indices("label")?)?)
                .metric("confusion", ConfusionMatrix::of(&logits, &labels)?)
                .metric("positive", PrCurve::from_scores(&scores, &labels)?))
        }
    }

    pub fn points(count: usize) -> Dataset {
        let x: Vec<f32> = (0..3 * count).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
        let labels: Vec<i64> = x.chunks(3).map(|x| i64::from(x[0] - 2.0 * x[1] > 0.3)).collect();
        let arrays = Record::new().with("x", Array::new([count, 3], x).unwrap()).with("label", labels);
        Dataset::from_arrays(arrays).unwrap()
    }

    pub fn in_dir(dir: &std::path::Path) -> Elistimator<Sign> {
        let builder = Elistimator::builder(Sign).progress(ProgressMode::Off).seed(3).model_dir(dir);
        let mut estimator = builder.resume_or_start().unwrap();
        estimator.setup(Inputs::train(points(60).shuffle(60).batch(10)).validation(points(100).batch(7))).unwrap();
        estimator
    }
}

#[test]
fn validate_logs_confusion_matrices_and_pr_curves_and_a_resumed_run_goes_on_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = classifier::in_dir(dir.path());
    first.train().unwrap().validate().unwrap();
    first.save_ckpt().unwrap();
    // Lost work: what is measured here must not stand beside what the resumed run measures.
    first.train_steps(3).unwrap().validate().unwrap();
    drop(first);
    let mut second = classifier::in_dir(dir.path());
    let metrics = second.train().unwrap().validate().unwrap();
    assert_eq!(second.global_step(), 12);
    second.save_ckpt().unwrap();

    let history = elistimator::summary::History::load(dir.path()).unwrap();
    let (step, counts) = history.matrix("validation/confusion").unwrap();
    assert_eq!((step, counts.iter().sum::<f64>()), (12, 100.0), "all batches of the validation are in the matrix");
    assert_eq!((counts[0] + counts[3]) / 100.0, metrics.get("confusion").unwrap());
    let steps: Vec<u64> = history.records().iter().filter(|r| !r.matrices.is_empty()).map(|r| r.step).collect();
    assert_eq!(steps, [6, 12]);
    #[cfg(feature = "plot")]
    {
        let picture = dir.path().join("curves.svg");
        second.plot(&picture).unwrap();
        assert!(std::fs::read_to_string(picture).unwrap().contains("validation/confusion, step 12"));
    }

    if !installed("validate_logs_confusion_matrices_and_pr_curves_and_a_resumed_run_goes_on_with_them") {
        return;
    }
    let routes = [
        "/data/plugin/images/images?run=validation&tag=confusion/matrix&sample=0",
        "/data/plugin/text/text?run=validation&tag=confusion/table",
        "/data/plugin/pr_curves/pr_curves?run=validation&tag=positive/curve",
        "/data/plugin/scalars/scalars?run=validation&tag=confusion",
    ];
    for fast in [false, true] {
        let answers = http(dir.path(), fast, &routes);
        let steps = |i: usize| -> Vec<u64> {
            answers[i].as_array().unwrap().iter().map(|point| point["step"].as_u64().unwrap()).collect()
        };
        assert_eq!(steps(0), [6, 12], "{}", answers[0]);
        let picture = format!("/data/plugin/images/individualImage?{}", answers[0][1]["query"].as_str().unwrap());
        let picture = &http(dir.path(), fast, &[&picture])[0];
        // A PNG of 64 by 64 pixels: two classes of 32 each.
        assert!(picture["base64"].as_str().unwrap().starts_with("iVBORw0KGgoAAAANSUhEUgAAAEAAAABA"), "{picture}");
        assert_eq!(steps(1), [6, 12], "{}", answers[1]);
        let table = answers[1][1]["text"].as_str().unwrap();
        assert!(table.contains("<table") && table.contains(&format!(">{}<", counts[0])), "{table}");
        let curves = answers[2]["validation"].as_array().unwrap();
        assert_eq!(curves.iter().map(|curve| curve["step"].as_u64().unwrap()).collect::<Vec<_>>(), [6, 12]);
        assert_eq!(curves[1]["true_positives"][0], counts[2] + counts[3], "{}", curves[1]);
        assert_eq!(curves[1]["recall"][0], 1.0);
        assert_eq!(answers[3].as_array().unwrap().len(), 2, "{}", answers[3]);
    }
}
