//! Readers of files of arrays and of records.

use std::io::Read;
use std::path::Path;

use super::mutator::Mutator;
use super::targets::{on_disk, taken};
use crate::data::{Dataset, Dtype, Record, read_npy, read_npz, read_safetensors, record_from_bytes, record_to_bytes};

/// The bytes that the values of a record have at least.
fn size(record: &Record) -> usize {
    let width = |dtype| match dtype {
        Dtype::F32 | Dtype::I32 => 4,
        Dtype::F64 | Dtype::I64 => 8,
        Dtype::U8 | Dtype::Bool | Dtype::Text => 1,
    };
    record.iter().map(|(_, array)| width(array.dtype()) * array.dims().iter().product::<usize>()).sum()
}

/// What was read is what is written and read again, to the bit.
fn comes_back(record: &Record) {
    let mut written = Vec::new();
    record_to_bytes(record, &mut written).unwrap();
    let mut again = Vec::new();
    record_to_bytes(&record_from_bytes(&written).unwrap(), &mut again).unwrap();
    assert_eq!(again, written);
}

/// The length of the header, up to the line end or the brace that ends it.
#[allow(clippy::ptr_arg)] // of one type with the others, some of which change the length
pub(super) fn npy_header(bytes: &mut Vec<u8>, mutator: &mut Mutator) {
    if bytes.len() < 16 || mutator.one_in(8) {
        return;
    }
    let start = if bytes[6] == 1 { 10 } else { 12 };
    let end = bytes[start..].iter().take(400).position(|&byte| byte == b'\n').map(|at| at + 1);
    let end = end.or_else(|| bytes[start..].iter().take(400).rposition(|&byte| byte == b'}').map(|at| at + 1));
    if let Some(end) = end {
        bytes[8..10].copy_from_slice(&(end as u16).to_le_bytes());
    }
    // And as many values as the length allows, where there is one axis of bytes.
    if let Some(end) = end
        && mutator.one_in(2)
        && let Some(open) = bytes[..start + end].iter().rposition(|&byte| byte == b'(')
        && let Some(close) = bytes[..start + end].iter().rposition(|&byte| byte == b')')
        && open < close
    {
        let values = bytes.len() - start - end;
        let text = format!("{},", values / *mutator.pick(&[1, 4, 8]));
        let room = close - open - 1;
        if text.len() <= room {
            bytes[open + 1..close].copy_from_slice(format!("{text:<room$}").as_bytes());
        }
    }
}

pub(super) fn npy(bytes: &[u8]) -> bool {
    let path = on_disk("array.npy", bytes);
    let Some(array) = taken(read_npy(&path)) else { return false };
    let record = Record::new().with("array", array.clone());
    assert!(size(&record) < bytes.len());
    comes_back(&record);
    crate::data::write_npy(&path, &array).unwrap();
    let again = Record::new().with("array", read_npy(&path).unwrap());
    assert_eq!(again.get("array").unwrap().dims(), array.dims());
    true
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + N].iter().rev().fold(0, |all, &byte| all << 8 | usize::from(byte))
}

/// Everything that an archive says of its entries: where they are, how long, their checksums.
#[allow(clippy::ptr_arg)] // of one type with the others, some of which change the length
pub(super) fn archive(bytes: &mut Vec<u8>, mutator: &mut Mutator) {
    if mutator.one_in(8) {
        return;
    }
    let places = |bytes: &[u8], mark: &[u8; 4], len: usize| -> Vec<usize> {
        let fits = |&at: &usize| at + len <= bytes.len();
        bytes.windows(4).enumerate().filter(|(_, found)| found == mark).map(|(at, _)| at).filter(fits).collect()
    };
    let (local, central) = (places(bytes, b"PK\x03\x04", 30), places(bytes, b"PK\x01\x02", 46));
    let (Some(&first), Some(&end)) = (central.first(), places(bytes, b"PK\x05\x06", 22).last()) else { return };
    for (place, (&entry, &start)) in central.iter().zip(&local).enumerate() {
        let data = start + 30 + number::<2>(bytes, start + 26) + number::<2>(bytes, start + 28);
        let next = local.get(place + 1).copied().unwrap_or(first);
        let Some(packed) = bytes.get(data..next) else { continue };
        let mut values = Vec::new();
        match number::<2>(bytes, entry + 10) {
            0 => values.extend_from_slice(packed),
            // As far as it goes.
            _ => drop(flate2::read::DeflateDecoder::new(packed).take(1 << 20).read_to_end(&mut values)),
        }
        let sums = [crc32fast::hash(&values), packed.len() as u32, values.len() as u32].map(u32::to_le_bytes).concat();
        if !mutator.one_in(16) {
            bytes[entry + 16..entry + 28].copy_from_slice(&sums);
            bytes[start + 14..start + 26].copy_from_slice(&sums);
            bytes[entry + 42..entry + 46].copy_from_slice(&(start as u32).to_le_bytes());
        }
    }
    if first < end {
        let count = (central.len() as u16).to_le_bytes();
        bytes[end + 8..end + 10].copy_from_slice(&count);
        bytes[end + 10..end + 12].copy_from_slice(&count);
        bytes[end + 12..end + 16].copy_from_slice(&((end - first) as u32).to_le_bytes());
        bytes[end + 16..end + 20].copy_from_slice(&(first as u32).to_le_bytes());
    }
}

