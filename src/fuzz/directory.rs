//! Whole directories of checkpoints that are damaged: they are listed, loaded, and written to all the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::mutator::Mutator;
use crate::checkpoint::parsers::{FaultyDisk, Storage, metrics_from_bytes};
use crate::checkpoint::{Access, Mode, Monitor, Retention, Snapshot, State, Store, Tensors};

const DIR: &str = "/run/checkpoints";

/// Files by their paths below `checkpoints`.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The files of a model directory that is kept.
pub(super) fn read(dir: &Path) -> Files {
    let mut files = Files::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            files.extend(read(&path).into_iter().map(|(below, bytes)| (name.join(below), bytes)));
        } else {
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
    files
}

fn snapshot(step: u64) -> Snapshot {
    Snapshot {
        step,
        model: Tensors::new(vec![("out.weight".into(), vec![2], vec![0.5, step as f32])]).unwrap(),
        optimizer: Tensors::default(),
        hyper_parameters: b"{}".to_vec(),
        state: State::new(step, 7),
        metrics: None,
    }
}

/// Damages the files in one to four ways, and puts most of what `state.bin` says about the other files right again.
pub(super) fn damage(files: &mut Files, mutator: &mut Mutator) {
    for _ in 0..=mutator.below(4) {
        let paths: Vec<PathBuf> = files.keys().cloned().collect();
        if paths.is_empty() {
            return;
        }
        let (path, other) = (mutator.pick(&paths).clone(), mutator.pick(&paths).clone());
        let checkpoint = path.parent().filter(|parent| !parent.as_os_str().is_empty()).map(Path::to_owned);
        match (mutator.below(12), checkpoint.clone()) {
            (0, _) => drop(files.remove(&path)),
            (1, _) => drop(files.insert(path, files[&other].clone())),
            (2, Some(checkpoint)) => {
                let step = mutator.number() % 40;
                let names = [
                    format!("replaced-{step:010}"),
                    format!("model_iter-{step:010}"),
                    format!("model_iter-{step}"),
                    format!("model_iter-{:010}", mutator.number()),
                    "replaced-0000000019".into(),
                    ".tmp-1-2".into(),
                    "model_iter-".into(),
                ];
                let to = PathBuf::from(mutator.pick(&names));
                let moved: Vec<PathBuf> = files.keys().filter(|path| path.starts_with(&checkpoint)).cloned().collect();
                for from in moved {
                    let bytes = if mutator.one_in(2) { files.remove(&from) } else { files.get(&from).cloned() };
                    files.insert(to.join(from.file_name().unwrap()), bytes.unwrap());
                }
            }
            (3, Some(checkpoint)) => drop(files.insert(checkpoint.join("pinned"), Vec::new())),
            (4, Some(checkpoint)) => drop(files.insert(checkpoint.join("state.bin/inside"), Vec::new())),
            (5..=7, Some(checkpoint)) => settle(files, &checkpoint, mutator),
            _ => {
                let other = files[&other].clone();
                let bytes = files.get_mut(&path).unwrap();
                let is_sealed = path.extension().is_some_and(|extension| extension == "bin")
                    || path.starts_with("elistimator_meta");
                mutator.mutate(bytes, &other);
                if is_sealed && bytes.len() >= 16 && !mutator.one_in(4) {
                    let end = bytes.len() - 4;
                    let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
                    bytes[end..].copy_from_slice(&checksum);
                }
                if let Some(checkpoint) = checkpoint
                    && !mutator.one_in(4)
                {
                    list(files, &checkpoint);
                }
            }
        }
    }
    // A path cannot be both a file and a directory.
    let dirs: Vec<PathBuf> = files.keys().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
    dirs.iter().for_each(|dir| drop(files.remove(dir)));
}

fn change(files: &mut Files, checkpoint: &Path, change: impl FnOnce(&mut State)) {
    let path = checkpoint.join("state.bin");
    if let Some(mut state) = files.get(&path).and_then(|bytes| State::from_bytes(bytes).ok()) {
        change(&mut state);
        files.insert(path, state.to_bytes().unwrap());
    }
}

