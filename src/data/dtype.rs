//! The types of an array's elements, and how values of each are kept.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The type of an [`Array`](super::Array)'s elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floating point.
    F32,
    /// 64-bit floating point.
    F64,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// 8-bit unsigned integer: pixels.
    U8,
    /// True or false.
    Bool,
    /// UTF-8 strings.
    Text,
}

impl Dtype {
    /// Whether a number is a value of this type, rounded at most: no other one stands for it.
    pub(crate) fn holds(self, value: f64) -> bool {
        let is_whole = |least: f64, below: f64| value.fract() == 0.0 && (least..below).contains(&value);
        match self {
            // Rounded, but not to an infinity.
            Self::F32 => value.is_infinite() || !(value as f32).is_infinite(),
            Self::F64 => true,
            Self::I32 => is_whole(f64::from(i32::MIN), f64::from(i32::MAX) + 1.0),
            Self::I64 => is_whole(i64::MIN as f64, i64::MAX as f64), // that is 2^63
            Self::U8 => is_whole(0.0, 256.0),
            Self::Bool => is_whole(0.0, 2.0),
            Self::Text => false,
        }
    }

    /// Whether [`Array::cast`](super::Array::cast) converts to the other one.
    pub(crate) fn casts_to(self, other: Self) -> bool {
        self != Self::Text && !matches!(other, Self::Bool | Self::Text)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::Bool => "bool",
            Self::Text => "text",
        })
    }
}

/// Public only inside this private module, for the sealed trait. Values of one type, shared: a row is a range of the same allocation.
#[derive(Clone)]
pub struct Buffer<T> {
    values: Arc<Vec<T>>,
    range: Range<usize>,
}

impl<T> Buffer<T> {
    pub(super) fn new(values: Vec<T>) -> Self {
        let range = 0..values.len();
        Self { values: Arc::new(values), range }
    }

    pub(super) fn as_slice(&self) -> &[T] {
        &self.values[self.range.clone()]
    }

    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        let start = self.range.start;
        Self { values: Arc::clone(&self.values), range: start + range.start..start + range.end }
    }
}

#[derive(Clone)]
pub enum Values {
    F32(Buffer<f32>),
    F64(Buffer<f64>),
    I32(Buffer<i32>),
    I64(Buffer<i64>),
    U8(Buffer<u8>),
    Bool(Buffer<bool>),
    Text(Buffer<String>),
}

/// Runs the same expression on the buffer of whatever type there is.
macro_rules! on_values {
    ($values:expr, $buffer:ident => $body:expr) => {
        match $values {
            Values::F32($buffer) => $body,
            Values::F64($buffer) => $body,
            Values::I32($buffer) => $body,
            Values::I64($buffer) => $body,
            Values::U8($buffer) => $body,
            Values::Bool($buffer) => $body,
            Values::Text($buffer) => $body,
        }
    };
}

pub(super) use on_values;

/// A type that an [`Array`](super::Array) can hold; sealed.
pub trait Element: private::Sealed + Clone + Send + Sync + PartialEq + fmt::Debug + 'static {
    /// Its name among the dtypes.
    const DTYPE: Dtype;
}

pub(super) mod private {
    use super::Values;

    pub trait Sealed: Sized {
        fn wrap(values: Vec<Self>) -> Values;
        fn unwrap(values: &Values) -> Option<&[Self]>;
    }
}

macro_rules! element {
    ($($T:ty => $Variant:ident),*) => {$(
        impl private::Sealed for $T {
            fn wrap(values: Vec<Self>) -> Values {
                Values::$Variant(Buffer::new(values))
            }

            fn unwrap(values: &Values) -> Option<&[Self]> {
                match values {
                    Values::$Variant(buffer) => Some(buffer.as_slice()),
                    _ => None,
                }
            }
        }

        impl Element for $T {
            const DTYPE: Dtype = Dtype::$Variant;
        }
    )*};
}

element!(f32 => F32, f64 => F64, i32 => I32, i64 => I64, u8 => U8, bool => Bool, String => Text);
