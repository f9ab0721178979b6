//! Every metric against scikit-learn, seqeval or numpy (`data/metrics.py`), in batches of odd sizes, with and without weights.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;

use elistimator::Device;
use elistimator::dfdx::tensor::{Cpu, TensorFromVec};
use elistimator::metrics::{
    Accuracy, Average, BinaryAccuracy, ConfusionMatrix, EntityCounts, EntityF1, FBeta, LogLoss, MeanAbsoluteError,
    MeanIou, MeanSquaredError, Metric, Perplexity, PrAuc, PrCurve, Precision, R2, Recall, RecallAtK, RocAuc,
    TopKAccuracy, argmax,
};
use elistimator::prelude::{DeviceSpec, ModelResult};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Reference {
    weights: Vec<f64>,
    classes: Classes,
    binary: Binary,
    regression: Regression,
    retrieval: Retrieval,
    entities: BTreeMap<String, Entities>,
    several: Several,
}

/// Several labels for one example.
#[derive(Deserialize)]
struct Several {
    scores: Vec<f32>,
    labels: Vec<usize>,
    threshold: f32,
    prf: Vec<Prf>,
}

/// With weights, and without.
type Pair = [f64; 2];

#[derive(Deserialize)]
struct Classes {
    probabilities: Vec<f32>,
    labels: Vec<usize>,
    confusion: Vec<f64>,
    confusion_unweighted: Vec<f64>,
    prf: Vec<Prf>,
    mean_iou: Pair,
    iou: [Vec<f64>; 2],
    accuracy: Pair,
    top2: Pair,
    top3: Pair,
    log_loss: Pair,
    perplexity: Pair,
}

#[derive(Deserialize)]
struct Prf {
    average: Option<String>,
    beta: f64,
    classes: Vec<usize>,
    weighted: bool,
    expected: serde_json::Value,
}

#[derive(Deserialize)]
struct Binary {
    labels: Vec<usize>,
    tied: Scores,
    fine: Scores,
}

#[derive(Deserialize)]
struct Scores {
    scores: Vec<f32>,
    roc_auc: Pair,
    average_precision: Pair,
    precision: Vec<f64>,
    recall: Vec<f64>,
    thresholds: Vec<f64>,
    accuracy: Pair,
    log_loss: Pair,
}

#[derive(Deserialize)]
struct Regression {
    targets: Vec<f32>,
    predicted: Vec<f32>,
    mse: Pair,
    rmse: Pair,
    mae: Pair,
    r2: Pair,
}

#[derive(Deserialize)]
struct Retrieval {
    scores: Vec<f32>,
    relevant: Vec<Vec<usize>>,
    recall: BTreeMap<usize, Pair>,
}

#[derive(Deserialize)]
struct Entities {
    names: Vec<String>,
    labels: Vec<Vec<String>>,
    predicted: Vec<Vec<String>>,
    /// Precision, recall, F1 and the number of entities.
    overall: [f64; 4],
    types: BTreeMap<String, [f64; 4]>,
    accuracy: f64,
}

const CLASSES: usize = 4;

fn reference() -> Reference {
    serde_json::from_str(include_str!("data/metrics.json")).unwrap()
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected}");
}

/// The metric over all examples at once, and over batches of odd sizes, some empty, each written and read again; both
/// must give the same values.
fn whole_and_pieces<M: Metric + Serialize + DeserializeOwned>(
    examples: usize,
    of: impl Fn(Range<usize>) -> ModelResult<M>,
) -> M {
    let whole = of(0..examples).unwrap();
    let again = |metric: &M| serde_json::from_str::<M>(&serde_json::to_string(metric).unwrap()).unwrap();
    let mut merged = again(&of(0..0).unwrap());
    let mut start = 0;
    for size in [1, 7, 0, 2, 13, 5, 17, 3].into_iter().cycle() {
        let end = (start + size).min(examples);
        merged.merge(again(&of(start..end).unwrap()));
        start = end;
        if end == examples {
            break;
        }
    }
    let (a, b) = (whole.values(), merged.values());
    assert_eq!(a.len(), b.len());
    for ((a_name, a), (b_name, b)) in a.into_iter().zip(b) {
        assert_eq!(a_name, b_name);
        assert!((a - b).abs() < 1e-12 || (a.is_nan() && b.is_nan()), "{a_name}: whole {a}, pieces {b}");
    }
    merged
}

