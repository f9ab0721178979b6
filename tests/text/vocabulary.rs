//! Ids of tokens, from lists, files and counts, and what is saved of them.

use elistimator::ErrorKind;
use elistimator::data::Array;
use elistimator::text::{TokenCounts, Vocabulary, VocabularyBuilder};
use proptest::prelude::*;

use crate::file;

#[test]
fn ids_are_special_tokens_then_the_list_then_buckets() {
    let words = Vocabulary::builder().padding("<pad>").start("<s>").end("</s>").oov_buckets(2);
    let words = words.from_tokens(["the", "cat"]).unwrap();
    assert_eq!(words.iter().collect::<Vec<_>>(), ["<pad>", "<s>", "</s>", "the", "cat"]);
    assert_eq!((words.size(), words.oov_buckets()), (7, 2));
    assert_eq!((words.padding_id(), words.start_id(), words.end_id()), (Some(0), Some(1), Some(2)));
    assert_eq!(words.ids_with_ends(&["the", "cat"]).unwrap(), [1, 3, 4, 2]);
    for (id, token) in words.iter().enumerate() {
        assert_eq!((words.id(token), words.token(id as i64)), (Some(id as i64), Some(token)));
    }
    assert_eq!((words.token(5), words.token(7), words.token(-1)), (None, None, None));
    assert_eq!(words.tokens(&[3, 6, 0]).unwrap(), ["the", Vocabulary::OOV, "<pad>"]);
    for outside in [7, -1, i64::MIN, i64::MAX] {
        let error = words.tokens(&[3, outside]).unwrap_err();
        assert!(error.to_string().contains(&format!("id {outside} at place 1")), "{error}");
    }
}

#[test]
fn special_tokens_in_the_list_keep_their_places() {
    let bert = Vocabulary::builder().padding("[PAD]").unknown("[UNK]").start("[CLS]").end("[SEP]");
    let bert = bert.from_file(file(b"[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\nthe\n").path()).unwrap();
    assert_eq!(bert.size(), 6);
    assert_eq!(
        (bert.padding_id(), bert.unknown_id(), bert.start_id(), bert.end_id()),
        (Some(0), Some(2), Some(3), Some(4))
    );
    assert_eq!(bert.ids(&["the", "moa", "[CLS]"]).unwrap(), [5, 2, 3]);
    assert!(bert.contains("the") && !bert.contains("moa"));
    // One token in two roles is one id.
    let shared = Vocabulary::builder().padding("<eos>").end("<eos>").from_tokens(["a"]).unwrap();
    assert_eq!((shared.size(), shared.padding_id(), shared.end_id()), (2, Some(0), Some(0)));
}

/// The hashes are the published test vectors of FNV-1a (`http://www.isthe.com/chongo/src/fnv/test_fnv.c`).
#[test]
fn buckets_are_the_published_hash() {
    let vectors = [
        ("", 0xcbf29ce484222325),
        ("a", 0xaf63dc4c8601ec8c),
        ("b", 0xaf63df4c8601f1a5),
        ("foobar", 0x85944171f73967e8u64),
    ];
    for buckets in [1, 7, 1000] {
        let words = Vocabulary::builder().oov_buckets(buckets).from_tokens(["in"]).unwrap();
        for (token, hash) in vectors {
            assert_eq!(words.id(token), Some(1 + (hash % buckets as u64) as i64), "{token:?} of {buckets}");
        }
    }
}

