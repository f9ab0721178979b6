//! Several checkpoints that predict together.

use std::path::{Path, PathBuf};

use crate::builder::Builder;
use crate::checkpoint::{Members, Snapshot, Tensors};
use crate::data::{Array, Record};
use crate::inputs::InputFn;
use crate::metrics::{Mean, Metric, Metrics};
use crate::setup::batched;
use crate::{Device, DeviceSpec, Elistimator, Error, ErrorKind, ModelFn, Request, Result};

/// Of what is random in the data: members of several runs have several seeds, and are all measured on the same examples.
const SEED: u64 = 0;

/// How members become one prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Combine {
    /// The weighted mean of every value: for probabilities.
    #[default]
    Mean,
    /// Every member gives its weight to the class at which its row is largest; the result is the share of each class.
    Vote,
}

/// What [`Ensemble::evaluate`] found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EnsembleMetrics {
    /// The metrics of every member, from its model function.
    pub members: Vec<Metrics>,
    /// `accuracy` and `loss` of the ensemble.
    pub ensemble: Metrics,
}

/// Members of one model function that predict together: the snapshots of one run with a cyclic learning rate (Huang et al.
/// 2017), or checkpoints of several runs.
///
/// ```no_run
/// # use elistimator::{Ensemble, prelude::*};
/// # fn go<M: ModelFn>(test: Dataset) -> Result<()> {
/// let ensemble = Ensemble::<M, Cpu>::from_checkpoints("runs/mnist", &[400, 800, 1200], DeviceSpec::Cpu)?;
/// println!("{}", ensemble.accuracy(&test, "probabilities", "labels")?);
/// ensemble.save("runs/ensemble")?;
/// let ensemble = Ensemble::<M, Cpu>::load("runs/ensemble", DeviceSpec::Cpu)?;
/// # Ok(())
/// # }
/// ```
pub struct Ensemble<M: ModelFn<D>, D: Device> {
    members: Vec<Elistimator<M, D>>,
    weights: Vec<f64>,
    combine: Combine,
}

impl<M: ModelFn<D>, D: Device> Ensemble<M, D> {
    /// The checkpoints of these steps in a model directory, with equal weights.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without steps; those of [`Builder::from_disk`].
    pub fn from_checkpoints(model_dir: impl AsRef<Path>, steps: &[u64], device: DeviceSpec) -> Result<Self> {
        let members = steps.iter().map(|&step| Builder::<M, D>::from_disk(&model_dir, step)?.device(device).build());
        Self::new(members.collect::<Result<_>>()?)
    }

