//! Saves that fail, machines that die, and files that are damaged: at every operation, in every byte.
//!
//! The comment at a test names the rules of the store that it is there for.

use std::path::{Path, PathBuf};

use crate::ErrorKind;
use crate::checkpoint::faulty::FaultyDisk;
use crate::checkpoint::fs::{Disk, Storage};
use crate::checkpoint::{Access, MetricValues, Mode, Monitor, Retention, Snapshot, State, Store, Tensors};

fn dir() -> PathBuf {
    PathBuf::from("/run/checkpoints")
}

fn open(disk: &FaultyDisk) -> Store {
    Store::with_storage(Box::new(disk.clone()), dir(), Access::Write).unwrap()
}

fn snapshot(step: u64, value: f32, loss: Option<f64>) -> Snapshot {
    let tensors = |name: &str| Tensors::new(vec![(name.to_owned(), vec![2], vec![value, step as f32])]).unwrap();
    Snapshot {
        step,
        model: tensors("weight"),
        optimizer: tensors("velocity/weight"),
        hyper_parameters: b"{}".to_vec(),
        state: State::new(step, 7),
        metrics: loss.map(|loss| MetricValues::from([("loss".to_owned(), loss)])),
    }
}

/// Everything but what the save itself fills in.
fn same(found: &Snapshot, expected: &Snapshot) -> bool {
    found.step == expected.step
        && found.model == expected.model
        && found.optimizer == expected.optimizer
        && found.hyper_parameters == expected.hyper_parameters
}

fn save(store: &mut Store, snapshot: &Snapshot, keep: usize) -> crate::Result<()> {
    store.save(snapshot, &Retention::last(keep), &Monitor::default()).map(|_| ())
}

/// Runs `write` on a disk that already has steps 1 (the best) and 2, once for every operation that can fail in it.
/// After each, with a power cut or without, what was acknowledged before must be there.
fn at_every_operation(keep: usize, write: impl Fn(&mut Store) -> crate::Result<()>, check: impl Fn(&Store, bool)) {
    for (die, cut) in [(false, false), (true, false), (true, true), (false, true)] {
        for n in 0.. {
            let disk = FaultyDisk::default();
            let mut store = open(&disk);
            save(&mut store, &snapshot(1, 0.5, Some(0.1)), keep).unwrap();
            save(&mut store, &snapshot(2, 0.25, Some(0.2)), keep).unwrap();
            disk.fail_at(n, die);
            let acknowledged = write(&mut store).is_ok();
            let failed = disk.has_failed();
            if cut {
                disk.cut_power();
            } else {
                disk.heal();
            }
            if !die && !cut {
                // The same process goes on, and the next save works.
                save(&mut store, &snapshot(9, 9.0, None), 0).unwrap();
                assert!(same(&store.load(9).unwrap(), &snapshot(9, 9.0, None)), "operation {n}");
            }
            drop(store);
            let store = open(&disk);
            check(&store, acknowledged);
            for info in store.list() {
                let found = store
                    .load(info.step)
                    .unwrap_or_else(|error| panic!("operation {n}: a listed checkpoint is damaged: {error}"));
                let listed = (info.order, info.metrics);
                assert_eq!(listed, (found.state.order, found.metrics), "operation {n}: listed is another one");
            }
            store.load_latest().unwrap();
            if !failed {
                break;
            }
        }
    }
}

/// For: the fsync of the files, that of the directory, the temporary name, deleting after the rename.
///
/// Guards, as `scripts/mutations.py` shows: the sync of the temporary directory; the sync after the rename; the
/// temporary name.
#[test]
fn a_failed_or_torn_save_loses_nothing() {
    at_every_operation(
        5,
        |store| save(store, &snapshot(3, 0.75, Some(0.3)), 5),
        |store, acknowledged| {
            assert!(same(&store.load(1).unwrap(), &snapshot(1, 0.5, None)));
            assert!(same(&store.load(2).unwrap(), &snapshot(2, 0.25, None)));
            if acknowledged {
                assert!(same(&store.load(3).unwrap(), &snapshot(3, 0.75, None)));
            }
        },
    );
}

