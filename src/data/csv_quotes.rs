//! Whether a table ends in the middle of a quoted field, which its reader takes for the end of the field.

/// Follows the quotes of a table from its beginning, as the reader of the rows does.
pub(crate) struct Quotes {
    delimiter: u8,
    place: Place,
    /// How many bytes of a byte order mark have been read; 3 once it is over, or there is none.
    mark: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Before the first byte of a field, where a quote opens.
    Start,
    /// Within a field, where a quote is a letter.
    Plain,
    Quoted,
    /// Behind a quote within quotes: closed by it, unless another one follows.
    Behind,
}

const MARK: &[u8; 3] = b"\xef\xbb\xbf";

impl Quotes {
    pub(crate) fn new(delimiter: u8) -> Self {
        Self { delimiter, place: Place::Start, mark: 0 }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.place == Place::Quoted
    }

    /// Goes on over these bytes.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        // Without quotes, only the last byte counts: most tables have none.
        let skipped = if self.mark >= MARK.len() && self.place != Place::Quoted && !bytes.contains(&b'"') {
            bytes.len().saturating_sub(1)
        } else {
            0
        };
        for &byte in &bytes[skipped..] {
            if self.mark < MARK.len() {
                if byte == MARK[self.mark] {
                    self.mark += 1;
                    continue;
                }
                self.mark = MARK.len();
            }
            self.place = match (self.place, byte) {
                (Place::Quoted, b'"') => Place::Behind,
                (Place::Quoted, _) | (Place::Start | Place::Behind, b'"') => Place::Quoted,
                (_, b'\r' | b'\n') => Place::Start,
                (_, byte) if byte == self.delimiter => Place::Start,
                _ => Place::Plain,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_open(text: &str) -> bool {
        let whole = |parts: &[&[u8]]| {
            let mut quotes = Quotes::new(b',');
            parts.iter().for_each(|part| quotes.pass(part));
            quotes.is_open()
        };
        let bytes = text.as_bytes();
        let open = whole(&[bytes]);
        // Wherever it is read in parts.
        for at in 0..=bytes.len() {
            assert_eq!(whole(&[&bytes[..at], &bytes[at..]]), open, "{text:?} at {at}");
        }
        open
    }

    #[test]
    fn a_quote_opens_at_the_beginning_of_a_field_alone() {
        for text in [
            "\"",
            "a,\"",
            "a\n\"b,c\nd",
            "\"\"\"",
            "a,\"b\"\"",
            "\u{feff}\"a",
            "\r\"x",
            "\"a\"b\n\"",
            "a,b\n\"c\nd,e\n",
        ] {
            assert!(is_open(text), "{text:?}");
        }
        for text in [
            "",
            "a",
            "5\" pipe",
            "\"a\"",
            "\"\"",
            "\"a\"\"b\"",
            "\"a\"b\"",
            "a\n\"b,\nc\"\n",
            "\u{feff}\"a\"",
            " \"a",
            "\u{feff}a",
        ] {
            assert!(!is_open(text), "{text:?}");
        }
    }
}
