//! A tagger over padded text, with a vocabulary and a tag set that are known at run time only.

use elistimator::data::Padding;
use elistimator::metrics::argmax;
use elistimator::nn::{BiLstm, Embedding, Ids};
use elistimator::prelude::*;
use elistimator::text::{TokenCounts, Tokenizer, Vocabulary};

#[derive(Serialize, Deserialize)]
struct Tagger {
    words: Vocabulary,
    tags: Vocabulary,
    size: usize,
}

network! {
    struct TaggerNet<D> {
        words: Embedding<D>,
        lstm: BiLstm<D>,
        tags: Linear<D>,
    }
}

impl<D: Device> TaggerNet<D> {
    /// `(batch, length)` to one row of logits for each token.
    fn forward<T: Tape<f32, D>>(
        &self,
        ids: Ids<(usize, usize), T>,
        lengths: &[usize],
    ) -> ModelResult<Tensor<(usize, usize), D, T>> {
        let (outputs, _) = self.lstm.run(self.words.forward(ids)?, lengths, None)?;
        let (batch, length, size) = *outputs.shape();
        self.tags.forward(outputs.try_reshape_like(&(batch * length, size))?)
    }
}

impl<D: Device> ModelFn<D> for Tagger {
    type Net = TaggerNet<D>;

    fn build(&self, device: &D) -> ModelResult<TaggerNet<D>> {
        Ok(TaggerNet {
            words: Embedding::builder(self.words.size(), self.size).padding(0).build(device)?,
            lstm: BiLstm::new(device, self.size, self.size)?,
            tags: Linear::new(device, 2 * self.size, self.tags.size())?,
        })
    }

    fn optimizer(&self) -> OptimizerConfig {
        Adam::new(0.02).into()
    }

    /// Words to ids: raw text goes in by name, in training and in predict.
    fn preprocess(&self, mut batch: Record) -> ModelResult<Record> {
        let ids = self.words.encode(batch.get("words")?)?;
        batch.insert("words", ids);
        Ok(batch)
    }

    fn train(
        &self,
        net: &mut TaggerNet<D>,
        features: &Features<D>,
        step: &mut Step<'_, D>,
    ) -> ModelResult<TrainSpec<D>> {
        let ids = features.ids("words")?.traced(step.recorder()?);
        let logits = net.forward(ids, &features.indices("lengths")?)?;
        Ok(TrainSpec::new(sparse_cross_entropy(logits, &features.indices("tags")?)?))
    }

    fn evaluate(&self, net: &TaggerNet<D>, features: &Features<D>) -> ModelResult<EvaluationSpec<D>> {
        let lengths = features.indices("lengths")?;
        let logits = net.forward(features.ids("words")?, &lengths)?;
        let tags = features.indices("tags")?;
        let length = tags.dims()[1];
        let weights: Vec<f64> =
            (0..tags.len()).map(|i| f64::from(u8::from(i % length < lengths[i / length]))).collect();
        let accuracy = Accuracy::weighted(&argmax(&logits), &tags, &weights)?;
        let tokens = weights.iter().sum();
        Ok(EvaluationSpec::new(sparse_cross_entropy(logits, &tags)?).weight(tokens).metric("accuracy", accuracy))
    }

    fn predict(&self, net: &TaggerNet<D>, features: &Features<D>) -> ModelResult<PredictSpec> {
        let ids = features.ids::<(usize, usize)>("words")?;
        let shape = *ids.shape();
        let lengths = features.indices("lengths")?;
        let tags = self.tags.tokens(&argmax(&net.forward(ids, &lengths)?))?;
        Ok(PredictSpec::new().output("tags", Array::new([shape.0, shape.1], tags)?))
    }
}

/// Sentences in which the word after "in" is a place, whatever it is, and names are names anywhere.
fn sentences() -> Vec<(&'static str, &'static str)> {
    vec![
        ("Ann lives in Rome", "PER O O LOC"),
        ("Bob works in Oslo now", "PER O O LOC O"),
        ("in Paris Ann works", "O LOC PER O"),
        ("Bob", "PER"),
        ("now Ann lives in Paris", "O PER O O LOC"),
        ("Rome", "LOC"),
    ]
}

