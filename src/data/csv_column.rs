//! The values of a table's column, as they are read.

use crate::data::{Array, Dtype};

/// The values of one column, as many as were read.
pub(crate) struct Column {
    values: Values,
    missing: Option<f64>,
}

enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
    Text(Vec<String>),
}

impl Column {
    pub(crate) fn new(dtype: Dtype, missing: Option<f64>) -> Self {
        let values = match dtype {
            Dtype::F32 => Values::F32(Vec::new()),
            Dtype::F64 => Values::F64(Vec::new()),
            Dtype::I32 => Values::I32(Vec::new()),
            Dtype::I64 => Values::I64(Vec::new()),
            Dtype::U8 => Values::U8(Vec::new()),
            Dtype::Bool => Values::Bool(Vec::new()),
            Dtype::Text => Values::Text(Vec::new()),
        };
        Self { values, missing }
    }

    /// Adds the value that a field says; false when it says none.
    pub(crate) fn push(&mut self, text: &str) -> bool {
        fn add<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
            value.map(|value| values.push(value)).is_some()
        }
        let trimmed = text.trim();
        let missing = if trimmed.is_empty() { self.missing } else { None };
        let whole = missing.filter(|value| value.fract() == 0.0).map(|value| value as i128);
        match &mut self.values {
            Values::F32(values) => add(
                values,
                match missing {
                    Some(value) => Some(value as f32).filter(|_| Dtype::F32.holds(value)),
                    None => trimmed.parse().ok().filter(|value: &f32| !value.is_infinite() || says_infinity(trimmed)),
                },
            ),
            Values::F64(values) => {
                let read = || trimmed.parse().ok().filter(|value: &f64| !value.is_infinite() || says_infinity(trimmed));
                add(values, missing.or_else(read))
            }
            Values::I32(values) => {
                add(values, whole.map_or_else(|| trimmed.parse().ok(), |value| value.try_into().ok()))
            }
            Values::I64(values) => {
                add(values, whole.map_or_else(|| trimmed.parse().ok(), |value| value.try_into().ok()))
            }
            Values::U8(values) => {
                add(values, whole.map_or_else(|| trimmed.parse().ok(), |value| value.try_into().ok()))
            }
            Values::Bool(values) => {
                add(values, whole.map_or_else(|| truth(trimmed), |value| truth(&value.to_string())))
            }
            Values::Text(values) => add(values, Some(text.to_owned())),
        }
    }

    pub(crate) fn into_array(self) -> Array {
        match self.values {
            Values::F32(values) => values.into(),
            Values::F64(values) => values.into(),
            Values::I32(values) => values.into(),
            Values::I64(values) => values.into(),
            Values::U8(values) => values.into(),
            Values::Bool(values) => values.into(),
            Values::Text(values) => values.into(),
        }
    }
}

/// Whether what was read as infinite was written so; Rust reads 1e999 as an infinity, too.
fn says_infinity(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_digit())
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}
