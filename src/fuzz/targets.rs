//! What is fuzzed: every reader of bytes, with what must hold for what it accepts.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

#[cfg(feature = "image")]
use super::images;
use super::mutator::Mutator;
use super::{arrays, texts};
use crate::checkpoint::parsers::{index_from_bytes, index_to_bytes, metrics_from_bytes, metrics_to_bytes};
use crate::checkpoint::{Monitor, State, Tensors};
use crate::data::{Array, Record, Signature, parse_idx};
use crate::optim::{EarlyStopping, Schedule};
use crate::summary::{History, without_events};
use crate::{ErrorKind, Result};

/// One reader.
pub(super) struct Target {
    /// Also the name of its directory in the corpus.
    pub(super) name: &'static str,
    /// How many bytes of memory a byte of input may take at most, beside the 2 MiB that may be reserved before what is in the input is known.
    pub(super) growth: usize,
    /// Makes what a checksum or a length is about right again.
    pub(super) repair: fn(&mut Vec<u8>, &mut Mutator),
    /// Whether the input was accepted.
    pub(super) accepts: fn(&[u8]) -> bool,
}

pub(super) const TARGETS: &[Target] = &[
    Target { name: "state", growth: 24, repair: seal, accepts: state },
    Target { name: "metrics", growth: 24, repair: seal, accepts: metrics },
    Target { name: "index", growth: 24, repair: seal, accepts: index },
    Target { name: "tensors", growth: 8, repair: header_length, accepts: tensors },
    Target { name: "signature", growth: 64, repair: nothing, accepts: signature },
    Target { name: "request", growth: 96, repair: nothing, accepts: request },
    Target { name: "hyper_parameters", growth: 64, repair: nothing, accepts: hyper_parameters },
    Target { name: "idx", growth: 8, repair: nothing, accepts: idx },
    // A deflated byte unpacks to a thousand.
    Target { name: "idx_gz", growth: 8 * 1100, repair: nothing, accepts: idx_gz },
    Target { name: "history", growth: 64, repair: nothing, accepts: history },
    Target { name: "npy", growth: 16, repair: arrays::npy_header, accepts: arrays::npy },
    Target { name: "npz", growth: 16 * 1100, repair: arrays::archive, accepts: arrays::npz },
    Target { name: "safetensors", growth: 64, repair: header_length, accepts: arrays::safetensors },
    Target { name: "record", growth: 64, repair: nothing, accepts: arrays::record },
    Target { name: "cache_file", growth: 64, repair: arrays::cache_sums, accepts: arrays::cache_file },
    Target { name: "text_lines", growth: 512 * 1100, repair: texts::pack, accepts: texts::text_lines },
    Target { name: "csv", growth: 256 * 1100, repair: texts::pack, accepts: texts::csv },
    Target { name: "vocabulary", growth: 256 * 1100, repair: texts::pack, accepts: texts::vocabulary },
    Target { name: "text_json", growth: 256, repair: nothing, accepts: texts::text_json },
    Target { name: "glove", growth: 64 * 1100, repair: texts::pack, accepts: texts::glove },
    Target { name: "conll", growth: 256 * 1100, repair: texts::pack, accepts: texts::conll },
    Target { name: "words_and_tags", growth: 256, repair: nothing, accepts: texts::words_and_tags },
    Target { name: "events", growth: 8, repair: nothing, accepts: events },
    #[cfg(feature = "image")]
    Target { name: "image", growth: 64, repair: images::checksums, accepts: images::image },
];

/// The longest message of an error that a person wants to read.
const LONGEST_MESSAGE: usize = 2000;

/// What was read, unless it was refused: in few words, and because of the bytes.
pub(super) fn taken<T>(result: Result<T>) -> Option<T> {
    result
        .map_err(|error| {
            use ErrorKind::{Corrupt, Data, Mismatch, Unsupported};
            assert!(matches!(error.kind(), Corrupt | Data | Mismatch | Unsupported), "{:?}: {error}", error.kind());
            let length = error.to_string().len();
            let start: String = error.to_string().chars().take(LONGEST_MESSAGE).collect();
            assert!(length <= LONGEST_MESSAGE, "a message of {length} bytes: {start}");
        })
        .ok()
}