    /// Of members that are at hand, with equal weights.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without members.
    pub fn new(members: Vec<Elistimator<M, D>>) -> Result<Self> {
        if members.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "an ensemble needs at least one member, found none"));
        }
        Ok(Self { weights: vec![1.0 / members.len() as f64; members.len()], members, combine: Combine::Mean })
    }

    /// How much each member counts; scaled to the sum 1.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] unless there is one for each member, none negative and not all 0.
    pub fn weights(mut self, weights: &[f64]) -> Result<Self> {
        let sum: f64 = weights.iter().sum();
        let is_sound = weights.iter().all(|weight| *weight >= 0.0) && sum.is_finite() && sum > 0.0;
        if weights.len() != self.members.len() || !is_sound {
            let message =
                format!("found weights {weights:?}, expected {} that are not negative, nor all 0", self.members.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.weights = weights.iter().map(|weight| weight / sum).collect();
        Ok(self)
    }

    /// How members become one prediction; their mean unless set.
    #[must_use]
    pub fn combine(mut self, combine: Combine) -> Self {
        self.combine = combine;
        self
    }

    /// The members, to be asked one by one.
    pub fn members(&self) -> &[Elistimator<M, D>] {
        &self.members
    }

    /// The directories of the members' runs and their steps.
    pub fn sources(&self) -> Vec<(PathBuf, u64)> {
        self.members.iter().map(|member| (member.model_dir().to_owned(), member.global_step())).collect()
    }

    /// The output of this name for one batch, combined over the members: for classes ask for the probabilities.
    ///
    /// # Errors
    /// Those of [`Elistimator::predict`]; [`ErrorKind::Signature`] when the output is not of `f32`, [`ErrorKind::Mismatch`] when it
    /// is of another shape in another member, or to be voted by without an axis of classes.
    pub fn predict(&self, request: Record, output: &str) -> Result<Array> {
        let outputs = self.members.iter().map(|member| {
            let outputs = member.predict_outputs(Request::Named(request.clone()), &[output])?;
            outputs.get(output).cloned()
        });
        self.combined(&outputs.collect::<Result<Vec<_>>>()?)
    }

    /// [`predict`](Self::predict) for every batch of a data set.
    ///
    /// # Errors
    /// Those of the data and of [`Elistimator::predict_all`].
    pub fn predict_all(&self, input: impl InputFn, output: &str) -> Result<Vec<Array>> {
        let mut combined = Vec::new();
        self.each_batch(input, output, |_, prediction| {
            combined.push(prediction);
            Ok(())
        })?;
        Ok(combined)
    }

    /// The metrics of every member by itself, as its model function gives them, all on the same examples where the data is
    /// shuffled and cut.
    ///
    /// # Errors
    /// Those of [`Elistimator::evaluate`].
    pub fn evaluate_members(&self, input: impl InputFn) -> Result<Vec<Metrics>> {
        let dataset = input.dataset()?;
        self.members.iter().map(|member| member.evaluate_seeded(dataset.clone(), SEED)).collect()
    }

    /// Members and ensemble of a classifier side by side. The members' metrics come from their model function's `evaluate`. That
    /// one measures a network, which an ensemble is not: its `accuracy`, and as `loss` the mean of `-ln(probability of the
    /// label)`, come from the combined probabilities `output` and the classes in `labels` (`i64`). For any other metric there is
    /// [`measure`](Self::measure).
    ///
    /// Members that [vote](Combine::Vote) can leave a label without a share, and the loss is then infinite.
    ///
    /// # Errors
    /// Those of [`evaluate_members`](Self::evaluate_members) and [`measure`](Self::measure); [`ErrorKind::Data`] when the labels
    /// are not one class per row, or the output is no probability.
    pub fn evaluate(&self, input: impl InputFn, output: &str, labels: &str) -> Result<EnsembleMetrics> {
        let dataset = input.dataset()?;
        let members = self.evaluate_members(&dataset)?;
        let loss = self.measure(&dataset, output, |batch, probabilities| {
            let rows = rows(batch, labels, probabilities)?;
            rows.into_iter().map(|(row, label)| log_loss(row, label)).collect::<Result<Vec<_>>>().map(Mean::of)
        })?;
        let mut ensemble = Metrics::new();
        ensemble.insert("loss", loss.value());
        ensemble.insert("accuracy", self.accuracy(&dataset, output, labels)?);
        Ok(EnsembleMetrics { members, ensemble })
    }

    /// The share of examples at which the ensemble's largest value of `output` is at the class in `labels` (`i64`).
    ///
    /// # Errors
    /// Those of [`measure`](Self::measure); [`ErrorKind::Data`] when the labels are not one class per row.
    pub fn accuracy(&self, input: impl InputFn, output: &str, labels: &str) -> Result<f64> {
        let hits = self.measure(input, output, |batch, values| {
            let rows = rows(batch, labels, values)?;
            Ok(Mean::of(rows.into_iter().map(|(row, label)| f64::from(u8::from(largest(row) == label)))))
        })?;
        Ok(hits.value())
    }

    /// Any metric of the combined `output`: `state` is called with every batch, as preprocessed, and the ensemble's output for
    /// it, and the metric's states are merged.
    ///
    /// # Errors
    /// Those of the data, of [`Elistimator::predict_all`] and of `state`; [`ErrorKind::Data`] without examples.
    pub fn measure<T: Metric>(
        &self,
        input: impl InputFn,
        output: &str,
        mut state: impl FnMut(&Record, &Array) -> Result<T>,
    ) -> Result<T> {
        let mut merged: Option<T> = None;
        self.each_batch(input, output, |batch, prediction| {
            let state = state(&batch, &prediction)?;
            match &mut merged {
                Some(merged) => merged.merge(state),
                none => *none = Some(state),
            }
            Ok(())
        })?;
        merged.ok_or_else(|| {
            Error::new(ErrorKind::Data, "the metrics of an ensemble need at least one batch, found none")
        })
    }

    /// Saves weights, rule and members in a directory as one thing: it is made if missing, and an ensemble that is in it is
    /// replaced. Of a save that fails or is cut short the old ensemble is left; files are checked against checksums by
    /// [`load`](Self::load). What only training needs, the optimiser's state, is left out.
    ///
    /// Every member is in a model directory of its own there, from which [`Elistimator::from_disk`] can read it as well.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the disk refuses, [`ErrorKind::Locked`] when another process saves there.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let snapshot =
            |member: &Elistimator<M, D>| Ok(Snapshot { optimizer: Tensors::default(), ..member.snapshot()? });
        let members = Members {
            snapshots: self.members.iter().map(snapshot).collect::<Result<_>>()?,
            weights: self.weights.clone(),
            rule: self.combine.name().to_owned(),
        };
        members.save(dir.as_ref())
    }

    /// The ensemble that was [saved](Self::save) in a directory, on this device; the model functions with their
    /// hyper-parameters come from there too.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, [`ErrorKind::Corrupt`] naming the damaged file, [`ErrorKind::Mismatch`] when
    /// it is of another model, [`ErrorKind::Unsupported`] when it was saved by another release with a rule unknown here.
    pub fn load(dir: impl AsRef<Path>, device: DeviceSpec) -> Result<Self> {
        let dir = dir.as_ref();
        let (saved, dirs) = Members::load(dir)?;
        let combine = Combine::of_name(&saved.rule).ok_or_else(|| {
            let message = format!("{}: members are combined by {:?}, expected mean or vote", dir.display(), saved.rule);
            Error::new(ErrorKind::Unsupported, message)
        })?;
        let member = |(snapshot, dir): (Snapshot, &PathBuf)| {
            Builder::<M, D>::of_snapshot(&snapshot, dir)?.device(device).build()?.at(snapshot)
        };
        let members = saved.snapshots.into_iter().zip(&dirs).map(member).collect::<Result<_>>()?;
        let place = |error: Error| error.at(dir.display());
        let ensemble = Self::new(members).map_err(place)?.weights(&saved.weights).map_err(place)?;
        // To the bit: scaled again, they could differ in the last one.
        Ok(Self { weights: saved.weights, combine, ..ensemble })
    }

    /// One pass over the data, which is opened once, so that all members see one order: every batch as the first member
    /// preprocesses it, with the combined output.
    fn each_batch(
        &self,
        input: impl InputFn,
        output: &str,
        mut look: impl FnMut(Record, Array) -> Result<()>,
    ) -> Result<()> {
        let dataset = batched(input.dataset()?, "prediction")?;
        for batch in dataset.open(SEED, 0, 0)? {
            let (batch, mut first, mut outputs) = (batch?, None, Vec::with_capacity(self.members.len()));
            for member in &self.members {
                let batch = member.preprocessed(batch.clone())?;
                outputs.push(member.ask(batch.clone())?.get(output)?.clone());
                first.get_or_insert(batch);
            }
            look(first.unwrap_or_default(), self.combined(&outputs)?)?;
        }
        Ok(())
    }

    fn combined(&self, outputs: &[Array]) -> Result<Array> {
        let dims = outputs.first().map(|array| array.dims().to_vec()).unwrap_or_default();
        let mut sum = vec![0.0; dims.iter().product()];
        for (array, weight) in outputs.iter().zip(&self.weights) {
            let values = array.as_slice::<f32>()?;
            if array.dims() != dims {
                let message = format!("members gave outputs of shapes {dims:?} and {:?}", array.dims());
                return Err(Error::new(ErrorKind::Mismatch, message));
            }
            // A member that counts for nothing must not turn an undefined value into an undefined mean.
            if *weight == 0.0 {
                continue;
            }
            match self.combine {
                Combine::Mean => sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * f64::from(*value)),
                Combine::Vote if dims.len() < 2 => {
                    let message = format!(
                        "members vote by rows of classes: found an output of shape {dims:?}, expected two axes or more"
                    );
                    return Err(Error::new(ErrorKind::Mismatch, message));
                }
                Combine::Vote => {
                    let classes = dims.last().copied().unwrap_or(1).max(1);
                    for (sum, row) in sum.chunks_mut(classes).zip(values.chunks(classes)) {
                        sum[largest(row)] += weight;
                    }
                }
            }
        }
        Array::new(dims, sum.into_iter().map(|value| value as f32).collect())
    }
}