fn data(tags: &Vocabulary) -> Dataset {
    let records = sentences().into_iter().map(|(words, labels)| {
        let words: Vec<&str> = words.split(' ').collect();
        let labels = tags.ids(&labels.split(' ').collect::<Vec<_>>()).unwrap();
        Record::new().with("words", words).with("tags", labels)
    });
    let records: Vec<Record> = records.collect();
    Dataset::from_records(records).shuffle(6).padded_batch(2, Padding::new().lengths("words", "lengths")).prefetch(1)
}

#[test]
fn a_tagger_learns_and_answers_words_with_tags_after_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let tags = Vocabulary::from_tokens(["O", "PER", "LOC"]).unwrap();
    let mut counts = TokenCounts::new();
    for (sentence, _) in sentences() {
        counts.add_all(Tokenizer::whitespace().tokens(sentence));
    }
    let words = Vocabulary::builder().padding("<pad>").oov_buckets(1).from_counts(&counts).unwrap();
    let tagger = Tagger { words: words.clone(), tags: tags.clone(), size: 8 };
    let mut estimator =
        Elistimator::builder(tagger).model_dir(dir.path()).progress(ProgressMode::Off).seed(1).build().unwrap();
    estimator.setup(Inputs::train(data(&tags)).validation(data(&tags))).unwrap();
    estimator.train_steps(120).unwrap();
    assert!(estimator.validate().unwrap().get("accuracy").unwrap() > 0.99);
    // Lengths differ from batch to batch: the signature has widened instead of failing.
    assert!(estimator.signature().unwrap().inputs().iter().any(|input| input.dims == [None]));
    estimator.save_ckpt().unwrap();
    drop(estimator);

    // Nothing but the directory: the vocabularies are in it, and words outside of them have an id.
    let tagger = Elistimator::<Tagger>::from_disk(dir.path()).unwrap();
    assert_eq!((&tagger.model().words, &tagger.model().tags), (&words, &tags));
    let words = Array::new([1, 4], ["Bob", "lives", "in", "Oslo"].map(str::to_owned).to_vec()).unwrap();
    let found = tagger.predict(inputs! { "words" => words, "lengths" => vec![4i64] }).unwrap();
    assert_eq!(found.get("tags").unwrap().as_slice::<String>().unwrap(), ["PER", "O", "O", "LOC"]);
    let strange = inputs! { "words" => Array::new([1, 1], vec!["Zoë".to_owned()]).unwrap(), "lengths" => vec![1i64] };
    let found = tagger.predict(strange).unwrap();
    assert!(tags.contains(&found.get("tags").unwrap().as_slice::<String>().unwrap()[0]));
}

#[test]
fn ids_outside_the_vocabulary_and_wrong_lengths_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let words = Vocabulary::builder().padding("").unknown("?").from_tokens([] as [&str; 0]).unwrap();
    let tagger = Tagger { words, tags: Vocabulary::from_tokens(["O", "X"]).unwrap(), size: 2 };
    let mut estimator = Elistimator::builder(tagger).model_dir(dir.path()).progress(ProgressMode::Off).build().unwrap();
    let record = |tag: i64, length: i64| {
        Record::new()
            .with("words", Array::new([1, 2], vec!["a".to_owned(), "b".to_owned()]).unwrap())
            .with("tags", Array::new([1, 2], vec![tag, 0]).unwrap())
            .with("lengths", vec![length])
    };
    for (bad, names) in [(record(7, 2), "label 7"), (record(0, 9), "9"), (record(-1, 2), "negative")] {
        estimator.setup(Inputs::train(Dataset::from_records(vec![bad]).already_batched())).unwrap();
        let error = estimator.train().unwrap_err();
        assert!(error.to_string().contains(names), "{error}");
    }
}
