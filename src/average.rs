//! The mean of several checkpoints' weights.

use crate::checkpoint::Tensors;
use crate::{Device, Elistimator, Error, ErrorKind, ModelFn, Result};

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// An estimator with the mean of the last `count` checkpoints' weights, which often generalises better than the last ones,
    /// as for transformers (Vaswani et al. 2017): evaluate it, predict with it, or make it a member of an
    /// [`Ensemble`](crate::Ensemble). The last ones are those that were saved last, also after going back to an earlier step;
    /// the sums are in `f64`. Running statistics are averaged like weights.
    ///
    /// This run stays as it is. The new estimator has its hyper-parameters, its signature and the step of the newest checkpoint,
    /// and a directory of its own, `averaged` in the model directory, where its `save_ckpt` saves: read that back with
    /// `from_disk(model_dir.join("averaged"))`. Its optimiser begins anew.
    ///
    /// ```no_run
    /// # use elistimator::prelude::*;
    /// # fn go<M: ModelFn>(estimator: &Elistimator<M>, validation: Dataset) -> Result<()> {
    /// let mut averaged = estimator.average_checkpoints(5)?;
    /// if averaged.evaluate(&validation)?.get("loss")? < estimator.evaluate(&validation)?.get("loss")? {
    ///     averaged.save_ckpt()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for 0; [`ErrorKind::NotFound`] when there are fewer checkpoints;
    /// [`ErrorKind::NotFinite`] when one has weights that are no finite numbers; [`ErrorKind::Mismatch`] when one is of another
    /// network; those of [`restore_ckpt`](Self::restore_ckpt).
    pub fn average_checkpoints(&self, count: usize) -> Result<Self> {
        let mut infos = self.checkpoints()?;
        infos.sort_by_key(|info| std::cmp::Reverse(info.age()));
        let known = infos.len();
        infos.truncate(count);
        if count == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "the mean of 0 checkpoints: ask for at least 1"));
        }
        if known < count {
            let message = format!("the mean of {count} checkpoints: found {known} in {}", self.model_dir.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let mut snapshots = infos.iter().map(|info| self.reader(|store| store.load_path(&info.path)));
        let mut newest = snapshots
            .next()
            .transpose()?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no checkpoint in {}", self.model_dir.display())))?;
        let mut sum = Sum::new(&newest.model).map_err(|error| error.at(format_args!("step {}", newest.step)))?;
        for snapshot in snapshots {
            let snapshot = snapshot?;
            sum.add(&snapshot.model).map_err(|error| error.at(format_args!("step {}", snapshot.step)))?;
        }
        newest.model = sum.mean()?;
        (newest.optimizer, newest.metrics) = (Tensors::default(), None);
        let mut options = self.options.clone();
        (options.model_dir, options.average) = (Some(self.model_dir.join("averaged")), None);
        Self::new(self.model.clone(), options)?.at(newest)
    }
}

/// Tensors of one network, added up in `f64`.
struct Sum {
    count: usize,
    entries: Vec<(String, Vec<usize>, Vec<f64>)>,
}

impl Sum {
    fn new(tensors: &Tensors) -> Result<Self> {
        let zeros =
            |(name, dims, values): (&str, &[usize], &[f32])| (name.to_owned(), dims.to_vec(), vec![0.0; values.len()]);
        let mut sum = Self { count: 0, entries: tensors.iter().map(zeros).collect() };
        sum.add(tensors)?;
        Ok(sum)
    }

    fn add(&mut self, tensors: &Tensors) -> Result<()> {
        if !tensors.are_finite() {
            return Err(Error::new(ErrorKind::NotFinite, "weights that are not finite have no mean"));
        }
        if let Some((name, ..)) =
            tensors.iter().find(|(name, ..)| !self.entries.iter().any(|(known, ..)| known == name))
        {
            let message = format!("the checkpoint has a tensor {name:?} that the newest one has not");
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        for (name, dims, sum) in &mut self.entries {
            let found = tensors.iter().find(|(known, found, _)| known == name && found == dims);
            let (_, _, values) = found.ok_or_else(|| {
                let message = format!("the checkpoint has no tensor {name:?} of shape {dims:?}, as the newest one has");
                Error::new(ErrorKind::Mismatch, message)
            })?;
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        self.count += 1;
        Ok(())
    }

    fn mean(self) -> Result<Tensors> {
        let count = self.count as f64;
        let mean = |sum: Vec<f64>| sum.into_iter().map(|sum| (sum / count) as f32).collect();
        Tensors::new(self.entries.into_iter().map(|(name, dims, sum)| (name, dims, mean(sum))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_other_tensors_have_no_mean() {
        let tensors = |names: &[&str]| {
            Tensors::new(names.iter().map(|name| ((*name).to_owned(), vec![1], vec![1.0])).collect()).unwrap()
        };
        for (newest, older) in [(&["a"][..], &["a", "b"][..]), (&["a", "b"], &["b"])] {
            let mut sum = Sum::new(&tensors(newest)).unwrap();
            sum.add(&tensors(newest)).unwrap();
            assert_eq!(sum.add(&tensors(older)).unwrap_err().kind(), ErrorKind::Mismatch);
        }
    }
}
