//! Two losses, two optimisers: a generator that learns where the data lies from a critic that learns to tell them apart.

use elistimator::prelude::*;

#[derive(Serialize, Deserialize)]
struct Gan {
    critic_optimizer: f64,
}

network! {
    struct GanNet<D> {
        generator: Linear<D>,
        critic: CriticNet<D>,
    }
    struct CriticNet<D> {
        hidden: Linear<D>,
        out: Linear<D>,
    }
}

impl<D: Device> CriticNet<D> {
    fn forward<T: Tape<f32, D>>(&self, x: Tensor<(usize, usize), D, T>) -> ModelResult<Tensor<(usize, usize), D, T>> {
        self.out.forward(self.hidden.forward(x)?)
    }
}

impl<D: Device> ModelFn<D> for Gan {
    type Net = GanNet<D>;

    fn build(&self, device: &D) -> ModelResult<GanNet<D>> {
        Ok(GanNet {
            generator: Linear::new(device, 2, 2)?,
            critic: CriticNet {
                hidden: Linear::builder(2, 16).activation(Activation::Relu).build(device)?,
                out: Linear::new(device, 16, 1)?,
            },
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig::from(Adam::new(0.003).betas(0.5, 0.9))
            .group("critic.", Adam::new(self.critic_optimizer).betas(0.5, 0.9))
    }

    fn train(&self, net: &mut GanNet<D>, features: &Features<D>, step: &mut Step<'_, D>) -> ModelResult<TrainSpec<D>> {
        let noise: Tensor<(usize, usize), D> = features.tensor("noise")?;
        // Least squares: the critic says 1 to the data and 0 to what is generated, the generator wants to hear 1.
        let real = net.critic.forward(features.tensor("real")?.traced(step.tape()?))?;
        let (fake, _) = net.generator.forward(noise.clone().traced(step.tape()?))?.split_tape();
        let fake = net.critic.forward(fake.traced(step.tape()?))?;
        let critic = real.try_sub(1.0)?.try_square()?.try_mean()?.try_add(fake.try_square()?.try_mean()?)?;
        let fooled = net.critic.forward(net.generator.forward(noise.traced(step.tape()?))?)?;
        let generator = fooled.try_sub(1.0)?.try_square()?.try_mean()?;
        Ok(TrainSpec::new(critic).updating("critic.").and(generator, "generator."))
    }

    fn predict(&self, net: &GanNet<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let noise: Tensor<(usize, usize), D> = features.tensor("noise")?;
        Ok(PredictSpec::new().output("points", &net.generator.forward(noise)?))
    }
}

fn data() -> Dataset {
    let wave = |i: usize, k: usize| ((i * k % 101) as f32) / 50.0 - 1.0;
    let real: Vec<f32> = (0..800).map(|i| wave(i, 37) * 0.3 + if i % 2 == 0 { 2.0 } else { -1.0 }).collect();
    let noise: Vec<f32> = (0..800).map(|i| wave(i, 53)).collect();
    let record = Record::new()
        .with("real", Array::new([400, 2], real).unwrap())
        .with("noise", Array::new([400, 2], noise).unwrap());
    Dataset::from_arrays(record).unwrap().shuffle(400).batch(40)
}

fn centre(estimator: &Elistimator<Gan>) -> (f32, f32) {
    let (mut x, mut y, mut count) = (0.0, 0.0, 0.0);
    for batch in estimator.predict_all(data()).unwrap() {
        for point in batch.unwrap().get("points").unwrap().as_slice::<f32>().unwrap().chunks(2) {
            (x, y, count) = (x + point[0], y + point[1], count + 1.0);
        }
    }
    (x / count, y / count)
}

#[test]
fn two_losses_are_updated_by_two_optimisers_and_resume_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let build = || {
        Elistimator::builder(Gan { critic_optimizer: 0.02 })
            .model_dir(dir.path())
            .progress(ProgressMode::Off)
            .seed(2)
            .resume_or_start()
            .unwrap()
    };
    let mut estimator = build();
    estimator.setup(Inputs::train(data())).unwrap().train_steps(400).unwrap().save_ckpt().unwrap();
    estimator.train_steps(2600).unwrap();
    let (x, y) = centre(&estimator);
    assert!((x - 2.0).abs() < 0.6 && (y + 1.0).abs() < 0.6, "the generator's centre is ({x}, {y}), the data's (2, -1)");

    let unbroken = estimator.hashes().unwrap();
    drop(estimator);
    let mut resumed = build();
    resumed.setup(Inputs::train(data())).unwrap().train_until(3000).unwrap();
    assert_eq!(resumed.hashes().unwrap(), unbroken);
}

#[test]
fn a_loss_moves_only_the_parameters_of_its_scope() {
    #[derive(Serialize, Deserialize)]
    struct CriticOnly(Gan);
    impl ModelFn for CriticOnly {
        type Net = GanNet<Cpu>;
        fn build(&self, device: &Cpu) -> ModelResult<Self::Net> {
            self.0.build(device)
        }
        fn optimizer(&self) -> OptimizerConfig {
            Sgd::new(0.1).into()
        }
        fn train(
            &self,
            net: &mut Self::Net,
            f: &Features<Cpu>,
            step: &mut Step<'_, Cpu>,
        ) -> ModelResult<TrainSpec<Cpu>> {
            let noise: Tensor<(usize, usize), Cpu> = f.tensor("noise")?;
            let all = net.critic.forward(net.generator.forward(noise.traced(step.tape()?))?)?;
            Ok(TrainSpec::new(all.try_square()?.try_mean()?).updating("critic."))
        }
    }
    let mut estimator = Elistimator::builder(CriticOnly(Gan { critic_optimizer: 0.1 }))
        .model_dir(tempfile::tempdir().unwrap().path())
        .progress(ProgressMode::Off)
        .build()
        .unwrap();
    let weights = |estimator: &Elistimator<CriticOnly>| {
        let (mut generator, mut critic) = (Vec::new(), Vec::new());
        estimator
            .net()
            .visit(&mut elistimator::nn::Visitor::new(&mut |name, part| {
                if let elistimator::nn::Part::Parameter(parameter) = part {
                    if name.starts_with("critic.") { &mut critic } else { &mut generator }.extend(parameter.values());
                }
                Ok(())
            }))
            .unwrap();
        (generator, critic)
    };
    let before = weights(&estimator);
    estimator.setup(Inputs::train(data())).unwrap().train_steps(1).unwrap();
    let after = weights(&estimator);
    assert_eq!(before.0, after.0);
    assert_ne!(before.1, after.1);
}
