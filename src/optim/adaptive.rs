//! Optimisers that scale every coordinate by its past gradients: Adagrad, FTRL and LAMB.

use serde::{Deserialize, Serialize};

/// Adagrad (Duchi et al. 2011) as PyTorch computes it, for sparse features whose rare ones should learn fast:
/// `s += g^2; w -= learning_rate * g / (sqrt(s) + epsilon)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adagrad {
    pub(crate) learning_rate: f64,
    pub(crate) initial_accumulator: f64,
    pub(crate) epsilon: f64,
    pub(crate) weight_decay: f64,
}

impl Adagrad {
    /// With an empty accumulator and epsilon 1e-10.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, initial_accumulator: 0.0, epsilon: 1e-10, weight_decay: 0.0 }
    }

    /// What the sum of squares begins with; TensorFlow's default is 0.1.
    #[must_use]
    pub fn initial_accumulator(mut self, value: f64) -> Self {
        self.initial_accumulator = value;
        self
    }

    /// What is added to the root of the sum of squares.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Adds `weight_decay * w` to the gradient (L2).
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }
}

/// FTRL-Proximal (McMahan et al. 2013, algorithm 1) as TensorFlow's `FtrlOptimizer` computes it, for wide linear models whose
/// useless weights should be exactly 0:
/// `z += g - (sqrt(n + g^2) - sqrt(n)) / learning_rate * w; n += g^2`, then `w = 0` where `|z| <= l1`, and elsewhere
/// `w = (sign(z) * l1 - z) / (sqrt(n) / learning_rate + 2 * l2)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ftrl {
    pub(crate) learning_rate: f64,
    pub(crate) initial_accumulator: f64,
    pub(crate) l1: f64,
    pub(crate) l2: f64,
}

impl Ftrl {
    /// With an accumulator that begins at 0.1, and without regularisation.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, initial_accumulator: 0.1, l1: 0.0, l2: 0.0 }
    }

    /// What the sum of squares `n` begins with.
    #[must_use]
    pub fn initial_accumulator(mut self, value: f64) -> Self {
        self.initial_accumulator = value;
        self
    }

    /// The strength of the L1 regularisation, which makes weights exactly 0.
    #[must_use]
    pub fn l1(mut self, strength: f64) -> Self {
        self.l1 = strength;
        self
    }

    /// The strength of the L2 regularisation.
    #[must_use]
    pub fn l2(mut self, strength: f64) -> Self {
        self.l2 = strength;
        self
    }
}

/// LAMB (You et al. 2020, algorithm 2), for large batches: Adam's direction plus `weight_decay * w`, scaled in every parameter
/// to the norm of its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lamb {
    pub(crate) learning_rate: f64,
    pub(crate) betas: [f64; 2],
    pub(crate) epsilon: f64,
    pub(crate) weight_decay: f64,
}

impl Lamb {
    /// With betas 0.9 and 0.999, epsilon 1e-6, no decay.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, betas: [0.9, 0.999], epsilon: 1e-6, weight_decay: 0.0 }
    }

    /// The decay rates of the two moments.
    #[must_use]
    pub fn betas(mut self, first: f64, second: f64) -> Self {
        self.betas = [first, second];
        self
    }

    /// What is added to the root of the second moment.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Adds `weight_decay * w` to the direction.
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }
}
