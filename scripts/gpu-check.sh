#!/usr/bin/env bash
# Runs everything that needs a GPU, in about ten minutes, and writes what came out to docs/gpu-results.md:
#
#   scripts/gpu-check.sh                  # on a machine with an NVIDIA GPU, a CUDA toolkit and Rust
#   scripts/gpu-check.sh --build DIR      # only builds, into DIR, for a machine without Rust; carry DIR there and
#   DIR/gpu-check.sh --run DIR            # run it there: the page is written to DIR/gpu-results.md
#                                         # (about 60 MB; a tar.gz of it is less than half as large)
#
# The machine that runs needs a driver of the toolkit's version or newer, and the toolkit's libraries (cuBLAS, cuRAND, NVRTC):
# in DIR/lib, in /usr/local/cuda/lib64, or in Python's packages, as PyTorch brings them. With PyTorch there (as the python3
# that is found, or as $PYTHON) its rates are measured beside ours; with compute-sanitizer, memory is checked. It is built for
# devices of compute capability 9.0 and newer; CUDA_COMPUTE_CAP=80 before `--build` does it for 8.0 and newer.
#
# The page is written anew after each part, so that it is there whatever ends the rest. What is not done after
# GPU_CHECK_TIME seconds (570) is not done, and the page says so. All that was printed is in DIR/logs.
# The exit status is 1 if anything failed, or if there is no GPU.
set -euo pipefail

# The programs of a check: tests that run on every device, by the name of their file, and examples.
tests=(cuda_driver cuda_memory cuda_upload)
examples=(mnist workload)
workloads=(cnn mlp lstm)
# Steps that are timed together: enough to take a few tenths of a second.
declare -A steps=([cnn]=500 [mlp]=2000 [lstm]=500)
# What the network of the MNIST example must reach after its epochs: 0.984 on the CPU.
mnist_arguments=(--device cuda:0 --epochs 5 --seed 7)
mnist_accuracy=0.980
# Seconds after which everything is given up.
time=${GPU_CHECK_TIME:-570}

usage() {
  echo "usage: gpu-check.sh [--build DIR | --run DIR]" >&2
  exit 2
}

# compiled KIND NAME: builds a test or an example, and prints where its program is
compiled() {
  local command=(build)
  [ "$1" = test ] && command=(test --no-run)
  cargo "${command[@]}" --profile "${GPU_CHECK_PROFILE:-release}" --features cuda "--$1" "$2" \
    --message-format json-render-diagnostics |
    python3 -c 'import json, sys
found = [json.loads(line) for line in sys.stdin]
programs = [m["executable"] for m in found if m.get("executable") and m["target"]["name"] == sys.argv[1]]
print(programs[-1])' "$2"
}

