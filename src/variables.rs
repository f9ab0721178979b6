//! The estimator's variables by name: read, written, frozen, and taken over from elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::Tensors;
use crate::data::{Array, input_file};
use crate::gradient_pool::GradientPool;
use crate::nn::{Network, Part, PartMut, Visitor, VisitorMut, matches, variables};
use crate::{Device, Elistimator, Error, ErrorKind, ModelError, ModelFn, Result};

/// What a [warm start](Elistimator::warm_start) did, by the network's names unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WarmStart {
    /// Variables that have values from the file now.
    pub loaded: Vec<String>,
    /// Variables that were asked for and are not in the file.
    pub missing: Vec<String>,
    /// Tensors of the file that no variable took, by their names there.
    pub unexpected: Vec<String>,
    /// Variables whose shape or type in the file is another one, with what was found and expected.
    pub mismatched: Vec<String>,
}

impl<M: ModelFn<D>, D: Device> Elistimator<M, D> {
    /// Names and shapes of all variables, in the network's order.
    pub fn variables(&self) -> Vec<(String, Vec<usize>)> {
        let mut list = Vec::new();
        // A visitor that never fails has no error to pass on.
        let _ = self.net.visit(&mut Visitor::new(&mut |name, part| {
            if let Part::Parameter(parameter) = part {
                list.push((name.to_owned(), parameter.dims().to_vec()));
            }
            Ok(())
        }));
        list
    }

    /// The values of one variable.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] lists the variables that there are.
    pub fn variable(&self, name: &str) -> Result<Array> {
        let mut found = None;
        self.net
            .visit(&mut Visitor::new(&mut |known, part| {
                if let Part::Parameter(parameter) = part
                    && known == name
                {
                    found = Some((parameter.dims().to_vec(), parameter.values()));
                }
                Ok(())
            }))
            .map_err(ModelError::into_error)?;
        let (dims, values) = found.ok_or_else(|| self.no_variable(name))?;
        Array::new(dims, values)
    }

