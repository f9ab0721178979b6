//! Disks that are full, or refuse for another reason.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use elistimator::prelude::*;

use crate::support::{Mount, Remote, check, expected, in_dir, is_root, names, run_in, text, tool};

/// Takes all space but about `free` bytes.
fn fill(dir: &Path, free: u64) {
    let path = dir.join("filler");
    let mut file = File::create(&path).unwrap();
    let mut length = 0u64;
    while file.write_all(&[1; 512]).is_ok() {
        length += 512;
    }
    let _ = file.set_len(length.saturating_sub(free));
    let _ = file.sync_all();
}

/// Saves at steps 1, 2, ... on a disk that `fill` fills more or less before each, and checks what a failed save leaves.
fn saves_on_a_full_disk(disk: &Path, keep: usize, fill: impl Fn(u64), empty: impl Fn()) {
    let expected = expected(30);
    let run = disk.join("run");
    let mut estimator = run_in(&run, keep, 1);
    let mut saved = estimator.save_ckpt().unwrap().step;
    let mut failures = BTreeSet::new();
    for room in 0..14 {
        estimator.train_steps(1).unwrap();
        fill(room);
        if let Err(error) = estimator.save_ckpt() {
            let message = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Io, "{message}");
            assert!(message.contains("No space left on device"), "the cause: {message}");
            let place = message.split_whitespace().find(|word| word.contains(text(&run))).expect(&message);
            failures.insert(Path::new(place.trim_end_matches(':')).file_name().unwrap().to_owned());
            assert_eq!(check(&run, &expected), saved, "the earlier checkpoint stays: {message}");
            let step = estimator.global_step();
            assert_eq!(estimator.hashes().unwrap(), expected[&step], "the state in memory stays");
            estimator.train_steps(1).unwrap();
        }
        empty();
        saved = estimator.save_ckpt().unwrap().step;
        assert_eq!(check(&run, &expected), saved);
    }
    assert!(failures.len() > 1, "it failed in several places: {failures:?}");
    let left = names(&run.join("checkpoints"));
    assert!(!left.iter().any(|name| name.starts_with(".tmp-")), "nothing is left over: {left:?}");
}

fn on_a_full_disk(mount: &Mount, keep: usize) {
    let free = |room: u64| fill(mount.path(), room * 4096);
    saves_on_a_full_disk(mount.path(), keep, free, || fs::remove_file(mount.path().join("filler")).unwrap());
}

/// Fault 16.
#[test]
fn harmless_failure_on_a_full_tmpfs() {
    let Some(mount) = Mount::tmpfs("size=1m") else { return };
    on_a_full_disk(&mount, 3);
}

/// Fault 17.
#[test]
fn harmless_failure_on_a_full_ext4() {
    let Some(mount) = Mount::ext4(4 << 20, &["-b", "4096", "-O", "^has_journal"]) else { return };
    on_a_full_disk(&mount, 3);
}

/// Fault 20: the old one is not deleted to make room.
#[test]
fn the_latest_is_never_deleted_on_a_full_disk_that_keeps_one() {
    let Some(mount) = Mount::ext4(8 << 20, &["-b", "4096"]) else { return };
    on_a_full_disk(&mount, 1);
}

/// Fault 18.
#[test]
fn harmless_failure_without_inodes() {
    let tmpfs = || Mount::tmpfs("size=4m,nr_inodes=64");
    let ext4 = || Mount::ext4(4 << 20, &["-N", "64"]);
    let mounts: [&dyn Fn() -> Option<Mount>; 2] = [&tmpfs, &ext4];
    for mount in mounts {
        let Some(mount) = mount() else { return };
        let filler = mount.path().join("filler");
        let fill = |room: u64| {
            fs::create_dir(&filler).unwrap();
            let made = (0..).take_while(|i| File::create(filler.join(i.to_string())).is_ok()).count() as u64;
            (0..room.min(made)).for_each(|i| fs::remove_file(filler.join(i.to_string())).unwrap());
        };
        saves_on_a_full_disk(mount.path(), 3, fill, || fs::remove_dir_all(&filler).unwrap());
    }
}

/// Takes `+i` from all in a directory, so that it can be deleted.
struct Mutable<'p>(&'p Path);

impl Drop for Mutable<'_> {
    fn drop(&mut self) {
        let _ = tool("chattr", &["-R", "-i", text(self.0)]);
    }
}

/// Faults 21 and 53: what cannot be deleted is reported, and tried again by a later save.
#[test]
fn harmless_failure_with_immutable_files() {
    if !is_root() {
        return;
    }
    let expected = expected(10);
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = run_in(dir.path(), 1, 1);
    let _mutable = Mutable(dir.path());
    let first = estimator.save_ckpt().unwrap().path;
    let chattr = |change: &str, path: &Path| tool("chattr", &[change, text(path)]).is_some();
    if !chattr("+i", &first) {
        return;
    }
    estimator.train_steps(1).unwrap().save_ckpt().unwrap();
    assert!(first.exists());
    assert_eq!(check(dir.path(), &expected), 2);
    assert!(chattr("-i", &first));
    estimator.train_steps(1).unwrap().save_ckpt().unwrap();
    assert!(!first.exists(), "rotation tries again");

    for name in ["elistimator_meta", ""] {
        let path = dir.path().join("checkpoints").join(name);
        assert!(chattr("+i", &path));
        let before = check(dir.path(), &expected);
        let error = estimator.train_steps(1).unwrap().save_ckpt().unwrap_err();
        assert!(error.to_string().contains(text(&path)), "{error}");
        assert!(error.to_string().contains("Operation not permitted"), "{error}");
        assert_eq!(check(dir.path(), &expected), before);
        assert!(chattr("-i", &path));
        let step = estimator.save_ckpt().unwrap().step;
        assert_eq!(check(dir.path(), &expected), step);
    }
}

