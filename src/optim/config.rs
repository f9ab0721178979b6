//! Optimisers and their settings.

use serde::{Deserialize, Serialize};

use crate::nn::matches;
use crate::optim::own::Own;
use crate::optim::{Adagrad, Ftrl, Lamb};
use crate::{Error, ErrorKind, Result};

/// Which optimiser, with its settings: what a model function's `optimizer` returns. Made from [`Sgd`], [`Adam`], [`RmsProp`],
/// [`Adagrad`], [`Ftrl`] or [`Lamb`] by `.into()`, or by [`own`](Self::own); give other settings to a part of the network with
/// [`group`](Self::group).
///
/// Patterns of names are prefixes (`"critic."`), or, where they have a `*`, globs over the whole name (`"*.bias"`).
///
/// Settings that are not finite or negative, and decay rates outside 0 to 1, are an
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when the estimator is built, and at every update.
///
/// ```
/// # use elistimator::optim::{Adam, OptimizerConfig};
/// let config = OptimizerConfig::from(Adam::new(1e-3).decoupled_weight_decay(0.01))
///     .without_decay("*.bias")
///     .group("head.", Adam::new(1e-2))
///     .frozen("embedding.")
///     .clip_norm(1.0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptimizerConfig {
    pub(crate) rule: Rule,
    pub(crate) groups: Vec<(String, Rule)>,
    #[serde(default)]
    pub(crate) undecayed: Vec<String>,
    #[serde(default)]
    pub(crate) frozen: Vec<String>,
    #[serde(default)]
    pub(crate) clip_value: Option<f64>,
    #[serde(default)]
    pub(crate) clip_norm: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// Public only in this private module, for a sealed trait.
pub enum Rule {
    /// Gradient descent.
    Sgd(Sgd),
    /// Adam and AdamW.
    Adam(Adam),
    /// RMSprop.
    RmsProp(RmsProp),
    /// Adagrad.
    Adagrad(Adagrad),
    /// FTRL-Proximal.
    Ftrl(Ftrl),
    /// LAMB.
    Lamb(Lamb),
    /// The user's.
    #[serde(skip)]
    Own(Own),
}

/// What a size must be.
pub(super) const NOT_NEGATIVE: &str = "a finite number that is not negative";

/// Refuses what is no size.
pub(super) fn not_negative(what: &str, found: f64) -> Result<()> {
    if found.is_finite() && found >= 0.0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidArgument, format!("{what}: found {found}, expected {NOT_NEGATIVE}")))
}

impl OptimizerConfig {
    /// Updates the parameters whose names fit the pattern by an optimiser of their own. Of several patterns that fit, the
    /// longest counts. The schedule scales all learning rates alike. Decay is left out, parameters are frozen and gradients are
    /// clipped by what is said of the whole, not of the group's optimiser. A pattern that fits no parameter is an
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when the estimator is built.
    #[must_use]
    #[doc(alias("param_groups"))]
    pub fn group(mut self, pattern: &str, optimizer: impl Into<Self>) -> Self {
        self.groups.retain(|(known, _)| known != pattern);
        self.groups.push((pattern.to_owned(), optimizer.into().rule));
        self
    }

    /// Leaves the parameters whose names fit the pattern, if any, out of weight decay: biases and norms, usually.
    #[must_use]
    pub fn without_decay(mut self, pattern: &str) -> Self {
        self.undecayed.push(pattern.to_owned());
        self
    }

    /// Never updates the parameters whose names fit the pattern. Their gradients are still computed, and not counted in
    /// [norms](Self::clip_norm); [`Elistimator::freeze`](crate::Elistimator::freeze) saves that work too. A pattern that fits no
    /// parameter is an error, as in [`group`](Self::group).
    #[must_use]
    pub fn frozen(mut self, pattern: &str) -> Self {
        self.frozen.push(pattern.to_owned());
        self
    }

    /// Clips every value of the gradients to `-limit..=limit`, before the norm is taken. A limit that is not a positive
    /// number is an error.
    #[must_use]
    pub fn clip_value(mut self, limit: f64) -> Self {
        self.clip_value = Some(limit);
        self
    }

    /// Scales the gradients of all parameters of a loss together so that their Euclidean norm is at most `limit` (Pascanu et
    /// al. 2013), as PyTorch's `clip_grad_norm_` does; infinity only measures. The norm before clipping is logged as
    /// `gradient_norm`. A limit that is not a positive number is an error.
    #[must_use]
    pub fn clip_norm(mut self, limit: f64) -> Self {
        self.clip_norm = Some(limit);
        self
    }

    /// The learning rate of parameters outside groups.
    pub fn learning_rate(&self) -> f64 {
        self.rule.learning_rate()
    }

