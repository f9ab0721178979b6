//! Readers of text: lines, tables, vocabularies, word vectors, tagged sentences.

use std::collections::BTreeMap;
use std::io::Write;

use super::mutator::Mutator;
use super::targets::{on_disk, taken};
use crate::data::{Csv, Dataset, Dtype, Encoding, Record, TextLines};
use crate::text::{Conll, Glove, MissingRows, Sentence, Separator, TagScheme, TfIdf, Vocabulary, read_words_and_tags};

/// Bytes that are in none of the texts; they part the files of a target that reads two.
const PARTING: &[u8] = b"\n====\n";

/// Packs a text now and then.
pub(super) fn pack(bytes: &mut Vec<u8>, mutator: &mut Mutator) {
    if mutator.one_in(16) && !bytes.starts_with(&[0x1f, 0x8b]) {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        *bytes = packed.finish().unwrap();
    }
}

/// The name of a file with these bytes, where readers go by the name.
fn name(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(&[0x1f, 0x8b]) { "text.gz" } else { "text.txt" }
}

fn two_files(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes.windows(PARTING.len()).position(|found| found == PARTING);
    at.map_or((bytes, bytes), |at| (&bytes[..at + 1], &bytes[at + PARTING.len()..]))
}

/// The records of a pass, and whether it ended without an error. From any position come those that are left.
fn pass(data: &Dataset) -> (Vec<Record>, bool) {
    let read = |position| {
        let (mut records, mut whole) = (Vec::new(), true);
        match taken(data.open(0, 0, position)) {
            Some(stream) => stream.for_each(|record| match taken(record) {
                Some(record) => records.push(record),
                None => whole = false,
            }),
            None => whole = false,
        }
        (records, whole)
    };
    let (records, whole) = read(0);
    if records.len() > 1 {
        let (later, also) = read(1);
        assert!(also == whole && later.len() == records.len() - 1);
    }
    (records, whole)
}

/// Both encodings, one file and two in step.
pub(super) fn text_lines(bytes: &[u8]) -> bool {
    let lines = |path, encoding| TextLines::new(path).encoding(encoding).max_line_bytes(1 << 17).dataset();
    let path = on_disk(name(bytes), bytes);
    let (utf8, whole) = pass(&lines(path.clone(), Encoding::Utf8));
    let (latin1, _) = pass(&lines(path.clone(), Encoding::Latin1));
    assert!(utf8.len() <= latin1.len());
    for (a, b) in utf8.iter().zip(&latin1).skip(1) {
        let text = |record: &Record| record.get("line").unwrap().as_slice::<String>().unwrap()[0].clone();
        let (a, b) = (text(a), text(b));
        assert!(a.bytes().eq(b.chars().map(|c| c as u8)) && !a.contains('\n'));
    }
    if !bytes.starts_with(&[0x1f, 0x8b]) && bytes.len() < 1 << 17 {
        assert_eq!(latin1.len(), bytes.split_inclusive(|&byte| byte == b'\n').count());
    }
    let (first, second) = two_files(bytes);
    if first.len() < bytes.len() {
        let (first, second) = (on_disk("first.txt", first), on_disk("second.txt", second));
        pass(&TextLines::zip([("a", first), ("b", second)]).encoding(Encoding::Latin1).dataset());
    }
    // At eight bytes a line.
    let (_, short) = pass(&TextLines::new(path).encoding(Encoding::Latin1).max_line_bytes(8).dataset());
    assert!(short || bytes.len() > 8 || bytes.starts_with(&[0x1f, 0x8b]));
    whole
}

pub(super) fn csv(bytes: &[u8]) -> bool {
    let path = on_disk(name(bytes), bytes);
    let typed = || {
        let columns = [
            ("name", Dtype::Text),
            ("age", Dtype::F32),
            ("ratio", Dtype::F64),
            ("count", Dtype::I32),
            ("id", Dtype::I64),
            ("level", Dtype::U8),
            ("alive", Dtype::Bool),
        ];
        let table = Csv::new(&path).missing(1.0).missing_text("NA").max_row_bytes(1 << 16).max_bytes(1 << 20);
        columns.into_iter().fold(table, |table, (name, dtype)| table.column(name, dtype))
    };
    let (records, whole) = pass(&typed().dataset());
    let arrays = taken(typed().into_arrays());
    // Row by row or at once: the same.
    assert!(arrays.is_some() == whole || bytes.starts_with(&[0x1f, 0x8b]));
    if let Some(arrays) = &arrays {
        assert!(arrays.iter().all(|(_, array)| array.dims() == [records.len()]));
        for (name, array) in arrays.iter() {
            for (row, record) in records.iter().enumerate().take(20) {
                assert_eq!(format!("{:?}", array.row(row).unwrap()), format!("{:?}", record.get(name).unwrap()));
            }
        }
    }
    let bare = Csv::new(&path).without_header().delimiter(b';').column("a", Dtype::Text).column("b", Dtype::Text);
    taken(bare.max_row_bytes(64).max_bytes(1 << 20).into_arrays()).is_some() || whole
}

