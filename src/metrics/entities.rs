//! Entities as runs of tags: IOB1, IOB2 and IO.

/// A token's tag, with the type of its entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag<'a> {
    Outside,
    Begin(&'a str),
    Inside(&'a str),
}

/// A run of tokens of one type, first and last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entity<'a> {
    pub first: usize,
    pub last: usize,
    pub kind: &'a str,
}

impl<'a> Tag<'a> {
    /// `O`, `B-TYPE`, `I-TYPE`; the type may hold hyphens or be missing, as in conlleval.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (prefix, kind) = text.split_once('-').unwrap_or((text, ""));
        match prefix {
            "O" => Some(Self::Outside),
            "B" => Some(Self::Begin(kind)),
            "I" => Some(Self::Inside(kind)),
            _ => None,
        }
    }
}

/// The entities of a sentence in order: conlleval's `startOfChunk` and `endOfChunk` for `B`, `I` and `O`.
pub(crate) fn entities<'a>(tags: &[Tag<'a>]) -> Vec<Entity<'a>> {
    let mut found: Vec<Entity<'a>> = Vec::new();
    let mut open = false;
    for (at, tag) in tags.iter().enumerate() {
        match *tag {
            Tag::Outside => open = false,
            Tag::Begin(kind) => {
                found.push(Entity { first: at, last: at, kind });
                open = true;
            }
            Tag::Inside(kind) => {
                match found.last_mut() {
                    Some(entity) if open && entity.kind == kind => entity.last = at,
                    _ => found.push(Entity { first: at, last: at, kind }),
                }
                open = true;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tags: &str) -> Vec<(usize, usize, String)> {
        let tags: Vec<_> = tags.split(' ').map(|tag| Tag::parse(tag).unwrap()).collect();
        entities(&tags).into_iter().map(|entity| (entity.first, entity.last, entity.kind.to_owned())).collect()
    }

    #[test]
    fn all_three_schemes_read_by_one_rule() {
        let expected = |list: &[(usize, usize, &str)]| -> Vec<(usize, usize, String)> {
            list.iter().map(|(first, last, kind)| (*first, *last, (*kind).to_owned())).collect()
        };
        // IOB2: every entity starts with B.
        assert_eq!(read("B-A I-A O B-B B-B I-B"), expected(&[(0, 1, "A"), (3, 3, "B"), (4, 5, "B")]));
        // IOB1: B only between two of one type.
        assert_eq!(read("I-A I-A B-A O I-B"), expected(&[(0, 1, "A"), (2, 2, "A"), (4, 4, "B")]));
        // IO: neighbours of one type are one, another type starts anew.
        assert_eq!(read("I-A I-A I-B O I-B"), expected(&[(0, 1, "A"), (2, 2, "B"), (4, 4, "B")]));
        assert_eq!(read("B-A I-B I-A"), expected(&[(0, 0, "A"), (1, 1, "B"), (2, 2, "A")]));
        assert_eq!(read("I B I O O-x B-a-b"), expected(&[(0, 0, ""), (1, 2, ""), (5, 5, "a-b")]));
        assert_eq!([Tag::parse("S-A"), Tag::parse(""), Tag::parse("-A"), Tag::parse("b-A")], [None; 4]);
    }
}
