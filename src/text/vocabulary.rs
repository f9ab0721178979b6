//! Which token has which number.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::data::Array;
use crate::data::Encoding;
use crate::text::TokenCounts;
use crate::text::lines::{LARGEST_FILE, Lines, shown};
use crate::{Error, ErrorKind, Result};

/// The most ids that a vocabulary has: 2^24, an order of magnitude more than any published one.
const LARGEST: usize = 1 << 24;

/// The two-way table between tokens (words, characters, tags) and the ids that networks take, `0..size()`.
///
/// Make it a field of your model function: it is then one of the hyper-parameters, saved with every run, and `from_disk`
/// needs no other file. Clones share the table.
///
/// Ids are given in this order: the padding, unknown, start and end tokens, as far as they are asked for and not in the
/// list themselves; the list, in its order; the out-of-vocabulary buckets. A file that holds its own special tokens, as
/// BERT's `vocab.txt`, thus keeps its line numbers (from 0) as ids.
///
/// ```
/// use elistimator::text::{TokenCounts, Vocabulary};
///
/// let mut counts = TokenCounts::new();
/// counts.add_all("to be or not to be".split(' '));
/// let words = Vocabulary::builder().padding("<pad>").oov_buckets(1).from_counts(&counts.min_count(2))?;
/// assert_eq!(words.ids(&["to", "be", "king"])?, [2, 1, 3]);
/// assert_eq!(words.token(2), Some("to"));
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Clone)]
pub struct Vocabulary {
    inner: Arc<Inner>,
}

struct Inner {
    tokens: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, i64>,
    settings: VocabularyBuilder,
    padding: Option<i64>,
    unknown: Option<i64>,
    start: Option<i64>,
    end: Option<i64>,
}

/// Which special tokens a [`Vocabulary`] has, and what becomes of words that are not in it. Without any setting, words
/// outside are errors: right for tags and labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VocabularyBuilder {
    padding: Option<String>,
    unknown: Option<String>,
    start: Option<String>,
    end: Option<String>,
    oov_buckets: usize,
}

impl VocabularyBuilder {
    /// The token that fills up short sentences; where it is not in the list, it has id 0.
    #[must_use]
    pub fn padding(mut self, token: impl Into<String>) -> Self {
        self.padding = Some(token.into());
        self
    }

    /// The token whose id all words outside the vocabulary get, such as BERT's `[UNK]`. Excludes `oov_buckets`.
    #[must_use]
    pub fn unknown(mut self, token: impl Into<String>) -> Self {
        self.unknown = Some(token.into());
        self
    }

    /// The token in front of a sentence, for [`Vocabulary::ids_with_ends`].
    #[must_use]
    pub fn start(mut self, token: impl Into<String>) -> Self {
        self.start = Some(token.into());
        self
    }

    /// The token behind a sentence, for [`Vocabulary::ids_with_ends`].
    #[must_use]
    pub fn end(mut self, token: impl Into<String>) -> Self {
        self.end = Some(token.into());
        self
    }

    /// How many ids, the last ones, words outside the vocabulary share. A word's bucket is the FNV-1a hash (64 bits) of its
    /// UTF-8 bytes modulo the number of buckets: the same on every machine and in every version.
    #[must_use]
    pub fn oov_buckets(mut self, buckets: usize) -> Self {
        self.oov_buckets = buckets;
        self
    }

    /// Reads one token a line; UTF-8, gzipped or not.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Corrupt`] naming the line that is empty, repeated or no
    /// UTF-8; [`ErrorKind::InvalidArgument`] for settings that contradict each other, or more than 2^24 ids.
    pub fn from_file(self, path: impl AsRef<Path>) -> Result<Vocabulary> {
        let path = path.as_ref();
        let mut lines = Lines::open(path, LARGEST_FILE)?;
        let mut tokens = Vec::new();
        while let Some(token) = lines.next_text(Encoding::Utf8)? {
            if token.is_empty() {
                return Err(lines.corrupt("empty, expected a token"));
            }
            if tokens.len() == LARGEST {
                return Err(lines.corrupt(format!("more than {LARGEST} tokens, the most a vocabulary has")));
            }
            tokens.push(token);
        }
        self.number(tokens, |token, first, second| {
            let message = format!("line {}: {} is in line {} already", second + 1, shown(token), first + 1);
            Error::new(ErrorKind::Corrupt, message)
        })
        .map_err(|error| error.at(path.display()))
    }

