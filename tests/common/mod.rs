//! A small model that the tests share: a line through noisy points, with dropout and momentum so that there is state to lose.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use elistimator::prelude::*;

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Line {
    pub learning_rate: f64,
    #[serde(default)]
    pub added_later: u32,
}

impl Default for Line {
    fn default() -> Self {
        Self { learning_rate: 0.05, added_later: 0 }
    }
}

network! {
    pub struct LineNet<D> {
        pub hidden: Linear<D>,
        pub dropout: Dropout,
        pub out: Linear<D>,
    }
}

impl<D: Device> LineNet<D> {
    pub fn forward<T: Tape<f32, D>>(
        &self,
        x: Tensor<(usize, usize), D, T>,
    ) -> ModelResult<Tensor<(usize, usize), D, T>> {
        self.out.forward(self.dropout.forward(self.hidden.forward(x)?)?)
    }
}

pub fn mean_squared<D: Device, T: Tape<f32, D>>(
    found: Tensor<(usize, usize), D, T>,
    wanted: Tensor<(usize, usize), D>,
) -> ModelResult<Tensor<(), D, T>> {
    Ok(found.try_sub(wanted)?.try_square()?.try_mean()?)
}

impl<D: Device> ModelFn<D> for Line {
    type Net = LineNet<D>;

    fn build(&self, device: &D) -> ModelResult<LineNet<D>> {
        Ok(LineNet {
            hidden: Linear::builder(3, 8).activation(Activation::Relu).build(device)?,
            dropout: Dropout::new(0.2),
            out: Linear::builder(8, 1).build(device)?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(self.learning_rate).momentum(0.9).into()
    }

    fn train(&self, net: &mut LineNet<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let y = net.forward(features.tensor("x")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(mean_squared(y, features.tensor("y")?)?))
    }

    fn evaluate(&self, net: &LineNet<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let y = net.forward(features.tensor("x")?)?;
        Ok(EvaluationSpec::new(mean_squared(y, features.tensor("y")?)?))
    }

    fn predict(&self, net: &LineNet<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let y = net.forward(features.tensor("x")?)?;
        Ok(PredictSpec::new().output("y", &y).output("twice", &y.try_mul(2.0)?))
    }
}

/// `count` examples of `y = x0 - 2 x1 + 0.5 x2`.
pub fn points(count: usize) -> Dataset {
    let x: Vec<f32> = (0..3 * count).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
    let y: Vec<f32> = x.chunks(3).map(|x| x[0] - 2.0 * x[1] + 0.5 * x[2]).collect();
    let record =
        Record::new().with("x", Array::new([count, 3], x).unwrap()).with("y", Array::new([count, 1], y).unwrap());
    Dataset::from_arrays(record).unwrap()
}

/// 20 batches of 5, shuffled.
pub fn train_data() -> Dataset {
    points(100).shuffle(40).batch(5)
}

pub fn quiet(model: Line) -> Builder<Line, Cpu> {
    Elistimator::builder(model).progress(ProgressMode::Off).seed(3)
}

pub fn in_dir(dir: &std::path::Path) -> Builder<Line, Cpu> {
    quiet(Line::default()).model_dir(dir)
}

/// Runs a script with the interpreter that has the modules; `None`, and a line saying so, where there is none.
pub fn python(modules: &str, script: &str, argument: &Path) -> Option<String> {
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

pub const SCALARS: &str = r#"
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
for run, tag in (("train", "loss"), ("train", "learning_rate"), ("validation", "loss")):
    events = EventAccumulator(sys.argv[1] + "/" + run, size_guidance={"scalars": 0})
    events.Reload()
    for event in events.Scalars(tag):
        print(run, tag, event.step, event.value)
"#;

/// Whether TensorBoard shows the same points of two runs.
pub fn same_curves(found: &Path, expected: &Path) {
    let (found, expected) = (python("tensorboard", SCALARS, found), python("tensorboard", SCALARS, expected));
    assert!(found == expected, "the curves differ:\n{found:?}\n{expected:?}");
}
