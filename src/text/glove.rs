//! Embeddings that others have trained.

use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::Array;
use crate::text::Vocabulary;
use crate::text::lines::{Lines, shown};
use crate::text::vocabulary::stable_hash;
use crate::{Error, ErrorKind, Result};

/// Longer vectors are refused: no published file in this format comes near.
const LONGEST_VECTOR: usize = 1 << 14;

/// What the rows are for ids whose token a file of embeddings does not have. The padding token's row is zero in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingRows {
    /// All zero.
    Zero,
    /// Uniform in ±√(3 / dimension), as Ma and Hovy (2016, <https://arxiv.org/abs/1603.01354>) do. A token's row depends on
    /// the seed and the token only, not on the rest of the vocabulary; a bucket's on the seed and its number.
    Random {
        /// The seed of the rows.
        seed: u64,
    },
}

/// Word vectors in GloVe's text format, `token number number ...` a line, for the ids of one vocabulary: the rows to start
/// an [`Embedding`](crate::nn::Embedding) from.
#[derive(Debug, Clone)]
pub struct Glove {
    matrix: Array,
    dimension: usize,
    lines: usize,
    found: usize,
    missing: Vec<String>,
}

impl Glove {
    /// Reads the vectors of a vocabulary's tokens from a file, gzipped or not, keeping no others in memory. The first line
    /// fixes the dimension; word2vec's header (`count dimension`) may precede it. The vector is the last numbers of a line,
    /// so that tokens may have spaces in them, as some of the 840B file do. Of tokens that occur twice the first counts;
    /// tokens are compared as they are, so fold the case of your words where the file's are folded.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be read; [`ErrorKind::Corrupt`] naming the line that has too few numbers for
    /// the dimension, or, for a token of the vocabulary, one that is no finite number; when the file is empty.
    /// [`ErrorKind::InvalidArgument`] when memory does not hold the matrix.
    pub fn read(path: impl AsRef<Path>, vocabulary: &Vocabulary, missing: MissingRows) -> Result<Self> {
        let path = path.as_ref();
        let mut lines = Lines::open(path, u64::MAX)?;
        let mut header = None;
        let mut dimension = 0;
        let mut count = 0;
        let mut rows: Vec<Option<Vec<f32>>> = Vec::new();
        rows.resize_with(vocabulary.size(), || None);
        loop {
            let Some(line) = lines.next_bytes()? else { break };
            let line = line.trim_ascii_end();
            let numbers = line.iter().filter(|&&byte| byte == b' ').count();
            if dimension == 0 {
                if header.is_none()
                    && count == 0
                    && let Some(expected) = word2vec_header(line)
                {
                    header = Some(expected);
                    continue;
                }
                if numbers == 0 || numbers > LONGEST_VECTOR || header.is_some_and(|(_, size)| size != numbers) {
                    let expected = match header {
                        Some((_, size)) => format!("{size}, as the line before says"),
                        None => format!("1 to {LONGEST_VECTOR}"),
                    };
                    return Err(lines.corrupt(format!("found {numbers} numbers behind a token, expected {expected}")));
                }
                dimension = numbers;
            }
            count += 1;
            if numbers < dimension {
                let message = format!("found {numbers} numbers behind the token, expected {dimension} as in the first");
                return Err(lines.corrupt(message));
            }
            let Some(start) = start_of_vector(line, dimension) else {
                return Err(lines.corrupt("found no token in front of the numbers"));
            };
            // A token that is no UTF-8 is none of the vocabulary's.
            let Ok(token) = std::str::from_utf8(&line[..start]) else { continue };
            if !vocabulary.contains(token) {
                continue;
            }
            let Some(id) = vocabulary.id(token).and_then(|id| usize::try_from(id).ok()) else { continue };
            if rows[id].is_some() {
                continue;
            }
            let vector = parse(&line[start + 1..], dimension).map_err(|message| lines.corrupt(message))?;
            rows[id] = Some(vector);
        }
        if let Some((expected, _)) = header
            && expected != count
        {
            let message = format!("{}: found {count} vectors, its first line says {expected}", path.display());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        if count == 0 {
            return Err(Error::new(ErrorKind::Corrupt, format!("{}: no vectors in it", path.display())));
        }
        Self::fill(rows, dimension, count, vocabulary, missing)
    }

    fn fill(
        rows: Vec<Option<Vec<f32>>>,
        dimension: usize,
        lines: usize,
        vocabulary: &Vocabulary,
        missing_rows: MissingRows,
    ) -> Result<Self> {
        let size = rows.len();
        let mut values: Vec<f32> = Vec::new();
        values.try_reserve_exact(size.saturating_mul(dimension)).map_err(|error| {
            let message = format!("no memory for embeddings of shape [{size}, {dimension}]");
            Error::with_source(ErrorKind::InvalidArgument, message, error)
        })?;
        let mut found = 0;
        let mut missing = Vec::new();
        let tokens = size - vocabulary.oov_buckets();
        let special = [vocabulary.padding_id(), vocabulary.unknown_id(), vocabulary.start_id(), vocabulary.end_id()];
        for (id, row) in rows.into_iter().enumerate() {
            let token = vocabulary.token(id as i64);
            let is_padding = vocabulary.padding_id() == Some(id as i64);
            match (row, missing_rows) {
                (Some(row), _) if !is_padding => {
                    found += 1;
                    values.extend_from_slice(&row);
                    continue;
                }
                (_, MissingRows::Random { seed }) if !is_padding => {
                    let stream = match token {
                        Some(token) => stable_hash(token.as_bytes()),
                        None => (id - tokens) as u64,
                    };
                    let mut random = ChaCha8Rng::seed_from_u64(seed);
                    random.set_stream(stream);
                    let bound = (3.0 / dimension as f32).sqrt();
                    values.extend((0..dimension).map(|_| random.gen_range(-bound..=bound)));
                }
                _ => values.resize(values.len() + dimension, 0.0),
            }
            if let Some(token) = token
                && !special.contains(&Some(id as i64))
            {
                missing.push(token.to_owned());
            }
        }
        let matrix = Array::new([size, dimension], values)?;
        Ok(Self { matrix, dimension, lines, found, missing })
    }

    /// One row for each id, f32 `[vocabulary size, dimension]`.
    pub fn matrix(&self) -> &Array {
        &self.matrix
    }

    /// The length of the vectors.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The number of vectors in the file.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// How many tokens of the vocabulary the file has.
    pub fn found(&self) -> usize {
        self.found
    }

    /// The tokens of the vocabulary, apart from special ones, that the file does not have, in the order of their ids.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }
}

/// The numbers of a line that has exactly two, both whole.
fn word2vec_header(line: &[u8]) -> Option<(usize, usize)> {
    let (count, dimension) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    Some((count.parse().ok()?, dimension.parse().ok()?))
}

/// Where the space in front of the last `dimension` numbers is; `None` when nothing is in front of it.
fn start_of_vector(line: &[u8], dimension: usize) -> Option<usize> {
    let spaces = line.iter().enumerate().rev().filter(|&(_, &byte)| byte == b' ');
    spaces.map(|(index, _)| index).nth(dimension - 1).filter(|&start| start > 0)
}

fn parse(numbers: &[u8], dimension: usize) -> std::result::Result<Vec<f32>, String> {
    let mut vector = Vec::with_capacity(dimension);
    for (index, number) in numbers.split(|&byte| byte == b' ').enumerate() {
        let value = std::str::from_utf8(number).ok().and_then(|text| text.parse::<f32>().ok());
        match value {
            Some(value) if value.is_finite() => vector.push(value),
            _ => {
                let found = String::from_utf8_lossy(number);
                return Err(format!("found {} as number {} of {dimension}", shown(&found), index + 1));
            }
        }
    }
    Ok(vector)
}
