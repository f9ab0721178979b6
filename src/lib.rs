//! Training loops that hand control back to you, on [dfdx].
//!
//! You write a [model function](ModelFn) and input functions; [`Elistimator`] does everything around them and returns after
//! every call, so that the loop over epochs stays yours:
//!
//! ```no_run
//! # use elistimator::prelude::*;
//! # fn go<M: ModelFn>(model: M, train: Dataset, validation: Dataset) -> Result<()> {
//! let mut estimator = Elistimator::builder(model).model_dir("runs/mnist").seed(7).build()?;
//! estimator.setup(Inputs::train(train).validation(validation))?;
//! for _ in 0..5 {
//!     let metrics = estimator.train()?.validate()?;
//!     estimator.save_ckpt()?;
//!     println!("{}", metrics.get("accuracy")?);
//! }
//! estimator.restore_best()?;
//! # Ok(())
//! # }
//! ```
//!
//! | to | look at |
//! |---|---|
//! | write a model | [`ModelFn`], [`network!`](macro@network), [`Features`], [`Step`], [`TrainSpec`], [`EvaluationSpec`], [`PredictSpec`] |
//! | choose layers and losses, or write your own | [`nn`]: [`Layer`](nn::Layer), [`Network`](nn::Network), [`Parameter`](nn::Parameter), [`CrossEntropy`](nn::CrossEntropy), [`Loss`](nn::Loss) |
//! | feed it | [`data`]: [`Dataset`](data::Dataset), [`Record`](data::Record), [`Array`](data::Array), [`Csv`](data::Csv); [`text`]: [`Vocabulary`](text::Vocabulary) |
//! | set it up, and call it | [`Builder`], [`Inputs`], [`Elistimator`] |
//! | say how weights move | [`optim`]: [`OptimizerConfig`](optim::OptimizerConfig), [`Schedule`](optim::Schedule), [`EarlyStopping`](optim::EarlyStopping) |
//! | measure it | [`metrics`]: [`Metric`](metrics::Metric), [`Accuracy`](metrics::Accuracy) and others |
//! | ask it, also in another program | [`Elistimator::from_disk`], [`Elistimator::predict`], [`Signature::read_json`](data::Signature::read_json), [`Ensemble`] |
//! | choose the device | [`Device`], [`DeviceSpec`], [`with_device!`] |
//! | look at a run | [`inspect`], [`checkpoint`], [`summary`] (TensorBoard), [`progress`] (bars and lines) |
//!
//! Programs from the first line to the last: the repository's README, `examples/`, and the pages `docs/from-pytorch.md` (for PyTorch and
//! Keras), `docs/from-tf-estimator.md`, `docs/data.md` and `docs/recipes.md`.
//!
//! A crate that uses this one also names `serde` in its `Cargo.toml`, with the feature `derive`: the hyper-parameters derive
//! `Serialize` and `Deserialize`. Dependencies without optimisation are very slow here; run with `--release`. What goes wrong
//! without stopping anything is told through the [`log`](https://docs.rs/log) crate: install a logger, `env_logger` say, to see it.
//!
//! # Features
//!
//! None is on by default. `cuda`: dfdx's CUDA backend beside the CPU. `image`: directories of PNG and JPEG images. `plot`: curves as
//! SVG. `cli`: the command `elistimator`.
//!
//! [dfdx]: https://docs.rs/dfdx

mod accumulation;
mod average;
mod builder;
pub mod checkpoint;
mod checkpointing;
pub mod data;
pub mod device;
mod elistimator;
mod ensemble;
mod error;
mod evaluation;
mod features;
mod feed;
#[cfg(test)]
mod fuzz;
mod gauges;
mod gradient_pool;
mod hashes;
mod heap;
mod inputs;
pub mod inspect;
mod interrupt;
mod learning_rate;
mod log_file;
mod logs;
pub mod metrics;
mod model_fn;
mod monitoring;
pub mod nn;
pub mod optim;
mod parameters;
mod prediction;
pub mod prelude;
pub mod progress;
mod range_test;
mod saving;
mod settings;
mod setup;
pub mod summary;
pub mod text;
mod threads;
mod training_log;
mod unreached;
mod unwind;
mod variables;

pub(crate) use setup::lock;

pub use dfdx;

pub use builder::{Builder, Every, Mode, NotFinite};
pub use checkpointing::Which;
pub use device::{Device, DeviceSpec};
pub use elistimator::Elistimator;
pub use ensemble::{Combine, Ensemble, EnsembleMetrics};
pub use error::{Error, ErrorKind, ModelError, ModelResult, Result};
pub use features::{Features, Indices};
pub use hashes::Hashes;
pub use inputs::{InputFn, Inputs};
pub use model_fn::{EvaluationSpec, ModelFn, PredictSpec, Step, TrainSpec};
pub use parameters::{ParameterCount, ParameterSummary};
pub use prediction::{Predictions, Request};
pub use range_test::RangeTest;
pub use settings::{Difference, Setting};
pub use variables::WarmStart;

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The pages' programs compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-tf-estimator.md")]
struct FromTfEstimator;

#[cfg(doctest)]
#[doc = include_str!("../docs/from-pytorch.md")]
struct FromPyTorch;

#[cfg(doctest)]
#[doc = include_str!("../docs/recipes.md")]
struct Recipes;

#[cfg(doctest)]
#[doc = include_str!("../docs/tensorboard.md")]
struct TensorBoard;

#[cfg(doctest)]
#[doc = include_str!("../docs/data.md")]
struct DataPage;
