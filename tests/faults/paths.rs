//! Model directories that are none, names that are odd, and what lies where a file should be.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use elistimator::prelude::*;

use crate::common::Line;
use crate::support::{check, checkpoint, data, expected, in_dir, in_time, is_root, names, run_in, text, tool};

fn fifo(path: &Path) {
    assert!(tool("mkfifo", &[text(path)]).is_some());
}

/// Not by binding one, whose name may not be as long as that of a file.
fn socket(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    mknodat(CWD, path, FileType::Socket, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// What setting up and reading say about a directory, in time.
fn errors_of(dir: &Path) -> (Error, Error) {
    let dir = dir.to_owned();
    in_time(move || {
        let setup = in_dir(&dir).build().and_then(|mut estimator| estimator.setup(data()).map(drop));
        (setup.unwrap_err(), Elistimator::<Line>::from_disk(&dir).unwrap_err())
    })
}

/// Fault 23.
#[test]
fn a_model_directory_that_is_none_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    fs::write(place("file"), b"mine").unwrap();
    fifo(&place("fifo"));
    symlink(place("nowhere"), place("dangling")).unwrap();
    symlink(place("loop"), place("loop")).unwrap();
    symlink("/dev/null", place("device")).unwrap();
    let long = "x".repeat(300);
    let before = names(dir.path());
    for name in ["file", "fifo", "dangling", "loop", "device", "file/below", &long] {
        let (setup, from_disk) = errors_of(&place(name));
        for error in [setup, from_disk] {
            assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::NotFound), "{name}: {error:?}");
            assert!(error.to_string().contains(text(&place(name))), "{name}: {error}");
        }
    }
    assert_eq!(names(dir.path()), before);
    assert_eq!(fs::read(place("file")).unwrap(), b"mine");
    assert_eq!(errors_of(Path::new("")).0.kind(), ErrorKind::InvalidArgument);
    assert!(!Path::new("checkpoints").exists(), "nothing is made in the current directory");
}

/// Fault 27.
#[test]
fn odd_names_are_names() {
    let expected = expected(2);
    let dir = tempfile::tempdir().unwrap();
    let long = "y".repeat(200);
    let deep = [&*long; 15].join("/");
    for name in [
        &b"with space"[..],
        b"\xff\xfe not utf-8",
        b"line\nbreak",
        b"-rf",
        "f\u{fc}\u{1F600}".as_bytes(),
        long.as_bytes(),
        deep.as_bytes(),
    ] {
        let run = dir.path().join(OsStr::from_bytes(name));
        let mut estimator = run_in(&run, 3, 1);
        estimator.save_ckpt().unwrap();
        estimator.train_steps(1).unwrap().save_ckpt().unwrap();
        assert_eq!(check(&run, &expected), 2, "{run:?}");
    }
}

/// Fault 28: a moved run is the same run, wherever its paths pointed before.
#[test]
fn a_moved_directory_goes_on() {
    let expected = expected(3);
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    run_in(&from, 3, 1).save_ckpt().unwrap();
    fs::rename(&from, &to).unwrap();
    let mut estimator = in_dir(&to).resume_or_start().unwrap();
    estimator.setup(data()).unwrap().train_steps(1).unwrap().save_ckpt().unwrap();
    assert_eq!(check(&to, &expected), 2);
    assert!(!from.exists());
}

