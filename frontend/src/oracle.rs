//! tract, an ONNX engine that shares nothing with this compiler, to compare with.
//!
//! It reads the model file itself. What it cannot run is an [`OracleError::Refused`] and says nothing about the model.

use crate::error::ImportError;
use crate::onnx::proto::{ModelProto, ValueInfoProto};
use crate::onnx::{import_model, read_message};
use crate::shapes::InputShape;
use ssmc_ir::{DType, Model, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tract_onnx::prelude::{
    Datum, DatumType, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, TVec,
    Tensor as TheirTensor, TractResult,
};

/// Why tract gives no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OracleError {
    /// It does not take the model: an operator that it lacks, shapes that it cannot follow, or a panic.
    #[error("tract does not run the model: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// An input is missing, or of elements that it lacks.
    #[error("input {name}: {reason}")]
    Input {
        /// The input.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A result of a node of the model's graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The name of the node; may be empty.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The name of the result.
    pub value: String,
}

/// Room for the recursion of its analysis of shapes.
const STACK: usize = 256 << 20;

/// The values that tract computes: of `wanted`, or of the outputs of the model.
///
/// Inputs have the extents of the tensors given. For `wanted` nothing is rewritten, so that every node is run as it
/// stands in the file; else tract optimizes as it does for its users.
///
/// # Errors
/// An input is missing or cannot be said to tract, or tract refuses the model or fails to run it.
pub fn run(
    path: &Path,
    wanted: Option<&[Site]>,
    inputs: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>, OracleError> {
    let task = || attempt(path, wanted, inputs);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("tract".into()).stack_size(STACK);
        let running = thread.spawn_scoped(scope, task).map_err(|error| refused(&error))?;
        running.join().unwrap_or_else(|_| Err(refused(&"it panics")))
    })
}

/// The model with every result of a node of its graph as an output, and these results in the order of the nodes.
///
/// # Errors
/// As for [`crate::onnx::import_with`].
pub fn import_all(path: &Path, shapes: &[InputShape]) -> Result<(Model, Vec<Site>), ImportError> {
    let mut proto = read_message(path)?;
    let sites = expose(&mut proto);
    Ok((import_model(&proto, path, shapes)?, sites))
}

/// Makes results of nodes outputs, as far as they are tensors by their operator.
fn expose(proto: &mut ModelProto) -> Vec<Site> {
    let Some(graph) = proto.graph.as_mut() else { return Vec::new() };
    let known: BTreeSet<String> = graph.output.iter().map(|info| info.name().to_owned()).collect();
    let mut sites = Vec::new();
    for node in &graph.node {
        let op = node.op_type();
        let is_tensor =
            !(op.starts_with("Sequence") || op.starts_with("Optional") || op == "SplitToSequence");
        for value in node.output.iter().filter(|value| is_tensor && !value.is_empty()) {
            sites.push(Site { node: node.name().to_owned(), op: op.to_owned(), value: value.clone() });
            if !known.contains(value) {
                let name = Some(value.clone());
                graph.output.push(ValueInfoProto { name, ..ValueInfoProto::default() });
            }
        }
    }
    sites
}

fn refused(error: &dyn std::fmt::Display) -> OracleError {
    // Its errors name their causes in further lines.
    OracleError::Refused { reason: error.to_string().lines().collect::<Vec<_>>().join(": ") }
}

