//! What stages of data do to each other: ends that nobody asks for, errors on the way to a position, settings that a cache must know.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use elistimator::data::{Array, Csv, Dataset, Dtype, Padding, Record, StandardScaler, read_idx};
use elistimator::metrics::{Average, Metric, Precision};
use elistimator::text::Vocabulary;
use elistimator::{Error, ErrorKind, Result};
use proptest::prelude::*;

fn numbers(count: i64) -> Dataset {
    Dataset::from_arrays(Record::new().with("n", (0..count).collect::<Vec<i64>>())).unwrap()
}

/// The same without a known length.
fn generated(count: i64) -> Dataset {
    Dataset::from_fn(move || Ok((0..count).map(|n| Ok(Record::new().with("n", n)))))
}

fn sentences() -> Dataset {
    Dataset::from_records((1..5usize).map(|len| Record::new().with("n", vec![7i64; len])).collect())
}

fn values(records: impl Iterator<Item = Result<Record>>) -> Vec<i64> {
    records.flat_map(|record| record.unwrap().get("n").unwrap().as_slice::<i64>().unwrap().to_vec()).collect()
}

/// A file with this text that lives as long as the test.
fn file(text: &str) -> tempfile::TempPath {
    let file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file.into_temp_path()
}

#[test]
fn a_cache_is_written_also_where_nobody_asks_for_a_record_behind_the_last() {
    let dir = tempfile::tempdir().unwrap();
    for (name, data, size) in [("known", numbers(8), 4), ("dropped", numbers(8), 3), ("one", numbers(1), 1)] {
        let (made, path) = (Arc::new(AtomicUsize::new(0)), dir.path().join(name));
        let count = Arc::clone(&made);
        let cached = data.map(move |record| {
            count.fetch_add(1, SeqCst);
            Ok(record)
        });
        let batches = cached.cache_file(&path).batch(size);
        // As training does with data of a known length: it takes so many batches and no more.
        let whole = batches.len().unwrap() as usize;
        assert_eq!(batches.open(7, 0, 0).unwrap().take(whole).filter(Result::is_ok).count(), whole);
        assert!(path.exists(), "{name}");
        let before = made.load(SeqCst);
        assert_eq!(values(batches.open(7, 1, 0).unwrap()).len(), before, "{name}");
        assert_eq!(made.load(SeqCst), before, "{name}: made again");
    }
    // A pass that stops earlier still leaves nothing.
    let path = dir.path().join("early");
    assert_eq!(numbers(8).cache_file(&path).open(0, 0, 0).unwrap().take(7).count(), 7);
    assert!(!path.exists());
}

/// A source that gives one record more than it says, or one fewer.
struct Liar(u64);

impl elistimator::data::Source for Liar {
    fn len(&self) -> Option<u64> {
        Some(3)
    }

    fn open(&self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
        Ok(Box::new((position..self.0).map(|n| Ok(Record::new().with("n", n as i64)))))
    }

    fn describe(&self) -> String {
        format!("liar {}", self.0)
    }
}

#[test]
fn a_cache_has_what_came_and_not_what_was_announced() {
    let dir = tempfile::tempdir().unwrap();
    for (count, expected) in [(2, vec![0, 1]), (3, vec![0, 1, 2]), (5, vec![0, 1, 2, 3, 4]), (0, vec![])] {
        let data = Dataset::from_source(Liar(count)).cache_file(dir.path().join(count.to_string()));
        assert_eq!(values(data.open(0, 0, 0).unwrap()), expected);
        assert_eq!(values(data.open(0, 0, 0).unwrap()), expected, "from the file");
    }
}

#[test]
fn an_error_on_the_way_to_a_position_is_no_record() {
    // The first pass is whole; when a position in it is sought, one record cannot be had.
    let broken = || {
        let passes = Arc::new(AtomicUsize::new(0));
        Dataset::from_fn(move || {
            let fails = passes.fetch_add(1, SeqCst) > 0;
            Ok((0..20i64).map(move |n| match n {
                2 if fails => Err(Error::new(ErrorKind::Io, "the disk is away")),
                n => Ok(Record::new().with("n", n)),
            }))
        })
    };
    for (name, data) in [
        ("filter", broken().filter(|_| Ok(true))),
        ("shuffle", broken().shuffle(4)),
        ("shuffle of all", broken().shuffle(40)),
        ("repeat", broken().filter(|_| Ok(true)).repeat(2)),
        ("flat_map", broken().flat_map(|record| Ok(vec![record]))),
    ] {
        assert_eq!(
            data.open(7, 0, 0).unwrap().filter(Result::is_ok).count() % 20,
            if name == "repeat" { 2 } else { 0 }
        );
        // Either opening says so, or the next record does.
        let found = data.open(7, 0, 15).and_then(|mut records| records.next().unwrap());
        assert_eq!(found.map(|record| record.len()).unwrap_err().kind(), ErrorKind::Io, "{name}");
    }
}

