//! What the benchmarks share: the three workloads, and how fast the machine can be.

pub mod rates;
pub mod workload;
