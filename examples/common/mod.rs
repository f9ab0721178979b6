//! A small classifier that the examples share: points of the plane inside or outside a ring.

use elistimator::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Hyper-parameters of the classifier.
#[derive(Serialize, Deserialize, Clone)]
pub struct Ring {
    pub learning_rate: f64,
    pub hidden: usize,
    pub dropout: f64,
}

impl Default for Ring {
    fn default() -> Self {
        Self { learning_rate: 0.01, hidden: 32, dropout: 0.1 }
    }
}

network! {
    /// Two dense layers with dropout between them.
    pub struct Mlp<D> {
        hidden: Linear<D>,
        dropout: Dropout,
        logits: Linear<D>,
    }
}

impl<D: Device> Mlp<D> {
    fn forward<T: Tape<f32, D>>(
        &self,
        points: Tensor<(usize, usize), D, T>,
    ) -> ModelResult<Tensor<(usize, usize), D, T>> {
        self.logits.forward(self.dropout.forward(self.hidden.forward(points)?)?)
    }
}

impl<D: Device> ModelFn<D> for Ring {
    type Net = Mlp<D>;

    fn build(&self, device: &D) -> ModelResult<Mlp<D>> {
        Ok(Mlp {
            hidden: Linear::builder(2, self.hidden).activation(Activation::Relu).build(device)?,
            dropout: Dropout::new(self.dropout),
            logits: Linear::builder(self.hidden, 2).build(device)?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Adam::new(self.learning_rate).into()
    }

    fn train(&self, net: &mut Mlp<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let logits = net.forward(features.tensor("points")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(sparse_cross_entropy(logits, &features.indices("labels")?)?))
    }

    fn evaluate(&self, net: &Mlp<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let logits = net.forward(features.tensor("points")?)?;
        let labels = features.indices("labels")?;
        let accuracy = Accuracy::of(&logits, &labels)?;
        Ok(EvaluationSpec::new(sparse_cross_entropy(logits, &labels)?).metric("accuracy", accuracy))
    }

    fn predict(&self, net: &Mlp<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let probabilities = net.forward(features.tensor("points")?)?.try_softmax::<Axis<1>>()?;
        Ok(PredictSpec::new().output("probabilities", &probabilities))
    }
}

/// `count` points in the square from -1 to 1; label 1 inside the ring of radii 0.4 and 0.8.
pub fn points(count: usize, seed: u64) -> Result<Dataset> {
    let mut rng = StdRng::seed_from_u64(seed);
    let points: Vec<f32> = (0..2 * count).map(|_| rng.gen_range(-1.0..1.0)).collect();
    let inside = |point: &[f32]| (0.4..0.8).contains(&point[0].hypot(point[1]));
    let labels: Vec<i64> = points.chunks(2).map(|point| i64::from(inside(point))).collect();
    Dataset::from_arrays(Record::new().with("points", Array::new([count, 2], points)?).with("labels", labels))
}
