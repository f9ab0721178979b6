//! The header of NumPy's format of one array: a Python dictionary behind a magic number.

use std::io::Read;

use crate::data::{Dtype, npy};
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header that is read: NumPy's own are some hundred bytes, and its limit is 10000.
const MAX_HEADER: usize = 1 << 16;
/// The most axes that NumPy's arrays have.
const MAX_RANK: usize = 64;

/// Type, layout and shape of an array.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NpyHeader {
    pub(crate) dtype: Dtype,
    pub(crate) big_endian: bool,
    pub(crate) fortran: bool,
    pub(crate) dims: Vec<usize>,
}

impl NpyHeader {
    /// Reads the header, and says how many bytes it had.
    pub(crate) fn read(reader: &mut impl Read) -> Result<(Self, u64)> {
        let mut start = [0u8; 8];
        reader.read_exact(&mut start).map_err(npy::read_failed)?;
        let [magic @ .., major, minor] = start;
        if magic != *MAGIC {
            return Err(corrupt(format!("begins with {magic:02x?}, expected {MAGIC:02x?}: this is no npy file")));
        }
        let mut length = [0u8; 4];
        let width = match major {
            1 => 2,
            2 | 3 => 4,
            _ => {
                let message = format!("npy version {major}.{minor}, expected 1, 2 or 3");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        reader.read_exact(&mut length[..width]).map_err(npy::read_failed)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_HEADER {
            return Err(corrupt(format!("the header has {length} bytes, expected at most {MAX_HEADER}")));
        }
        let mut header = vec![0u8; length];
        reader.read_exact(&mut header).map_err(npy::read_failed)?;
        let header = Self::parse(&header).map_err(|error| error.at("header"))?;
        Ok((header, (start.len() + width + length) as u64))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut literal = Literal { bytes, at: 0 };
        let (mut dtype, mut fortran, mut dims) = (None, None, None);
        literal.expect(b'{')?;
        while !literal.accept(b'}') {
            let key = literal.string()?;
            literal.expect(b':')?;
            let new = match key {
                b"descr" => dtype.replace(literal.dtype()?).is_none(),
                b"fortran_order" => fortran.replace(literal.boolean()?).is_none(),
                b"shape" => dims.replace(literal.shape()?).is_none(),
                _ => return Err(corrupt(format!("unknown key {:?}", shown(key)))),
            };
            if !new {
                return Err(corrupt(format!("the key {:?} is there twice", shown(key))));
            }
            if !literal.accept(b',') {
                literal.expect(b'}')?;
                break;
            }
        }
        literal.end()?;
        match (dtype, fortran, dims) {
            (Some((dtype, big_endian)), Some(fortran), Some(dims)) => Ok(Self { dtype, big_endian, fortran, dims }),
            _ => Err(corrupt("found not all of the keys 'descr', 'fortran_order' and 'shape'".into())),
        }
    }

    /// The bytes before the values, in version 1.0, their number a multiple of 64 as the format asks.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let descr = match self.dtype {
            Dtype::F32 => "<f4",
            Dtype::F64 => "<f8",
            Dtype::I32 => "<i4",
            Dtype::I64 => "<i8",
            Dtype::U8 => "|u1",
            Dtype::Bool => "|b1",
            Dtype::Text => return Err(Error::new(ErrorKind::Unsupported, "text cannot be written in npy format")),
        };
        let dims = match self.dims.as_slice() {
            [dim] => format!("{dim},"),
            dims => dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
        };
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
        let before = MAGIC.len() + 4;
        let padding = (before + text.len() + 1).next_multiple_of(64) - (before + text.len() + 1);
        text.extend(std::iter::repeat_n(' ', padding));
        text.push('\n');
        let length = u16::try_from(text.len()).ok().filter(|_| self.dims.len() <= MAX_RANK).ok_or_else(|| {
            let message = format!("{} axes, expected at most {MAX_RANK}", self.dims.len());
            Error::new(ErrorKind::Unsupported, message)
        })?;
        Ok([&MAGIC[..], &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat())
    }
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(40).collect()
}

/// The few forms of Python's literals that a header has.
struct Literal<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Literal<'a> {
    fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_ascii_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.rest().first() == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.accept(byte) { Ok(()) } else { Err(self.unexpected(&format!("{:?}", char::from(byte)))) }
    }

    fn unexpected(&mut self, expected: &str) -> Error {
        let found: String = shown(self.rest()).chars().take(12).collect();
        corrupt(format!("at byte {}: found {found:?}, expected {expected}", self.at))
    }

    fn end(&mut self) -> Result<()> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.unexpected("the end")) }
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        if let Some((&quote @ (b'\'' | b'"'), rest)) = self.rest().split_first()
            && let Some(len) = rest.iter().position(|&byte| byte == quote)
        {
            self.at += len + 2;
            return Ok(&rest[..len]);
        }
        Err(self.unexpected("a quoted word"))
    }

    fn boolean(&mut self) -> Result<bool> {
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.unexpected("True or False"))
    }

    /// A type, and whether its bytes are in big-endian order.
    fn dtype(&mut self) -> Result<(Dtype, bool)> {
        if self.rest().first() == Some(&b'[') {
            let message = "a structured type, expected one type for all values";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let descr = self.string()?;
        let (order, name) = descr.split_at_checked(1).unwrap_or((b"", b""));
        let dtype = match name {
            b"f4" => Dtype::F32,
            b"f8" => Dtype::F64,
            b"i4" => Dtype::I32,
            b"i8" => Dtype::I64,
            b"u1" => Dtype::U8,
            b"b1" => Dtype::Bool,
            _ => {
                let message = format!(
                    "type {:?}, expected f4, f8, i4, i8, u1 or b1 (`array.astype` converts in NumPy)",
                    shown(descr)
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        match order {
            b"<" => Ok((dtype, false)),
            b">" => Ok((dtype, true)),
            b"|" if matches!(dtype, Dtype::U8 | Dtype::Bool) => Ok((dtype, false)),
            _ => Err(corrupt(format!("type {:?} has no byte order", shown(descr)))),
        }
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        let mut dims = Vec::new();
        self.expect(b'(')?;
        while !self.accept(b')') {
            let rest = self.rest();
            let digits = &rest[..rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len())];
            let dim = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            dims.push(dim.ok_or_else(|| self.unexpected("a length"))?);
            self.at += digits.len();
            let _ = self.accept(b'L'); // as Python 2 wrote them
            if dims.len() > MAX_RANK {
                return Err(corrupt(format!("more than {MAX_RANK} axes")));
            }
            if !self.accept(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(dims)
    }
}
