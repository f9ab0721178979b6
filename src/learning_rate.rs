//! Which learning rate a step takes: the one that was fixed, your own schedule's, or the model function's.

use crate::{Device, Elistimator, Error, ErrorKind, ModelFn, Result, unwind};

/// The learning rate by the number of steps done.
pub(crate) type OwnSchedule = Box<dyn Fn(u64) -> f64 + Send + Sync>;

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// The learning rate of the next step: the one you fixed, or the schedule's.
    pub fn learning_rate(&self) -> f64 {
        match (self.fixed_learning_rate, &self.own_schedule) {
            (Some(learning_rate), _) => learning_rate,
            (None, Some(schedule)) => schedule(self.global_step),
            (None, None) => self.schedule.learning_rate(self.base_learning_rate, self.global_step),
        }
    }

    /// Tells the optimiser the learning rate of the next step.
    pub(crate) fn next_learning_rate(&mut self) -> Result<f64> {
        let learning_rate = unwind::catch(|| self.learning_rate()).map_err(|panic| {
            Error::new(ErrorKind::Model, format!("the closure of the learning rate panicked: {panic}"))
        })?;
        match (self.fixed_learning_rate, &self.own_schedule) {
            (None, None) => self.optimizer.schedule(learning_rate, self.schedule.factor(self.global_step)),
            _ => self.optimizer.set_learning_rate(learning_rate),
        }
        Ok(learning_rate)
    }

    /// Fixes the learning rate from the next step on, in place of the schedule, also in runs that go on from later checkpoints.
    /// One that is not finite or negative is an error of the next step.
    pub fn set_learning_rate(&mut self, learning_rate: f64) -> &mut Self {
        self.fixed_learning_rate = Some(learning_rate);
        self
    }

    /// Leaves the learning rate to the schedule again, after [`set_learning_rate`](Self::set_learning_rate).
    pub fn follow_schedule(&mut self) -> &mut Self {
        self.fixed_learning_rate = None;
        self
    }

    /// A schedule of your own in place of the model function's: the learning rate after so many steps,
    /// `estimator.set_schedule(|step| 0.1 / (1.0 + 1e-3 * step as f64))`. A fixed learning rate still comes first. Closures cannot
    /// be saved: say it again after a restart, and the run goes on exactly.
    pub fn set_schedule(&mut self, schedule: impl Fn(u64) -> f64 + Send + Sync + 'static) -> &mut Self {
        self.own_schedule = Some(Box::new(schedule));
        self
    }
}