#[test]
fn what_is_padded_otherwise_is_other_data() {
    let batches = |padding: Padding| sentences().padded_batch(2, padding);
    let buckets = |padding: Padding| sentences().bucket_by_length("n", &[3], &[2, 2], padding);
    let settings = || {
        [
            Padding::new(),
            Padding::new().value("n", -1.0),
            Padding::new().value("n", 1.0),
            Padding::new().shape("n", [Some(9)]),
            Padding::new().lengths("n", "lengths"),
            Padding::new().lengths("n", "length"),
            Padding::new().text("n", "x"),
        ]
    };
    for make in [&batches as &dyn Fn(Padding) -> Dataset, &buckets] {
        let words: Vec<_> = settings().map(|padding| make(padding).fingerprint()).into();
        let different: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(different.len(), words.len(), "{words:?}");
        assert_eq!(words, settings().map(|padding| make(padding).fingerprint()));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("padded");
    assert_eq!(values(batches(Padding::new()).cache_file(&path).open(0, 0, 0).unwrap()).len(), 12);
    let other = batches(Padding::new().value("n", -1.0)).cache_file(&path).open(0, 0, 0);
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Mismatch);
}

#[test]
fn records_that_differ_are_other_data() {
    let same = || (0..200i64).map(|n| Record::new().with("n", vec![n, 1, 2, 3]));
    let print = |records: Vec<Record>| Dataset::from_records(records).fingerprint();
    let of = |f: &dyn Fn(Vec<i64>) -> Record| {
        print(same().map(|record| f(record.get("n").unwrap().as_slice::<i64>().unwrap().to_vec())).collect())
    };
    let mut few: Vec<Record> = same().take(40).collect();
    let before = print(few.clone());
    few[20].insert("n", vec![-1i64, 1, 2, 3]);
    assert_ne!(print(few), before, "one record among few");
    let mut all = vec![
        print(same().collect()),
        print(same().take(199).collect()),
        of(&|values| Record::new().with("m", values)),
        of(&|values| Record::new().with("n", Array::new([2, 2], values).unwrap())),
        of(&|values| Record::new().with("n", Array::from(values).cast(Dtype::I32).unwrap())),
        // Between the ends.
        of(&|values| Record::new().with("n", vec![if values[0] % 199 == 0 { values[0] } else { 7 }, 1, 2, 3])),
    ];
    assert_eq!(of(&|values| Record::new().with("n", values)), all[0]);
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    assert_ne!(print(vec![]), print(vec![Record::new()]));
}

#[test]
fn batches_of_another_size_are_other_data_also_where_they_are_taken_apart() {
    let of = |size: usize| numbers(8).batch(size).flat_map(|batch| Ok(vec![batch]));
    assert_eq!((of(2).batch_size(), of(4).batch_size()), (None, None));
    assert_ne!(of(2).fingerprint(), of(4).fingerprint());
    // At the end the size is compared on its own.
    assert_eq!(numbers(8).batch(2).map(Ok).fingerprint(), numbers(8).batch(4).map(Ok).fingerprint());
}

#[test]
fn a_table_read_otherwise_is_other_data() {
    let path = file("a\nNA\n1\n");
    let table = || Csv::new(&path).column("a", Dtype::F32).missing(0.0);
    let text = || Csv::new(&path).column("a", Dtype::Text);
    for (one, other) in [
        (table().missing_text("NA"), table()),
        (table().missing_text("NA"), table().missing_text("1")),
        (text(), text().without_header()),
        (text(), text().delimiter(b';')),
    ] {
        assert_ne!(one.dataset().fingerprint(), other.dataset().fingerprint());
    }
    assert_eq!(text().delimiter(b',').dataset().fingerprint(), text().dataset().fingerprint());
}