/// What can lie where a file should be.
fn in_place_of(path: &Path, precious: &Path) -> Vec<(&'static str, Box<dyn Fn()>)> {
    let [p, q] = [path, precious].map(Path::to_owned);
    let of = |make: fn(&Path, &Path)| -> Box<dyn Fn()> {
        let (p, q) = (p.clone(), q.clone());
        Box::new(move || make(&p, &q))
    };
    let mut kinds = vec![
        ("fifo", of(|path, _| fifo(path))),
        ("link", of(|path, precious| symlink(precious, path).unwrap())),
        ("loop", of(|path, _| symlink(path, path).unwrap())),
        ("link to zeros", of(|path, _| symlink("/dev/zero", path).unwrap())),
        ("directory", of(|path, _| fs::create_dir(path).unwrap())),
        ("socket", of(|path, _| socket(path))),
    ];
    if is_root() {
        let make = |path: &Path, minor: &str| tool("mknod", &[text(path), "c", "1", minor]).map(drop);
        let trial = tempfile::tempdir().unwrap();
        // It may be made where devices cannot be used.
        let zero = trial.path().join("zero");
        if make(&zero, "5").is_some() && fs::File::open(&zero).is_ok() {
            kinds.push(("zeros", of(|path, _| drop(tool("mknod", &[text(path), "c", "1", "5"])))));
        }
    }
    kinds
}

fn remove(path: &Path) {
    fs::remove_file(path).or_else(|_| fs::remove_dir(path)).unwrap();
}

/// Faults 24 and 25, in a checkpoint: an error that names the file, the next older one instead, and nothing outside touched.
#[test]
fn whole_or_an_error_when_something_lies_in_place_of_a_file() {
    let expected = expected(2);
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = run_in(dir.path(), 3, 1);
    estimator.save_ckpt().unwrap();
    estimator.train_steps(1).unwrap().validate().unwrap();
    estimator.save_ckpt().unwrap();
    drop(estimator);
    let latest = checkpoint(dir.path(), 2);
    for name in names(&latest) {
        let path = latest.join(&name);
        let outside = tempfile::tempdir().unwrap();
        let precious = outside.path().join("precious");
        // Even a link to the very bytes is no file of the checkpoint.
        fs::rename(&path, &precious).unwrap();
        let good = fs::read(&precious).unwrap();
        for (kind, put) in in_place_of(&path, &precious) {
            put();
            let run = dir.path().to_owned();
            let (error, step) = in_time(move || {
                let restored = in_dir(&run).build().unwrap().restore_ckpt(2).map(drop).unwrap_err();
                (restored, Elistimator::<Line>::from_disk(&run).unwrap().global_step())
            });
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind} for {name}: {error}");
            assert!(error.to_string().contains(text(&path)), "{kind} for {name}: {error}");
            assert_eq!(step, 1, "{kind} for {name}");
            assert_eq!(fs::read(&precious).unwrap(), good);
            remove(&path);
        }
        fs::rename(&precious, &path).unwrap();
    }
    assert_eq!(check(dir.path(), &expected), 2);
}

/// Faults 40 and 41: a run whose checkpoints are all damaged does not quietly begin anew.
#[test]
fn whole_or_an_error_when_no_checkpoint_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    run_in(dir.path(), 3, 1).save_ckpt().unwrap();
    let state = checkpoint(dir.path(), 1).join("state.bin");
    fs::write(&state, b"").unwrap();
    for index in ["kept", "lost"] {
        for error in [
            in_dir(dir.path()).resume_or_start().map(drop).unwrap_err(),
            Elistimator::<Line>::from_disk(dir.path()).map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "index {index}: {error}");
            assert!(error.to_string().contains(text(&state)), "index {index}: {error}");
        }
        let _ = fs::remove_file(dir.path().join("checkpoints").join("elistimator_meta"));
    }
}