/// Weighted and unweighted values against the reference.
fn both<M: Metric + Serialize + DeserializeOwned>(
    weights: &[f64],
    expected: Pair,
    tolerance: f64,
    what: &str,
    of: impl Fn(Range<usize>, &[f64]) -> ModelResult<M>,
) {
    let ones = vec![1.0; weights.len()];
    for (weights, expected) in [weights, &ones].into_iter().zip(expected) {
        let merged = whole_and_pieces(weights.len(), |range| of(range.clone(), &weights[range]));
        close(merged.value(), expected, tolerance, what);
    }
    assert!(expected[0] != expected[1], "{what}: the weights change nothing, so they are not tested");
}

impl Prf {
    fn average(&self) -> Average {
        match self.average.as_deref() {
            Some("micro") => Average::Micro,
            Some("macro") => Average::Macro,
            _ => Average::PerClass,
        }
    }
}

/// Precision, recall and F with their entries against the reference.
fn compare_prf(case: &Prf, found: &[Vec<(String, f64)>; 3], what: &str) {
    for (values, expected) in found.iter().zip(case.expected.as_array().unwrap()) {
        let expected: Vec<(String, f64)> = match expected.as_array() {
            None => vec![(String::new(), expected.as_f64().unwrap())],
            Some(list) => {
                let list: Vec<_> = list.iter().map(|value| value.as_f64().unwrap()).collect();
                let mean = list.iter().sum::<f64>() / list.len() as f64;
                let names = case.classes.iter().map(usize::to_string).zip(list.iter().copied());
                std::iter::once((String::new(), mean)).chain(names).collect()
            }
        };
        assert_eq!(values.len(), expected.len(), "{what}");
        for (value, expected) in values.iter().zip(&expected) {
            assert_eq!(value.0, expected.0, "{what}");
            close(value.1, expected.1, 1e-12, what);
        }
    }
}

fn predicted(probabilities: &[f32]) -> Vec<i64> {
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as i64;
    probabilities.chunks(CLASSES).map(best).collect()
}

fn rows(range: &Range<usize>, width: usize) -> Range<usize> {
    range.start * width..range.end * width
}

#[test]
fn confusion_matrix_and_iou() {
    let Reference { weights: w, classes: c, .. } = reference();
    let found = predicted(&c.probabilities);
    let matrix = |w: &[f64]| {
        whole_and_pieces(w.len(), |r| {
            ConfusionMatrix::weighted(&found[r.clone()], &c.labels[r.clone()], &w[r], CLASSES)
        })
    };
    let weighted = matrix(&w);
    for (found, expected) in weighted.counts().iter().zip(&c.confusion) {
        close(*found, *expected, 1e-12, "confusion");
    }
    close(weighted.value(), c.accuracy[0], 1e-12, "accuracy from the matrix");
    let unweighted = matrix(&vec![1.0; w.len()]);
    assert_eq!(unweighted.counts(), c.confusion_unweighted);
    both(&w, c.mean_iou, 1e-12, "mean IoU", |r, w| MeanIou::weighted(&found[r.clone()], &c.labels[r], w, CLASSES));
    for (matrix, expected) in [weighted, unweighted].iter().zip(&c.iou) {
        let values = MeanIou::from_confusion(matrix).average(Average::PerClass).values();
        assert_eq!(values.len(), 1 + CLASSES);
        for (value, expected) in values[1..].iter().zip(expected) {
            close(value.1, *expected, 1e-12, "IoU");
        }
    }
}

#[test]
fn precision_recall_and_f_beta() {
    let Reference { weights: w, classes: c, .. } = reference();
    let found = predicted(&c.probabilities);
    let ones = vec![1.0; w.len()];
    assert_eq!(c.prf.len(), 54);
    for case in &c.prf {
        let what =
            format!("{:?} beta {} classes {:?} weighted {}", case.average, case.beta, case.classes, case.weighted);
        let weights = if case.weighted { &w } else { &ones };
        let left_out: Vec<_> = (0..CLASSES).filter(|class| !case.classes.contains(class)).collect();
        let average = case.average();
        let precision = whole_and_pieces(w.len(), |r| {
            let made = Precision::weighted(&found[r.clone()], &c.labels[r.clone()], &weights[r], CLASSES)?;
            made.average(average).leave_out(&left_out)
        });
        let recall = whole_and_pieces(w.len(), |r| {
            let made = Recall::weighted(&found[r.clone()], &c.labels[r.clone()], &weights[r], CLASSES)?;
            made.average(average).leave_out(&left_out)
        });
        let f = whole_and_pieces(w.len(), |r| {
            let made = FBeta::weighted(&found[r.clone()], &c.labels[r.clone()], &weights[r], CLASSES)?;
            made.average(average).leave_out(&left_out)?.beta(case.beta)
        });
        compare_prf(case, &[precision.values(), recall.values(), f.values()], &what);
    }
}

