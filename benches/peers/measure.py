"""What the Python programs share: their arguments, the timing, the JSON line they print."""

import argparse
import json
import math
import resource
import statistics
import time

# Steps that are timed together; examples; batch; shape of the labels and of the inputs of an example.
STEPS = {"cnn": 60, "mlp": 400, "lstm": 150}
SIZES = {
    "cnn": (4096, 56, (), (1, 28, 28)),
    "mlp": (20000, 128, (), (784,)),
    "lstm": (1000, 20, (32,), (300,)),
}
# A repetition of a slow program is shortened to about as many seconds.
LONGEST = 3.0


def at_least_one(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 and more, found {text!r}")
    return int(text)


def arguments(modes, more=lambda parser: None):
    """`more` adds the options that only one program knows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=sorted(STEPS))
    parser.add_argument("mode", nargs="?", choices=modes, default=modes[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions that are timed, after a warm-up")
    parser.add_argument("--steps", type=int, help="steps that are timed together; by default the workload's own number")
    parser.add_argument("--device", default="cpu", help="cuda for a GPU, where the program knows one")
    parser.add_argument("--read-every", type=int, default=1, help="steps from one loss that is read to the next")
    parser.add_argument("--batch", type=at_least_one, help="examples of a step; by default the workload's own number")
    more(parser)
    args = parser.parse_args()
    examples, batch = SIZES[args.workload][:2]
    args.batch = args.batch or batch
    if args.batch > examples:
        parser.error(f"--batch: expected 1 to {examples}, the examples of {args.workload}, found {args.batch}")
    return args


def peak_memory():
    """MiB, of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def warm_up(step, steps):
    """Runs a third of so many steps, for a third of LONGEST at most. Returns how many steps to time together: so many, or
    fewer if they would take longer than LONGEST."""
    fastest = math.inf
    begin = time.perf_counter()
    for done in range(max(steps // 3, 1)):
        start = time.perf_counter()
        step()
        fastest = min(fastest, time.perf_counter() - start)
        if done >= 3 and time.perf_counter() - begin > LONGEST / 3:
            break
    return max(5, min(steps, round(LONGEST / fastest)))


def rates(step, steps, repetitions, settle):
    """Steps per second of every repetition, and what the last step returned. `settle` waits for what a step only asked for."""
    found, last = [], None
    for _ in range(repetitions):
        start = time.perf_counter()
        for _ in range(steps):
            last = step()
        settle()
        found.append(steps / (time.perf_counter() - start))
    return found, last


def summary(values):
    return {"median": round(statistics.median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def run(args, version, train_step, before_evaluation, evaluation_step, settle=lambda: None):
    """Times both steps and prints the results. A training step returns its loss."""
    first = train_step()  # compiles, where something is compiled
    steps = warm_up(train_step, args.steps or STEPS[args.workload])
    train, last = rates(train_step, steps, args.repetitions, settle)
    memory = peak_memory()
    before_evaluation()
    steps = warm_up(evaluation_step, args.steps or STEPS[args.workload])
    evaluation, _ = rates(evaluation_step, steps, args.repetitions, settle)
    result = {
        "name": args.workload,
        "version": version,
        "threads": args.threads,
        "batch": args.batch,
        "train_steps_per_second": summary(train),
        "eval_steps_per_second": summary(evaluation),
        "peak_rss_mb": round(memory, 1),
        "loss_first": round(float(first), 4),
        "loss_last": round(float(last), 4),
    }
    print(json.dumps(result), flush=True)