/// Faults 24 and 40, in place of the index and of the lock.
#[test]
fn harmless_when_something_lies_in_place_of_the_index_or_the_lock() {
    let expected = expected(20);
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join("precious");
    fs::write(&precious, b"mine").unwrap();
    run_in(dir.path(), 100, 1).save_ckpt().unwrap();
    let mut last = 1;
    for name in ["elistimator_meta", "lock"] {
        let path = dir.path().join("checkpoints").join(name);
        for (kind, put) in in_place_of(&path, &precious) {
            remove(&path);
            put();
            assert_eq!(check(dir.path(), &expected), last, "{kind} for {name}");
            let run = dir.path().to_owned();
            let outcome = in_time(move || {
                let mut estimator = in_dir(&run).resume_or_start()?;
                Ok(estimator.setup(data())?.train_steps(1)?.save_ckpt()?.step)
            });
            match outcome {
                Ok(step) => last = step,
                Err(error) => {
                    let error: Error = error;
                    assert!(error.to_string().contains(text(&path)), "{kind} for {name}: {error}");
                    remove(&path);
                    let mut estimator = in_dir(dir.path()).resume_or_start().unwrap();
                    last = estimator.setup(data()).unwrap().train_steps(1).unwrap().save_ckpt().unwrap().step;
                }
            }
            assert_eq!(check(dir.path(), &expected), last, "{kind} for {name}");
        }
    }
    assert_eq!(fs::read(&precious).unwrap(), b"mine");
    assert_eq!(names(outside.path()), ["precious"]);
}

/// Faults 15 and 25: links with our names, to what is precious, are neither followed nor emptied.
#[test]
fn links_out_of_the_directory_are_never_followed() {
    let expected = expected(6);
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join("model_iter-0000000001");
    let mut estimator = run_in(outside.path(), 3, 1);
    fs::rename(estimator.save_ckpt().unwrap().path, &precious).unwrap();
    drop(estimator);
    let before = names(&precious);

    let checkpoints = dir.path().join("checkpoints");
    fs::create_dir(&checkpoints).unwrap();
    let process = std::process::id();
    let links: Vec<PathBuf> = [
        "model_iter-0000000001".into(),
        "replaced-0000000002".into(),
        ".tmp-7-7".into(),
        ".tmp-delete-7-7".into(),
        format!(".tmp-{process}-2"),
    ]
    .iter()
    .map(|name: &String| checkpoints.join(name))
    .collect();
    links.iter().for_each(|link| symlink(&precious, link).unwrap());
    let mut estimator = run_in(dir.path(), 1, 1);
    // In the place of the step itself.
    estimator.save_ckpt().unwrap();
    for _ in 0..4 {
        estimator.train_steps(1).unwrap().save_ckpt().unwrap();
    }
    drop(estimator);
    assert_eq!(check(dir.path(), &expected), 5);
    assert_eq!(names(&precious), before);
}

/// Fault 22: the next save says so and makes no half directory; put back or made anew, it is used.
#[test]
fn a_directory_removed_under_a_run_is_said_to_be() {
    let expected = expected(8);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let aside = dir.path().join("aside");
    let mut estimator = run_in(&run, 3, 1);
    estimator.save_ckpt().unwrap();
    let refused = |estimator: &mut Elistimator<Line, Cpu>| {
        let error = estimator.train_steps(1).unwrap().save_ckpt().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("was removed while this run saved to it"), "{error}");
        assert!(error.to_string().contains(text(&run.join("checkpoints"))), "{error}");
        assert!(!run.join("checkpoints").exists());
    };
    fs::rename(&run, &aside).unwrap();
    refused(&mut estimator);
    refused(&mut estimator);
    let _ = fs::remove_dir_all(&run);
    fs::rename(&aside, &run).unwrap();
    assert_eq!(check(&run, &expected), 1);
    estimator.save_ckpt().unwrap();
    assert_eq!(check(&run, &expected), 3);

    fs::remove_dir_all(&run).unwrap();
    refused(&mut estimator);
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    estimator.save_ckpt().unwrap();
    assert_eq!(check(&run, &expected), 4);
    assert_eq!(estimator.checkpoints().unwrap().len(), 1, "what was there before is gone");
    // With the lock of the new directory.
    assert_eq!(in_dir(&run).build().unwrap().setup(data()).map(drop).unwrap_err().kind(), ErrorKind::Locked);
    drop(estimator);
    run_in(&run, 3, 1);
}