/// The path of a file with these bytes; the next one of this thread takes its place.
pub(super) fn on_disk(name: &str, bytes: &[u8]) -> PathBuf {
    thread_local!(static DIR: tempfile::TempDir = tempfile::tempdir().unwrap());
    let path = DIR.with(|dir| dir.path().join(name));
    std::fs::write(&path, bytes).unwrap();
    path
}

fn nothing(_: &mut Vec<u8>, _: &mut Mutator) {}

/// The checksum at the end; now and then the magic and the version as well.
#[allow(clippy::ptr_arg)] // of one type with the others, some of which change the length
fn seal(bytes: &mut Vec<u8>, mutator: &mut Mutator) {
    if mutator.one_in(16) || bytes.len() < 16 {
        return;
    }
    if !mutator.one_in(16) {
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    }
    let end = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&checksum);
}

/// The length of the header, up to the brace that ends it.
#[allow(clippy::ptr_arg)] // of one type with the others, some of which change the length
fn header_length(bytes: &mut Vec<u8>, mutator: &mut Mutator) {
    if bytes.len() < 8 || mutator.one_in(8) {
        return;
    }
    let end = bytes[8..].windows(2).rposition(|pair| pair == b"}}").map_or(bytes.len() - 8, |at| at + 2);
    bytes[..8].copy_from_slice(&(end as u64).to_le_bytes());
}

fn state(bytes: &[u8]) -> bool {
    let Ok(state) = State::from_bytes(bytes) else { return false };
    assert_eq!(State::from_bytes(&state.to_bytes().unwrap()).unwrap(), state);
    true
}

fn metrics(bytes: &[u8]) -> bool {
    let Ok(metrics) = metrics_from_bytes(bytes) else { return false };
    let written = metrics_to_bytes(&metrics).unwrap();
    assert_eq!(metrics_to_bytes(&metrics_from_bytes(&written).unwrap()).unwrap(), written);
    true
}

fn index(bytes: &[u8]) -> bool {
    let dir = Path::new("/run/checkpoints");
    let Ok(list) = index_from_bytes(bytes, dir) else { return false };
    assert!(list.iter().all(|info| info.path.parent() == Some(dir)));
    let _ = Monitor::default().best(&list);
    let written = index_to_bytes(&list).unwrap();
    assert_eq!(index_to_bytes(&index_from_bytes(&written, dir).unwrap()).unwrap(), written);
    true
}

fn tensors(bytes: &[u8]) -> bool {
    // A file of another program may have numbers of other widths, but no other bytes than its tensors'.
    let foreign = taken(Tensors::from_foreign_bytes(bytes));
    if let Some((tensors, _)) = &foreign {
        let values: usize = tensors.iter().map(|(_, _, values)| values.len()).sum();
        assert!(2 * values < bytes.len());
    }
    let Ok(tensors) = Tensors::from_bytes(bytes.to_vec()) else { return false };
    let (same, others) = foreign.unwrap();
    assert!(others.is_empty());
    assert_eq!(same.to_bytes().unwrap(), tensors.to_bytes().unwrap());
    let values: usize = tensors.iter().map(|(_, _, values)| values.len()).sum();
    assert!(4 * values < bytes.len());
    // What we read, others read alike: but for texts beside the tensors, which we leave alone.
    if !bytes.windows(12).any(|word| word == b"__metadata__") && !bytes.contains(&b'\\') {
        let theirs = SafeTensors::deserialize(bytes).unwrap();
        assert_eq!(theirs.len(), tensors.iter().count());
        for (name, dims, values) in tensors.iter() {
            let view = theirs.tensor(name).unwrap();
            assert_eq!(view.shape(), dims);
            assert!(view.data().as_chunks::<4>().0.iter().copied().eq(values.iter().map(|v| v.to_le_bytes())));
        }
    }
    let written = tensors.to_bytes().unwrap();
    assert_eq!(Tensors::from_bytes(written.clone()).unwrap().to_bytes().unwrap(), written);
    tensors.are_finite();
    true
}

