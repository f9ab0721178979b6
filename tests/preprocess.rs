//! What `preprocess` makes of the data, it makes of requests.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::mean_squared;
use elistimator::data::StandardScaler;
use elistimator::prelude::*;

const COLUMNS: [&str; 2] = ["area", "rooms"];

/// A price by the columns of a table, all of them scaled.
#[derive(Serialize, Deserialize, Clone)]
struct Prices {
    scaler: StandardScaler,
}

network! {
    struct Net<D> {
        out: Linear<D>,
    }
}

impl<D: Device> ModelFn<D> for Prices {
    type Net = Net<D>;

    fn build(&self, device: &D) -> ModelResult<Net<D>> {
        Ok(Net { out: Linear::builder(2, 1).build(device)? })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.1).into()
    }

    fn preprocess(&self, batch: Record) -> ModelResult<Record> {
        let batch = self.scaler.transform(batch)?;
        let columns = batch.matrix(&COLUMNS)?;
        Ok(batch.with("columns", columns))
    }

    fn train(&self, net: &mut Net<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let price = net.out.forward(features.tensor::<(usize, usize)>("columns")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(mean_squared(price, features.tensor("price")?)?))
    }

    fn predict(&self, net: &Net<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let price = net.out.forward(features.tensor::<(usize, usize)>("columns")?)?;
        Ok(PredictSpec::new().output("price", self.scaler.inverse_transform("price", &Array::from(&price))?))
    }
}

/// `price = 1000 area + 5000 rooms + 20000`
fn table() -> Record {
    let area: Vec<f32> = (0..40).map(|i| 40.0 + (i * 37 % 101) as f32).collect();
    let rooms: Vec<i64> = (0..40).map(|i| 1 + i * 13 % 5).collect();
    let price = |(area, rooms): (&f32, &i64)| 1000.0 * area + 5000.0 * (*rooms as f32) + 20_000.0;
    let price: Vec<f32> = area.iter().zip(&rooms).map(price).collect();
    Record::new().with("area", area).with("rooms", rooms).with("price", price)
}

fn trained(dir: &std::path::Path, epochs: u32) -> Elistimator<Prices> {
    let scaler = StandardScaler::fit(&table(), &["area", "rooms", "price"]).unwrap();
    let builder = Elistimator::builder(Prices { scaler }).model_dir(dir).progress(ProgressMode::Off).seed(1);
    let mut estimator = builder.build().unwrap();
    estimator.setup(Inputs::train(Dataset::from_arrays(table()).unwrap().shuffle(40).batch(8))).unwrap();
    for _ in 0..epochs {
        estimator.train().unwrap();
    }
    estimator
}

#[test]
fn a_scaler_among_the_hyper_parameters_scales_the_requests_of_a_saved_model_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = trained(dir.path(), 30);
    estimator.save_ckpt().unwrap();
    let fitted = estimator.model().scaler.clone();
    drop(estimator);
    let restored = Elistimator::<Prices>::from_disk(dir.path()).unwrap();
    assert_eq!(restored.model().scaler, fitted);
    let found = restored.predict(inputs! { "area" => vec![80f32, 120.0], "rooms" => vec![3i64, 5] }).unwrap();
    let found = found.get("price").unwrap().as_slice::<f32>().unwrap().to_vec();
    for (found, expected) in found.iter().zip([115_000f32, 165_000.0]) {
        assert!((found - expected).abs() < 500.0, "{found} for {expected}");
    }
}

#[test]
fn one_example_without_the_batch_axis_is_a_batch_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let estimator = trained(dir.path(), 1);
    let batch = estimator.predict(inputs! { "area" => vec![80f32], "rooms" => vec![3i64] }).unwrap();
    let one = inputs! { "area" => 80f32, "rooms" => 3i64 };
    assert_eq!(estimator.predict(one.clone()).unwrap(), batch);
    assert_eq!(estimator.predict(vec![80f32.into(), 3i64.into()]).unwrap(), batch);
    assert_eq!(estimator.predict_outputs(one, &["price"]).unwrap(), batch);
    let read = estimator.signature().unwrap().read_json(r#"{"area": 80, "rooms": 3}"#).unwrap();
    assert_eq!(estimator.predict(read).unwrap(), batch);
    // Half a batch is none.
    let error = |request: Record| estimator.predict(request).unwrap_err().to_string();
    let mixed = error(inputs! { "area" => 80f32, "rooms" => vec![3i64] });
    assert!(mixed.contains("\"area\": found f32 of shape [], expected f32 of shape [batch]"), "{mixed}");
    assert!(mixed.contains("leave the batch axis out of all inputs"), "{mixed}");
    let wrong = error(inputs! { "area" => 80f64, "rooms" => 3i64 });
    assert!(wrong.contains("\"area\": found f64 of shape [], expected f32") && wrong.contains("cast("), "{wrong}");
}

#[test]
fn an_input_that_the_request_lacks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let estimator = trained(dir.path(), 1);
    let error = estimator.predict(inputs! { "area" => vec![80f32] }).unwrap_err();
    assert_eq!(error.kind(), elistimator::ErrorKind::Signature);
    assert_eq!(
        error.to_string(),
        "predict: the request has no input \"rooms\", which the model function's `preprocess` reads: expected i64 of shape \
         [batch]; the request has [\"area\"]"
    );
}
