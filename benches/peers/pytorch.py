"""The three workloads in PyTorch: eager, or through torch.compile.

    python pytorch.py cnn eager --threads 2 --repetitions 5
    python pytorch.py cnn eager --device cuda --read-every 50
"""

import measure

args = measure.arguments(["eager", "compile"])

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(args.threads)
torch.manual_seed(0)
device = torch.device(args.device)


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.dense = nn.Linear(3136, 1024)
        self.dropout = nn.Dropout(0.4)
        self.logits = nn.Linear(1024, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.logits(self.dropout(F.relu(self.dense(x.flatten(1)))))


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(300, 100, batch_first=True, bidirectional=True)
        self.logits = nn.Linear(200, 10)

    def forward(self, x):
        return self.logits(self.lstm(x)[0])


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def synthetic(examples, label_shape, input_shape):
    """A weak signal in noise, and 30 % of the labels random, so that the loss stays well above 0."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 10, (examples, *label_shape), generator=generator)
    templates = torch.randn(10, *input_shape, generator=generator)
    x = 0.1 * templates[y] + torch.randn(examples, *label_shape, *input_shape, generator=generator)
    noisy = torch.rand(y.shape, generator=generator) < 0.3
    return x, torch.where(noisy, torch.randint(0, 10, y.shape, generator=generator), y)


def shuffled_batches(x, y, batch):
    while True:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            yield to_device(x[rows]), to_device(y[rows])


def to_device(values):
    if device.type == "cpu":
        return values
    # From memory that the device reads on its own, as a data loader with pin_memory does.
    return values.pin_memory().to(device, non_blocking=True)


examples, batch, label_shape, input_shape = measure.SIZES[args.workload]
batches = shuffled_batches(*synthetic(examples, label_shape, input_shape), batch)
model = {"cnn": Cnn, "mlp": mlp, "lstm": Lstm}[args.workload]().train().to(device)
if args.workload == "cnn":
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
else:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
forward = torch.compile(model) if args.mode == "compile" else model


steps_done, last_loss = 0, float("nan")


def train_step():
    global steps_done, last_loss
    x, y = next(batches)
    optimizer.zero_grad()
    loss = F.cross_entropy(forward(x).reshape(-1, 10), y.reshape(-1))
    loss.backward()
    optimizer.step()
    # Reading waits for the device.
    if steps_done % args.read_every == 0:
        last_loss = loss.item()
    steps_done += 1
    return last_loss


def evaluation_step():
    with torch.no_grad():
        x, y = next(batches)
        logits = forward(x)
        loss = F.cross_entropy(logits.reshape(-1, 10), y.reshape(-1))
        return loss.item(), (logits.argmax(-1) == y).float().mean().item()


settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
measure.run(args, f"torch {torch.__version__}", train_step, model.eval, evaluation_step, settle)