    /// The rule for a parameter: 0 is the common one, then the groups in their order.
    pub(crate) fn rule_of(&self, name: &str) -> usize {
        let fits = self.groups.iter().enumerate().filter(|(_, (pattern, _))| matches(pattern, name));
        fits.max_by_key(|(_, (pattern, _))| pattern.len()).map_or(0, |(index, _)| index + 1)
    }

    pub(crate) fn decays(&self, name: &str) -> bool {
        !self.undecayed.iter().any(|pattern| matches(pattern, name))
    }

    pub(crate) fn is_frozen(&self, name: &str) -> bool {
        self.frozen.iter().any(|pattern| matches(pattern, name))
    }

    /// The patterns that stand for a part of the network which there must be, and what they do. What is left out of decay may be in
    /// no network: `"*norm*"` is said of all of them.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let groups = self.groups.iter().map(|(pattern, _)| ("the group", pattern.as_str()));
        groups.chain(self.frozen.iter().map(|pattern| ("frozen", pattern.as_str())))
    }

    /// Refuses settings with which no update makes sense, as PyTorch does.
    pub(crate) fn check(&self) -> Result<()> {
        self.rule.check("the optimiser")?;
        self.groups.iter().try_for_each(|(pattern, rule)| rule.check(&format!("the group {pattern:?}")))?;
        for (name, limit) in [("clip_value", self.clip_value), ("clip_norm", self.clip_norm)] {
            if let Some(limit) = limit.filter(|limit| limit.is_nan() || *limit <= 0.0) {
                let message = format!("{name}: found {limit}, expected a positive number");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        Ok(())
    }

    pub(crate) fn rule(&self, index: usize) -> &Rule {
        index.checked_sub(1).and_then(|group| self.groups.get(group)).map_or(&self.rule, |(_, rule)| rule)
    }
}

impl Rule {
    pub(crate) fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.learning_rate,
            Self::Adam(adam) => adam.learning_rate,
            Self::RmsProp(rms_prop) => rms_prop.learning_rate,
            Self::Adagrad(adagrad) => adagrad.learning_rate,
            Self::Ftrl(ftrl) => ftrl.learning_rate,
            Self::Lamb(lamb) => lamb.learning_rate,
            Self::Own(own) => own.learning_rate,
        }
    }

    fn check(&self, place: &str) -> Result<()> {
        let rest: &[(&str, f64)] = match self {
            Self::Sgd(Sgd { momentum, weight_decay, .. }) => {
                &[("momentum", *momentum), ("weight_decay", *weight_decay)]
            }
            Self::Adam(Adam { epsilon, weight_decay, .. }) | Self::Lamb(Lamb { epsilon, weight_decay, .. }) => {
                &[("epsilon", *epsilon), ("weight_decay", *weight_decay)]
            }
            Self::RmsProp(RmsProp { epsilon, momentum, weight_decay, .. }) => {
                &[("epsilon", *epsilon), ("momentum", *momentum), ("weight_decay", *weight_decay)]
            }
            Self::Adagrad(Adagrad { initial_accumulator, epsilon, weight_decay, .. }) => {
                &[("initial_accumulator", *initial_accumulator), ("epsilon", *epsilon), ("weight_decay", *weight_decay)]
            }
            Self::Ftrl(Ftrl { initial_accumulator, l1, l2, .. }) => {
                &[("initial_accumulator", *initial_accumulator), ("l1", *l1), ("l2", *l2)]
            }
            Self::Own(own) => {
                own.check(place)?;
                &[]
            }
        };
        let rates: &[(&str, f64)] = match self {
            Self::Adam(Adam { betas, .. }) | Self::Lamb(Lamb { betas, .. }) => {
                &[("the first of betas", betas[0]), ("the second of betas", betas[1])]
            }
            Self::RmsProp(RmsProp { decay, .. }) => &[("decay", *decay)],
            Self::Sgd(_) | Self::Adagrad(_) | Self::Ftrl(_) | Self::Own(_) => &[],
        };
        let refused = |name: &str, value: f64, expected: &str| {
            let message = format!("{name} of {place}: found {value}, expected {expected}");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        };
        let is_size = |value: f64| value.is_finite() && value >= 0.0;
        match (
            rest.iter().find(|(_, value)| !is_size(*value)),
            // Updates are in `f32`, where 1 - 1e-9 is 1, and the mean of nothing is NaN.
            rates.iter().find(|(_, rate)| !(*rate >= 0.0 && (*rate as f32) < 1.0)),
        ) {
            _ if !is_size(self.learning_rate()) => refused("learning_rate", self.learning_rate(), NOT_NEGATIVE),
            (Some((name, value)), _) => refused(name, *value, NOT_NEGATIVE),
            (_, Some((name, rate))) => refused(name, *rate, "at least 0 and less than 1"),
            (None, None) => Ok(()),
        }
    }

    /// The same without weight decay; FTRL's regularisation is no decay and stays.
    pub(crate) fn without_decay(&self) -> Self {
        let mut rule = self.clone();
        match &mut rule {
            Self::Sgd(Sgd { weight_decay, .. })
            | Self::Adam(Adam { weight_decay, .. })
            | Self::RmsProp(RmsProp { weight_decay, .. })
            | Self::Adagrad(Adagrad { weight_decay, .. })
            | Self::Lamb(Lamb { weight_decay, .. }) => *weight_decay = 0.0,
            Self::Own(own) => own.decays = false,
            Self::Ftrl(_) => {}
        }
        rule
    }

    /// The names of the state that a parameter has under this rule.
    pub(crate) fn moments(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd(Sgd { momentum, .. }) if *momentum != 0.0 => &["velocity"],
            Self::Sgd(_) => &[],
            Self::Adam(_) | Self::Lamb(_) => &["first_moment", "second_moment"],
            Self::Adagrad(_) => &["sum_of_squares"],
            Self::Ftrl(_) => &["sum_of_squares", "linear"],
            Self::RmsProp(RmsProp { momentum, .. }) if *momentum != 0.0 => &["mean_square", "velocity"],
            Self::RmsProp(_) => &["mean_square"],
            Self::Own(own) => own.rule.state(),
        }
    }
}