/// Fault 19: an error, where the system's signal would end the process.
#[test]
fn harmless_failure_above_the_file_size_limit() {
    let expected = expected(4);
    let dir = tempfile::tempdir().unwrap();
    let mut child = Remote::start(&[], dir.path(), 3);
    child.reply().unwrap();
    child.tell("train").unwrap();
    child.tell("save").unwrap();
    child.tell("train").unwrap();
    if tool("prlimit", &["--pid", &child.id(), "--fsize=64:"]).is_none() {
        return;
    }
    let error = child.tell("save").unwrap_err();
    assert!(error.contains("model.safetensors: File too large"), "{error}");
    assert_eq!(check(dir.path(), &expected), 1);
    child.tell("train").unwrap();
    tool("prlimit", &["--pid", &child.id(), "--fsize=unlimited:"]).unwrap();
    assert_eq!(child.tell("save").unwrap(), 3);
    child.end();
    assert_eq!(check(dir.path(), &expected), 3);
}

/// Fault 26.
#[test]
fn harmless_failure_without_file_descriptors() {
    let expected = expected(20);
    let dir = tempfile::tempdir().unwrap();
    let mut child = Remote::start(&[], dir.path(), 3);
    child.reply().unwrap();
    child.tell("train").unwrap();
    let mut saved = child.tell("save").unwrap();
    let limit = |limit: &str| tool("prlimit", &["--pid", &child.id(), &format!("--nofile={limit}:")]).is_some();
    if !limit("1024") {
        return;
    }
    let open = names(Path::new(&format!("/proc/{}/fd", child.id())));
    let free = (0..).find(|number: &usize| !open.contains(&number.to_string())).unwrap();
    let pid = child.id();
    let limit = |limit: usize| tool("prlimit", &["--pid", &pid, &format!("--nofile={limit}:")]).unwrap();
    let mut failed = 0;
    for room in 0..4 {
        child.tell("train").unwrap();
        limit(free + room);
        match child.tell("save") {
            Ok(_) => {}
            Err(error) => {
                failed += 1;
                assert!(error.contains("Too many open files"), "{error}");
                assert_eq!(check(dir.path(), &expected), saved);
            }
        }
        limit(1024);
        saved = child.tell("save").unwrap();
        assert_eq!(check(dir.path(), &expected), saved);
    }
    assert!(failed > 0);
    child.end();
}

/// Fault 21: a read-only file system is noticed before any training, and no obstacle to predicting.
#[test]
fn harmless_failure_on_a_read_only_file_system() {
    let Some(mount) = Mount::tmpfs("size=4m") else { return };
    let expected = expected(4);
    let run = mount.path().join("run");
    let mut estimator = run_in(&run, 3, 1);
    estimator.save_ckpt().unwrap();
    let place = tempfile::tempdir().unwrap();
    if tool("mount", &["--bind", "-o", "ro", text(mount.path()), text(place.path())]).is_none() {
        return;
    }
    let _bind = Bind(place.path());
    let run = place.path().join("run");
    let error = in_dir(&run).build().unwrap().setup(crate::support::data()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains(text(&run)) && error.to_string().contains("Read-only"), "{error}");
    assert_eq!(check(&run, &expected), 1);
    let x = Array::new([1, 3], vec![0.5f32, 0.25, -0.5]).unwrap();
    Elistimator::<crate::common::Line>::from_disk(&run).unwrap().predict([x]).unwrap();
    // A directory to be made there.
    let new = place.path().join("new");
    let error = in_dir(&new).build().unwrap().setup(crate::support::data()).map(drop).unwrap_err();
    assert!(error.to_string().contains("Read-only"), "{error}");
}

struct Bind<'p>(&'p Path);

impl Drop for Bind<'_> {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l", text(self.0)]);
    }
}

/// Fault 21, in the middle of a run: the way a system turns a disk with errors read-only.
#[test]
fn harmless_failure_when_the_file_system_turns_read_only() {
    let Some(mount) = Mount::ext4(8 << 20, &[]) else { return };
    let expected = expected(4);
    let run = mount.path().join("run");
    let mut estimator = run_in(&run, 3, 1);
    estimator.save_ckpt().unwrap();
    if !mount.remount("abort") {
        return;
    }
    for step in [2, 3] {
        let error = estimator.train_steps(1).unwrap().save_ckpt().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(text(&run)) && error.to_string().contains("Read-only"), "{error}");
        assert_eq!(check(&run, &expected), 1);
        assert_eq!(estimator.hashes().unwrap(), expected[&step]);
    }
}