/// For: the pin on best; deleting before the new one is durable.
///
/// Guards, as `scripts/mutations.py` shows: the sync of the temporary directory; the sync after the rename; the
/// temporary name; the best is kept.
#[test]
fn rotation_that_fails_or_is_cut_keeps_the_best_and_one_checkpoint_always() {
    at_every_operation(
        1,
        |store| save(store, &snapshot(3, 0.75, Some(0.3)), 1),
        |store, acknowledged| {
            assert!(same(&store.load(1).unwrap(), &snapshot(1, 0.5, None)), "the best is never deleted");
            assert!(store.contains(2) || store.contains(3), "the latest is never deleted before the next is there");
            if acknowledged {
                assert!(same(&store.load(3).unwrap(), &snapshot(3, 0.75, None)));
            }
        },
    );
}

/// A bug, or memory that runs out, in the middle of a save: what was there stays, and the same store saves again.
///
/// Guards, as `scripts/mutations.py` shows: the temporary name; the best is kept.
#[test]
fn a_panic_at_any_step_of_a_save_loses_nothing() {
    for n in 0.. {
        let disk = FaultyDisk::default();
        let mut store = open(&disk);
        save(&mut store, &snapshot(1, 0.5, Some(0.1)), 1).unwrap();
        save(&mut store, &snapshot(2, 0.25, Some(0.2)), 1).unwrap();
        disk.meanwhile(n, || panic!("in the middle of a save"));
        let third = snapshot(3, 0.75, Some(0.3));
        let saving = std::panic::AssertUnwindSafe(|| save(&mut store, &third, 1));
        let panicked = std::panic::catch_unwind(saving).is_err();
        assert_ne!(disk.is_still_waiting(), panicked);
        let reader = Store::with_storage(Box::new(disk.clone()), dir(), Access::Read).unwrap();
        assert!(same(&reader.load(1).unwrap(), &snapshot(1, 0.5, None)), "operation {n}: the best");
        let latest = reader.load_latest().unwrap();
        assert!(same(&latest, &third) || (panicked && same(&latest, &snapshot(2, 0.25, None))), "operation {n}");
        for step in [3, 4] {
            save(&mut store, &snapshot(step, 0.125, None), 1).unwrap();
            assert!(same(&store.load(step).unwrap(), &snapshot(step, 0.125, None)), "operation {n}");
        }
        drop(store);
        let store = open(&disk);
        assert_eq!(store.load_latest().unwrap().step, 4, "operation {n}");
        store.load(1).unwrap();
        let left = disk.paths().into_iter().filter(|path| path.to_string_lossy().contains(".tmp-")).count();
        assert_eq!(left, 0, "operation {n}");
        if !panicked {
            assert!(n > 10, "{n}");
            break;
        }
    }
}

/// For: the sync of the directory after the rename, and what is said when it fails.
///
/// Guards, as `scripts/mutations.py` shows: the sync of the temporary directory; the sync after the rename; the
/// temporary name.
#[test]
fn a_save_whose_durability_is_not_confirmed_says_so_and_deletes_nothing() {
    let mut unconfirmed = 0;
    for n in 0.. {
        let disk = FaultyDisk::default();
        let mut store = open(&disk);
        save(&mut store, &snapshot(2, 0.25, None), 1).unwrap();
        disk.fail_at(n, false);
        let saved = save(&mut store, &snapshot(3, 0.75, None), 1);
        if !disk.has_failed() {
            break;
        }
        disk.heal();
        match saved {
            Err(error) if error.kind() == ErrorKind::NotDurable => {
                unconfirmed += 1;
                let message = error.to_string();
                assert!(message.contains("model_iter-0000000003 is written"), "{message}");
                assert!(message.contains("not confirmed") && message.contains("the disk refuses"), "{message}");
                assert!(same(&store.load(3).unwrap(), &snapshot(3, 0.75, None)));
                assert!(same(&store.load(2).unwrap(), &snapshot(2, 0.25, None)), "it may be all that survives");
                disk.cut_power();
                assert!(same(&open(&disk).load(2).unwrap(), &snapshot(2, 0.25, None)));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                assert!(!store.contains(3), "an error of another kind is of a checkpoint that is not there");
            }
            Ok(()) => {}
        }
    }
    assert_eq!(unconfirmed, 1);
}

