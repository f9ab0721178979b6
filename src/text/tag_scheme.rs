//! How the tags of tokens spell out the entities of a sentence.

use serde::{Deserialize, Serialize};

use crate::text::lines::shown;
use crate::{Error, ErrorKind, Result};

/// How chunks such as names are written as one tag for each token. `O` is a token outside of all chunks; in a chunk of type
/// `PER`, the tags are `I-PER` and, depending on the scheme, `B-PER`.
///
/// See Ramshaw and Marcus (1995, <https://aclanthology.org/W95-0107>) for IOB1, and Tjong Kim Sang and Veenstra (1999,
/// <https://aclanthology.org/E99-1023>) for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagScheme {
    /// `I-` everywhere: neighbouring chunks of one type are one (Wikigold).
    Io,
    /// `B-` only for a chunk right after one of its own type (CoNLL-2003 as published).
    Iob1,
    /// `B-` at the beginning of every chunk, also called BIO (CoNLL-2002, WNUT, and what most papers measure with).
    Iob2,
}

/// A tag taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag<'a> {
    Outside,
    Begin(&'a str),
    Inside(&'a str),
}

impl<'a> Tag<'a> {
    fn parse(tag: &'a str) -> std::result::Result<Self, String> {
        match tag.split_once('-') {
            None if tag == "O" => Ok(Self::Outside),
            Some(("B", kind)) if !kind.is_empty() => Ok(Self::Begin(kind)),
            Some(("I", kind)) if !kind.is_empty() => Ok(Self::Inside(kind)),
            _ => Err(format!("found the tag {}, expected O, B-TYPE or I-TYPE", shown(tag))),
        }
    }

    fn kind(self) -> Option<&'a str> {
        match self {
            Self::Outside => None,
            Self::Begin(kind) | Self::Inside(kind) => Some(kind),
        }
    }
}

impl TagScheme {
    /// The tags of one sentence in another scheme. To [`Io`](Self::Io), the boundary between neighbouring chunks of one type
    /// is lost; nothing is lost between the other two.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the place, counted from 0, of a tag that is none or cannot be at its place in this scheme.
    pub fn convert<S: AsRef<str>>(self, tags: &[S], to: Self) -> Result<Vec<String>> {
        self.converted(tags, to)
            .map_err(|(place, message)| Error::new(ErrorKind::Data, format!("tag {place}: {message}")))
    }

    /// As [`convert`](Self::convert), with the place apart from the message.
    pub(super) fn converted<S: AsRef<str>>(
        self,
        tags: &[S],
        to: Self,
    ) -> std::result::Result<Vec<String>, (usize, String)> {
        let mut converted = Vec::with_capacity(tags.len());
        let mut before = None;
        for (place, text) in tags.iter().enumerate() {
            let tag = Tag::parse(text.as_ref()).map_err(|message| (place, message))?;
            let continues = tag.kind().is_some() && tag.kind() == before;
            let starts = self.starts(tag, continues).map_err(|message| (place, message))?;
            converted.push(match (tag.kind(), to) {
                (None, _) => "O".to_owned(),
                (Some(kind), Self::Iob1) if starts && continues => format!("B-{kind}"),
                (Some(kind), Self::Iob2) if starts => format!("B-{kind}"),
                (Some(kind), _) => format!("I-{kind}"),
            });
            before = tag.kind();
        }
        Ok(converted)
    }

    /// Whether the tag starts a chunk; `continues` where the token before has the same type.
    fn starts(self, tag: Tag<'_>, continues: bool) -> std::result::Result<bool, String> {
        // A damaged file can have any text here.
        let kind: String = tag.kind().unwrap_or_default().chars().take(60).collect();
        match (self, tag) {
            (_, Tag::Outside) => Ok(false),
            (Self::Io, Tag::Begin(_)) => Err(format!("found the tag B-{kind}, IO has none that begin with B")),
            (Self::Iob1, Tag::Begin(_)) if !continues => {
                Err(format!("found the tag B-{kind} not right after a tag of {kind}, where IOB1 has I-{kind}"))
            }
            (Self::Iob2, Tag::Inside(_)) if !continues => {
                Err(format!("found the tag I-{kind} not right after a tag of {kind}, where IOB2 has B-{kind}"))
            }
            (_, Tag::Begin(_)) => Ok(true),
            (_, Tag::Inside(_)) => Ok(!continues),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::TagScheme::{Io, Iob1, Iob2};
    use super::*;

    fn convert(tags: &str, from: TagScheme, to: TagScheme) -> Result<String> {
        Ok(from.convert(&tags.split(' ').collect::<Vec<_>>(), to)?.join(" "))
    }

    #[test]
    fn one_sentence_in_three_schemes() {
        // Two neighbouring persons, a place right after them, a type with a hyphen.
        let io = "I-PER I-PER I-PER I-LOC O I-work-of-art";
        let iob1 = "I-PER I-PER B-PER I-LOC O I-work-of-art";
        let iob2 = "B-PER I-PER B-PER B-LOC O B-work-of-art";
        for (from, tags) in [(Iob1, iob1), (Iob2, iob2)] {
            assert_eq!(convert(tags, from, Iob1).unwrap(), iob1);
            assert_eq!(convert(tags, from, Iob2).unwrap(), iob2);
            assert_eq!(convert(tags, from, Io).unwrap(), io);
        }
        assert_eq!(convert(io, Io, Iob2).unwrap(), "B-PER I-PER I-PER B-LOC O B-work-of-art");
        assert_eq!(convert(io, Io, Iob1).unwrap(), io);
        assert!(Iob1.convert(&[] as &[&str], Iob2).unwrap().is_empty());
    }

    #[test]
    fn tags_that_a_scheme_does_not_have_name_their_place() {
        for (tags, scheme, place) in [
            ("O I-PER", Iob2, 1),
            ("B-LOC I-PER", Iob2, 1),
            ("I-PER", Iob2, 0),
            ("O B-PER", Iob1, 1),
            ("I-LOC B-PER", Iob1, 1),
            ("O O B-PER", Io, 2),
            ("O X", Iob1, 1),
            ("O I-", Iob2, 1),
            ("O E-PER", Iob2, 1),
            ("o", Io, 0),
            ("O-PER", Io, 0),
        ] {
            let error = convert(tags, scheme, Iob2).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().starts_with(&format!("tag {place}: ")), "{tags}: {error}");
        }
        assert!(convert("", Io, Io).is_err());
    }

    proptest! {
        /// Chunks `(type, length)` written down in IOB2 by hand, and back.
        #[test]
        fn nothing_is_lost_between_iob1_and_iob2(chunks in proptest::collection::vec((0usize..3, 1usize..4), 0..8)) {
            let mut tags = Vec::new();
            for (kind, length) in chunks {
                for place in 0..length {
                    tags.push(match (kind, place) {
                        (0, _) => "O".to_owned(),
                        (_, 0) => format!("B-{kind}"),
                        _ => format!("I-{kind}"),
                    });
                }
            }
            let iob1 = Iob2.convert(&tags, Iob1).unwrap();
            prop_assert_eq!(&Iob1.convert(&iob1, Iob2).unwrap(), &tags);
            let io = Iob2.convert(&tags, Io).unwrap();
            prop_assert_eq!(Iob1.convert(&iob1, Io).unwrap(), io.clone());
            prop_assert_eq!(Io.convert(&io, Io).unwrap(), io);
        }
    }
}
