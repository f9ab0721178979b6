//! The promises of datasets: order, positions, errors and threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use elistimator::data::{Array, Dataset, Dtype, Padding, Record, Signature};
use elistimator::{Error, ErrorKind};
use proptest::prelude::*;

fn numbers(count: i64) -> Dataset {
    Dataset::from_arrays(Record::new().with("n", (0..count).collect::<Vec<_>>())).unwrap()
}

fn all(data: &Dataset, seed: u64, epoch: u64, position: u64) -> Vec<Record> {
    data.open(seed, epoch, position).unwrap().collect::<Result<_, _>>().unwrap()
}

fn flat(records: &[Record]) -> Vec<i64> {
    records.iter().flat_map(|record| record.get("n").unwrap().as_slice::<i64>().unwrap().to_vec()).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Shuffle(usize),
    Map,
    Filter,
    Repeat(u64),
    Take(u64),
    Skip(u64),
    Prefetch(usize),
    Cast,
    FlatMap,
    ParallelMap(usize),
    Cache,
    Shard(u64, u64),
    Concatenate,
    Zip,
    Interleave(usize),
    Sample,
}

#[derive(Debug, Clone)]
enum Batching {
    None,
    Batch(usize),
    Padded(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1usize..12).prop_map(Step::Shuffle),
        Just(Step::Map),
        Just(Step::Filter),
        (0u64..4).prop_map(Step::Repeat),
        (0u64..15).prop_map(Step::Take),
        (0u64..6).prop_map(Step::Skip),
        (0usize..3).prop_map(Step::Prefetch),
        Just(Step::Cast),
        Just(Step::FlatMap),
        (1usize..4).prop_map(Step::ParallelMap),
        Just(Step::Cache),
        (1u64..4, 0u64..4).prop_map(|(count, index)| Step::Shard(count, index % count)),
        Just(Step::Concatenate),
        Just(Step::Zip),
        (1usize..4).prop_map(Step::Interleave),
        Just(Step::Sample),
    ]
}

fn batching() -> impl Strategy<Value = Batching> {
    prop_oneof![Just(Batching::None), (1usize..5).prop_map(Batching::Batch), (1usize..5).prop_map(Batching::Padded),]
}

