//! The promises of sources: positions, errors with their places, and files that are damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::{Path, PathBuf};

use elistimator::data::{Array, Csv, Dataset, Dtype, Encoding, Record, Source, TextLines};
use elistimator::{Error, ErrorKind, Result};

type Records = Box<dyn Iterator<Item = Result<Record>> + Send>;

fn all(data: &Dataset, position: u64) -> Vec<Record> {
    data.open(0, 0, position).unwrap().collect::<Result<_>>().unwrap()
}

/// The first error of a pass, at opening or later.
fn trouble(data: &Dataset) -> Error {
    let records: Result<Vec<_>> = data.open(0, 0, 0).and_then(|stream| stream.collect());
    records.unwrap_err()
}

/// The text under a name in every record.
fn texts(records: &[Record], name: &str) -> Vec<String> {
    records.iter().map(|record| record.get(name).unwrap().as_slice::<String>().unwrap()[0].clone()).collect()
}

fn file(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Opening at `k` gives what is left after `k` records.
fn positions_skip(data: &Dataset) {
    let whole = all(data, 0);
    for position in 0..=whole.len() + 2 {
        assert_eq!(all(data, position as u64), whole[position.min(whole.len())..], "from {position}");
    }
}

/// Numbers to 10, with trouble at one of them.
struct Numbers {
    trouble: Option<(u64, fn() -> Result<Record>)>,
    describe: fn() -> String,
}

impl Source for Numbers {
    fn len(&self) -> Option<u64> {
        Some(10)
    }

    fn open(&self, position: u64) -> Result<Records> {
        assert!(position != 7, "seven is not liked");
        let trouble = self.trouble;
        Ok(Box::new((position..10).map(move |n| match trouble {
            Some((at, trouble)) if at == n => trouble(),
            _ => Ok(Record::new().with("n", n as i64)),
        })))
    }

    fn describe(&self) -> String {
        (self.describe)()
    }
}

#[test]
fn a_source_of_ones_own_seeks_and_its_panics_are_errors() {
    let good = Dataset::from_source(Numbers { trouble: None, describe: || "numbers".into() });
    assert_eq!(good.len(), Some(10));
    assert_eq!(good.fingerprint(), "numbers");
    assert_eq!(all(&good, 4)[0].get("n").unwrap().as_slice::<i64>().unwrap(), [4]);
    assert_eq!(all(&good.clone().shuffle(10), 0).len(), 10);
    let error = good.open(0, 0, 7).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("element 7") && error.to_string().contains("not liked"), "{error}");

    let troubles: [(fn() -> Result<Record>, &str); 2] =
        [(|| panic!("boom"), "boom"), (|| Err(Error::new(ErrorKind::Data, "no such row")), "no such row")];
    for (trouble, words) in troubles {
        let bad = Dataset::from_source(Numbers { trouble: Some((5, trouble)), describe: || panic!("no words") });
        assert!(bad.fingerprint().contains("no words"));
        let mut stream = bad.open(0, 0, 3).unwrap();
        assert!(stream.next().unwrap().is_ok() && stream.next().unwrap().is_ok());
        let error = stream.next().unwrap().unwrap_err();
        assert!(error.to_string().contains("element 5") && error.to_string().contains(words), "{error}");
        assert!(stream.next().is_none(), "the stream ends with its first error");
    }
}

#[test]
fn lines_come_from_plain_and_gzipped_files_one_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let plain = file(&dir, "a.txt", b"\xef\xbb\xbfone\r\ntwo\n\n\xc3\xa4");
    let packed = file(&dir, "b.txt.gz", &gzipped(b"five\nsix\n"));
    let empty = file(&dir, "c.txt", b"");
    assert_eq!(texts(&all(&Dataset::text_lines(&plain), 0), "line"), ["one", "two", "", "\u{e4}"]);
    let chained = Dataset::text_files([&plain, &empty, &packed, &plain]);
    assert_eq!(texts(&all(&chained, 2), "line"), ["", "\u{e4}", "five", "six", "one", "two", "", "\u{e4}"]);
    positions_skip(&chained);
    assert_eq!(trouble(&Dataset::text_lines(dir.path())).kind(), ErrorKind::InvalidArgument);
    assert_eq!(trouble(&Dataset::text_lines(dir.path().join("none"))).kind(), ErrorKind::Io);
    let before = chained.fingerprint();
    file(&dir, "a.txt", b"\xef\xbb\xbfone\r\ntwo\n\n\xc3\xa5");
    assert_ne!(chained.fingerprint(), before, "other text is other data");
}

