//! Takes points out of event files.
//!
//! Event files are records: the length of the data (u64, little-endian), a checksum of that, the data, and a checksum of the
//! data; the data is a protocol buffer `tensorflow.Event`, with `double wall_time = 1` and `int64 step = 2`.

use super::event_writer::PREFIX;
use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Longer records are none of ours.
const LONGEST: u64 = 1 << 30;
/// The step stands behind the time, in front of everything else.
const HEAD: usize = 32;

/// Takes the events from `first_step` on out of the event files of a directory, other than those that are `open`. The session
/// start that [`EventWriter`](super::EventWriter) writes tells readers to drop them; TensorBoard's fast loader does so only
/// where the new session has a point at the same step or before it.
///
/// A file is replaced as a whole or stays, and one that cannot be read as records stays. Readers end a file at a record that is
/// cut off, and so it ends here.
pub(crate) fn cut(dir: &Path, first_step: u64, open: &[PathBuf]) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| Error::io("list", dir, error))?,
    };
    for entry in entries {
        let path = entry.map_err(|error| Error::io("list", dir, error))?.path();
        let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
        if is_ours && !open.contains(&path) {
            cut_file(&path, first_step).map_err(|error| Error::io("rewrite", &path, error))?;
        }
    }
    Ok(())
}

fn cut_file(path: &Path, first_step: u64) -> io::Result<()> {
    let mut has_any = false;
    let mut reader = BufReader::new(File::open(path)?);
    while let Some(step) = copy_record(&mut reader, first_step, &mut io::sink())? {
        has_any |= step >= first_step;
    }
    if !has_any {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    // Its name must not look like an event file to a reader that is watching.
    let mut new = BufWriter::new(tempfile::NamedTempFile::new_in(dir)?);
    let mut reader = BufReader::new(File::open(path)?);
    while copy_record(&mut reader, first_step, &mut new)?.is_some() {}
    let new = new.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::set_permissions(new.path(), fs::metadata(path)?.permissions())?;
    new.as_file().sync_data()?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Reads a record, writes it where it is before `first_step`, and returns its step; `None` at the end, also at one that a
/// crash has cut off.
fn copy_record(reader: &mut impl Read, first_step: u64, out: &mut impl Write) -> io::Result<Option<u64>> {
    let mut length = [0; 12];
    if !read_whole(reader, &mut length)? {
        return Ok(None);
    }
    let [a, b, c, d, e, f, g, h, ..] = length;
    let rest = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    if rest > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no event file, or damaged"));
    }
    let mut data = Vec::new();
    // No more than there is, whatever the length claims.
    reader.take(rest + 4).read_to_end(&mut data)?;
    if data.len() as u64 != rest + 4 {
        return Ok(None);
    }
    let step = step(&data[..data.len().min(HEAD)]);
    if step < first_step {
        out.write_all(&length)?;
        out.write_all(&data)?;
    }
    Ok(Some(step))
}

fn read_whole(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

/// The step of an event; 0 where it has none, as the format has it, or is something else.
fn step(data: &[u8]) -> u64 {
    // Field 1 with 8 bytes, then field 2 as a varint: how all writers order them, and which field 2 without field 1 is, too.
    let data = match data {
        [0x09, rest @ ..] => rest.get(8..).unwrap_or_default(),
        data => data,
    };
    let [0x10, varint @ ..] = data else { return 0 };
    let mut value = 0u64;
    for (index, byte) in varint.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return value;
        }
    }
    // Ten bytes are a negative step.
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::EventWriter;

    fn steps(path: &Path) -> Vec<u64> {
        let mut reader = BufReader::new(File::open(path).unwrap());
        std::iter::from_fn(|| copy_record(&mut reader, 0, &mut io::sink()).unwrap()).collect()
    }

    fn written(dir: &Path, first: u64, steps: std::ops::Range<u64>) -> PathBuf {
        let mut writer = EventWriter::create(dir, first).unwrap();
        for step in steps {
            writer.scalars(&[("loss", 1.0)], step * 50).unwrap();
        }
        writer.flush().unwrap();
        writer.path().to_owned()
    }

    #[test]
    fn events_from_a_step_on_are_taken_out_of_all_files_but_the_open_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (written(dir.path(), 1, 1..9), written(dir.path(), 201, 5..9));
        let third = written(dir.path(), 401, 9..11);
        let other = dir.path().join("notes.txt");
        fs::write(&other, "mine").unwrap();
        let before = fs::read(&third).unwrap();
        assert_eq!(steps(&first), [0, 1, 50, 100, 150, 200, 250, 300, 350, 400]);
        cut(dir.path(), 201, std::slice::from_ref(&third)).unwrap();
        assert_eq!((steps(&first), steps(&second)), (vec![0, 1, 50, 100, 150, 200], vec![0]));
        assert_eq!((fs::read(&third).unwrap(), fs::read_to_string(other).unwrap()), (before, "mine".to_owned()));
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 4, "nothing is left over");
        cut(&dir.path().join("missing"), 0, &[]).unwrap();
    }

    #[test]
    fn what_is_cut_off_or_damaged_neither_panics_nor_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), 1, 1..5);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            cut(dir.path(), 120, &[]).unwrap();
            assert!(steps(&path).iter().all(|&step| step < 120), "{length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x80;
            fs::write(&path, &damaged).unwrap();
            // An error, or a step that is another one.
            let _ = cut(dir.path(), 120, &[]);
            assert!(path.exists(), "{at}");
        }
        fs::write(&path, [0xff; 100]).unwrap();
        assert!(cut(dir.path(), 1, &[]).is_err());
        assert_eq!(fs::read(&path).unwrap(), [0xff; 100]);
    }

    #[test]
    fn steps_of_any_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 0).unwrap();
        let all = [1, 127, 128, 1 << 20, 1 << 40, i64::MAX as u64];
        all.iter().for_each(|&step| writer.scalars(&[("loss", 1.0)], step).unwrap());
        writer.flush().unwrap();
        assert_eq!(steps(writer.path())[2..], all);
        assert_eq!((step(&[]), step(&[0x09]), step(&[0x10, 0x80])), (0, 0, 0));
    }
}