#[test]
fn numbers_that_their_type_cannot_hold_are_no_infinities() {
    for (text, dtype) in [("1e39", Dtype::F32), ("-1e400", Dtype::F64), ("1e999", Dtype::F32)] {
        let path = file(&format!("a\n{text}\n"));
        let error = Csv::new(&path).column("a", dtype).into_arrays().unwrap_err().to_string();
        assert!(error.contains(&format!("found \"{text}\", expected {dtype}")), "{error}");
    }
    let path = file("a,b\ninf,-infinity\nNaN,3.4e38\n");
    let read = Csv::new(&path).column("a", Dtype::F32).column("b", Dtype::F32).into_arrays().unwrap();
    assert_eq!(read.get("b").unwrap().as_slice::<f32>().unwrap(), [f32::NEG_INFINITY, 3.4e38]);
    assert!(read.get("a").unwrap().as_slice::<f32>().unwrap()[1].is_nan());
    let path = file("a,b\n1,\n");
    let missing = |value| Csv::new(&path).column("b", Dtype::F32).missing(value).into_arrays();
    assert!(missing(1e300).unwrap_err().to_string().contains("for missing ones is none"));
    assert_eq!(missing(f64::INFINITY).unwrap().get("b").unwrap().as_slice::<f32>().unwrap(), [f32::INFINITY]);
}

#[test]
fn a_table_that_ends_within_quotes_was_cut_off() {
    let rows: String = (0..30_000).map(|n| format!("{n},\"{n} \"\"q\"\"\"\n")).collect();
    let (long, packed) = (format!("a,b\n{rows}"), tempfile::Builder::new().suffix(".csv.gz").tempfile().unwrap());
    let mut writer = flate2::write::GzEncoder::new(packed.as_file(), flate2::Compression::fast());
    std::io::Write::write_all(&mut writer, long.trim_end().trim_end_matches('"').as_bytes()).unwrap();
    writer.finish().unwrap();
    for text in ["a,b\n1,\"x\ny,2\n3,z\n", "a,b\n1,x\n2,\"", "\"a\",\"b", long.trim_end().trim_end_matches('"')] {
        let path = file(text);
        let table = |path: &std::path::Path| Csv::new(path).column("b", Dtype::Text);
        let error = table(&path).into_arrays().unwrap_err();
        assert!(error.kind() == ErrorKind::Data && error.to_string().contains("quote that is not closed"), "{error}");
        let read = table(&path).dataset().open(0, 0, 0);
        assert!(read.and_then(|records| records.collect::<Result<Vec<_>>>()).is_err());
        // Also where the file is as long as it may be.
        assert!(table(&path).max_bytes(text.len() as u64).into_arrays().is_err());
        assert!(table(packed.path()).into_arrays().is_err());
    }
    for text in [long.as_str(), "a,b\n1,5\" pipe\n", "a,b\n1,\"x\"", "\u{feff}\"a\",\"b\"\n\"1\",\"\"\"x\"\"\"\n"] {
        let path = file(text);
        let read = Csv::new(&path).column("b", Dtype::Text).into_arrays().unwrap();
        assert_eq!(read.get("b").unwrap().len(), if text.len() > 100 { 30_000 } else { 1 });
    }
}

