//! Embeddings from GloVe's text format.

use elistimator::ErrorKind;
use elistimator::text::{Glove, MissingRows, Vocabulary};

use crate::{file, shared};

const VECTORS: &str = "the 0.5 -1 2e-3\n, 1 2 3\ncat 4 5 6\n. . . 7 8 9\ncat 0 0 0\n";

fn words() -> Vocabulary {
    let builder = Vocabulary::builder().padding("<pad>").end("</s>").oov_buckets(2);
    builder.from_tokens(["cat", "moa", "the", ". . ."]).unwrap()
}

#[test]
fn rows_are_those_of_the_vocabulary() {
    let file = file(VECTORS.as_bytes());
    let glove = Glove::read(file.path(), &words(), MissingRows::Zero).unwrap();
    assert_eq!((glove.dimension(), glove.lines(), glove.found()), (3, 5, 3));
    assert_eq!(glove.missing(), ["moa"]);
    assert_eq!(glove.matrix().dims(), [8, 3]);
    let (zero, cat, the, dots) = ([0.0f32; 3], [4.0, 5.0, 6.0], [0.5, -1.0, 2e-3], [7.0, 8.0, 9.0]);
    let expected = [zero, zero, cat, zero, the, dots, zero, zero].concat();
    assert_eq!(glove.matrix().as_slice::<f32>().unwrap(), expected);
}

#[test]
fn random_rows_depend_on_seed_and_token_alone() {
    let file = file(VECTORS.as_bytes());
    let read = |vocabulary: &Vocabulary, seed| {
        Glove::read(file.path(), vocabulary, MissingRows::Random { seed })
            .unwrap()
            .matrix()
            .to_ndarray::<f32>()
            .unwrap()
    };
    let (rows, other) = (read(&words(), 1), read(&words(), 2));
    let alone = Vocabulary::builder().oov_buckets(2).from_tokens(["x", "moa"]).unwrap();
    let alone = read(&alone, 1);
    let row = |matrix: &ndarray::ArrayD<f32>, id| matrix.index_axis(ndarray::Axis(0), id).to_owned();
    assert_eq!(row(&rows, 3), row(&alone, 1), "moa");
    assert_eq!((row(&rows, 6), row(&rows, 7)), (row(&alone, 2), row(&alone, 3)), "buckets");
    assert_ne!(row(&rows, 3), row(&other, 3));
    assert_ne!(row(&rows, 6), row(&rows, 7));
    assert_eq!(row(&rows, 0).sum(), 0.0, "padding stays zero");
    assert_eq!(row(&rows, 2).as_slice().unwrap(), [4.0, 5.0, 6.0], "found rows stay");
    for id in [1, 3, 6, 7] {
        assert!(row(&rows, id).iter().all(|value| value.abs() <= 1.0 && *value != 0.0), "bound is sqrt(3 / 3)");
    }
}

#[test]
fn bad_lines_are_named() {
    let cases: [(&str, &str); 10] = [
        ("the 1 2 3\ncat 1 2\n", "line 2: found 2 numbers behind the token, expected 3"),
        ("the 1 2 3\ncat 1 2 x\n", "line 2: found \"x\" as number 3 of 3"),
        ("the 1 nan 3\n", "line 1: found \"nan\" as number 2"),
        ("the 1 2 3\ncat inf 2 3\n", "line 2: found \"inf\" as number 1"),
        ("the 1 2 3\ncat 1  3 4\n", "found \"\" as number 1"),
        ("the 1 2 3\n\ncat 1 2 3\n", "line 2: found 0 numbers"),
        ("the 1 2 3\n 1 2 3\n", "line 2: found no token"),
        ("the\n", "line 1: found 0 numbers"),
        ("2 4\nthe 1 2 3\n", "line 2: found 3 numbers behind a token, expected 4"),
        ("", "no vectors"),
    ];
    for (text, expected) in cases {
        let words = Vocabulary::from_tokens(["the", "cat", "cat 1"]).unwrap();
        let file = file(text.as_bytes());
        let error = Glove::read(file.path(), &words, MissingRows::Zero).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(expected), "{text:?}: {error}");
        assert!(error.to_string().contains(&file.path().display().to_string()), "the file is named: {error}");
    }
    let wide = format!("the{}\n", " 1".repeat((1 << 14) + 1));
    assert!(Glove::read(file(wide.as_bytes()).path(), &words(), MissingRows::Zero).is_err());
    assert_eq!(Glove::read("/no/file", &words(), MissingRows::Zero).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn a_header_of_word2vec_is_checked() {
    let read = |text: &str| Glove::read(file(text.as_bytes()).path(), &words(), MissingRows::Zero);
    let glove = read("2 2\nthe 1 2 \ncat 3 4 \n").unwrap();
    assert_eq!((glove.lines(), glove.found(), glove.dimension()), (2, 2, 2));
    let error = read("3 2\nthe 1 2\ncat 3 4\n").unwrap_err();
    assert!(error.to_string().contains("found 2 vectors, its first line says 3"), "{error}");
}

#[test]
fn tokens_that_are_no_text_are_passed_over() {
    let file = file(b"\xff\xfe 1 2\nthe 3 4\n");
    let glove = Glove::read(file.path(), &words(), MissingRows::Zero).unwrap();
    assert_eq!((glove.lines(), glove.found()), (2, 1));
}

#[test]
fn the_published_vectors() {
    let Some(path) = shared("glove/glove.6B.50d.subset.txt.gz") else { return };
    let words = Vocabulary::builder().padding("<pad>").from_tokens(["the", "zzqx", ","]).unwrap();
    let glove = Glove::read(path, &words, MissingRows::Zero).unwrap();
    assert_eq!((glove.lines(), glove.dimension(), glove.found()), (37_837, 50, 2));
    assert_eq!(glove.missing(), ["zzqx"]);
    let values = glove.matrix().as_slice::<f32>().unwrap();
    assert_eq!(values[50..53], [0.418, 0.24968, -0.41242]);
    assert_eq!(values[150..153], [0.013441, 0.23682, -0.16899]);
}
