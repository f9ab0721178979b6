//! The small files of a checkpoint: the loop's state, and the metrics.

use bincode::Options;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint::MetricValues;
use crate::{Error, ErrorKind, Result};

const STATE_MAGIC: &[u8; 8] = b"ELISTATE";
const METRICS_MAGIC: &[u8; 8] = b"ELIMETRI";
/// Counted up with every change of the layout; older ones are read for ever.
const VERSION: u32 = 1;

/// The most that a count in a checkpoint may be.
const MOST: u64 = 1 << 48;

/// Everything about a run that is no tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    /// Batches of the epoch that have been used.
    pub(crate) position: u64,
    pub(crate) seed: u64,
    /// Calls of the random streams by name.
    pub(crate) counters: Vec<(String, u64)>,
    /// Named bytes: the schedule's state, what users keep.
    pub(crate) extra: Vec<(String, Vec<u8>)>,
    /// The input signature as JSON; empty if there is none.
    pub(crate) signature: Vec<u8>,
    pub(crate) settings: Vec<(String, String)>,
    /// Milliseconds since 1970, by the clock of the machine.
    pub(crate) saved_at: i64,
    /// Which save of the directory this is: the latest checkpoint is not the one of the highest step after going back.
    pub(crate) order: u64,
    /// Whether every weight is a finite number.
    pub(crate) is_finite: bool,
    /// The other files: name, length, CRC-32.
    pub(crate) files: Vec<(String, u64, u32)>,
}

impl State {
    pub(crate) fn new(step: u64, seed: u64) -> Self {
        Self {
            step,
            epoch: 0,
            position: 0,
            seed,
            counters: Vec::new(),
            extra: Vec::new(),
            signature: Vec::new(),
            settings: Vec::new(),
            saved_at: 0,
            order: 0,
            is_finite: true,
            files: Vec::new(),
        }
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        seal(STATE_MAGIC, &Versioned::V1(self.clone()))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let Versioned::V1(state): Versioned<Self> = open(STATE_MAGIC, bytes)?;
        state.check_counts()?;
        Ok(state)
    }

    /// Refuses counts that no run comes to: one more of them would be too many for a number.
    fn check_counts(&self) -> Result<()> {
        let counters = self.counters.iter().map(|(name, calls)| (name.as_str(), *calls));
        let own = [("step", self.step), ("epoch", self.epoch), ("position", self.position)];
        match own.into_iter().chain(counters).find(|(_, count)| *count > MOST) {
            Some((name, count)) => {
                let name: String = name.chars().take(100).collect();
                let message = format!("{name}: found the count {count}, expected at most {MOST}");
                Err(Error::new(ErrorKind::Corrupt, message))
            }
            None => Ok(()),
        }
    }
}

/// Grows a variant with every change, and loses none.
#[derive(Serialize, Deserialize)]
enum Versioned<T> {
    V1(T),
}

pub(crate) fn metrics_to_bytes(metrics: &MetricValues) -> Result<Vec<u8>> {
    seal(METRICS_MAGIC, &Versioned::V1(metrics.iter().collect::<Vec<_>>()))
}

pub(crate) fn metrics_from_bytes(bytes: &[u8]) -> Result<MetricValues> {
    let Versioned::V1(metrics): Versioned<Vec<(String, f64)>> = open(METRICS_MAGIC, bytes)?;
    Ok(metrics.into_iter().collect())
}

/// Fixed-width integers, a limit, nothing left over; and always from a slice, since from a reader a forged length allocates.
fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(limit).reject_trailing_bytes()
}

/// Magic, version, body, CRC-32 of all before.
pub(crate) fn seal<T: Serialize>(magic: &[u8; 8], value: &T) -> Result<Vec<u8>> {
    let body = options(u64::MAX).serialize(value).map_err(|error| {
        Error::with_source(ErrorKind::InvalidArgument, "cannot serialise the state of a checkpoint", error)
    })?;
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    Ok(bytes)
}

