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
# that is found, or as $PYTHON) its rates are measured beside ours: eager, with CUDA graphs, and through torch.compile, which
# needs a C compiler. With compute-sanitizer, memory is checked. It is built for devices of compute capability 9.0 and newer;
# CUDA_COMPUTE_CAP=80 before `--build` does it for 8.0 and newer.
#
# What matters most runs first, and the page is written anew after each part, so that it is there whatever ends the rest. What
# is not done after GPU_CHECK_TIME seconds (570) is not done, and the page says so. So it does where a rate is not there after
# GPU_CHECK_RATE_TIME seconds (60; with torch.compile, twice as many). All that was printed is in DIR/logs.
# Tests that failed run once more, each alone. The exit status is 1 if anything failed, or if there is no GPU; a way to run
# PyTorch that does not work here is no failure.
set -euo pipefail

# The programs of a check: tests that run on every device, by the name of their file, and examples.
tests=(cuda_driver cuda_memory cuda_upload)
examples=(mnist workload)
# Pairs of a workload and a batch size whose rates are measured, and steps that are timed together: enough to take a few tenths
# of a second.
pairs=("cnn 56" "cnn 1024" "mlp 128" "lstm 20")
declare -A steps=(["cnn 56"]=500 ["cnn 1024"]=200 ["mlp 128"]=2000 ["lstm 20"]=500)
# What the network of the MNIST example must reach after its epochs: 0.984 on the CPU.
mnist_arguments=(--device cuda:0 --epochs 5 --seed 7)
mnist_accuracy=0.980
# Seconds after which everything is given up, and after which one rate is.
time=${GPU_CHECK_TIME:-570}
rate_time=${GPU_CHECK_RATE_TIME:-60}
# Seconds in which tests that failed are begun once more.
alone_time=60

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
  within "$time" "$@"
}

# within SECONDS PROGRAM...: the same for so many seconds at most
within() {
  local left=$((time - SECONDS))
  left=$((left < $1 ? left : $1))
  timeout -k 5 "$((left > 1 ? left : 1))" "${@:2}"
}

is_there_a_gpu() {
  [[ $(nvidia-smi -L 2> /dev/null || true) == *GPU* ]]
}

# Where libraries were looked for before: PyTorch brings its own, and is to use these.
libraries_of_python=${LD_LIBRARY_PATH:-}

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
  missing=$(not_found "$1")
  # The driver's, where it was put beside the system's libraries.
  for folder in /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/wsl/lib; do
    [[ $missing == *libcuda.so.1* ]] && [ -e "$folder/libcuda.so.1" ] || continue
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
    missing=$(not_found "$1")
  done
  if [ -n "$missing" ]; then
    echo "gpu-check.sh: these libraries were not found; put them into $1/lib:" $missing >&2
    exit 1
  fi
}

# not_found FOLDER: the libraries that the programs there do not find
not_found() {
  { ldd "$1"/test-* "${examples[@]/#/$1/}" 2> /dev/null || true; } | awk '/not found/ { print $1 }' | sort -u
}

# log_of TITLE: where what a section prints is kept
log_of() {
  echo "$logs/$(tr -c 'A-Za-z0-9\n' - <<< "$1").log"
}

# section TITLE COMMAND...: runs a command, and keeps its result for the table, for what comes next, and what matters of its
# output for the page
section() {
  local title=$1 status=passed result=0 start=$SECONDS cut_short= log
  shift
  if [ $((time - SECONDS)) -lt 5 ]; then
    echo "| $title | not run: the time was up | |" >> "$table"
    is_late=1 last=0
    return
  fi
  echo "== $title" >&2
  log=$(log_of "$title")
  "$@" > "$log" 2>&1 || result=$?
  if [ $result -ne 0 ]; then
    status="**failed** with status $result" failed=1
    [ $((time - SECONDS)) -gt 0 ] || cut_short=1
  fi
  if [ -n "$cut_short" ]; then
    status="**not finished**: the time was up" failed=1 is_late=1
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
  last=$result
}