#[test]
fn precision_recall_and_f_beta_of_several_labels() {
    let s = reference().several;
    let (labels, examples) = (3, s.labels.len() / 3);
    assert!(s.scores.contains(&s.threshold), "a score on the threshold is not tested");
    for case in &s.prf {
        let part = |r: &Range<usize>| (&s.scores[rows(r, labels)], &s.labels[rows(r, labels)]);
        let precision = whole_and_pieces(examples, |r| {
            Ok(Precision::from_scores(part(&r).0, part(&r).1, s.threshold, labels)?.average(case.average()))
        });
        let recall = whole_and_pieces(examples, |r| {
            Ok(Recall::from_scores(part(&r).0, part(&r).1, s.threshold, labels)?.average(case.average()))
        });
        let f = whole_and_pieces(examples, |r| {
            let made = FBeta::from_scores(part(&r).0, part(&r).1, s.threshold, labels)?;
            made.average(case.average()).beta(case.beta)
        });
        let what = format!("several labels, {:?} beta {}", case.average, case.beta);
        compare_prf(case, &[precision.values(), recall.values(), f.values()], &what);
    }
    let error = |scores: &[f32], labels: &[usize], threshold, classes| {
        Recall::from_scores(scores, labels, threshold, classes).unwrap_err().to_string()
    };
    assert!(error(&[0.5; 4], &[1; 6], 0.5, 2).contains("recall: found 4 scores and 6 labels"));
    assert!(
        error(&[0.5; 4], &[1, 0, 2, 0], 0.5, 2).contains("found label 2 for example 1, expected a class from 0 to 1")
    );
    assert!(error(&[0.5; 4], &[1; 4], 0.5, 3).contains("expected 3 for each"));
    assert!(error(&[0.5; 4], &[1; 4], f32::NAN, 2).contains("threshold NaN"));
    assert!(error(&[], &[], 0.5, 0).contains("found 0 classes"));
    // A score that is no number is not taken.
    assert_eq!(Recall::from_scores(&[f32::NAN, 0.9], &[1, 1], 0.5, 1).unwrap().value(), 0.5);
}

#[test]
fn classes_that_never_occur_do_not_enter_the_average() {
    let precision = Precision::from_classes(&[0, 0, 1], &[0, 1, 1], 3).unwrap().average(Average::PerClass);
    let precision = precision.class_names(["cat", "dog", "emu"]).unwrap();
    let values: BTreeMap<_, _> = precision.values().into_iter().collect();
    assert_eq!((values[""], values["cat"], values["dog"]), (0.75, 0.5, 1.0));
    assert!(values["emu"].is_nan());
    // Labelled but never predicted is 0, as is predicted but never labelled.
    assert_eq!(Precision::from_classes(&[0, 0], &[0, 1], 2).unwrap().value(), 0.25);
    assert_eq!(Recall::from_classes(&[0, 1], &[0, 0], 2).unwrap().value(), 0.25);
    // A merge with more classes grows.
    let mut recall = Recall::from_classes(&[0], &[0], 1).unwrap();
    recall.merge(Recall::from_classes(&[0, 2], &[2, 2], 3).unwrap());
    assert_eq!(recall.value(), 0.75);
    assert!(precision.clone().class_names(["cat"]).is_err());
    assert!(precision.leave_out(&[3]).is_err());
    for beta in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(FBeta::from_classes(&[0], &[0], 1).unwrap().beta(beta).is_err());
    }
}

