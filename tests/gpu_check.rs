//! The script that checks everything on a GPU, run with programs that only pretend: what it puts on the page, and that what
//! fails shows. What it builds is the same tests that run here on a double of the driver.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A folder as `--build` makes it, and one of tools, with programs that say what these would.
struct Pretended {
    folder: tempfile::TempDir,
}

/// Held while a program is written, and while one is started: what another thread starts at that moment would have the file
/// open too, and a program that somebody has open to write cannot be run.
static STARTING: Mutex<()> = Mutex::new(());

fn starting() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn script(path: &Path, text: &str) {
    let _starting = starting();
    std::fs::write(path, format!("#!/bin/bash\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Pretended {
    fn new() -> Self {
        // Not where temporary files are, of which many a machine runs none.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).or_else(|_| tempfile::tempdir()).unwrap();
        let (built, tools) = (folder.path().join("built"), folder.path().join("tools"));
        std::fs::create_dir_all(built.join("data")).unwrap();
        std::fs::create_dir_all(&tools).unwrap();
        std::fs::write(built.join("commit"), "abc1234\n").unwrap();
        let this = Self { folder };
        // As nvidia-smi does, it prints readings until it is killed; the device begins idle.
        let gpu = r#"case "$*" in -L) echo "GPU 0: Pretended" ;; *cap*) echo 8.6 ;;
*utilization*) printf '0\n0\n97\n90\n96\n98\n'; touch "$0.has-read"; exec sleep 100 ;; *) echo "Pretended, 580.1, 64 GiB" ;; esac"#;
        this.tool("nvidia-smi", gpu);
        this.tool("python", "exit 1");
        // Runs what follows its options.
        this.tool("compute-sanitizer", r#"while [[ $1 == --* ]]; do shift 2; done; "$@"; echo "$0 is done""#);
        for test in ["cuda_driver", "cuda_memory", "cuda_upload"] {
            this.program(&format!("test-{test}"), r#"[ "$ELISTIMATOR_GPU" = 1 ] && echo "test result: ok""#);
        }
        this.program("mnist", r#"printf 'bar\rbar'; echo; echo "best: step=5360 accuracy=0.9837 loss=0.05""#);
        let rates = r#"{"name": "x", "train_steps_per_second": {"median": 123.45, "min": 1}, "eval_steps_per_second": {"median": 678.9}}"#;
        // As long as the readings take.
        let waits = "until rm ../tools/nvidia-smi.has-read; do sleep 0.05; done 2> /dev/null";
        this.program("workload", &format!(r#"[[ "$*" != *--no-evaluation* ]] || {waits}; echo '{rates}'"#));
        this
    }

    fn tool(&self, name: &str, text: &str) {
        script(&self.folder.path().join("tools").join(name), text);
    }

    fn program(&self, name: &str, text: &str) {
        script(&self.folder.path().join("built").join(name), text);
    }

    /// The script's result and the page.
    fn run(&self) -> (Output, String) {
        self.run_with("3600", "3600")
    }

    /// The same with too few seconds for it: with more of them on a machine so busy that the page has not even this line.
    fn run_until(&self, line: &str, seconds: [u32; 3]) -> (Output, String) {
        let run = |seconds: u32| {
            let begun = Instant::now();
            let outcome = self.run_with(&seconds.to_string(), "3600");
            assert!(begun.elapsed().as_secs() < u64::from(seconds) + 120, "it has {seconds} s");
            outcome
        };
        let [first, second, last] = seconds;
        let found = [first, second].into_iter().map(run).find(|(_, page)| page.contains(line));
        found.unwrap_or_else(|| run(last))
    }

    /// And with so many for each rate.
    fn run_with(&self, seconds: &str, rate: &str) -> (Output, String) {
        let tools = self.folder.path().join("tools");
        let built = self.folder.path().join("built");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check.sh"))
            .arg("--run")
            .arg(&built)
            .env("PATH", path)
            .env("GPU_CHECK_TIME", seconds)
            .env("GPU_CHECK_RATE_TIME", rate)
            .env("PYTHON", tools.join("python"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = {
            let _starting = starting();
            command.spawn().unwrap()
        };
        let output = child.wait_with_output().unwrap();
        let page = std::fs::read_to_string(built.join("gpu-results.md")).unwrap_or_default();
        println!("{}{page}", String::from_utf8_lossy(&output.stderr));
        // Columns are as wide as they are.
        let page = page.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect();
        (output, page)
    }
}

#[test]
fn the_page_says_what_ran_where_and_how_fast() {
    let (output, page) = Pretended::new().run();
    assert!(output.status.success());
    for line in [
        "- commit: abc1234",
        "- device, driver, memory: Pretended, 580.1, 64 GiB",
        "- PyTorch: not found",
        "- finished: yes",
        "| tests: cuda_driver | passed |",
        "| tests: cuda_memory | passed |",
        "| tests: cuda_upload | passed |",
        "| MNIST: accuracy | passed |",
        "| rates: cnn 56 | passed |",
        "| rates: the other workloads | passed |",
        "| memcheck: cuda_memory | passed |",
        "| racecheck: cuda_driver | passed |",
        "accuracy 0.9837, expected at least 0.980",
        "cnn 1024 elistimator 123.45 678.9",
        "lstm 20: PyTorch with CUDA was not found",
        "| cnn 56 | elistimator | 123.45 | | 678.9 | |",
        "| how busy the device is | passed |",
        "| lstm 20 | 96 % | 4 |",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
}

#[test]
fn what_fails_shows_and_the_rest_still_runs() {
    let pretended = Pretended::new();
    // As many lines after the first failure as other tests print.
    let failing = "echo 'thread x panicked at tests/x.rs:1:'; echo 'list 0, element 3: 1 on the CPU, 2 on CUDA'; \
                   for i in {1..200}; do echo \"test $i ... ok\"; done; exit 101";
    pretended.program("test-cuda_driver", failing);
    pretended.program("mnist", "echo 'best: step=5360 accuracy=0.9512 loss=0.2'");
    pretended.program("workload", r#"[ "$1" = lstm ] && { echo "no such kernel" >&2; exit 1; }; echo '{"train_steps_per_second": {"median": 5.0}}'"#);
    let (output, page) = pretended.run();
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "| tests: cuda_driver | **failed** with status 101 |",
        "element 3: 1 on the CPU, 2 on CUDA",
        "| tests: cuda_memory | passed |",
        "| MNIST: accuracy | **failed** with status 1 |",
        "| rates: cnn 56 | passed |",
        "| rates: the other workloads | **failed** with status 1 |",
        "| lstm 20 | elistimator | status 1: no such kernel | | | |",
        "| mlp 128 | elistimator | 5.0 | | | |",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
}

/// An error on a device stays with the process: the tests after it fail as well.
#[test]
fn tests_that_failed_run_once_more_alone() {
    let pretended = Pretended::new();
    let failing = r#"case "$*" in
        "a --exact"*) [ "$CUDA_LAUNCH_BLOCKING" = 1 ] && { echo "thread a panicked at x.rs:1:"; echo "an illegal address"; exit 101; } ;;
        "b --exact"*) exit 0 ;;
        *--exact*) echo "another"; exit 101 ;;
        *) printf 'failures:\n\nfailures:\n    a\n    b\n\ntest result: FAILED. 1 passed\n    c\n'; exit 101 ;; esac"#;
    pretended.program("test-cuda_driver", failing);
    // Ends without a list.
    let killed = r#"case "$*" in *--list*) printf 'd: test\ne: test\n' ;; "d --exact"*) ;; *) kill -9 $$ ;; esac"#;
    pretended.program("test-cuda_upload", killed);
    // Says nothing at all.
    pretended.program("test-cuda_memory", ":");
    let (output, page) = pretended.run();
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "| failed tests alone: cuda_driver | **failed** with status 1 |",
        "failed alone: a\nthread a panicked at x.rs:1:\nan illegal address\npassed alone: b\n```",
        "| tests: cuda_memory | passed |",
        "passed alone: d\nfailed alone: e\n",
        "- finished: yes",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
    assert!(!page.contains("failed tests alone: cuda_memory"));
}

#[test]
fn mnist_without_a_result_fails() {
    let pretended = Pretended::new();
    pretended.program("mnist", "echo 'cannot open cuda:0' >&2; exit 1");
    let (output, page) = pretended.run();
    assert_eq!(output.status.code(), Some(1));
    assert!(page.contains("accuracy unknown, expected at least 0.980") && page.contains("cannot open cuda:0"));
}

#[test]
fn without_a_gpu_nothing_runs_and_no_page_is_written() {
    let pretended = Pretended::new();
    pretended.tool("nvidia-smi", "echo 'no devices were found'; exit 6");
    let (output, page) = pretended.run();
    assert_eq!((output.status.code(), page.as_str()), (Some(1), ""));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no NVIDIA GPU here"));
}

/// A Python whose PyTorch is found, and whose program does in each mode what is given, in the words of a shell's `case`.
fn pytorch(modes: &str) -> String {
    format!(
        "rates() {{ echo '{{\"train_steps_per_second\": {{\"median\": '$1'}}, \"eval_steps_per_second\": {{\"median\": 8}}}}'; }}\n\
         case \"$*\" in {modes} *pytorch.py*) rates 10 ;; *print*__version__*) echo 2.9 ;; esac"
    )
}

#[test]
fn pytorch_is_measured_where_it_is_found_and_ours_is_compared_with_it() {
    let pretended = Pretended::new();
    let workload = r#"[ "$2 $3" = "--batch 1024" ] && rate=5 || rate=30
        echo "{\"train_steps_per_second\": {\"median\": $rate}, \"eval_steps_per_second\": {\"median\": 12}}""#;
    pretended.program("workload", workload);
    let asked = "*pytorch.py*'--mode graphs --tf32 off --read-every 50') rates 40 ;; \
                 *'pytorch.py cnn --batch 56 --steps 500 --device cuda --mode eager --read-every 50') rates 15 ;; \
                 *'--mode compile --tf32 off --read-every 50') rates 25 ;; \
                 *'--mode eager --tf32 off') rates 20 ;;";
    pretended.tool("python", &pytorch(asked));
    let (output, page) = pretended.run();
    assert!(output.status.success());
    for lines in [
        "- PyTorch: 2.9\n",
        "| cnn 56 | elistimator | 30 | | 12 | |\n\
         | cnn 56 | PyTorch eager, TF32 off | 10 | 3.00 | 8 | 1.50 |\n\
         | cnn 56 | PyTorch CUDA graphs, TF32 off | 40 | 0.75 | 8 | 1.50 |\n\
         | cnn 56 | PyTorch eager, its defaults | 15 | 2.00 | 8 | 1.50 |\n\
         | cnn 56 | PyTorch torch.compile, TF32 off | 25 | 1.20 | 8 | 1.50 |\n\
         | cnn 56 | PyTorch eager, TF32 off, loss read in every step | 20 | 1.50 | 8 | 1.50 |\n\
         | cnn 1024 | elistimator | 5 | | 12 | |\n\
         | cnn 1024 | PyTorch eager, TF32 off | 10 | 0.50 | 8 | 1.50 |\n",
        "| lstm 20 | PyTorch CUDA graphs, TF32 off | 40 | 0.75 | 8 | 1.50 |\n",
        "What is missing from 100 % is idle time",
    ] {
        assert!(page.contains(lines), "{lines:?} is missing");
    }
    let at = |title: &str| page.find(&format!("| {title} |")).unwrap();
    let order = ["MNIST: accuracy", "rates: cnn 56", "rates: the other workloads", "rates: PyTorch, CUDA graphs"];
    let order = [&order[..], &["rates: PyTorch, torch.compile", "memcheck: cuda_driver"]].concat();
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
}

#[test]
fn a_way_to_run_pytorch_that_does_not_work_here_is_said_in_its_row_and_the_rest_goes_on() {
    let pretended = Pretended::new();
    // What is fast here has five seconds, on however busy a machine.
    let modes = "*'--mode graphs'*) echo Traceback >&2; echo 'pytorch.py: a | b: RuntimeError: not permitted' >&2; exit 1 ;; \
                 *'cnn --batch 56'*'--mode compile'*) sleep 100 ;; *'--mode compile'*) echo 'no JSON' ;;";
    pretended.tool("python", &pytorch(modes));
    let (output, page) = pretended.run_with("3600", "5");
    assert!(output.status.success());
    for line in [
        "- finished: yes",
        "| cnn 56 | PyTorch CUDA graphs, TF32 off | status 1: pytorch.py: a / b: RuntimeError: not permitted | | | |",
        "| cnn 56 | PyTorch torch.compile, TF32 off | not finished in 10 s | | | |",
        "| mlp 128 | PyTorch torch.compile, TF32 off | no rate in what it printed | | | |",
        "| lstm 20 | PyTorch eager, TF32 off, loss read in every step | 10 |",
        "| rates: PyTorch, CUDA graphs | passed |",
        "| racecheck: cuda_driver | passed |",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
}

#[test]
fn a_rate_of_ours_that_is_not_there_in_time_fails() {
    let pretended = Pretended::new();
    pretended.program("workload", r#"[ "$1" = mlp ] && sleep 100; echo '{"train_steps_per_second": {"median": 5.0}}'"#);
    let (output, page) = pretended.run_with("3600", "5");
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "| rates: the other workloads | **failed** with status 1 |",
        "| mlp 128 | elistimator | not finished in 5 s | | | |",
        "| lstm 20 | elistimator | 5.0 |",
        "- finished: yes",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
}

#[test]
fn rates_that_there_is_no_time_for_are_not_begun() {
    let pretended = Pretended::new();
    pretended.tool("python", &pytorch("*'--mode graphs'*) sleep 1000 ;;"));
    let (output, page) = pretended.run_until("| rates: PyTorch, CUDA graphs | **not finished**", [15, 60, 240]);
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "- finished: no, the time was up",
        "| rates: PyTorch, CUDA graphs | **not finished**: the time was up |",
        "| cnn 56 | PyTorch CUDA graphs, TF32 off | not finished: the time was up | | | |",
        "| cnn 1024 | PyTorch CUDA graphs, TF32 off | not run: the time was up | | | |",
        "| rates: PyTorch, torch.compile | not run: the time was up |",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
}

/// Whoever has a device for ten minutes has a page after them.
#[test]
fn what_there_is_no_time_for_is_not_begun_and_the_page_says_so() {
    let pretended = Pretended::new();
    pretended.program("mnist", "sleep 1000");
    let (output, page) = pretended.run_until("| MNIST: accuracy | **not finished**", [8, 30, 120]);
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "- finished: no, the time was up",
        "| tests: cuda_upload | passed |",
        "| MNIST: accuracy | **not finished**: the time was up |",
        "| rates: cnn 56 | not run: the time was up |",
        "| racecheck: cuda_driver | not run: the time was up |",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
}

#[test]
fn the_page_is_there_after_each_part() {
    let pretended = Pretended::new();
    let best = "echo 'best: step=5360 accuracy=0.9837 loss=0.05'";
    pretended.program("mnist", &format!("cp gpu-results.md seen.md; {best}"));
    assert!(pretended.run().0.status.success());
    let page = std::fs::read_to_string(pretended.folder.path().join("built/seen.md")).unwrap();
    for line in ["- finished: no, this is what there is so far", "| tests: cuda_upload | passed |"] {
        assert!(page.contains(line), "{line:?} is missing");
    }
    assert!(!page.contains("MNIST"));
}

#[test]
fn a_device_older_than_what_was_built_is_an_error_before_anything_runs() {
    let pretended = Pretended::new();
    std::fs::write(pretended.folder.path().join("built/compute_cap"), "86\n").unwrap();
    assert!(pretended.run().0.status.success());
    std::fs::remove_file(pretended.folder.path().join("built/gpu-results.md")).unwrap();
    std::fs::write(pretended.folder.path().join("built/compute_cap"), "90\n").unwrap();
    let (output, page) = pretended.run();
    assert_eq!((output.status.code(), page.as_str()), (Some(1), ""));
    assert!(String::from_utf8_lossy(&output.stderr).contains("build it with CUDA_COMPUTE_CAP=86"));
}