/// A request of a program that serves.
fn request(bytes: &[u8]) -> bool {
    let batch = Record::new()
        .with("x", [[0.5f32, 1.0], [2.0, 3.0]])
        .with("n", vec![1i64, 2])
        .with("pixel", vec![1u8, 2])
        .with("on", vec![true, false])
        .with("word", vec!["a", "b"])
        .with("ids", Array::new([2, 3], vec![0i32; 6]).unwrap());
    let mut signature = Signature::of_batch(&batch).unwrap();
    signature.widen(&batch.with("ids", Array::new([2, 1], vec![0i32; 2]).unwrap())).unwrap();
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match signature.read_json(text) {
        Ok(record) => {
            signature.check_batch(&record, &[]).unwrap();
            let answer = serde_json::to_string(&record).unwrap();
            assert_eq!(signature.read_json(&answer).unwrap(), record);
            true
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Data | ErrorKind::Signature), "{error}");
            assert!(error.to_string().len() <= LONGEST_MESSAGE);
            false
        }
    }
}

fn signature(bytes: &[u8]) -> bool {
    let Ok(mut signature) = serde_json::from_slice::<Signature>(bytes) else { return false };
    let written = serde_json::to_vec(&signature).unwrap();
    assert_eq!(serde_json::from_slice::<Signature>(&written).unwrap(), signature);
    let _ = signature.to_string();
    let batch = Record::new().with("x", Array::new([2, 3], vec![0.5f32; 6]).unwrap()).with("y", vec![1i64, 2]);
    let _ = signature.check_batch(&batch, &["x", "z"]);
    if signature.widen(&batch).is_ok() {
        signature.check_batch(&batch, &[]).unwrap();
    }
    true
}

/// As a model function may have them, and what else is kept as JSON.
fn hyper_parameters(bytes: &[u8]) -> bool {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Model {
        learning_rate: f64,
        hidden: usize,
        name: String,
        #[serde(default)]
        schedule: Schedule,
    }
    let monitor = serde_json::from_slice::<Monitor>(bytes).is_ok();
    let stop = serde_json::from_slice::<EarlyStopping>(bytes);
    if let Ok(mut stop) = stop {
        let _ = stop.update(&crate::metrics::Metrics::new(), u64::MAX);
        let mut metrics = crate::metrics::Metrics::new();
        metrics.insert("loss", 0.5);
        let _ = stop.update(&metrics, u64::MAX).map(EarlyStopping::is_finished);
    }
    let Ok(model) = serde_json::from_slice::<Model>(bytes) else { return monitor };
    let written = serde_json::to_vec(&model).unwrap();
    if serde_json::from_slice::<Model>(&written).is_ok_and(|back| back == model) {
        for step in [0, 1, 7, u64::MAX] {
            let _ = model.schedule.learning_rate(model.learning_rate, step);
        }
    }
    true
}

fn idx(bytes: &[u8]) -> bool {
    let Ok(array) = parse_idx(bytes) else { return false };
    assert!(array.dims().iter().product::<usize>() < bytes.len());
    true
}

fn idx_gz(bytes: &[u8]) -> bool {
    crate::data::idx_from_reader(bytes, Path::new("memory")).is_ok()
}

fn history(bytes: &[u8]) -> bool {
    let Ok(history) = History::read(bytes, Path::new("memory")) else { return false };
    for name in history.names() {
        let _ = history.series(&name);
    }
    for name in history.matrices() {
        let _ = history.matrix(&name);
    }
    let _ = history.without_machine();
    // A table of many steps by many names is as large as both together: that is the caller's choice.
    if history.records().len() < 64 {
        let _ = history.to_csv();
    }
    !history.records().is_empty()
}

/// Events in a file of which a resumed run cuts the end off.
fn events(bytes: &[u8]) -> bool {
    let kept = |bytes: &[u8], first_step| {
        let mut out = Vec::new();
        let cut = without_events(&mut &*bytes, first_step, &mut out).ok()?;
        Some((out, cut))
    };
    let Some((all, _)) = kept(bytes, u64::MAX) else { return false };
    // Without anything to be cut, it is the file up to the last whole record.
    assert!(bytes.starts_with(&all));
    let (fewer, cut) = kept(bytes, 120).unwrap();
    assert_eq!(fewer.len() < all.len(), cut);
    // A second time there is nothing left to be cut.
    assert_eq!(kept(&fewer, 120), Some((fewer, false)));
    cut
}
