//! Requests and answers as JSON.

use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::data::Element;
use crate::data::{Array, Dtype, InputSpec, Record, Signature};
use crate::{Error, ErrorKind, Result};

impl Serialize for Array {
    /// Nested lists, whole; a scalar is its value. JSON has no NaN and no infinity: serde_json writes `null` for them.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        fn typed<T: Element + Serialize, S: Serializer>(
            array: &Array,
            serializer: S,
        ) -> std::result::Result<S::Ok, S::Error> {
            let values = array.as_slice::<T>().map_err(S::Error::custom)?;
            Nested { values, dims: array.dims() }.serialize(serializer)
        }
        match self.dtype() {
            Dtype::F32 => typed::<f32, S>(self, serializer),
            Dtype::F64 => typed::<f64, S>(self, serializer),
            Dtype::I32 => typed::<i32, S>(self, serializer),
            Dtype::I64 => typed::<i64, S>(self, serializer),
            Dtype::U8 => typed::<u8, S>(self, serializer),
            Dtype::Bool => typed::<bool, S>(self, serializer),
            Dtype::Text => typed::<String, S>(self, serializer),
        }
    }
}

struct Nested<'a, T> {
    values: &'a [T],
    dims: &'a [usize],
}

impl<T: Serialize> Serialize for Nested<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Some((&rows, dims)) = self.dims.split_first() else {
            let value = self.values.first().ok_or_else(|| S::Error::custom("a scalar without a value"))?;
            return value.serialize(serializer);
        };
        let width: usize = dims.iter().product();
        serializer
            .collect_seq((0..rows).map(|row| Nested { values: &self.values[row * width..(row + 1) * width], dims }))
    }
}

impl Serialize for Record {
    /// A map of names to nested lists, in order: `serde_json::to_string(&estimator.predict(request)?)`.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, array) in self.iter() {
            map.serialize_entry(name, array)?;
        }
        map.end()
    }
}

impl Signature {
    /// A request from JSON, for programs that serve: `{"ids": [[4, 7, 9]], "lengths": [3]}`, values nested as deep as the input
    /// has axes, in the types of this signature. Inputs without the batch axis, as in `{"ids": [4, 7, 9], "lengths": 3}`, are one
    /// example. Labels and other inputs that `predict` does not read are left out. `null` among floating-point numbers is NaN, as
    /// it goes out: a value that is missing. Answers go out by `serde_json::to_string`.
    ///
    /// ```
    /// use elistimator::data::{Record, Signature};
    ///
    /// let batch = Record::new().with("age", vec![40.0f32, 31.0]).with("name", vec!["Ann", "Bob"]);
    /// let signature = Signature::of_batch(&batch)?;
    /// let request = signature.read_json(r#"{"age": 25, "name": "Eve"}"#)?;
    /// assert_eq!(request, Record::new().with("age", vec![25.0f32]).with("name", vec!["Eve"]));
    /// assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"age":[25.0],"name":["Eve"]}"#);
    /// # Ok::<(), elistimator::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for a text that is no JSON object; [`ErrorKind::Signature`] naming the input whose lists differ in
    /// length or depth, or that holds a value of another type or out of its range, with the place; and those of
    /// [`check_batch`](Self::check_batch).
    pub fn read_json(&self, text: &str) -> Result<Record> {
        let entries: serde_json::Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Error::new(ErrorKind::Data, format!("request: expected a JSON object, found: {error}")))?;
        let mut record = Record::new();
        entries.keys().try_for_each(|name| self.input(name).map(|_| ()))?;
        for input in self.inputs() {
            if let Some(value) = entries.get(&input.name) {
                record.insert(&input.name, array(input, value)?);
            }
        }
        self.check_batch(&record, &[])?;
        Ok(record)
    }
}

/// The values of one input, with a batch axis of 1 in front where there is none.
fn array(input: &InputSpec, value: &Value) -> Result<Array> {
    let wrong = |found: String| {
        let message = format!("input {:?}: found {found}, expected {} in JSON", input.name, expected(input.dtype));
        Error::new(ErrorKind::Signature, message)
    };
    let (mut dims, mut inner) = (Vec::new(), value);
    while let Value::Array(items) = inner {
        dims.push(items.len());
        let Some(first) = items.first() else { break };
        inner = first;
    }
    let mut flat = Vec::new();
    flatten(value, &dims, &mut flat).map_err(|found| wrong(found.to_owned()))?;
    if dims.len() == input.dims.len() {
        dims.insert(0, 1);
    }
    let typed = Typed { dims, flat: &flat };
    match input.dtype {
        Dtype::F32 => typed.array(|value| match value {
            Value::Null => Some(f32::NAN),
            _ => value.as_f64().map(|x| x as f32).filter(|x| x.is_finite()),
        }),
        Dtype::F64 => typed.array(|value| if value.is_null() { Some(f64::NAN) } else { value.as_f64() }),
        Dtype::I32 => typed.array(|value| value.as_i64().and_then(|n| i32::try_from(n).ok())),
        Dtype::I64 => typed.array(Value::as_i64),
        Dtype::U8 => typed.array(|value| value.as_u64().and_then(|n| u8::try_from(n).ok())),
        Dtype::Bool => typed.array(Value::as_bool),
        Dtype::Text => typed.array(|value| value.as_str().map(str::to_owned)),
    }
    .map_err(wrong)
}