pub(super) fn npz(bytes: &[u8]) -> bool {
    let Some(record) = taken(read_npz(on_disk("arrays.npz", bytes))) else { return false };
    comes_back(&record);
    !record.is_empty()
}

pub(super) fn safetensors(bytes: &[u8]) -> bool {
    let Some(record) = taken(read_safetensors(on_disk("arrays.safetensors", bytes))) else { return false };
    assert!(size(&record) < bytes.len());
    comes_back(&record);
    true
}

pub(super) fn record(bytes: &[u8]) -> bool {
    let Some(record) = taken(record_from_bytes(bytes)) else { return false };
    comes_back(&record);
    true
}

/// What the cache is of; its words are in the files of the corpus.
struct Cached;

impl crate::data::Source for Cached {
    fn len(&self) -> Option<u64> {
        Some(3)
    }

    fn open(&self, _: u64) -> crate::Result<Box<dyn Iterator<Item = crate::Result<Record>> + Send>> {
        Ok(Box::new(std::iter::empty()))
    }

    fn describe(&self) -> String {
        "fuzz".to_owned()
    }
}

/// The table's place, and the checksums of the records, of the table and of the head.
#[allow(clippy::ptr_arg)] // of one type with the others, some of which change the length
pub(super) fn cache_sums(bytes: &mut Vec<u8>, mutator: &mut Mutator) {
    if bytes.len() < 16 + 48 || mutator.one_in(8) {
        return;
    }
    let foot = bytes.len() - 32;
    let count = number::<8>(bytes, foot + 8).min((foot - 16) / 8 - 1);
    let table = foot - 8 * (count + 1);
    bytes[foot..foot + 8].copy_from_slice(&(table as u64).to_le_bytes());
    bytes[foot + 8..foot + 16].copy_from_slice(&(count as u64).to_le_bytes());
    bytes[foot - 8..foot].copy_from_slice(&(table as u64).to_le_bytes());
    for place in 0..count {
        let (start, end) = (number::<8>(bytes, table + 8 * place), number::<8>(bytes, table + 8 * place + 8));
        if start >= 16 && end <= table && start.saturating_add(4) <= end && !mutator.one_in(16) {
            let checksum = crc32fast::hash(&bytes[start..end - 4]).to_le_bytes();
            bytes[end - 4..end].copy_from_slice(&checksum);
        }
    }
    let head = (12 + number::<4>(bytes, 8)).min(table);
    let checksum = crc32fast::hash(&[&bytes[..head], &bytes[table..foot + 16]].concat()).to_le_bytes();
    bytes[foot + 16..foot + 20].copy_from_slice(&checksum);
}

pub(super) fn cache_file(bytes: &[u8]) -> bool {
    let data = Dataset::from_source(Cached).cache_file(on_disk("cache.records", bytes));
    let Some(all) = taken(data.open(0, 0, 0)) else { return false };
    let all: Vec<Option<Record>> = all.map(taken).collect();
    // A position gives the same records.
    if all.len() < 100 {
        let from_second: Vec<Option<Record>> = data.open(0, 0, 1).unwrap().map(taken).collect();
        assert_eq!(from_second.len(), all.len().saturating_sub(1));
        let same = |(a, b): (&Option<Record>, &Option<Record>)| a.is_some() == b.is_some();
        assert!(all.iter().skip(1).zip(&from_second).all(same));
    }
    all.iter().flatten().for_each(comes_back);
    all.iter().all(Option::is_some)
}

/// Makes the files of the corpus that only this crate can make: `ELISTIMATOR_CORPUS=1 cargo test --lib fuzz::arrays`.
#[test]
fn a_cache_file_of_the_corpus_can_be_made_again() {
    let records = || {
        [
            Record::new().with("x", vec![0.5f32, -1.0]).with("n", 7i64),
            Record::new().with("text", vec!["", "h\u{e9}llo"]).with("ok", vec![true, false]),
            Record::new(),
        ]
    };
    struct Given(Vec<Record>);
    impl crate::data::Source for Given {
        fn len(&self) -> Option<u64> {
            Some(3)
        }

        fn open(&self, position: u64) -> crate::Result<Box<dyn Iterator<Item = crate::Result<Record>> + Send>> {
            Ok(Box::new(self.0.clone().into_iter().skip(position as usize).map(Ok)))
        }

        fn describe(&self) -> String {
            "fuzz".to_owned()
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("three");
    let data = Dataset::from_source(Given(records().to_vec())).cache_file(&path);
    assert_eq!(data.open(0, 0, 0).unwrap().map(Result::unwrap).collect::<Vec<_>>(), records());
    let bytes = std::fs::read(&path).unwrap();
    assert!(cache_file(&bytes));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/corpus");
    let mut record = Vec::new();
    record_to_bytes(&records()[1], &mut record).unwrap();
    if std::env::var_os("ELISTIMATOR_CORPUS").is_some() {
        std::fs::create_dir_all(corpus.join("cache_file")).unwrap();
        std::fs::create_dir_all(corpus.join("record")).unwrap();
        std::fs::write(corpus.join("cache_file/three"), &bytes).unwrap();
        std::fs::write(corpus.join("record/text"), &record).unwrap();
    }
    assert_eq!(std::fs::read(corpus.join("cache_file/three")).unwrap(), bytes);
}
