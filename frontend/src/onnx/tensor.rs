//! Tensors of an ONNX file as typed little-endian bytes.

use super::external::{ExternalFiles, Location};
use super::fault::Fault;
use super::narrow::Narrow;
use super::proto::TensorProto;
use super::proto::tensor_proto::{DataLocation, DataType};
use super::shape::MAX_ELEMS;
use ssmc_ir::{Bytes, DType, Shape, TensorType};
use std::sync::Arc;

/// A tensor whose elements are known: little-endian, row-major, sub-byte elements packed from the low bits.
#[derive(Clone, Debug)]
pub(crate) struct Literal {
    pub(crate) dtype: DType,
    /// What the elements mean, if they are narrow values one to a byte.
    pub(crate) narrow: Option<Narrow>,
    pub(crate) dims: Vec<usize>,
    pub(crate) bytes: Bytes,
}

impl Literal {
    /// Its type.
    pub(crate) fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, self.dims.iter().copied().collect::<Shape>())
    }

    /// Number of elements.
    pub(crate) fn n_elems(&self) -> usize {
        self.dims.iter().product()
    }

    /// The elements as integers, if this is an integer or boolean tensor of whole bytes.
    pub(crate) fn ints(&self) -> Option<Vec<i64>> {
        let bytes = self.bytes.as_slice();
        macro_rules! read {
            ($t:ty) => {
                Some(as_array(bytes).map(|b| i64::from(<$t>::from_le_bytes(b))).collect())
            };
        }
        match self.dtype {
            DType::I64 => read!(i64),
            DType::I32 => read!(i32),
            DType::I16 => read!(i16),
            DType::I8 => read!(i8),
            DType::U32 => read!(u32),
            DType::U16 => read!(u16),
            DType::U8 => read!(u8),
            DType::Bool => Some(bytes.iter().map(|b| i64::from(*b != 0)).collect()),
            DType::U64 => as_array(bytes).map(|b| i64::try_from(u64::from_le_bytes(b)).ok()).collect(),
            _ => None,
        }
    }

    /// The elements as floats, if this is a tensor of a usual float type.
    pub(crate) fn floats(&self) -> Option<Vec<f64>> {
        let bytes = self.bytes.as_slice();
        match self.dtype {
            DType::F64 => Some(as_array(bytes).map(f64::from_le_bytes).collect()),
            DType::F32 => Some(as_array(bytes).map(|b| f64::from(f32::from_le_bytes(b))).collect()),
            DType::F16 => Some(as_array(bytes).map(|b| half::f16::from_le_bytes(b).to_f64()).collect()),
            DType::BF16 => Some(as_array(bytes).map(|b| half::bf16::from_le_bytes(b).to_f64()).collect()),
            _ => None,
        }
    }
}

fn as_array<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// The element type of an ONNX type number.
///
/// # Errors
/// The number is unknown, or the type has no counterpart.
pub(crate) fn dtype(number: i32) -> Result<DType, Fault> {
    let unknown = |found: String| Fault::Mismatch {
        what: "element type".into(),
        expected: "an ONNX tensor element type".into(),
        found,
    };
    let ty = DataType::try_from(number).map_err(|_| unknown(format!("number {number}")))?;
    Ok(match ty {
        DataType::Float => DType::F32,
        DataType::Double => DType::F64,
        DataType::Float16 => DType::F16,
        DataType::Bfloat16 => DType::BF16,
        DataType::Int8 => DType::I8,
        DataType::Int16 => DType::I16,
        DataType::Int32 => DType::I32,
        DataType::Int64 => DType::I64,
        DataType::Uint8 => DType::U8,
        DataType::Uint16 => DType::U16,
        DataType::Uint32 => DType::U32,
        DataType::Uint64 => DType::U64,
        DataType::Bool => DType::Bool,
        DataType::Complex64 => DType::C64,
        DataType::Complex128 => DType::C128,
        DataType::Undefined => return Err(unknown("none".into())),
        // Values of narrow types come from files and conversions only, see `Narrow`.
        DataType::String
        | DataType::Float8e4m3fn
        | DataType::Float8e5m2
        | DataType::Int4
        | DataType::Uint4
        | DataType::Int2
        | DataType::Uint2
        | DataType::Float8e4m3fnuz
        | DataType::Float8e5m2fnuz
        | DataType::Float4e2m1
        | DataType::Float8e8m0
        | DataType::Float6e2m3
        | DataType::Float6e3m2 => {
            return Err(Fault::Unsupported(format!("element type {}", ty.as_str_name())));
        }
    })
}