#[test]
fn accuracies_and_losses_of_classes() {
    let Reference { weights: w, classes: c, .. } = reference();
    let found = predicted(&c.probabilities);
    let (p, l) = (&c.probabilities, &c.labels);
    both(&w, c.accuracy, 1e-12, "accuracy", |r, w| Accuracy::weighted(&found[r.clone()], &l[r], w));
    both(&w, c.accuracy, 1e-12, "top 1", |r, w| TopKAccuracy::weighted(&p[rows(&r, 4)], &l[r], w, CLASSES, 1));
    both(&w, c.top2, 1e-12, "top 2", |r, w| TopKAccuracy::weighted(&p[rows(&r, 4)], &l[r], w, CLASSES, 2));
    both(&w, c.top3, 1e-12, "top 3", |r, w| TopKAccuracy::weighted(&p[rows(&r, 4)], &l[r], w, CLASSES, 3));
    both(&w, c.log_loss, 1e-12, "log loss", |r, w| LogLoss::weighted(&p[rows(&r, 4)], &l[r], w, CLASSES));
    both(&w, c.perplexity, 1e-11, "perplexity", |r, w| {
        Ok(Perplexity::from(LogLoss::weighted(&p[rows(&r, 4)], &l[r], w, CLASSES)?))
    });
    let losses: Vec<_> = p.chunks(CLASSES).zip(l).map(|(row, label)| -row[*label].ln()).collect();
    both(&w, c.perplexity, 1e-6, "perplexity of losses", |r, w| Perplexity::weighted(&losses[r], w));
    let logits: Vec<_> = p.iter().map(|p| p.ln() - 3.0).collect();
    both(&w, c.log_loss, 1e-5, "log loss of logits", |r, w| LogLoss::from_logits(&logits[rows(&r, 4)], &l[r], w, 4));
}

#[test]
fn areas_under_curves() {
    let Reference { weights: w, binary: b, .. } = reference();
    let l = &b.labels;
    // Every score has a bin of its own: exact.
    let s = &b.tied.scores;
    both(&w, b.tied.roc_auc, 1e-12, "ROC AUC", |r, w| RocAuc::weighted(&s[r.clone()], &l[r], w));
    both(&w, b.tied.average_precision, 1e-12, "AP", |r, w| PrAuc::weighted(&s[r.clone()], &l[r], w));
    both(&w, b.tied.average_precision, 1e-12, "curve", |r, w| PrCurve::weighted(&s[r.clone()], &l[r], w));
    let s = &b.fine.scores;
    both(&w, b.fine.roc_auc, 1e-12, "ROC AUC, 2^20 bins", |r, w| RocAuc::with_bins(&s[r.clone()], &l[r], w, 1 << 20));
    // Few bins: within the bound that they give themselves, which shrinks with more bins.
    let ones = vec![1.0; w.len()];
    for (at, weights) in [&w, &ones].into_iter().enumerate() {
        let mut before = [f64::INFINITY; 2];
        for bins in [1, 5, 50, 1000] {
            let roc = RocAuc::with_bins(s, l, weights, bins).unwrap();
            let pr = PrAuc::with_bins(s, l, weights, bins).unwrap();
            close(roc.value(), b.fine.roc_auc[at], roc.error_bound() + 1e-12, "ROC AUC in few bins");
            close(pr.value(), b.fine.average_precision[at], pr.error_bound() + 1e-12, "AP in few bins");
            assert!(roc.error_bound() <= before[0] && pr.error_bound() <= before[1], "{bins} bins");
            before = [roc.error_bound(), pr.error_bound()];
        }
        assert!(before[0] < 0.005 && before[1] < 0.03, "{before:?}");
    }
    let all_in_one = RocAuc::with_bins(s, l, &ones, 1).unwrap();
    assert_eq!((all_in_one.value(), all_in_one.error_bound()), (0.5, 0.5));
}

#[test]
fn precision_recall_curve() {
    let Reference { weights: w, binary: b, .. } = reference();
    let s = &b.tied.scores;
    let curve = whole_and_pieces(w.len(), |r| PrCurve::with_bins(&s[r.clone()], &b.labels[r.clone()], &w[r], 1000));
    let points = curve.points();
    assert_eq!((points.len(), points[0].threshold, points[0].recall), (1000, 0.0, 1.0));
    let positives: f64 = w.iter().zip(&b.labels).map(|(w, label)| w * *label as f64).sum();
    for (at, threshold) in b.tied.thresholds.iter().enumerate() {
        // The last edge at or below the threshold: no score is between.
        let point = points.iter().rfind(|point| point.threshold <= *threshold).unwrap();
        close(point.precision, b.tied.precision[at], 1e-12, "precision");
        close(point.recall, b.tied.recall[at], 1e-12, "recall");
        close(point.true_positives + point.false_negatives, positives, 1e-9, "positives");
        let all = point.true_positives + point.false_negatives + point.false_positives + point.true_negatives;
        close(all, w.iter().sum(), 1e-9, "all");
    }
    let above_all = PrCurve::from_scores(&[0.1], &[1]).unwrap().points()[999];
    assert_eq!((above_all.precision, above_all.recall), (1.0, 0.0));
}

