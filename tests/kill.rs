//! A run that is killed at random moments and started again with the same command is the run that was never killed: weights,
//! optimiser, metrics, and curves. 25 kills; `ELISTIMATOR_KILLS=500` for the long run.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use elistimator::prelude::*;
use rand::Rng;

mod common;
use common::{LineNet, mean_squared, points};

/// With everything that has state: Adam, dropout, a schedule, a shuffle buffer, prefetching, early stopping, streaming
/// metrics.
#[derive(Serialize, Deserialize)]
struct Everything;

impl ModelFn for Everything {
    type Net = LineNet<Cpu>;

    fn build(&self, device: &Cpu) -> ModelResult<LineNet<Cpu>> {
        common::Line::default().build(device)
    }

    fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig::from(Adam::new(0.01)).group("out.", Sgd::new(0.02).momentum(0.9))
    }

    fn schedule(&self) -> Schedule {
        Schedule::Cyclic { cycle: 70 }.after_warm_up(10)
    }

    fn train(
        &self,
        net: &mut LineNet<Cpu>,
        features: &Features<Cpu>,
        step: &mut Step<'_, Cpu>,
    ) -> ModelResult<TrainSpec<Cpu>> {
        let y = net.forward(features.tensor("x")?.traced(step.tape()?))?;
        Ok(TrainSpec::new(mean_squared(y, features.tensor("y")?)?))
    }

    fn evaluate(&self, net: &LineNet<Cpu>, features: &Features<Cpu>) -> ModelResult<EvaluationSpec<Cpu>> {
        let y = net.forward(features.tensor("x")?)?;
        Ok(EvaluationSpec::new(mean_squared(y, features.tensor("y")?)?))
    }
}

const EPOCHS: u64 = 12;
const DIR: &str = "ELISTIMATOR_TEST_KILL_DIR";
/// Set for the run that saves in the background, averages its weights and accumulates gradients.
const BACKGROUND: &str = "ELISTIMATOR_TEST_KILL_BACKGROUND";

/// What the child does: the same program however often it is started. Saves in the middle of epochs and after them.
fn train(dir: &Path, pause: Duration, background: bool) -> Result<()> {
    let builder = Elistimator::builder(Everything)
        .model_dir(dir)
        .seed(11)
        .progress(ProgressMode::Off)
        .save_every(Every::Steps(7))
        .max_to_keep(3);
    let builder = if background { builder.background_saving(true).accumulate(2).ema(0.9) } else { builder };
    let mut estimator = builder.resume_or_start()?;
    let data = points(200)
        .shuffle(50)
        .map(move |record| {
            std::thread::sleep(pause);
            Ok(record)
        })
        .batch(8)
        .prefetch(2);
    estimator.setup(Inputs::train(data).validation(points(40).batch(9)))?;
    let early = || elistimator::optim::EarlyStopping::new("loss", Mode::Min).patience(1000);
    let mut stop = estimator.kept("stop")?.unwrap_or_else(early);
    while estimator.epoch() < EPOCHS {
        let metrics = estimator.train()?.validate()?;
        stop.update(&metrics, estimator.global_step())?;
        estimator.keep("stop", &stop)?.save_ckpt()?;
    }
    Ok(())
}

/// Not a test of its own: the child process of the one below.
#[test]
fn child() {
    if let Ok(dir) = std::env::var(DIR) {
        train(Path::new(&dir), Duration::from_micros(100), std::env::var(BACKGROUND).is_ok()).unwrap();
    }
}

fn state(dir: &Path) -> (elistimator::Hashes, Vec<(u64, Option<u64>)>, Option<elistimator::optim::EarlyStopping>) {
    let estimator = Elistimator::<Everything>::from_disk(dir).unwrap();
    let checkpoints = estimator.checkpoints().unwrap();
    let metrics = checkpoints.iter().map(|c| (c.step, c.metrics.as_ref().map(|m| m["loss"].to_bits()))).collect();
    (estimator.hashes().unwrap(), metrics, estimator.kept("stop").unwrap())
}

#[test]
fn killed_runs_end_like_the_unbroken_one() {
    kill(false);
}

#[test]
fn killed_runs_that_save_in_the_background_end_like_the_unbroken_one() {
    kill(true);
}

fn kill(background: bool) {
    let kills: u32 = std::env::var("ELISTIMATOR_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(25);
    let unbroken = tempfile::tempdir().unwrap();
    train(unbroken.path(), Duration::ZERO, background).unwrap();
    let expected = state(unbroken.path());

    let mut killed = 0;
    while killed < kills {
        let dir = tempfile::tempdir().unwrap();
        let errors = dir.path().join("stderr");
        loop {
            let mut command = Command::new(std::env::current_exe().unwrap());
            if background {
                command.env(BACKGROUND, "1");
            }
            let mut child = command
                .args(["child", "--exact", "--nocapture"])
                .env(DIR, dir.path())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(&errors).unwrap())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(rand::thread_rng().gen_range(1..150)));
            if killed < kills && child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
            } else if child.wait().unwrap().success() {
                break;
            } else {
                panic!("the child failed on its own: {}", std::fs::read_to_string(&errors).unwrap());
            }
        }
        assert_eq!(state(dir.path()), expected, "after {killed} kills");
        common::same_curves(dir.path(), unbroken.path());
    }
}