build() {
  local to=$1 repository name program
  repository=$(cd "$(dirname "$0")/.." && pwd)
  cd "$repository"
  source scripts/cuda-toolkit.sh
  for name in "${tests[@]}"; do
    program=$(compiled test "$name")
    cp "$program" "$to/test-$name"
  done
  for name in "${examples[@]}"; do
    program=$(compiled example "$name")
    cp "$program" "$to/$name"
  done
  strip "$to"/test-* "${examples[@]/#/$to/}"
  mkdir -p "$to/data" "$to/peers"
  cp examples/data/mnist/*.gz "$to/data/"
  cp benches/peers/measure.py benches/peers/pytorch.py "$to/peers/"
  { git rev-parse --short HEAD && git status --porcelain -- src tests examples benches Cargo.lock; } |
    awk 'NR == 1 { commit = $0 } END { print commit (NR > 1 ? " with changes" : "") }' > "$to/commit"
  # In a checkout elsewhere it may be the same file.
  cp scripts/gpu-check.sh "$to/gpu-check.sh"
  echo "${CUDA_COMPUTE_CAP:-90}" > "$to/compute_cap"
}

# The programs run on devices of the compute capability that they were built for, and newer ones.
capability() {
  local built found
  built=$(cat "$1/compute_cap" 2> /dev/null || true)
  found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | grep -o '[0-9]*\.[0-9]*' | head -n 1 | tr -d .) || true
  if [ -n "$built" ] && [ -n "$found" ] && [ "$found" -lt "$built" ]; then
    echo "gpu-check.sh: this was built for devices of compute capability $built and newer, and found one of $found;" \
      "build it with CUDA_COMPUTE_CAP=$found" >&2
    exit 1
  fi
}

# bounded PROGRAM...: runs a program for as long as there is time
bounded() {
  local left=$((time - SECONDS))
  timeout -k 5 "$((left > 1 ? left : 1))" "$@"
}

is_there_a_gpu() {
  [[ $(nvidia-smi -L 2> /dev/null || true) == *GPU* ]]
}

# libraries FOLDER: lets the programs there find the toolkit's libraries, or says which they do not find
libraries() {
  local folder missing
  # However Python was installed, it knows where the packages named nvidia are.
  for folder in "$1/lib" /usr/local/cuda/lib64 $("$python" -c 'import glob, importlib.util
for place in importlib.util.find_spec("nvidia").submodule_search_locations: print(*glob.glob(place + "/*/lib"), sep="\n")' \
    2> /dev/null); do
    [ -d "$folder" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
  done
  export LD_LIBRARY_PATH
  missing=$({ ldd "$1"/test-* "${examples[@]/#/$1/}" 2> /dev/null || true; } | awk '/not found/ { print $1 }' | sort -u)
  if [ -n "$missing" ]; then
    echo "gpu-check.sh: these libraries were not found; put them into $1/lib:" $missing >&2
    exit 1
  fi
}

# section TITLE COMMAND...: runs a command, and keeps its result for the table and what matters of its output for the page
section() {
  local title=$1 status=passed result=0 start=$SECONDS log
  shift
  if [ $((time - SECONDS)) -lt 5 ]; then
    echo "| $title | not run: the time was up | |" >> "$table"
    is_late=1
    return
  fi
  echo "== $title" >&2
  log=$logs/$(tr -c 'A-Za-z0-9\n' - <<< "$title").log
  "$@" > "$log" 2>&1 || result=$?
  if [ $result -ne 0 ]; then
    status="**failed** with status $result" failed=1
    [ $((time - SECONDS)) -gt 0 ] || status="**not finished**: the time was up" is_late=1
  fi
  echo "| $title | $status | $((SECONDS - start)) s |" >> "$table"
  {
    printf '\n## %s\n\n%s, %d s\n\n```\n' "$title" "$status" $((SECONDS - start))
    # Where tests failed, what they said is far above the end.
    [ $result -eq 0 ] || plain "$log" | grep -m 12 -A 6 'panicked at' || true
    plain "$log" | tail -n 40
    printf '```\n'
  } >> "$details"
  page "no, this is what there is so far"
}

# plain FILE: its text without what a progress bar wrote over, and whatever would end a block of the page
plain() {
  tr '\r' '\n' < "$1" | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g; s/```//g' | grep -v '^ *$'
}

# page FINISHED: writes what there is
page() {
  {
    echo "# Results on a GPU"
    echo
    echo "Written by \`scripts/gpu-check.sh\`."
    echo
    echo "- date: $(date -u +%Y-%m-%d)"
    echo "- commit: $(cat commit)"
    echo "- device, driver, memory: $device"
    echo "- processor: $(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1), $(nproc) cores"
    echo "- PyTorch: ${torch:-not found}"
    echo "- finished: $1"
    # dfdx looks for them where they were on the machine that built, and panics without them.
    [ -e /usr/local/cuda/include/cuda_fp16.h ] ||
      echo "- CUDA's headers are not in /usr/local/cuda/include: what dfdx compiles when it runs fails (concatenating, stacking," \
        "reshaping what is not contiguous)"
    echo
    echo "| what | result | time |"
    echo "|---|---|---|"
    cat "$table" "$details"
  } > "$results.new"
  mv "$results.new" "$results"
}

# mnist: trains the network, and fails where it does not learn
mnist() {
  local directory accuracy
  directory=$(mktemp -d)
  bounded ./mnist "${mnist_arguments[@]}" --data ./data --model-dir "$directory" | tee "$directory/output"
  accuracy=$(sed -n 's/^best:.*accuracy=\([0-9.]*\).*/\1/p' "$directory/output")
  rm -rf "$directory"
  echo "accuracy ${accuracy:-unknown}, expected at least $mnist_accuracy"
  awk -v found="${accuracy:-0}" -v expected="$mnist_accuracy" 'BEGIN { exit !(found + 0 >= expected + 0) }'
}

# rate NAME COMMAND...: runs a benchmark; a line of the table of rates from the JSON that it prints last
rate() {
  local name=$1 line status=0
  shift
  line=$(bounded "$@" 2> "$logs/errors" | tail -n 1) || status=$?
  if [ $status -ne 0 ]; then
    echo "$workload, $name: status $status:"
    tr '\r' '\n' < "$logs/errors" | tail -n 3
    echo
    return 1
  fi
  median() { sed -n "s/.*\"$1_steps_per_second\": {\"median\": \([0-9.]*\).*/\1/p" <<< "$line"; }
  printf '%-10s %-44s %12s %12s\n' "$workload" "$name" "$(median train)" "$(median eval)"
  [ -n "$(median train)" ]
}

# rates: steps per second of every workload, ours and PyTorch's
rates() {
  local workload status=0
  printf '%-10s %-44s %12s %12s\n' workload program 'train/s' 'eval/s'
  for workload in "${workloads[@]}"; do
    rate elistimator ./workload "$workload" --steps "${steps[$workload]}" --device cuda:0 --model-dir "$(mktemp -d)" || status=1
    if [ -n "$torch" ]; then
      local torch=("$python" peers/pytorch.py "$workload" eager --steps "${steps[$workload]}" --device cuda)
      rate "PyTorch, loss read in every step" "${torch[@]}" || status=1
      rate "PyTorch, loss read in every 50th step" "${torch[@]}" --read-every 50 || status=1
    else
      echo "$workload: PyTorch with CUDA was not found"
    fi
  done
  return $status
}

run() {
  local from=$1 test results=$1/gpu-results.md logs=$1/logs failed=0 is_late= python=${PYTHON:-python3} torch device table details
  cd "$from"
  if ! is_there_a_gpu; then
    echo "gpu-check.sh: there is no NVIDIA GPU here; nothing was run and no page written" >&2
    exit 1
  fi
  capability "$from"
  libraries "$from"
  device=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)
  # Once: importing it takes seconds.
  torch=$(bounded "$python" -c 'import torch; print(torch.__version__ if torch.cuda.is_available() else "")' 2> /dev/null) || torch=
  rm -rf "$logs"
  mkdir -p "$logs"
  table=$logs/table details=$logs/details
  touch "$table" "$details"
  # Where a toolkit has it, which need not be where programs are looked for.
  PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
  export ELISTIMATOR_GPU=1
  for test in "${tests[@]}"; do
    section "tests: $test" bounded "./test-$test" --test-threads=1 --nocapture
  done
  section "MNIST: accuracy" mnist
  section "rates: steps per second" rates
  if command -v compute-sanitizer > /dev/null; then
    # Running out of memory is what some tests are about.
    local sanitizer=(bounded compute-sanitizer --report-api-errors no --error-exitcode 9)
    for test in "${tests[@]}"; do
      section "memcheck: $test" "${sanitizer[@]}" "./test-$test" --test-threads=1
      [ "$test" != cuda_driver ] ||
        section "racecheck: $test" "${sanitizer[@]}" --tool racecheck "./test-$test" --test-threads=1
    done
  else
    echo "| memcheck, racecheck | not run: compute-sanitizer was not found | |" >> "$table"
  fi
  page "$([ -z "$is_late" ] && echo yes || echo no, the time was up)"
  cat "$results"
  return $failed
}

case ${1:-} in
--build | --run)
  [ $# -eq 2 ] || usage
  mkdir -p "$2"
  folder=$(cd "$2" && pwd)
  "${1#--}" "$folder"
  ;;
"")
  if ! is_there_a_gpu; then
    echo "gpu-check.sh: there is no NVIDIA GPU here; nothing was run and docs/gpu-results.md is as it was" >&2
    exit 1
  fi
  page=$(cd "$(dirname "$0")/.." && pwd)/docs/gpu-results.md
  folder=$(mktemp -d)
  "$0" --build "$folder"
  status=0
  "$folder/gpu-check.sh" --run "$folder" || status=$?
  [ -e "$folder/gpu-results.md" ] && cp "$folder/gpu-results.md" "$page"
  rm -rf "$folder"
  exit $status
  ;;
*) usage ;;
esac