#[test]
fn two_classes() {
    let Reference { weights: w, binary: b, .. } = reference();
    for (name, scores) in [("tied", &b.tied), ("fine", &b.fine)] {
        let (s, l) = (&scores.scores, &b.labels);
        both(&w, scores.accuracy, 1e-12, name, |r, w| BinaryAccuracy::weighted(&s[r.clone()], &l[r], w, 0.5));
        both(&w, scores.log_loss, 1e-6, name, |r, w| LogLoss::binary_weighted(&s[r.clone()], &l[r], w));
    }
    assert_eq!(BinaryAccuracy::from_scores(&[f32::NAN, f32::NAN], &[0, 1], 0.5).unwrap().value(), 0.0);
    assert!(BinaryAccuracy::from_scores(&[0.5], &[2], 0.5).is_err());
}

#[test]
fn regression() {
    let Reference { weights: w, regression: e, .. } = reference();
    let (p, t) = (&e.predicted, &e.targets);
    both(&w, e.mse, 1e-12, "MSE", |r, w| MeanSquaredError::weighted(&p[r.clone()], &t[r], w));
    both(&w, e.mae, 1e-12, "MAE", |r, w| MeanAbsoluteError::weighted(&p[r.clone()], &t[r], w));
    both(&w, e.r2, 1e-12, "R2", |r, w| R2::weighted(&p[r.clone()], &t[r], w));
    let mse = MeanSquaredError::weighted(p, t, &w).unwrap();
    close(mse.rmse(), e.rmse[0], 1e-12, "RMSE");
    assert_eq!(mse.values(), [(String::new(), mse.value()), ("rmse".to_owned(), mse.rmse())]);
    close(MeanSquaredError::from_values(p, t).unwrap().rmse(), e.rmse[1], 1e-12, "RMSE");
}

#[test]
fn recall_among_the_first_k() {
    let Reference { weights: w, retrieval: e, .. } = reference();
    let ranking = |row: &[f32]| {
        let mut items: Vec<_> = (0..row.len()).collect();
        items.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        items
    };
    let ranked: Vec<_> = e.scores.chunks(30).map(ranking).collect();
    assert_eq!(e.recall.len(), 4);
    for (&k, &expected) in &e.recall {
        if k == 30 {
            assert_eq!(RecallAtK::from_scores(&e.scores, &e.relevant, 30, k).unwrap().value(), 1.0);
            continue;
        }
        let (s, relevant) = (&e.scores, &e.relevant);
        both(&w, expected, 1e-12, "scores", |r, w| RecallAtK::weighted(&s[rows(&r, 30)], &relevant[r], w, 30, k));
        both(&w, expected, 1e-12, "ranked", |r, w| RecallAtK::ranked_weighted(&ranked[r.clone()], &relevant[r], w, k));
    }
}

fn compare(name: &str, found: &EntityF1, expected: &Entities) {
    let compare = |counts: EntityCounts, expected: [f64; 4]| {
        close(counts.precision(), expected[0], 1e-12, name);
        close(counts.recall(), expected[1], 1e-12, name);
        close(counts.f1(), expected[2], 1e-12, name);
        assert_eq!(counts.labelled, expected[3], "{name}");
    };
    compare(found.overall(), expected.overall);
    assert_eq!(found.by_type().count(), expected.types.len());
    for (kind, counts) in found.by_type() {
        compare(counts, expected.types[kind]);
    }
    close(found.accuracy(), expected.accuracy, 1e-12, name);
}

