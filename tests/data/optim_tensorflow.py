"""Writes optim_tensorflow.json: where TensorFlow's FTRL and Keras' LAMB are after 1, 10 and 100 steps on the
problem of optim_torch.py, in float64 (LAMB in float32: Keras has no other).

    python optim_tensorflow.py > optim_tensorflow.json        (tensorflow 2.x)
"""

import json

import tensorflow as tf

A = [0.1, 0.5, 1.0, 2.0, 0.01, 3.0]
T = [1.0, -2.0, 0.5, 0.0, 3.0, -0.25]
START = [0.5, 0.25, -1.0, 1.5, -0.75, 2.0]
KEPT = (1, 10, 100)
v1 = tf.compat.v1.train


def gradient(w):
    return 2 * tf.constant(A, w.dtype) * (w - tf.constant(T, w.dtype))


def apply_v1(optimizer):
    return lambda w: optimizer.apply_gradients([(gradient(w), w)])


def apply_keras(optimizer):
    return lambda w: optimizer.apply([gradient(w)], [w])


CASES = {
    "ftrl": (tf.float64, lambda: apply_v1(v1.FtrlOptimizer(0.3))),
    "ftrl_l1_l2": (
        tf.float64,
        lambda: apply_v1(
            v1.FtrlOptimizer(0.3, l1_regularization_strength=0.3, l2_regularization_strength=0.2)
        ),
    ),
    "lamb_no_decay": (tf.float32, lambda: apply_keras(tf.keras.optimizers.Lamb(0.02, epsilon=1e-6))),
}

result = {"a": A, "t": T, "start": START, "kept": KEPT, "tensorflow": tf.__version__, "cases": {}}
for name, (dtype, make) in CASES.items():
    w = tf.Variable(START, dtype=dtype)
    step_once, kept = make(), []
    for step in range(1, max(KEPT) + 1):
        step_once(w)
        if step in KEPT:
            kept.append([float(value) for value in w.numpy()])
    result["cases"][name] = kept
print(json.dumps(result, indent=1))
