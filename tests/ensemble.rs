//! Checkpoints of one run that predict together.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Line, in_dir, points, train_data};
use elistimator::metrics::Mean;
use elistimator::prelude::*;
use elistimator::{Combine, Ensemble};

fn request() -> Record {
    inputs! { "x" => Array::new([2, 3], vec![0.5f32, -1.0, 0.25, 1.0, 0.0, -0.5]).unwrap() }
}

#[test]
fn members_are_averaged_by_weight_and_vote() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).max_to_keep(0).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap();
    let mut alone = Vec::new();
    for _ in 0..3 {
        estimator.train_steps(4).unwrap().save_ckpt().unwrap();
        alone.push(estimator.predict(request()).unwrap().get("y").unwrap().as_slice::<f32>().unwrap().to_vec());
    }
    let load = || Ensemble::<Line, Cpu>::from_checkpoints(dir.path(), &[4, 8, 12], DeviceSpec::Cpu).unwrap();
    let near = |ensemble: &Ensemble<Line, Cpu>, weights: [f32; 3]| {
        let found = ensemble.predict(request(), "y").unwrap();
        assert_eq!(found.dims(), [2, 1]);
        for (row, value) in found.as_slice::<f32>().unwrap().iter().enumerate() {
            let expected: f32 = alone.iter().zip(weights).map(|(values, weight)| weight * values[row]).sum();
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    };
    near(&load(), [1.0 / 3.0; 3]);
    near(&load().weights(&[0.0, 1.0, 3.0]).unwrap(), [0.0, 0.25, 0.75]);
    // One output value per row: every member votes for it.
    let votes = load().combine(Combine::Vote).predict(request(), "y").unwrap();
    assert!(votes.as_slice::<f32>().unwrap().iter().all(|share| (share - 1.0).abs() < 1e-6));
    let metrics = load().evaluate_members(points(17).batch(4)).unwrap();
    assert_eq!(metrics[2], estimator.evaluate(points(17).batch(4)).unwrap());
    assert_ne!(metrics[0], metrics[2]);
    assert_eq!(load().predict_all(points(17).batch(4), "y").unwrap().len(), 5);
    for weights in [&[1.0][..], &[0.0; 3], &[-1.0, 1.0, 1.0], &[f64::NAN; 3]] {
        assert_eq!(load().weights(weights).unwrap_err().kind(), ErrorKind::InvalidArgument, "{weights:?}");
    }
    assert!(Ensemble::<Line, Cpu>::from_checkpoints(dir.path(), &[], DeviceSpec::Cpu).is_err());
    assert!(Ensemble::<Line, Cpu>::from_checkpoints(dir.path(), &[5], DeviceSpec::Cpu).is_err());
}

/// A classifier whose one variable is its row of probabilities, whatever it is asked.
#[derive(Serialize, Deserialize, Clone)]
struct Fixed {
    row: [f32; 3],
}

network! {
    struct FixedNet<D> {
        row: Parameter<D>,
    }
}

impl<D: Device> FixedNet<D> {
    fn probabilities(&self, count: usize) -> ModelResult<Tensor<(usize, Const<3>), D>> {
        Ok(self.row.shaped((Const::<3>,))?.try_broadcast_like(&(count, Const::<3>))?)
    }
}

impl<D: Device> ModelFn<D> for Fixed {
    type Net = FixedNet<D>;

    fn build(&self, device: &D) -> ModelResult<FixedNet<D>> {
        Ok(FixedNet { row: Parameter::from_vec(device, &[3], self.row.to_vec())? })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.1).into()
    }

    fn train(&self, _: &mut FixedNet<D>, _: &Features<D>, _: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        Err(ModelError::msg("never trained"))
    }

    fn evaluate(&self, net: &FixedNet<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let labels = features.indices("labels")?;
        let probabilities = net.probabilities(labels.len())?;
        let accuracy = Accuracy::of(&probabilities, &labels)?;
        Ok(EvaluationSpec::new(probabilities.try_sum()?).metric("accuracy", accuracy))
    }

    fn predict(&self, net: &FixedNet<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        Ok(PredictSpec::new().output("probabilities", &net.probabilities(features.batch_size())?))
    }
}

