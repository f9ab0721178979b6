//! Other processes about: a second writer, readers while a writer saves and rotates, and a clock set back.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use elistimator::prelude::*;

use crate::common::Line;
use crate::support::{
    Remote, check, checkpoint, child_command, data, expected, fast_dir, in_dir, names, run_in, text, tool,
};

/// Fault 63.
#[test]
fn one_writer_until_it_is_killed() {
    let expected = expected(3);
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Remote::start(&[], dir.path(), 3);
    holder.reply().unwrap();
    holder.tell("train").unwrap();
    holder.tell("save").unwrap();

    let mut second = Remote::start(&[], dir.path(), 3);
    let error = second.reply().unwrap_err();
    assert!(error.contains(text(dir.path())) && error.contains("(Locked)"), "{error}");
    second.end();
    let error = in_dir(dir.path()).build().unwrap().setup(data()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert_eq!(check(dir.path(), &expected), 1, "readers always work");

    holder.tell("train").unwrap();
    holder.tell("save").unwrap();
    holder.kill();
    let mut next = in_dir(dir.path()).resume_or_start().unwrap();
    next.setup(data()).unwrap().train_steps(1).unwrap().save_ckpt().unwrap();
    assert_eq!(check(dir.path(), &expected), 3);
}

/// How many saves readers live through: 150, `ELISTIMATOR_SAVES=1000` for the long run.
fn saves() -> u64 {
    std::env::var("ELISTIMATOR_SAVES").ok().and_then(|saves| saves.parse().ok()).unwrap_or(150)
}

/// Runs readers of all kinds in a loop while `write` has a child save.
fn read_during(write: impl Fn(&mut Remote, u64), last: u64, keep: usize) {
    let expected = expected(last);
    let dir = fast_dir();
    let mut writer = Remote::start(&[], dir.path(), keep);
    writer.reply().unwrap();
    for word in ["train", "validate", "save"] {
        writer.tell(word).unwrap();
    }
    let (is_done, loads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for kind in 0..5 {
            let (is_done, loads, expected, dir) = (&is_done, &loads, &expected, dir.path());
            scope.spawn(move || {
                let mut newest = 0;
                let mut reader = in_dir(dir).build().unwrap();
                while !is_done.load(Ordering::Relaxed) {
                    let estimator = match kind {
                        0 => &Elistimator::<Line>::from_disk(dir).unwrap(),
                        1 => reader.restore_latest().unwrap(),
                        2 => reader.restore_best().unwrap(),
                        // A name that rotation may take away, but that no replacement does.
                        3 if last == 1 => reader.restore_ckpt(checkpoint(dir, 1)).unwrap(),
                        _ => {
                            assert!(!reader.checkpoints().unwrap().is_empty(), "there is always one");
                            continue;
                        }
                    };
                    let step = estimator.global_step();
                    assert_eq!(estimator.hashes().unwrap(), expected[&step]);
                    assert!(step >= newest || kind > 1, "the latest goes back from {newest} to {step}");
                    newest = step;
                    loads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Whatever happens here, the readers are to end.
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for save in 0..saves() {
                write(&mut writer, save);
            }
            // A slow machine's readers are to have their turn as well.
            let start = Instant::now();
            while loads.load(Ordering::Relaxed) < 20 && start.elapsed() < Duration::from_secs(120) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
        is_done.store(true, Ordering::Relaxed);
        written.unwrap();
    });
    writer.end();
    assert!(loads.into_inner() >= 20);
    check(dir.path(), &expected);
}

/// Fault 63: what a reader has listed rotates away under it.
#[test]
fn readers_always_work_while_a_writer_rotates() {
    let write = |writer: &mut Remote, _| {
        for word in ["train", "validate", "save"] {
            writer.tell(word).unwrap();
        }
    };
    read_during(write, saves() + 1, 1);
}

/// Fault 63: the same name holds one save after another.
#[test]
fn readers_always_work_while_a_writer_replaces() {
    let write = |writer: &mut Remote, _| assert_eq!(writer.tell("save").unwrap(), 1);
    read_during(write, 1, 1);
}

/// Fault 28: the program goes elsewhere, its run does not.
#[test]
fn a_run_stays_in_its_directory_when_the_program_leaves_its_own() {
    let expected = expected(3);
    let place = tempfile::tempdir().unwrap();
    let (here, there) = (place.path().join("here"), place.path().join("there"));
    [&here, &there].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let mut command = child_command(&[], Path::new("run"), 3);
    let mut child = Remote::begin(command.current_dir(&here));
    child.reply().unwrap();
    for word in ["train", "save", "train", "save"] {
        child.tell(word).unwrap();
    }
    child.tell(&format!("cd {}", text(&there))).unwrap();
    for word in ["validate", "train", "save"] {
        child.tell(word).unwrap();
    }
    child.end();
    assert_eq!(check(&here.join("run"), &expected), 3);
    assert!(names(&there).is_empty(), "{:?}", names(&there));
}

/// Where the C compiler is: a library that lets every read and write of the program do half of what it asks for.
fn halving_library(dir: &Path) -> Option<PathBuf> {
    const SOURCE: &str = r#"
        #define _GNU_SOURCE
        #include <sys/syscall.h>
        #include <unistd.h>
        ssize_t read(int fd, void *bytes, size_t count) { return syscall(SYS_read, fd, bytes, (count + 1) / 2); }
        ssize_t write(int fd, const void *bytes, size_t count) { return syscall(SYS_write, fd, bytes, (count + 1) / 2); }
    "#;
    let (source, library) = (dir.join("halving.c"), dir.join("halving.so"));
    std::fs::write(&source, SOURCE).unwrap();
    tool("cc", &["-shared", "-fPIC", "-o", text(&library), text(&source)])?;
    Some(library)
}

/// Fault 26: the system may always do less than it was asked for, and seldom does.
#[test]
fn short_reads_and_writes_are_gone_on_with() {
    // Not where temporary files are, of which many a machine runs none.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).or_else(|_| tempfile::tempdir()).unwrap();
    let Some(library) = halving_library(place.path()) else { return };
    let expected = expected(3);
    let run = place.path().join("run");
    for steps in [1, 2] {
        let mut command = child_command(&[], &run, 3);
        let mut child = Remote::begin(command.env("LD_PRELOAD", &library));
        assert_eq!(child.reply().unwrap(), steps - 1, "what was written so is read so");
        for word in ["train", "validate", "save"] {
            assert_eq!(child.tell(word).unwrap(), steps);
        }
        child.end();
        assert_eq!(check(&run, &expected), steps);
    }
}

/// Fault 29: the latest is what was saved last, whatever the clock says.
#[test]
fn the_latest_is_the_latest_when_the_clock_is_set_back() {
    if tool("faketime", &["1970-01-02 00:00:00", "date"]).is_none() {
        return;
    }
    let expected = expected(3);
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = run_in(dir.path(), 1, 2);
    estimator.save_ckpt().unwrap();
    drop(estimator);
    let mut child = Remote::start(&["faketime", "1970-01-02 00:00:00"], dir.path(), 1);
    assert_eq!(child.reply().unwrap(), 2);
    child.tell("train").unwrap();
    assert_eq!(child.tell("save").unwrap(), 3);
    child.end();
    assert_eq!(check(dir.path(), &expected), 3);
    assert!(!checkpoint(dir.path(), 2).exists(), "rotation goes by the order of the saves");
    let info = Elistimator::<Line>::from_disk(dir.path()).unwrap().checkpoints().unwrap().pop().unwrap();
    assert!(info.saved_at.timestamp() < 1_000_000, "the clock was set back: {}", info.saved_at);
}
