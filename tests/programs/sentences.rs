//! A sentence classifier on a bag of words whose lengths differ from batch to batch.

use elistimator::nn::{Bags, Combiner, Embedding, EmbeddingBag};
use elistimator::prelude::*;

#[derive(Serialize, Deserialize)]
struct Sentiment;

network! {
    struct SentimentNet<D> {
        bag: EmbeddingBag<D>,
        logits: Linear<D>,
    }
}

impl<D: Device> ModelFn<D> for Sentiment {
    type Net = SentimentNet<D>;

    fn build(&self, device: &D) -> ModelResult<SentimentNet<D>> {
        let table = Embedding::new(device, 10, 4)?;
        Ok(SentimentNet { bag: EmbeddingBag::new(table, Combiner::Mean), logits: Linear::new(device, 4, 2)? })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Adam::new(0.05).into()
    }

    fn train(
        &self,
        net: &mut SentimentNet<D>,
        features: &Features<D>,
        step: &mut Step<'_, D>,
    ) -> ModelResult<TrainSpec<D>> {
        let ids = features.indices("ids")?;
        let bags = Bags::new(ids.chunks(ids.dims()[1])).traced(step.recorder()?);
        let logits = net.logits.forward(net.bag.forward(bags)?)?;
        Ok(TrainSpec::new(sparse_cross_entropy(logits, &features.indices("labels")?)?))
    }

    fn evaluate(&self, net: &SentimentNet<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let ids = features.indices("ids")?;
        let logits = net.logits.forward(net.bag.forward(Bags::new(ids.chunks(ids.dims()[1])))?)?;
        let labels = features.indices("labels")?;
        let accuracy = Accuracy::of(&logits, &labels)?;
        Ok(EvaluationSpec::new(sparse_cross_entropy(logits, &labels)?).metric("accuracy", accuracy))
    }
}

#[test]
fn lengths_differ_from_batch_to_batch() {
    // Label 1 where there are more words from 5 on; word 0 is in all.
    let batches = (2..7i64).map(|length| {
        let ids: Vec<i64> =
            (0..4 * length).map(|i| if i % length == 0 { 0 } else { 5 * ((i / length) % 2) + i % 4 }).collect();
        Ok(Record::new().with("ids", Array::new([4, length as usize], ids)?).with("labels", vec![0i64, 1, 0, 1]))
    });
    let batches: Vec<Record> = batches.collect::<Result<_>>().unwrap();
    let data = Dataset::from_records(batches).already_batched();
    let dir = tempfile::tempdir().unwrap();
    let mut estimator =
        Elistimator::builder(Sentiment).model_dir(dir.path()).progress(ProgressMode::Off).build().unwrap();
    estimator.setup(Inputs::train(&data).validation(&data)).unwrap().train_steps(60).unwrap();
    assert_eq!(estimator.validate().unwrap().get("accuracy").unwrap(), 1.0);
    assert_eq!(estimator.signature().unwrap().inputs()[0].dims, [None]);
}
