//! What docs/data.md promises of every source and every stage, tried on all of them from one table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use elistimator::data::{
    Array, Csv, Dataset, Dtype, Padding, Record, Source, TextLines, read_npy, read_npz, read_safetensors, write_npy,
};
use elistimator::{Error, ErrorKind, Result};

type Table = Vec<(&'static str, Dataset)>;

fn numbers(range: std::ops::Range<i64>) -> Dataset {
    Dataset::from_arrays(Record::new().with("n", range.collect::<Vec<_>>())).unwrap()
}

fn number(record: &Record) -> i64 {
    record.get("n").unwrap().as_slice::<i64>().unwrap()[0]
}

/// Numbers that a source of one's own counts up.
struct Count(i64);

impl Source for Count {
    fn open(&self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
        Ok(Box::new((position as i64..self.0).map(|n| Ok(Record::new().with("n", n)))))
    }

    fn describe(&self) -> String {
        format!("count to {}", self.0)
    }
}

fn written(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Every source; files are written to `dir`.
fn sources(dir: &Path) -> Table {
    let lines: String = (0..17).map(|n| format!("line {n}\n")).collect();
    let table: String = (0..17).map(|n| format!("{n},{}\n", n * n)).collect();
    let a = written(dir, "a.txt", &lines);
    let b = written(dir, "b.txt", &lines.replace("line", "zeile"));
    let csv = written(dir, "t.csv", &format!("n,square\n{table}"));
    let array = Array::from((0..17i64).collect::<Vec<_>>());
    write_npy(dir.join("n.npy"), &array).unwrap();
    let npy = read_npy(dir.join("n.npy")).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sources");
    #[allow(unused_mut)]
    let mut table = vec![
        ("from_arrays", numbers(0..17)),
        ("from_records", Dataset::from_records((0..17i64).map(|n| Record::new().with("n", n)).collect())),
        ("from_fn", Dataset::from_fn(|| Ok((0..17i64).map(|n| Ok(Record::new().with("n", n)))))),
        ("from_source", Dataset::from_source(Count(17))),
        ("text_lines", Dataset::text_lines(&a)),
        ("text_files", TextLines::files([&a, &b]).dataset()),
        ("zip_lines", Dataset::zip_lines([("words", &a), ("tags", &b)])),
        ("csv", Csv::new(&csv).column("n", Dtype::I64).column("square", Dtype::F32).dataset()),
        ("csv arrays", Dataset::from_arrays(Csv::new(&csv).column("n", Dtype::I64).into_arrays().unwrap()).unwrap()),
        ("npy", Dataset::from_arrays(Record::new().with("n", npy)).unwrap()),
    ];
    for (name, arrays) in [
        ("stored.npz", read_npz(fixtures.join("stored.npz"))),
        ("arrays.safetensors", read_safetensors(fixtures.join("arrays.safetensors"))),
    ] {
        // Arrays of different lengths: each is a record of its own here.
        let arrays = arrays.unwrap().iter().map(|(_, array)| Record::new().with("n", array.clone())).collect();
        table.push((name, Dataset::from_records(arrays)));
    }
    #[cfg(feature = "image")]
    {
        for class in ["cats", "dogs"] {
            std::fs::create_dir_all(dir.join("images").join(class)).unwrap();
            for n in 0..4 {
                let to = dir.join("images").join(class).join(format!("{n}.png"));
                std::fs::copy(fixtures.join("colours.png"), to).unwrap();
            }
        }
        let images = elistimator::data::ImageFolder::new(dir.join("images")).unwrap().size(8, 8);
        table.push(("image_folder", images.dataset()));
    }
    table
}

fn sentences() -> Dataset {
    let lengths = (0..23usize).map(|i| Record::new().with("n", vec![i as i64; 1 + i * 7 % 9]));
    Dataset::from_records(lengths.collect())
}

/// Every stage, over numbers that are known by their place and over numbers that must be counted.
fn stages(dir: &Path) -> Table {
    let cached = dir.join("cache.records");
    let plus = |record: Record| Ok(Record::new().with("n", number(&record) + 100));
    let copies = |record: Record| Ok((0..number(&record) % 3).map(|_| record.clone()).collect());
    let other = || numbers(50..58).map(|record| Ok(Record::new().with("m", number(&record))));
    let mut table: Table = Vec::new();
    for counted in [false, true] {
        let source = || if counted { numbers(0..23) } else { Dataset::from_source(Count(23)) };
        let cached = cached.with_extension(counted.to_string());
        table.extend([
            ("map", source().map(plus)),
            ("parallel_map", source().parallel_map(3, plus)),
            ("cast", source().cast("n", Dtype::F32)),
            ("filter", source().filter(|record| Ok(number(record) % 3 != 1))),
            ("flat_map", source().flat_map(copies)),
            ("shuffle buffered", source().shuffle(5)),
            ("shuffle exact", source().shuffle(100)),
            ("repeat", source().shuffle(4).repeat(3)),
            ("repeat_forever", source().shuffle(4).repeat_forever().take(60)),
            ("take", source().take(9)),
            ("skip", source().skip(9)),
            ("batch", source().shuffle(7).batch(4)),
            ("drop_remainder", source().batch(4).drop_remainder()),
            ("already_batched", source().batch(4).map(Ok).already_batched()),
            ("cache", source().cache().shuffle(6)),
            ("cache_file", source().cache_file(cached).shuffle(6)),
            ("prefetch", source().shuffle(6).prefetch(3)),
            ("shard", source().shard(3, 1)),
            ("concatenate", source().shuffle(3).concatenate(numbers(90..95).shuffle(3))),
            ("zip", source().shuffle(3).zip(other().shuffle(3))),
            (
                "interleave",
                Dataset::interleave([source(), numbers(90..95).shuffle(3), Dataset::from_source(Count(4))], 2),
            ),
            ("sample_weighted", Dataset::sample_weighted([(source().shuffle(3), 2.0), (numbers(90..95), 1.0)])),
            ("everything", source().parallel_map(2, plus).shuffle(6).repeat(2).batch(5).prefetch(2)),
        ]);
    }
    let padding = || Padding::new().value("n", -1.0).lengths("n", "lengths");
    table.push(("padded_batch", sentences().shuffle(5).padded_batch(4, padding())));
    table.push(("bucket_by_length", sentences().shuffle(5).bucket_by_length("n", &[3, 6], &[4, 3, 2], padding())));
    let dropping = sentences().bucket_by_length("n", &[3, 6], &[4, 3, 2], padding()).drop_remainder();
    table.push(("bucket_by_length.drop_remainder", dropping));
    table
}

fn pass(data: &Dataset, seed: u64, epoch: u64, position: u64) -> Vec<Record> {
    data.open(seed, epoch, position).unwrap().collect::<Result<_>>().unwrap()
}

#[test]
fn a_position_can_be_saved_and_sought_in_every_source_and_stage() {
    let dir = tempfile::tempdir().unwrap();
    for (name, data) in sources(dir.path()).into_iter().chain(stages(dir.path())) {
        for (seed, epoch) in [(0, 0), (7, 3)] {
            let whole = pass(&data, seed, epoch, 0);
            assert!(whole.len() > 2, "{name}: only {} records", whole.len());
            for saved in 0..whole.len() + 2 {
                // What a run does: so many records are used, their number is what is saved, another process goes on.
                let mut stream = data.open(seed, epoch, 0).unwrap();
                let used = stream.by_ref().take(saved).count();
                drop(stream);
                let rest = pass(&data, seed, epoch, used as u64);
                assert_eq!(rest, whole[used..], "{name}: seed {seed}, pass {epoch}, from {used}");
            }
        }
    }
}

#[test]
fn pipelines_are_iterated_and_printed_without_an_estimator() {
    let dir = tempfile::tempdir().unwrap();
    for (name, data) in sources(dir.path()).into_iter().chain(stages(dir.path())) {
        let mut count = 0;
        for record in data.open(1, 0, 0).unwrap() {
            assert!(record.unwrap().names().next().is_some(), "{name}");
            count += 1;
        }
        assert!(data.len().is_none_or(|len| len == count), "{name}: says {:?}, has {count}", data.len());
        let (printed, debug) = (data.to_string(), format!("{data:?}"));
        assert!(printed.lines().count() > 0 && debug.starts_with("Dataset("), "{name}: {printed} {debug}");
        let word = name.split([' ', '.']).next().unwrap();
        if !["everything", "drop_remainder", "repeat_forever", "already_batched"].contains(&word)
            && stages(dir.path()).iter().any(|(stage, _)| *stage == name)
        {
            assert!(printed.contains(word), "{name} is not in {printed}");
        }
    }
}

#[test]
fn the_order_follows_from_the_seed_whatever_the_number_of_threads() {
    let slow = |record: Record| {
        std::thread::sleep(std::time::Duration::from_micros((number(&record) * 7919 % 400) as u64));
        Ok(record)
    };
    let with = |threads: usize, ahead: usize| {
        let mapped = numbers(0..40).shuffle(9).parallel_map(threads, slow).shuffle(11);
        pass(&mapped.batch(3).prefetch(ahead), 5, 2, 0)
    };
    let one = with(1, 0);
    for (threads, ahead) in [(2, 1), (3, 4), (8, 2), (16, 16)] {
        assert_eq!(with(threads, ahead), one, "{threads} threads, {ahead} ahead");
    }
    assert_ne!(pass(&numbers(0..40).shuffle(40), 5, 2, 0), pass(&numbers(0..40).shuffle(40), 6, 2, 0));
}

fn trouble(at: i64, panics: bool) -> impl Fn(&Record) -> Result<()> + Send + Sync + Clone + 'static {
    move |record| match number(record) {
        n if n == at && panics => panic!("boom"),
        n if n == at => Err(Error::new(ErrorKind::Data, "boom")),
        _ => Ok(()),
    }
}

/// Pipelines that fail, with what the message must hold.
fn failing(dir: &Path, panics: bool) -> Table {
    let check = trouble(5, panics);
    let generator = move || {
        Dataset::from_fn(move || {
            let check = trouble(5, panics);
            Ok((0..9i64).map(move |n| {
                let record = Record::new().with("n", n);
                check(&record).map(|()| record)
            }))
        })
    };
    struct Failing(bool);
    impl Source for Failing {
        fn open(&self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
            let check = trouble(5, self.0);
            Ok(Box::new((position as i64..9).map(move |n| {
                let record = Record::new().with("n", n);
                check(&record).map(|()| record)
            })))
        }

        fn describe(&self) -> String {
            "failing".into()
        }
    }
    let (a, b, c, d) = (check.clone(), check.clone(), check.clone(), check);
    let map = move || {
        let check = a.clone();
        numbers(0..9).map(move |record| check(&record).map(|()| record))
    };
    let m = |n: i64| Record::new().with("m", n);
    let table = [
        ("input: element 5", generator()),
        ("input: element 5", Dataset::from_source(Failing(panics))),
        ("map: element 5", map()),
        ("parallel_map: element 5", numbers(0..9).parallel_map(3, move |record| b(&record).map(|()| record))),
        ("filter: element 5", numbers(0..9).filter(move |record| c(record).map(|()| true))),
        ("flat_map: element 5", numbers(0..9).flat_map(move |record| d(&record).map(|()| vec![record]))),
        // Stages that run nothing of the user's let it through with the place where it came about.
        ("map: element 5", map().shuffle(3)),
        ("map: element 5", map().shuffle(30)),
        ("map: element 5", map().repeat(2)),
        ("map: element 5", map().take(8)),
        ("map: element 5", map().skip(2)),
        ("map: element 5", map().batch(2)),
        ("map: element 5", map().batch(2).drop_remainder()),
        ("map: element 5", map().padded_batch(2, Padding::new())),
        ("map: element 5", map().cache()),
        ("map: element 5", map().cache_file(dir.join(format!("{panics}.records")))),
        ("map: element 5", map().prefetch(2)),
        ("map: element 5", map().shard(2, 1)),
        ("map: element 5", map().concatenate(numbers(0..3))),
        ("map: element 5", map().zip(Dataset::from_records((0..9).map(m).collect()))),
        ("map: element 5", Dataset::interleave([numbers(0..3), map()], 2)),
        ("map: element 5", Dataset::sample_weighted([(numbers(0..3), 1.0), (map(), 1.0)])),
        ("map: element 5", map().parallel_map(2, Ok).shuffle(2).batch(3).prefetch(1)),
    ];
    table.into()
}

fn first_error(data: &Dataset) -> String {
    data.open(0, 0, 0).unwrap().find_map(Result::err).expect("an error").to_string()
}

#[test]
fn errors_and_panics_reach_the_caller_with_stage_and_number() {
    let dir = tempfile::tempdir().unwrap();
    for panics in [false, true] {
        for (place, data) in failing(dir.path(), panics) {
            let message = first_error(&data);
            assert!(message.contains(place) && message.contains("boom"), "{message:?} of\n{data}");
        }
    }
}

#[test]
fn errors_that_stages_themselves_find_have_the_stage_and_the_number() {
    let uneven =
        || Dataset::from_records((0..6i64).map(|n| Record::new().with("n", vec![n; 1 + (n == 5) as usize])).collect());
    let texts =
        || Dataset::from_records((0..6).map(|n| Record::new().with("n", if n == 5 { "x" } else { "1" })).collect());
    let mixed = || {
        let values = (0..6i64).map(|n| if n == 5 { Record::new().with("n", "x") } else { Record::new().with("n", n) });
        Dataset::from_records(values.collect())
    };
    let scalar = (0..6i64).map(|n| if n == 5 { Record::new().with("n", n) } else { Record::new().with("n", vec![n]) });
    let scalar = Dataset::from_records(scalar.collect());
    let ranks = (0..6usize)
        .map(|n| Record::new().with("n", if n == 5 { Array::from([[1i64], [2]]) } else { Array::from([1i64, 2]) }));
    for (place, data) in [
        ("batch: element 2", uneven().batch(2)),
        ("cast: element 5", mixed().cast("n", Dtype::F32)),
        ("padded_batch: element 2", Dataset::from_records(ranks.collect()).padded_batch(2, Padding::new())),
        ("bucket_by_length: element 5", scalar.bucket_by_length("n", &[4], &[2, 2], Padding::new())),
        ("zip: element 0", texts().zip(texts())),
    ] {
        let message = first_error(&data);
        assert!(message.contains(place), "{message:?}, expected {place:?}");
    }
}

#[test]
fn files_that_go_wrong_name_file_line_and_number() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = dir.path().join("bad.txt");
    std::fs::write(&bytes, b"a\nb\n\xff\n").unwrap();
    let short = written(dir.path(), "short.txt", "a\nb\n");
    let long = written(dir.path(), "long.txt", "a\nb\nc\n");
    let csv = written(dir.path(), "bad.csv", "n\n1\n2\nthree\n");
    for (data, words) in [
        (Dataset::text_lines(&bytes), ["element 2", "bad.txt", "line 3"]),
        (Dataset::zip_lines([("a", &short), ("b", &long)]), ["element 2", "short.txt", "line 3"]),
        (Csv::new(&csv).column("n", Dtype::I64).dataset(), ["element 2", "bad.csv", "line 4"]),
    ] {
        let message = first_error(&data);
        assert!(words.iter().all(|word| message.contains(word)), "{message:?}, expected {words:?}");
    }
}