/// For: setting the old one aside, and putting it back when the directory is opened.
///
/// Guards, as `scripts/mutations.py` shows: the sync of the temporary directory; the sync after the rename; the
/// temporary name; the order of rotation: the index goes first.
#[test]
fn replacing_a_step_leaves_the_old_or_the_new_one() {
    at_every_operation(
        5,
        |store| save(store, &snapshot(2, 0.75, None), 5),
        |store, acknowledged| {
            let found = store.load(2).unwrap();
            let (old, new) = (snapshot(2, 0.25, None), snapshot(2, 0.75, None));
            assert!(same(&found, &new) || (!acknowledged && same(&found, &old)));
        },
    );
}

/// For: dropping the index before the metrics are replaced.
///
/// Guards, as `scripts/mutations.py` shows: the sync of the temporary directory; the temporary name.
#[test]
fn attached_metrics_are_the_old_or_the_new_ones() {
    let fresh = MetricValues::from([("loss".to_owned(), 0.05)]);
    at_every_operation(
        5,
        |store| store.attach_metrics(2, &fresh),
        |store, acknowledged| {
            let info = store.list().into_iter().find(|info| info.step == 2).unwrap();
            let loss = info.metrics.unwrap()["loss"];
            assert!(loss == 0.05 || (!acknowledged && loss == 0.2), "{loss}");
            assert_eq!(store.load(2).unwrap().metrics.unwrap()["loss"], loss, "index and file agree");
            assert_eq!(store.load_best(&Monitor::default()).unwrap().step, if loss == 0.05 { 2 } else { 1 });
        },
    );
}

