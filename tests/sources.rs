//! The promises of sources: positions, errors with their places, and files that are damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use elistimator::data::{Dataset, Record, Source};
use elistimator::{Error, ErrorKind, Result};

type Records = Box<dyn Iterator<Item = Result<Record>> + Send>;

fn all(data: &Dataset, position: u64) -> Vec<Record> {
    data.open(0, 0, position).unwrap().collect::<Result<_>>().unwrap()
}

/// Opening at `k` gives what is left after `k` records.
#[allow(dead_code)]
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
