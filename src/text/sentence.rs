//! A sentence with what is known of its tokens.

use std::sync::Arc;

use crate::text::TagScheme;
use crate::{Error, ErrorKind, Result};

/// A sentence as [`Conll`](crate::text::Conll) or [`read_words_and_tags`](crate::text::read_words_and_tags) read it: for
/// each token its columns, such as the word, its part of speech, its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    columns: Vec<Vec<String>>,
    /// Of each token, or one of the whole sentence.
    lines: Vec<usize>,
    place: Arc<str>,
    document: usize,
}

impl Sentence {
    pub(super) fn new(columns: Vec<Vec<String>>, lines: Vec<usize>, place: Arc<str>, document: usize) -> Self {
        Self { columns, lines, place, document }
    }

    /// The number of tokens; never 0.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// Whether there is no token; the readers give no such sentence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of columns, the same in all sentences of a file.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// One column, counted from 0, for all tokens: put it into a [`Record`](crate::data::Record) as it is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there is no such column.
    pub fn column(&self, index: usize) -> Result<&[String]> {
        let column = self.columns.get(index).map(Vec::as_slice);
        column.ok_or_else(|| {
            let message = format!("column {index} of {} columns, counted from 0, does not exist", self.width());
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }

    /// The column of the words.
    pub fn words(&self) -> &[String] {
        self.columns.first().map_or(&[], Vec::as_slice)
    }

    /// The last column, where tags are.
    pub fn tags(&self) -> &[String] {
        self.columns.last().map_or(&[], Vec::as_slice)
    }

    /// The last column, which is in one tag scheme, in another one.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] naming the file and the line of a tag that cannot be there in the scheme `from`.
    pub fn tags_in(&self, from: TagScheme, to: TagScheme) -> Result<Vec<String>> {
        from.converted(self.tags(), to).map_err(|(token, message)| {
            let line = self.line(token).unwrap_or(0);
            Error::new(ErrorKind::Data, format!("{}: line {line}: token {token}: {message}", self.place))
        })
    }

    /// The line of a token in its file, counted from 1.
    pub fn line(&self, token: usize) -> Option<usize> {
        self.lines.get(token).or(self.lines.first()).copied().filter(|_| token < self.len())
    }

    /// The number of the document that the sentence is in, counted from 0: for splits by document.
    pub fn document(&self) -> usize {
        self.document
    }
}
