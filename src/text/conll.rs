//! Files with one token a line.

use std::path::Path;
use std::sync::Arc;

use crate::data::Encoding;
use crate::text::lines::Lines;
use crate::text::{Sentence, Separator};
use crate::{Error, ErrorKind, Result};

/// The word that stands for the border between two documents.
const DOCUMENT_START: &str = "-DOCSTART-";

/// What a file may unpack to: as strings in memory, it becomes several times as large.
const LARGEST: u64 = 1 << 30;

/// Reads the files of the CoNLL shared tasks and their kin: a line for each token with its columns, and a blank line (white
/// space at most) between sentences. A line whose first column is `-DOCSTART-` is the border between two documents, and is
/// no token; so are comments, where they are asked for.
///
/// ```
/// use elistimator::text::{Conll, TagScheme};
///
/// let file = tempfile::NamedTempFile::new().unwrap();
/// std::fs::write(&file, "-DOCSTART- O\n\nAnn I-PER\nsings O\n").unwrap();
/// let sentences = Conll::new().columns(2).read(file.path())?;
/// assert_eq!(sentences[0].words(), ["Ann", "sings"]);
/// assert_eq!(sentences[0].tags_in(TagScheme::Iob1, TagScheme::Iob2)?, ["B-PER", "O"]);
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conll {
    separator: Separator,
    encoding: Encoding,
    columns: Option<usize>,
    comment: Option<String>,
}

impl Conll {
    /// Columns between spaces or tabs, as many as the first token has, in UTF-8.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is between the columns.
    #[must_use]
    pub fn separator(mut self, separator: Separator) -> Self {
        self.separator = separator;
        self
    }

    /// What the bytes are.
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// How many columns every token has to have.
    #[must_use]
    pub fn columns(mut self, columns: usize) -> Self {
        self.columns = Some(columns);
        self
    }

    /// Passes over lines that begin with this, such as `# ` in CoNLL-U; otherwise every line is a token.
    #[must_use]
    pub fn comment(mut self, prefix: impl Into<String>) -> Self {
        self.comment = Some(prefix.into());
        self
    }

    /// Reads all sentences of a file, gzipped or not.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Corrupt`] naming the line with an empty column, with
    /// another number of columns than the first or than was asked for, or with bytes that are no text; when the file is
    /// larger than a gigabyte (2^30 bytes).
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<Sentence>> {
        let path = path.as_ref();
        let mut lines = Lines::open(path, LARGEST)?;
        let place: Arc<str> = path.display().to_string().into();
        let mut width = self.columns;
        let mut sentences: Vec<Sentence> = Vec::new();
        let (mut columns, mut numbers): (Vec<Vec<String>>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut document = 0;
        loop {
            let line = lines.next_text(self.encoding)?;
            let blank = line.as_ref().is_none_or(|line| line.bytes().all(|byte| byte.is_ascii_whitespace()));
            let border = line.as_ref().is_some_and(|line| self.separator.first(line) == DOCUMENT_START);
            if (blank || border) && !numbers.is_empty() {
                let (columns, numbers) = (std::mem::take(&mut columns), std::mem::take(&mut numbers));
                sentences.push(Sentence::new(columns, numbers, Arc::clone(&place), document));
            }
            let Some(line) = line else { break };
            if border && sentences.last().is_some_and(|sentence| sentence.document() == document) {
                document += 1;
            }
            if blank || border || self.comment.as_ref().is_some_and(|prefix| line.starts_with(prefix.as_str())) {
                continue;
            }
            let cells = self.separator.cells(&line);
            if cells.len() != *width.get_or_insert(cells.len()) {
                let expected = width.unwrap_or_default();
                return Err(lines.corrupt(format!("found {} columns, expected {expected}: {line:?}", cells.len())));
            }
            if let Some(empty) = cells.iter().position(|cell| cell.is_empty()) {
                return Err(lines.corrupt(format!("column {empty}, counted from 0, is empty: {line:?}")));
            }
            columns.resize_with(cells.len(), Vec::new);
            columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell.to_owned()));
            numbers.push(lines.number());
        }
        Ok(sentences)
    }
}

/// Reads sentences from two files, one sentence a line with its tokens between white space: the words in one file, and in the
/// other a tag for each of them. Lines that are blank in both are passed over.
///
/// # Errors
/// [`ErrorKind::Io`] when a file cannot be read; [`ErrorKind::Corrupt`] naming the line at which they have different numbers
/// of tokens, or both numbers of lines where those differ; when a file is larger than a gigabyte (2^30 bytes).
pub fn read_words_and_tags(
    words: impl AsRef<Path>,
    tags: impl AsRef<Path>,
    encoding: Encoding,
) -> Result<Vec<Sentence>> {
    let (words, tags) = (words.as_ref(), tags.as_ref());
    let (mut word_lines, mut tag_lines) = (Lines::open(words, LARGEST)?, Lines::open(tags, LARGEST)?);
    let place: Arc<str> = format!("{} and {}", words.display(), tags.display()).into();
    let mut sentences = Vec::new();
    let cells = |line: String| Separator::Whitespace.cells(&line).into_iter().map(str::to_owned).collect::<Vec<_>>();
    loop {
        let (words, tags) = match (word_lines.next_text(encoding)?, tag_lines.next_text(encoding)?) {
            (Some(words), Some(tags)) => (cells(words), cells(tags)),
            (None, None) => return Ok(sentences),
            _ => {
                while word_lines.next_bytes()?.is_some() {}
                while tag_lines.next_bytes()?.is_some() {}
                let (words, tags) = (word_lines.number(), tag_lines.number());
                let message = format!("{place}: found {words} lines of words and {tags} lines of tags");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        };
        let number = word_lines.number();
        if words.len() != tags.len() {
            let message = format!("{place}: line {number}: found {} words and {} tags", words.len(), tags.len());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        if !words.is_empty() {
            sentences.push(Sentence::new(vec![words, tags], vec![number], Arc::clone(&place), 0));
        }
    }
}
