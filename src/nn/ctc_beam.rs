//! The search for the likeliest labelling.

use std::collections::HashMap;

use crate::nn::Labelling;
use crate::nn::cpu::log_sum_exp;

/// The number of the empty labelling in the tree.
const ROOT: usize = 0;

/// Labellings as a tree: each is another one with a label more.
struct Prefixes {
    /// What each labelling extends, and by which label; the root extends itself.
    nodes: Vec<(usize, usize)>,
    numbers: HashMap<(usize, usize), usize>,
}

impl Prefixes {
    fn number(&mut self, parent: usize, label: usize) -> usize {
        *self.numbers.entry((parent, label)).or_insert_with(|| {
            self.nodes.push((parent, label));
            self.nodes.len() - 1
        })
    }

    fn labels(&self, mut number: usize) -> Vec<usize> {
        let mut labels = Vec::new();
        while number != ROOT {
            let (parent, label) = self.nodes[number];
            labels.push(label);
            number = parent;
        }
        labels.reverse();
        labels
    }
}

/// A labelling of the steps so far: one that was kept before, or such a one with a label more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Candidate {
    Kept(usize),
    Extended(usize, usize),
}

/// Logarithms of the sums over the ways that end with the blank, and over those that end with the last label.
#[derive(Debug, Clone, Copy)]
struct Ways {
    blank: f64,
    label: f64,
}

impl Ways {
    fn total(self) -> f64 {
        log_add(self.blank, self.label)
    }
}

/// The likeliest labellings of one example's logits `(steps, classes)`, at most `width` of them, best first.
pub(crate) fn beam_search(logits: &[f32], classes: usize, blank: usize, width: usize) -> Vec<Labelling> {
    let mut prefixes = Prefixes { nodes: vec![(ROOT, blank)], numbers: HashMap::new() };
    let mut beam = vec![(ROOT, Ways { blank: 0.0, label: f64::NEG_INFINITY })];
    for step in logits.chunks_exact(classes) {
        let total = log_sum_exp(step);
        // In the order in which they come up, so that equal ones are kept in the same order every time.
        let mut next: Vec<(Candidate, Ways)> = Vec::with_capacity(beam.len() * classes);
        let mut places: HashMap<Candidate, usize> = HashMap::with_capacity(beam.len() * classes);
        let mut add = |candidate: Candidate, blank: f64, label: f64| {
            let place = *places.entry(candidate).or_insert_with(|| {
                next.push((candidate, Ways { blank: f64::NEG_INFINITY, label: f64::NEG_INFINITY }));
                next.len() - 1
            });
            let ways = &mut next[place].1;
            *ways = Ways { blank: log_add(ways.blank, blank), label: log_add(ways.label, label) };
        };
        for (number, ways) in &beam {
            let last = (*number != ROOT).then(|| prefixes.nodes[*number].1);
            for (class, logit) in step.iter().enumerate() {
                let p = f64::from(*logit) - total;
                if class == blank {
                    add(Candidate::Kept(*number), ways.total() + p, f64::NEG_INFINITY);
                    continue;
                }
                let before = if last == Some(class) {
                    // The same label again: merged, unless there was a blank between.
                    add(Candidate::Kept(*number), f64::NEG_INFINITY, ways.label + p);
                    ways.blank
                } else {
                    ways.total()
                };
                let extended = match prefixes.numbers.get(&(*number, class)) {
                    Some(known) => Candidate::Kept(*known),
                    None => Candidate::Extended(*number, class),
                };
                add(extended, f64::NEG_INFINITY, before + p);
            }
        }
        next.sort_by(|a, b| b.1.total().total_cmp(&a.1.total()));
        // What is impossible is not kept, but for one, so that there is always an answer.
        let possible = next.iter().filter(|(_, ways)| ways.total() > f64::NEG_INFINITY).count();
        next.truncate(width.min(possible.max(1)));
        beam = next
            .into_iter()
            .map(|(candidate, ways)| match candidate {
                Candidate::Kept(number) => (number, ways),
                Candidate::Extended(parent, label) => (prefixes.number(parent, label), ways),
            })
            .collect();
    }
    let found = beam.into_iter();
    found
        .map(|(number, ways)| Labelling { labels: prefixes.labels(number), log_probability: ways.total() as f32 })
        .collect()
}

/// `ln(exp a + exp b)`
fn log_add(a: f64, b: f64) -> f64 {
    let (larger, smaller) = if a >= b { (a, b) } else { (b, a) };
    if larger == f64::NEG_INFINITY { larger } else { larger + (smaller - larger).exp().ln_1p() }
}
