//! How parameters get their first values.

use rand::SeedableRng;
use rand::distributions::Distribution;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{ModelError, ModelResult};

/// How a parameter is filled when the network is built. Values are drawn on the host from ChaCha8, so that a seed gives
/// the same network on every device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Init {
    /// All zeros: biases.
    Zeros,
    /// All ones: the gains of a normalisation.
    Ones,
    /// Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010): the default of Keras and TensorFlow layers.
    GlorotUniform,
    /// Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010).
    GlorotNormal,
    /// Uniform in ±sqrt(6 / fan_in) (He et al. 2015): for ReLU networks.
    HeUniform,
    /// Normal with variance 2 / fan_in (He et al. 2015).
    HeNormal,
    /// Uniform in ±1 / sqrt(fan_in): the default of PyTorch's Linear and Conv layers.
    FanInUniform,
    /// Uniform in [low, high).
    Uniform(f32, f32),
    /// Normal with this mean and standard deviation.
    Normal(f32, f32),
    /// These values in row-major order.
    Values(Vec<f32>),
}

impl Init {
    /// `len` values for a parameter with these fans (the number of inputs that feed one output, and the reverse).
    ///
    /// # Errors
    /// When given values have another length, or a distribution has impossible bounds.
    pub fn sample(&self, len: usize, fan_in: usize, fan_out: usize, seed: u64) -> ModelResult<Vec<f32>> {
        let (fan_in, fan_out) = (fan_in.max(1) as f32, fan_out.max(1) as f32);
        match self {
            Self::Zeros => Ok(vec![0.0; len]),
            Self::Ones => Ok(vec![1.0; len]),
            Self::GlorotUniform => symmetric(len, (6.0 / (fan_in + fan_out)).sqrt(), seed),
            Self::GlorotNormal => normal(len, 0.0, (2.0 / (fan_in + fan_out)).sqrt(), seed),
            Self::HeUniform => symmetric(len, (6.0 / fan_in).sqrt(), seed),
            Self::HeNormal => normal(len, 0.0, (2.0 / fan_in).sqrt(), seed),
            Self::FanInUniform => symmetric(len, 1.0 / fan_in.sqrt(), seed),
            Self::Uniform(low, high) => uniform(len, *low, *high, seed),
            Self::Normal(mean, deviation) => normal(len, *mean, *deviation, seed),
            Self::Values(values) if values.len() == len => Ok(values.clone()),
            Self::Values(values) => Err(ModelError::msg(format!(
                "initial values: found {} values, expected {len} for this parameter",
                values.len()
            ))),
        }
    }
}

fn symmetric(len: usize, bound: f32, seed: u64) -> ModelResult<Vec<f32>> {
    uniform(len, -bound, bound, seed)
}

fn uniform(len: usize, low: f32, high: f32, seed: u64) -> ModelResult<Vec<f32>> {
    if !(low.is_finite() && high.is_finite() && low < high && (high - low).is_finite()) {
        return Err(ModelError::msg(format!(
            "initialisation: uniform needs finite low < high, found {low} and {high}"
        )));
    }
    draw(len, rand::distributions::Uniform::new(low, high), seed)
}

fn normal(len: usize, mean: f32, deviation: f32, seed: u64) -> ModelResult<Vec<f32>> {
    let distribution = rand_distr::Normal::new(mean, deviation)
        .map_err(|error| ModelError::msg(format!("initialisation: normal({mean}, {deviation}): {error}")))?;
    draw(len, distribution, seed)
}

fn draw(len: usize, distribution: impl Distribution<f32>, seed: u64) -> ModelResult<Vec<f32>> {
    Ok(distribution.sample_iter(ChaCha8Rng::seed_from_u64(seed)).take(len).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glorot_and_he_have_their_formulas_spread() {
        for (init, variance) in [
            (Init::GlorotUniform, 2.0 / 1000.0),
            (Init::GlorotNormal, 2.0 / 1000.0),
            (Init::HeUniform, 2.0 / 300.0),
            (Init::HeNormal, 2.0 / 300.0),
            (Init::FanInUniform, 1.0 / 900.0),
        ] {
            let values = init.sample(200_000, 300, 700, 1).unwrap();
            let mean = values.iter().sum::<f32>() / 200_000.0;
            let found = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 200_000.0;
            assert!((found / variance - 1.0).abs() < 0.02, "{init:?}: variance {found}, expected {variance}");
        }
    }

    #[test]
    fn impossible_requests_are_errors() {
        assert!(Init::Uniform(1.0, 1.0).sample(1, 1, 1, 0).is_err());
        assert!(Init::Uniform(f32::MIN, f32::MAX).sample(1, 1, 1, 0).is_err());
        assert!(Init::Normal(0.0, f32::NAN).sample(1, 1, 1, 0).is_err());
        assert!(Init::Values(vec![1.0]).sample(2, 1, 1, 0).is_err());
    }
}
