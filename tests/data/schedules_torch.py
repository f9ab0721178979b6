"""Writes schedules_torch.json: the learning rates of PyTorch's schedulers from a base of 1, and what ReduceLROnPlateau makes of
series of metrics.

    python schedules_torch.py > schedules_torch.json        (torch 2.x)
"""

import json
import math
import random
import warnings

import torch
from torch.optim import lr_scheduler as s

warnings.simplefilter("ignore")


def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def rates(make, steps):
    o = optimizer()
    scheduler, found = make(o), []
    for _ in range(steps):
        found.append(o.param_groups[0]["lr"])
        o.step()
        scheduler.step()
    return found


def transformer(warm_up):
    """Vaswani et al. 2017, section 5.3, scaled to a peak of 1; their steps count from 1."""
    return lambda t: min((t + 1) ** -0.5, (t + 1) * warm_up**-1.5) * warm_up**0.5


CASES = {
    "constant": (lambda o: s.ConstantLR(o, factor=1.0), 5),
    "step": (lambda o: s.StepLR(o, 7, gamma=0.3), 60),
    "exponential": (lambda o: s.ExponentialLR(o, 0.97), 60),
    "multi_step": (lambda o: s.MultiStepLR(o, [31, 5, 5, 17], gamma=0.2), 60),
    "polynomial": (lambda o: s.PolynomialLR(o, total_iters=37, power=1.7), 60),
    "linear_decay": (lambda o: s.PolynomialLR(o, total_iters=37, power=1.0), 60),
    "cosine": (lambda o: s.CosineAnnealingLR(o, T_max=41, eta_min=0.05), 42),
    "restarts": (lambda o: s.CosineAnnealingWarmRestarts(o, T_0=5, T_mult=1, eta_min=0.01), 60),
    "restarts_growing": (lambda o: s.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=3, eta_min=0.02), 150),
    # Its steps are counted so that the peak and the end fall on steps 16 and 70.
    "one_cycle": (lambda o: s.OneCycleLR(o, 1.0, total_steps=71, pct_start=17 / 71, div_factor=10, final_div_factor=100), 71),
    "warm_up": (
        lambda o: s.SequentialLR(
            o,
            [s.LinearLR(o, start_factor=1 / 9, total_iters=8), s.CosineAnnealingLR(o, T_max=30, eta_min=0)],
            milestones=[9],
        ),
        39,
    ),
    "transformer": (lambda o: s.LambdaLR(o, transformer(11)), 100),
    # Huang et al. 2017, equation 2.
    "snapshots": (lambda o: s.LambdaLR(o, lambda t: 0.5 * (math.cos(math.pi * (t % 13) / 13) + 1)), 60),
}

PLATEAUS = {
    "default": dict(mode="min", threshold=0.0),
    "cooldown": dict(mode="min", threshold=0.05, factor=0.3, patience=2, cooldown=3),
    "max": dict(mode="max", threshold=0.1, factor=0.5, patience=0, cooldown=1, min_lr=0.02),
    "impatient": dict(mode="min", threshold=0.2, factor=0.7, patience=0, min_lr=0.1),
}

random.seed(17)
series = [round(1 / (1 + 0.2 * i) + random.uniform(-0.3, 0.3), 3) for i in range(80)]
series[9] = series[30] = series[31] = None  # not a number

plateaus = {}
for name, settings in PLATEAUS.items():
    o = optimizer()
    plateau, found = s.ReduceLROnPlateau(o, threshold_mode="abs", eps=0.0, **settings), []
    for value in series:
        plateau.step(math.nan if value is None else value)
        found.append(o.param_groups[0]["lr"])
    plateaus[name] = found

result = {
    "torch": torch.__version__,
    "rates": {name: rates(*case) for name, case in CASES.items()},
    "series": series,
    "plateaus": plateaus,
}
print(json.dumps(result))