/// It is no other process that replaces it.
///
/// Guards, as `scripts/mutations.py` shows: a step that is replaced while it is read.
#[test]
fn a_checkpoint_that_stays_without_a_state_is_damaged() {
    for aside in [false, true] {
        let disk = FaultyDisk::default();
        save(&mut open(&disk), &snapshot(2, 0.25, Some(0.2)), 5).unwrap();
        let path = dir().join("model_iter-0000000002");
        disk.remove(&path.join("state.bin"));
        if aside {
            disk.rename(&path, &dir().join("replaced-0000000002")).unwrap();
        }
        let reader = Store::with_storage(Box::new(disk.clone()), dir(), Access::Read).unwrap();
        let error = reader.load_path(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

/// While a checkpoint is read, another process saves its step again, or rotates it away: at every operation of the reader.
/// Rules: the order is compared before and after; a reader lists anew when what it knew of is gone.
///
/// Guards, as `scripts/mutations.py` shows: the temporary name; a step that is replaced while it is read; a new
/// list for what went away.
#[test]
fn a_reader_gets_the_old_checkpoint_or_the_new_one_and_no_mixture() {
    let old = || snapshot(2, 0.25, Some(0.2));
    let new = || snapshot(2, 0.75, Some(0.7));
    for by_path in [false, true] {
        for n in 0.. {
            let disk = FaultyDisk::default();
            let mut writer = open(&disk);
            save(&mut writer, &old(), 5).unwrap();
            let reader = Store::with_storage(Box::new(disk.clone()), dir(), Access::Read).unwrap();
            disk.meanwhile(n, move || save(&mut writer, &new(), 5).unwrap());
            let found = if by_path { reader.load_path(&dir().join("model_iter-0000000002")) } else { reader.load(2) };
            let found = found.unwrap_or_else(|error| panic!("operation {n}: {error}"));
            let is = |expected: &Snapshot| same(&found, expected) && found.metrics == expected.metrics;
            assert!(is(&old()) || is(&new()), "operation {n}: {:?} {:?}", found.model, found.metrics);
            if disk.is_still_waiting() {
                assert!(n > 5, "{n}");
                break;
            }
        }
    }
    for n in 0.. {
        let disk = FaultyDisk::default();
        let mut writer = open(&disk);
        save(&mut writer, &old(), 1).unwrap();
        let reader = Store::with_storage(Box::new(disk.clone()), dir(), Access::Read).unwrap();
        disk.meanwhile(n, move || {
            for step in 3..6 {
                // Without metrics none of them is the best, which would be kept.
                writer.save(&snapshot(step, 0.5, None), &Retention::last(1), &Monitor::default()).unwrap();
                writer.remove(2).unwrap();
            }
        });
        let found = reader.load_latest().unwrap_or_else(|error| panic!("operation {n}: {error}"));
        let expected = if found.step == 2 { old() } else { snapshot(found.step, 0.5, None) };
        assert!(same(&found, &expected), "operation {n}: {:?}", found.model);
        if disk.is_still_waiting() {
            assert!(n > 5, "{n}");
            break;
        }
    }
}

/// For: the checksums, the lengths, the version, the limits of the parsers.
///
/// Guards, as `scripts/mutations.py` shows: the temporary name; the checksum.
#[test]
fn every_flipped_bit_and_every_truncation_of_a_checkpoint_is_noticed() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    save(&mut store, &snapshot(1, 0.5, Some(0.1)), 5).unwrap();
    let checkpoint = store.list()[0].path.clone();
    let files: Vec<PathBuf> = disk.paths().into_iter().filter(|path| path.parent() == Some(&checkpoint)).collect();
    assert_eq!(files.len(), 5);
    for file in files {
        let good = disk.bytes(&file).unwrap();
        let check = |bytes: &[u8], what: String| {
            disk.set_bytes(&file, bytes);
            let error = store.load(1).expect_err(&what);
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{what}: {error}");
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(error.to_string().contains(name), "{what}: the file is named: {error}");
        };
        for bit in 0..8 * good.len() {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            check(&bytes, format!("{} bit {bit}", file.display()));
        }
        for end in 0..good.len() {
            check(&good[..end], format!("{} cut at {end}", file.display()));
            let mut zeroed = good.clone();
            zeroed[end..].fill(0);
            if zeroed != good {
                check(&zeroed, format!("{} zeros from {end}", file.display()));
            }
        }
        check(&[&good[..], &[0]].concat(), "a byte appended".into());
        disk.set_bytes(&file, &good);
    }
    store.load(1).unwrap();
}

/// Guards, as `scripts/mutations.py` shows: the temporary name; the checksum.
#[test]
fn files_of_two_valid_checkpoints_do_not_mix() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    save(&mut store, &snapshot(1, 0.5, None), 5).unwrap();
    save(&mut store, &snapshot(2, 0.25, None), 5).unwrap();
    let (one, two) = (store.list()[0].path.clone(), store.list()[1].path.clone());
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let good = disk.bytes(&one.join(file)).unwrap();
        disk.set_bytes(&one.join(file), &disk.bytes(&two.join(file)).unwrap());
        assert_eq!(store.load(1).unwrap_err().kind(), ErrorKind::Corrupt, "{file}");
        disk.set_bytes(&one.join(file), &good);
    }
    // A whole checkpoint under another's name is left out.
    let state = disk.bytes(&two.join("state.bin")).unwrap();
    disk.set_bytes(&one.join("state.bin"), &state);
    disk.remove(&dir().join("elistimator_meta"));
    drop(store);
    assert_eq!(open(&disk).list().iter().map(|info| info.step).collect::<Vec<_>>(), [2]);
}