pub(crate) fn open<T: DeserializeOwned>(magic: &[u8; 8], bytes: &[u8]) -> Result<T> {
    let corrupt = |message: String| Error::new(ErrorKind::Corrupt, message);
    if bytes.len() < 16 {
        return Err(corrupt(format!("found {} bytes, expected at least 16", bytes.len())));
    }
    if &bytes[..8] != magic {
        let (found, expected) = (String::from_utf8_lossy(&bytes[..8]), String::from_utf8_lossy(magic));
        return Err(corrupt(format!("begins with {found:?}, expected {expected:?}")));
    }
    let (content, checksum) = bytes.split_at(bytes.len() - 4);
    let (found, expected) =
        (crc32fast::hash(content), u32::from_le_bytes([checksum[0], checksum[1], checksum[2], checksum[3]]));
    if found != expected {
        return Err(corrupt(format!("the checksum is {found:08x}, expected {expected:08x}")));
    }
    let version = u32::from_le_bytes([content[8], content[9], content[10], content[11]]);
    if version != VERSION {
        let message = format!("format version {version}, expected {VERSION}: written by another release");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let body = &content[12..];
    options(body.len() as u64)
        .deserialize(body)
        .map_err(|error| corrupt(format!("the content cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State::new(7, 3);
        state.counters.push(("dropout.random".into(), 9));
        state.extra.push(("kept/stop".into(), b"{}".to_vec()));
        state
    }

    #[test]
    fn state_comes_back() {
        assert_eq!(State::from_bytes(&state().to_bytes().unwrap()).unwrap(), state());
        let metrics = MetricValues::from([("loss".into(), f64::NAN), ("f1".into(), -0.0)]);
        let back = metrics_from_bytes(&metrics_to_bytes(&metrics).unwrap()).unwrap();
        assert_eq!(back["f1"].to_bits(), (-0.0f64).to_bits());
        assert!(back["loss"].is_nan());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_an_error() {
        let bytes = state().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(State::from_bytes(&bytes[..end]).is_err());
        }
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(State::from_bytes(&flipped).is_err(), "bit {bit}");
        }
        assert!(State::from_bytes(&[&bytes[..], &[0; 4]].concat()).is_err());
        assert!(metrics_from_bytes(&bytes).is_err());
    }

    /// A forged length with a right checksum must not allocate what it claims.
    #[test]
    fn length_bombs_with_a_right_checksum_are_errors() {
        let good = state().to_bytes().unwrap();
        for place in 12..good.len() - 12 {
            let mut bytes = good[..good.len() - 4].to_vec();
            bytes[place..place + 8].copy_from_slice(&(u64::MAX >> 1).to_le_bytes());
            bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
            // Numbers may take any value; lengths must be refused, and none may panic or allocate.
            let _ = State::from_bytes(&bytes);
        }
    }

    /// Guards, as `scripts/mutations.py` shows: no bytes left over.
    #[test]
    fn bytes_left_over_are_an_error_even_with_a_right_checksum() {
        let good = state().to_bytes().unwrap();
        for extra in [1, 8] {
            let mut bytes = good[..good.len() - 4].to_vec();
            bytes.resize(bytes.len() + extra, 0);
            bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
            assert_eq!(State::from_bytes(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_file_that_is_too_short_or_foreign_is_said_to_be() {
        let bytes = state().to_bytes().unwrap();
        let told = |bytes: &[u8]| State::from_bytes(bytes).unwrap_err().to_string();
        assert_eq!(told(&bytes[..10]), "found 10 bytes, expected at least 16");
        assert_eq!(told(b"PK\x03\x04 an archive of zip"), "begins with \"PK\\u{3}\\u{4} an \", expected \"ELISTATE\"");
    }

    /// Rule: what comes out of a file can be counted on from.
    #[test]
    fn counts_that_no_run_comes_to_are_refused() {
        let changes: [fn(&mut State, u64); 4] = [
            |state, count| state.step = count,
            |state, count| state.epoch = count,
            |state, count| state.position = count,
            |state, count| state.counters[0].1 = count,
        ];
        for change in changes {
            let read = |count| {
                let mut state = state();
                change(&mut state, count);
                State::from_bytes(&state.to_bytes().unwrap())
            };
            read(MOST).unwrap();
            for count in [MOST + 1, u64::MAX] {
                let error = read(count).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains(&count.to_string()), "{error}");
            }
        }
    }

    #[test]
    fn another_version_is_said_to_be_one() {
        let mut bytes = state().to_bytes().unwrap();
        bytes.truncate(bytes.len() - 4);
        bytes[8] = 9;
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        assert_eq!(State::from_bytes(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