impl From<Rule> for OptimizerConfig {
    fn from(rule: Rule) -> Self {
        Self { rule, groups: Vec::new(), undecayed: Vec::new(), frozen: Vec::new(), clip_value: None, clip_norm: None }
    }
}

macro_rules! config {
    ($($Name:ident),*) => {$(
        impl From<$Name> for OptimizerConfig {
            fn from(settings: $Name) -> Self {
                Rule::$Name(settings).into()
            }
        }
    )*};
}

config!(Sgd, Adam, RmsProp, Adagrad, Ftrl, Lamb);

/// Stochastic gradient descent: `v = momentum * v + g; w -= learning_rate * v`, with Nesterov's
/// `w -= learning_rate * (g + momentum * v)` (Sutskever et al. 2013), as PyTorch computes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sgd {
    pub(crate) learning_rate: f64,
    pub(crate) momentum: f64,
    pub(crate) nesterov: bool,
    pub(crate) weight_decay: f64,
}

impl Sgd {
    /// Plain gradient descent.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, momentum: 0.0, nesterov: false, weight_decay: 0.0 }
    }

    /// With momentum, often 0.9.
    #[must_use]
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// With Nesterov's momentum.
    #[must_use]
    pub fn nesterov(mut self, on: bool) -> Self {
        self.nesterov = on;
        self
    }

    /// Adds `weight_decay * w` to the gradient (L2).
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }
}

/// Adam (Kingma and Ba 2015) with bias correction, and AdamW (Loshchilov and Hutter 2019) with
/// [decoupled](Self::decoupled_weight_decay) decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    pub(crate) learning_rate: f64,
    pub(crate) betas: [f64; 2],
    pub(crate) epsilon: f64,
    pub(crate) weight_decay: f64,
    pub(crate) decoupled: bool,
}

impl Adam {
    /// With betas 0.9 and 0.999, epsilon 1e-8.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0, decoupled: false }
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

    /// Adds `weight_decay * w` to the gradient (L2).
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        (self.weight_decay, self.decoupled) = (weight_decay, false);
        self
    }

    /// Takes `learning_rate * weight_decay * w` from the weight itself: AdamW.
    #[must_use]
    pub fn decoupled_weight_decay(mut self, weight_decay: f64) -> Self {
        (self.weight_decay, self.decoupled) = (weight_decay, true);
        self
    }
}

/// RMSprop (Hinton 2012) as PyTorch computes it:
/// `s = decay * s + (1 - decay) * g^2; v = momentum * v + g / (sqrt(s) + epsilon); w -= learning_rate * v`, from `s = v = 0`.
/// (TensorFlow adds epsilon under the root, and its first version begins with `s = 1`.)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RmsProp {
    pub(crate) learning_rate: f64,
    pub(crate) decay: f64,
    pub(crate) epsilon: f64,
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
}

impl RmsProp {
    /// With decay 0.9, epsilon 1e-8, no momentum.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, decay: 0.9, epsilon: 1e-8, momentum: 0.0, weight_decay: 0.0 }
    }

    /// The decay rate of the mean square.
    #[must_use]
    pub fn decay(mut self, decay: f64) -> Self {
        self.decay = decay;
        self
    }

    /// What is added to the root of the mean square.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// With momentum.
    #[must_use]
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Adds `weight_decay * w` to the gradient (L2).
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }
}
