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
//! Where to look: [`ModelFn`] is what you write, [`Elistimator`] what you call, [`Builder`] what you set;
//! [`data`] feeds it, [`nn`] has layers, [`optim`] optimisers and schedules, [`metrics`] what is measured,
//! [`checkpoint`] what is on disk, [`summary`] and [`progress`] what is shown.
//!
//! [dfdx]: https://docs.rs/dfdx

pub mod checkpoint;
pub mod data;
pub mod device;
mod error;
pub mod metrics;
pub mod nn;
pub mod optim;
pub mod progress;
pub mod summary;
mod unwind;

pub use dfdx;

pub use device::{Device, DeviceSpec};
pub use error::{Error, ErrorKind, ModelError, ModelResult, Result};
