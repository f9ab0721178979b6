"""Writes standard_scaler.json: how scikit-learn scales columns. Run: pip install scikit-learn; python standard_scaler.py"""

import json
import math
import pathlib
import random

import numpy as np
from sklearn.preprocessing import StandardScaler

random.seed(11)
ROWS = 40
# Ordinary, far from 0, tiny, constant, constant but for rounding, with missing values, hardly any values.
COLUMNS = [
    [random.gauss(3, 2) for _ in range(ROWS)],
    [random.gauss(1e6, 0.5) for _ in range(ROWS)],
    [random.gauss(0, 1e-9) for _ in range(ROWS)],
    [0.1 for _ in range(ROWS)],
    [0.1 + 0.2 if row % 2 else 0.3 for row in range(ROWS)],
    [math.nan if row % 3 == 0 else random.uniform(-5, 5) for row in range(ROWS)],
    [7.0 if row == 5 else math.nan for row in range(ROWS)],
]


def plain(values):
    return [[None if math.isnan(value) else value for value in row] for row in values]


table = np.array(COLUMNS).T
scaler = StandardScaler().fit(table)
result = {
    "table": plain(table.tolist()),
    "means": scaler.mean_.tolist(),
    "deviations": scaler.scale_.tolist(),
    "scaled": plain(scaler.transform(table).tolist()),
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")
