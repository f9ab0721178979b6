//! The verbs that ask: `predict` and `predict_all`.

use crate::data::record::Absent;
use crate::data::{Array, Dataset, Record, Stream};
use crate::elistimator::{device_outcome, model_outcome};
use crate::inputs::InputFn;
use crate::{Device, Elistimator, Error, ErrorKind, Features, ModelFn, Result, unwind};

/// What [`predict`](Elistimator::predict) takes: a [`Record`] by input name (the [`inputs!`](crate::inputs) macro makes
/// one), or arrays in the order of the signature.
#[derive(Debug)]
pub enum Request {
    /// Inputs by name.
    Named(Record),
    /// Inputs in the order of the signature.
    Positional(Vec<Array>),
}

impl From<Record> for Request {
    fn from(record: Record) -> Self {
        Self::Named(record)
    }
}

impl From<Vec<Array>> for Request {
    fn from(arrays: Vec<Array>) -> Self {
        Self::Positional(arrays)
    }
}

impl<const N: usize> From<[Array; N]> for Request {
    fn from(arrays: [Array; N]) -> Self {
        Self::Positional(arrays.into())
    }
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// The outputs for one batch that is at hand, by input name (`inputs! { "images" => array }`) or by position. Only the
    /// inputs that the model function's `predict` reads are needed, so no labels. One example may come without the batch axis,
    /// `inputs! { "area" => 80f32, "rooms" => 3i64 }`, when all inputs do; its outputs are those of a batch of one.
    ///
    /// # Errors
    /// [`ErrorKind::Signature`] when names, dtypes or shapes do not fit the signature; [`ErrorKind::WrongOrder`] when nothing
    /// has fixed one yet; [`ErrorKind::NotProvided`] when the model function has no `predict`; and its own.
    pub fn predict(&self, request: impl Into<Request>) -> Result<Record> {
        let batch = self.checked(request.into())?;
        let given: Vec<String> = batch.names().map(str::to_owned).collect();
        let batch =
            self.preprocessed(batch).map_err(|error| self.lacking(error.at("predict"), &given, "preprocess"))?;
        self.ask(batch).map_err(|error| self.lacking(error, &given, "predict"))
    }

    /// [`predict`](Self::predict) with only these outputs.
    ///
    /// # Errors
    /// Those of [`predict`](Self::predict); [`ErrorKind::NotFound`] lists the outputs that there are.
    pub fn predict_outputs(&self, request: impl Into<Request>, outputs: &[&str]) -> Result<Record> {
        let all = self.predict(request)?;
        let mut chosen = Record::new();
        for name in outputs {
            chosen.insert(*name, all.get(name).map_err(|error| error.at("outputs of predict"))?.clone());
        }
        Ok(chosen)
    }

    /// The outputs for a whole data set, lazily: a batch is read and computed when the iterator is asked for it.
    /// [`examples`](Predictions::examples) gives them one example at a time.
    ///
    /// # Errors
    /// When the data cannot be opened; the iterator's items carry the later ones.
    pub fn predict_all(&self, input: impl InputFn) -> Result<Predictions<'_, M, D>> {
        let dataset: Dataset = self.prepare(input.dataset()?, "prediction")?;
        Ok(Predictions { estimator: self, batches: dataset.open(self.options.seed, 0, 0)?, failed: false })
    }

    pub(crate) fn preprocessed(&self, batch: Record) -> Result<Record> {
        model_outcome(unwind::catch(|| self.model.preprocess(batch)))
    }

    pub(crate) fn ask(&self, batch: Record) -> Result<Record> {
        let features = Features::new(batch, self.device.clone());
        let spec = device_outcome(&self.device, unwind::catch(|| self.model.predict(&self.net, &features)));
        Ok(spec.map_err(|error| error.at("predict"))?.outputs)
    }

    /// An error of a model function's `method` that a request with only the `given` inputs brought about, in the words of the
    /// request; any other as it is.
    fn lacking(&self, error: Error, given: &[String], method: &str) -> Error {
        let absent = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Absent>());
        let name = absent.map(|absent| absent.name.as_str()).filter(|name| !given.iter().any(|known| known == name));
        let signature = self.signature();
        let Some(expected) = name.zip(signature.as_ref()).and_then(|(name, all)| all.input(name).ok()) else {
            return error;
        };
        let message = format!(
            "the request has no input {:?}, which the model function's `{method}` reads: expected {} of shape {}; the request \
             has {given:?}",
            expected.name,
            expected.dtype,
            expected.shape()
        );
        Error::new(ErrorKind::Signature, message).at("predict")
    }

    /// Puts names to positions, makes one example a batch, and checks all against the signature.
    fn checked(&self, request: Request) -> Result<Record> {
        let signature = self.signature().ok_or_else(|| {
            let message =
                "`predict` has no input signature to check against: call `setup`, or restore a checkpoint, first";
            Error::new(ErrorKind::WrongOrder, message)
        })?;
        let record = match request {
            Request::Named(record) => record,
            Request::Positional(arrays) => {
                let names: Vec<_> = signature.names().map(str::to_owned).collect();
                if arrays.len() > names.len() {
                    let message = format!("found {} inputs, expected at most {}: {names:?}", arrays.len(), names.len());
                    return Err(Error::new(ErrorKind::Signature, message));
                }
                names.into_iter().zip(arrays).fold(Record::new(), |record, (name, array)| record.with(name, array))
            }
        };
        let batch = signature.batch_of(record);
        signature.check_batch(&batch, &[])?;
        Ok(batch)
    }
}

/// The outputs of a data set, batch by batch; made by [`Elistimator::predict_all`].
pub struct Predictions<'e, M: ModelFn<D>, D: Device> {
    estimator: &'e Elistimator<M, D>,
    batches: Stream,
    failed: bool,
}

impl<M: ModelFn<D>, D: Device> Iterator for Predictions<'_, M, D> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.failed {
            return None;
        }
        let outputs = self.batches.next()?.and_then(|batch| self.estimator.ask(batch));
        self.failed = outputs.is_err();
        Some(outputs)
    }
}

impl<'e, M: ModelFn<D>, D: Device> Predictions<'e, M, D> {
    /// One example at a time, without the batch axis. Outputs of a batch that differ in their numbers of rows are an error
    /// ([`ErrorKind::Model`]) in place of its examples.
    pub fn examples(self) -> impl Iterator<Item = Result<Record>> + use<'e, M, D> {
        self.flat_map(|batch| match batch {
            Ok(batch) => split(&batch),
            Err(error) => vec![Err(error)],
        })
    }
}

impl<M: ModelFn<D>, D: Device> std::fmt::Debug for Predictions<'_, M, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Predictions")
    }
}

/// The examples of a batch of outputs.
fn split(batch: &Record) -> Vec<Result<Record>> {
    let rows = |array: &Array| array.dims().first().copied();
    let examples = batch.iter().next().and_then(|(_, array)| rows(array)).unwrap_or(0);
    if let Some((name, array)) = batch.iter().find(|(_, array)| rows(array) != Some(examples)) {
        let found = array.dims();
        let message =
            format!("output {name:?}: found shape {found:?}, expected {examples} rows as of the first output");
        return vec![Err(Error::new(ErrorKind::Model, message).at("predict"))];
    }
    let example =
        |index| batch.iter().try_fold(Record::new(), |record, (name, array)| Ok(record.with(name, array.row(index)?)));
    (0..examples).map(example).collect()
}