/// Two members of one model function whose networks differ in size, and outputs without an axis of classes.
#[test]
fn outputs_that_do_not_go_together_are_refused() {
    #[derive(Serialize, Deserialize)]
    struct Sized(usize);
    impl ModelFn for Sized {
        type Net = Linear<Cpu>;
        fn build(&self, device: &Cpu) -> ModelResult<Linear<Cpu>> {
            Linear::builder(3, self.0).build(device)
        }
        fn optimizer(&self) -> OptimizerConfig {
            Sgd::new(0.1).into()
        }
        fn train(&self, _: &mut Linear<Cpu>, _: &Features<Cpu>, _: &mut Step<'_, Cpu>) -> ModelResult<TrainSpec<Cpu>> {
            Err(ModelError::msg("never trained"))
        }
        fn predict(&self, net: &Linear<Cpu>, features: &Features<Cpu>) -> ModelResult<PredictSpec> {
            let y = net.forward(features.tensor::<(usize, usize)>("x")?)?;
            let flat = Array::new([features.batch_size()], vec![1.0f32; features.batch_size()])?;
            Ok(PredictSpec::new().output("y", &y).output("flat", flat).output("class", vec![0i64; 2]))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let member = |size: usize| {
        let builder = Elistimator::builder(Sized(size)).model_dir(dir.path().join(size.to_string()));
        let mut member = builder.progress(ProgressMode::Off).build().unwrap();
        member.setup(Inputs::train(points(4).batch(2))).unwrap();
        member
    };
    let ensemble = Ensemble::new(vec![member(2), member(4)]).unwrap();
    let error = ensemble.predict(request(), "y").unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("[2, 2] and [2, 4]"), "{error}");
    assert_eq!(ensemble.predict(request(), "class").unwrap_err().kind(), ErrorKind::Signature);
    assert_eq!(ensemble.predict(request(), "flat").unwrap().as_slice::<f32>().unwrap(), [1.0; 2]);
    let error = ensemble.combine(Combine::Vote).predict(request(), "flat").unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("shape [2]"), "{error}");
}

/// Three members of three runs: two lean to class 1 a little, one is sure of class 0.
fn classifiers(dir: &std::path::Path) -> Ensemble<Fixed, Cpu> {
    let member = |(place, row): (usize, [f32; 3])| {
        let builder = Elistimator::builder(Fixed { row }).model_dir(dir.join(place.to_string())).seed(place as u64);
        builder.progress(ProgressMode::Off).build().unwrap()
    };
    let rows = [[0.25, 0.5, 0.25], [0.3125, 0.4375, 0.25], [0.9375, 0.0, 0.0625]];
    Ensemble::new(rows.into_iter().enumerate().map(member).collect()).unwrap()
}

fn labels(classes: &[i64]) -> Dataset {
    Dataset::from_arrays(inputs! { "labels" => classes.to_vec() }).unwrap().batch(2)
}

fn row(ensemble: &Ensemble<Fixed, Cpu>) -> Vec<f32> {
    ensemble.predict_all(labels(&[0]), "probabilities").unwrap()[0].as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn mean_and_vote_and_weights_decide_as_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let near = |ensemble: &Ensemble<Fixed, Cpu>, expected: [f32; 3]| {
        let found = row(ensemble);
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
    };
    let ensemble = classifiers(dir.path());
    near(&ensemble, [0.5, 0.3125, 0.1875]);
    let ensemble = ensemble.combine(Combine::Vote);
    near(&ensemble, [1.0 / 3.0, 2.0 / 3.0, 0.0]);
    let ensemble = ensemble.weights(&[1.0, 1.0, 6.0]).unwrap();
    near(&ensemble, [0.75, 0.25, 0.0]);
    near(&ensemble.combine(Combine::Mean), [0.7734375, 0.1171875, 0.109375]);
}

#[test]
fn members_and_ensemble_are_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let ensemble = classifiers(dir.path());
    let data = labels(&[0, 0, 0, 1, 2]);
    let found = ensemble.evaluate(&data, "probabilities", "labels").unwrap();
    let accuracies: Vec<f64> = found.members.iter().map(|metrics| metrics.get("accuracy").unwrap()).collect();
    assert_eq!(accuracies, [0.2, 0.2, 0.6]);
    assert_eq!(found.ensemble.get("accuracy").unwrap(), 0.6);
    // Of 0.5 three times, 0.3125 and 0.1875, over five examples and not over three batches.
    let loss = -(3.0 * 0.5f64.ln() + 0.3125f64.ln() + 0.1875f64.ln()) / 5.0;
    assert!((found.ensemble.get("loss").unwrap() - loss).abs() < 1e-6);
    let count = ensemble.measure(&data, "probabilities", |batch, values| {
        Ok(Mean::of([(batch.get("labels")?.rows() * 10 + values.rows()) as f64]))
    });
    assert!((Metric::value(&count.unwrap()) - (22.0 + 22.0 + 11.0) / 3.0).abs() < 1e-12);
    let voting = ensemble.combine(Combine::Vote);
    assert_eq!(voting.evaluate(&data, "probabilities", "labels").unwrap().ensemble.get("accuracy").unwrap(), 0.2);
    for wrong in [labels(&[0, 3]), labels(&[-1]), labels(&[])] {
        assert_eq!(voting.accuracy(wrong, "probabilities", "labels").unwrap_err().kind(), ErrorKind::Data);
    }
    assert_eq!(voting.accuracy(&data, "logits", "labels").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(voting.accuracy(Dataset::from_arrays(inputs! { "labels" => vec![0i64] }).unwrap(), "y", "labels").is_err());
}

