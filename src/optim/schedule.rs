//! How the learning rate changes over the steps.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::optim::config::NOT_NEGATIVE;
use crate::{Error, ErrorKind, Result};

/// The learning rate as a function of the step, and of nothing else: a resumed run goes on exactly.
///
/// Lengths of 0 steps (a warm-up may have none), and shares and factors that are not finite or negative, are an
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when the estimator is built.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Schedule {
    /// The optimiser's learning rate throughout.
    #[default]
    Constant,
    /// Multiplied by `factor` every `steps` steps.
    Step {
        /// Steps between two drops.
        steps: u64,
        /// What each drop multiplies by.
        factor: f64,
    },
    /// Multiplied by `rate` at every step.
    Exponential {
        /// The factor of one step.
        rate: f64,
    },
    /// Half a cosine from the base down to `floor` times the base, over `steps` steps (Loshchilov and Hutter 2017).
    Cosine {
        /// The length of the descent.
        steps: u64,
        /// What is left at the end, as a share of the base.
        floor: f64,
    },
    /// Multiplied by `factor` at each of these steps.
    MultiStep {
        /// Where the learning rate drops, in any order.
        milestones: Vec<u64>,
        /// What each drop multiplies by.
        factor: f64,
    },
    /// From the base to `floor` times the base over `steps` steps: `floor + (1 - floor) * (1 - step / steps)^power`.
    Polynomial {
        /// The length of the descent.
        steps: u64,
        /// 1 for a straight line.
        power: f64,
        /// What is left at the end, as a share of the base.
        floor: f64,
    },
    /// Half a cosine from the base down to `floor` times the base, begun anew after `steps` steps, then after `steps * growth`,
    /// `steps * growth^2` and so on (SGDR: Loshchilov and Hutter 2017).
    WarmRestarts {
        /// The length of the first descent.
        steps: u64,
        /// How many times longer each descent is than the one before; 0 counts as 1.
        growth: u64,
        /// What is left at the end of a descent, as a share of the base.
        floor: f64,
    },
    /// Up by half a cosine from `start` times the base to the base, then down to `end` times the base (Smith and Topin 2018).
    /// The base is the highest learning rate; the momentum stays as it is, as in PyTorch with `cycle_momentum=False`.
    OneCycle {
        /// The length of the whole.
        steps: u64,
        /// The share of the steps that go up, often 0.3.
        rise: f64,
        /// The first learning rate, as a share of the base, often 1/25.
        start: f64,
        /// The last learning rate, as a share of the base, often 4e-6.
        end: f64,
    },
    /// Half a cosine down to 0 in every cycle: the schedule of snapshot ensembles (Huang et al. 2017).
    Cyclic {
        /// Steps in a cycle.
        cycle: u64,
    },
    /// `sqrt(steps / (steps + step))`. After a [warm-up](Self::after_warm_up) of the same length that is `sqrt(steps / step)` by
    /// the run's steps: the schedule of the transformer (Vaswani et al. 2017).
    InverseSquareRoot {
        /// How slow the decay is: after three times as many steps half is left.
        steps: u64,
    },
    /// `(step + 1) / steps` for so many steps, so that the first one moves and the last one has the base already; then another
    /// schedule, from its own step 0 on.
    WarmUp {
        /// The length of the warm-up.
        steps: u64,
        /// What follows.
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// This schedule after a linear warm-up over so many steps.
    #[must_use]
    pub fn after_warm_up(self, steps: u64) -> Self {
        Self::WarmUp { steps, then: Box::new(self) }
    }

    /// The factor on the base learning rate after `step` steps.
    pub fn factor(&self, step: u64) -> f64 {
        let cosine = |share: f64| 0.5 * (1.0 + (PI * share.clamp(0.0, 1.0)).cos());
        let share = |step: u64, steps: u64| step as f64 / steps.max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Step { steps, factor } => factor.powf((step / (*steps).max(1)) as f64),
            Self::Exponential { rate } => rate.powf(step as f64),
            Self::Cosine { steps, floor } => floor + (1.0 - floor) * cosine(share(step, *steps)),
            Self::MultiStep { milestones, factor } => {
                factor.powf(milestones.iter().filter(|&&milestone| milestone <= step).count() as f64)
            }
            Self::Polynomial { steps, power, floor } => {
                floor + (1.0 - floor) * (1.0 - share(step.min(*steps), *steps)).powf(*power)
            }
            Self::WarmRestarts { steps, growth, floor } => {
                let (done, length) = descent(step, (*steps).max(1), (*growth).max(1));
                floor + (1.0 - floor) * cosine(share(done, length))
            }
            Self::OneCycle { steps, rise, start, end } => {
                let (place, rise) = (share(step, *steps), rise.clamp(0.0, 1.0));
                if place < rise {
                    1.0 + (start - 1.0) * cosine(place / rise)
                } else {
                    end + (1.0 - end) * cosine((place - rise) / (1.0 - rise).max(f64::MIN_POSITIVE))
                }
            }
            Self::Cyclic { cycle } => cosine(share(step % (*cycle).max(1), *cycle)),
            Self::InverseSquareRoot { steps } => {
                let steps = (*steps).max(1) as f64;
                (steps / (steps + step as f64)).sqrt()
            }
            Self::WarmUp { steps, .. } if step < *steps => share(step + 1, *steps),
            Self::WarmUp { steps, then } => then.factor(step - steps),
        }
    }

    /// The learning rate after `step` steps.
    pub fn learning_rate(&self, base: f64, step: u64) -> f64 {
        base * self.factor(step)
    }

    /// Refuses settings that give no learning rate, or give one by accident.
    pub(crate) fn check(&self) -> Result<()> {
        let (name, lengths, sizes): (&str, &[(&str, u64)], &[(&str, f64)]) = match self {
            Self::Constant => return Ok(()),
            Self::Step { steps, factor } => ("step", &[("steps", *steps)], &[("factor", *factor)]),
            Self::Exponential { rate } => ("exponential", &[], &[("rate", *rate)]),
            Self::Cosine { steps, floor } => ("cosine", &[("steps", *steps)], &[("floor", *floor)]),
            Self::MultiStep { factor, .. } => ("multi-step", &[], &[("factor", *factor)]),
            Self::Polynomial { steps, power, floor } => {
                ("polynomial", &[("steps", *steps)], &[("power", *power), ("floor", *floor)])
            }
            Self::WarmRestarts { steps, floor, .. } => ("warm-restarts", &[("steps", *steps)], &[("floor", *floor)]),
            Self::OneCycle { steps, rise, start, end } => {
                if *rise > 1.0 {
                    return Err(refused("rise", "one-cycle", rise, "a share of the steps, at most 1"));
                }
                ("one-cycle", &[("steps", *steps)], &[("rise", *rise), ("start", *start), ("end", *end)])
            }
            Self::Cyclic { cycle } => ("cyclic", &[("cycle", *cycle)], &[]),
            Self::InverseSquareRoot { steps } => ("inverse-square-root", &[("steps", *steps)], &[]),
            // A warm-up of no steps is what a program says that has none.
            Self::WarmUp { then, .. } => return then.check(),
        };
        if let Some((setting, _)) = lengths.iter().find(|(_, steps)| *steps == 0) {
            return Err(refused(setting, name, &0, "at least 1 step"));
        }
        match sizes.iter().find(|(_, size)| !size.is_finite() || *size < 0.0) {
            Some((setting, size)) => Err(refused(setting, name, size, NOT_NEGATIVE)),
            None => Ok(()),
        }
    }
}

