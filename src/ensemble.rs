//! Several checkpoints that predict together.

use std::path::{Path, PathBuf};

use crate::builder::Builder;
use crate::data::{Array, Record};
use crate::inputs::InputFn;
use crate::metrics::Metrics;
use crate::{Device, DeviceSpec, Elistimator, Error, ErrorKind, ModelFn, Request, Result};

/// How members become one prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Combine {
    /// The weighted mean of every value: for probabilities.
    #[default]
    Mean,
    /// Every member gives its weight to the class at which its row is largest; the result is the share of each class.
    Vote,
}

/// Members of one model function that predict together: the snapshots of one run with a cyclic learning rate (Huang et al.
/// 2017), or checkpoints of several runs.
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
            let message = format!("found weights {weights:?}, expected {} that are not negative", self.members.len());
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
    /// Those of [`Elistimator::predict`]; [`ErrorKind::Mismatch`] when the output is not of `f32`.
    pub fn predict(&self, request: Record, output: &str) -> Result<Array> {
        let outputs = self.members.iter().map(|member| {
            let outputs = member.predict_outputs(Request::Named(request.clone()), &[output])?;
            outputs.get(output).cloned()
        });
        self.combined(outputs.collect::<Result<_>>()?)
    }

    /// [`predict`](Self::predict) for every batch of a data set.
    ///
    /// # Errors
    /// Those of the data and of [`Elistimator::predict_all`].
    pub fn predict_all(&self, input: impl InputFn, output: &str) -> Result<Vec<Array>> {
        let dataset = input.dataset()?;
        let mut streams = Vec::new();
        for member in &self.members {
            streams.push(member.predict_all(dataset.clone())?);
        }
        let mut combined = Vec::new();
        loop {
            let mut outputs = Vec::with_capacity(streams.len());
            for stream in &mut streams {
                if let Some(batch) = stream.next().transpose()? {
                    outputs.push(batch.get(output)?.clone());
                }
            }
            if outputs.len() < streams.len() {
                return Ok(combined);
            }
            combined.push(self.combined(outputs)?);
        }
    }

    /// The metrics of every member by itself.
    ///
    /// # Errors
    /// Those of [`Elistimator::evaluate`].
    pub fn evaluate_members(&self, input: impl InputFn) -> Result<Vec<Metrics>> {
        let dataset = input.dataset()?;
        self.members.iter().map(|member| member.evaluate(dataset.clone())).collect()
    }

    /// The share of examples at which the ensemble's largest value of `output` is at the class in `labels` (`i64`).
    ///
    /// # Errors
    /// Those of [`predict_all`](Self::predict_all); [`ErrorKind::Data`] without examples or when the labels are not one per row.
    pub fn accuracy(&self, input: impl InputFn, output: &str, labels: &str) -> Result<f64> {
        let dataset = input.dataset()?;
        let predictions = self.predict_all(dataset.clone(), output)?;
        let (mut hits, mut count) = (0, 0);
        for (batch, prediction) in dataset.open(0, 0, 0)?.zip(predictions) {
            let batch = batch?;
            let labels = batch.get(labels)?.as_slice::<i64>()?;
            let values = prediction.as_slice::<f32>()?;
            if labels.is_empty() || values.len() % labels.len() != 0 || values.len() < labels.len() {
                let message = format!("found {} labels for {} values of {output:?}", labels.len(), values.len());
                return Err(Error::new(ErrorKind::Data, message));
            }
            let rows = values.chunks(values.len() / labels.len());
            hits += rows.zip(labels).filter(|(row, label)| i64::try_from(largest(row)) == Ok(**label)).count();
            count += labels.len();
        }
        match count {
            0 => Err(Error::new(ErrorKind::Data, "the accuracy of an ensemble needs at least one example")),
            count => Ok(hits as f64 / count as f64),
        }
    }

    fn combined(&self, outputs: Vec<Array>) -> Result<Array> {
        let dims = outputs.first().map(|array| array.dims().to_vec()).unwrap_or_default();
        let mut sum = vec![0.0f32; dims.iter().product()];
        for (array, weight) in outputs.iter().zip(&self.weights) {
            let values = array.as_slice::<f32>()?;
            if array.dims() != dims {
                let message = format!("members gave outputs of shapes {dims:?} and {:?}", array.dims());
                return Err(Error::new(ErrorKind::Mismatch, message));
            }
            match self.combine {
                Combine::Mean => sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += *weight as f32 * value),
                Combine::Vote => {
                    let classes = dims.last().copied().unwrap_or(1).max(1);
                    for (sum, row) in sum.chunks_mut(classes).zip(values.chunks(classes)) {
                        sum[largest(row)] += *weight as f32;
                    }
                }
            }
        }
        Array::new(dims, sum)
    }
}

/// The place of the largest value, the first of equal ones.
fn largest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (index, value)| if *value > row[best] { index } else { best })
}

impl<M: ModelFn<D>, D: Device> std::fmt::Debug for Ensemble<M, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ensemble of {} members, {:?}", self.members.len(), self.combine)
    }
}