    /// Overwrites one variable.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] lists the variables that there are; [`ErrorKind::Mismatch`] when the shape is another one.
    pub fn set_variable(&mut self, name: &str, values: &Array) -> Result<&mut Self> {
        let Some((_, dims)) = self.variables().into_iter().find(|(known, _)| known == name) else {
            return Err(self.no_variable(name));
        };
        if values.dims() != dims {
            let message = format!("variable {name:?}: found shape {:?}, expected {dims:?}", values.dims());
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        let tensor = (name, dims.as_slice(), values.as_slice::<f32>()?);
        variables::write(&mut self.net, std::iter::once(tensor), &Vec::new()).map_err(ModelError::into_error)?;
        self.weights_are_set();
        Ok(self)
    }

    /// Keeps the variables whose names fit the pattern (a prefix, or a glob with `*`) out of training; returns how many. Say it
    /// again after a restart: it is no part of checkpoints.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no name fits.
    #[doc(alias("requires_grad"))]
    pub fn freeze(&mut self, pattern: &str) -> Result<usize> {
        self.set_trainable(pattern, false)
    }

    /// Lets training update the variables whose names fit the pattern again; returns how many. Running statistics stay out of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no name fits.
    pub fn unfreeze(&mut self, pattern: &str) -> Result<usize> {
        self.set_trainable(pattern, true)
    }

    fn set_trainable(&mut self, pattern: &str, trainable: bool) -> Result<usize> {
        let (mut count, mut fits) = (0, false);
        self.net
            .visit_mut(&mut VisitorMut::new(&mut |name, part| {
                if let PartMut::Parameter(parameter) = part
                    && matches(pattern, name)
                {
                    parameter.set_trainable(trainable);
                    fits = true;
                    count += usize::from(parameter.is_trainable() == trainable);
                }
                Ok(())
            }))
            .map_err(ModelError::into_error)?;
        if !fits {
            return Err(self.no_variable(pattern));
        }
        self.gradients = GradientPool::new(&self.net).map_err(ModelError::into_error)?;
        Ok(count)
    }

    /// Takes weights over from a checkpoint's directory or a safetensors file, and leaves the rest as initialised. `source` is
    /// called with the name of every variable, and returns the name of the tensor it takes, or `None` to leave it alone. Other
    /// programs' files may hold `F64`, `F16` and `BF16` besides `F32`, which all become `f32`, and tensors of other types, which
    /// stay in the file. PyTorch's linear layers and embeddings have the shapes of ours.
    ///
    /// ```no_run
    /// # use elistimator::prelude::*;
    /// # fn go<M: ModelFn>(estimator: &mut Elistimator<M>) -> Result<()> {
    /// let report = estimator.warm_start("bert.safetensors", |name| {
    ///     name.starts_with("encoder.").then(|| name.replacen("encoder.", "bert.encoder.", 1))
    /// })?;
    /// println!("initialised: {:?}", report.missing);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Io`] and [`ErrorKind::Corrupt`] when the file cannot be read; [`ErrorKind::InvalidArgument`] for a model
    /// directory in place of one of its checkpoints; [`ErrorKind::Mismatch`] when nothing that was asked for fits, so that a slip
    /// in the names does not quietly train from scratch. What else does not fit is in the report.
    pub fn warm_start(
        &mut self,
        path: impl AsRef<Path>,
        mut source: impl FnMut(&str) -> Option<String>,
    ) -> Result<WarmStart> {
        let path = path.as_ref();
        let (tensors, others) = match path.is_dir() {
            true => (self.reader(|store| store.load_path(path))?.model, Vec::new()),
            false => {
                let bytes = input_file::read_whole(path, u64::MAX)?;
                Tensors::from_foreign_bytes(&bytes).map_err(|error| error.at(path.display()))?
            }
        };
        let others: BTreeMap<String, String> = others.into_iter().collect();
        let file: BTreeMap<&str, (&[usize], &[f32])> =
            tensors.iter().map(|(name, dims, values)| (name, (dims, values))).collect();
        let mut taken = std::collections::BTreeSet::new();
        let (mut report, mut entries) = (WarmStart::default(), Vec::new());
        for (name, dims) in self.variables() {
            let Some(wanted) = source(&name) else { continue };
            match file.get(wanted.as_str()) {
                None => match others.get(&wanted) {
                    None => report.missing.push(name),
                    Some(found) => {
                        report.mismatched.push(format!("{name}: found {found}, expected F32, F64, F16 or BF16"));
                        taken.insert(wanted);
                    }
                },
                Some(&(found, values)) => {
                    taken.insert(wanted);
                    if found == dims {
                        entries.push((name.clone(), found, values));
                        report.loaded.push(name);
                    } else {
                        report.mismatched.push(format!("{name}: found {found:?}, expected {dims:?}"));
                    }
                }
            }
        }
        let known = file.into_keys().chain(others.keys().map(String::as_str));
        report.unexpected = known.filter(|name| !taken.contains(*name)).map(str::to_owned).collect();
        report.unexpected.sort();
        if report.loaded.is_empty() && !(report.missing.is_empty() && report.mismatched.is_empty()) {
            let first = |names: &[String]| names.iter().take(5).cloned().collect::<Vec<_>>();
            let message = format!(
                "{}: nothing is taken over, since no tensor that was asked for fits; missing: {:?}, of another shape or type: {:?}, \
                 in the file: {:?}",
                path.display(),
                first(&report.missing),
                first(&report.mismatched),
                first(&report.unexpected),
            );
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        let entries = entries.iter().map(|(name, dims, values)| (name.as_str(), *dims, *values));
        variables::write(&mut self.net, entries, &Vec::new()).map_err(ModelError::into_error)?;
        self.weights_are_set();
        Ok(report)
    }

    fn no_variable(&self, name: &str) -> Error {
        let known: Vec<_> = self.variables().into_iter().map(|(name, _)| name).collect();
        Error::new(ErrorKind::NotFound, format!("no variable {name:?}; there are {known:?}"))
    }
}
