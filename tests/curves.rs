//! What the loop writes, read by the real TensorBoard and by Python's safetensors.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{SCALARS, in_dir, points, python};
use elistimator::prelude::*;

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