pub(super) fn vocabulary(bytes: &[u8]) -> bool {
    let path = on_disk("vocabulary.txt", bytes);
    let plain = taken(Vocabulary::from_file(&path));
    let special = Vocabulary::builder().padding("<pad>").unknown("<unk>").start("<s>").end("</s>").from_file(&path);
    let buckets = taken(Vocabulary::builder().oov_buckets(3).from_file(&path));
    let Some(special) = taken(special) else { return false };
    for vocabulary in [plain.as_ref().unwrap(), &special, buckets.as_ref().unwrap()] {
        for (id, token) in vocabulary.iter().enumerate() {
            assert!(vocabulary.id(token) == Some(id as i64) && vocabulary.token(id as i64) == Some(token));
        }
        if vocabulary.size() < 64 {
            let json = serde_json::to_vec(vocabulary).unwrap();
            assert!(serde_json::from_slice::<Vocabulary>(&json).unwrap() == *vocabulary);
        }
    }
    special.size() > 4
}

/// Vocabulary and weights of words as they are saved among the hyper-parameters.
pub(super) fn text_json(bytes: &[u8]) -> bool {
    if let Ok(tf_idf) = serde_json::from_slice::<TfIdf>(bytes) {
        let json = serde_json::to_vec(&tf_idf).unwrap();
        assert_eq!(serde_json::from_slice::<TfIdf>(&json).unwrap(), tf_idf);
        let ids: Vec<i64> = (0..tf_idf.size().min(9) as i64).chain([0, 0]).collect();
        if let Ok(weights) = tf_idf.weights(&ids) {
            assert!(weights.iter().all(|(_, weight)| weight.is_finite()), "{weights:?}");
            tf_idf.place_weights(&ids).unwrap();
        }
        return true;
    }
    let Ok(vocabulary) = serde_json::from_slice::<Vocabulary>(bytes) else { return false };
    let json = serde_json::to_vec(&vocabulary).unwrap();
    assert!(serde_json::from_slice::<Vocabulary>(&json).unwrap() == vocabulary);
    let _ = vocabulary.ids_with_ends(&["the", "cat", "outside"]).map(|ids| vocabulary.tokens(&ids).unwrap());
    let _ = vocabulary.tokens(&[-1, 0, i64::MAX]);
    true
}

pub(super) fn glove(bytes: &[u8]) -> bool {
    let vocabulary = Vocabulary::builder().padding("<pad>").oov_buckets(1).from_tokens(["the", "cat", ". .", "0.5"]);
    let vocabulary = vocabulary.unwrap();
    let path = on_disk("glove.txt", bytes);
    let Some(zero) = taken(Glove::read(&path, &vocabulary, MissingRows::Zero)) else { return false };
    let random = Glove::read(&path, &vocabulary, MissingRows::Random { seed: 3 }).unwrap();
    for vectors in [&zero, &random] {
        assert_eq!(vectors.matrix().dims(), [vocabulary.size(), vectors.dimension()]);
        assert!(vectors.matrix().as_slice::<f32>().unwrap().iter().all(|value| value.is_finite()));
        assert_eq!(vectors.found() + vectors.missing().len(), 4);
        assert!(vectors.lines() >= vectors.found());
    }
    true
}

fn sound(sentences: &[Sentence]) {
    let mut sizes = BTreeMap::new();
    for sentence in sentences {
        assert!(!sentence.is_empty() && sentence.words().len() == sentence.tags().len());
        assert!((0..sentence.width()).all(|column| sentence.column(column).unwrap().len() == sentence.len()));
        assert!(sentence.words().iter().chain(sentence.tags()).all(|word| !word.is_empty()));
        for from in [TagScheme::Iob1, TagScheme::Iob2, TagScheme::Io] {
            for to in [TagScheme::Iob1, TagScheme::Iob2, TagScheme::Io] {
                if let Some(tags) = taken(sentence.tags_in(from, to)) {
                    assert_eq!(tags.len(), sentence.len());
                }
            }
        }
        *sizes.entry(sentence.document()).or_insert(0usize) += 1;
    }
    // Documents are numbered without a gap.
    assert!(sizes.keys().copied().eq(0..sizes.len()));
}

pub(super) fn conll(bytes: &[u8]) -> bool {
    let path = on_disk("conll.txt", bytes);
    let by_tabs = Conll::new().separator(Separator::Char('\t')).encoding(Encoding::Latin1).comment("# ");
    let by_tabs = taken(by_tabs.columns(3).read(&path)).inspect(|sentences| sound(sentences));
    let by_blanks = taken(Conll::new().read(&path)).inspect(|sentences| sound(sentences));
    by_blanks.or(by_tabs).is_some_and(|sentences| !sentences.is_empty())
}

pub(super) fn words_and_tags(bytes: &[u8]) -> bool {
    let (words, tags) = two_files(bytes);
    let (words, tags) = (on_disk("words.txt", words), on_disk("tags.txt", tags));
    let latin1 = taken(read_words_and_tags(&words, &tags, Encoding::Latin1)).inspect(|sentences| sound(sentences));
    let utf8 = taken(read_words_and_tags(&words, &tags, Encoding::Utf8)).inspect(|sentences| sound(sentences));
    assert!(utf8.is_none() || latin1.is_some());
    utf8.is_some_and(|sentences| !sentences.is_empty())
}
