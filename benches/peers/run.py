"""Runs elistimator and its peers in turn, on the same workloads, and compares them.

    python3 benches/peers/run.py --rounds 5 --threads 2

docs/benchmarks.md says what is measured, and how to make the peers' environments.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import programs
import report

# A program that takes longer than so many seconds is given up: torch.compile in its first round is the slowest.
LIMIT = 600


def parse_arguments(target):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each program runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workloads", nargs="+", choices=programs.WORKLOADS, default=programs.WORKLOADS)
    parser.add_argument("--peers", nargs="*", choices=programs.PEERS, default=programs.PEERS)
    parser.add_argument("--python-torch", type=Path, default=target / "peers" / "venv-torch" / "bin" / "python")
    parser.add_argument("--python-tf", type=Path, default=target / "peers" / "venv-tf" / "bin" / "python")
    parser.add_argument("--output", type=Path, default=target / "peers" / "results.json", help="results of every round, as JSON")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads: expected at least 1")
    return arguments


def busy_seconds():
    """Processor seconds of the whole machine in work of any kind, since it started; None where /proc does not tell."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, hardware, software, _stolen = fields
    return (user + nice + system + hardware + software) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    times = os.times()
    return times.children_user + times.children_system


def run_once(command, environment):
    """The JSON that a program prints on its last line, with how many cores others used meanwhile. An error as a string."""
    start, busy, own = time.monotonic(), busy_seconds(), children_seconds()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"took longer than {LIMIT} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        message = done.stderr.strip().splitlines()
        return f"exit status {done.returncode}: {message[-1] if message else 'no message'}"
    try:
        result = json.loads(lines[-1])
    except ValueError:
        return f"expected a line of JSON, found: {lines[-1][:200]}"
    elapsed = time.monotonic() - start
    if busy is not None:
        others = busy_seconds() - busy - (children_seconds() - own)
        result["other_cores"] = round(max(0.0, others) / elapsed, 2)
    result["process_seconds"] = round(elapsed, 1)
    return result


def machine():
    """What the results depend on."""

    def line(*command):
        try:
            found = subprocess.run(command, cwd=programs.REPOSITORY, capture_output=True, text=True)
        except OSError:
            return ""
        return found.stdout.strip() if found.returncode == 0 else ""

    def field(path, name):
        try:
            found = [line for line in Path(path).read_text().splitlines() if line.startswith(name)]
        except OSError:
            found = []
        return found[0].split(":", 1)[1].strip() if found else ""

    flags = field("/proc/cpuinfo", "flags").split()
    vectors = next((name for flag, name in [("avx512f", "AVX-512"), ("avx2", "AVX2")] if flag in flags), "")
    cpu = field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    memory = field("/proc/meminfo", "MemTotal").split()
    return {
        "cpu": f"{cpu} ({vectors})" if vectors else cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[0]) / 2**20) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "rustc": " ".join(line("rustc", "--version").split()[:2]),
        "date": datetime.date.today().isoformat(),
        "commit": line("git", "rev-parse", "--short", "HEAD") or "unknown",
        # Results may be written into the documentation from one run to the next.
        "changed": bool(line("git", "status", "--porcelain", "--", ".", ":!docs")),
    }


def collect(arguments, chosen, floor, environment, skipped):
    """Every program once in every round of every workload, one after another; each round begins with another one."""
    workloads = {}
    for workload in arguments.workloads:
        able = [program for program in chosen if workload in program.workloads]
        for program in chosen:
            if program not in able:
                skipped[f"{program.name}, {workload}"] = "it has no such network"
        rounds = workloads[workload] = []
        for number in range(arguments.rounds):
            found = run_once(floor, environment)
            if isinstance(found, str):
                raise SystemExit(f"floor: {found}")
            rounds.append({"floor": found, "programs": {}})
            turn = number % len(able)
            for program in able[turn:] + able[:turn]:
                if f"{program.name}, {workload}" in skipped:
                    continue
                result = run_once(program.arguments(workload), {**environment, **program.environment})
                if isinstance(result, str):
                    skipped[f"{program.name}, {workload}"] = f"in round {number + 1}: {result}"
                    print(f"{workload} {number + 1}/{arguments.rounds} {program.name}: {result}", file=sys.stderr)
                    continue
                rounds[-1]["programs"][program.name] = result
                train, evaluation = (report.value(result, f"{kind}_steps_per_second") for kind in ("train", "eval"))
                print(
                    f"{workload} {number + 1}/{arguments.rounds} {program.name}: {train:.1f} train steps/s, "
                    f"{evaluation:.1f} eval steps/s, {result['process_seconds']} s",
                    file=sys.stderr,
                )
    return workloads


def main():
    target = programs.target_directory()
    arguments = parse_arguments(target)
    threads = arguments.threads
    pythons = {"torch": arguments.python_torch, "tensorflow": arguments.python_tf}
    try:
        ours, floor = programs.ours(target, threads)
    except programs.Missing as missing:
        raise SystemExit(str(missing)) from missing
    chosen, skipped = [ours], {}
    for name in arguments.peers:
        try:
            chosen.append(programs.peer(name, target, threads, pythons))
        except programs.Missing as missing:
            skipped[name] = str(missing)
            print(f"skipped: {name}: {missing}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "RAYON_NUM_THREADS": str(threads),
            "TMPDIR": temporary,
        }
        workloads = collect(arguments, chosen, floor, environment, skipped)
    results = {
        "machine": machine(),
        "rounds": arguments.rounds,
        "threads": threads,
        "programs": [program.name for program in chosen],
        "skipped": skipped,
        "workloads": workloads,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    section = report.markdown(results)
    arguments.output.with_suffix(".md").write_text(section)
    print(section)
    print(f"written: {arguments.output}, {arguments.output.with_suffix('.md')}", file=sys.stderr)
    if arguments.write_docs:
        report.write_section(programs.REPOSITORY / "docs" / "benchmarks.md", section)


if __name__ == "__main__":
    main()
