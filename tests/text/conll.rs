//! Sentences from files with a token a line, and from pairs of files.

use elistimator::text::{Conll, Encoding, Sentence, Separator, TagScheme, read_words_and_tags};
use elistimator::{ErrorKind, Result};

use crate::{file, shared};

fn read(conll: &Conll, text: impl AsRef<[u8]>) -> Result<Vec<Sentence>> {
    conll.read(file(text.as_ref()).path())
}

#[test]
fn sentences_end_at_blank_lines_and_documents_at_their_borders() {
    let text = "-DOCSTART- -X- O O\n\nAnn NNP I-PER\nsings  VBZ\tO\r\n\n\n \t\nNo UH O\n-DOCSTART- O\nRome NNP I-LOC";
    let sentences = read(&Conll::new(), text).unwrap();
    let words: Vec<_> = sentences.iter().map(Sentence::words).collect();
    assert_eq!(words, [&["Ann", "sings"][..], &["No"], &["Rome"]]);
    assert_eq!(sentences.iter().map(Sentence::document).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!((sentences[0].len(), sentences[0].width()), (2, 3));
    assert_eq!(sentences[0].column(1).unwrap(), ["NNP", "VBZ"]);
    assert_eq!(sentences[0].tags(), ["I-PER", "O"]);
    assert_eq!((sentences[0].line(1), sentences[2].line(0), sentences[2].line(1)), (Some(4), Some(10), None));
    assert!(sentences[0].column(3).unwrap_err().to_string().contains("column 3 of 3"));
    assert!(
        read(&Conll::new(), "\n\n-DOCSTART- O\n").unwrap().is_empty() && read(&Conll::new(), "").unwrap().is_empty()
    );
}

#[test]
fn borders_after_documents_count_as_borders_before_them() {
    let before = "-DOCSTART- O\n\na O\n\nb O\n\n-DOCSTART- O\n\nc O\n";
    let after = "a O\n\nb O\n\n-DOCSTART- O\n\nc O\n\n-DOCSTART- O\n\n";
    for text in [before, after] {
        let documents: Vec<_> = read(&Conll::new(), text).unwrap().iter().map(Sentence::document).collect();
        assert_eq!(documents, [0, 0, 1], "{text:?}");
    }
}

#[test]
fn separators() {
    let tabs = Conll::new().separator(Separator::Char('\t'));
    // WNUT's training data has a tab in its blank lines.
    let sentences = read(&tabs, "New York\tB-LOC\n\t\nis\tO\n").unwrap();
    assert_eq!((sentences.len(), sentences[0].words()), (2, &["New York".to_owned()][..]));
    assert!(read(&tabs, "a\tO\n\tO\n").unwrap_err().to_string().contains("line 2: column 0, counted from 0, is empty"));
    // A no-break space is no separator between columns.
    let sentences = read(&Conll::new(), "a\u{a0}b O\n").unwrap();
    assert_eq!(sentences[0].words(), ["a\u{a0}b"]);
    let commented = Conll::new().comment("# ");
    assert_eq!(read(&commented, "# id 7\n# O\na O\n#tag O\n").unwrap()[0].words(), ["a", "#tag"]);
    assert_eq!(read(&Conll::new(), "# O\n").unwrap()[0].words(), ["#"]);
}

#[test]
fn bad_lines_are_named() {
    let cases: [(Conll, &[u8], &str); 4] = [
        (Conll::new(), b"a O\n\nb\n", "line 3: found 1 columns, expected 2"),
        (Conll::new(), b"a O\nb c O\n", "line 2: found 3 columns, expected 2"),
        (Conll::new().columns(3), b"a O\n", "line 1: found 2 columns, expected 3"),
        (Conll::new(), b"a O\ncaf\xe9 O\n", "line 2: these bytes are not UTF-8"),
    ];
    for (conll, text, expected) in cases {
        let error = read(&conll, text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let latin = Conll::new().encoding(Encoding::Latin1);
    assert_eq!(read(&latin, b"caf\xe9 O\n").unwrap()[0].words(), ["café"]);
    assert_eq!(Conll::new().read("/no/file").unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn wrong_tags_name_file_and_line() {
    let file = file(b"Ann B-PER\n\n\nBob I-PER\nsings O\n");
    let sentences = Conll::new().read(file.path()).unwrap();
    assert_eq!(sentences[0].tags_in(TagScheme::Iob2, TagScheme::Io).unwrap(), ["I-PER"]);
    let error = sentences[1].tags_in(TagScheme::Iob2, TagScheme::Io).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("line 4: token 0: found the tag I-PER"), "{error}");
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
}

#[test]
fn words_and_tags_of_two_files() {
    let both = |words: &[u8], tags: &[u8]| {
        let (words, tags) = (file(words), file(tags));
        read_words_and_tags(words.path(), tags.path(), Encoding::Utf8)
    };
    let sentences = both(b"Ann sings\n\n No \n", b"B-PER O\n\nO").unwrap();
    assert_eq!(sentences.len(), 2);
    assert_eq!(
        (sentences[0].words(), sentences[0].tags()),
        (&["Ann", "sings"].map(String::from)[..], &["B-PER", "O"].map(String::from)[..])
    );
    assert_eq!((sentences[1].line(0), sentences[0].line(1), sentences[0].line(2)), (Some(3), Some(1), None));
    let cases: [(&[u8], &[u8], &str); 5] = [
        (b"a b\nc d\n", b"O O\nO\n", "line 2: found 2 words and 1 tags"),
        (b"a\n\n", b"O\nO\n", "line 2: found 0 words and 1 tags"),
        (b"a\nb\nc\n", b"O\n", "found 3 lines of words and 1 lines of tags"),
        (b"a\n", b"O\nO\nO\n", "found 1 lines of words and 3 lines of tags"),
        (b"a\n\xff\n", b"O\nO\n", "line 2: these bytes are not UTF-8"),
    ];
    for (words, tags, expected) in cases {
        let error = both(words, tags).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let sentences = both(b"a\nBob\n", b"O\nI-PER\n").unwrap();
    let error = sentences[1].tags_in(TagScheme::Iob2, TagScheme::Io).unwrap_err();
    assert!(error.to_string().contains("line 2: token 0"), "{error}");
}

#[test]
fn published_corpora() {
    let count = |sentences: &[Sentence]| (sentences.len(), sentences.iter().map(Sentence::len).sum::<usize>());
    let tabs = Conll::new().separator(Separator::Char('\t')).columns(2);
    for (name, expected) in [
        ("wnut17/wnut17train.conll", (3394, 62_730)),
        ("wnut17/emerging.dev.conll", (1009, 15_733)),
        ("wnut17/emerging.test.annotated", (1287, 23_394)),
    ] {
        let Some(path) = shared(name) else { return };
        let sentences = tabs.read(path).unwrap();
        assert_eq!(count(&sentences), expected, "{name}");
        for sentence in &sentences {
            let iob1 = sentence.tags_in(TagScheme::Iob2, TagScheme::Iob1).unwrap();
            assert_eq!(TagScheme::Iob1.convert(&iob1, TagScheme::Iob2).unwrap(), sentence.tags());
        }
    }
    let Some(path) = shared("wikigold/wikigold.conll.txt") else { return };
    let sentences = Conll::new().columns(2).read(path).unwrap();
    assert_eq!(count(&sentences), (1696, 39_007));
    assert_eq!(sentences.last().map(Sentence::document), Some(144));
    let tags: Vec<String> =
        sentences.iter().flat_map(|sentence| sentence.tags_in(TagScheme::Io, TagScheme::Iob2).unwrap()).collect();
    assert_eq!(tags.iter().filter(|tag| *tag == "O").count(), 32_721 - 145);
}
