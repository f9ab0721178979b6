"""Writes ctc_torch.json: what PyTorch's ctc_loss computes, in float64. Run: pip install torch; python ctc_torch.py

Of each case: the losses, the gradient of their sum times fixed factors by the logits, and the mean.
"""

import json
import pathlib

import torch
import torch.nn.functional as F

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
    return torch.tensor(values, dtype=torch.float64)


def flat(tensor):
    return [float(f"{v:.9g}") for v in tensor.detach().reshape(-1).tolist()]


def case(shape, targets, lengths, blank=0, zero_infinity=False, scale=3.0):
    batch, length, classes = shape
    # Rounded to float32, as the layer sees them.
    x = (noise(batch * length * classes, 3) * scale).float().double().reshape(shape).requires_grad_()
    width = max(1, max(len(target) for target in targets))
    padded = torch.tensor([target + [1 - min(blank, 1)] * (width - len(target)) for target in targets])

    def loss(reduction):
        return F.ctc_loss(
            x.log_softmax(2).transpose(0, 1),
            padded,
            torch.tensor(lengths),
            torch.tensor([len(target) for target in targets]),
            blank=blank,
            reduction=reduction,
            zero_infinity=zero_infinity,
        )

    losses = loss("none")
    (losses * noise(batch, 99)).sum().backward()
    return {
        "shape": list(shape),
        "targets": targets,
        "lengths": lengths,
        "blank": blank,
        "zero_infinity": zero_infinity,
        "x": flat(x),
        "losses": flat(losses),
        "dx": flat(x.grad),
        "mean": loss("mean").item(),
    }


cases = {
    "plain": case((3, 8, 5), [[1, 2, 3], [4], [2, 1, 4, 3]], [8, 8, 8]),
    "repeats": case((3, 9, 4), [[1, 1, 2, 2], [3, 3, 3, 3, 3], [2, 2]], [9, 9, 4]),
    "lengths": case((4, 7, 5), [[1, 2], [], [3, 4, 3], [1, 1]], [7, 3, 3, 3]),
    "last_blank": case((2, 6, 4), [[0, 0, 1], [2, 1]], [6, 5], blank=3),
    "zero_infinity": case((3, 5, 4), [[1, 1, 1, 1], [2, 3], [1, 2, 3]], [5, 5, 2], zero_infinity=True),
    "long": case((1, 120, 6), [[1 + i * i % 5 for i in range(40)]], [120], scale=8.0),
    "wide": case((2, 12, 40), [[7, 39, 39, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], [12, 12]),
}

path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps({"torch": torch.__version__, "cases": cases}) + "\n")