/// Puts lengths and checksums right.
fn list(files: &mut Files, checkpoint: &Path) {
    let there = files.clone();
    change(files, checkpoint, |state| {
        for (name, length, checksum) in &mut state.files {
            if let Some(bytes) = there.get(&checkpoint.join(&*name)) {
                (*length, *checksum) = (bytes.len() as u64, crc32fast::hash(bytes));
            }
        }
    });
}

/// Other numbers in the state.
fn settle(files: &mut Files, checkpoint: &Path, mutator: &mut Mutator) {
    let number = mutator.number();
    let (which, at) = (mutator.below(9), mutator.below(3));
    change(files, checkpoint, |state| match which {
        0 => state.step = number,
        1 => state.order = number,
        2 => state.saved_at = number as i64,
        3 => (state.epoch, state.position) = (number, number),
        4 => state.is_finite = number.is_multiple_of(2),
        5 => state.settings = vec![("monitor".into(), format!("{{\"metric\":\"{number}\",\"mode\":\"Max\"}}"))],
        6 => state.files.truncate(at),
        7 => state.files.iter_mut().skip(at).take(1).for_each(|file| file.1 = number),
        _ => state.files.iter_mut().skip(at).take(1).for_each(|file| file.0 = "../model.safetensors".into()),
    });
}

/// Everything that is done with a directory, on one that may be damaged. Returns whether a checkpoint in it could be loaded.
pub(super) fn survives(files: &Files) -> bool {
    let dir = PathBuf::from(DIR);
    let disk = FaultyDisk::default();
    for (path, bytes) in files {
        for above in path.ancestors().skip(1) {
            disk.create_dir_all(&dir.join(above).components().collect::<PathBuf>()).unwrap();
        }
        disk.set_bytes(&dir.join(path), bytes);
    }
    disk.create_dir_all(&dir).unwrap();
    let open = |access| Store::with_storage(Box::new(disk.clone()), dir.clone(), access).unwrap();

    // Whoever only looks changes nothing.
    let before = disk.paths();
    let store = open(Access::Read);
    for (step, path) in store.candidates().unwrap() {
        let faults = store.faults(step, &path);
        let loaded = store.load_path(&path);
        // A checkpoint without a fault is whole.
        assert!(!faults.is_empty() || loaded.is_ok(), "{}: {loaded:?}", path.display());
        if let Ok(snapshot) = loaded {
            snapshot.model.are_finite();
        }
    }
    let _ = store.index_fault();
    let _ = store.best(&Monitor::new("loss", Mode::Max));
    let latest = store.load_latest();
    assert_eq!(disk.paths(), before);

    // Whoever writes gets rid of leftovers, loses no whole checkpoint, and can save.
    let mut store = open(Access::Write);
    assert_eq!(store.load_latest().is_ok(), latest.is_ok());
    if store.list().iter().any(|info| info.order > u64::MAX - 3) {
        // Only a forger counts so far: then it need not be what was saved last that counts as the latest.
        let _ = store.save(&snapshot(19), &Retention::last(2), &Monitor::default());
        return latest.is_ok();
    }
    for step in [19, 20] {
        let expected = snapshot(step);
        let info = store.save(&expected, &Retention::last(2), &Monitor::default()).unwrap();
        let loaded = store.load_path(&info.path).unwrap();
        assert!(loaded.model == expected.model && loaded.step == step);
        store.attach_metrics(step, &[("loss".to_owned(), 0.25)].into()).unwrap();
        store.pin(step, true).unwrap();
    }
    assert_eq!(store.load_latest().unwrap().step, 20);
    let metrics = disk.bytes(&dir.join("model_iter-0000000020/metrics.bin")).unwrap();
    assert_eq!(metrics_from_bytes(&metrics).unwrap()["loss"], 0.25);
    // The next one to open sees what this one did.
    let steps = |store: &Store| store.list().iter().map(|info| (info.step, info.order)).collect::<Vec<_>>();
    let reopened = open(Access::Read);
    assert!(reopened.contains(19) && reopened.contains(20), "{:?}", steps(&reopened));
    latest.is_ok()
}
