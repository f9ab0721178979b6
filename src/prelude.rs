//! What a training program needs, in one `use elistimator::prelude::*`. It takes the place of dfdx's prelude, whose names it
//! re-exports where they are needed; do not glob both.
//!
//! `Serialize` and `Deserialize` are in it, but what they derive names the crate `serde`, which your `Cargo.toml` therefore has to
//! have as well: `serde = { version = "1", features = ["derive"] }`.

pub use crate::checkpoint::{CheckpointInfo, Retention};
pub use crate::data::{Array, Csv, Dataset, Dtype, Mnist, Record, Signature};
pub use crate::device::Cpu;
#[cfg(feature = "cuda")]
pub use crate::device::Cuda;
pub use crate::metrics::{Accuracy, Mean, Metric, MetricState, Metrics, argmax};
pub use crate::nn::{
    Activation, ConvBlock, CrossEntropy, Dfdx, Dropout, Embedding, Ids, Init, Layer, Linear, Loss, Network, Parameter,
    StepTape, Tensor, Visitor, VisitorMut, concatenate, flatten, sparse_cross_entropy,
};
pub use crate::optim::{Adam, EarlyStopping, OptimizerConfig, RmsProp, Schedule, Sgd};
pub use crate::progress::{LogEvery, ProgressMode};
pub use crate::{
    Builder, Device, DeviceSpec, Elistimator, Error, ErrorKind, EvaluationSpec, Every, Features, Indices, Inputs, Mode,
    ModelError, ModelFn, ModelResult, PredictSpec, Result, Setting, Step, TrainSpec, Which, inputs, network,
    with_device,
};

pub use dfdx::shapes::{Axes2, Axes3, Axis, Const, Dim, HasShape, Rank0, Shape};
pub use dfdx::tensor::{
    AsArray, NoneTape, OwnedTape, PutTape, SplitTape, Tape, TensorFrom, TensorFromVec, Trace, ZerosTensor,
};
pub use dfdx::tensor_ops::*;
pub use serde::{Deserialize, Serialize};
