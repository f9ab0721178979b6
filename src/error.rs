//! The one error type, and the error that model functions return.

use std::{fmt, path::Path};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for code that has to decide: match on it through [`Error::kind`], and read the rest in the message.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A setting or an argument has a value that can never work.
    InvalidArgument,
    /// A verb was called before the one it needs; the message says which to call first.
    WrongOrder,
    /// The model function does not provide what the verb needs (`evaluate` or `predict`).
    NotProvided,
    /// An input does not fit the signature or the type that the model function asked for.
    Signature,
    /// The data pipeline failed: a source, a stage, or a closure of the user's in one.
    Data,
    /// The user's model function returned an error or panicked.
    Model,
    /// The loss or a weight is NaN or infinite.
    NotFinite,
    /// The operating system refused to read or write.
    Io,
    /// A file is damaged: truncated, altered, or not what its name says.
    Corrupt,
    /// A file comes from a newer or foreign format.
    Unsupported,
    /// A checkpoint is sound but belongs to another model: names, shapes or dtypes differ.
    Mismatch,
    /// What differs from the saved run has not been allowed.
    Settings,
    /// There is no such checkpoint, metric, input or file.
    NotFound,
    /// Another estimator is writing to the directory.
    Locked,
    /// The device is missing, or failed.
    Device,
    /// The device has no memory left for what was asked; nothing is broken, and smaller batches may fit.
    OutOfMemory,
    /// Ctrl-C or SIGTERM arrived; everything is still usable.
    Interrupted,
    /// The checkpoint was written, but the directory could not be made durable.
    NotDurable,
}

/// Every failure of this library: a [kind](Error::kind), a message that says what was found, what was expected and
/// where, and the cause if there is one.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of your own with a kind, as an input function or a metric returns it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { inner: Box::new(Inner { kind, message: message.into(), source: None }) }
    }

    /// The same with the error that caused it.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { inner: Box::new(Inner { kind, message: message.into(), source: Some(source.into()) }) }
    }

    /// An I/O error with what was being done to which path.
    pub(crate) fn io(doing: &str, path: &Path, source: std::io::Error) -> Self {
        Self::with_source(ErrorKind::Io, format!("cannot {doing} {}", path.display()), source)
    }

    /// The same error, said from one place further out: `place: message`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.inner.message = format!("{place}: {}", self.inner.message);
        self
    }

    /// What went wrong, to match on.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        match &self.inner.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    // `fn main() -> Result<()>` prints the Debug form, and should print words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.inner.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

/// A result of a model function: `?` takes any error in it, also dfdx's.
pub type ModelResult<T> = std::result::Result<T, ModelError>;

/// What a model function returns when it fails. Made by `?` from anything that can be printed: dfdx's CUDA error is no
/// `std::error::Error`, so a `Box<dyn Error>` would not take it. The kind of an [`Error`] survives the way, and `?` turns it into
/// one again where layers and losses are called outside of a model function. It dereferences to that error, for its
/// [`kind`](Error::kind) and its words:
///
/// ```
/// use elistimator::{ErrorKind, ModelError};
///
/// let error = ModelError::msg("no such word");
/// assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Model, "no such word"));
/// println!("stopped: {}", *error);
/// ```
pub struct ModelError {
    error: Error,
}

impl ModelError {
    /// A failure in your own words.
    pub fn msg(message: impl fmt::Display) -> Self {
        Self { error: Error::new(ErrorKind::Model, message.to_string()) }
    }

    /// The error to hand to the caller of a verb.
    pub(crate) fn into_error(self) -> Error {
        self.error
    }
}

// In place of `Display`, which it cannot have: with it, the `From` below would overlap with `impl From<T> for T`.
impl std::ops::Deref for ModelError {
    type Target = Error;

    fn deref(&self) -> &Error {
        &self.error
    }
}

impl From<ModelError> for Error {
    fn from(error: ModelError) -> Self {
        error.into_error()
    }
}

impl fmt::Debug for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: fmt::Debug + fmt::Display + Send + Sync + 'static> From<E> for ModelError {
    fn from(error: E) -> Self {
        let mut slot = Some(error);
        // An `Error` keeps its kind: it is recognised by type, since a second `From` would overlap with this one.
        if let Some(own) = (&mut slot as &mut dyn std::any::Any).downcast_mut::<Option<Error>>()
            && let Some(error) = own.take()
        {
            return Self { error };
        }
        // dfdx's error of a CUDA device: what it means is said where it is met, while memory is as it was.
        #[cfg(feature = "cuda")]
        if let Some(Some(error)) = (&slot as &dyn std::any::Any).downcast_ref::<Option<dfdx::tensor::CudaError>>() {
            return Self { error: crate::nn::cuda::error(error) };
        }
        match slot {
            Some(error) => Self::msg(error),
            None => Self::msg("an error without words"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_error_keeps_the_kind_of_an_error() {
        fn fails() -> ModelResult<()> {
            Err(Error::new(ErrorKind::Interrupted, "stop"))?
        }
        fn calls() -> Result<()> {
            Ok(fails()?)
        }
        assert_eq!(calls().unwrap_err().kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn a_model_error_takes_what_only_prints() {
        #[derive(Debug)]
        struct Foreign;
        impl fmt::Display for Foreign {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("foreign")
            }
        }
        fn fails() -> ModelResult<()> {
            Err(Foreign)?
        }
        let error = fails().unwrap_err();
        assert_eq!(format!("{}", *error), "foreign");
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Model, "foreign".into()));
    }
}