fn refused(setting: &str, schedule: &str, found: &dyn std::fmt::Display, expected: &str) -> Error {
    let message = format!("{setting} of the {schedule} schedule: found {found}, expected {expected}");
    Error::new(ErrorKind::InvalidArgument, message)
}

/// How far a step is in its descent, and how long that is.
fn descent(step: u64, first: u64, growth: u64) -> (u64, u64) {
    if growth == 1 {
        return (step % first, first);
    }
    let (mut done, mut length) = (step, first);
    // The lengths at least double, so this ends after 64 rounds at most.
    while done >= length {
        done -= length;
        length = length.saturating_mul(growth);
    }
    (done, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_give_no_learning_rate_are_refused() {
        let message = |schedule: Schedule| {
            let error = schedule.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            error.to_string()
        };
        let cosine = |steps, floor| Schedule::Cosine { steps, floor };
        assert_eq!(message(cosine(0, 0.1)), "steps of the cosine schedule: found 0, expected at least 1 step");
        assert!(message(cosine(0, 0.1).after_warm_up(5)).contains("cosine"));
        assert!(message(cosine(9, f64::NAN)).starts_with("floor of the cosine schedule: found NaN"));
        assert!(message(cosine(9, -0.1)).contains("found -0.1"));
        assert!(message(Schedule::Step { steps: 0, factor: 0.5 }).contains("step schedule"));
        assert!(message(Schedule::Exponential { rate: -1.0 }).contains("rate"));
        assert!(message(Schedule::MultiStep { milestones: vec![1], factor: f64::INFINITY }).contains("factor"));
        assert!(message(Schedule::Polynomial { steps: 0, power: 1.0, floor: 0.0 }).contains("steps"));
        assert!(message(Schedule::WarmRestarts { steps: 0, growth: 2, floor: 0.0 }).contains("steps"));
        assert!(message(Schedule::Cyclic { cycle: 0 }).contains("cycle"));
        assert!(message(Schedule::InverseSquareRoot { steps: 0 }).contains("steps"));
        let one_cycle = |steps, rise| Schedule::OneCycle { steps, rise, start: 0.1, end: 0.0 };
        assert!(message(one_cycle(0, 0.3)).contains("steps"));
        assert!(message(one_cycle(10, 1.5)).contains("rise") && message(one_cycle(10, f64::NAN)).contains("rise"));
        assert!(one_cycle(10, 0.3).check().is_ok() && cosine(9, 0.0).after_warm_up(0).check().is_ok());
    }

    #[test]
    fn factors_follow_their_formulas() {
        let near = |schedule: &Schedule, step, expected: f64| {
            let found = schedule.factor(step);
            assert!((found - expected).abs() < 1e-12, "{schedule:?} at {step}: {found}, expected {expected}");
        };
        near(&Schedule::Constant, 10, 1.0);
        let step = Schedule::Step { steps: 10, factor: 0.5 };
        near(&step, 9, 1.0);
        near(&step, 10, 0.5);
        near(&step, 29, 0.25);
        near(&Schedule::Exponential { rate: 0.9 }, 2, 0.81);
        let cosine = Schedule::Cosine { steps: 100, floor: 0.1 };
        near(&cosine, 0, 1.0);
        near(&cosine, 50, 0.55);
        near(&cosine, 1000, 0.1);
        let cyclic = Schedule::Cyclic { cycle: 4 };
        near(&cyclic, 2, 0.5);
        near(&cyclic, 4, 1.0);
        let multi = Schedule::MultiStep { milestones: vec![20, 10], factor: 0.1 };
        near(&multi, 9, 1.0);
        near(&multi, 10, 0.1);
        near(&multi, 20, 0.01);
        let polynomial = Schedule::Polynomial { steps: 10, power: 2.0, floor: 0.2 };
        near(&polynomial, 5, 0.2 + 0.8 * 0.25);
        near(&polynomial, 99, 0.2);
        let restarts = Schedule::WarmRestarts { steps: 4, growth: 2, floor: 0.0 };
        near(&restarts, 2, 0.5);
        near(&restarts, 4, 1.0);
        near(&restarts, 8, 0.5);
        near(&restarts, 12, 1.0);
        assert!((0.0..=1.0).contains(&restarts.factor(u64::MAX)));
        near(&Schedule::WarmRestarts { steps: 4, growth: 1, floor: 0.0 }, 4 * 1_000_000_007 + 2, 0.5);
        let one_cycle = Schedule::OneCycle { steps: 100, rise: 0.4, start: 0.1, end: 0.0 };
        near(&one_cycle, 0, 0.1);
        near(&one_cycle, 20, 0.55);
        near(&one_cycle, 40, 1.0);
        near(&one_cycle, 70, 0.5);
        near(&one_cycle, 200, 0.0);
        near(&Schedule::InverseSquareRoot { steps: 100 }, 0, 1.0);
        near(&Schedule::InverseSquareRoot { steps: 100 }, 300, 0.5);
        // Half of the peak at four times the warm-up, as the transformer's.
        near(&Schedule::InverseSquareRoot { steps: 100 }.after_warm_up(100), 400, 0.5);
        assert!(Schedule::InverseSquareRoot { steps: 0 }.factor(u64::MAX).is_finite());
        let warm = Schedule::Exponential { rate: 0.5 }.after_warm_up(4);
        near(&warm, 0, 0.25);
        near(&warm, 3, 1.0);
        near(&warm, 5, 0.5);
        near(&Schedule::Step { steps: 0, factor: 0.5 }, 0, 1.0);
    }
}