#[test]
fn entities_as_seqeval_finds_them() {
    let Reference { entities, .. } = reference();
    assert_eq!(entities.len(), 2);
    for (name, e) in &entities {
        let tags = whole_and_pieces(e.labels.len(), |r| EntityF1::from_tags(&e.predicted[r.clone()], &e.labels[r]));
        compare(name, &tags, e);

        // The same as padded ids, with padding that would be an entity if it were read.
        let lengths: Vec<_> = e.labels.iter().map(Vec::len).collect();
        let width = *lengths.iter().max().unwrap();
        let ids = |sentences: &[Vec<String>]| -> Vec<usize> {
            let id = |tag: &String| e.names.iter().position(|name| name == tag).unwrap();
            let padded = |tags: &Vec<String>| {
                let padding = std::iter::repeat_n(e.names.len() - 1, width - tags.len());
                tags.iter().map(id).chain(padding).collect::<Vec<_>>()
            };
            sentences.iter().flat_map(padded).collect()
        };
        let labels = ids(&e.labels);
        let predicted: Vec<_> = ids(&e.predicted).into_iter().map(|id| id as i64).collect();
        let by_id = whole_and_pieces(lengths.len(), |r| {
            let tokens = rows(&r, width);
            EntityF1::from_ids(&predicted[tokens.clone()], &labels[tokens], &lengths[r], &e.names)
        });
        assert_eq!(by_id, tags);

        // Sentences of weight 0 are as if they were not there, whatever they hold; weight 2 is twice the sentence.
        let half = lengths.len() / 2;
        let weights: Vec<_> = (0..lengths.len()).map(|i| if i < half { 2.0 } else { 0.0 }).collect();
        let twice = |list: &[Vec<String>]| [&list[..half], &list[..half]].concat();
        let expected = EntityF1::from_tags(&twice(&e.predicted), &twice(&e.labels)).unwrap();
        assert_eq!(EntityF1::weighted(&e.predicted, &e.labels, &weights).unwrap(), expected);
        let by_id = EntityF1::ids_weighted(&predicted, &labels, &lengths, &e.names, &weights).unwrap();
        assert_eq!(by_id, expected);
    }
}

#[test]
fn entities_counted_by_hand() {
    // The label has PER 0-1, LOC 3, LOC 4 | ORG 0-1, ORG 2 (IOB1). Found are PER 0-1 right, LOC 3-4 wrong | ORG 0 wrong,
    // ORG 1-2 wrong, and an entity that would reach over the end of the sentence.
    let split = |text: &str| -> Vec<Vec<String>> {
        text.split(" | ").map(|tags| tags.split(' ').map(str::to_owned).collect()).collect()
    };
    let label = split("I-PER I-PER O I-LOC B-LOC | I-ORG I-ORG B-ORG O I-PER | I-PER");
    let found = split("B-PER I-PER O I-LOC I-LOC | I-ORG B-ORG I-ORG O I-PER | I-PER");
    let f1 = EntityF1::from_tags(&found, &label).unwrap();
    let counts: Vec<_> = f1.by_type().map(|(kind, c)| (kind.to_owned(), c.correct, c.predicted, c.labelled)).collect();
    let expected = [("LOC", 0.0, 1.0, 2.0), ("ORG", 0.0, 2.0, 2.0), ("PER", 3.0, 3.0, 3.0)];
    assert_eq!(counts, expected.map(|(kind, correct, found, there)| (kind.to_owned(), correct, found, there)));
    let values: BTreeMap<_, _> = f1.values().into_iter().collect();
    assert_eq!((values["precision"], values["recall"]), (3.0 / 6.0, 3.0 / 7.0));
    assert_eq!((values[""], values["PER/f1"], values["LOC/recall"]), (6.0 / 13.0, 1.0, 0.0));
    assert_eq!(values.len(), 3 + 3 * 3);
    // Tags of the same type and another prefix are wrong tokens: B for I, I for B, and B I for I B.
    close(f1.accuracy(), 7.0 / 11.0, 1e-12, "accuracy");

    assert!(EntityF1::from_tags(&split("O O"), &split("O")).is_err());
    assert!(EntityF1::from_tags(&split("O"), &split("S-PER")).is_err());
    assert_eq!(EntityF1::from_tags(&split("<pad>"), &split("O")).unwrap().value(), 0.0);
    let names = ["O", "I-X"];
    assert!(EntityF1::from_ids(&[0, 1], &[0, 1], &[1, 1], &names).is_ok());
    for (predicted, labels, lengths) in [
        (&[0_i64, 1, 0][..], &[0_usize, 1, 0][..], &[1_usize, 1][..]),
        (&[0, 1], &[0], &[1]),
        (&[0, 1], &[0, 1], &[3]),
        (&[0, 1], &[0, 1], &[]),
        (&[0, 2], &[0, 1], &[2]),
        (&[-1, 1], &[0, 1], &[2]),
        (&[0, 1], &[0, 2], &[2]),
    ] {
        assert!(EntityF1::from_ids(predicted, labels, lengths, &names).is_err());
    }
}

