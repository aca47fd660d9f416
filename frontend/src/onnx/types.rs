//! Declared types of inputs and outputs.

use super::fault::Fault;
use super::narrow::Narrow;
use super::proto::tensor_shape_proto::dimension::Value as DimValue;
use super::proto::type_proto::Value as TypeValue;
use super::proto::{ValueInfoProto, type_proto};
use super::shape::{MAX_DIM, check_shape};
use super::tensor;
use ssmc_ir::{DType, Dim, Shape, TensorType};
use std::collections::BTreeSet;

/// What an input or output is declared to be.
pub(crate) struct Declared<'m> {
    pub(crate) is_sequence: bool,
    pub(crate) is_optional: bool,
    /// The tensor, or each one of a sequence.
    pub(crate) tensor: Option<&'m type_proto::Tensor>,
}

/// The declaration of an input or output.
///
/// # Errors
/// It is neither a tensor nor a sequence of tensors, optional or not.
pub(crate) fn declared(info: &ValueInfoProto) -> Result<Declared<'_>, Fault> {
    let mut value = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    let (mut is_optional, mut is_sequence) = (false, false);
    if let Some(TypeValue::OptionalType(inner)) = value {
        is_optional = true;
        value = inner.elem_type.as_ref().and_then(|t| t.value.as_ref());
    }
    if let Some(TypeValue::SequenceType(inner)) = value {
        is_sequence = true;
        value = inner.elem_type.as_ref().and_then(|t| t.value.as_ref());
    }
    Ok(Declared { is_sequence, is_optional, tensor: tensor_of(value)? })
}

fn tensor_type(info: &ValueInfoProto) -> Result<Option<&type_proto::Tensor>, Fault> {
    tensor_of(info.r#type.as_ref().and_then(|t| t.value.as_ref()))
}

fn tensor_of(value: Option<&TypeValue>) -> Result<Option<&type_proto::Tensor>, Fault> {
    let kind = match value {
        None => return Ok(None),
        Some(TypeValue::TensorType(tensor)) => return Ok(Some(tensor)),
        Some(TypeValue::SequenceType(_)) => "sequence",
        Some(TypeValue::MapType(_)) => "map",
        Some(TypeValue::OptionalType(_)) => "optional",
        Some(TypeValue::SparseTensorType(_)) => "sparse tensor",
        Some(TypeValue::OpaqueType(_)) => "opaque",
    };
    Err(Fault::Unsupported(format!("a value of {kind} type")))
}

/// The element type of an ONNX type number, and what it means if its values are narrow.
pub(crate) fn element(number: i32) -> Result<(DType, Option<Narrow>), Fault> {
    match Narrow::of(number) {
        Some(narrow) => Ok((narrow.carrier(), Some(narrow))),
        None => Ok((tensor::dtype(number)?, None)),
    }
}

/// The declared element type, if there is one.
pub(crate) fn declared_dtype(info: &ValueInfoProto) -> Result<Option<DType>, Fault> {
    match tensor_type(info)?.map(|t| t.elem_type()) {
        None | Some(0) => Ok(None),
        Some(number) => element(number).map(|(dtype, _)| Some(dtype)),
    }
}

/// The type of a graph input, or of a part of one that is a sequence: a named dim is a symbol, a nameless one a symbol of its own. Where no shape is declared
/// it is `otherwise`.
///
/// # Errors
/// Element type or rank is missing, or a dim is out of range.
pub(crate) fn input_type(
    (name, is_part): (&str, bool),
    tensor: Option<&type_proto::Tensor>,
    taken: &BTreeSet<&str>,
    otherwise: Option<Shape>,
) -> Result<TensorType, Fault> {
    let incomplete = |what: &str| Fault::Mismatch {
        what: "type".into(),
        expected: format!("a tensor type with {what}"),
        found: "none".into(),
    };
    let tensor = tensor.ok_or_else(|| incomplete("an element type"))?;
    let (dtype, _) = element(tensor.elem_type())?;
    let Some(shape) = &tensor.shape else {
        let shape = otherwise.ok_or_else(|| incomplete("a shape"))?;
        check_shape(&shape)?;
        return Ok(TensorType::new(dtype, shape));
    };
    let mut dims = Vec::new();
    for (axis, dim) in shape.dim.iter().enumerate() {
        dims.push(match &dim.value {
            Some(DimValue::DimValue(n)) if (0..=MAX_DIM).contains(n) => Dim::from(*n),
            Some(DimValue::DimValue(n)) => {
                let expected = format!("0 to {MAX_DIM}");
                return Err(Fault::Mismatch { what: format!("dim {axis}"), expected, found: n.to_string() });
            }
            // What a sequence declares of its tensors names no extent that they share.
            Some(DimValue::DimParam(symbol)) if !symbol.is_empty() && !is_part => Dim::symbol(symbol),
            Some(DimValue::DimParam(_)) | None => Dim::symbol(&fresh(name, axis, taken)),
        });
    }
    check_shape(&dims)?;
    Ok(TensorType::new(dtype, dims))
}

/// A symbol name for a nameless dim that no named dim has.
fn fresh(input: &str, axis: usize, taken: &BTreeSet<&str>) -> String {
    let mut name = format!("{input}.{axis}");
    while taken.contains(name.as_str()) {
        name.push('_');
    }
    name
}

/// The names of all dims of these inputs.
pub(crate) fn dim_names(infos: &[ValueInfoProto]) -> BTreeSet<&str> {
    let tensors = infos.iter().filter_map(|i| declared(i).ok()?.tensor);
    tensors
        .flat_map(|t| t.shape.iter().flat_map(|s| &s.dim))
        .filter_map(|d| match &d.value {
            Some(DimValue::DimParam(name)) => Some(name.as_str()),
            Some(DimValue::DimValue(_)) | None => None,
        })
        .collect()
}

/// Compares an output, or a tensor of one, with its declaration: element type, rank and constant extents. Symbols of a
/// declaration are names chosen by the exporter and prove nothing.
///
/// # Errors
/// They disagree.
pub(crate) fn check_output(
    declared: &Declared<'_>,
    found: &TensorType,
    narrow: Option<Narrow>,
) -> Result<(), Fault> {
    let mismatch =
        |expected: String| Fault::Mismatch { what: "type".into(), expected, found: found.to_string() };
    let Some(tensor) = declared.tensor else { return Ok(()) };
    if tensor.elem_type() != 0 {
        let (dtype, expected) = element(tensor.elem_type())?;
        if expected != narrow {
            let (what, expected) = ("element type".to_owned(), format!("{expected:?}"));
            return Err(Fault::Mismatch { what, expected, found: format!("{narrow:?}") });
        }
        if dtype != found.dtype {
            return Err(mismatch(dtype.to_string()));
        }
    }
    let Some(shape) = tensor.shape.as_ref() else { return Ok(()) };
    if shape.dim.len() != found.rank() {
        return Err(mismatch(format!("{} axes", shape.dim.len())));
    }
    for (axis, (dim, n)) in shape.dim.iter().zip(found.shape.iter()).enumerate() {
        if let (Some(DimValue::DimValue(declared)), Some(n)) = (&dim.value, n.as_const())
            && *declared != n
        {
            return Err(mismatch(format!("extent {declared} on axis {axis}")));
        }
    }
    Ok(())
}