fn attempt(
    path: &Path,
    wanted: Option<&[Site]>,
    inputs: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>, OracleError> {
    let fault = |error: tract_onnx::prelude::TractError| refused(&format!("{error:#}"));
    let engine = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let mut model = engine.model_for_path(path).map_err(fault)?;
    let mut given = TVec::new();
    for (i, outlet) in model.input_outlets().map_err(fault)?.to_vec().into_iter().enumerate() {
        let name = model.node(outlet.node).name.clone();
        let wrong = |reason: String| OracleError::Input { name: name.clone(), reason };
        let tensor = inputs.get(&name).ok_or_else(|| wrong("it is missing".to_owned()))?;
        let theirs = give(tensor).map_err(wrong)?;
        let fact = InferenceFact::dt_shape(theirs.datum_type(), theirs.shape());
        model.set_input_fact(i, fact).map_err(fault)?;
        given.push(theirs.into_tvalue());
    }
    if let Some(wanted) = wanted {
        let outlets: BTreeMap<&str, _> = model.outlet_labels.iter().map(|(o, l)| (l.as_str(), *o)).collect();
        let find = |site: &Site| outlets.get(site.value.as_str()).copied();
        let outlets: Vec<_> = wanted.iter().filter_map(find).collect();
        model.select_output_outlets(&outlets).map_err(fault)?;
    }
    let names: Vec<String> = model
        .output_outlets()
        .map_err(fault)?
        .iter()
        .map(|outlet| model.outlet_label(*outlet).unwrap_or(&model.node(outlet.node).name).to_owned())
        .collect();
    let typed = if wanted.is_some() { model.into_typed() } else { model.into_optimized() };
    let plan = typed.and_then(IntoRunnable::into_runnable).map_err(fault)?;
    let found = plan.run(given).map_err(fault)?;
    let mut values = BTreeMap::new();
    for (name, value) in names.into_iter().zip(&found) {
        match take(value) {
            Ok(tensor) => values.insert(name, tensor),
            // A value in between may be of a kind of its own.
            Err(_) if wanted.is_some() => continue,
            Err(reason) => return Err(refused(&format!("output {name}: {reason}"))),
        };
    }
    Ok(values)
}

fn give(tensor: &Tensor) -> Result<TheirTensor, String> {
    let (shape, bytes) = (tensor.shape(), tensor.to_bytes());
    macro_rules! of {
        ($ty:ty) => {{
            let elements = bytes.as_chunks::<{ size_of::<$ty>() }>().0;
            let elements: Vec<$ty> = elements.iter().map(|bytes| <$ty>::from_le_bytes(*bytes)).collect();
            TheirTensor::from_shape(shape, &elements)
        }};
    }
    let made = match tensor.dtype() {
        DType::F64 => of!(f64),
        DType::F32 => of!(f32),
        DType::F16 => of!(half::f16),
        DType::I64 => of!(i64),
        DType::I32 => of!(i32),
        DType::I16 => of!(i16),
        DType::I8 => of!(i8),
        DType::U64 => of!(u64),
        DType::U32 => of!(u32),
        DType::U16 => of!(u16),
        DType::U8 => of!(u8),
        DType::Bool => {
            let elements: Vec<bool> = bytes.iter().map(|byte| *byte != 0).collect();
            TheirTensor::from_shape(shape, &elements)
        }
        other => return Err(format!("tract has no elements of type {other}")),
    };
    made.map_err(|error| error.to_string())
}

fn take(tensor: &TheirTensor) -> Result<Tensor, String> {
    fn bytes<T: Datum, const N: usize>(
        tensor: &TheirTensor,
        bytes: fn(&T) -> [u8; N],
    ) -> TractResult<Vec<u8>> {
        Ok(tensor.to_plain_array_view::<T>()?.iter().flat_map(bytes).collect())
    }
    macro_rules! of {
        ($ty:ty) => {
            bytes::<$ty, _>(tensor, |x| x.to_le_bytes())
        };
    }
    let (dtype, data) = match tensor.datum_type() {
        DatumType::F64 => (DType::F64, of!(f64)),
        DatumType::F32 => (DType::F32, of!(f32)),
        DatumType::F16 => (DType::F16, of!(half::f16)),
        DatumType::I64 => (DType::I64, of!(i64)),
        DatumType::I32 => (DType::I32, of!(i32)),
        DatumType::I16 => (DType::I16, of!(i16)),
        DatumType::I8 => (DType::I8, of!(i8)),
        DatumType::U64 => (DType::U64, of!(u64)),
        DatumType::U32 => (DType::U32, of!(u32)),
        DatumType::U16 => (DType::U16, of!(u16)),
        DatumType::U8 => (DType::U8, of!(u8)),
        DatumType::Bool => (DType::Bool, bytes::<bool, 1>(tensor, |x| [u8::from(*x)])),
        // Extents, which it follows as formulas.
        DatumType::TDim => {
            let numbers = tensor.cast_to::<i64>().map_err(|error| error.to_string())?;
            return take(&numbers);
        }
        other => return Err(format!("elements of type {other:?}")),
    };
    let data = data.map_err(|error| error.to_string())?;
    Tensor::from_bytes(dtype, tensor.shape(), &data).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
