//! How fast a checkpoint is written: 200 MB of weights and optimiser's state beside as many bytes from `dd conv=fsync` into the same
//! directory, in turn. Prints one JSON line; the rates are medians in MB/s. Fails if we write at less than half of its rate, in the
//! best of 3 attempts.
//!
//!     cargo bench --bench save [-- DIRECTORY]
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use elistimator::prelude::*;

const SIZE: usize = 5000;
const ROUNDS: usize = 7;
const LEAST: f64 = 0.5;

#[derive(Serialize, Deserialize)]
struct Wide;

impl ModelFn for Wide {
    type Net = Linear<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<Linear<Cpu>> {
        Linear::new(device, SIZE, SIZE)
    }

    fn optimizer(&self) -> OptimizerConfig {
        Sgd::new(0.01).momentum(0.9).into()
    }

    fn train(
        &self,
        net: &mut Linear<Cpu>,
        features: &Features<Cpu>,
        step: &mut Step<'_, Cpu>,
    ) -> ModelResult<TrainSpec<Cpu>> {
        let x = features.tensor::<(usize, usize)>("x")?.traced(step.tape()?);
        Ok(TrainSpec::new(net.forward(x)?.try_square()?.try_mean()?))
    }
}

/// Seconds that `dd` takes for so many bytes.
fn dd(dir: &Path, bytes: u64) -> Result<f64> {
    let failed = |error| Error::with_source(ErrorKind::Io, "dd", error);
    let path = dir.join("dd");
    let start = Instant::now();
    let status = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "conv=fsync", "status=none", "iflag=count_bytes"])
        .arg(format!("of={}", path.display()))
        .arg(format!("count={bytes}"))
        .status()
        .map_err(failed)?;
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_file(&path).map_err(failed)?;
    match status.success() {
        true => Ok(seconds),
        false => Err(Error::new(ErrorKind::Io, format!("dd: {status}"))),
    }
}

fn main() -> Result<()> {
    let place = std::env::args().nth(1).filter(|arg| !arg.starts_with("--")).map(PathBuf::from);
    let dir = match place {
        Some(place) => tempfile::tempdir_in(place),
        None => tempfile::tempdir(),
    };
    let dir = dir.map_err(|error| Error::with_source(ErrorKind::Io, "temporary directory", error))?;
    let builder = Elistimator::builder(Wide).model_dir(dir.path().join("run")).progress(ProgressMode::Off);
    let mut estimator = builder.max_to_keep(1).build()?;
    let x = Record::new().with("x", Array::new([1, SIZE], vec![0.5f32; SIZE])?);
    estimator.setup(Inputs::train(Dataset::from_arrays(x)?.batch(1)))?.train()?;

    let mut best = 0.0f64;
    for _ in 0..3 {
        best = best.max(measure(&mut estimator, dir.path())?);
        if best >= LEAST {
            return Ok(());
        }
    }
    let message = format!("a save writes at {best:.2} times the rate of dd, expected at least {LEAST}");
    Err(Error::new(ErrorKind::Io, message))
}

/// The rate beside that of dd.
fn measure(estimator: &mut Elistimator<Wide>, dir: &Path) -> Result<f64> {
    let (mut ours, mut theirs, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        bytes = estimator.save_ckpt()?.bytes;
        ours.push(start.elapsed().as_secs_f64());
        theirs.push(dd(dir, bytes)?);
    }
    let rate = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        bytes as f64 / 1e6 / seconds[ROUNDS / 2]
    };
    let (ours, theirs) = (rate(&mut ours), rate(&mut theirs));
    println!(
        "{{\"bytes\": {bytes}, \"save_mb_per_s\": {ours:.0}, \"dd_mb_per_s\": {theirs:.0}, \"ratio\": {:.2}}}",
        ours / theirs
    );
    Ok(ours / theirs)
}
