//! Variables by name: read, written, frozen, taken over from a checkpoint; and the learning-rate range test.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Line, in_dir, train_data};
use elistimator::prelude::*;

fn started(dir: &std::path::Path) -> Elistimator<Line> {
    let mut estimator = in_dir(dir).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap();
    estimator
}

fn values(estimator: &Elistimator<Line>, name: &str) -> Vec<f32> {
    estimator.variable(name).unwrap().as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn single_variables_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = started(dir.path());
    assert_eq!(estimator.variables()[0], ("hidden.weight".to_owned(), vec![8, 3]));
    estimator.set_variable("out.bias", &Array::new([1], vec![2.5f32]).unwrap()).unwrap();
    assert_eq!(values(&estimator, "out.bias"), [2.5]);
    let wrong = Array::new([2], vec![0.0f32; 2]).unwrap();
    assert_eq!(estimator.set_variable("out.bias", &wrong).unwrap_err().kind(), ErrorKind::Mismatch);
    let error = estimator.variable("bias").unwrap_err();
    assert!(error.to_string().contains("out.bias"), "{error}");
}

#[test]
fn frozen_variables_stay_and_thaw() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = started(dir.path());
    let (weight, bias) = (values(&estimator, "hidden.weight"), values(&estimator, "out.bias"));
    assert_eq!(estimator.freeze("*.weight").unwrap(), 2);
    estimator.train_steps(3).unwrap();
    assert_eq!(values(&estimator, "hidden.weight"), weight);
    assert_ne!(values(&estimator, "out.bias"), bias);
    estimator.unfreeze("hidden.").unwrap();
    estimator.train_steps(3).unwrap();
    assert_ne!(values(&estimator, "hidden.weight"), weight);
    assert_eq!(estimator.freeze("conv").unwrap_err().kind(), ErrorKind::NotFound);
    // Going back brings values back, and leaves frozen what is.
    estimator.freeze("hidden.").unwrap();
    let step = estimator.save_ckpt().unwrap().step;
    let weight = values(&estimator, "hidden.weight");
    estimator.unfreeze("hidden.").unwrap();
    estimator.train_steps(3).unwrap();
    estimator.freeze("hidden.").unwrap();
    estimator.restore_ckpt(step).unwrap().train_steps(3).unwrap();
    assert_eq!(values(&estimator, "hidden.weight"), weight);
}

#[test]
fn a_warm_start_reports_what_it_did() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = started(dir.path());
    source.train_steps(3).unwrap();
    let checkpoint = source.save_ckpt().unwrap().path;
    for path in [checkpoint.clone(), checkpoint.join("model.safetensors")] {
        let mut estimator = started(other.path());
        let bias = values(&estimator, "out.bias");
        let report = estimator
            .warm_start(&path, |name| match name {
                "hidden.weight" => Some(name.to_owned()),
                "hidden.bias" => Some("elsewhere".to_owned()),
                "out.weight" => Some("out.bias".to_owned()),
                _ => None,
            })
            .unwrap();
        assert_eq!((report.loaded, report.missing), (vec!["hidden.weight".to_owned()], vec!["hidden.bias".to_owned()]));
        assert_eq!(report.mismatched, ["out.weight: found [1], expected [1, 8]"]);
        assert_eq!(report.unexpected, ["hidden.bias", "out.weight"]);
        assert_eq!(values(&estimator, "hidden.weight"), values(&source, "hidden.weight"));
        assert_eq!(values(&estimator, "out.bias"), bias);
    }
    let mut estimator = started(other.path());
    let error = estimator.warm_start(dir.path().join("nothing"), |_| None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let error = estimator.warm_start(dir.path(), |name| Some(name.to_owned())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.to_string().contains("is a model directory, expected one of the checkpoints in it"), "{error}");
    // A slip in every name is one; nothing asked for is nothing done.
    let error = estimator.warm_start(&checkpoint, |name| Some(format!("encoder.{name}"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.to_string().contains("missing: [\"hidden.weight\""), "{error}");
    assert!(estimator.warm_start(&checkpoint, |_| None).unwrap().loaded.is_empty());
}

/// A file such as other programs write: weights in several widths, and positions that are no weights.
#[test]
fn a_warm_start_reads_what_other_programs_write() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let header = r#"{"__metadata__":{"format":"pt"},
        "positions":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},
        "half":{"dtype":"F16","shape":[1],"data_offsets":[8,10]},
        "brain":{"dtype":"BF16","shape":[1],"data_offsets":[10,12]},
        "mask":{"dtype":"BOOL","shape":[1],"data_offsets":[12,13]},
        "odd":{"dtype":"F32","shape":[1],"data_offsets":[13,17]},
        "wide":{"dtype":"F64","shape":[1],"data_offsets":[17,25]}}"#;
    let values = [
        &7i64.to_le_bytes()[..],
        &0xc100u16.to_le_bytes(),
        &((3.5f32.to_bits() >> 16) as u16).to_le_bytes(),
        &[1],
        &0.1f32.to_le_bytes(),
        &(-0.25f64).to_le_bytes(),
    ]
    .concat();
    let path = dir.path().join("theirs.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &values].concat()).unwrap();
    let mut estimator = started(other.path());
    for (tensor, expected) in [("half", -2.5), ("brain", 3.5), ("odd", 0.1), ("wide", -0.25)] {
        let take = |name: &str| (name == "out.bias").then(|| tensor.to_owned());
        let report = estimator.warm_start(&path, take).unwrap();
        assert_eq!(report.loaded, ["out.bias"], "{tensor}");
        assert_eq!(report.unexpected.len(), 5);
        assert_eq!(values_of(&estimator), [expected], "{tensor}");
    }
    let take = |name: &str| (name == "out.bias").then(|| "positions".to_owned());
    let error = estimator.warm_start(&path, take).unwrap_err().to_string();
    assert!(error.contains("[\"out.bias: found I64, expected F32, F64, F16 or BF16\"]"), "{error}");
    assert!(error.contains("[\"brain\", \"half\", \"mask\", \"odd\", \"wide\"]"), "{error}");
    assert_eq!(values_of(&estimator), [-0.25]);
}

fn values_of(estimator: &Elistimator<Line>) -> Vec<f32> {
    values(estimator, "out.bias")
}

#[test]
fn a_range_test_climbs_until_the_loss_explodes() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = started(dir.path());
    let rate = estimator.learning_rate();
    let test = estimator.range_test(1e-4, 1e4, 60).unwrap();
    assert!((5..60).contains(&test.points().len()), "{test:?}");
    assert_eq!(test.points()[0].0, 1e-4);
    assert_eq!(estimator.learning_rate(), rate);
    assert_eq!(estimator.range_test(1.0, 0.1, 9).unwrap_err().kind(), ErrorKind::InvalidArgument);
}
