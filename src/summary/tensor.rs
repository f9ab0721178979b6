//! Tensors and plugin data inside of summaries.

use crate::{Error, ErrorKind, Result};
use protobuf::Message;
use tensorboard_proto::{
    summary::{SummaryMetadata, SummaryMetadata_PluginData},
    tensor::TensorProto,
    tensor_shape::{TensorShapeProto, TensorShapeProto_Dim},
    types::DataType,
};

/// Says which page of TensorBoard a value is for.
pub(super) fn metadata(plugin: &str, data: &impl Message) -> Result<SummaryMetadata> {
    let content = encode(data)?;
    let mut plugin_data = SummaryMetadata_PluginData::new();
    plugin_data.set_plugin_name(plugin.to_owned());
    plugin_data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(plugin_data);
    Ok(metadata)
}

pub(super) fn encode(message: &impl Message) -> Result<Vec<u8>> {
    let failed = |error| Error::with_source(ErrorKind::Io, "cannot encode a summary", error);
    message.write_to_bytes().map_err(failed)
}

pub(super) fn floats(values: Vec<f32>, shape: &[usize]) -> TensorProto {
    let mut tensor = TensorProto::new();
    tensor.set_dtype(DataType::DT_FLOAT);
    tensor.set_tensor_shape(dims(shape));
    tensor.set_float_val(values);
    tensor
}

/// A scalar of bytes, which is what the format calls a string.
pub(super) fn string(bytes: Vec<u8>) -> TensorProto {
    let mut tensor = TensorProto::new();
    tensor.set_dtype(DataType::DT_STRING);
    tensor.set_tensor_shape(dims(&[]));
    tensor.set_string_val(vec![bytes].into());
    tensor
}

fn dims(shape: &[usize]) -> TensorShapeProto {
    let dims = shape.iter().map(|&size| {
        let mut dim = TensorShapeProto_Dim::new();
        dim.set_size(i64::try_from(size).unwrap_or(i64::MAX));
        dim
    });
    let mut shape = TensorShapeProto::new();
    shape.set_dim(dims.collect());
    shape
}
