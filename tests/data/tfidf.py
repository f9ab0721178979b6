"""Writes tfidf.json: what scikit-learn weighs words. Run: pip install scikit-learn; python tfidf.py"""

import json
import pathlib
import random

from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer

SIZE = 12
random.seed(5)
# Skewed, so that some ids are in most documents and the last in none.
DOCUMENTS = [[min(int(random.expovariate(0.35)), SIZE - 2) for _ in range(random.randint(1, 14))] for _ in range(9)]


def counts(documents):
    rows = [[document.count(id) for id in range(SIZE)] for document in documents]
    return csr_matrix(rows, dtype=float)


unseen = [[0, SIZE - 1, SIZE - 1, 3]]
cases = []
for sublinear in [False, True]:
    for norm in ["l2", None]:
        transformer = TfidfTransformer(norm=norm, sublinear_tf=sublinear).fit(counts(DOCUMENTS))
        weights = transformer.transform(counts(DOCUMENTS + unseen)).toarray()
        cases.append({"sublinear": sublinear, "normalized": norm == "l2", "idf": transformer.idf_.tolist(), "weights": weights.tolist()})

result = {"size": SIZE, "documents": DOCUMENTS, "unseen": unseen, "cases": cases}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")
