#!/usr/bin/env python3
"""Breaks each rule of the checkpoints once, in a copy of the repository, and sees that a test turns red.

    python3 scripts/mutations.py [--only NAME]     (takes some minutes; needs nothing beyond Rust, and strace for two of them)

A rule that nothing guards is printed, and the exit status is 1. The tests are those named at each rule. All turned red when
this was last run to its end, on 2026-11-21.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIB = ["--lib", "checkpoint"]

# name, file, what is there, what is put in its place, the tests that must fail
RULES = [
    ("the sync of files", "src/checkpoint/fs.rs", "file.into_inner()?.sync_all()", "file.into_inner().map(drop).map_err(Into::into)",
     ["--test", "faults", "everything_is_synced"]),
    ("the sync of directories on the disk", "src/checkpoint/fs.rs", "File::open(path)?.sync_all()", "File::open(path).map(drop)",
     ["--test", "faults", "everything_is_synced"]),
    ("the sync of the temporary directory", "src/checkpoint/store/save.rs",
     'self.storage.sync_dir(temporary).map_err(|error| Error::io("sync", temporary, error))?;', "", LIB),
    ("the sync after the rename", "src/checkpoint/store/save.rs", "self.storage.sync_dir(&self.dir).map_err(|error| {", "Ok(()).map_err(|error: io::Error| {", LIB),
    ("the temporary name", "src/checkpoint/store/save.rs", "let file = temporary.join(name);\n            let parts",
     "let _ = self.storage.create_dir(path);\n            let file = path.join(name);\n            let parts", LIB),
    ("the checksum", "src/checkpoint/store/load.rs", "if found != checksum {", "if found != checksum && false {", LIB),
    ("the limit on what is read", "src/checkpoint/fs.rs", "if length > limit {", "if length > limit && false {", LIB),
    ("no bytes left over", "src/checkpoint/state.rs", ".reject_trailing_bytes()", ".allow_trailing_bytes()", LIB),
    ("the best is kept", "src/checkpoint/retention.rs", "keep.extend(monitor.ranked(checkpoints)", "keep.extend(monitor.ranked(&[])", LIB),
    ("one with finite weights is kept", "src/checkpoint/retention.rs", "keep.extend(by_age.iter().rev().find(|c| c.is_finite)", "keep.extend(by_age.iter().rev().find(|_| false)", LIB),
    ("pinned ones are kept", "src/checkpoint/retention.rs", "checkpoints.iter().filter(|c| c.is_pinned)", "checkpoints.iter().filter(|c| c.is_pinned && false)", LIB),
    ("NaN is never the best", "src/checkpoint/retention.rs", ".is_finite()", ".is_nan().eq(&false)", LIB),
    ("the lock", "src/checkpoint/fs.rs", "Err(fs::TryLockError::WouldBlock) => Ok(None),", "Err(fs::TryLockError::WouldBlock) => Ok(Some(Self { file })),",
     ["--test", "resume", "second_writer"]),
    ("the swap: all is checked before anything changes", "src/checkpointing.rs",
     "variables::check(&self.net, model.iter(), &state.counters).map_err(place)?;\n        let mut optimizer",
     "variables::write(&mut self.net, model.iter(), &state.counters).map_err(ModelError::into_error)?;\n        let mut optimizer",
     ["--test", "resume", "a_failed_restore"]),
    ("a step that is replaced while it is read", "src/checkpoint/store/load.rs",
     "if after == before && (!is_missing", "if true || after == before && (!is_missing", LIB),
    ("a new list for what went away", "src/checkpoint/store/load.rs", "if attempt.is_sure() {", "if attempt.is_sure() || true {", LIB),
    ("the order of rotation: the index goes first", "src/checkpoint/store/save.rs", "        self.drop_index()?;\n        if self.storage.kind(path).is_ok() {",
     "        if self.storage.kind(path).is_ok() {", LIB),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="the rules whose name contains this")
    options = parser.parse_args()
    copy = tempfile.mkdtemp(prefix="mutations-")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, files):
        os.makedirs(os.path.dirname(os.path.join(copy, name)), exist_ok=True)
        shutil.copy2(os.path.join(ROOT, name), os.path.join(copy, name))
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target", "mutations"))
    environment = dict(os.environ, CARGO_TARGET_DIR=target)
    unguarded = []
    for name, path, old, new, test in RULES:
        if options.only and options.only not in name:
            continue
        full = os.path.join(copy, path)
        with open(full) as file:
            source = file.read()
        if old not in source:
            print(f"STALE      {name}: {path} no longer has what is to be broken")
            unguarded.append(name)
            continue
        with open(full, "w") as file:
            file.write(source.replace(old, new))
        done = subprocess.run(["cargo", "test", "-q", *test], cwd=copy, env=environment, capture_output=True, text=True)
        with open(full, "w") as file:
            file.write(source)
        red = sorted({line.split()[1] for line in done.stdout.split("\n") if line.startswith("---- ")})
        if done.returncode == 0:
            print(f"UNGUARDED  {name}: everything is green without it")
            unguarded.append(name)
        elif not red:
            print(f"BROKEN     {name}: it did not build\n{done.stderr[-1500:]}")
            unguarded.append(name)
        else:
            print(f"red        {name}: {', '.join(red)}")
        sys.stdout.flush()
    shutil.rmtree(copy)
    sys.exit(1 if unguarded else 0)


main()