#[test]
fn bytes_that_are_no_utf8_are_told_with_file_and_line_and_latin1_takes_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "old.txt", b"fine\nK\xe4se\n");
    let error = trouble(&Dataset::text_lines(&path));
    assert_eq!(error.kind(), ErrorKind::Data);
    for words in ["old.txt", "line 2", "byte 2", "0xe4"] {
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    let latin = TextLines::new(&path).encoding(Encoding::Latin1).dataset();
    assert_eq!(texts(&all(&latin, 1), "line"), ["K\u{e4}se"]);
}

#[test]
fn lines_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "long.txt", b"12345\r\n12345\n12345");
    assert_eq!(all(&TextLines::new(&path).max_line_bytes(5).dataset(), 0).len(), 3);
    let error = trouble(&TextLines::new(&path).max_line_bytes(4).dataset());
    assert!(error.to_string().contains("line 1 is longer than 4 bytes"), "{error}");
    let zeros = file(&dir, "zeros.gz", &gzipped(&vec![0; 17 << 20]));
    let error = trouble(&Dataset::text_lines(&zeros));
    assert!(error.to_string().contains("longer than 16777216 bytes"), "{error}");
}

#[test]
fn files_side_by_side_must_be_equally_long() {
    let dir = tempfile::tempdir().unwrap();
    let (words, tags) = (file(&dir, "words", b"a b\nc\nd\n"), file(&dir, "tags", b"X Y\nX\nZ"));
    let zipped = Dataset::zip_lines([("words", &words), ("tags", &tags)]);
    positions_skip(&zipped);
    assert_eq!(texts(&all(&zipped, 0), "words"), ["a b", "c", "d"]);
    assert_eq!(texts(&all(&zipped, 0), "tags"), ["X Y", "X", "Z"]);
    let short = file(&dir, "short", b"X Y\nX\n");
    for files in [[("words", &words), ("tags", &short)], [("tags", &short), ("words", &words)]] {
        let error = trouble(&Dataset::zip_lines(files)).to_string();
        assert!(error.contains("short ends after 2 lines") && error.contains("words has a line 3"), "{error}");
    }
    let twice = trouble(&Dataset::zip_lines([("w", &words), ("w", &tags)]));
    assert_eq!(twice.kind(), ErrorKind::InvalidArgument);
}

/// Every file that is cut short or has a byte flipped is read to an end, or to an error that names it.
fn survives_damage(bytes: &[u8], name: &str, mut read: impl FnMut(&Path) -> Result<()>) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut errors = (0, 0);
    let mut check = |bytes: &[u8]| {
        let path = file(&dir, name, bytes);
        read(&path).is_err_and(|error| {
            assert!(error.to_string().contains(name), "the file is named: {error}");
            true
        })
    };
    for end in 0..bytes.len() {
        errors.0 += usize::from(check(&bytes[..end]));
    }
    for at in 0..bytes.len() {
        for flip in [0x01, 0x10, 0x80, 0xff] {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= flip;
            errors.1 += usize::from(check(&bytes));
        }
    }
    errors
}

#[test]
fn damaged_gzip_never_panics() {
    let packed = gzipped("some words\nin lines that repeat, in lines that repeat\n".repeat(4).as_bytes());
    let read = |path: &Path| Dataset::text_lines(path).open(0, 0, 0)?.try_for_each(|record| record.map(drop));
    let (cut, flipped) = survives_damage(&packed, "damaged.gz", read);
    assert_eq!(cut, packed.len(), "every truncation is noticed");
    assert!(flipped > packed.len(), "most flips are noticed by the checksum: {flipped}");
}

const TABLE: &[u8] =
    b"\xef\xbb\xbfname;age;label;good;extra\n\"a;\"\"b\"\"\n\"; 1.5;3;TRUE;x\nc;;-4;0;\n\xc3\xa4;1e3;5;false;y\n";

fn table(path: &Path) -> Csv {
    let columns = [("label", Dtype::I64), ("name", Dtype::Text), ("age", Dtype::F32), ("good", Dtype::Bool)];
    columns.into_iter().fold(Csv::new(path), |csv, (name, dtype)| csv.column(name, dtype)).delimiter(b';').missing(-1.0)
}