/// Guards, as `scripts/mutations.py` shows: the temporary name.
#[test]
fn the_index_is_only_a_cache() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    save(&mut store, &snapshot(1, 0.5, Some(0.1)), 5).unwrap();
    save(&mut store, &snapshot(2, 0.25, Some(0.2)), 5).unwrap();
    store.pin(2, true).unwrap();
    let expected = store.list();
    drop(store);
    let index = dir().join("elistimator_meta");
    let good = disk.bytes(&index).unwrap();
    for bytes in [&b""[..], b"garbage", &good[..good.len() - 1], &[0; 4096]] {
        disk.set_bytes(&index, bytes);
        assert_eq!(open(&disk).list(), expected);
    }
    disk.remove(&index);
    assert_eq!(open(&disk).list(), expected);

    // On the disk, where a directory cannot be deleted as a file.
    let place = tempfile::tempdir().unwrap();
    let on_disk = || Store::with_storage(Box::new(Disk), place.path().to_owned(), Access::Write).unwrap();
    std::fs::create_dir(place.path().join("elistimator_meta")).unwrap();
    let mut store = on_disk();
    save(&mut store, &snapshot(1, 0.5, Some(0.1)), 5).unwrap();
    save(&mut store, &snapshot(2, 0.25, Some(0.2)), 5).unwrap();
    let expected = store.list();
    drop(store);
    assert_eq!((on_disk().list().len(), on_disk().list()), (2, expected));
}

/// An index of another day, as a copy of half a directory has it: the checkpoints themselves decide.
///
/// Guards, as `scripts/mutations.py` shows: the temporary name.
#[test]
fn what_the_index_says_of_other_checkpoints_does_not_count() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    let index = dir().join("elistimator_meta");
    let mut indices = Vec::new();
    for step in 1..=3 {
        save(&mut store, &snapshot(step, 0.5, Some(1.0 / step as f64)), 5).unwrap();
        indices.push(disk.bytes(&index).unwrap());
    }
    let all = store.list();
    drop(store);
    disk.set_bytes(&index, &indices[0]);
    assert_eq!(open(&disk).list(), all, "those that an older index does not know");
    for file in disk.paths().into_iter().filter(|path| path.starts_with(&all[2].path)) {
        disk.remove(&file);
    }
    disk.set_bytes(&index, &indices[2]);
    let store = open(&disk);
    assert_eq!(store.list(), all[..2], "one that is gone");
    assert_eq!(store.load_latest().unwrap().step, 2);
    assert_eq!(store.load_best(&Monitor::default()).unwrap().step, 2);
}

/// Guards, as `scripts/mutations.py` shows: the temporary name.
#[test]
fn a_damaged_latest_falls_back_to_the_newest_whole_one() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    for step in [10, 30, 20] {
        save(&mut store, &snapshot(step, step as f32, None), 5).unwrap();
    }
    assert_eq!(store.load_latest().unwrap().step, 20, "the latest is what was saved last");
    disk.set_bytes(&dir().join("model_iter-0000000020").join("model.safetensors"), b"");
    assert_eq!(store.load_latest().unwrap().step, 30);
    disk.remove(&dir().join("model_iter-0000000030").join("state.bin"));
    assert_eq!(store.load_latest().unwrap().step, 10);
    disk.remove(&dir().join("model_iter-0000000010").join("state.bin"));
    assert!(store.load_latest().is_err());
}

/// For: the NaN rule.
///
/// Guards, as `scripts/mutations.py` shows: the temporary name.
#[test]
fn weights_that_are_not_finite_are_flagged_and_never_best() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    save(&mut store, &snapshot(1, f32::NAN, Some(0.0)), 5).unwrap();
    save(&mut store, &snapshot(2, 1.0, Some(0.5)), 5).unwrap();
    assert_eq!(store.load_best(&Monitor::default()).unwrap().step, 2);
    assert_eq!(store.load_best(&Monitor::new("loss", Mode::Max)).unwrap().step, 2);
    drop(store);
    assert!(!open(&disk).list()[0].is_finite);
}