fn expected(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "numbers in the range of f32",
        Dtype::F64 => "numbers",
        Dtype::I32 => "whole numbers in the range of i32",
        Dtype::I64 => "whole numbers in the range of i64",
        Dtype::U8 => "whole numbers from 0 to 255",
        Dtype::Bool => "true and false",
        Dtype::Text => "strings",
    }
}

/// Values in row-major order; all lists of one depth must be of one length.
fn flatten<'v>(value: &'v Value, dims: &[usize], flat: &mut Vec<&'v Value>) -> std::result::Result<(), &'static str> {
    match (value, dims.split_first()) {
        (Value::Array(items), Some((&length, rest))) if items.len() == length => {
            items.iter().try_for_each(|item| flatten(item, rest, flat))
        }
        (Value::Array(_), Some(_)) => Err("lists of different lengths (pad them to one)"),
        (Value::Array(_), None) | (_, Some(_)) => Err("lists beside values"),
        (value, None) => {
            flat.push(value);
            Ok(())
        }
    }
}

struct Typed<'v> {
    dims: Vec<usize>,
    flat: &'v [&'v Value],
}

impl Typed<'_> {
    fn array<T: Element>(self, read: impl Fn(&Value) -> Option<T>) -> std::result::Result<Array, String> {
        let mut values = Vec::with_capacity(self.flat.len());
        for (place, value) in self.flat.iter().enumerate() {
            values.push(read(value).ok_or_else(|| format!("{} at place {place}", shown(value)))?);
        }
        Array::new(self.dims, values).map_err(|error| error.to_string())
    }
}

/// A value as it is in a message, of bounded length.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let batch = Record::new()
            .with("x", [[0.5f32, 1.0], [2.0, 3.0]])
            .with("n", vec![1i64, 2])
            .with("pixel", vec![1u8, 2])
            .with("on", vec![true, false])
            .with("word", vec!["a", "b"]);
        Signature::of_batch(&batch).unwrap()
    }

    #[test]
    fn batches_and_single_examples_are_read_in_the_types_of_the_signature() {
        let batch = signature().read_json(r#"{"x": [[1, 2.5], [3, 4]], "n": [7, -8], "on": [false, true]}"#).unwrap();
        let expected =
            Record::new().with("x", [[1f32, 2.5], [3.0, 4.0]]).with("n", vec![7i64, -8]).with("on", vec![false, true]);
        assert_eq!(batch, expected);
        let one = signature().read_json(r#"{"x": [1, 2], "n": 7, "word": "a", "pixel": 255}"#).unwrap();
        let expected = [("x", Array::from([[1f32, 2.0]])), ("n", vec![7i64].into())];
        for (name, array) in expected {
            assert_eq!(one.get(name).unwrap(), &array);
        }
        assert_eq!(one.get("pixel").unwrap().as_slice::<u8>().unwrap(), [255]);
    }

    #[test]
    fn what_goes_out_comes_in_again() {
        let record = Record::new().with("x", [[0.1f32, 1e-30], [f32::MAX, -0.0]]).with("word", vec!["\"", "ä"]);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(signature().read_json(&text).unwrap(), record);
        assert_eq!(serde_json::to_string(&Array::from(3i64)).unwrap(), "3");
        assert_eq!(serde_json::to_string(&Array::new([2, 0], Vec::<f32>::new()).unwrap()).unwrap(), "[[],[]]");
        assert_eq!(serde_json::to_string(&Array::from(vec![f32::NAN])).unwrap(), "[null]");
        let missing = signature().read_json(r#"{"x": [[1, null]]}"#).unwrap();
        let [one, nan] = missing.get("x").unwrap().as_slice::<f32>().unwrap() else { panic!("two values") };
        assert!(*one == 1.0 && nan.is_nan());
        let double =
            Signature::of_batch(&Record::new().with("d", vec![0.5f64])).unwrap().read_json(r#"{"d": null}"#).unwrap();
        assert!(double.get("d").unwrap().as_slice::<f64>().unwrap()[0].is_nan());
    }

    #[test]
    fn errors_name_the_input_and_what_was_found() {
        for (text, part) in [
            ("[1]", "expected a JSON object"),
            ("{", "line 1 column 1"),
            (r#"{"y": 1}"#, r#"input "y" is not in the signature"#),
            (r#"{"x": [[1, 2], [3]]}"#, "lists of different lengths"),
            (r#"{"x": [[1, 2], 3]}"#, "lists beside values"),
            (r#"{"x": [[1, [2]]]}"#, "lists beside values"),
            (r#"{"x": [1e300, 2]}"#, r#"input "x": found 1e+300 at place 0, expected numbers in the range of f32"#),
            (r#"{"n": [1, 2.5]}"#, r#"input "n": found 2.5 at place 1, expected whole numbers in the range of i64"#),
            (r#"{"pixel": 256}"#, "found 256 at place 0, expected whole numbers from 0 to 255"),
            (r#"{"n": null}"#, r#"input "n": found null at place 0, expected whole numbers"#),
            (r#"{"word": null}"#, r#"input "word": found null at place 0, expected strings"#),
            (r#"{"x": [1, 2, 3]}"#, "found f32 of shape [1, 3], expected f32 of shape [batch, 2]"),
            (r#"{"x": 1}"#, "found f32 of shape [], expected f32 of shape [batch, 2]"),
            (r#"{"n": []}"#, "the batch is empty"),
            (r#"{"n": [1, 2], "word": "a"}"#, "a batch has one size"),
            ("{}", "no inputs were given"),
        ] {
            let error = signature().read_json(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(signature().read_json(&deep).is_err());
    }
}
