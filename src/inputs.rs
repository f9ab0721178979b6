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
        self.and_validation("", input.dataset())
    }

    /// A further validation set, for `validate_named(name)`: its metrics are monitored as `name/loss` and logged in a
    /// directory of their own, `validation_name`. `setup` refuses a name that is empty, has a `/`, `\` or a control character
    /// in it, or is `ema`, the directory of [`validate_ema`](crate::Elistimator::validate_ema).
    #[must_use]
    pub fn validation_named(self, name: &str, input: impl InputFn) -> Self {
        let is_dir = !name.is_empty() && !name.contains(|c: char| "/\\".contains(c) || c.is_control()) && name != "ema";
        let refused = || {
            let message = format!(
                "validation_named: found the name {name:?}, expected one that a directory can have, other than \"ema\""
            );
            Err(Error::new(ErrorKind::InvalidArgument, message))
        };
        let dataset = if is_dir { input.dataset() } else { refused() };
        self.and_validation(name, dataset)
    }

    fn and_validation(mut self, name: &str, dataset: Result<Dataset>) -> Self {
        self.validation.retain(|(known, _)| known != name);
        self.validation.push((name.to_owned(), dataset));
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
