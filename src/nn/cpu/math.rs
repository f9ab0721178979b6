//! Functions of one number, written so that loops over them vectorise.

use crate::nn::Activation;

/// The hyperbolic tangent as the rational function of Eigen, good to a few units in the last place.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let x = x.clamp(-7.905_311, 7.905_311);
    let x2 = x * x;
    let p = -2.760_768_5e-16;
    let p = p * x2 + 2.000_188e-13;
    let p = p * x2 - 8.604_672e-11;
    let p = p * x2 + 5.122_297e-8;
    let p = p * x2 + 1.485_722_4e-5;
    let p = p * x2 + 6.372_619e-4;
    let p = p * x2 + 4.893_524_6e-3;
    let q = 1.198_258_4e-6;
    let q = q * x2 + 1.185_347e-4;
    let q = q * x2 + 2.268_434_6e-3;
    let q = q * x2 + 4.893_525e-3;
    x * p / q
}

/// The logistic function by way of the tangent: good to 3e-7, but never 0. For gates.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    0.5 * tanh(0.5 * x) + 0.5
}

/// The logistic function to a few units in the last place, however small it is: what multiplies it or takes its logarithm
/// needs that.
#[inline(always)]
fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function as the rational function of Eigen, and exactly ±1 where a float has no more.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let far = x.abs() >= 4.0;
    let sign = 1.0f32.copysign(x);
    let x = x.clamp(-4.0, 4.0);
    let x2 = x * x;
    let p = -2.726_142_3e-10;
    let p = p * x2 + 2.770_681_4e-8;
    let p = p * x2 - 2.101_024e-6;
    let p = p * x2 - 5.692_506_4e-5;
    let p = p * x2 - 7.349_906_3e-4;
    let p = p * x2 - 2.954_6e-3;
    let p = p * x2 - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * x2 - 2.133_740_6e-4;
    let q = q * x2 - 1.682_827e-3;
    let q = q * x2 - 7.373_329_2e-3;
    let q = q * x2 - 1.426_473_9e-2;
    if far { sign } else { x * p / q }
}

/// The exponential function after Cephes: 2^n times a polynomial. Below -87.3 it is 0 and above 88.7 infinite.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.3, 88.3);
    let n = (clamped * std::f32::consts::LOG2_E + 0.5).floor();
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let p = p * r * r + r + 1.0;
    let y = p * f32::from_bits(((n as i32 + 127) << 23) as u32);
    if x < -87.3 {
        0.0
    } else if x > 88.3 {
        f32::INFINITY
    } else if x.is_nan() {
        x
    } else {
        y
    }
}

/// `1 / sqrt(2π)`.
const DENSITY: f32 = 0.398_942_3;

/// The activation.
#[inline(always)]
pub(super) fn apply(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Identity => x,
        // Written so that NaN stays NaN.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::LeakyRelu(slope) => {
            if x < 0.0 {
                slope * x
            } else {
                x
            }
        }
        Activation::Sigmoid => logistic(x),
        Activation::Tanh => tanh(x),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::Silu => x * logistic(x),
    }
}

/// The derivative of the activation from its output where that is enough, else from its input.
#[inline(always)]
pub(super) fn derivative(activation: Activation, kept: f32) -> f32 {
    match activation {
        Activation::Identity => 1.0,
        Activation::Relu => {
            if kept > 0.0 {
                1.0
            } else {
                0.0
            }
        }
        Activation::LeakyRelu(slope) => {
            if kept > 0.0 {
                1.0
            } else {
                slope
            }
        }
        Activation::Sigmoid => kept * (1.0 - kept),
        Activation::Tanh => 1.0 - kept * kept,
        Activation::Gelu => {
            let density = DENSITY * exp(-0.5 * kept * kept);
            0.5 * (1.0 + erf(kept * std::f32::consts::FRAC_1_SQRT_2)) + kept * density
        }
        Activation::Silu => {
            let s = logistic(kept);
            s * (1.0 + kept * (1.0 - s))
        }
    }
}

/// Runs a loop with the activation known in it, so that the loop vectorises.
macro_rules! with_activation {
    ($activation:expr, |$f:ident| $body:expr) => {
        match $activation {
            Activation::Identity => {
                let $f = Activation::Identity;
                $body
            }
            Activation::Relu => {
                let $f = Activation::Relu;
                $body
            }
            Activation::LeakyRelu(slope) => {
                let $f = Activation::LeakyRelu(slope);
                $body
            }
            Activation::Sigmoid => {
                let $f = Activation::Sigmoid;
                $body
            }
            Activation::Tanh => {
                let $f = Activation::Tanh;
                $body
            }
            Activation::Gelu => {
                let $f = Activation::Gelu;
                $body
            }
            Activation::Silu => {
                let $f = Activation::Silu;
                $body
            }
        }
    };
}
pub(super) use with_activation;

/// `x = activation(x)` over a slice.
pub(super) fn apply_all(activation: Activation, values: &mut [f32]) {
    super::vectorized(
        #[inline(always)]
        || {
            with_activation!(activation, |f| for x in values.iter_mut() {
                *x = apply(f, *x);
            })
        },
    );
}

/// `gradient *= derivative(kept)` over a slice.
pub(super) fn differentiate_all(activation: Activation, kept: &[f32], gradient: &mut [f32]) {
    if activation == Activation::Identity {
        return;
    }
    super::vectorized(
        #[inline(always)]
        || {
            with_activation!(activation, |f| for (g, k) in gradient.iter_mut().zip(kept) {
                *g *= derivative(f, *k);
            })
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_close_to_the_exact_ones() {
        for step in -4000..4000 {
            let x = step as f32 / 400.0;
            let y = f64::from(x);
            assert!((f64::from(tanh(x)) - y.tanh()).abs() < 4e-7, "tanh({x})");
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-y).exp())).abs() < 3e-7, "sigmoid({x})");
            assert!((f64::from(exp(x)) / y.exp() - 1.0).abs() < 3e-7, "exp({x})");
            assert!((f64::from(erf(x)) - erf_by_series(y)).abs() < 5e-7, "erf({x})");
        }
        assert_eq!((exp(-1000.0), exp(1000.0)), (0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && apply(Activation::Relu, f32::NAN).is_nan());
    }

    /// The integral of the density by Simpson's rule.
    fn erf_by_series(x: f64) -> f64 {
        let steps = 2000;
        let h = x / f64::from(steps);
        let f = |i: i32| (-(f64::from(i) * h).powi(2)).exp();
        let sum: f64 = (1..steps).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (sum + f(0) + f(steps)) * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn derivatives_are_those_of_the_functions() {
        let all = [
            Activation::Relu,
            Activation::LeakyRelu(0.1),
            Activation::Sigmoid,
            Activation::Tanh,
            Activation::Gelu,
            Activation::Silu,
        ];
        for activation in all {
            for x in [-3.1f32, -0.7, -0.2, 0.3, 1.4, 2.9] {
                let numeric = (apply(activation, x + 1e-2) - apply(activation, x - 1e-2)) / 2e-2;
                let kept = if activation.is_known_from_output() { apply(activation, x) } else { x };
                let found = derivative(activation, kept);
                assert!((found - numeric).abs() < 2e-3, "{activation:?} at {x}: {found}, expected {numeric}");
            }
        }
    }
}
