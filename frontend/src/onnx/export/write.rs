//! Models as bytes, with tensors in a file of their own where they are too large.

use super::super::proto::tensor_proto::DataLocation;
use super::super::proto::{ModelProto, StringStringEntryProto, TensorProto};
use super::{ExportError, ExportOptions, model};
use prost::Message;
use ssmc_ir::{Graph, Weights};

/// A model file, and the file beside it that holds its tensors, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Encoded {
    pub model: Vec<u8>,
    pub data: Option<Vec<u8>>,
}

/// The most bytes of tensors in a model file; the format ends at 2 GB.
const MOST: usize = (1 << 31) - (1 << 24);
/// Smaller tensors stay in the model file: tools read shapes and axes there.
const SMALL: usize = 1024;
/// Tensors begin at multiples of this, so that a mapped file can be used as it is.
const ALIGN: usize = 64;

/// The graph as an ONNX file. `data_file` is the name of the file for tensors, should one be needed.
///
/// # Errors
/// The first node that has no form in ONNX.
pub fn encode(
    graph: &Graph,
    weights: &Weights,
    options: &ExportOptions,
    data_file: &str,
) -> Result<Encoded, ExportError> {
    let mut model = model(graph, weights, options)?;
    let tensors = model.graph.iter().flat_map(|g| &g.initializer);
    let bytes: usize = tensors.map(|t| t.raw_data().len()).sum();
    let data = (options.external_data || bytes > MOST).then(|| take_out(&mut model, data_file));
    Ok(Encoded { model: model.encode_to_vec(), data })
}

/// Moves the elements of large tensors to the content of another file.
fn take_out(model: &mut ModelProto, data_file: &str) -> Vec<u8> {
    let mut data: Vec<u8> = Vec::new();
    for tensor in model.graph.iter_mut().flat_map(|g| &mut g.initializer) {
        let Some(bytes) = tensor.raw_data.take_if(|bytes| bytes.len() >= SMALL) else { continue };
        data.resize(data.len().next_multiple_of(ALIGN), 0);
        let at = data.len();
        data.extend_from_slice(&bytes);
        refer(tensor, data_file, at, bytes.len());
    }
    data
}

fn refer(tensor: &mut TensorProto, file: &str, offset: usize, length: usize) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    tensor.data_location = Some(DataLocation::External as i32);
    tensor.external_data = vec![
        entry("location", file.to_owned()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}
