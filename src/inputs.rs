//! The data that an estimator is set up with.

use crate::data::Dataset;
use crate::{Error, ErrorKind, Result, unwind};

/// Anything that gives a data set: a [`Dataset`], or a closure that makes one; when that fails, `setup` says so.
pub trait InputFn {
    /// The data set, batched.
    ///
    /// # Errors
    /// Whatever stops the data from being found; `setup` passes it on.
    fn dataset(self) -> Result<Dataset>;
}

impl InputFn for Dataset {
    fn dataset(self) -> Result<Dataset> {
        Ok(self)
    }
}

impl InputFn for &Dataset {
    fn dataset(self) -> Result<Dataset> {
        Ok(self.clone())
    }
}

impl<F: FnOnce() -> Result<Dataset>> InputFn for F {
    fn dataset(self) -> Result<Dataset> {
        let failed = |panic| Err(Error::new(ErrorKind::Data, format!("the input function panicked: {panic}")));
        unwind::catch(self).unwrap_or_else(failed)
    }
}

/// What [`setup`](crate::Elistimator::setup) takes: the training data, and validation data where there is any.
#[derive(Debug)]
pub struct Inputs {
    pub(crate) train: Result<Dataset>,
    pub(crate) validation: Vec<(String, Result<Dataset>)>,
    pub(crate) new_data: bool,
}

impl Inputs {
    /// Training data: batches, that is a data set with `.batch(n)` or `.padded_batch(n)` in it.
    pub fn train(input: impl InputFn) -> Self {
        Self { train: input.dataset(), validation: Vec::new(), new_data: false }
    }

    /// The data of `validate()`.
    #[must_use]
    pub fn validation(self, input: impl InputFn) -> Self {
        self.validation_named("", input)
    }

    /// A further validation set, for `validate_named(name)`: its metrics are monitored as `name/loss` and logged in a
    /// directory of their own.
    #[must_use]
    pub fn validation_named(mut self, name: &str, input: impl InputFn) -> Self {
        self.validation.retain(|(known, _)| known != name);
        self.validation.push((name.to_owned(), input.dataset()));
        self
    }

    /// Says that a restored run is to go on with other data, another batch size or on another device than it was saved with:
    /// it then begins an epoch on the new data. Without it, such a difference is refused.
    #[must_use]
    pub fn continue_with_new_data(mut self) -> Self {
        self.new_data = true;
        self
    }
}
