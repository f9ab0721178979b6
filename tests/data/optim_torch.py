"""Writes optim_torch.json: where PyTorch's optimisers are after 1, 10 and 100 steps on a fixed problem, in float64.

The problem: minimise sum(a * (w - t)^2) over six weights from `start`. PyTorch has no FTRL and no
LAMB; these two are written out here from their papers' formulas, and compared with TensorFlow's and Keras' besides
(optim_tensorflow.py).

    python optim_torch.py > optim_torch.json        (torch 2.x)
"""

import json

import torch

A = [0.1, 0.5, 1.0, 2.0, 0.01, 3.0]
T = [1.0, -2.0, 0.5, 0.0, 3.0, -0.25]
START = [0.5, 0.25, -1.0, 1.5, -0.75, 2.0]
KEPT = (1, 10, 100)
torch.set_default_dtype(torch.float64)


class Ftrl(torch.optim.Optimizer):
    """McMahan et al. 2013, as tf.compat.v1.train.FtrlOptimizer with learning_rate_power=-0.5."""

    def __init__(self, params, lr, initial, l1, l2):
        super().__init__(params, dict(lr=lr, initial=initial, l1=l1, l2=l2))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                n = s.get("n", torch.full_like(p, group["initial"]))
                z = s.get("z", torch.zeros_like(p))
                grown = n + p.grad**2
                z = z + p.grad - (grown.sqrt() - n.sqrt()) / group["lr"] * p
                quadratic = grown.sqrt() / group["lr"] + 2 * group["l2"]
                p.copy_(torch.where(z.abs() > group["l1"], (z.sign() * group["l1"] - z) / quadratic, 0.0))
                s["n"], s["z"] = grown, z


class Lamb(torch.optim.Optimizer):
    """You et al. 2020, algorithm 2, with the identity as phi."""

    def __init__(self, params, lr, betas, eps, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                b1, b2 = group["betas"]
                t = s["t"] = s.get("t", 0) + 1
                m = s["m"] = b1 * s.get("m", torch.zeros_like(p)) + (1 - b1) * p.grad
                v = s["v"] = b2 * s.get("v", torch.zeros_like(p)) + (1 - b2) * p.grad**2
                u = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + group["eps"]) + group["weight_decay"] * p
                norms = p.norm(), u.norm()
                ratio = norms[0] / norms[1] if norms[0] > 0 and norms[1] > 0 else 1.0
                p -= group["lr"] * ratio * u


class Clipped:
    """SGD on gradients clipped by torch.nn.utils."""

    def __init__(self, params, clip):
        self.params, self.clip, self.inner = params, clip, torch.optim.SGD(params, lr=0.1)

    def step(self):
        self.clip(self.params)
        self.inner.step()


optim = torch.optim
clip_norm = lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0)
clip_value = lambda params: torch.nn.utils.clip_grad_value_(params, 0.5)
CASES = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "sgd_decay": lambda p: optim.SGD(p, lr=0.05, weight_decay=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.05),
    "adam_l2": lambda p: optim.Adam(p, lr=0.05, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-3),
    "rmsprop_momentum": lambda p: optim.RMSprop(p, lr=0.005, alpha=0.95, eps=1e-3, momentum=0.5, weight_decay=0.1),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.3),
    "adagrad_decay": lambda p: optim.Adagrad(p, lr=0.3, weight_decay=0.1, initial_accumulator_value=0.1),
    "ftrl": lambda p: Ftrl(p, lr=0.3, initial=0.1, l1=0.0, l2=0.0),
    "ftrl_l1_l2": lambda p: Ftrl(p, lr=0.3, initial=0.1, l1=0.3, l2=0.2),
    "lamb": lambda p: Lamb(p, lr=0.02, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01),
    "clip_norm": lambda p: Clipped(p, clip_norm),
    "clip_value": lambda p: Clipped(p, clip_value),
}

a, t = torch.tensor(A), torch.tensor(T)
result = {"a": A, "t": T, "start": START, "kept": KEPT, "torch": torch.__version__, "cases": {}}
for name, make in CASES.items():
    w = torch.tensor(START, requires_grad=True)
    optimizer, kept = make([w]), []
    for step in range(1, max(KEPT) + 1):
        w.grad = None
        (a * (w - t) ** 2).sum().backward()
        optimizer.step()
        if step in KEPT:
            kept.append(w.detach().tolist())
    result["cases"][name] = kept
print(json.dumps(result, indent=1))