fn apply(data: Dataset, step: &Step) -> Dataset {
    match *step {
        Step::Shuffle(buffer) => data.shuffle(buffer),
        Step::Map => data.map(|mut record| {
            let n = record.remove("n").unwrap();
            let more: Vec<i64> = n.as_slice::<i64>()?.iter().map(|n| n + 100).collect();
            record.insert("n", Array::new(n.dims(), more)?);
            Ok(record)
        }),
        Step::Filter => data.filter(|record| Ok(record.get("n")?.as_slice::<i64>()?.iter().sum::<i64>() % 3 != 0)),
        Step::Repeat(times) => data.repeat(times),
        Step::Take(count) => data.take(count),
        Step::Skip(count) => data.skip(count),
        Step::Prefetch(ahead) => data.prefetch(ahead),
        Step::Cast => data.cast("n", Dtype::I64),
        Step::FlatMap => data.flat_map(|record| {
            let copies = record.get("n")?.as_slice::<i64>()?.iter().sum::<i64>().rem_euclid(3);
            Ok((0..copies).map(|_| record.clone()).collect())
        }),
        Step::ParallelMap(threads) => data.parallel_map(threads, |record| {
            let less = record.get("n")?.as_slice::<i64>()?.iter().map(|n| n - 7).collect::<Vec<i64>>();
            Ok(Record::new().with("n", Array::new(record.get("n")?.dims(), less)?))
        }),
        Step::Cache => data.cache(),
        Step::Shard(count, index) => data.shard(count, index),
        Step::Concatenate => data.clone().concatenate(data.take(3)),
        Step::Zip => {
            let other = data.clone().map(|mut record| {
                let n = record.remove("n").unwrap();
                Ok(record.with("m", n))
            });
            data.zip(other).map(|mut record| {
                let (n, m) = (record.remove("n").unwrap(), record.remove("m").unwrap());
                let sum = n.as_slice::<i64>()?.iter().zip(m.as_slice::<i64>()?).map(|(n, m)| n + 2 * m);
                Ok(record.with("n", Array::new([sum.len()], sum.collect::<Vec<_>>())?))
            })
        }
        Step::Interleave(block) => Dataset::interleave([data.clone().take(4), data], block),
        Step::Sample => Dataset::sample_weighted([(data.clone().skip(1), 1.0), (data, 2.0)]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn from_any_position_comes_what_the_unbroken_pass_gives(
        before in prop::collection::vec(step(), 0..4),
        batching in batching(),
        after in prop::collection::vec(step(), 0..4),
        (count, kind, seed, epoch) in (0i64..14, 0u8..3, any::<u64>(), 0u64..3),
    ) {
        let source = match kind {
            0 => numbers(count),
            1 => Dataset::from_records(all(&numbers(count), 0, 0, 0)),
            _ => Dataset::from_fn(move || Ok((0..count).map(|n| Ok(Record::new().with("n", n))))),
        };
        let data = before.iter().fold(source, apply);
        let data = match batching {
            Batching::None => data,
            Batching::Batch(size) => data.batch(size),
            Batching::Padded(size) => data.padded_batch(size, Padding::new()),
        };
        let data = after.iter().fold(data, apply);
        let whole = all(&data, seed, epoch, 0);
        if let Some(len) = data.len() {
            prop_assert_eq!(len, whole.len() as u64);
        }
        for position in 0..whole.len() + 2 {
            let rest = all(&data, seed, epoch, position as u64);
            prop_assert_eq!(&rest[..], &whole[position.min(whole.len())..]);
        }
    }

    #[test]
    fn a_buffered_shuffle_keeps_every_record_and_moves_none_forward_past_its_buffer(
        count in 0i64..60, buffer in 1usize..70, seed in any::<u64>(),
    ) {
        let order = flat(&all(&numbers(count).shuffle(buffer), seed, 0, 0));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        for (place, &n) in order.iter().enumerate() {
            prop_assert!((n as usize) < place + buffer, "{n} came at {place} out of a buffer of {buffer}");
        }
    }
}

#[test]
fn the_order_is_that_of_seed_and_epoch() {
    let data = numbers(50).shuffle(50);
    let order = |seed, epoch| flat(&all(&data, seed, epoch, 0));
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    assert_eq!(order(1, 3), flat(&all(&data.clone().prefetch(4), 1, 3, 0)));
    // By number and by record the order is the same.
    assert_eq!(order(1, 3), flat(&all(&numbers(50).map(Ok).shuffle(50), 1, 3, 0)));
    let rounds = flat(&all(&numbers(50).shuffle(50).repeat(2), 1, 0, 0));
    assert_ne!(rounds[..50], rounds[50..], "each round has its own order");
}

#[test]
fn a_buffer_as_long_as_the_data_gives_every_order_the_same_chance() {
    let data = numbers(3).shuffle(3);
    let mut counts = std::collections::BTreeMap::new();
    for epoch in 0..6000 {
        *counts.entry(flat(&all(&data, 5, epoch, 0))).or_insert(0u32) += 1;
    }
    assert_eq!(counts.len(), 6);
    // Six standard deviations of a binomial with p = 1/6 are 173.
    assert!(counts.values().all(|&count| count.abs_diff(1000) < 174), "{counts:?}");
}

fn failing(at: i64, panics: bool) -> Dataset {
    numbers(10).map(move |record| match record.get("n")?.as_slice::<i64>()?[0] {
        n if n == at && panics => panic!("boom"),
        n if n == at => Err(Error::new(ErrorKind::Data, "bad")),
        _ => Ok(record),
    })
}

#[test]
fn errors_and_panics_name_stage_and_element_in_place_and_in_the_thread() {
    for panics in [false, true] {
        for data in [failing(4, panics), failing(4, panics).prefetch(2)] {
            let records: Vec<_> = data.open(0, 0, 0).unwrap().take(5).collect();
            assert!(records[..4].iter().all(Result::is_ok));
            let message = records[4].as_ref().unwrap_err().to_string();
            assert!(message.contains("map: element 4"), "{message}");
            assert!(message.contains(if panics { "boom" } else { "bad" }), "{message}");
        }
        // The number is that of the pass, not of what was opened.
        let error = failing(4, panics).open(0, 0, 3).unwrap().nth(1).unwrap().unwrap_err().to_string();
        assert!(error.contains("element 4"), "{error}");
    }
    let filter = numbers(5).filter(|record| match record.get("n")?.as_slice::<i64>()?[0] {
        2 => Err(Error::new(ErrorKind::Data, "bad")),
        n => Ok(n > 0),
    });
    let error = filter.open(0, 0, 0).unwrap().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("filter: element 2"), "{error}");
}

#[test]
fn dropping_the_stream_joins_the_prefetch_thread_even_of_endless_data() {
    let alive = Arc::new(AtomicUsize::new(0));
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let counter = Arc::clone(&alive);
    let data = Dataset::from_fn(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        let guard = Count(Arc::clone(&counter));
        Ok((0i64..).map(move |n| {
            let _ = &guard;
            Ok(Record::new().with("n", n))
        }))
    })
    .prefetch(3);
    let mut stream = data.open(0, 0, 0).unwrap();
    assert_eq!(flat(&[stream.next().unwrap().unwrap()]), [0]);
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    drop(stream);
    assert_eq!(alive.load(Ordering::SeqCst), 0, "the thread and what it held are gone when drop returns");
}

