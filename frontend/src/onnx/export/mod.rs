//! Graphs as ONNX models: standard operators, and one local function per recurrence.
//!
//! Every node of the graph becomes nodes of the default domain, in an older or newer spelling as the opset asks for. A
//! recurrence becomes one call of a function of the model (domain `ssmc`) whose body has the form that runtimes execute
//! fastest. Inputs and outputs keep their names, element types and named dims.

mod body;
mod contract;
mod conv;
mod dims;
mod elementwise;
mod function;
mod groups;
mod layout;
mod norm;
mod operators;
mod recurrence;
mod scan;
mod sink;
mod stabilized;
mod step;
mod views;
mod write;
mod writer;

#[cfg(test)]
mod tests;

pub use write::{Encoded, encode};

use super::proto::ModelProto;
use ssmc_ir::{DType, Graph, Weights};
use writer::Writer;

/// The versions of the operator set that can be written.
pub const OPSETS: std::ops::RangeInclusive<i64> = 13..=27;

/// How a model is written.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Version of the operator set, one of [`OPSETS`].
    pub opset: i64,
    /// What was done to the model, for its documentation.
    pub doc: String,
    /// Whether tensors go to a file beside the model; those of more than 2 GB together do so anyway.
    pub external_data: bool,
}

/// Why a graph was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The operator set cannot be written.
    #[error("opset {found}: expected {} to {}", OPSETS.start(), OPSETS.end())]
    Opset {
        /// What was asked for.
        found: i64,
    },
    /// A node has no form in ONNX.
    #[error("{place}: {op} cannot be written to ONNX: {reason}")]
    Node {
        /// The node.
        place: String,
        /// Its op.
        op: &'static str,
        /// What stands in the way.
        reason: String,
    },
}

/// The graph as an ONNX model with all data inside.
///
/// # Errors
/// The first node that has no form in ONNX.
pub(crate) fn model(
    graph: &Graph,
    weights: &Weights,
    options: &ExportOptions,
) -> Result<ModelProto, ExportError> {
    if !OPSETS.contains(&options.opset) {
        return Err(ExportError::Opset { found: options.opset });
    }
    Writer::new(graph, weights, options.opset).model(&options.doc)
}

/// The number of an element type in tensors and casts.
pub(crate) fn type_number(dtype: DType) -> i32 {
    use super::proto::tensor_proto::DataType as T;
    let ty = match dtype {
        DType::F64 => T::Double,
        DType::F32 => T::Float,
        DType::F16 => T::Float16,
        DType::BF16 => T::Bfloat16,
        DType::F8E4M3 => T::Float8e4m3fn,
        DType::F8E5M2 => T::Float8e5m2,
        DType::C64 => T::Complex64,
        DType::C128 => T::Complex128,
        DType::I64 => T::Int64,
        DType::I32 => T::Int32,
        DType::I16 => T::Int16,
        DType::I8 => T::Int8,
        DType::I4 => T::Int4,
        DType::I2 => T::Int2,
        DType::U64 => T::Uint64,
        DType::U32 => T::Uint32,
        DType::U16 => T::Uint16,
        DType::U8 => T::Uint8,
        DType::U4 => T::Uint4,
        DType::U2 => T::Uint2,
        DType::Bool => T::Bool,
    };
    ty as i32
}
