//! Harder programs than a classifier, each trained until it has learnt something.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;

use elistimator::nn::Embedding;
use elistimator::prelude::*;

/// A tagger over padded sentences, with a vocabulary and a tag set that are known at run time only.
#[derive(Serialize, Deserialize, Clone)]
struct Tagger {
    vocabulary: BTreeMap<String, i64>,
    tags: Vec<String>,
}

network! {
    struct TaggerNet<D> {
        words: Embedding<D>,
        hidden: Linear<D>,
        tags: Linear<D>,
    }
}

impl Tagger {
    fn logits<D: Device, T: Tape<f32, D>>(
        net: &TaggerNet<D>,
        ids: &Indices,
        tape: Option<T>,
    ) -> ModelResult<Tensor<(usize, usize), D, T>> {
        // One row for every token of the batch: (batch * length, features).
        let words = net.words.forward_with(ids, tape.unwrap_or_default())?;
        net.tags.forward(net.hidden.forward(words)?)
    }
}

#[test]
fn two_losses_are_updated_by_two_optimisers() {
    gan::run();
}

mod gan {
    use elistimator::optim::Groups;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Gan;

    network! {
        pub struct Pair<D> {
            generator: Linear<D>,
            critic: Critic<D>,
        }
        pub struct Critic<D> {
            hidden: Linear<D>,
            out: Linear<D>,
        }
    }

    impl<D: Device> Critic<D> {
        fn forward<T: Tape<f32, D>>(&self, x: Tensor<(usize, usize), D, T>) -> ModelResult<Tensor<(usize, usize), D, T>> {
            self.out.forward(self.hidden.forward(x)?)
        }
    }
}