/// Decodes a tensor; data outside the message is mapped, raw data borrowed.
///
/// # Errors
/// The type is unknown, a dim is negative, the number of elements overflows, or the data is not exactly the elements.
pub(crate) fn literal(tensor: &TensorProto, files: &ExternalFiles) -> Result<Literal, Fault> {
    let narrow = Narrow::of(tensor.data_type.unwrap_or(0));
    let dtype = match narrow {
        Some(narrow) => narrow.carrier(),
        None => dtype(tensor.data_type.unwrap_or(0))?,
    };
    if tensor.segment.is_some() {
        return Err(Fault::Unsupported("a tensor in segments".into()));
    }
    let dims: Vec<usize> = tensor
        .dims
        .iter()
        .map(|d| {
            usize::try_from(*d).map_err(|_| mismatch("dims", "no negative dim", format!("{:?}", tensor.dims)))
        })
        .collect::<Result<_, _>>()?;
    // Zero dims must not hide the size of the others from later products.
    let n_elems =
        dims.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1)).filter(|n| *n as u64 <= MAX_ELEMS));
    let n_elems = match n_elems {
        None => return Err(Fault::Limit { what: "elements of a tensor", limit: MAX_ELEMS }),
        Some(_) if dims.contains(&0) => 0,
        Some(n) => n,
    };
    let size = narrow.map_or((n_elems * dtype.bits()).div_ceil(8), |narrow| narrow.packed(n_elems));
    let bytes = if tensor.data_location.unwrap_or(0) == DataLocation::External as i32 {
        external(tensor, files, size)?
    } else if let Some(raw) = &tensor.raw_data {
        if raw.len() != size {
            return Err(mismatch("raw data", format!("{size} bytes"), format!("{} bytes", raw.len())));
        }
        Bytes::slice_of(Arc::new(raw.clone()), 0..size)
            .ok_or_else(|| mismatch("raw data", format!("{size} bytes"), "fewer"))?
    } else {
        match narrow {
            Some(narrow) => Bytes::from(typed_data(tensor, DType::U8, narrow.packed(n_elems))?),
            None => Bytes::from(typed_data(tensor, dtype, n_elems)?),
        }
    };
    let bytes = match narrow {
        Some(narrow) => {
            let bytes = narrow.unpack(bytes.as_slice(), n_elems);
            Bytes::from(bytes.ok_or_else(|| mismatch("data", format!("{n_elems} elements"), "others"))?)
        }
        None => bytes,
    };
    let bytes = match dtype {
        DType::Bool if bytes.as_slice().iter().any(|b| *b > 1) => {
            Bytes::from(bytes.as_slice().iter().map(|b| u8::from(*b != 0)).collect::<Vec<u8>>())
        }
        _ => bytes,
    };
    Ok(Literal { dtype, narrow, dims, bytes })
}

fn mismatch(what: &str, expected: impl ToString, found: impl ToString) -> Fault {
    Fault::Mismatch { what: what.into(), expected: expected.to_string(), found: found.to_string() }
}

fn external(tensor: &TensorProto, files: &ExternalFiles, size: usize) -> Result<Bytes, Fault> {
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
    let number = |key: &str| {
        entry(key)
            .map(|v| {
                v.parse::<u64>()
                    .map_err(|_| mismatch("external data", format!("{key} as a number"), format!("{v:?}")))
            })
            .transpose()
    };
    let file = entry("location").ok_or_else(|| mismatch("external data", "a location", "none"))?;
    files.bytes(&Location { file, offset: number("offset")?.unwrap_or(0), len: number("length")? }, size)
}

/// The elements from the typed fields (`float_data`, `int32_data`, ...).
fn typed_data(tensor: &TensorProto, dtype: DType, n_elems: usize) -> Result<Vec<u8>, Fault> {
    let count = |field: &str, found: usize, expected: usize| {
        if found == expected { Ok(()) } else { Err(mismatch(field, format!("{expected} elements"), found)) }
    };
    macro_rules! wide {
        ($field:ident, $per_elem:expr) => {{
            count(stringify!($field), tensor.$field.len(), n_elems * $per_elem)?;
            Ok(tensor.$field.iter().flat_map(|v| v.to_le_bytes()).collect())
        }};
    }
    macro_rules! narrow {
        ($field:ident, $t:ty, $n:expr) => {{
            count(stringify!($field), tensor.$field.len(), $n)?;
            let mut bytes = Vec::with_capacity($n * size_of::<$t>());
            for v in &tensor.$field {
                let v = <$t>::try_from(*v)
                    .map_err(|_| mismatch(stringify!($field), concat!("values of ", stringify!($t)), v))?;
                bytes.extend(v.to_le_bytes());
            }
            Ok(bytes)
        }};
    }
    match dtype {
        DType::F32 => wide!(float_data, 1),
        DType::C64 => wide!(float_data, 2),
        DType::F64 => wide!(double_data, 1),
        DType::C128 => wide!(double_data, 2),
        DType::I64 => wide!(int64_data, 1),
        DType::U64 => wide!(uint64_data, 1),
        DType::U32 => narrow!(uint64_data, u32, n_elems),
        DType::I32 => wide!(int32_data, 1),
        DType::I16 => narrow!(int32_data, i16, n_elems),
        DType::I8 => narrow!(int32_data, i8, n_elems),
        DType::U16 | DType::F16 | DType::BF16 => narrow!(int32_data, u16, n_elems),
        DType::U8 | DType::Bool => narrow!(int32_data, u8, n_elems),
        DType::F8E4M3 | DType::F8E5M2 | DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
            Err(Fault::Ir("a narrow type outside its bytes".into()))
        }
    }
}