#[test]
fn leftovers_are_tidied_and_foreign_files_stay() {
    let disk = FaultyDisk::default();
    drop(open(&disk));
    let ours = dir().join(format!(".tmp-{}-1", std::process::id()));
    let foreign = dir().join("notes.txt");
    disk.set_bytes(&ours, b"half");
    disk.set_bytes(&foreign, b"mine");
    disk.set_bytes(&dir().join("model_iter-7"), b"not ours either");
    let theirs = [".tmp-notes", ".tmp-", ".tmp-1", ".tmp-1-", ".tmp-1-2-3", ".tmp-index-1", ".tmp-1-2.bak"]
        .map(|name| dir().join(name));
    theirs.iter().for_each(|path| disk.set_bytes(path, b"theirs"));
    let more = [".tmp-delete-7-8", ".tmp-index-7-8"].map(|name| dir().join(name));
    more.iter().for_each(|path| disk.set_bytes(path, b"ours"));
    let mut store = open(&disk);
    assert!(disk.bytes(&ours).is_none());
    assert!(more.iter().all(|path| disk.bytes(path).is_none()));
    assert!(theirs.iter().all(|path| disk.bytes(path).is_some()), "only names that we would give are deleted");
    // A leftover of our own next name, made after the tidying.
    disk.set_bytes(&ours, b"in the way");
    save(&mut store, &snapshot(1, 1.0, None), 1).unwrap();
    save(&mut store, &snapshot(2, 1.0, None), 1).unwrap();
    assert_eq!(disk.bytes(&foreign).unwrap(), b"mine");
    assert_eq!(store.list().len(), 1);
    assert!(Path::new("/run/checkpoints/model_iter-0000000002") == store.list()[0].path);
}

/// On the disk: a directory of a hundred thousand names, of which the index knows all.
///
/// Guards, as `scripts/mutations.py` shows: the best is kept.
#[test]
fn a_hundred_thousand_checkpoints_open_in_a_second() {
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let dir = place.path().to_owned();
    let mut store = Store::with_storage(Box::new(Disk), dir.clone(), Access::Write).unwrap();
    save(&mut store, &snapshot(1, 1.0, Some(0.1)), 0).unwrap();
    let mut all = store.list();
    for step in 2..=100_000 {
        let mut info = all[0].clone();
        (info.step, info.order) = (step, step);
        info.path = dir.join(crate::checkpoint::index::dir_name(step));
        std::fs::create_dir(&info.path).unwrap();
        all.push(info);
    }
    std::fs::write(dir.join("elistimator_meta"), crate::checkpoint::index::to_bytes(&all).unwrap()).unwrap();
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        let begun = thread_seconds();
        let read = Store::with_storage(Box::new(Disk), dir.clone(), Access::Read).unwrap().list();
        let best = Monitor::default().best(&read).unwrap().step;
        let deleted = Retention::last(5).to_delete(&read, &Monitor::default()).len();
        least = least.min(thread_seconds() - begun);
        assert_eq!((read.len(), best, deleted), (100_000, 1, 99_994));
    }
    // Without optimisation, on a slow machine; to open each of them would take far longer still.
    let limit = if cfg!(debug_assertions) { 10.0 } else { 1.0 };
    assert!(least < limit, "{least} s");
}

/// The time that this thread has run, without what others took of its processor; where that is not told, the time since the
/// first call.
fn thread_seconds() -> f64 {
    static BEGUN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let told = told.as_deref().and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    // A kernel that does not count says 0.
    match told.filter(|nanoseconds| *nanoseconds > 0.0) {
        Some(nanoseconds) => nanoseconds / 1e9,
        None => BEGUN.get_or_init(std::time::Instant::now).elapsed().as_secs_f64(),
    }
}

/// The check of a directory before training: with room for two checkpoints, or for another beside one that is there.
#[test]
fn too_little_room_is_said_before_it_is_needed() {
    let disk = FaultyDisk::default();
    let mut store = open(&disk);
    for (free, is_enough) in [(1999, false), (2000, true)] {
        disk.set_free(free);
        let checked = store.check_room(1000);
        assert_eq!(checked.is_ok(), is_enough, "{free}: {checked:?}");
        if let Err(error) = checked {
            assert!(error.to_string().contains("1999 bytes, expected 2000 for two checkpoints"), "{error}");
        }
    }
    save(&mut store, &snapshot(1, 1.0, None), 1).unwrap();
    disk.set_free(1000);
    store.check_room(1000).unwrap();
    disk.set_free(999);
    assert_eq!(store.check_room(1000).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(disk.paths().iter().filter(|path| path.ends_with("probe")).count(), 0, "nothing is left behind");

    // A directory that cannot be written is found out by the same check.
    disk.fail_at(0, true);
    assert!(store.check_room(0).is_err());
}
