"""The three workloads in PyTorch: eager, through torch.compile, or with whole steps captured as CUDA graphs.

    python pytorch.py cnn eager --threads 2 --repetitions 5
    python pytorch.py cnn --mode graphs --device cuda --batch 1024 --tf32 off --read-every 50
"""

import sys
import traceback

import measure

MODES = ["eager", "compile", "graphs"]


def options(parser):
    parser.add_argument("--mode", dest="mode_option", choices=MODES, help="the mode, where it is not given by position")
    parser.add_argument(
        "--tf32",
        choices=["default", "off", "on"],
        default="default",
        help="whether matrix products, convolutions and LSTMs on a GPU round their inputs to TF32; PyTorch's defaults "
        "let convolutions and LSTMs do so",
    )


args = measure.arguments(MODES, options)
mode = args.mode_option or args.mode

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(args.threads)
torch.manual_seed(0)
device = torch.device(args.device)
if mode == "graphs" and device.type != "cuda":
    sys.exit("pytorch.py: graphs: expected --device cuda")
if args.tf32 != "default":
    torch.backends.cuda.matmul.allow_tf32 = args.tf32 == "on"
    torch.backends.cudnn.allow_tf32 = args.tf32 == "on"


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
    """Batches on the host, from memory that a GPU reads on its own, as a data loader with pin_memory gives them."""
    on_host = (lambda values: values) if device.type == "cpu" else torch.Tensor.pin_memory
    while True:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            yield on_host(x[rows]), on_host(y[rows])


def next_batch():
    x, y = next(batches)
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


examples, _, label_shape, input_shape = measure.SIZES[args.workload]
batches = shuffled_batches(*synthetic(examples, label_shape, input_shape), args.batch)
model = {"cnn": Cnn, "mlp": mlp, "lstm": Lstm}[args.workload]().train().to(device)
if args.workload == "cnn":
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
else:
    # Captured, the number of steps must be on the device; SGD counts none.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, capturable=mode == "graphs")
forward = torch.compile(model) if mode == "compile" else model


def train_on(x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(forward(x).reshape(-1, 10), y.reshape(-1))
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def evaluate_on(x, y):
    logits = forward(x)
    loss = F.cross_entropy(logits.reshape(-1, 10), y.reshape(-1))
    return loss, (logits.argmax(-1) == y).float().mean()


class Captured:
    """A step as one CUDA graph: captured when it is first run, from then on only replayed, on tensors that stay in place.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
    """

    def __init__(self, step):
        self.step = step
        self.graph = None

    def __call__(self, x, y):
        if self.graph is None:
            self.capture(x, y)
        # On the stream that replays: the copies wait for the step before, and the step for them.
        self.x.copy_(x, non_blocking=True)
        self.y.copy_(y, non_blocking=True)
        self.graph.replay()
        return self.results

    def capture(self, x, y):
        self.x, self.y = x.to(device), y.to(device)
        # The first steps choose algorithms, and make workspaces and the optimizer's state: elsewhere than on the stream that
        # captures.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step(self.x, self.y)
        torch.cuda.current_stream().wait_stream(side)
        # So that the gradients are made by the capture, in the graph's memory.
        optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = self.step(self.x, self.y)


if mode == "graphs":
    # A captured step takes batches as they are on the host.
    train_on, evaluate_on = Captured(train_on), Captured(evaluate_on)
    next_batch = lambda: next(batches)

steps_done, last_loss = 0, float("nan")
evaluations_done, sums = 0, (torch.zeros((), device=device), torch.zeros((), device=device))


def train_step():
    global steps_done, last_loss
    loss = train_on(*next_batch())
    # Reading waits for the device.
    if steps_done % args.read_every == 0:
        last_loss = loss.item()
    steps_done += 1
    return last_loss


def evaluation_step():
    global evaluations_done
    values = evaluate_on(*next_batch())
    if args.read_every == 1:
        return [value.item() for value in values]
    # The means over a pass need every step: their sums stay on the device until they are read.
    for total, value in zip(sums, values):
        total += value
    evaluations_done += 1
    return [total.item() for total in sums] if evaluations_done % args.read_every == 0 else None


settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
try:
    measure.run(args, f"torch {torch.__version__}", train_step, model.eval, evaluation_step, settle)
except Exception as error:
    traceback.print_exc()
    # The last line says which program and why; torch.compile ends its messages with advice.
    reason = next((line for line in str(error).splitlines() if line.strip()), "no message")
    sys.exit(f"pytorch.py: {args.workload}, {mode}: {type(error).__name__}: {reason.strip()}")
