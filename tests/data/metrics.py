"""Writes metrics.json: scikit-learn's and seqeval's numbers for small fixed inputs, with numpy's where they have none.

    pip install scikit-learn seqeval && python metrics.py > metrics.json
"""

import json

import numpy as np
import seqeval.metrics as entity
import sklearn
from sklearn import metrics as m

rng = np.random.default_rng(7)
N, K = 61, 4
out = {"sklearn": sklearn.__version__, "weights": None}


def f32(values):
    """What the library reads: single precision, so that both sides see the same numbers."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def weighted(f):
    """The number with weights, and without."""
    return [float(f(W)), float(f(None))]


# A fifth of the examples is masked out.
W = np.where(rng.random(N) < 0.2, 0.0, (rng.random(N) + 0.1).round(3) * 2)
out["weights"] = W.tolist()

# Classes. Class 2 is rarely predicted, so that its precision and recall differ a lot.
probs = f32(rng.dirichlet([1.0, 1.0, 0.3, 1.0], N))
labels = np.where(rng.random(N) < 0.5, probs.argmax(1), rng.integers(0, K, N))
pred = probs.argmax(1)


def prf(average, beta, classes, weights):
    numbers = m.precision_recall_fscore_support(
        labels, pred, beta=beta, labels=classes, average=average, sample_weight=weights, zero_division=0
    )[:3]
    return [np.asarray(x).tolist() for x in numbers]


out["classes"] = {
    "probabilities": probs.ravel().tolist(),
    "labels": labels.tolist(),
    "confusion": m.confusion_matrix(labels, pred, sample_weight=W).ravel().tolist(),
    "confusion_unweighted": m.confusion_matrix(labels, pred).ravel().tolist(),
    "prf": [
        {"average": average, "beta": beta, "classes": classes, "expected": prf(average, beta, classes, w), "weighted": w is not None}
        for average in ("micro", "macro", None)
        for beta in (1.0, 2.0, 0.5)
        for classes in ([0, 1, 2, 3], [1, 2, 3], [2])
        for w in (W, None)
    ],
    "mean_iou": weighted(lambda w: m.jaccard_score(labels, pred, average="macro", sample_weight=w)),
    "iou": [m.jaccard_score(labels, pred, average=None, sample_weight=w).tolist() for w in (W, None)],
    "accuracy": weighted(lambda w: m.accuracy_score(labels, pred, sample_weight=w)),
    "top2": weighted(lambda w: m.top_k_accuracy_score(labels, probs, k=2, sample_weight=w, labels=range(K))),
    "top3": weighted(lambda w: m.top_k_accuracy_score(labels, probs, k=3, sample_weight=w, labels=range(K))),
    "log_loss": weighted(lambda w: m.log_loss(labels, probs, sample_weight=w, labels=range(K))),
    "perplexity": weighted(lambda w: np.exp(m.log_loss(labels, probs, sample_weight=w, labels=range(K)))),
}

# Two classes: scores with ties, each in a bin of its own of 1000, and scores that are close together.
tied = f32(rng.random(N).round(1))
y = (rng.random(N) < tied).astype(int)
fine = f32(np.clip(0.3 * y + 0.7 * rng.random(N), 0, 1))


def two(scores):
    precision, recall, thresholds = m.precision_recall_curve(y, scores, sample_weight=W)
    return {
        "scores": scores.tolist(),
        "roc_auc": weighted(lambda w: m.roc_auc_score(y, scores, sample_weight=w)),
        "average_precision": weighted(lambda w: m.average_precision_score(y, scores, sample_weight=w)),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "thresholds": thresholds.tolist(),
        "accuracy": weighted(lambda w: m.accuracy_score(y, scores > 0.5, sample_weight=w)),
        "log_loss": weighted(lambda w: m.log_loss(y, np.clip(scores, 2.0**-23, 1 - 2.0**-23), sample_weight=w)),
    }


out["binary"] = {"labels": y.tolist(), "tied": two(tied), "fine": two(fine)}

# Regression.
truth = f32(rng.normal(size=N) + 3)
guess = f32(truth + rng.normal(size=N) * 0.5)
out["regression"] = {
    "targets": truth.tolist(),
    "predicted": guess.tolist(),
    "mse": weighted(lambda w: m.mean_squared_error(truth, guess, sample_weight=w)),
    "rmse": weighted(lambda w: m.root_mean_squared_error(truth, guess, sample_weight=w)),
    "mae": weighted(lambda w: m.mean_absolute_error(truth, guess, sample_weight=w)),
    "r2": weighted(lambda w: m.r2_score(truth, guess, sample_weight=w)),
}

# Retrieval: per query the relevant among the ten best of 30 items.
scores = f32(rng.random((N, 30)))
relevant = [sorted(set(rng.integers(0, 30, rng.integers(0, 6)).tolist())) for _ in range(N)]


def recall(k, weights):
    total, weight = 0.0, 0.0
    for query in range(N):
        if relevant[query]:
            found = np.isin(np.argsort(-scores[query], kind="stable")[:k], relevant[query]).sum()
            total += weights[query] * found / len(relevant[query])
            weight += weights[query]
    return total / weight


out["retrieval"] = {
    "scores": scores.ravel().tolist(),
    "relevant": relevant,
    "recall": {str(k): [recall(k, W), recall(k, np.ones(N))] for k in (1, 5, 10, 30)},
}


# Entities: random tags of every scheme, also ill-formed ones, which conlleval (and seqeval's default mode) reads all the same.
def sentences(names, p):
    return [rng.choice(names, size=rng.integers(1, 12), p=p).tolist() for _ in range(N)]


def disturbed(tags, names):
    return [[tag if rng.random() < 0.8 else str(rng.choice(names)) for tag in sentence] for sentence in tags]


def entities(names):
    gold = sentences(names, None)
    found = disturbed(gold, names)
    report = entity.classification_report(gold, found, output_dict=True, zero_division=0)
    types = {k: v for k, v in report.items() if not k.endswith("avg")}
    overall = report["micro avg"]
    return {
        "names": names,
        "labels": gold,
        "predicted": found,
        "overall": [float(overall[k]) for k in ("precision", "recall", "f1-score", "support")],
        "types": {t: [float(v[k]) for k in ("precision", "recall", "f1-score", "support")] for t, v in types.items()},
        "accuracy": entity.accuracy_score(gold, found),
    }


out["entities"] = {
    "iob": entities(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-a-b", "I-a-b"]),
    "io": entities(["O", "I-PER", "I-LOC"]),
}

# Several labels for one example: one common, one rare, and scores that often agree with them.
M = 3
several = (rng.random((N, M)) < [0.6, 0.3, 0.1]).astype(int)
scores = f32(np.clip(0.4 * several + 0.6 * rng.random((N, M)), 0, 1)).round(2).astype(np.float32)
THRESHOLD = 0.5


def of_labels(average, beta):
    numbers = m.precision_recall_fscore_support(
        several, scores >= THRESHOLD, beta=beta, average=average, zero_division=0
    )[:3]
    return [np.asarray(x).tolist() for x in numbers]


out["several"] = {
    "scores": scores.astype(np.float64).ravel().tolist(),
    "labels": several.ravel().tolist(),
    "threshold": THRESHOLD,
    "prf": [
        {"average": average, "beta": beta, "classes": [0, 1, 2], "expected": of_labels(average, beta), "weighted": False}
        for average in ("micro", "macro", None)
        for beta in (1.0, 2.0)
    ],
}
print(json.dumps(out))
