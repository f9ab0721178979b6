//! What a run was made with.

use super::tensor;
use crate::{Error, ErrorKind, Result};
use protobuf::well_known_types::Value as ProtoValue;
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};
use tensorboard_proto::{
    api::Status,
    plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo},
    summary::Summary_Value,
};

/// Hyper-parameters for TensorBoard's HParams page, which compares runs by them and by the last values of their curves.
///
/// Write them with a writer on the directory *above* those of the curves: `runs/mnist` when the curves are in `runs/mnist/train`
/// and `runs/mnist/validation`. Then one row of the page has the metrics of both.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HyperParameters {
    values: BTreeMap<String, HyperParameter>,
}

/// One value: the page knows these three types.
#[derive(Debug, Clone, PartialEq)]
pub enum HyperParameter {
    /// Any number.
    Number(f64),
    /// A switch.
    Bool(bool),
    /// A choice.
    Text(String),
}

impl From<f64> for HyperParameter {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<bool> for HyperParameter {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for HyperParameter {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl HyperParameters {
    /// Without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this one too.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<HyperParameter>) -> Self {
        self.values.insert(name.to_owned(), value.into());
        self
    }

    /// The fields of any serialisable value, such as a model function; inner fields are named `outer.inner`, list elements
    /// `list.0`, and what is null is left out. Values of more than 1000 fields, such as a vocabulary, are shown as their
    /// number of fields.
    ///
    /// Fails with [`ErrorKind::InvalidArgument`] when it cannot be serialised.
    pub fn of(value: &impl serde::Serialize) -> Result<Self> {
        let value = serde_json::to_value(value).map_err(|error| {
            Error::with_source(ErrorKind::InvalidArgument, "hyper-parameters that cannot be serialised", error)
        })?;
        let mut values = BTreeMap::new();
        flatten(String::new(), &value, &mut values);
        Ok(Self { values })
    }

    /// The values by name.
    pub fn values(&self) -> &BTreeMap<String, HyperParameter> {
        &self.values
    }

    pub(super) fn value(&self, start: SystemTime) -> Result<Summary_Value> {
        let mut info = SessionStartInfo::new();
        info.set_start_time_secs(seconds(start));
        let values = self.values.iter().map(|(name, value)| {
            let mut proto = ProtoValue::new();
            match value {
                HyperParameter::Number(number) => proto.set_number_value(*number),
                HyperParameter::Bool(switch) => proto.set_bool_value(*switch),
                HyperParameter::Text(text) => proto.set_string_value(text.clone()),
            }
            (name.clone(), proto)
        });
        info.set_hparams(values.collect());
        let mut data = HParamsPluginData::new();
        data.set_session_start_info(info);
        session("_hparams_/session_start_info", &data)
    }
}

/// Ends the session that [`HyperParameters`] began.
pub(super) fn session_end(success: bool, end: SystemTime) -> Result<Summary_Value> {
    let mut info = SessionEndInfo::new();
    info.set_status(if success { Status::STATUS_SUCCESS } else { Status::STATUS_FAILURE });
    info.set_end_time_secs(seconds(end));
    let mut data = HParamsPluginData::new();
    data.set_session_end_info(info);
    session("_hparams_/session_end_info", &data)
}

fn session(tag: &str, data: &HParamsPluginData) -> Result<Summary_Value> {
    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    value.set_metadata(tensor::metadata("hparams", data)?);
    // All is in the metadata; the smallest tensor there is stands for the value.
    value.set_tensor(tensor::floats(Vec::new(), &[0]));
    Ok(value)
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// So many fields fit on a page; a larger value is no hyper-parameter to compare runs by.
const FIELDS: usize = 1000;

fn flatten(name: String, value: &serde_json::Value, values: &mut BTreeMap<String, HyperParameter>) {
    use serde_json::Value;
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    let size = |size: usize| HyperParameter::Text(format!("{size} values"));
    let leaf = match value {
        Value::Null => return,
        Value::Bool(switch) => HyperParameter::Bool(*switch),
        Value::Number(number) => HyperParameter::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => HyperParameter::Text(text.clone()),
        Value::Array(list) if list.len() > FIELDS => size(list.len()),
        Value::Object(fields) if fields.len() > FIELDS => size(fields.len()),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| flatten(inner(&i.to_string()), value, values));
            return;
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| flatten(inner(key), value, values));
            return;
        }
    };
    values.insert(if name.is_empty() { "value".to_owned() } else { name }, leaf);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_struct() {
        #[derive(serde::Serialize)]
        struct Optimizer {
            name: &'static str,
            momentum: Option<f64>,
        }
        #[derive(serde::Serialize)]
        struct Model {
            learning_rate: f64,
            bias: bool,
            widths: Vec<usize>,
            optimizer: Optimizer,
            vocabulary: Vec<String>,
        }
        let model = Model {
            learning_rate: 1e-3,
            bias: true,
            widths: vec![64, 10],
            optimizer: Optimizer { name: "sgd", momentum: None },
            vocabulary: vec![String::new(); 5000],
        };
        let expected = HyperParameters::new()
            .with("learning_rate", 1e-3)
            .with("bias", true)
            .with("widths.0", 64.0)
            .with("widths.1", 10.0)
            .with("optimizer.name", "sgd")
            .with("vocabulary", "5000 values");
        assert_eq!(HyperParameters::of(&model).unwrap(), expected);
    }
}