#[test]
fn a_value_to_pad_with_is_one_of_the_type() {
    let first = |record: [Record; 2], value: f64| {
        let data = Dataset::from_records(record.to_vec()).padded_batch(2, Padding::new().value("n", value));
        data.open(0, 0, 0).unwrap().next().unwrap()
    };
    let bytes = || [Record::new().with("n", vec![1u8]), Record::new().with("n", vec![1u8, 2])];
    let whole = || [Record::new().with("n", vec![1i64]), Record::new().with("n", vec![1i64, 2])];
    let truth = || [Record::new().with("n", vec![true]), Record::new().with("n", vec![true, true])];
    let float = || [Record::new().with("n", vec![1f32]), Record::new().with("n", vec![1f32, 2.0])];
    for (records, value) in [
        (bytes(), -1.0),
        (bytes(), 256.0),
        (bytes(), f64::NAN),
        (whole(), 0.5),
        (whole(), f64::NAN),
        (whole(), f64::INFINITY),
        (whole(), 1e19),
        (truth(), 2.0),
        (truth(), f64::NAN),
        (float(), 1e300),
    ] {
        let error = first(records, value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{value}: {error}");
        assert!(error.to_string().contains("\"n\"") && error.to_string().contains(&format!("{value}")), "{error}");
    }
    for (records, value) in [(bytes(), 255.0), (whole(), -1.0), (truth(), 1.0), (float(), 0.1), (float(), f64::NAN)] {
        assert!(first(records, value).is_ok(), "{value}");
    }
}

#[test]
fn two_lengths_cannot_have_one_name() {
    let both = || Record::new().with("a", vec![1i64]).with("b", vec![1i64, 2]);
    let padding = Padding::new().lengths("a", "len").lengths("b", "len");
    let error = Dataset::from_records(vec![both()]).padded_batch(1, padding).open(0, 0, 0).unwrap().next().unwrap();
    assert!(error.unwrap_err().to_string().contains("\"len\""));
}

#[test]
fn what_repeats_for_ever_is_refused_also_where_the_length_of_a_pass_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let endless = || generated(3).repeat_forever();
    for data in [
        endless(),
        endless().batch(2).already_batched(),
        endless().repeat(2),
        Dataset::interleave([numbers(3), endless()], 1),
        numbers(2).concatenate(endless()),
        endless().zip(endless().map(|_| Ok(Record::new().with("m", 1i64)))),
    ] {
        assert_eq!(data.clone().cache().open(0, 0, 0).unwrap_err().kind(), ErrorKind::InvalidArgument, "{data}");
        let file = data.clone().cache_file(dir.path().join("x"));
        assert_eq!(file.open(0, 0, 0).unwrap_err().kind(), ErrorKind::InvalidArgument, "{data}");
        let fit = StandardScaler::fit_dataset(&data, &["n"]);
        assert_eq!(fit.unwrap_err().kind(), ErrorKind::InvalidArgument, "{data}");
    }
    let m = || numbers(2).map(|_| Ok(Record::new().with("m", 1i64)));
    for data in [endless().take(7), endless().zip(m()), endless().repeat(0), generated(3).repeat(2)] {
        assert!(data.clone().cache().open(0, 0, 0).is_ok(), "{data}");
        assert!(StandardScaler::fit_dataset(&data.concatenate(numbers(2)), &["n"]).is_ok());
    }
}

#[test]
fn never_repeated_is_nothing_and_not_endless() {
    let data = numbers(3).repeat_forever().repeat(0).concatenate(numbers(4));
    for position in 0..4u64 {
        assert_eq!(values(data.open(0, 0, position).unwrap()), (position as i64..4).collect::<Vec<_>>());
    }
    assert_eq!(numbers(3).repeat_forever().repeat(0).len(), Some(0));
}

#[test]
fn remainders_of_buckets_are_dropped_also_behind_a_map() {
    let lengths = (1..8usize).map(|len| Record::new().with("n", vec![1i64; len]));
    let buckets = Dataset::from_records(lengths.collect()).bucket_by_length("n", &[4], &[2, 3], Padding::new());
    let sizes = |data: Dataset| -> Vec<usize> {
        data.open(0, 0, 0).unwrap().map(|batch| batch.unwrap().get("n").unwrap().rows()).collect()
    };
    assert_eq!(sizes(buckets.clone()), [2, 3, 1, 1]);
    for data in [
        buckets.clone().map(Ok),
        buckets.clone().prefetch(2),
        buckets.clone().parallel_map(2, Ok).prefetch(1),
        buckets.clone().cast("n", Dtype::F32).random_map(|record, _| Ok(record)),
    ] {
        assert_eq!(sizes(data.clone().drop_remainder()), [2, 3], "{data}");
    }
}

