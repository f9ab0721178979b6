//! How large a network is, part by part.

use std::fmt;

use crate::nn::{Network, Part, Visitor};
use crate::{Device, Elistimator, ModelFn};

/// The parameters of a network by its parts: what [`Elistimator::parameters`] returns. It prints as a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[doc(alias("summary"))]
pub struct ParameterSummary {
    parts: Vec<ParameterCount>,
}

/// One part of a network, and how many values are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParameterCount {
    /// The first component of the names: `conv1` of `conv1.weight`.
    pub part: String,
    /// Values that training updates.
    pub trainable: usize,
    /// Values that it does not: frozen ones, running statistics.
    pub frozen: usize,
}

impl ParameterSummary {
    /// The parts in the network's order.
    pub fn parts(&self) -> &[ParameterCount] {
        &self.parts
    }

    /// All values that training updates.
    pub fn trainable(&self) -> usize {
        self.parts.iter().map(|part| part.trainable).sum()
    }

    /// All values that it does not.
    pub fn frozen(&self) -> usize {
        self.parts.iter().map(|part| part.frozen).sum()
    }
}

impl fmt::Display for ParameterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.parts.iter().map(|part| part.part.chars().count()).max().unwrap_or(0).max("total".len());
        let mut row = |name: &str, trainable: &dyn fmt::Display, frozen: &dyn fmt::Display, end: &str| {
            write!(f, "{name:width$}  {trainable:>12}  {frozen:>12}{end}")
        };
        row("", &"trainable", &"frozen", "\n")?;
        for part in &self.parts {
            row(&part.part, &part.trainable, &part.frozen, "\n")?;
        }
        row("total", &self.trainable(), &self.frozen(), "")
    }
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// How many values each part of the network has, to be printed before a long run: `println!("{}", estimator.parameters())`.
    /// What a pattern of the [optimiser](crate::optim::OptimizerConfig::frozen) freezes counts as frozen.
    pub fn parameters(&self) -> ParameterSummary {
        let config = self.model.optimizer();
        let mut summary = ParameterSummary::default();
        // A visitor that never fails has no error to pass on.
        let _ = self.net.visit(&mut Visitor::new(&mut |name, part| {
            let Part::Parameter(parameter) = part else { return Ok(()) };
            let part = name.split('.').next().unwrap_or(name);
            let place = summary.parts.iter().position(|known| known.part == part).unwrap_or_else(|| {
                summary.parts.push(ParameterCount { part: part.to_owned(), trainable: 0, frozen: 0 });
                summary.parts.len() - 1
            });
            let counts = &mut summary.parts[place];
            if parameter.is_trainable() && !config.is_frozen(name) {
                counts.trainable += parameter.len();
            } else {
                counts.frozen += parameter.len();
            }
            Ok(())
        }));
        summary
    }
}