/// Members of several runs have several seeds, and must see shuffled data in one order all the same.
#[test]
fn shuffled_data_is_the_same_for_all_members() {
    let dir = tempfile::tempdir().unwrap();
    let member = |seed: u64| {
        let mut member = in_dir(&dir.path().join(seed.to_string())).seed(seed).build().unwrap();
        member.setup(Inputs::train(train_data())).unwrap().train_steps(5).unwrap();
        member
    };
    let ensemble = Ensemble::new(vec![member(1), member(2)]).unwrap();
    let shuffled = points(50).shuffle(50).batch(5);
    let error = ensemble.measure(shuffled, "y", |batch, combined| {
        let expected = ensemble.predict(inputs! { "x" => batch.get("x")?.clone() }, "y")?;
        let (found, expected) = (combined.as_slice::<f32>()?, expected.as_slice::<f32>()?);
        Ok(Mean::of(found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()))))
    });
    assert!(Metric::value(&error.unwrap()) < 1e-6);
}

#[test]
fn an_ensemble_is_saved_and_loaded_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("deep/ensemble");
    let load = || Ensemble::<Fixed, Cpu>::load(&saved, DeviceSpec::Cpu);
    assert_eq!(load().unwrap_err().kind(), ErrorKind::NotFound);
    let ensemble = classifiers(dir.path()).combine(Combine::Vote).weights(&[0.1, 0.2, 0.4]).unwrap();
    ensemble.save(&saved).unwrap();
    let loaded = load().unwrap();
    assert_eq!(row(&loaded), row(&ensemble));
    assert_eq!(loaded.members().iter().map(|member| member.model().row[0]).collect::<Vec<_>>(), [0.25, 0.3125, 0.9375]);
    // A second save takes the place of the first, also when it is of what was loaded from there.
    loaded.combine(Combine::Mean).save(&saved).unwrap();
    let again = load().unwrap();
    assert_eq!(row(&again), row(&ensemble.combine(Combine::Mean)));
    // Every member is a run of its own.
    let (member, step) = &again.sources()[2];
    assert_eq!(*step, 0);
    assert_eq!(Elistimator::<Fixed>::from_disk(member).unwrap().model().row[0], 0.9375);
    // One bit anywhere in a member is seen.
    let file = member.join("checkpoints/model_iter-0000000000/model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = load().unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("model.safetensors"), "{error}");
    assert!(Ensemble::<Line, Cpu>::load(&saved, DeviceSpec::Cpu).is_err());
}

#[test]
fn a_trained_ensemble_predicts_the_same_when_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(&dir.path().join("run")).max_to_keep(0).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap();
    for _ in 0..2 {
        estimator.train_steps(4).unwrap().save_ckpt().unwrap();
    }
    let load = || Ensemble::<Line, Cpu>::from_checkpoints(estimator.model_dir(), &[4, 8], DeviceSpec::Cpu).unwrap();
    let ensemble = load().weights(&[0.3, 0.9]).unwrap();
    ensemble.save(dir.path().join("ensemble")).unwrap();
    let loaded = Ensemble::<Line, Cpu>::load(dir.path().join("ensemble"), DeviceSpec::Cpu).unwrap();
    let expected = ensemble.predict(request(), "y").unwrap();
    assert_eq!(loaded.predict(request(), "y").unwrap(), expected);
    // It is a directory like any other: moved elsewhere, and without the run it came from, it is the same.
    drop((ensemble, loaded, estimator));
    std::fs::remove_dir_all(dir.path().join("run")).unwrap();
    std::fs::rename(dir.path().join("ensemble"), dir.path().join("moved")).unwrap();
    let moved = Ensemble::<Line, Cpu>::load(dir.path().join("moved"), DeviceSpec::Cpu).unwrap();
    assert_eq!(moved.predict(request(), "y").unwrap(), expected);
}