#[test]
fn an_idx_file_is_a_file() {
    for path in ["/dev/zero", "/"] {
        assert_eq!(read_idx(path).unwrap_err().kind(), ErrorKind::InvalidArgument, "{path}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_name() {
    for text in ["\u{feff}a,b\n1,2\n", "\u{feff}\"a\",b\n1,2\n"] {
        let path = file(text);
        assert_eq!(Csv::new(&path).column("a", Dtype::I64).into_arrays().unwrap().get("a").unwrap().len(), 1);
    }
}

#[test]
fn an_array_is_scaled_once_and_by_as_many_numbers_as_it_has_columns() {
    let table = Record::new().with("m", vec![1f32, 3.0]);
    let error = StandardScaler::fit(&table, &["m", "m"]).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("\"m\""), "{error}");
    let data = Dataset::from_arrays(table.clone()).unwrap();
    assert_eq!(StandardScaler::fit_dataset(&data, &["m", "m"]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let stored = |is_matrix: bool, means: &str, deviations: &str| {
        let text = format!(
            r#"{{"arrays":[{{"name":"m","is_matrix":{is_matrix},"means":{means},"deviations":{deviations}}}]}}"#
        );
        serde_json::from_str::<StandardScaler>(&text).unwrap().transform(table.clone())
    };
    assert!(stored(false, "[2.0]", "[1.0]").is_ok());
    for (is_matrix, means, deviations) in
        [(true, "[1.0,2.0]", "[1.0]"), (true, "[1.0]", "[]"), (false, "[]", "[]"), (false, "[1.0,2.0]", "[1.0,2.0]")]
    {
        assert_eq!(stored(is_matrix, means, deviations).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn every_class_has_an_entry_of_its_own() {
    let named = |names: [&str; 2]| {
        Precision::from_classes(&[0, 1, 1], &[0, 1, 0], 2).unwrap().average(Average::PerClass).class_names(names)
    };
    assert_eq!(
        Metric::values(&named(["a", "b"]).unwrap()),
        [("", 0.75), ("a", 1.0), ("b", 0.5)].map(|(n, v)| (n.into(), v))
    );
    // One would hide the average, or the other class.
    assert!(named(["", "b"]).is_err() && named(["a", ""]).is_err() && named(["a", "a"]).is_err());
}

#[test]
fn the_largest_vocabulary_can_be_loaded_again() {
    let builder = |buckets| Vocabulary::builder().padding("<pad>").unknown("<pad>").end("</s>").oov_buckets(buckets);
    assert!(builder(0).from_tokens(["a"]).is_ok() && builder(1).from_tokens(["a"]).is_err(), "unknown or buckets");
    let builder = |buckets| Vocabulary::builder().padding("<pad>").end("</s>").oov_buckets(buckets);
    for room in 3..8 {
        let words = builder((1 << 24) - room).from_tokens(["a"]).unwrap();
        let again: Vocabulary = serde_json::from_str(&serde_json::to_string(&words).unwrap()).unwrap();
        assert_eq!((again.size(), again == words), ((1 << 24) - room + 3, true));
    }
    assert!(builder((1 << 24) - 2).from_tokens(["a"]).is_err() && builder(usize::MAX).from_tokens(["a"]).is_err());
}

/// One more stage, chosen by numbers.
fn stage(data: Dataset, (which, a, b): (u8, usize, usize)) -> Dataset {
    let other =
        |count: i64| numbers(count).map(|record| Ok(Record::new().with("n", record.get("n")?.cast(Dtype::I64)?)));
    match which {
        0 => data.shuffle(a + 1),
        1 => data.take((3 * a + b) as u64),
        2 => data.skip(a as u64),
        3 => data.repeat(b as u64),
        4 => data.shard(a as u64 + 1, (b % (a + 1)) as u64),
        5 => data.concatenate(other(b as i64).shuffle(a + 1)),
        6 => Dataset::interleave([data, other(a as i64), numbers(b as i64).shuffle(3)], b + 1),
        7 => Dataset::sample_weighted([(data, 2.0), (other(a as i64), 1.0)]),
        8 => data.filter(|record| Ok(record.get("n")?.as_slice::<i64>()?.iter().sum::<i64>() % 3 != 1)),
        9 => data.flat_map(move |record| Ok(vec![record; b % 3])),
        10 => data.cache(),
        11 => data.prefetch(a),
        12 => data.parallel_map(a % 3 + 1, Ok),
        13 => data.repeat_forever().take((4 * a + b) as u64),
        14 => data.cast("n", Dtype::I64),
        _ => data.random_map(|record, random| {
            let n = record.get("n")?.as_slice::<i64>()?[0] + random.below(1000) as i64;
            Ok(record.with("n", n))
        }),
    }
}

/// The end of a pipeline, where examples become batches.
fn ended(data: Dataset, end: u8, size: usize) -> Dataset {
    let varied = |data: Dataset| {
        data.map(|record| {
            let n = record.get("n")?.as_slice::<i64>()?[0];
            Ok(Record::new().with("n", vec![n; n.rem_euclid(5) as usize]))
        })
    };
    match end {
        0 => data,
        1 => data.batch(size),
        2 => data.batch(size).drop_remainder(),
        3 => data.window(size, 2).batch(2),
        4 => data.batch(size).shuffle(3).drop_remainder().prefetch(2),
        5 => data.window(2, size + 1).shuffle(3).take(9).batch(2).shard(2, size as u64 % 2),
        6 => varied(data).bucket_by_length("n", &[2, 4], &[2, size, 1], Padding::new().lengths("n", "len")).shuffle(2),
        7 => varied(data).padded_batch(size, Padding::new().value("n", -1.0)).parallel_map(2, Ok).drop_remainder(),
        _ => {
            let other = numbers(9).shuffle(4).map(|record| Ok(Record::new().with("m", record.get("n")?.clone())));
            data.zip(other.repeat(size as u64)).batch(size)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A source that fails once, wherever that is, and a reader that opens the pass again where it stopped: nothing is lost,
    /// comes twice or in another order.
    #[test]
    fn an_error_that_passes_changes_nothing(
        count in 1i64..12,
        stages in proptest::collection::vec((0u8..16, 0usize..5, 0usize..4), 0..5),
        end in 0u8..10,
        size in 1usize..5,
        fails in 0usize..40,
        map_fails in any::<bool>(),
    ) {
        let made = Arc::new(AtomicUsize::new(1000));
        let (in_source, in_map) = (Arc::clone(&made), Arc::clone(&made));
        let fail = || Err(Error::new(ErrorKind::Io, "away for a moment"));
        let source = Dataset::from_fn(move || {
            let made = Arc::clone(&in_source);
            Ok((0..count).map(move |n| match !map_fails && made.fetch_add(1, SeqCst) == fails {
                true => fail(),
                false => Ok(Record::new().with("n", n)),
            }))
        });
        let source = source.map(move |record| match map_fails && in_map.fetch_add(1, SeqCst) == fails {
            true => fail(),
            false => Ok(record),
        });
        let dir = tempfile::tempdir().unwrap();
        let data = stages.into_iter().fold(source, stage);
        let data = match end {
            9 => data.cache_file(dir.path().join("cache")).batch(size),
            _ => ended(data, end, size),
        };
        prop_assume!(data.open(7, 3, 0).unwrap().take(200).count() < 200);
        // What a cache holds does not fail any more.
        let whole = data.open(7, 3, 0).unwrap().collect::<Result<Vec<_>>>().unwrap();
        let _ = std::fs::remove_file(dir.path().join("cache"));
        made.store(0, SeqCst);
        let (mut found, mut errors) = (Vec::new(), 0);
        'again: loop {
            let Ok(records) = data.open(7, 3, found.len() as u64) else {
                errors += 1;
                prop_assert!(errors < 3);
                continue;
            };
            for record in records {
                let Ok(record) = record else {
                    errors += 1;
                    prop_assert!(errors < 3);
                    continue 'again;
                };
                found.push(record);
            }
            break;
        }
        prop_assert!(found == whole, "of {data} after {errors} errors:\n{found:?}\n{whole:?}");
    }

    /// Any stages in any order: a length that is right, the same again, and from every position the rest of the pass.
    #[test]
    fn any_stages_keep_the_promises(
        known in any::<bool>(),
        count in 0i64..12,
        stages in proptest::collection::vec((0u8..16, 0usize..5, 0usize..4), 0..6),
        end in 0u8..9,
        size in 1usize..5,
    ) {
        let source = if known { numbers(count) } else { generated(count) };
        let data = stages.into_iter().fold(source, stage);
        let data = ended(data, end, size);
        // Repetitions multiply.
        prop_assume!(data.open(7, 3, 0).unwrap().take(200).count() < 200);
        let pass = |position| data.open(7, 3, position).unwrap().collect::<Result<Vec<_>>>().unwrap();
        let whole = pass(0);
        prop_assert!(data.len().is_none_or(|len| len == whole.len() as u64), "{:?} for {} of {data}", data.len(), whole.len());
        for position in 0..whole.len() + 2 {
            let (rest, expected) = (pass(position as u64), &whole[position.min(whole.len())..]);
            prop_assert!(rest == expected, "from {} of {data}:\n{:?}\n{:?}", position, rest, expected);
        }
    }
}
