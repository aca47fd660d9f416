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

fn tensor_type(info: &ValueInfoProto) -> Result<Option<&type_proto::Tensor>, Fault> {
    let kind = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
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

/// What a declared value means, if it is narrow.
pub(crate) fn declared_narrow(info: &ValueInfoProto) -> Option<Narrow> {
    tensor_type(info).ok().flatten().and_then(|tensor| Narrow::of(tensor.elem_type()))
}

/// The declared element type, if there is one.
pub(crate) fn declared_dtype(info: &ValueInfoProto) -> Result<Option<DType>, Fault> {
    match tensor_type(info)?.map(|t| t.elem_type()) {
        None | Some(0) => Ok(None),
        Some(number) => element(number).map(|(dtype, _)| Some(dtype)),
    }
}

/// Whether a shape is declared.
pub(crate) fn declares_shape(info: &ValueInfoProto) -> bool {
    tensor_type(info).is_ok_and(|tensor| tensor.is_some_and(|tensor| tensor.shape.is_some()))
}

/// The type of a graph input: a named dim is a symbol, a nameless one a symbol of its own. Where no shape is declared
/// it is `otherwise`.
///
/// # Errors
/// Element type or rank is missing, or a dim is out of range.
pub(crate) fn input_type(
    info: &ValueInfoProto,
    taken: &BTreeSet<&str>,
    otherwise: Option<Shape>,
) -> Result<TensorType, Fault> {
    let incomplete = |what: &str| Fault::Mismatch {
        what: "type".into(),
        expected: format!("a tensor type with {what}"),
        found: "none".into(),
    };
    let tensor = tensor_type(info)?.ok_or_else(|| incomplete("an element type"))?;
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
            Some(DimValue::DimParam(name)) if !name.is_empty() => Dim::symbol(name),
            Some(DimValue::DimParam(_)) | None => Dim::symbol(&fresh(info.name(), axis, taken)),
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
    let tensors = infos.iter().filter_map(|i| tensor_type(i).ok().flatten());
    tensors
        .flat_map(|t| t.shape.iter().flat_map(|s| &s.dim))
        .filter_map(|d| match &d.value {
            Some(DimValue::DimParam(name)) => Some(name.as_str()),
            Some(DimValue::DimValue(_)) | None => None,
        })
        .collect()
}

/// Compares an output with its declaration: element type, rank and constant extents. Symbols of a declaration are
/// names chosen by the exporter and prove nothing.
///
/// # Errors
/// They disagree.
pub(crate) fn check_output(info: &ValueInfoProto, found: &TensorType) -> Result<(), Fault> {
    let mismatch =
        |expected: String| Fault::Mismatch { what: "type".into(), expected, found: found.to_string() };
    if let Some(dtype) = declared_dtype(info)?
        && dtype != found.dtype
    {
        return Err(mismatch(dtype.to_string()));
    }
    let Some(shape) = tensor_type(info)?.and_then(|t| t.shape.as_ref()) else { return Ok(()) };
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