#[test]
fn no_data_is_not_a_number() {
    let none: [Vec<String>; 0] = [];
    let empty = [
        Accuracy::from_classes(&[], &[]).unwrap().value(),
        BinaryAccuracy::from_scores(&[], &[], 0.5).unwrap().value(),
        TopKAccuracy::from_scores(&[], &[], 4, 2).unwrap().value(),
        ConfusionMatrix::from_classes(&[], &[], 4).unwrap().value(),
        Precision::from_classes(&[], &[], 4).unwrap().value(),
        Recall::from_classes(&[], &[], 4).unwrap().average(Average::Micro).value(),
        FBeta::from_classes(&[], &[], 4).unwrap().average(Average::PerClass).value(),
        MeanIou::from_classes(&[], &[], 4).unwrap().value(),
        RocAuc::from_scores(&[], &[]).unwrap().value(),
        RocAuc::from_scores(&[0.5], &[1]).unwrap().value(),
        PrAuc::from_scores(&[], &[]).unwrap().value(),
        PrAuc::from_scores(&[0.5], &[0]).unwrap().value(),
        PrCurve::from_scores(&[], &[]).unwrap().value(),
        LogLoss::from_probabilities(&[], &[], 4).unwrap().value(),
        Perplexity::from_losses(&[]).unwrap().value(),
        MeanSquaredError::from_values(&[], &[]).unwrap().rmse(),
        MeanAbsoluteError::from_values(&[], &[]).unwrap().value(),
        R2::from_values(&[], &[]).unwrap().value(),
        EntityF1::from_tags(&none, &none).unwrap().value(),
        RecallAtK::from_scores(&[], &[], 4, 2).unwrap().value(),
    ];
    for (at, value) in empty.iter().enumerate() {
        assert!(value.is_nan(), "metric {at} of no data: {value}");
    }
}

