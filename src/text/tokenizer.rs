//! Text to tokens.

use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

/// What the tokens of a [`Tokenizer`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Whitespace,
    Words,
    Characters,
}

/// Cuts text into tokens. Saved with the hyper-parameters, it does in `predict` what it did in training.
///
/// ```
/// use elistimator::text::Tokenizer;
///
/// assert_eq!(Tokenizer::words().lowercase().tokens("Don't say “naïve”!"), ["don't", "say", "“", "naïve", "”", "!"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    unit: Unit,
    #[serde(default)]
    lowercase: bool,
}

impl Tokenizer {
    /// Cuts at white space (Unicode's `White_Space`) only: for text that is tokenised already.
    pub fn whitespace() -> Self {
        Self { unit: Unit::Whitespace, lowercase: false }
    }

    /// Words and numbers, and every punctuation mark and symbol as a token of its own: the word boundaries of Unicode
    /// (<https://www.unicode.org/reports/tr29/#Word_Boundaries>), without the white space between them. "can't" and "3.14"
    /// are one token each; languages that write no spaces between words are cut into characters, or not at all.
    pub fn words() -> Self {
        Self { unit: Unit::Words, lowercase: false }
    }

    /// Every character (Unicode scalar value), white space included: for models of characters. An accent that is written as
    /// a character of its own is one.
    pub fn characters() -> Self {
        Self { unit: Unit::Characters, lowercase: false }
    }

    /// Turns the text to lower case first, as Unicode does without a language.
    #[must_use]
    pub fn lowercase(mut self) -> Self {
        self.lowercase = true;
        self
    }

    /// The tokens of a text, in order; none is empty.
    pub fn tokens(&self, text: &str) -> Vec<String> {
        let lower;
        let text = match self.lowercase {
            true => {
                lower = text.to_lowercase();
                lower.as_str()
            }
            false => text,
        };
        match self.unit {
            Unit::Whitespace => text.split_whitespace().map(str::to_owned).collect(),
            Unit::Words => {
                let pieces = text.split_word_bounds();
                pieces.filter(|piece| !piece.chars().all(char::is_whitespace)).map(str::to_owned).collect()
            }
            Unit::Characters => text.chars().map(String::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn white_space_of_any_kind_cuts() {
        let text = " The\tcat,\u{a0}sat\n on\u{2003}it. ";
        assert_eq!(Tokenizer::whitespace().tokens(text), ["The", "cat,", "sat", "on", "it."]);
        assert_eq!(Tokenizer::whitespace().lowercase().tokens("ΣΊΣΥΦΟΣ ÄÖ"), ["σίσυφος", "äö"]);
        assert!(Tokenizer::whitespace().tokens(" \n").is_empty() && Tokenizer::words().tokens(" \r\n").is_empty());
    }

    #[test]
    fn words_and_punctuation() {
        let words = |text| Tokenizer::words().tokens(text);
        assert_eq!(words("He said: \"No!\""), ["He", "said", ":", "\"", "No", "!", "\""]);
        assert_eq!(
            words("It costs 3.14€ (or $1,000)..."),
            ["It", "costs", "3.14", "€", "(", "or", "$", "1,000", ")", ".", ".", "."]
        );
        assert_eq!(words("@user #tag well-known o’clock"), ["@", "user", "#", "tag", "well", "-", "known", "o’clock"]);
        // Decomposed accents and the signs of Hindi stay with their letters; a family of emoji is one symbol.
        assert_eq!(words("cafe\u{301} हिन्दी"), ["cafe\u{301}", "हिन्दी"]);
        assert_eq!(words("👩‍👩‍👧ok"), ["👩‍👩‍👧", "ok"]);
        assert_eq!(words("Привет, мир"), ["Привет", ",", "мир"]);
        assert_eq!(words("日本"), ["日", "本"]);
    }

    #[test]
    fn characters_are_scalar_values() {
        assert_eq!(Tokenizer::characters().tokens("Aé b"), ["A", "é", " ", "b"]);
        assert_eq!(Tokenizer::characters().lowercase().tokens("AÉ"), ["a", "é"]);
    }

    #[test]
    fn what_is_saved_is_the_tokenizer() {
        for tokenizer in [Tokenizer::whitespace(), Tokenizer::words().lowercase(), Tokenizer::characters()] {
            let json = serde_json::to_string(&tokenizer).unwrap();
            assert_eq!(serde_json::from_str::<Tokenizer>(&json).unwrap(), tokenizer);
        }
    }

    proptest! {
        #[test]
        fn only_white_space_is_lost(text in ".{0,40}") {
            let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            prop_assert_eq!(Tokenizer::whitespace().tokens(&text).concat(), dense.clone());
            let words: String = Tokenizer::words().tokens(&text).concat();
            prop_assert_eq!(words.chars().filter(|c| !c.is_whitespace()).collect::<String>(), dense);
            prop_assert_eq!(Tokenizer::characters().tokens(&text).concat(), text);
        }
    }
}