    /// Takes tokens as they come.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming a repeated token and its places, counted from 0; for settings that contradict
    /// each other; for more than 2^24 ids.
    pub fn from_tokens<S: Into<String>>(self, tokens: impl IntoIterator<Item = S>) -> Result<Vocabulary> {
        // One more than can be: an endless iterator ends in an error.
        self.number(tokens.into_iter().take(LARGEST + 1).map(Into::into).collect(), |token, first, second| {
            let message = format!("token {second} of the vocabulary: {} is token {first} already", shown(token));
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }

    /// Takes what has been counted, the most frequent first; see [`TokenCounts::tokens`]. Special tokens that occur in the
    /// text are not listed twice.
    ///
    /// # Errors
    /// As [`from_tokens`](Self::from_tokens).
    pub fn from_counts(self, counts: &TokenCounts) -> Result<Vocabulary> {
        let special = [&self.padding, &self.unknown, &self.start, &self.end];
        let tokens: Vec<String> = counts.tokens().into_iter().map(str::to_owned).collect();
        let tokens: Vec<String> =
            tokens.into_iter().filter(|token| !special.iter().any(|known| known.as_ref() == Some(token))).collect();
        self.from_tokens(tokens)
    }

    fn number(self, list: Vec<String>, repeated: impl Fn(&str, usize, usize) -> Error) -> Result<Vocabulary> {
        if let (Some(unknown), buckets @ 1..) = (&self.unknown, self.oov_buckets) {
            let message = format!("the unknown token {unknown:?} and {buckets} buckets exclude each other");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        // Special tokens that are in the list are counted once: what was numbered is numbered again from its own list.
        let check = |tokens: usize| {
            if tokens.saturating_add(self.oov_buckets) <= LARGEST {
                return Ok(());
            }
            let buckets = self.oov_buckets;
            let message =
                format!("found {tokens} tokens and {buckets} buckets, the most a vocabulary has is {LARGEST} ids");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        };
        check(list.len())?;
        let mut places: HashMap<Arc<str>, usize> = HashMap::with_capacity(list.len() + 4);
        let mut listed: Vec<Arc<str>> = Vec::with_capacity(list.len());
        for (place, token) in list.into_iter().enumerate() {
            let token: Arc<str> = token.into();
            if let Some(first) = places.insert(Arc::clone(&token), place) {
                return Err(repeated(&token, first, place));
            }
            listed.push(token);
        }
        let mut tokens: Vec<Arc<str>> = Vec::with_capacity(listed.len() + 4);
        for special in [&self.padding, &self.unknown, &self.start, &self.end].into_iter().flatten() {
            if !places.contains_key(special.as_str()) {
                let token: Arc<str> = special.as_str().into();
                places.insert(Arc::clone(&token), 0);
                tokens.push(token);
            }
        }
        tokens.append(&mut listed);
        check(tokens.len())?;
        let ids: HashMap<Arc<str>, i64> =
            tokens.iter().enumerate().map(|(id, token)| (Arc::clone(token), id as i64)).collect();
        let id = |token: &Option<String>| token.as_ref().and_then(|token| ids.get(token.as_str()).copied());
        let (padding, unknown) = (id(&self.padding), id(&self.unknown));
        let (start, end) = (id(&self.start), id(&self.end));
        Ok(Vocabulary { inner: Arc::new(Inner { tokens, ids, settings: self, padding, unknown, start, end }) })
    }
}

impl Vocabulary {
    /// What [`tokens`](Self::tokens) says for an id that is an out-of-vocabulary bucket.
    pub const OOV: &'static str = "<oov>";

    /// Starts with special tokens, or with buckets for words outside.
    pub fn builder() -> VocabularyBuilder {
        VocabularyBuilder::default()
    }

    /// One token a line, nothing else: for tags and labels. See [`VocabularyBuilder::from_file`].
    ///
    /// # Errors
    /// As [`VocabularyBuilder::from_file`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().from_file(path)
    }

    /// These tokens, nothing else: for tags and labels. See [`VocabularyBuilder::from_tokens`].
    ///
    /// # Errors
    /// As [`VocabularyBuilder::from_tokens`].
    pub fn from_tokens<S: Into<String>>(tokens: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::builder().from_tokens(tokens)
    }

    /// The number of ids, buckets included: the rows of an embedding, or the classes of an output layer.
    pub fn size(&self) -> usize {
        self.inner.tokens.len() + self.inner.settings.oov_buckets
    }

    /// All tokens in the order of their ids, special ones included; buckets have none.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.inner.tokens.iter().map(|token| &**token)
    }

    /// How many ids at the end are out-of-vocabulary buckets.
    pub fn oov_buckets(&self) -> usize {
        self.inner.settings.oov_buckets
    }

    /// The id of the padding token.
    pub fn padding_id(&self) -> Option<i64> {
        self.inner.padding
    }

    /// The id of the unknown token.
    pub fn unknown_id(&self) -> Option<i64> {
        self.inner.unknown
    }

    /// The id of the start token.
    pub fn start_id(&self) -> Option<i64> {
        self.inner.start
    }

    /// The id of the end token.
    pub fn end_id(&self) -> Option<i64> {
        self.inner.end
    }

    /// Whether the token itself is in the vocabulary.
    pub fn contains(&self, token: &str) -> bool {
        self.inner.ids.contains_key(token)
    }

    /// The id of a token: its own, the unknown token's, or its bucket's; `None` when it is outside and there is neither.
    pub fn id(&self, token: &str) -> Option<i64> {
        if let Some(&id) = self.inner.ids.get(token) {
            return Some(id);
        }
        match self.inner.settings.oov_buckets {
            0 => self.inner.unknown,
            buckets => {
                let bucket = stable_hash(token.as_bytes()) % buckets as u64;
                Some(self.inner.tokens.len() as i64 + bucket as i64)
            }
        }
    }

    /// The token of an id; `None` for buckets and for ids outside.
    pub fn token(&self, id: i64) -> Option<&str> {
        self.inner.tokens.get(usize::try_from(id).ok()?).map(|token| &**token)
    }

    /// The ids of tokens.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the first token that is outside, when there is no id for such.
    pub fn ids<S: AsRef<str>>(&self, tokens: &[S]) -> Result<Vec<i64>> {
        tokens.iter().enumerate().map(|(place, token)| self.known(token.as_ref(), place)).collect()
    }

    /// The ids of tokens between those of the start and the end token, as far as the vocabulary has them.
    ///
    /// # Errors
    /// As [`ids`](Self::ids).
    pub fn ids_with_ends<S: AsRef<str>>(&self, tokens: &[S]) -> Result<Vec<i64>> {
        let ids = self.ids(tokens)?;
        Ok(self.inner.start.into_iter().chain(ids).chain(self.inner.end).collect())
    }

    /// The tokens of ids; buckets are [`Vocabulary::OOV`].
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the first id that is not in `0..size()`.
    pub fn tokens(&self, ids: &[i64]) -> Result<Vec<String>> {
        let token = |(place, &id): (usize, &i64)| match self.token(id) {
            Some(token) => Ok(token.to_owned()),
            None if usize::try_from(id).is_ok_and(|id| id < self.size()) => Ok(Self::OOV.to_owned()),
            None => {
                let message = format!("id {id} at place {place} is not in the vocabulary, expected 0..{}", self.size());
                Err(Error::new(ErrorKind::Data, message))
            }
        };
        ids.iter().enumerate().map(token).collect()
    }

    /// An array of tokens to one of ids (i64) of the same shape: what `preprocess` does with raw text. The empty text, with
    /// which batches of text are padded, is the padding token. A vocabulary of tags has none: pad tags with one of them,
    /// `Padding::new().text("tags", "O")`, and leave the steps after a sentence's end out of the loss and the metrics.
    ///
    /// # Errors
    /// As [`ids`](Self::ids); [`ErrorKind::Signature`] when the array is no text.
    pub fn encode(&self, tokens: &Array) -> Result<Array> {
        let texts = tokens.as_slice::<String>()?.iter().enumerate();
        let ids: Result<Vec<i64>> = texts
            .map(|(place, token)| match self.inner.padding {
                Some(padding) if token.is_empty() && !self.contains("") => Ok(padding),
                None if token.is_empty() && self.id("").is_none() => Err(unpadded(place)),
                _ => self.known(token, place),
            })
            .collect();
        Array::new(tokens.dims(), ids?)
    }

    /// An array of ids to one of tokens of the same shape: how `predict` answers with words or tags.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens); [`ErrorKind::Signature`] when the array is not of i64.
    pub fn decode(&self, ids: &Array) -> Result<Array> {
        Array::new(ids.dims(), self.tokens(ids.as_slice::<i64>()?)?)
    }

    fn known(&self, token: &str, place: usize) -> Result<i64> {
        self.id(token).ok_or_else(|| {
            let message = format!(
                "{} at place {place} is not among the {} tokens of the vocabulary, which has neither an unknown \
                 token nor buckets",
                shown(token),
                self.size()
            );
            Error::new(ErrorKind::Data, message)
        })
    }
}

/// The empty text, with which batches are padded, where no padding token stands for it.
fn unpadded(place: usize) -> Error {
    let message = format!(
        "\"\" at place {place}, with which batches of text are padded, has no id: expected a vocabulary with a padding token \
         (`Vocabulary::builder().padding(..)`), or padding with one of its tokens (`Padding::text(name, token)`)"
    );
    Error::new(ErrorKind::Data, message)
}

/// FNV-1a with 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>). Ids depend on it: it must never change.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocabulary of {} ids, {:?}", self.size(), self.inner.settings)
    }
}

impl PartialEq for Vocabulary {
    fn eq(&self, other: &Self) -> bool {
        self.inner.tokens == other.inner.tokens && self.inner.settings == other.inner.settings
    }
}

impl Eq for Vocabulary {}

/// What is written: every token in the order of ids, and the settings that are not the default.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<T> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    padding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(default)]
    oov_buckets: usize,
    tokens: Vec<T>,
}

impl Serialize for Vocabulary {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let VocabularyBuilder { padding, unknown, start, end, oov_buckets } = self.inner.settings.clone();
        Stored { padding, unknown, start, end, oov_buckets, tokens: self.iter().collect() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Stored { padding, unknown, start, end, oov_buckets, tokens } = Stored::<String>::deserialize(deserializer)?;
        let builder = VocabularyBuilder { padding, unknown, start, end, oov_buckets };
        builder.from_tokens(tokens).map_err(serde::de::Error::custom)
    }
}