impl Combine {
    /// The name on disk.
    fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Vote => "vote",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Mean, Self::Vote].into_iter().find(|rule| rule.name() == name)
    }
}

/// The place of the largest value, the first of equal ones.
fn largest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (index, value)| if *value > row[best] { index } else { best })
}

/// Every label with its row of values.
fn rows<'a>(batch: &Record, labels: &str, values: &'a Array) -> Result<Vec<(&'a [f32], usize)>> {
    let name = labels;
    let (labels, dims, values) = (batch.get(labels)?.as_slice::<i64>()?, values.dims(), values.as_slice::<f32>()?);
    let classes = dims.last().copied().unwrap_or(0);
    if classes == 0 || labels.len().checked_mul(classes) != Some(values.len()) {
        let message = format!("found {} labels for values of shape {dims:?}, expected one per row", labels.len());
        return Err(Error::new(ErrorKind::Data, message));
    }
    let class = |label: i64| {
        usize::try_from(label).ok().filter(|&label| label < classes).ok_or_else(|| {
            Error::new(ErrorKind::Data, format!("{name:?}: found class {label}, expected 0 to {}", classes - 1))
        })
    };
    values.chunks(classes).zip(labels).map(|(row, &label)| Ok((row, class(label)?))).collect()
}

fn log_loss(row: &[f32], label: usize) -> Result<f64> {
    let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
    if row.iter().all(|value| *value >= 0.0) && (sum - 1.0).abs() < 1e-3 {
        return Ok(-f64::from(row[label]).ln());
    }
    let message =
        "the loss of an ensemble is that of probabilities: found values that are negative or not of the sum 1";
    Err(Error::new(ErrorKind::Data, message))
}

impl<M: ModelFn<D>, D: Device> std::fmt::Debug for Ensemble<M, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ensemble of {} members, {:?}", self.members.len(), self.combine)
    }
}
