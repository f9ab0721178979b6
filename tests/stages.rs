//! The stages beyond map, shuffle and batch: each one's records, and the promises that all of them keep.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use elistimator::data::{Array, Dataset, Padding, Record};
use elistimator::{Error, ErrorKind};

fn numbers(range: std::ops::Range<i64>) -> Dataset {
    Dataset::from_arrays(Record::new().with("n", range.collect::<Vec<_>>())).unwrap()
}

/// The same without a known length, or examples by number.
fn generated(range: std::ops::Range<i64>) -> Dataset {
    Dataset::from_fn(move || Ok(range.clone().map(|n| Ok(Record::new().with("n", n)))))
}

fn all(data: &Dataset, seed: u64, epoch: u64, position: u64) -> Vec<Record> {
    data.open(seed, epoch, position).unwrap().collect::<Result<_, _>>().unwrap()
}

fn flat(records: &[Record]) -> Vec<i64> {
    records.iter().flat_map(|record| record.get("n").unwrap().as_slice::<i64>().unwrap().to_vec()).collect()
}

fn value(record: &Record) -> i64 {
    record.get("n").unwrap().as_slice::<i64>().unwrap()[0]
}

/// What every pipeline promises: a length that is right where there is one, the same records again for the same seed and
/// pass, and from every position those that an unbroken pass gives from there.
#[track_caller]
fn keeps_the_promises(data: &Dataset) {
    for (seed, epoch) in [(0, 0), (7, 3)] {
        let whole = all(data, seed, epoch, 0);
        assert!(data.len().is_none_or(|len| len == whole.len() as u64), "{:?} for {}: {data}", data.len(), whole.len());
        for position in 0..whole.len() + 3 {
            let rest = all(data, seed, epoch, position as u64);
            assert_eq!(rest, whole[position.min(whole.len())..], "from {position} of {data}");
        }
        if data.is_batched() {
            let sizes: Vec<_> = whole.iter().map(|batch| batch.get("n").unwrap().rows() as u64).collect();
            assert!(data.batch_size().is_none_or(|size| sizes.iter().all(|&found| found <= size)), "{sizes:?}");
        }
    }
}

fn repeated(record: &Record) -> Vec<Record> {
    (0..value(record) % 4).map(|_| record.clone()).collect()
}

#[test]
fn flat_map_gives_several_records_or_none() {
    for source in [numbers(0..9), generated(0..9), numbers(0..9).shuffle(5), numbers(0..0)] {
        let data = source.flat_map(|record| Ok(repeated(&record)));
        assert_eq!(data.len(), None);
        keeps_the_promises(&data);
        keeps_the_promises(&data.shuffle(4).batch(2));
    }
    let data = numbers(0..6).flat_map(|record| Ok(repeated(&record)));
    assert_eq!(flat(&all(&data, 0, 0, 0)), [1, 2, 2, 3, 3, 3, 5]);
}

fn failing(n: i64, panics: bool) -> elistimator::Result<()> {
    match n {
        4 if panics => panic!("boom"),
        4 => Err(Error::new(ErrorKind::Data, "bad")),
        _ => Ok(()),
    }
}

#[test]
fn errors_and_panics_name_the_stage_and_the_element() {
    for panics in [false, true] {
        let word = if panics { "boom" } else { "bad" };
        let check = move |record: &Record| failing(value(record), panics);
        let source = numbers(0..8);
        let pipelines = [
            ("map", source.clone().map(move |record| check(&record).map(|()| record))),
            ("filter", source.clone().filter(move |record| check(record).map(|()| true))),
            ("flat_map", source.clone().flat_map(move |record| check(&record).map(|()| vec![record]))),
            ("parallel_map", source.clone().parallel_map(3, move |record| check(&record).map(|()| record))),
        ];
        for (name, data) in pipelines {
            for position in [0, 3] {
                let records: Vec<_> = data.open(0, 0, position).unwrap().collect();
                let at = 4 - position as usize;
                let message = records[at].as_ref().unwrap_err().to_string();
                assert!(message.contains(&format!("{name}: element 4")) && message.contains(word), "{message}");
                assert_eq!(records.iter().filter(|record| record.is_err()).count(), 1);
                assert_eq!(value(records[at + 1].as_ref().unwrap()), 5, "{name} goes on after a bad record");
            }
        }
    }
}

