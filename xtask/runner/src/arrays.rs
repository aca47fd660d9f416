//! Arrays of files as tensors of the runtime and back.

use std::path::Path;

use ssmc_npz::{Array, Dtype};
use ssmc_runtime::{DType, Tensor, TensorRef};

use crate::Error;

const TYPES: &[(Dtype, DType)] = &[
    (Dtype::Bool, DType::Bool),
    (Dtype::I8, DType::I8),
    (Dtype::U8, DType::U8),
    (Dtype::I16, DType::I16),
    (Dtype::U16, DType::U16),
    (Dtype::I32, DType::I32),
    (Dtype::U32, DType::U32),
    (Dtype::I64, DType::I64),
    (Dtype::U64, DType::U64),
    (Dtype::F16, DType::F16),
    (Dtype::Bf16, DType::Bf16),
    (Dtype::F32, DType::F32),
    (Dtype::F64, DType::F64),
];

/// The array as the runtime takes it.
pub(crate) fn view<'a>(name: &str, array: &'a Array) -> Result<TensorRef<'a>, Error> {
    let dtype = TYPES.iter().find(|row| row.0 == array.dtype).map(|row| row.1);
    let dtype = dtype.ok_or_else(|| Error::Array(format!("{name}: no type for {:?}", array.dtype)))?;
    Ok(TensorRef::from_bytes(dtype, &array.shape, &array.bytes)?)
}

/// Writes tensors to a file.
pub(crate) fn write<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), Error> {
    let arrays = tensors
        .map(|(name, tensor)| Ok((name, array(name, tensor)?)))
        .collect::<Result<Vec<(&str, Array)>, Error>>()?;
    write_arrays(path, &arrays)
}

/// Writes arrays to a file.
pub(crate) fn write_arrays(path: &Path, arrays: &[(&str, Array)]) -> Result<(), Error> {
    ssmc_npz::write(path, arrays.iter().map(|(name, array)| (*name, array)))
        .map_err(|source| Error::Npz { path: path.display().to_string(), source })
}

/// The tensor as an array of a file.
pub(crate) fn array(name: &str, tensor: &Tensor) -> Result<Array, Error> {
    let dtype = TYPES.iter().find(|row| row.1 == tensor.dtype()).map(|row| row.0);
    let dtype = dtype.ok_or_else(|| Error::Array(format!("{name}: {} is not in npz", tensor.dtype())))?;
    Ok(Array { dtype, shape: tensor.dims().to_vec(), bytes: tensor.bytes().to_vec() })
}
