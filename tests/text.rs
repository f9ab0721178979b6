//! From text to numbers and back. Tests on published data look for it in the folder that `ELISTIMATOR_TEXT_DATA` names, and
//! pass without it.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::PathBuf;

#[path = "text/conll.rs"]
mod conll;
#[path = "text/glove.rs"]
mod glove;
#[path = "text/tf_idf.rs"]
mod tf_idf;
#[path = "text/vocabulary.rs"]
mod vocabulary;

/// A file with these bytes, deleted when dropped.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// The path of a published file, or `None` and a message.
fn shared(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("ELISTIMATOR_TEXT_DATA").map(|folder| PathBuf::from(folder).join(name));
    let path = path.filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: no {name} in the folder ELISTIMATOR_TEXT_DATA");
    }
    path
}
