//! Embeddings.

use crate::{Error, ErrorKind, Result};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Points of many dimensions with what is known of each, for TensorBoard's projector: word vectors, the last layer before the
/// logits.
#[derive(Debug, Clone)]
pub struct Embedding {
    values: Vec<f32>,
    dimension: usize,
    columns: Vec<(String, Vec<String>)>,
}

impl Embedding {
    /// Points of `dimension` values each, one after the other. Fails with [`ErrorKind::InvalidArgument`] if the values are not
    /// a multiple of it, or none.
    pub fn new(values: impl Into<Vec<f32>>, dimension: usize) -> Result<Self> {
        let values = values.into();
        if dimension == 0 || values.is_empty() || !values.len().is_multiple_of(dimension) {
            let message = format!("an embedding of {} values in points of {dimension}", values.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { values, dimension, columns: Vec::new() })
    }

    /// With a column of text, one for each point, to label and to colour them by. Fails with [`ErrorKind::InvalidArgument`] if
    /// there are more or less.
    pub fn column<S: Into<String>>(mut self, name: &str, texts: impl IntoIterator<Item = S>) -> Result<Self> {
        let texts: Vec<String> = texts.into_iter().map(Into::into).collect();
        let points = self.values.len() / self.dimension;
        if texts.len() != points {
            let message = format!("column {name:?} has {} texts for {points} points", texts.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.columns.push((name.to_owned(), texts));
        Ok(self)
    }

    /// Writes the points as `projector/<name>.tensor.tsv`, the columns beside them, and the projector's configuration for
    /// everything in `projector/`. The directory is one with event files, as `train/` is. The same name again replaces it.
    ///
    /// Fails with [`ErrorKind::Io`].
    pub fn write(&self, dir: impl AsRef<Path>, name: &str) -> Result<()> {
        let dir = dir.as_ref();
        let folder = dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|error| Error::io("create the directory", &folder, error))?;
        let name = file_name(name);
        // The points last: the configuration lists what has points.
        let metadata = folder.join(format!("{name}{METADATA}"));
        match self.metadata() {
            Some(text) => replace(&metadata, &text)?,
            None => match fs::remove_file(&metadata) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &metadata, error));
                }
                _ => {}
            },
        }
        replace(&folder.join(format!("{name}{TENSOR}")), &self.tensor())?;
        replace(&dir.join("projector_config.pbtxt"), &configuration(&folder)?)
    }

    fn tensor(&self) -> String {
        let mut text = String::new();
        for point in self.values.chunks(self.dimension) {
            for (i, value) in point.iter().enumerate() {
                // Writing into a String cannot fail. The projector reads no NaN.
                let value = if value.is_finite() { *value } else { 0.0 };
                let _ = write!(text, "{}{value}", if i > 0 { "\t" } else { "" });
            }
            text.push('\n');
        }
        text
    }

    /// One column has no head line, several have one.
    fn metadata(&self) -> Option<String> {
        let mut text = String::new();
        if self.columns.is_empty() {
            return None;
        }
        let points = self.values.len() / self.dimension;
        let mut line = |cells: Vec<&str>| {
            let cells: Vec<String> = cells.into_iter().map(cell).collect();
            text += &cells.join("\t");
            text.push('\n');
        };
        if self.columns.len() > 1 {
            line(self.columns.iter().map(|(name, _)| name.as_str()).collect());
        }
        for point in 0..points {
            line(self.columns.iter().map(|(_, texts)| texts[point].as_str()).collect());
        }
        Some(text)
    }
}

const FOLDER: &str = "projector";
const TENSOR: &str = ".tensor.tsv";
const METADATA: &str = ".metadata.tsv";

/// A cell with a tab or a line break would shift the rest; an empty line would be skipped.
fn cell(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.trim().is_empty() { "-".to_owned() } else { clean }
}

fn file_name(name: &str) -> String {
    let keep = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '_' };
    let name: String = name.chars().take(60).map(keep).collect();
    if name.is_empty() { "embedding".to_owned() } else { name }
}

fn configuration(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| Error::io("list", folder, error))? {
        let name = entry.map_err(|error| Error::io("list", folder, error))?.file_name();
        if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(TENSOR)) {
            // Files of others may have names that would have to be quoted.
            if name == file_name(name) {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    let mut text = String::new();
    for name in names {
        let _ = writeln!(text, "embeddings {{\n  tensor_name: \"{name}\"\n  tensor_path: \"{FOLDER}/{name}{TENSOR}\"");
        if folder.join(format!("{name}{METADATA}")).exists() {
            let _ = writeln!(text, "  metadata_path: \"{FOLDER}/{name}{METADATA}\"");
        }
        text += "}\n";
    }
    Ok(text)
}

/// Whoever reads sees the old file or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let mut temporary = PathBuf::from(path);
    temporary.as_mut_os_string().push(".new");
    fs::write(&temporary, text).map_err(|error| Error::io("write", &temporary, error))?;
    fs::rename(&temporary, path).map_err(|error| Error::io("replace", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_and_their_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let points = Embedding::new([1.0, 2.5, f32::NAN, -4.0], 2).unwrap();
        points.clone().write(dir.path(), "a/b").unwrap();
        let words = points.column("word", ["one\ttwo", ""]).unwrap().column("count", ["1", "2"]).unwrap();
        words.write(dir.path(), "words").unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("projector/words.tensor.tsv"), "1\t2.5\n0\t-4\n");
        assert_eq!(read("projector/words.metadata.tsv"), "word\tcount\none two\t1\n-\t2\n");
        let configuration = read("projector_config.pbtxt");
        assert_eq!(configuration.matches("embeddings {").count(), 2);
        assert_eq!(configuration.matches("metadata_path").count(), 1);
        assert!(configuration.contains("projector/a_b.tensor.tsv"));
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        assert!(Embedding::new([1.0; 3], 2).is_err());
        assert!(Embedding::new([], 2).is_err());
        assert!(Embedding::new([1.0], 0).is_err());
        assert!(Embedding::new([1.0; 4], 2).unwrap().column("word", ["one"]).is_err());
    }
}
