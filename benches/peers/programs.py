"""The programs that are compared: how each is made ready and started."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

PEERS = ["pytorch-eager", "pytorch-eager-tuned", "pytorch-compile", "tensorflow", "burn", "candle", "dfdx"]
WORKLOADS = ["cnn", "mlp", "lstm"]

# glibc keeps freed memory, instead of giving it back to the system and faulting it in anew in every step.
KEEP_MEMORY = {
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the largest that glibc takes
}


class Missing(Exception):
    """This program cannot run here, and why."""


@dataclass
class Program:
    name: str
    # All but the workload.
    command: list
    # Where the workload stands in the command.
    at: int
    environment: dict = field(default_factory=dict)
    workloads: list = field(default_factory=lambda: WORKLOADS)

    def arguments(self, workload):
        return [*self.command[: self.at], workload, *self.command[self.at :]]


def target_directory():
    """Where cargo puts what it builds."""
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    found = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return Path(json.loads(found.stdout)["target_directory"])


def build(directory, target, *arguments):
    """Builds a Rust program for release; the compiler's messages go to the terminal."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    command = ["cargo", "build", "--release", *arguments]
    if subprocess.run(command, cwd=directory, env=environment).returncode != 0:
        raise Missing(f"`{' '.join(command)}` failed in {directory.relative_to(REPOSITORY)}")
    return target / "release"


def interpreter(path, module):
    """The path of a Python that can import the module. (The report goes into the documentation: no paths in reasons.)"""
    try:
        found = subprocess.run([str(path), "-c", f"import {module}"], capture_output=True, text=True)
    except OSError as error:
        raise Missing(f"no Python for {module} found: {error.strerror}") from error
    if found.returncode != 0:
        raise Missing(f"the Python for it cannot import {module}")
    return str(path)


def ours(target, threads):
    """The program of this repository, and the one that measures the floor."""
    directory = build(REPOSITORY, target, "--example", "workload", "--example", "floor") / "examples"
    options = ["--threads", str(threads), "--rounds", "1"]
    return Program("elistimator", [str(directory / "workload"), *options], 1), [
        str(directory / "floor"),
        "--threads",
        str(threads),
    ]


def peer(name, target, threads, pythons):
    """The program of that name, built where it needs to be. Raises Missing."""
    once = ["--repetitions", "1"]
    if name.startswith("pytorch"):
        mode = "compile" if name == "pytorch-compile" else "eager"
        python = interpreter(pythons["torch"], "torch")
        command = [python, str(HERE / "pytorch.py"), mode, "--threads", str(threads), *once]
        # The compiled code is kept, so that only the first round has to make it.
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(target / "peers" / "inductor")} if mode == "compile" else {}
        return Program(name, command, 2, {**environment, **(KEEP_MEMORY if name.endswith("tuned") else {})})
    if name == "tensorflow":
        python = interpreter(pythons["tensorflow"], "tensorflow")
        return Program(name, [python, str(HERE / "tensorflow_loop.py"), "--threads", str(threads), *once], 2)
    directory = build(HERE / name, target / "peers")
    return Program(name, [str(directory / f"{name}-bench"), *once], 1, workloads=["mlp"] if name == "dfdx" else WORKLOADS)
