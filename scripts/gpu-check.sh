#!/usr/bin/env bash
# Runs everything that needs a GPU, and writes what came out to docs/gpu-results.md:
#
#   scripts/gpu-check.sh                  # on a machine with an NVIDIA GPU, a CUDA toolkit and Rust
#   scripts/gpu-check.sh --build DIR      # only builds, into DIR, for a machine without Rust; carry DIR there and
#   DIR/gpu-check.sh --run DIR            # run it there: the page is written to DIR/gpu-results.md
set -euo pipefail

# The programs of a check: tests that run on every device, by the name of their file.
tests=(cuda_driver)
# An example with its arguments.
mnist_arguments=(--device cuda:0 --epochs 5 --seed 7)

build() {
  local to=$1 repository
  repository=$(cd "$(dirname "$0")/.." && pwd)
  cd "$repository"
  source scripts/cuda-toolkit.sh
  mkdir -p "$to"
  local test
  for test in "${tests[@]}"; do
    cargo test --release --features cuda --test "$test" --no-run --message-format json |
      python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]: print(message["executable"])' "$test" |
      tail -n 1 | xargs -I{} cp {} "$to/test-$test"
  done
  if [ -e examples/mnist.rs ]; then
    cargo build --release --features cuda --example mnist
    cp target/release/examples/mnist "$to/mnist"
    mkdir -p "$to/data" && cp examples/data/mnist/*.gz "$to/data/"
  fi
  strip "$to"/test-* "$to"/mnist 2> /dev/null || true
  git rev-parse --short HEAD > "$to/commit"
  cp scripts/gpu-check.sh "$to/"
}

# section TITLE COMMAND...: runs a command and puts its last lines on the page
section() {
  local title=$1 status=passed start=$SECONDS log
  shift
  log=$(mktemp)
  echo "== $title" >&2
  "$@" > "$log" 2>&1 || status="FAILED with status $?"
  {
    printf '\n## %s: %s, %d s\n\n```\n' "$title" "$status" $((SECONDS - start))
    tail -n 40 "$log"
    printf '```\n'
  } >> "$page"
  case $status in FAILED*) failed=1 ;; esac
  rm -f "$log"
}

run() {
  local from=$1 test
  page=$from/gpu-results.md failed=0
  cd "$from"
  if ! command -v nvidia-smi > /dev/null || ! nvidia-smi -L | grep -q GPU; then
    echo "gpu-check.sh: there is no NVIDIA GPU here; nothing was run and no page written" >&2
    exit 1
  fi
  {
    echo "# Results on a GPU"
    echo
    echo "- date: $(date -u +%Y-%m-%d)"
    echo "- commit: $(cat commit)"
    echo "- device and driver: $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)"
  } > "$page"
  for test in "${tests[@]}"; do
    section "tests: $test" env ELISTIMATOR_GPU=1 "./test-$test" --test-threads=1 --nocapture
    if command -v compute-sanitizer > /dev/null; then
      section "memcheck: $test" env ELISTIMATOR_GPU=1 compute-sanitizer --error-exitcode 9 "./test-$test" --test-threads=1
      section "racecheck: $test" \
        env ELISTIMATOR_GPU=1 compute-sanitizer --tool racecheck --error-exitcode 9 "./test-$test" --test-threads=1
    fi
  done
  if [ -x ./mnist ]; then
    section "MNIST" ./mnist "${mnist_arguments[@]}" --data ./data --model-dir "$(mktemp -d)"
  fi
  cat "$page"
  return $failed
}

case ${1:-} in
--build) build "$(mkdir -p "$2" && cd "$2" && pwd)" ;;
--run) run "$(cd "$2" && pwd)" ;;
"")
  if ! nvidia-smi -L 2> /dev/null | grep -q GPU; then
    echo "gpu-check.sh: there is no NVIDIA GPU here; nothing was run and docs/gpu-results.md is as it was" >&2
    exit 1
  fi
  folder=$(mktemp -d)
  (build "$folder")
  status=0
  (run "$folder") || status=$?
  cp "$folder/gpu-results.md" "$(dirname "$0")/../docs/gpu-results.md"
  exit $status
  ;;
*)
  echo "usage: gpu-check.sh [--build DIR | --run DIR]" >&2
  exit 2
  ;;
esac
