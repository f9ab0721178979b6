//! The network of `examples/mnist.rs` does not wait for its data.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use elistimator::prelude::*;
use elistimator::summary::History;

#[derive(Serialize, Deserialize)]
struct MnistCnn;

network! {
    struct Cnn<D> {
        conv1: ConvBlock<D, Const<1>, Const<32>>,
        conv2: ConvBlock<D, Const<32>, Const<64>>,
        dense: Linear<D, Const<3136>, Const<1024>>,
        logits: Linear<D, Const<1024>, Const<10>>,
    }
}

impl ModelFn for MnistCnn {
    type Net = Cnn<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<Cnn<Cpu>> {
        Ok(Cnn {
            conv1: ConvBlock::builder(Const, Const, 5).without_input_gradient().build(device)?,
            conv2: ConvBlock::builder(Const, Const, 5).build(device)?,
            dense: Linear::builder(Const, Const).activation(Activation::Relu).build(device)?,
            logits: Linear::builder(Const, Const).build(device)?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(1e-3).into()
    }

    fn train(
        &self,
        net: &mut Cnn<Cpu>,
        features: &Features<Cpu>,
        step: &mut Step<'_, Cpu>,
    ) -> ModelResult<TrainSpec<Cpu>> {
        type Images<T> = Tensor<(usize, Const<1>, Const<28>, Const<28>), Cpu, T>;
        let images: Images<_> = features.tensor("images")?.traced(step.tape()?);
        let x = net.conv2.forward(net.conv1.forward(images)?)?;
        let logits = net.logits.forward(net.dense.forward(flatten(x)?)?)?;
        Ok(TrainSpec::new(sparse_cross_entropy(logits, &features.indices("labels")?)?))
    }
}

#[test]
fn the_mnist_network_never_waits_for_data() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/mnist");
    if !files.exists() {
        eprintln!("SKIPPED: no {}", files.display());
        return;
    }
    let mnist = Mnist::load(files).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut estimator =
        Elistimator::builder(MnistCnn).model_dir(dir.path()).progress(ProgressMode::Off).seed(7).build().unwrap();
    let train = mnist.train().shuffle(10_000).batch(56).prefetch(2);
    estimator.setup(Inputs::train(train)).unwrap().train_steps(60).unwrap();
    let mut shares: Vec<f64> =
        History::load(dir.path()).unwrap().series("train/data_wait").into_iter().map(|(_, share)| share).collect();
    assert_eq!(shares.len(), 60);
    shares.sort_by(f64::total_cmp);
    // Other programs may take the processors from the thread that makes batches; what counts is whether it keeps up.
    let (middle, worst) = (shares[30], shares[59]);
    println!("waiting for data: {:.3} % in the middle of all steps, at most {:.1} %", 100.0 * middle, 100.0 * worst);
    assert!(middle < 0.01, "{shares:?}");
}