#[test]
fn tensors_give_what_slices_do() {
    let Reference { classes: c, binary: b, regression: e, retrieval, .. } = reference();
    let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
    let found = predicted(&c.probabilities);
    let l = &c.labels;
    let logits = device.tensor_from_vec(c.probabilities.clone(), (l.len(), CLASSES));
    assert_eq!(ConfusionMatrix::of(&logits, l).unwrap(), ConfusionMatrix::from_classes(&found, l, CLASSES).unwrap());
    assert_eq!(Precision::of(&logits, l).unwrap(), Precision::from_classes(&found, l, CLASSES).unwrap());
    let loss = LogLoss::from_logits(&c.probabilities, l, &vec![1.0; l.len()], CLASSES).unwrap();
    assert_eq!(LogLoss::of(&logits, l).unwrap(), loss);
    assert_eq!(Perplexity::of(&logits, l).unwrap(), loss.into());
    let top = TopKAccuracy::from_scores(&c.probabilities, l, CLASSES, 2).unwrap();
    assert_eq!(TopKAccuracy::of(&logits, l, 2).unwrap(), top);
    // The same as steps of sequences, and as such with padding after the first one's end.
    let steps = l.len() / 2;
    let cut: Vec<usize> = (0..2 * steps).map(|at| if (steps - 1..steps).contains(&at) { 99 } else { l[at] }).collect();
    let kept: Vec<f64> = cut.iter().map(|label| f64::from(u8::from(*label != 99))).collect();
    let (scores, lengths) = (c.probabilities[..2 * steps * CLASSES].to_vec(), [steps - 1, steps]);
    let padded = device.tensor_from_vec(scores.clone(), (2usize, steps, CLASSES));
    assert_eq!(TopKAccuracy::of(&padded, &l[..2 * steps], 2).unwrap().value(), {
        TopKAccuracy::from_scores(&scores, &l[..2 * steps], CLASSES, 2).unwrap().value()
    });
    let loss = LogLoss::from_logits(&scores, &cut, &kept, CLASSES).unwrap();
    assert_eq!(LogLoss::of_sequences(&padded, &cut, &lengths).unwrap(), loss);
    assert_eq!(Perplexity::of_sequences(&padded, &cut, &lengths).unwrap(), loss.into());
    let top = TopKAccuracy::weighted(&scores, &cut, &kept, CLASSES, 2).unwrap();
    assert_eq!(TopKAccuracy::of_sequences(&padded, &cut, &lengths, 2).unwrap(), top);
    let accuracy = Accuracy::weighted(&argmax(&padded), &cut, &kept).unwrap();
    assert_eq!(Accuracy::of_sequences(&padded, &cut, &lengths).unwrap(), accuracy);
    let best = argmax(&padded);
    let precision = Precision::weighted(&best, &cut, &kept, CLASSES).unwrap();
    assert_eq!(Precision::of_sequences(&padded, &cut, &lengths).unwrap(), precision);
    let recall = Recall::weighted(&best, &cut, &kept, CLASSES).unwrap();
    assert_eq!(Recall::of_sequences(&padded, &cut, &lengths).unwrap(), recall);
    let f = FBeta::weighted(&best, &cut, &kept, CLASSES).unwrap();
    assert_eq!(FBeta::of_sequences(&padded, &cut, &lengths).unwrap(), f);
    assert!(FBeta::of_sequences(&padded, &cut, &[steps + 1, 1]).is_err());
    let several: Vec<usize> =
        l[..2 * steps].iter().flat_map(|label| (0..CLASSES).map(|c| usize::from(c == *label))).collect();
    let f = FBeta::from_scores(&scores, &several, 0.3, CLASSES).unwrap();
    assert_eq!(FBeta::of_labels(&padded, &several, 0.3).unwrap(), f);
    let message = |lengths: &[usize]| Perplexity::of_sequences(&padded, &cut, lengths).unwrap_err().to_string();
    assert!(message(&[steps + 1, 1]).contains("expected at most the padded"), "{}", message(&[steps + 1, 1]));
    assert!(message(&[]).contains("0 sequences") && Perplexity::of(&padded, &cut).is_err());

    let names = ["O", "B-X", "I-X", "I-Y"];
    let entities = EntityF1::from_ids(&found, l, &[l.len()], &names).unwrap();
    assert_eq!(EntityF1::of(&logits, l, &[l.len()], &names).unwrap(), entities);

    // A column, as a dense layer of one output gives it.
    let s = device.tensor_from_vec(b.fine.scores.clone(), (b.labels.len(), 1));
    assert_eq!(RocAuc::of(&s, &b.labels).unwrap(), RocAuc::from_scores(&b.fine.scores, &b.labels).unwrap());
    assert_eq!(PrAuc::of(&s, &b.labels).unwrap(), PrAuc::from_scores(&b.fine.scores, &b.labels).unwrap());
    assert_eq!(PrCurve::of(&s, &b.labels).unwrap(), PrCurve::from_scores(&b.fine.scores, &b.labels).unwrap());
    let accuracy = BinaryAccuracy::from_scores(&b.fine.scores, &b.labels, 0.4).unwrap();
    assert_eq!(BinaryAccuracy::of(&s, &b.labels, 0.4).unwrap(), accuracy);

    let p = device.tensor_from_vec(e.predicted.clone(), (e.targets.len(),));
    let mse = MeanSquaredError::from_values(&e.predicted, &e.targets).unwrap();
    assert_eq!(MeanSquaredError::of(&p, &e.targets).unwrap(), mse);
    let mae = MeanAbsoluteError::from_values(&e.predicted, &e.targets).unwrap();
    assert_eq!(MeanAbsoluteError::of(&p, &e.targets).unwrap(), mae);
    assert_eq!(R2::of(&p, &e.targets).unwrap(), R2::from_values(&e.predicted, &e.targets).unwrap());

    let scores = device.tensor_from_vec(retrieval.scores.clone(), (retrieval.relevant.len(), 30));
    let recall = RecallAtK::from_scores(&retrieval.scores, &retrieval.relevant, 30, 5).unwrap();
    assert_eq!(RecallAtK::of(&scores, &retrieval.relevant, 5).unwrap(), recall);
}
