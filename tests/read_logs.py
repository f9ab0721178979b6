"""Reads a log directory the way TensorBoard does, and prints what it saw as JSON.

usage: read_logs.py points LOGDIR             every scalar of every run, by the event accumulator and the multiplexer
       read_logs.py http LOGDIR FAST ROUTE..  the answers of a running server to these routes; FAST is "true" (the
                                                data server, where it is installed) or "false" (the Python reader)
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request

os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "upb")
# The server is on this machine, whatever stands between it and others.
for name in list(os.environ):
    if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        del os.environ[name]


def number(value):
    return value if value == value and abs(value) != float("inf") else str(value)


def points(logdir):
    from tensorboard.backend.event_processing import event_accumulator

    runs = {}
    for directory, _, files in os.walk(logdir):
        if not any("tfevents" in name for name in files):
            continue
        accumulator = event_accumulator.EventAccumulator(directory, size_guidance={"scalars": 0, "tensors": 0})
        accumulator.Reload()
        runs[os.path.relpath(directory, logdir)] = {
            tag: [[event.step, number(event.value), event.wall_time] for event in accumulator.Scalars(tag)]
            for tag in accumulator.Tags()["scalars"]
        }
    return runs


def fetch(url):
    with urllib.request.urlopen(url, timeout=120) as answer:
        body = answer.read()
        if "json" in answer.headers.get("Content-Type", ""):
            return json.loads(body)
        try:
            return body.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(body).decode(), "type": answer.headers.get("Content-Type")}


def http(logdir, fast, routes):
    from tensorboard import program

    try:
        import tensorboard_data_server  # noqa: F401, a package of its own that not every platform has
    except ImportError:
        fast = "false"
    board = program.TensorBoard()
    arguments = ["--logdir", logdir, "--host", "127.0.0.1", "--port", "0", "--reload_interval", "0"]
    arguments += ["--load_fast", fast, "--samples_per_plugin", "scalars=100000,images=100,histograms=100,text=100,pr_curves=100"]
    if fast == "false":
        arguments += ["--reload_task", "blocking"]
    board.configure(argv=["tensorboard", *arguments])
    url = board.launch().rstrip("/")
    end = time.monotonic() + 300
    answers, before = {}, None
    # The data server reads the files in the background: nothing yet is no answer, and what still grows none either.
    while time.monotonic() < end:
        answers = {route: ask(url, route) for route in routes}
        if not any(is_empty(answer) for answer in answers.values()):
            if fast == "false" or answers == before:
                break
            before = answers
        time.sleep(0.5)
    return answers


def ask(url, route):
    method, _, rest = route.partition(" ")
    try:
        if method != "POST":
            return fetch(url + route)
        path, _, body = rest.partition(" ")
        request = urllib.request.Request(url + path, data=body.encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        return fetch(request)
    except (urllib.error.HTTPError, urllib.error.URLError) as error:
        return {"error": str(error)}


def is_empty(answer):
    return not answer or (isinstance(answer, dict) and "error" in answer)


def main():
    command, logdir, *rest = sys.argv[1:]
    result = points(logdir) if command == "points" else http(logdir, rest[0], rest[1:])
    print("RESULT " + json.dumps(result), flush=True)
    os._exit(0)  # the server's threads run on


main()
