//! Named numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::progress::metrics_line;
use crate::{Error, ErrorKind, Result};

/// The metrics of an evaluation by name, `loss` always among them. It prints as `accuracy=0.9779 loss=0.07041411`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Metrics {
    values: BTreeMap<String, f64>,
}

impl Metrics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of this metric.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] listing the metrics that there are.
    pub fn get(&self, name: &str) -> Result<f64> {
        self.values.get(name).copied().ok_or_else(|| {
            let known: Vec<_> = self.values.keys().collect();
            Error::new(ErrorKind::NotFound, format!("no metric named {name:?}; known are {known:?}"))
        })
    }

    /// Sets a metric.
    pub fn insert(&mut self, name: &str, value: f64) {
        self.values.insert(name.to_owned(), value);
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl From<BTreeMap<String, f64>> for Metrics {
    fn from(values: BTreeMap<String, f64>) -> Self {
        Self { values }
    }
}

impl From<Metrics> for BTreeMap<String, f64> {
    fn from(metrics: Metrics) -> Self {
        metrics.values
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&metrics_line(self.iter()))
    }
}
