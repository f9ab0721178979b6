//! Small file systems, a child that does as it is told, and time limits.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use elistimator::Hashes;
use elistimator::prelude::*;

use crate::common::{Line, points, quiet};

/// Says why a test does nothing here.
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// The trimmed output of a program; `None`, and a line saying so, where it is missing or fails.
pub fn tool(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => {
            skipped(&format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            None
        }
        Err(error) => {
            skipped(&format!("{program}: {error}"));
            None
        }
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Whether this is root, who alone may mount and make devices.
pub fn is_root() -> bool {
    let is_root = tool("id", &["-u"]).is_some_and(|id| id == "0");
    if !is_root {
        skipped("this needs root");
    }
    is_root
}

/// A file system of its own, unmounted when dropped.
pub struct Mount {
    place: tempfile::TempDir,
    _image: Option<tempfile::NamedTempFile>,
}

impl Mount {
    pub fn tmpfs(options: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        tool("mount", &["-t", "tmpfs", "-o", options, "none", text(place.path())])?;
        Some(Self { place, _image: None })
    }

    pub fn ext4(bytes: u64, options: &[&str]) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(bytes).unwrap();
        tool("mkfs.ext4", &[&["-q", "-F", "-m", "0"], options, &[text(image.path())]].concat())?;
        let place = tempfile::tempdir().unwrap();
        tool("mount", &["-o", "loop", text(image.path()), text(place.path())])?;
        Some(Self { place, _image: Some(image) })
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    pub fn remount(&self, options: &str) -> bool {
        tool("mount", &["-o", &format!("remount,{options}"), text(self.path())]).is_some()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// A directory on the fastest file system there is.
pub fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What `run` gives, if it gives it in time.
pub fn in_time<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(run()));
    // A disk that other programs write to takes its time for each sync.
    receiver.recv_timeout(Duration::from_secs(300)).expect("it hangs, or panicked")
}

pub fn data() -> Inputs {
    Inputs::train(points(20).shuffle(10).batch(5)).validation(points(9).batch(4))
}

pub fn in_dir(dir: &Path) -> Builder<Line, Cpu> {
    quiet(Line::default()).model_dir(dir)
}

/// A run in a directory, `steps` steps on its way.
pub fn run_in(dir: &Path, keep: usize, steps: u64) -> Elistimator<Line, Cpu> {
    let mut estimator = in_dir(dir).max_to_keep(keep).build().unwrap();
    estimator.setup(data()).unwrap().train_until(steps).unwrap();
    estimator
}

/// What an undisturbed run is at each step.
pub fn expected(last: u64) -> BTreeMap<u64, Hashes> {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = run_in(dir.path(), 1, 0);
    let hashes = |step| (step, estimator.train_until(step).unwrap().hashes().unwrap());
    (0..=last).map(hashes).collect()
}

/// Checks that every checkpoint there loads and is what the undisturbed run was at its step; gives the latest one's step.
pub fn check(dir: &Path, expected: &BTreeMap<u64, Hashes>) -> u64 {
    let mut estimator = Elistimator::<Line>::from_disk(dir).unwrap();
    let latest = estimator.global_step();
    assert_eq!(estimator.hashes().unwrap(), expected[&latest], "step {latest}");
    for info in estimator.checkpoints().unwrap() {
        estimator.restore_ckpt(info.step).unwrap();
        assert_eq!(estimator.hashes().unwrap(), expected[&info.step], "step {}", info.step);
    }
    latest
}

pub fn checkpoint(dir: &Path, step: u64) -> PathBuf {
    dir.join("checkpoints").join(format!("model_iter-{step:010}"))
}

/// Names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into()).collect();
    names.sort();
    names
}

const DIR: &str = "ELISTIMATOR_TEST_FAULTS_DIR";
const KEEP: &str = "ELISTIMATOR_TEST_FAULTS_KEEP";

/// The command that starts this program as a child which reads words from its input and answers each with a line:
/// `train` a step, `validate`, `save`, `cd` to a directory. `before` are words of a program that starts it.
pub fn child_command(before: &[&str], dir: &Path, keep: usize) -> Command {
    let this = std::env::current_exe().unwrap();
    let words = [before, &[text(&this), "support::child", "--exact", "--nocapture", "--test-threads=1"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env(DIR, dir).env(KEEP, keep.to_string());
    command
}

/// Not a test of its own: the child process.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let keep = std::env::var(KEEP).unwrap().parse().unwrap();
    let reply = |outcome: Result<u64>| {
        let line = match outcome {
            Ok(step) => format!("reply ok {step}"),
            Err(error) => format!("reply error {error:?}"),
        };
        // Who is not listening any more need not hear it.
        let _ = writeln!(std::io::stdout(), "{}", line.replace('\n', " "));
    };
    let mut estimator = match in_dir(Path::new(&dir)).max_to_keep(keep).resume_or_start() {
        Ok(estimator) => estimator,
        Err(error) => {
            reply(Err(error));
            std::process::exit(0);
        }
    };
    reply(estimator.setup(data()).map(|estimator| estimator.global_step()));
    for word in std::io::stdin().lines().map_while(std::result::Result::ok) {
        reply(match word.as_str() {
            "train" => estimator.train_steps(1).map(|estimator| estimator.global_step()),
            "validate" => estimator.validate().map(|_| estimator.global_step()),
            "save" => estimator.save_ckpt().map(|info| info.step),
            word => match word.strip_prefix("cd ") {
                Some(dir) => {
                    std::env::set_current_dir(dir).unwrap();
                    Ok(estimator.global_step())
                }
                None => panic!("unknown word {word:?}"),
            },
        });
    }
    drop(estimator);
    // The test runner's own last words could fail on a closed output.
    std::process::exit(0);
}

/// A running child.
pub struct Remote {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Remote {
    pub fn start(before: &[&str], dir: &Path, keep: usize) -> Self {
        Self::begin(&mut child_command(before, dir, keep))
    }

    /// The child of a command of its own.
    pub fn begin(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { input: child.stdin.take(), output, child }
    }

    /// The next reply: a step, or the words of an error.
    pub fn reply(&mut self) -> std::result::Result<u64, String> {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the child is gone");
            // The test runner writes its own words in front.
            let Some((_, reply)) = line.split_once("reply ") else { continue };
            return match reply.trim().split_once(' ').unwrap() {
                ("ok", step) => Ok(step.parse().unwrap()),
                (_, error) => Err(error.to_owned()),
            };
        }
    }

    pub fn tell(&mut self, word: &str) -> std::result::Result<u64, String> {
        writeln!(self.input.as_mut().unwrap(), "{word}").unwrap();
        self.reply()
    }

    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it come to its end, which must be a good one.
    pub fn end(mut self) {
        self.input = None;
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