fn slow_for_even(record: Record) -> elistimator::Result<Record> {
    if value(&record) % 2 == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(record.with("m", 10i64))
}

#[test]
fn parallel_map_keeps_the_order_on_any_number_of_threads() {
    for source in [numbers(0..23), generated(0..23), numbers(0..23).shuffle(9), numbers(0..0)] {
        let expected = all(&source.clone().map(slow_for_even), 3, 1, 0);
        for threads in [1, 2, 5, 40] {
            let data = source.clone().parallel_map(threads, slow_for_even);
            assert_eq!(all(&data, 3, 1, 0), expected);
            assert_eq!(data.len(), source.len());
            assert_eq!(data.fingerprint(), source.clone().parallel_map(1, Ok).fingerprint());
        }
        keeps_the_promises(&source.clone().parallel_map(3, slow_for_even).shuffle(4).batch(3));
    }
    for threads in [0, usize::MAX] {
        let error = numbers(0..3).parallel_map(threads, Ok).open(0, 0, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn parallel_map_looks_ahead_within_bounds_and_ends_its_threads_when_dropped() {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    let data = numbers(0..3).repeat_forever().parallel_map(3, move |record| {
        let _ = &counter;
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(record)
    });
    let mut stream = data.open(0, 0, 0).unwrap();
    for taken in 1..=10 {
        stream.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(1));
        let ahead = made.load(Ordering::SeqCst) - taken;
        assert!(ahead <= 6, "{ahead} records ahead");
    }
    drop(stream);
    drop(data);
    let after = made.load(Ordering::SeqCst);
    assert_eq!(Arc::strong_count(&made), 1, "no thread holds the closure any more");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(made.load(Ordering::SeqCst), after);
    // A stream that is not read at all ends its threads, too; and so does one whose input is over.
    drop(numbers(0..3).repeat_forever().parallel_map(4, Ok).open(0, 0, 0).unwrap());
    let mut stream = numbers(0..3).parallel_map(4, Ok).open(0, 0, 0).unwrap();
    assert_eq!(stream.by_ref().count(), 3);
    assert!(stream.next().is_none(), "and stays at its end");
}

#[test]
fn a_panic_of_the_source_is_an_error_of_parallel_map_and_ends_it() {
    let data = Dataset::from_fn(|| Ok((0..5i64).map(|n| Ok(Record::new().with("n", n)))));
    let data = data.filter(|record| Ok(value(record) < 9)).map(|record| {
        assert!(value(&record) != 2, "two");
        Ok(record)
    });
    let records: Vec<_> = data.parallel_map(2, Ok).open(0, 0, 0).unwrap().collect();
    assert_eq!(records.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, true]);
    assert!(records[2].as_ref().unwrap_err().to_string().contains("map: element 2"));
}

#[test]
fn shards_are_disjoint_and_together_everything() {
    for source in [numbers(0..11), generated(0..11), numbers(0..11).shuffle(6), numbers(0..2), numbers(0..0)] {
        let mut found = Vec::new();
        for index in 0..3 {
            let shard = source.clone().shard(3, index);
            keeps_the_promises(&shard);
            keeps_the_promises(&shard.clone().shuffle(3).batch(2));
            found.extend(flat(&all(&shard, 5, 1, 0)));
        }
        found.sort_unstable();
        assert_eq!(found, (0..found.len() as i64).collect::<Vec<_>>());
        assert_eq!(found.len(), all(&source, 5, 1, 0).len());
    }
    assert_eq!(flat(&all(&numbers(0..7).shard(3, 1), 0, 0, 0)), [1, 4]);
    for (count, index) in [(0, 0), (2, 2), (u64::MAX, u64::MAX)] {
        for data in [numbers(0..4).shard(count, index), numbers(0..4).shard(count, index).batch(2)] {
            assert_eq!(data.open(0, 0, 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }
    let bad = numbers(0..8).map(|record| failing(value(&record), false).map(|()| record));
    let error = bad.shard(3, 0).open(0, 0, 0).unwrap().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("another part") && error.contains("element 4"), "{error}");
}

#[test]
fn concatenate_gives_one_after_the_other_in_their_own_orders() {
    let sources = [numbers(0..5), generated(0..5), numbers(0..5).shuffle(5), numbers(0..0), generated(0..0)];
    for first in &sources {
        for second in &sources {
            let data = first.clone().concatenate(second.clone());
            keeps_the_promises(&data);
            keeps_the_promises(&data.clone().shuffle(3).batch(2));
            assert_eq!(data.len(), first.len().zip(second.len()).map(|(first, second)| first + second));
        }
    }
    let shuffled = numbers(0..100).shuffle(100);
    let both = flat(&all(&shuffled.clone().concatenate(shuffled), 1, 0, 0));
    assert_ne!(both[..100], both[100..], "equal shuffles in the two inputs differ");
    let endless = numbers(0..2).repeat_forever().concatenate(numbers(5..6));
    assert_eq!(flat(&endless.open(0, 0, 1_000_001).unwrap().take(2).map(Result::unwrap).collect::<Vec<_>>()), [1, 0]);
    let error = numbers(0..2).concatenate(numbers(0..2).batch(2)).open(0, 0, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn zip_joins_records_and_refuses_equal_names() {
    let other = |count: i64| {
        Dataset::from_arrays(Record::new().with("m", (0..count).map(|m| m * m).collect::<Vec<_>>())).unwrap()
    };
    for (left, right, len) in [
        (numbers(0..6), other(6), Some(6)),
        (numbers(0..6), other(4), Some(4)),
        (numbers(0..4).shuffle(4), other(6).shuffle(6), Some(4)),
        (numbers(0..5), other(2).repeat_forever(), Some(5)),
        (generated(0..5), other(6), None),
        (numbers(0..0), other(3), Some(0)),
    ] {
        let data = left.zip(right);
        assert_eq!(data.len(), len);
        keeps_the_promises(&data);
        keeps_the_promises(&data.shuffle(3).batch(2));
    }
    keeps_the_promises(&numbers(0..7).batch(3).zip(other(7).batch(3)));
    let record = all(&numbers(0..6).zip(other(6)), 0, 0, 3).remove(0);
    assert_eq!((value(&record), record.get("m").unwrap().as_slice::<i64>().unwrap()), (3, &[9][..]));
    let error = numbers(0..3).zip(numbers(0..3)).open(0, 0, 1).unwrap().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("zip: element 1") && error.contains("\"n\""), "{error}");
}

#[test]
fn interleave_takes_blocks_in_turn() {
    for block in [1, 2, 5] {
        for sources in [
            vec![numbers(0..7), numbers(10..12), numbers(20..25)],
            vec![numbers(0..7).shuffle(7), generated(10..13), numbers(0..0)],
            vec![numbers(0..3)],
            vec![numbers(0..0), generated(0..0)],
        ] {
            let data = Dataset::interleave(sources.clone(), block);
            let lens: Option<Vec<u64>> = sources.iter().map(Dataset::len).collect();
            assert_eq!(data.len(), lens.map(|lens| lens.iter().sum()));
            keeps_the_promises(&data);
            keeps_the_promises(&data.shuffle(3).batch(2));
        }
    }
    let data = Dataset::interleave([numbers(0..5), numbers(10..11), numbers(20..23)], 2);
    assert_eq!(flat(&all(&data, 0, 0, 0)), [0, 1, 10, 20, 21, 2, 3, 22, 4]);
    let endless = Dataset::interleave([numbers(0..2).repeat_forever(), numbers(5..8)], 1);
    assert_eq!(endless.len(), None);
    assert_eq!(flat(&endless.open(0, 0, 1 << 40).unwrap().take(2).map(Result::unwrap).collect::<Vec<_>>()), [1, 0]);
    for data in [
        Dataset::interleave([], 1),
        Dataset::interleave([numbers(0..2)], 0),
        Dataset::interleave([numbers(0..2), numbers(0..2).batch(1)], 1),
    ] {
        assert_eq!(data.open(0, 0, 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn sample_weighted_draws_by_weight_from_the_seed_of_the_pass() {
    for sources in [
        vec![(numbers(0..9), 3.0), (numbers(10..14), 1.0)],
        vec![(numbers(0..9).shuffle(9), 1.0), (generated(10..14), 0.5), (numbers(0..0), 7.0)],
    ] {
        let data = Dataset::sample_weighted(sources);
        keeps_the_promises(&data);
        keeps_the_promises(&data.clone().shuffle(3).batch(2));
        let mut found = flat(&all(&data, 2, 0, 0));
        assert_ne!(found, flat(&all(&data, 2, 1, 0)), "another pass, another order");
        found.sort_unstable();
        assert_eq!(found, (0..9).chain(10..14).collect::<Vec<_>>(), "everything once");
    }
    let kinds = [(0, 1.0), (1, 2.0), (2, 5.0)];
    let data = Dataset::sample_weighted(kinds.map(|(n, weight)| (numbers(n..n + 1).repeat_forever(), weight)));
    let drawn = flat(&data.open(4, 0, 0).unwrap().take(8000).map(Result::unwrap).collect::<Vec<_>>());
    for (n, weight) in kinds {
        // 1000 of weight 1, give or take five standard deviations of the binomial distribution.
        let (expected, share) = (1000.0 * weight, weight / 8.0);
        let deviation = (8000.0 * share * (1.0 - share)).sqrt();
        let count = drawn.iter().filter(|&&drawn| drawn == n).count() as f64;
        assert!((count - expected).abs() < 5.0 * deviation, "{count} of {n}, expected {expected}");
    }
    let rest = data.open(4, 0, 5000).unwrap().take(3000).map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(flat(&rest), drawn[5000..]);
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let data = Dataset::sample_weighted([(numbers(0..3), 1.0), (numbers(0..3), weight)]);
        assert_eq!(data.open(0, 0, 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert!(Dataset::sample_weighted([]).open(0, 0, 0).is_err());
}

#[test]
fn shuffles_on_both_sides_of_a_stage_draw_differently() {
    let parts = |seed| Dataset::sample_weighted([(numbers(0..50).shuffle(50), 1.0)]).open(seed, 0, 0);
    let once: Vec<i64> = flat(&parts(1).unwrap().map(Result::unwrap).collect::<Vec<_>>());
    assert_ne!(once, flat(&all(&numbers(0..50).shuffle(50), 1, 0, 0)));
    for wrap in [
        |data: Dataset| data.flat_map(|record| Ok(vec![record])),
        |data: Dataset| data.parallel_map(2, Ok),
        |data: Dataset| data.shard(1, 0),
        |data: Dataset| data.concatenate(numbers(0..0)),
        |data: Dataset| Dataset::interleave([data], 3),
    ] {
        // A shuffle of the order that the same shuffle made: where each number goes tells the second permutation.
        let first = flat(&all(&wrap(numbers(0..50).shuffle(50)), 9, 0, 0));
        let both = flat(&all(&wrap(numbers(0..50).shuffle(50)).shuffle(50), 9, 0, 0));
        let second: Vec<i64> = both.iter().map(|n| first.iter().position(|first| first == n).unwrap() as i64).collect();
        assert_ne!(first, second, "the two shuffles are the same permutation");
    }
}

/// Counts how often a record is made.
fn counted(source: Dataset) -> (Dataset, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    let data = source.map(move |record| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(record)
    });
    (data, made)
}

#[test]
fn a_cache_in_memory_makes_every_record_once() {
    for source in [numbers(0..7), generated(0..7), numbers(0..7).shuffle(7), numbers(0..7).batch(3), numbers(0..0)] {
        let (data, made) = counted(source.clone());
        let data = data.cache();
        let count = all(&source, 0, 0, 0).len();
        let mut early = data.open(1, 1, 2).unwrap();
        early.next();
        assert!(made.load(Ordering::SeqCst) <= 3, "only as far as it is read");
        keeps_the_promises(&data);
        assert_eq!(made.load(Ordering::SeqCst), count);
        assert_eq!(all(&data.clone(), 5, 8, 0), all(&data, 9, 9, 0), "one order for all passes");
        if !data.is_batched() {
            keeps_the_promises(&data.shuffle(4).batch(2));
        }
        assert_eq!(made.load(Ordering::SeqCst), count);
    }
    let endless = numbers(0..3).repeat_forever().shuffle(2);
    assert_eq!(endless.clone().cache().open(0, 0, 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(flat(&all(&endless.take(4).cache(), 0, 0, 0)).len(), 4);
    // A record that cannot be had is an error every time, and is made when it can be had.
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&tries);
    let data = numbers(0..4).map(move |record| match value(&record) {
        2 if counter.fetch_add(1, Ordering::SeqCst) < 2 => Err(Error::new(ErrorKind::Data, "not yet")),
        _ => Ok(record),
    });
    let data = data.cache();
    for found in [2, 2, 4] {
        assert_eq!(data.open(0, 0, 0).unwrap().filter(Result::is_ok).count(), found);
    }
}

#[test]
fn a_cache_in_a_file_is_written_by_the_first_whole_pass() {
    let dir = tempfile::tempdir().unwrap();
    let sources = [numbers(0..7), generated(0..7), numbers(0..7).shuffle(7), numbers(0..7).batch(3), numbers(0..0)];
    for (index, source) in sources.into_iter().enumerate() {
        let path = dir.path().join("deeper").join(format!("{index}.records"));
        let (data, made) = counted(source.clone());
        let data = data.cache_file(&path);
        let count = all(&source, 0, 0, 0).len();
        all(&data, 0, 0, 1);
        data.open(0, 0, 0).unwrap().next();
        // Of no records, the first that is asked for is the end.
        assert!(count == 0 || !path.exists(), "neither from a later position nor half a pass");
        let first = all(&data, 3, 1, 0);
        assert!(path.exists());
        made.store(0, Ordering::SeqCst);
        assert_eq!(all(&data, 4, 2, 0), first);
        keeps_the_promises(&data);
        if !data.is_batched() {
            keeps_the_promises(&data.clone().shuffle(4).batch(2));
        }
        // Another process has only the path.
        assert_eq!(all(&counted(source).0.cache_file(&path), 0, 0, 0), first);
        assert_eq!(made.load(Ordering::SeqCst), 0, "{count} records came from the file");
    }
    let names = std::fs::read_dir(dir.path().join("deeper")).unwrap().count();
    assert_eq!(names, 5, "no temporary file is left");
    let error = numbers(0..3).repeat_forever().cache_file(dir.path().join("x")).open(0, 0, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let failing = numbers(0..8).map(|record| failing(value(&record), false).map(|()| record));
    let path = dir.path().join("failed");
    assert_eq!(failing.cache_file(&path).open(0, 0, 0).unwrap().filter(Result::is_err).count(), 1);
    assert!(!path.exists(), "a pass with an error leaves no file");
}

#[test]
fn a_damaged_or_foreign_cache_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let data = numbers(0..5).cache_file(&path);
    all(&data, 0, 0, 0);
    let whole = std::fs::read(&path).unwrap();
    // Opening or reading: the first error.
    let error = |data: &Dataset| match data.open(0, 0, 0) {
        Ok(mut records) => records.find_map(Result::err),
        Err(error) => Some(error),
    };
    assert!(error(&data).is_none());
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        std::fs::write(&path, damaged).unwrap();
        // Four zeros in the end mean nothing.
        if (whole.len() - 12..whole.len() - 8).contains(&at) {
            continue;
        }
        let error = error(&data).unwrap_or_else(|| panic!("byte {at} may be anything"));
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Mismatch), "byte {at}: {error}");
        assert!(error.to_string().contains("delete it"), "{error}");
    }
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(error(&data).unwrap().kind(), ErrorKind::Corrupt, "{len} bytes");
    }
    std::fs::write(&path, &whole).unwrap();
    for other in [numbers(0..6), numbers(1..6), numbers(0..5).shuffle(2), numbers(0..5).batch(2)] {
        let error = error(&other.cache_file(&path)).unwrap();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("other data"), "{error}");
    }
    assert_eq!(error(&numbers(0..5).cache_file(dir.path())).unwrap().kind(), ErrorKind::Corrupt, "a directory");
    let beneath_a_file = numbers(0..5).cache_file(path.join("below"));
    assert_eq!(error(&beneath_a_file).unwrap().kind(), ErrorKind::Io);
    // Text and every other type survive.
    let record = Record::new().with("n", 3i64).with("t", vec!["a", ""]).with("x", [[0.5f32, f32::NEG_INFINITY]]);
    let data = Dataset::from_records(vec![record.clone()]).cache_file(dir.path().join("types"));
    assert_eq!((all(&data, 0, 0, 0), all(&data, 0, 0, 0)), (vec![record.clone()], vec![record]));
}

fn sentences(lengths: &'static [usize]) -> Dataset {
    let records = lengths
        .iter()
        .enumerate()
        .map(|(index, &length)| Record::new().with("n", vec![index as i64; length]).with("id", index as i64));
    Dataset::from_records(records.collect())
}

#[test]
fn buckets_hold_examples_of_about_one_length() {
    const LENGTHS: &[usize] = &[3, 12, 1, 5, 4, 10, 2, 2, 30, 0, 6, 9];
    let source = sentences(LENGTHS);
    let data =
        source.bucket_by_length("n", &[4, 10], &[3, 2, 2], Padding::new().value("n", -1.0).lengths("n", "lengths"));
    assert_eq!((data.is_batched(), data.batch_size(), data.len()), (true, None, None));
    keeps_the_promises(&data);
    keeps_the_promises(&data.clone().shuffle(2));
    keeps_the_promises(&source.clone().shuffle(12).bucket_by_length("n", &[5], &[2, 2], Padding::new()));
    let ids = |data: &Dataset| {
        let batches = all(data, 0, 0, 0);
        batches.iter().map(|batch| batch.get("id").unwrap().as_slice::<i64>().unwrap().to_vec()).collect::<Vec<_>>()
    };
    // From 4 two at a time, from 10 two, below 4 three, in the order in which they are full; then what is left, by bucket.
    let full = [vec![3, 4], vec![1, 5], vec![0, 2, 6], vec![10, 11]];
    assert_eq!(ids(&data), [&full[..], &[vec![7, 9], vec![8]]].concat()[..]);
    assert_eq!(ids(&data.clone().drop_remainder()), full);
    keeps_the_promises(&data.clone().drop_remainder());
    let third = &all(&data, 0, 0, 0)[2];
    assert_eq!(third.get("lengths").unwrap().as_slice::<i64>().unwrap(), [3, 1, 2]);
    assert_eq!(third.get("n").unwrap().as_slice::<i64>().unwrap(), [0, 0, 0, 2, -1, -1, 6, 6, -1]);
    let equal = source.bucket_by_length("n", &[4, 10], &[2, 2, 2], Padding::new());
    assert_eq!(equal.batch_size(), Some(2));
    assert!(all(&equal.drop_remainder(), 0, 0, 0).iter().all(|batch| batch.get("id").unwrap().rows() == 2));
}

#[test]
fn buckets_that_make_no_sense_are_errors() {
    let source = sentences(&[1, 2]);
    let buckets =
        |boundaries: &[usize], sizes: &[usize]| source.bucket_by_length("n", boundaries, sizes, Padding::new());
    for data in [
        buckets(&[4, 4], &[1, 1, 1]),
        buckets(&[4], &[1]),
        buckets(&[4], &[1, 0]),
        buckets(&[], &[]),
        source.padded_batch(1, Padding::new()).bucket_by_length("n", &[], &[1], Padding::new()),
    ] {
        assert_eq!(data.open(0, 0, 0).unwrap_err().kind(), ErrorKind::InvalidArgument, "{data}");
    }
    for name in ["other", "id"] {
        let data = source.bucket_by_length(name, &[], &[1], Padding::new());
        let error = data.open(0, 0, 0).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("bucket_by_length: element 0") && error.contains(name), "{error}");
    }
    assert_eq!(all(&buckets(&[], &[usize::MAX]), 0, 0, 0).len(), 1, "a huge batch reserves nothing");
}

#[test]
fn padding_takes_shapes_by_name_and_refuses_what_does_not_fit() {
    let source = sentences(&[1, 3]);
    let first = |padding: Padding| source.padded_batch(2, padding).open(0, 0, 0).unwrap().next().unwrap();
    let batch = first(Padding::new().shape("n", [Some(5)]).value("n", 9.0)).unwrap();
    assert_eq!(batch.get("n").unwrap(), &Array::from([[0i64, 9, 9, 9, 9], [1, 1, 1, 9, 9]]));
    assert_eq!(first(Padding::new().shape("n", [None])).unwrap().get("n").unwrap().dims(), [2, 3]);
    for (padding, word) in [
        (Padding::new().shape("n", [Some(2)]), "[3]"),
        (Padding::new().shape("n", [Some(5), None]), "[5, ?]"),
        (Padding::new().shape("n", [Some(usize::MAX)]), "too large"),
        (Padding::new().shape("n", [Some(1 << 58)]), "too large"),
        (Padding::new().value("typo", 1.0), "typo"),
        (Padding::new().text("typo", "x"), "typo"),
        (Padding::new().text("n", "x"), "the input is of numbers"),
        (Padding::new().lengths("typo", "lengths"), "typo"),
        (Padding::new().lengths("n", "id"), "id"),
    ] {
        let error = first(padding).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let words = |words: &[&str]| Record::new().with("words", words.to_vec());
    let texts = Dataset::from_records(vec![words(&["a", "b"]), words(&["c"])]);
    let first = |padding| texts.padded_batch(2, padding).open(0, 0, 0).unwrap().next().unwrap();
    for (padding, filled) in [(Padding::new(), ""), (Padding::new().text("words", "<pad>"), "<pad>")] {
        let batch = first(padding).unwrap();
        assert_eq!(batch.get("words").unwrap().as_slice::<String>().unwrap(), ["a", "b", "c", filled]);
    }
    let error = first(Padding::new().value("words", 1.0)).unwrap_err().to_string();
    assert!(error.contains("the input is text"), "{error}");
}

#[test]
fn a_pipeline_prints_one_stage_a_line() {
    let data = Dataset::interleave([numbers(0..3).shuffle(2), generated(0..2)], 1)
        .parallel_map(4, Ok)
        .cache()
        .batch(32)
        .prefetch(2);
    let lines: Vec<String> = data.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "interleave(1)");
    assert_eq!(lines[1], "  1:");
    assert!(lines[2].starts_with("    arrays(3 examples"), "{data}");
    assert_eq!(lines[3..6], ["    shuffle(2)", "  2:", "    function"]);
    assert_eq!(lines[6..], ["parallel_map(4 threads)", "cache", "batch(32)", "prefetch(2)"]);
    assert_eq!(data.describe(), data.to_string());
    // What a resumed run compares: order and content of both inputs, and neither threads nor what runs ahead.
    let same =
        Dataset::interleave([numbers(0..3).shuffle(2), generated(0..2)], 1).parallel_map(1, Ok).cache().batch(32);
    assert_eq!(data.fingerprint(), same.fingerprint());
    let swapped = Dataset::interleave([generated(0..2), numbers(0..3).shuffle(2)], 1).parallel_map(1, Ok).cache();
    assert_ne!(swapped.batch(32).fingerprint(), same.fingerprint());
    let left = numbers(0..3).concatenate(numbers(0..3)).shuffle(2);
    assert_ne!(left.fingerprint(), numbers(0..3).concatenate(numbers(0..3).shuffle(2)).fingerprint());
}

#[test]
fn a_shuffle_without_a_buffer_is_an_error_on_every_way_to_its_records() {
    // Rows by number go past `open` into a batch.
    for data in [numbers(0..4).shuffle(0), generated(0..4).shuffle(0), numbers(0..4).shuffle(0).batch(2)] {
        let error = data.open(7, 0, 0).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("shuffle: found a buffer of 0, expected at least 1"), "{error}");
    }
}

#[test]
fn prefetch_makes_no_room_without_bound() {
    let error = numbers(0..4).prefetch(usize::MAX).open(7, 0, 0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().starts_with("prefetch: found 18446744073709551615 records ahead"), "{error}");
    assert_eq!(flat(&all(&numbers(0..4).prefetch(1 << 20), 7, 0, 0)), [0, 1, 2, 3]);
}

#[test]
fn windows_are_the_stretches_of_a_series() {
    let series: Vec<i64> = (0..23).map(|n| n * n % 17).collect();
    let arrays = Dataset::from_arrays(Record::new().with("n", series.clone())).unwrap();
    let records = Dataset::from_records(series.iter().map(|&n| Record::new().with("n", n)).collect());
    let own = series.clone();
    let stream = Dataset::from_fn(move || Ok(own.clone().into_iter().map(|n| Ok(Record::new().with("n", n)))));
    for (size, shift) in [(1, 1), (5, 1), (5, 2), (4, 4), (3, 7), (23, 1), (24, 1), (2, 22), (2, 100)] {
        let expected: Vec<Vec<i64>> = series.windows(size).step_by(shift).map(<[i64]>::to_vec).collect();
        for source in [&arrays, &records, &stream] {
            let data = source.clone().window(size, shift);
            assert!(data.len().is_none_or(|len| len == expected.len() as u64), "{:?} of {data}", data.len());
            let found: Vec<Vec<i64>> =
                all(&data, 0, 0, 0).iter().map(|window| flat(std::slice::from_ref(window))).collect();
            assert_eq!(found, expected, "{data}");
            keeps_the_promises(&data);
            keeps_the_promises(&data.shuffle(4).batch(3));
        }
    }
}

#[test]
fn windows_stay_within_their_part_of_a_series() {
    let series = || numbers(0..20);
    let (train, test) = (series().take(12).window(5, 1), series().skip(12).window(5, 1));
    assert!(all(&train, 0, 0, 0).iter().flat_map(|window| flat(std::slice::from_ref(window))).all(|n| n < 12));
    assert!(all(&test, 0, 0, 0).iter().flat_map(|window| flat(std::slice::from_ref(window))).all(|n| n >= 12));
    assert_eq!((train.len(), test.len()), (Some(8), Some(4)));
    keeps_the_promises(&train.clone().concatenate(test.clone()));
    keeps_the_promises(&train.clone().repeat(2));
    // Rows that do not follow each other are windows of what comes, in that order.
    let every_third = series().shard(3, 1).window(2, 2);
    assert_eq!(flat(&all(&every_third, 0, 0, 0)), [1, 4, 7, 10, 13, 16]);
    keeps_the_promises(&every_third);
    keeps_the_promises(&series().shuffle(20).window(3, 2));
    let endless = series().repeat_forever().window(3, 3).take(14);
    assert_eq!(flat(&all(&endless, 0, 0, 13)), [19, 0, 1]);
}

#[test]
fn windows_of_matrices_and_of_several_columns() {
    let x: Vec<f32> = (0..12).map(|n| n as f32).collect();
    let table = Record::new().with("x", Array::new([6, 2], x).unwrap()).with("n", vec![0i64, 1, 2, 3, 4, 5]);
    let windows = Dataset::from_arrays(table.clone()).unwrap().window(3, 2);
    let batch = &all(&windows.batch(8), 0, 0, 0)[0];
    assert_eq!((batch.get("x").unwrap().dims(), batch.get("n").unwrap().dims()), (&[2, 3, 2][..], &[2, 3][..]));
    assert_eq!(batch.get("x").unwrap().as_slice::<f32>().unwrap()[6..], [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    // The same by the way of records.
    let streamed = Dataset::from_arrays(table).unwrap().map(Ok).window(3, 2).batch(8);
    assert_eq!(&all(&streamed, 0, 0, 0)[0], batch);
}

#[test]
fn a_window_that_cannot_be_had_says_so() {
    let error = |data: Dataset| data.open(0, 0, 0).err().unwrap();
    assert_eq!(error(numbers(0..9).window(0, 1)).kind(), ErrorKind::InvalidArgument);
    let message = error(numbers(0..9).window(3, 0)).to_string();
    assert!(message.contains("window: found the size 3 and the shift 0"), "{message}");
    let message = error(numbers(0..9).batch(3).window(2, 1)).to_string();
    assert!(message.contains("make windows before `batch`"), "{message}");
    // No window reaches over a record that could not be read.
    let gap = numbers(0..9).map(|record| match value(&record) {
        4 => Err(Error::new(ErrorKind::Data, "unreadable")),
        _ => Ok(record),
    });
    let found: Vec<_> = gap.window(2, 1).open(0, 0, 0).unwrap().map(|window| window.map(|w| flat(&[w])).ok()).collect();
    let expected: [Option<Vec<i64>>; 7] = [
        Some(vec![0, 1]),
        Some(vec![1, 2]),
        Some(vec![2, 3]),
        None,
        Some(vec![5, 6]),
        Some(vec![6, 7]),
        Some(vec![7, 8]),
    ];
    assert_eq!(found, expected);
}
