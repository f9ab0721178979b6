"""Writes nn_pytorch.json: what PyTorch computes for small layers. Run: pip install torch; python nn_pytorch.py

Every loss is the sum of the outputs times fixed factors, so that all gradients are seen.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from torch import nn

MASK = (1 << 64) - 1


def noise(count, seed):
    """The generator of tests/nn_support/mod.rs: xorshift, values in [-1, 1)."""
    state = ((seed * 0x9E3779B97F4A7C15) & MASK) ^ 0x123456789ABCDEF1
    values = []
    for _ in range(count):
        state ^= (state << 13) & MASK
        state ^= state >> 7
        state ^= (state << 17) & MASK
        values.append((state >> 40) / float(1 << 23) - 1.0)
    return torch.tensor(values)


def flat(tensor):
    return [float(f"{v:.9g}") for v in tensor.detach().reshape(-1).tolist()]


def shaped(shape, seed):
    count = 1
    for size in shape:
        count *= size
    return noise(count, seed).reshape(shape)


def case(shape, parameters, forward, scale=1.0, **extra):
    """parameters: our names -> tensors that already hold their values; a gradient is written for each."""
    x = (shaped(shape, 3) * scale).requires_grad_()
    for parameter in parameters.values():
        parameter.grad = None
    y = forward(x)
    (y.reshape(-1) * noise(y.numel(), 99)).sum().backward()
    return {
        "shape": list(shape),
        "x": flat(x),
        "y": flat(y),
        "dx": flat(x.grad),
        "parameters": {name: flat(p) for name, p in parameters.items()},
        "gradients": {name: flat(p.grad) for name, p in parameters.items() if p.grad is not None},
        **extra,
    }


def fill(module, seed, scale=0.5):
    with torch.no_grad():
        for parameter in module.parameters():
            seed += 1
            parameter.copy_(noise(parameter.numel(), seed).reshape(parameter.shape) * scale)
    return module


def weight_and_bias(module, prefix=""):
    return {prefix + "weight": module.weight, prefix + "bias": module.bias}


cases = {}
linear = fill(nn.Linear(4, 3), 10)
cases["linear_gelu"] = case((5, 4), weight_and_bias(linear), lambda x: F.gelu(linear(x)), scale=3.0)
conv = fill(nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2), 20)
cases["conv2d"] = case((2, 4, 7, 6), weight_and_bias(conv), conv)
conv1d = fill(nn.Conv1d(3, 5, 3, stride=2, padding=2, dilation=2), 30)
cases["conv1d"] = case((2, 3, 9), weight_and_bias(conv1d), conv1d)
cases["max_pool2d"] = case((2, 2, 5, 7), {}, lambda x: F.max_pool2d(x, 3, stride=2, padding=1))
cases["avg_pool2d"] = case(
    (2, 2, 5, 7), {}, lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
)


def recurrent(kind):
    module = fill(kind(3, 4, batch_first=True, bidirectional=True), 40, 0.7)
    hidden = 4
    parameters = {}
    with torch.no_grad():
        for suffix in ("", "_reverse"):
            bias = getattr(module, "bias_hh_l0" + suffix)
            if kind is nn.LSTM:
                bias.zero_()
            else:
                bias[: 2 * hidden] = 0
    lengths = [5, 1, 3]
    for name, suffix in (("forward.", ""), ("backward.", "_reverse")):
        parameters[name + "weight_ih"] = getattr(module, "weight_ih_l0" + suffix)
        parameters[name + "weight_hh"] = getattr(module, "weight_hh_l0" + suffix)
        parameters[name + "bias"] = getattr(module, "bias_ih_l0" + suffix)

    def forward(x):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = module(packed)
        return nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=6)[0]

    result = case((3, 6, 3), parameters, forward, lengths=lengths)
    if kind is nn.GRU:
        for name, suffix in (("forward.", ""), ("backward.", "_reverse")):
            bias = getattr(module, "bias_hh_l0" + suffix)
            result["parameters"][name + "bias_hn"] = flat(bias[2 * hidden :])
            result["gradients"][name + "bias_hn"] = flat(bias.grad[2 * hidden :])
    return result


cases["bi_lstm"] = recurrent(nn.LSTM)
cases["bi_gru"] = recurrent(nn.GRU)
layer_norm = fill(nn.LayerNorm(7), 50)
cases["layer_norm"] = case((4, 7), weight_and_bias(layer_norm), layer_norm, scale=2.0)
batch_norm = fill(nn.BatchNorm2d(3), 60)
training = case((2, 3, 4, 5), weight_and_bias(batch_norm), batch_norm, scale=2.0)
training["running_mean"] = flat(batch_norm.running_mean)
training["running_var"] = flat(batch_norm.running_var)
batch_norm.eval()
training["evaluated"] = flat(batch_norm(torch.tensor(training["x"]).reshape(2, 3, 4, 5)))
cases["batch_norm"] = training


def attention_parameters(attention, prefix=""):
    """PyTorch keeps the three projections in one tensor."""
    names = {}
    for index, name in enumerate(("query", "key", "value")):
        rows = slice(index * 6, (index + 1) * 6)
        names[f"{prefix}{name}.weight"] = (attention.in_proj_weight, rows)
        names[f"{prefix}{name}.bias"] = (attention.in_proj_bias, rows)
    return names


def padding_mask(lengths, length):
    return torch.tensor([[step >= end for step in range(length)] for end in lengths])


def with_attention(result, attention, prefix):
    for name, (tensor, rows) in attention_parameters(attention, prefix).items():
        result["parameters"][name] = flat(tensor[rows])
        result["gradients"][name] = flat(tensor.grad[rows])
    return result


attention = fill(nn.MultiheadAttention(6, 2, batch_first=True), 70)
lengths = [4, 1, 3]
attended = case(
    (3, 4, 6),
    weight_and_bias(attention.out_proj, "output."),
    lambda x: attention(x, x, x, key_padding_mask=padding_mask(lengths, 4), need_weights=False)[0],
    lengths=lengths,
)
cases["attention"] = with_attention(attended, attention, "")
for name, norm_first in (("transformer_post", False), ("transformer_pre", True)):
    block = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first)
    fill(block, 80)
    parameters = {
        **weight_and_bias(block.self_attn.out_proj, "attention.output."),
        **weight_and_bias(block.norm1, "norm1."),
        **weight_and_bias(block.norm2, "norm2."),
        **weight_and_bias(block.linear1, "linear1."),
        **weight_and_bias(block.linear2, "linear2."),
    }
    result = case(
        (3, 4, 6), parameters, lambda x: block(x, src_key_padding_mask=padding_mask(lengths, 4)), lengths=lengths
    )
    cases[name] = with_attention(result, block.self_attn, "attention.")

labels = [2, 0, 3, 1, 2]
class_weights = [0.5, 1.5, 1.0, 2.0]
cases["cross_entropy"] = case(
    (5, 4),
    {},
    lambda x: F.cross_entropy(
        x, torch.tensor(labels), weight=torch.tensor(class_weights), label_smoothing=0.1
    ).reshape(1),
    scale=3.0,
    labels=labels,
    class_weights=class_weights,
)
targets = F.softmax(shaped((5, 4), 7) * 2, dim=1)
cases["dense_cross_entropy"] = case(
    (5, 4),
    {},
    lambda x: F.cross_entropy(x, targets, label_smoothing=0.2).reshape(1),
    scale=3.0,
    targets=flat(targets),
)
binary = (shaped((5, 4), 7) + 1) / 2
for name, loss in (
    ("binary_cross_entropy", lambda x: F.binary_cross_entropy_with_logits(x, binary)),
    ("weighted_binary_cross_entropy", lambda x: F.binary_cross_entropy_with_logits(x, binary, pos_weight=torch.tensor(2.5))),
    ("squared", lambda x: F.mse_loss(x, binary)),
    ("absolute", lambda x: F.l1_loss(x, binary)),
    ("huber", lambda x: F.huber_loss(x, binary, delta=0.7)),
):
    cases[name] = case((5, 4), {}, lambda x, loss=loss: loss(x).reshape(1), scale=3.0, targets=flat(binary))

path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps({"torch": torch.__version__, "cases": cases}) + "\n")
