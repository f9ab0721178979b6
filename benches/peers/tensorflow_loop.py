"""The three workloads in TensorFlow on the CPU: Keras layers, trained by a loop over a compiled `tf.function`.

    python tensorflow_loop.py cnn --threads 2 --repetitions 5
"""

import os

import measure

args = measure.arguments(["function"])
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="", KERAS_BACKEND="tensorflow")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

tf.config.threading.set_intra_op_parallelism_threads(args.threads)
tf.config.threading.set_inter_op_parallelism_threads(args.threads)
keras.utils.set_random_seed(0)


def synthetic(examples, label_shape, input_shape):
    """A weak signal in noise, and 30 % of the labels random, so that the loss stays well above 0."""
    random = np.random.default_rng(1)
    y = random.integers(0, 10, (examples, *label_shape))
    templates = random.standard_normal((10, *input_shape), dtype=np.float32)
    x = 0.1 * templates[y] + random.standard_normal((examples, *label_shape, *input_shape), dtype=np.float32)
    y = np.where(random.random(y.shape) < 0.3, random.integers(0, 10, y.shape), y)
    return x.astype(np.float32), y.astype(np.int32)


def cnn():
    return [
        layers.Conv2D(32, 5, padding="same", activation="relu"),
        layers.MaxPool2D(),
        layers.Conv2D(64, 5, padding="same", activation="relu"),
        layers.MaxPool2D(),
        layers.Flatten(),
        layers.Dense(1024, activation="relu"),
        layers.Dropout(0.4),
        layers.Dense(10),
    ]


def mlp():
    return [layers.Dense(512, activation="relu"), layers.Dense(512, activation="relu"), layers.Dense(10)]


def lstm():
    return [layers.Bidirectional(layers.LSTM(100, return_sequences=True)), layers.Dense(10)]


examples, _, label_shape, input_shape = measure.SIZES[args.workload]
if args.workload == "cnn":
    input_shape = (28, 28, 1)  # TensorFlow's order: channels last
inputs = keras.Input((*label_shape, *input_shape))
model = keras.Sequential([inputs, *{"cnn": cnn, "mlp": mlp, "lstm": lstm}[args.workload]()])
optimizer = keras.optimizers.SGD(1e-3) if args.workload == "cnn" else keras.optimizers.Adam(1e-3)
optimizer.build(model.trainable_variables)
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
dataset = tf.data.Dataset.from_tensor_slices(synthetic(examples, label_shape, input_shape))
batches = iter(dataset.shuffle(examples).repeat().batch(args.batch).prefetch(2))


@tf.function
def update(x, y):
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss


@tf.function
def evaluate(x, y):
    logits = model(x, training=False)
    hits = tf.equal(tf.argmax(logits, -1, tf.int32), y)
    return cross_entropy(y, logits), tf.reduce_mean(tf.cast(hits, tf.float32))


def train_step():
    return float(update(*next(batches)))


def evaluation_step():
    loss, accuracy = evaluate(*next(batches))
    return float(loss), float(accuracy)


version = f"tensorflow {tf.__version__}, keras {keras.__version__}"
measure.run(args, version, train_step, lambda: None, evaluation_step)
