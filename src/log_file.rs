//! The log of a model directory: a line of text for whatever happened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::{Error, Result};

/// Appends lines, each handed to the operating system at once, and never stops training: the first failure is reported once
/// through `log::warn`, and from then on everything is dropped.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    NotYetOpen,
    Open(File),
    GivenUp,
}

impl LogFile {
    /// At this path, which is made when there is something to say.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, state: State::NotYetOpen }
    }

    /// Appends a line: time, step, text.
    pub(crate) fn line(&mut self, step: u64, text: &str) {
        if let Err(error) = self.append(step, text) {
            self.state = State::GivenUp;
            log::warn!("the log file is no longer written, training goes on: {error}");
        }
    }

    fn append(&mut self, step: u64, text: &str) -> Result<()> {
        if matches!(self.state, State::NotYetOpen) {
            self.state = State::Open(open(&self.path).map_err(|error| Error::io("open", &self.path, error))?);
        }
        let State::Open(file) = &mut self.state else { return Ok(()) };
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let time = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ");
        // In one write, so that a line is not torn by another process that appends.
        file.write_all(format!("{time} step={step} {text}\n").as_bytes())
            .map_err(|error| Error::io("write", &self.path, error))
    }
}

fn open(path: &std::path::Path) -> io::Result<File> {
    // Looked at first, since opening a FIFO would wait for a reader.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    // A crash may have cut off the last line.
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_also_after_one_that_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/log.txt");
        LogFile::new(path.clone()).line(7, "one\nline");
        fs::write(&path, fs::read_to_string(&path).unwrap() + "cut").unwrap();
        let mut log = LogFile::new(path.clone());
        log.line(8, "two");
        log.line(9, "three");
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(" step=7 one line"), "{text}");
        assert_eq!((lines[1], lines.len()), ("cut", 4));
        let (time, rest) = lines[3].split_once(' ').unwrap();
        assert_eq!(rest, "step=9 three");
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
    }

    #[test]
    fn what_is_no_file_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().to_owned());
        log.line(1, "text");
        assert!(matches!(log.state, State::GivenUp));
        log.line(2, "text");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_given_up() {
        let mut log = LogFile::new("/dev/full".into());
        log.state = State::Open(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.line(1, "text");
        assert!(matches!(log.state, State::GivenUp));
        log.line(2, "text");
    }
}
