//! Data without end: it trains by steps, and neither a pipeline nor a run takes more memory the longer it goes on.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{points, quiet};
use elistimator::data::Padding;
use elistimator::prelude::*;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The most that was in use during `run`, above what there was before, in bytes.
fn peak(run: impl FnOnce()) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    run();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

fn numbers() -> Dataset {
    Dataset::from_fn(|| Ok((0i64..).map(|n| Ok(Record::new().with("n", vec![n; 1 + (n % 7) as usize])))))
}

/// All stages that hold records, over data that never ends.
fn pipelines() -> Vec<(&'static str, Dataset)> {
    let finite = || numbers().take(40);
    vec![
        ("shuffle", numbers().shuffle(100).padded_batch(8, Padding::new())),
        ("parallel_map", numbers().parallel_map(3, Ok).prefetch(4)),
        ("bucket_by_length", numbers().bucket_by_length("n", &[3, 5], &[8, 8, 8], Padding::new())),
        ("repeat_forever", finite().shuffle(40).repeat_forever().padded_batch(8, Padding::new())),
        ("cache", finite().cache().shuffle(40).repeat_forever()),
        ("filter", numbers().filter(|record| Ok(record.get("n")?.rows() > 2))),
        ("flat_map", numbers().flat_map(|record| Ok(vec![record.clone(), record]))),
        ("zip", numbers().zip(finite().map(|_| Ok(Record::new().with("m", 1i64))).repeat_forever())),
        ("interleave", Dataset::interleave([numbers(), numbers()], 3)),
        ("sample_weighted", Dataset::sample_weighted([(numbers(), 1.0), (finite().repeat_forever(), 2.0)])),
        ("shard", numbers().shard(3, 1)),
        ("concatenate", finite().concatenate(numbers())),
    ]
}

/// One test, since every thread's memory counts.
#[test]
fn endless_data_trains_by_steps_and_memory_stays_flat() {
    for (name, data) in pipelines() {
        let mut stream = data.open(1, 0, 0).unwrap();
        let mut read = |records: usize| {
            peak(|| {
                for record in stream.by_ref().take(records) {
                    record.unwrap();
                }
            })
        };
        read(500);
        let (short, long) = (read(500), read(20_000));
        // What one record more would cost, 20,000 times, is far above this.
        assert!(long < short + 32 * 1024, "{name}: {short} bytes over 500 records, {long} over 20,000");
        let rest = data.open(1, 0, 3).unwrap().next().unwrap().unwrap();
        assert!(rest.names().next().is_some(), "{name}");
    }

    let endless = || points(100).shuffle(40).repeat_forever().batch(5).prefetch(2);
    let dir = tempfile::tempdir().unwrap();
    let builder = |dir: &std::path::Path| quiet(common::Line::default()).model_dir(dir);
    let mut estimator = builder(dir.path()).build().unwrap();
    estimator.setup(Inputs::train(endless())).unwrap().train_steps(500).unwrap();
    let mut steps = |count: u64| {
        peak(|| {
            estimator.train_steps(count).unwrap();
        })
    };
    let (short, long) = (steps(500), steps(5_000));
    println!("a run of 500 steps takes {short} bytes more, one of 5,000 {long}");
    assert!(long < short + 256 * 1024, "{short} bytes over 500 steps, {long} over 5,000");
    assert_eq!((estimator.global_step(), estimator.epoch()), (6_000, 0), "there is one epoch, and it never ends");
    assert_eq!(endless().len(), None);
    // A whole pass would never come back.
    let error = estimator.train().unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("train_steps"), "{error}");
    assert_eq!(estimator.evaluate(endless()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(estimator.evaluate_steps(endless(), 3).is_ok());

    // Resumed in the middle of it, the run goes on with the next batch.
    let (resumed, unbroken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = builder(resumed.path()).build().unwrap();
    first.setup(Inputs::train(endless())).unwrap().train_steps(37).unwrap().save_ckpt().unwrap();
    drop(first);
    let mut second = builder(resumed.path()).resume_or_start().unwrap();
    second.setup(Inputs::train(endless())).unwrap().train_until(90).unwrap();
    let mut whole = builder(unbroken.path()).build().unwrap();
    whole.setup(Inputs::train(endless())).unwrap().train_steps(90).unwrap();
    let metrics = |estimator: &Elistimator<common::Line>| estimator.evaluate(points(50).batch(10)).unwrap();
    assert_eq!(metrics(&second), metrics(&whole));
}