# plain FILE: its text without what a progress bar wrote over, and whatever would end a block of the page
plain() {
  tr '\r' '\n' < "$1" | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g; s/```//g' | { grep -v '^ *$' || true; }
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
    cat "$table"
    [ ! -s "$measured" ] || compared
    cat "$details"
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

# compared: the table of rates, and ours over each, from what was measured; by workload, whatever the order it was measured in
compared() {
  printf '\n## Rates\n\n'
  echo "Steps per second (medians), and ours over them. Ours are with progress bar and logs, and compute in f32, as PyTorch does"
  echo "with TF32 off; by its defaults convolutions and LSTMs are in TF32. PyTorch's program reads the loss, and in evaluation the"
  echo "sums of loss and accuracy, in every 50th step unless the row says otherwise; ours reads the loss up to ten times a second,"
  echo "and in evaluation the logits of every step, whose accuracy the host computes."
  echo "CUDA graphs: a whole step, captured once and replayed."
  printf '\n| workload, batch | program | train/s | ours over it | eval/s | ours over it |\n|---|---|---|---|---|---|\n'
  local pair
  for pair in "${pairs[@]}"; do
    awk -F '\t' -v "pair=$pair" '
      function over(ours, theirs) { return ours > 0 && theirs > 0 ? sprintf("%.2f", ours / theirs) : "" }
      $1 != pair { next }
      $2 == "elistimator" { train = $3; evaluation = $4 }
      $5 != "" { print "| " $1 " | " $2 " | " $5 " | | | |"; next }
      $2 == "elistimator" { print "| " $1 " | " $2 " | " $3 " | | " $4 " | |"; next }
      { print "| " $1 " | " $2 " | " $3 " | " over(train, $3) " | " $4 " | " over(evaluation, $4) " |" }' "$measured"
  done
  [ -s "$occupied" ] || return 0
  printf '\n## How busy the device is\n\n'
  echo "The share of the time in which a kernel ran on the device while our program trained, with progress bar and logs, as the"
  echo "driver counts it for nvidia-smi: the median of the readings. What is missing from 100 % is idle time, within steps as well"
  echo "as between them."
  printf '\n| workload, batch | busy | readings |\n|---|---|---|\n'
  cat "$occupied"
}

# busy PAIR...: how busy the device is while our program trains
busy() {
  local pair workload batch directory watcher share status=0
  directory=$(mktemp -d)
  for pair in "$@"; do
    read -r workload batch <<< "$pair"
    nvidia-smi -i 0 --query-gpu=utilization.gpu --format=csv,noheader,nounits -lms 100 > "$directory/readings" 2> /dev/null &
    watcher=$!
    within "$rate_time" ./workload "$workload" --batch "$batch" --steps "${steps[$pair]}" --rounds 20 --no-evaluation \
      --device cuda:0 --model-dir "$directory/$workload-$batch" || status=1
    kill "$watcher" 2> /dev/null || true
    wait "$watcher" 2> /dev/null || true
    # Before the first steps it is idle.
    share=$(awk '$1 > 0 { begun = 1 } begun && $1 ~ /^[0-9]+$/ { print $1 }' "$directory/readings" | sort -n |
      awk '{ all[NR] = $1 } END { if (NR) printf "%d %% | %d", all[int((NR + 1) / 2)], NR; else print "unknown | 0" }')
    echo "busy, readings: | $pair | $share |"
    echo "| $pair | $share |" >> "$occupied"
  done
  rm -rf "$directory"
  return $status
}

# alone TEST: runs each test that failed once more, in a process of its own, where what another did to the device is over,
# and the host waits for every launch, so that the error is told where it was made
alone() {
  local names name status=0 output=$logs/alone
  local until=$((SECONDS + alone_time))
  names=$(plain "$(log_of "tests: $1")" |
    awk '/^failures:$/ { listed = 1 } /^test result:/ { listed = 0 } listed && /^    [A-Za-z0-9_:]+$/ { print $1 }' | sort -u)
  # It did not come to its list: the program ended with a signal.
  [ -n "$names" ] || names=$("./test-$1" --list --format terse | sed -n 's/: test$//p')
  for name in $names; do
    if [ $SECONDS -ge $until ]; then
      echo "not run: $name"
    elif CUDA_LAUNCH_BLOCKING=1 within "$rate_time" "./test-$1" "$name" --exact --nocapture > "$output" 2>&1; then
      echo "passed alone: $name"
    else
      status=1
      echo "failed alone: $name"
      plain "$output" | grep -A 4 'panicked at' | head -n 10 || plain "$output" | tail -n 4
    fi
  done
  return $status
}

# rate PAIR NAME SECONDS COMMAND...: runs a benchmark, and keeps the rates from the JSON that it prints last, or why there are none
rate() {
  local pair=$1 name=$2 seconds=$3 line= note= status=0 train= evaluation=
  shift 3
  median() { sed -n "s/.*\"$1_steps_per_second\": {\"median\": \([0-9.]*\).*/\1/p" <<< "$line"; }
  if [ $((time - SECONDS)) -lt 5 ]; then
    note="not run: the time was up" cut_short=1
  else
    # Into a file: nothing waits for a process that a program which was given up left behind.
    within "$seconds" "$@" > "$logs/output" 2> "$logs/errors" || status=$?
    line=$(tail -n 1 "$logs/output")
    train=$(median train) evaluation=$(median eval)
    if [ $status -ne 0 ] && [ $((time - SECONDS)) -le 0 ]; then
      note="not finished: the time was up" cut_short=1
    elif [ $status -eq 124 ] || [ $status -eq 137 ]; then
      note="not finished in $seconds s"
    elif [ $status -ne 0 ]; then
      note=$({ plain "$logs/errors" || true; } | { grep -v '^note: run with' || true; } | tail -n 1 | tr '|\t' '/ ' | cut -c 1-240)
      note="status $status: ${note:-no message}"
      { plain "$logs/errors" || true; } | tail -n 12
    elif [ -z "$train" ]; then
      note="no rate in what it printed"
    fi
  fi
  printf '%-10s %-48s %12s %12s %s\n' "$pair" "$name" "$train" "$evaluation" "$note"
  printf '%s\t%s\t%s\t%s\t%s\n' "$pair" "$name" "$train" "$evaluation" "$note" >> "$measured"
  [ -z "$note" ]
}

# pytorch PAIR NAME SECONDS OPTION...: the rate of PyTorch's program
pytorch() {
  local pair=$1 name=$2 seconds=$3 workload batch
  read -r workload batch <<< "$pair"
  rate "$pair" "PyTorch $name" "$seconds" env "LD_LIBRARY_PATH=$libraries_of_python" "$python" peers/pytorch.py \
    "$workload" --batch "$batch" --steps "${steps[$pair]}" --device cuda "${@:4}"
}

# beside PAIR...: our rates, and PyTorch's as most have it
beside() {
  local pair workload batch directory status=0
  directory=$(mktemp -d)
  for pair in "$@"; do
    read -r workload batch <<< "$pair"
    rate "$pair" elistimator "$rate_time" ./workload "$workload" --batch "$batch" --steps "${steps[$pair]}" --device cuda:0 \
      --model-dir "$directory/$workload-$batch" || status=1
    if [ -n "$torch" ]; then
      pytorch "$pair" "eager, TF32 off" "$rate_time" --mode eager --tf32 off --read-every 50 || status=1
    else
      echo "$pair: PyTorch with CUDA was not found"
    fi
  done
  rm -rf "$directory"
  return $status
}

# otherwise NAME SECONDS OPTION...: rates of PyTorch run in another way; the page says why where that does not work here
otherwise() {
  local pair
  for pair in "${pairs[@]}"; do
    pytorch "$pair" "$@" || true
  done
}

run() {
  local from=$1 test results=$1/gpu-results.md logs=$1/logs failed=0 is_late= python=${PYTHON:-python3} torch device
  local table details measured occupied last
  cd "$from"
  if ! is_there_a_gpu; then
    echo "gpu-check.sh: there is no NVIDIA GPU here; nothing was run and no page written" >&2
    exit 1
  fi
  capability "$from"
  libraries "$from"
  device=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)
  # Once: importing it takes seconds.
  torch=$(bounded env "LD_LIBRARY_PATH=$libraries_of_python" "$python" -c \
    'import torch; print(torch.__version__ if torch.cuda.is_available() else "")' 2> /dev/null) || torch=
  rm -rf "$logs"
  mkdir -p "$logs"
  table=$logs/table details=$logs/details measured=$logs/measured occupied=$logs/busy
  touch "$table" "$details" "$measured" "$occupied"
  # Where a toolkit has it, which need not be where programs are looked for.
  PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
  export ELISTIMATOR_GPU=1
  for test in "${tests[@]}"; do
    section "tests: $test" bounded "./test-$test" --test-threads=1 --nocapture
    [ $last -eq 0 ] || section "failed tests alone: $test" alone "$test"
  done
  section "MNIST: accuracy" mnist
  section "rates: ${pairs[0]}" beside "${pairs[0]}"
  section "rates: the other workloads" beside "${pairs[@]:1}"
  section "how busy the device is" busy "${pairs[@]}"
  if [ -n "$torch" ]; then
    section "rates: PyTorch, CUDA graphs" \
      otherwise "CUDA graphs, TF32 off" "$rate_time" --mode graphs --tf32 off --read-every 50
    section "rates: PyTorch, its defaults" otherwise "eager, its defaults" "$rate_time" --mode eager --read-every 50
    section "rates: PyTorch, torch.compile" \
      otherwise "torch.compile, TF32 off" $((2 * rate_time)) --mode compile --tf32 off --read-every 50
    section "rates: PyTorch, loss read in every step" \
      otherwise "eager, TF32 off, loss read in every step" "$rate_time" --mode eager --tf32 off
  fi
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
