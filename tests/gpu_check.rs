//! The script that checks everything on a GPU, run with programs that only pretend: what it puts on the page, and that what
//! fails shows. What it builds is the same tests that run here on a double of the driver.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// A folder as `--build` makes it, and one of tools, with programs that say what these would.
struct Pretended {
    folder: tempfile::TempDir,
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/bash\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Pretended {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (built, tools) = (folder.path().join("built"), folder.path().join("tools"));
        std::fs::create_dir_all(built.join("data")).unwrap();
        std::fs::create_dir_all(&tools).unwrap();
        std::fs::write(built.join("commit"), "abc1234\n").unwrap();
        let this = Self { folder };
        let gpu = r#"case "$*" in -L) echo "GPU 0: Pretended" ;; *cap*) echo 8.6 ;; *) echo "Pretended, 580.1, 64 GiB" ;; esac"#;
        this.tool("nvidia-smi", gpu);
        this.tool("python", "exit 1");
        // Runs what follows its options.
        this.tool("compute-sanitizer", r#"while [[ $1 == --* ]]; do shift 2; done; "$@"; echo "$0 is done""#);
        for test in ["cuda_driver", "cuda_memory", "cuda_upload"] {
            this.program(&format!("test-{test}"), r#"[ "$ELISTIMATOR_GPU" = 1 ] && echo "test result: ok""#);
        }
        this.program("mnist", r#"printf 'bar\rbar'; echo; echo "best: step=5360 accuracy=0.9837 loss=0.05""#);
        let rates = r#"{"name": "x", "train_steps_per_second": {"median": 123.45, "min": 1}, "eval_steps_per_second": {"median": 678.9}}"#;
        this.program("workload", &format!("echo '{rates}'"));
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
        self.run_for("60")
    }

    /// The same with so many seconds for it.
    fn run_for(&self, seconds: &str) -> (Output, String) {
        let tools = self.folder.path().join("tools");
        let built = self.folder.path().join("built");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        let output = Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check.sh"))
            .arg("--run")
            .arg(&built)
            .env("PATH", path)
            .env("GPU_CHECK_TIME", seconds)
            .env("PYTHON", tools.join("python"))
            .output()
            .unwrap();
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
        "| rates: steps per second | passed |",
        "| memcheck: cuda_memory | passed |",
        "| racecheck: cuda_driver | passed |",
        "accuracy 0.9837, expected at least 0.980",
        "cnn elistimator 123.45 678.9",
        "lstm: PyTorch with CUDA was not found",
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
        "| rates: steps per second | **failed** with status 1 |",
        "lstm, elistimator: status 1:\nno such kernel",
        "mlp elistimator 5.0",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
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

#[test]
fn pytorch_is_measured_where_it_is_found() {
    let pretended = Pretended::new();
    let rates = |train: u32| {
        format!(
            "echo '{{\"train_steps_per_second\": {{\"median\": {train}}}, \"eval_steps_per_second\": {{\"median\": 9}}}}'"
        )
    };
    let (seldom, always) = (rates(20), rates(10));
    let python = format!(
        "case \"$*\" in *read-every*) {seldom} ;; *pytorch.py*--device\\ cuda*) {always} ;; *print*__version__*) echo 2.9 ;; esac"
    );
    pretended.tool("python", &python);
    let (output, page) = pretended.run();
    assert!(output.status.success());
    for line in [
        "- PyTorch: 2.9",
        "cnn PyTorch, loss read in every step 10 9",
        "lstm PyTorch, loss read in every 50th step 20 9",
    ] {
        assert!(page.contains(line), "{line:?} is missing");
    }
}

/// Whoever has a device for ten minutes has a page after them.
#[test]
fn what_there_is_no_time_for_is_not_begun_and_the_page_says_so() {
    let pretended = Pretended::new();
    pretended.program("mnist", "sleep 100");
    let begun = std::time::Instant::now();
    let (output, page) = pretended.run_for("8");
    assert!(begun.elapsed().as_secs() < 60);
    assert_eq!(output.status.code(), Some(1));
    for line in [
        "- finished: no, the time was up",
        "| tests: cuda_upload | passed |",
        "| MNIST: accuracy | **not finished**: the time was up |",
        "| rates: steps per second | not run: the time was up |",
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
