"""Writes combinations_torch.json: where PyTorch is after 1, 10 and 100 updates of a small network, in float64, with settings that
act on each other: clipping with accumulation, groups with and without decay with averages of weights, momentum with one cycle, a
plateau after a warm-up.

    python combinations_torch.py > combinations_torch.json        (torch 2.x)
"""

import json

import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

KEPT = (1, 10, 100)
BATCH = 5
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


# The points of tests/common/mod.rs, in its float32.
x = (torch.tensor([i * 37 % 101 for i in range(300)]).float() / 50 - 1).reshape(100, 3)
y = (x[:, 0] - 2 * x[:, 1] + 0.5 * x[:, 2]).double().reshape(100, 1)
x = x.double()


def network():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.copy_(noise(parameter.numel(), seed + 1).reshape(parameter.shape))
    return net


def values(net):
    return [float(v) for parameter in net.parameters() for v in parameter.detach().reshape(-1)]


def loss(net, rows=slice(None)):
    return ((net(x[rows]) - y[rows]) ** 2).mean()


def batches():
    while True:
        for start in range(0, 100, BATCH):
            yield slice(start, start + BATCH)


def run(make, micro_batches=1, clip=None, average=None, schedule=None, plateau=None):
    net, data, kept, averages, rates = network(), batches(), [], [], []
    optimizer = make(net)
    averaged = average and AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(average))
    scheduler = schedule and schedule(optimizer)
    plateau = plateau and plateau(optimizer)
    for step in range(1, max(KEPT) + 1):
        optimizer.zero_grad()
        for _ in range(micro_batches):
            (loss(net, next(data)) / micro_batches).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if averaged:
            averaged.update_parameters(net)
        if scheduler and (not plateau or step < WARM_UP):
            scheduler.step()
        if plateau and step >= WARM_UP and step % 5 == 0:
            plateau.step(loss(net).item())
        if step in KEPT:
            kept.append(values(net))
            averages.append(values(averaged.module) if averaged else [])
    return {"weights": kept, "averages": averages, "rates": rates}


WARM_UP = 10
optim = torch.optim


def grouped(net):
    hidden, out = net[0], net[2]
    return optim.AdamW(
        [
            {"params": [hidden.weight], "lr": 0.02, "weight_decay": 0.1},
            {"params": [hidden.bias], "lr": 0.02, "weight_decay": 0.0},
            {"params": [out.weight], "lr": 0.05, "weight_decay": 0.3, "betas": (0.8, 0.99)},
            {"params": [out.bias], "lr": 0.05, "weight_decay": 0.0, "betas": (0.8, 0.99)},
        ]
    )


result = {
    "torch": torch.__version__,
    "kept": KEPT,
    "start": values(network()),
    "cases": {
        "clip_accumulate": run(
            lambda net: optim.SGD(net.parameters(), lr=0.05, momentum=0.9), micro_batches=4, clip=0.5
        ),
        "groups_ema": run(grouped, average=0.95, clip=2.0),
        "groups_ema_accumulate": run(grouped, average=0.9, micro_batches=2),
        "one_cycle": run(
            lambda net: optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
            # The peak falls on step 30, the end on step 100.
            schedule=lambda o: lr_scheduler.OneCycleLR(
                o, 0.1, total_steps=101, pct_start=31 / 101, div_factor=25, final_div_factor=100, cycle_momentum=False
            ),
        ),
        "rmsprop_restarts": run(
            lambda net: optim.RMSprop(net.parameters(), lr=0.01, alpha=0.9, eps=1e-3, momentum=0.5),
            schedule=lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=9, T_mult=2, eta_min=0.001),
            clip=1.0,
        ),
        "plateau_warm_up": run(
            lambda net: optim.Adam(net.parameters(), lr=0.1, weight_decay=0.001),
            schedule=lambda o: lr_scheduler.LinearLR(o, start_factor=1 / WARM_UP, total_iters=WARM_UP - 1),
            plateau=lambda o: lr_scheduler.ReduceLROnPlateau(
                o, factor=0.5, patience=1, threshold=0.02, threshold_mode="abs", cooldown=1, eps=0.0
            ),
        ),
    },
}
print(json.dumps(result))