#[test]
fn words_outside_without_a_place_are_errors_that_name_them() {
    let tags = Vocabulary::from_tokens(["O", "B-PER"]).unwrap();
    assert_eq!((tags.id("B-LOC"), tags.padding_id(), tags.unknown_id()), (None, None, None));
    let error = tags.ids(&["O", "B-LOC"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("\"B-LOC\" at place 1"), "{error}");
}

#[test]
fn arrays_keep_their_shape_and_empty_text_is_padding() {
    let words = Vocabulary::builder().padding("<pad>").unknown("<unk>").from_tokens(["a", "b"]).unwrap();
    let text = Array::new([2, 2], ["b", "a", "zzz", ""].map(str::to_owned).to_vec()).unwrap();
    let ids = words.encode(&text).unwrap();
    assert_eq!(ids, Array::new([2, 2], vec![3i64, 2, 1, 0]).unwrap());
    let back = Array::new([2, 2], ["b", "a", "<unk>", "<pad>"].map(str::to_owned).to_vec()).unwrap();
    assert_eq!(words.decode(&ids).unwrap(), back);
    assert_eq!(words.encode(&ids).unwrap_err().kind(), ErrorKind::Signature);
    assert_eq!(words.decode(&text).unwrap_err().kind(), ErrorKind::Signature);
    // A list that has the empty text itself means that one; without padding it is a word as any other.
    let own = Vocabulary::builder().padding("<pad>").from_tokens(["a", ""]).unwrap();
    assert_eq!(own.encode(&Array::from(vec![""])).unwrap(), Array::from(vec![2i64]));
    let error = Vocabulary::from_tokens(["a"]).unwrap().encode(&Array::from(vec![""])).unwrap_err();
    assert!(error.to_string().contains("Padding::text"), "{error}");
}

#[test]
fn counts_become_ids_by_frequency() {
    let mut counts = TokenCounts::new();
    counts.add_all("a <pad> b b <pad> <pad> c".split(' '));
    let words = Vocabulary::builder().padding("<pad>").from_counts(&counts).unwrap();
    assert_eq!(words.iter().collect::<Vec<_>>(), ["<pad>", "b", "a", "c"]);
    let words = Vocabulary::builder().padding("<pad>").from_counts(&counts.min_count(2)).unwrap();
    assert_eq!(words.iter().collect::<Vec<_>>(), ["<pad>", "b"]);
}

#[test]
fn bad_lists_name_places_and_lines() {
    let error = Vocabulary::from_tokens(["x", "y", "x"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("token 2") && error.to_string().contains("token 0"), "{error}");
    let cases: [(&[u8], &str); 4] = [
        (b"x\ny\n\nz\ny\n", "line 3: empty"),
        (b"x\ny\nz\r\ny\n", "line 4: \"y\" is in line 2 already"),
        (b"x\ncaf\xe9\n", "line 2"),
        (b"x\n\n", "line 2: empty"),
    ];
    for (bytes, expected) in cases {
        let file = file(bytes);
        let error = Vocabulary::from_file(file.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains(&file.path().display().to_string()), "the file is named: {error}");
    }
    assert_eq!(Vocabulary::from_file("/no/such/file").unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn settings_that_cannot_work_are_errors() {
    let both = Vocabulary::builder().unknown("<unk>").oov_buckets(1).from_tokens(["a"]).unwrap_err();
    assert!(both.to_string().contains("exclude"), "{both}");
    for buckets in [1 << 24, usize::MAX] {
        let error = Vocabulary::builder().oov_buckets(buckets).from_tokens(["a"]).unwrap_err();
        assert!(error.to_string().contains("16777216"), "{error}");
    }
    assert_eq!(Vocabulary::from_tokens(Vec::<String>::new()).unwrap().size(), 0);
}

#[test]
fn what_is_saved_is_the_list_and_the_settings() {
    let words = Vocabulary::builder().padding("<pad>").oov_buckets(3).from_tokens(["a", "é"]).unwrap();
    let json = serde_json::to_string(&words).unwrap();
    assert_eq!(json, r#"{"padding":"<pad>","oov_buckets":3,"tokens":["<pad>","a","é"]}"#);
    assert_eq!(serde_json::from_str::<Vocabulary>(&json).unwrap(), words);
    for damaged in [
        r#"{"padding":"<pad>","oov_buckets":3,"tokens":["a","a"]}"#,
        r#"{"oov_buckets":18446744073709551615,"tokens":["a"]}"#,
        r#"{"oov_buckets":-1,"tokens":["a"]}"#,
        r#"{"oov_buckets":1,"unknown":"?","tokens":["a"]}"#,
        r#"{"case":"fold","tokens":["a"]}"#,
        r#"{"oov_buckets":1}"#,
    ] {
        assert!(serde_json::from_str::<Vocabulary>(damaged).is_err(), "{damaged}");
    }
}

fn settings() -> impl Strategy<Value = VocabularyBuilder> {
    let special = || proptest::option::of("[a-c]");
    (special(), special(), special(), special(), 0usize..4).prop_map(|(padding, unknown, start, end, buckets)| {
        let mut builder = Vocabulary::builder().oov_buckets(if unknown.is_some() { 0 } else { buckets });
        if let Some(token) = padding {
            builder = builder.padding(token);
        }
        if let Some(token) = unknown {
            builder = builder.unknown(token);
        }
        if let Some(token) = start {
            builder = builder.start(token);
        }
        if let Some(token) = end {
            builder = builder.end(token);
        }
        builder
    })
}

proptest! {
    #[test]
    fn saving_changes_no_id(builder in settings(), tokens in proptest::collection::hash_set("[a-e]{1,2}", 0..9), text in ".{0,3}") {
        let words = builder.from_tokens(tokens).unwrap();
        let back: Vocabulary = serde_json::from_slice(&serde_json::to_vec(&words).unwrap()).unwrap();
        prop_assert_eq!(&back, &words);
        prop_assert_eq!(back.id(&text), words.id(&text));
        prop_assert_eq!(back.padding_id(), words.padding_id());
        prop_assert_eq!(back.end_id(), words.end_id());
        for id in 0..words.size() as i64 {
            if let Some(token) = words.token(id) {
                prop_assert_eq!(words.id(token), Some(id));
            } else {
                prop_assert!(id >= (words.size() - words.oov_buckets()) as i64);
            }
        }
        if let Some(id) = words.id(&text) {
            prop_assert!((0..words.size() as i64).contains(&id));
        }
    }
}