#[test]
fn csv_columns_have_their_types() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [file(&dir, "table.csv", TABLE), file(&dir, "table.csv.gz", &gzipped(TABLE))];
    for path in &paths {
        let whole = table(path).into_arrays().unwrap();
        let expected = Record::new()
            .with("label", vec![3i64, -4, 5])
            .with("name", vec!["a;\"b\"\n", "c", "\u{e4}"])
            .with("age", vec![1.5f32, -1.0, 1000.0])
            .with("good", vec![true, false, false]);
        assert_eq!(whole, expected);
        assert_eq!(all(&table(path).dataset(), 0), all(&Dataset::from_arrays(expected).unwrap(), 0));
        positions_skip(&table(path).dataset());
    }
    let numbers = file(&dir, "numbers", b"1,2\n3,NA\n");
    let csv = || Csv::new(&numbers).without_header().column("x", Dtype::U8).missing_text("NA").missing(9.0);
    assert_eq!(csv().column("y", Dtype::I32).into_arrays().unwrap().get("y").unwrap(), &Array::from(vec![2i32, 9]));
    let error = csv().into_arrays().unwrap_err().to_string();
    assert!(error.contains("line 1: found 2 fields, expected 1, as many as there are columns"), "{error}");
}

#[test]
fn csv_errors_say_where_what_and_what_instead() {
    let dir = tempfile::tempdir().unwrap();
    type Make = fn(Csv) -> Csv;
    let (x, y): (Make, Make) = (|csv| csv.column("x", Dtype::I32), |csv| csv.column("y", Dtype::F32));
    let cases: [(&[u8], Make, &str); 18] = [
        (b"x,y\n1,2\n\"3\n\",b\n1.5,4\n", x, "line 5: column \"x\": found \"1.5\", expected i32"),
        (b"x,y\n1,2\n3,abc\n", y, "line 3: column \"y\": found \"abc\", expected f32"),
        (b"x,y\r\n1,2\r\n3,abc\r\n", y, "line 3: column \"y\": found \"abc\", expected f32"),
        (b"x,y\r\n1,abc", y, "line 2: column \"y\": found \"abc\", expected f32"),
        (b"\"x\r\n\",y\r\n1,2\r\n3\r\n", y, "line 4: found 1 fields, expected 2"),
        (
            b"\xef\xbb\xbfabc\r\n1\r\n",
            |csv| csv.without_header().column("x", Dtype::U8),
            "line 1: column \"x\": found \"abc\"",
        ),
        (b"x,y\n1,\n", y, "found \"\", expected f32 (`missing` sets"),
        (b"x,y\n3000000000,1\n", x, "found \"3000000000\", expected i32"),
        (b"x,y\n,1\n", |csv| csv.column("x", Dtype::I64).missing(f64::NAN), "expected i64, and NaN for missing"),
        (b"x\n\xff\n", |csv| csv.column("x", Dtype::Text), "expected UTF-8 text"),
        (b"x,y\n1,2,3\n", x, "line 2: found 3 fields, expected 2, as many as the header has"),
        (b"a,b\n1,2\n", x, "column \"x\": it is not in the header, which has \"a\", \"b\""),
        (b"x,x\n1,2\n", x, "in the header twice"),
        (b"", x, "is empty, expected a header"),
        (b"x\n1\n", |csv| csv, "no column is asked for"),
        (b"x\n1\n", |csv| csv.column("x", Dtype::U8).column("x", Dtype::I32), "asked for twice"),
        (b"x\n1\n", |csv| csv.column("x", Dtype::U8).delimiter(b'"'), "cannot be the delimiter"),
        (b"x\n1\n2\n", |csv| csv.column("x", Dtype::U8).max_bytes(3), "longer than 3 bytes"),
    ];
    for (bytes, make, words) in cases {
        let csv = make(Csv::new(file(&dir, "some.csv", bytes)));
        let error = csv.clone().into_arrays().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("some.csv"), "{words}: {error}");
        if !words.contains("longer") {
            assert!(trouble(&csv.dataset()).to_string().contains(words));
        }
    }
    let endless = file(&dir, "endless.csv", &[&b"x\n\""[..], &vec![b'a'; 1 << 20]].concat());
    let error = trouble(&Csv::new(endless).column("x", Dtype::Text).max_row_bytes(1000).dataset());
    assert!(error.to_string().contains("the row is longer than 1000 bytes"), "{error}");
}

#[test]
fn damaged_csv_never_panics() {
    let read = |path: &Path| {
        let streamed = table(path).dataset().open(0, 0, 0).and_then(|stream| stream.collect::<Result<Vec<_>>>());
        let whole = table(path).into_arrays();
        assert_eq!(streamed.is_ok(), whole.is_ok(), "both ways of reading agree");
        whole.map(drop)
    };
    assert!(survives_damage(TABLE, "damaged.csv", read).1 > 0);
}