#[test]
fn endless_and_empty_data() {
    let endless = numbers(3).shuffle(3).repeat_forever();
    assert_eq!(endless.len(), None);
    let stream = endless.open(1, 0, 1_000_000).unwrap();
    let found: BTreeSet<i64> = flat(&stream.take(30).collect::<Result<Vec<_>, _>>().unwrap()).into_iter().collect();
    assert_eq!(found, BTreeSet::from([0, 1, 2]));
    for empty in [numbers(0), Dataset::from_records(Vec::new()), numbers(5).filter(|_| Ok(false))] {
        assert!(all(&empty.clone().shuffle(4).repeat_forever().batch(2).prefetch(1), 0, 0, 0).is_empty());
        assert!(all(&empty.padded_batch(2, Padding::new()), 0, 0, 3).is_empty());
    }
}

#[test]
fn a_last_batch_is_ragged_or_dropped_wherever_that_is_said() {
    let sizes =
        |data: &Dataset| all(data, 0, 0, 0).iter().map(|batch| batch.get("n").unwrap().len()).collect::<Vec<_>>();
    assert_eq!(sizes(&numbers(7).batch(3)), [3, 3, 1]);
    assert_eq!(sizes(&numbers(7).batch(3).drop_remainder()), [3, 3]);
    assert_eq!(numbers(7).batch(3).drop_remainder().len(), Some(2));
    assert_eq!(sizes(&numbers(7).batch(3).map(Ok).drop_remainder()), [3, 3], "also after another stage");
    assert_eq!(sizes(&numbers(7).filter(|_| Ok(true)).batch(3).drop_remainder()), [3, 3]);
    let error = numbers(3).batch(0).open(0, 0, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn signatures_widen_to_what_is_seen_and_refuse_other_types() {
    let batch = |rows: usize, width: usize| {
        Record::new().with("x", Array::new([rows, width], vec![0f32; rows * width]).unwrap())
    };
    let mut signature = Signature::of_batch(&batch(2, 3)).unwrap();
    signature.check_batch(&batch(5, 3), &["x"]).unwrap();
    assert!(signature.check_batch(&batch(5, 4), &["x"]).is_err());
    assert!(!signature.widen(&batch(9, 3)).unwrap());
    assert!(signature.widen(&batch(2, 4)).unwrap(), "another width frees the axis");
    signature.check_batch(&batch(1, 17), &["x"]).unwrap();
    let error = signature.check_batch(&Record::new().with("x", [[1i64, 2]]), &["x"]).unwrap_err().to_string();
    assert!(error.contains("i64") && error.contains("f32"), "{error}");
    let error = signature.check_batch(&Record::new().with("y", [[1f32]]), &["x"]).unwrap_err().to_string();
    assert!(error.contains("\"x\""), "{error}");
    assert!(Signature::of_batch(&Record::new().with("x", [1f32, 2.0]).with("y", [1f32])).is_err());
}

#[test]
fn arrays_go_to_ndarray_and_back_and_share_rows() {
    let array = Array::from(ndarray::arr2(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).reversed_axes());
    assert_eq!((array.dims(), array.as_slice::<f32>().unwrap()), (&[3, 2][..], &[1f32, 4.0, 2.0, 5.0, 3.0, 6.0][..]));
    assert_eq!(Array::from(array.to_ndarray::<f32>().unwrap()), array);
    let row = array.row(1).unwrap();
    assert_eq!(row.as_slice::<f32>().unwrap().as_ptr(), array.as_slice::<f32>().unwrap()[2..].as_ptr(), "no copy");
    assert!(array.row(3).is_err() && array.row(usize::MAX).is_err());
    assert_eq!(array.as_slice::<i64>().unwrap_err().kind(), ErrorKind::Signature);
}

#[test]
fn padding_fills_every_axis() {
    let arrays = [Array::from([[1i64, 2]]), Array::from([[3i64], [4], [5]])];
    let padded = Array::pad_stack(&arrays, -1.0).unwrap();
    assert_eq!(padded.dims(), [2, 3, 2]);
    assert_eq!(padded.as_slice::<i64>().unwrap(), [1, 2, -1, -1, -1, -1, 3, -1, 4, -1, 5, -1]);
    let empty = Array::new([0, 4], Vec::<i64>::new()).unwrap();
    assert_eq!(Array::pad_stack(&[empty, arrays[0].clone()], 0.0).unwrap().dims(), [2, 1, 4]);
    assert!(Array::pad_stack(&[Array::from(1i64), Array::from(vec![1i64])], 0.0).is_err());
}

#[test]
fn an_array_says_how_many_values_its_shape_has() {
    let error = |dims: [usize; 2]| Array::new(dims, vec![0f32; 5]).unwrap_err().to_string();
    assert_eq!(error([2, 3]), "array of shape [2, 3]: found 5 values, expected 6");
    assert!(error([usize::MAX, 3]).contains("whose product can be counted"));
}
