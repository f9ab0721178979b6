//! How much memory reading a checkpoint takes: its size and 1 MiB, beside what is restored from it.
#![allow(missing_docs, clippy::unwrap_used)]

use elistimator::inspect::ModelDir;
use elistimator::prelude::*;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const SIZE: usize = 800;

#[derive(Serialize, Deserialize)]
struct Wide;

impl ModelFn for Wide {
    type Net = (Linear<Cpu>, Linear<Cpu>);

    fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
        Ok((Linear::new(device, SIZE, SIZE)?, Linear::new(device, SIZE, SIZE)?))
    }

    fn optimizer(&self) -> OptimizerConfig {
        Adam::new(0.001).into()
    }

    fn train(
        &self,
        net: &mut Self::Net,
        features: &Features<Cpu>,
        step: &mut Step<'_, Cpu>,
    ) -> ModelResult<TrainSpec<Cpu>> {
        let x = features.tensor::<(usize, usize)>("x")?.traced(step.tape()?);
        Ok(TrainSpec::new(net.forward(x)?.try_square()?.try_mean()?))
    }
}

/// What `run` leaves behind, and the most that it had at once beyond what was there before.
fn measure<T>(run: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let outcome = run();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    (outcome, ALLOCATOR.current_usage().saturating_sub(before), peak)
}

/// One test, since every thread's memory counts.
#[test]
fn reading_a_checkpoint_takes_its_size_and_a_mebibyte() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || Elistimator::builder(Wide).model_dir(dir.path()).progress(ProgressMode::Off);
    let mut estimator = builder().ema(0.9).build().unwrap();
    let x = Record::new().with("x", Array::new([4, SIZE], vec![0.5f32; 4 * SIZE]).unwrap());
    estimator.setup(Inputs::train(Dataset::from_arrays(x).unwrap().batch(2))).unwrap().train().unwrap();
    let info = estimator.save_ckpt().unwrap();
    let size = usize::try_from(info.bytes).unwrap();
    // Weights, two moments, averages: far more than the mebibyte, and no tensor fits into it.
    assert!(size > 4 * 2 * SIZE * SIZE * 4, "{size}");
    let limit = size + (1 << 20);
    drop(estimator);

    let (contents, _, peak) = measure(|| ModelDir::open(dir.path()).unwrap().contents(info.step).unwrap());
    assert_eq!(contents.weights.len(), 4);
    println!("checkpoint of {size} bytes: contents takes {peak}");
    assert!(peak <= limit, "contents: {peak} bytes, expected at most {limit}");
    assert!(peak >= size, "the allocator counts: {peak}");

    let (verdicts, _, peak) = measure(|| ModelDir::open(dir.path()).unwrap().verify().unwrap());
    assert!(verdicts.iter().all(|verdict| verdict.faults.is_empty()));
    println!("verify takes {peak}");
    assert!(peak <= limit, "verify: {peak} bytes, expected at most {limit}");

    // What is restored stays: the moments and the averages, which a fresh run has none of.
    let mut fresh = builder().ema(0.9).build().unwrap();
    let (step, left, peak) = measure(|| fresh.restore_ckpt(info.step).unwrap().global_step());
    assert_eq!(step, 2);
    println!("restoring takes {peak}, and leaves {left}");
    assert!(peak <= limit + left, "restore_ckpt: {peak} bytes, expected at most {limit} and the {left} that stay");
    drop(fresh);

    let (estimator, left, peak) = measure(|| Elistimator::<Wide>::from_disk(dir.path()).unwrap());
    println!("from_disk takes {peak}, and leaves {left}");
    assert!(peak <= limit + left, "from_disk: {peak} bytes, expected at most {limit} and the {left} that stay");
    assert_eq!(estimator.global_step(), 2);
}
