//! Directories of saved ensembles that are damaged: they are loaded or refused, and saved to all the same.

use std::path::{Path, PathBuf};

use super::directory::{Files, damage as damage_files};
use super::mutator::Mutator;
use super::targets::taken;
use crate::checkpoint::parsers::{EnsembleIndex, FaultyDisk, Storage};
use crate::checkpoint::{Members, Snapshot, State, Tensors};

const DIR: &str = "/run/ensemble";
const INDEX: &str = "elistimator_ensemble";

/// An ensemble of two members to save.
fn members() -> Members {
    let snapshot = |step: u64| Snapshot {
        step,
        model: Tensors::new(vec![("out.weight".into(), vec![2], vec![0.5, step as f32])]).unwrap(),
        optimizer: Tensors::default(),
        hyper_parameters: b"{}".to_vec(),
        state: State::new(step, 7),
        metrics: None,
    };
    Members { snapshots: vec![snapshot(10), snapshot(20)], weights: vec![0.25, 0.75], rule: "mean".into() }
}

/// Damages the files, and most times makes the index list what is there.
pub(super) fn damage(files: &mut Files, mutator: &mut Mutator) {
    damage_files(files, mutator);
    let index = files.get(Path::new(INDEX)).and_then(|bytes| EnsembleIndex::from_bytes(bytes).ok());
    let Some(mut index) = index.filter(|_| !mutator.one_in(4)) else { return };
    for (place, entry) in index.members.iter_mut().enumerate() {
        let checkpoints = PathBuf::from(format!("members-{}/{place:03}/checkpoints", index.number));
        let path = checkpoints.join(format!("model_iter-{:010}/state.bin", entry.step));
        if let Some(state) = files.get(&path).and_then(|bytes| State::from_bytes(bytes).ok()) {
            entry.files = state.files;
        }
    }
    match mutator.below(12) {
        0 => index.number = mutator.number(),
        1 => index.members.truncate(mutator.below(2)),
        2 => drop(index.members.pop().map(|entry| index.members.insert(0, entry))),
        3 => index.members.iter_mut().take(1).for_each(|entry| entry.step = mutator.number()),
        4 => index.members.iter_mut().take(1).for_each(|entry| entry.weight = f64::from_bits(mutator.number())),
        _ => {}
    }
    files.insert(INDEX.into(), index.to_bytes().unwrap());
}

/// Loads and saves an ensemble that may be damaged. Returns whether it could be loaded.
pub(super) fn survives(files: &Files) -> bool {
    let dir = PathBuf::from(DIR);
    let disk = FaultyDisk::default();
    disk.create_dir_all(&dir).unwrap();
    for (path, bytes) in files {
        let above: PathBuf = dir.join(path).parent().unwrap().components().collect();
        disk.create_dir_all(&above).unwrap();
        disk.set_bytes(&dir.join(path), bytes);
    }
    let open = || -> Box<dyn Storage> { Box::new(disk.clone()) };

    let before = disk.paths();
    let has_index = disk.bytes(&dir.join(INDEX)).is_some();
    // Without an index there is no ensemble, whatever else is there.
    let loaded = if has_index { taken(Members::load_from(&open, &dir)) } else { None };
    assert!(has_index || Members::load_from(&open, &dir).is_err());
    assert_eq!(disk.paths(), before);
    if let Some((members, dirs)) = &loaded {
        assert!(members.snapshots.len() == members.weights.len() && dirs.len() == members.weights.len());
        assert!(dirs.iter().all(|member| member.starts_with(&dir)));
    }

    if files.keys().any(|path| path.starts_with(INDEX) && path != Path::new(INDEX)) {
        // A directory in the place of the index is not ours to delete.
        assert!(members().save_to(&open, &dir).is_err());
        return false;
    }
    let expected = members();
    expected.save_to(&open, &dir).unwrap();
    let (found, dirs) = Members::load_from(&open, &dir).unwrap();
    assert!(found.weights == expected.weights && found.rule == expected.rule);
    assert!(found.snapshots.iter().zip(&expected.snapshots).all(|(a, b)| a.step == b.step && a.model == b.model));
    // What was there before is gone.
    let saves = disk.paths().into_iter().filter(|path| {
        path.parent() == Some(&dir) && path.file_name().unwrap().to_str().unwrap().starts_with("members-")
    });
    assert_eq!(saves.count(), 1);
    assert_eq!(dirs.len(), 2);
    loaded.is_some()
}

/// Makes the kept ensemble: `ELISTIMATOR_CORPUS=1 cargo test --lib fuzz::ensemble`.
#[test]
fn a_kept_ensemble_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    members().save(dir.path()).unwrap();
    let files = super::directory::read(dir.path());
    assert!(survives(&files));
    if std::env::var_os("ELISTIMATOR_CORPUS").is_some() {
        let kept = super::fixtures().join("ensemble");
        for (path, bytes) in files.iter().filter(|(path, _)| !path.ends_with("lock")) {
            std::fs::create_dir_all(kept.join(path).parent().unwrap()).unwrap();
            std::fs::write(kept.join(path), bytes).unwrap();
        }
    }
}
