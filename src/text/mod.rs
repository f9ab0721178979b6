//! Text to numbers: tokenisers, vocabularies, padding, weights of words, and readers of the field's files.

mod conll;
mod counts;
mod glove;
mod lines;
mod pad;
mod sentence;
mod separator;
mod tag_scheme;
mod tf_idf;
mod tokenizer;
mod vocabulary;

pub use crate::data::Encoding;
pub use conll::{Conll, read_words_and_tags};
pub use counts::TokenCounts;
pub use glove::{Glove, MissingRows};
pub use pad::{Side, pad_or_truncate, pad_rows};
pub use sentence::Sentence;
pub use separator::Separator;
pub use tag_scheme::TagScheme;
pub use tf_idf::TfIdf;
pub use tokenizer::Tokenizer;
pub use vocabulary::{Vocabulary, VocabularyBuilder};
