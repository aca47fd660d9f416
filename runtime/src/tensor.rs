//! Tensors as the runtime takes and gives them: row-major, contiguous.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use ssmc_artifact::DType;

use crate::memory::AlignedBytes;

/// Why bytes are no tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The number of bytes does not follow from dtype and dims.
    #[error("tensor of {dtype} {dims:?} has the wrong size: expected {expected} bytes, found {found}")]
    Length {
        /// Element type.
        dtype: DType,
        /// Dims.
        dims: Vec<usize>,
        /// Bytes by dtype and dims.
        expected: u64,
        /// Bytes given.
        found: usize,
    },
    /// The dims have more elements than memory can hold.
    #[error("tensor of {dtype} {dims:?} is larger than memory can be")]
    TooLarge {
        /// Element type.
        dtype: DType,
        /// Dims.
        dims: Vec<usize>,
    },
    /// The bytes are not aligned for the element type.
    #[error("tensor of {dtype} lies at an address that is no multiple of {expected}")]
    Alignment {
        /// Element type.
        dtype: DType,
        /// The alignment needed.
        expected: usize,
    },
}

/// Rust types that are element types of tensors.
pub trait Element: Pod {
    /// The element type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })*
    };
}

elements! {
    f64 => F64, f32 => F32, f16 => F16, bf16 => Bf16,
    i64 => I64, u64 => U64, i32 => I32, u32 => U32, i16 => I16, u16 => U16, i8 => I8, u8 => U8,
}

/// Bytes of a tensor.
pub(crate) fn byte_len(dtype: DType, dims: &[usize]) -> Result<usize, TensorError> {
    dims.iter()
        .try_fold(1u64, |acc, &dim| acc.checked_mul(dim as u64))
        .and_then(|n| dtype.byte_len(n))
        .and_then(|n| usize::try_from(n).ok())
        .filter(|&n| n <= isize::MAX as usize)
        .ok_or_else(|| TensorError::TooLarge { dtype, dims: dims.to_vec() })
}

fn check(dtype: DType, dims: &[usize], bytes: &[u8]) -> Result<(), TensorError> {
    let expected = byte_len(dtype, dims)?;
    if bytes.len() != expected {
        let expected = expected as u64;
        return Err(TensorError::Length { dtype, dims: dims.to_vec(), expected, found: bytes.len() });
    }
    if !bytes.is_empty() && bytes.as_ptr().align_offset(dtype.align()) != 0 {
        return Err(TensorError::Alignment { dtype, expected: dtype.align() });
    }
    Ok(())
}

/// A borrowed tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    dtype: DType,
    dims: &'a [usize],
    bytes: &'a [u8],
}

impl<'a> TensorRef<'a> {
    /// The tensor of shape `dims` with the elements `values`.
    pub fn new<T: Element>(dims: &'a [usize], values: &'a [T]) -> Result<Self, TensorError> {
        Self::from_bytes(T::DTYPE, dims, bytemuck::cast_slice(values))
    }

    /// The tensor of shape `dims` with the native-endian elements in `bytes`, aligned for `dtype`.
    pub fn from_bytes(dtype: DType, dims: &'a [usize], bytes: &'a [u8]) -> Result<Self, TensorError> {
        check(dtype, dims, bytes)?;
        Ok(Self { dtype, dims, bytes })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dims.
    pub fn dims(&self) -> &'a [usize] {
        self.dims
    }

    /// The elements as bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements, if they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        if self.dtype == T::DTYPE { bytemuck::try_cast_slice(self.bytes).ok() } else { None }
    }
}

/// A tensor borrowed to be written.
#[derive(Debug)]
pub struct TensorMut<'a> {
    dtype: DType,
    dims: &'a [usize],
    bytes: &'a mut [u8],
}

impl<'a> TensorMut<'a> {
    /// The tensor of shape `dims` over `values`.
    pub fn new<T: Element>(dims: &'a [usize], values: &'a mut [T]) -> Result<Self, TensorError> {
        Self::from_bytes(T::DTYPE, dims, bytemuck::cast_slice_mut(values))
    }

    /// The tensor of shape `dims` over `bytes`, aligned for `dtype`.
    pub fn from_bytes(dtype: DType, dims: &'a [usize], bytes: &'a mut [u8]) -> Result<Self, TensorError> {
        check(dtype, dims, bytes)?;
        Ok(Self { dtype, dims, bytes })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dims.
    pub fn dims(&self) -> &'a [usize] {
        self.dims
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

/// An owned tensor, aligned to 64 bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<usize>,
    data: AlignedBytes,
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// If the tensor is larger than memory can be, or the allocator refuses.
    pub fn zeros(dtype: DType, dims: &[usize]) -> Result<Self, TensorError> {
        let too_large = || TensorError::TooLarge { dtype, dims: dims.to_vec() };
        let data = AlignedBytes::zeroed(byte_len(dtype, dims)?).ok_or_else(too_large)?;
        Ok(Self { dtype, dims: dims.to_vec(), data })
    }

    /// A copy of `values` with shape `dims`.
    pub fn from_slice<T: Element>(dims: &[usize], values: &[T]) -> Result<Self, TensorError> {
        Self::from_bytes(T::DTYPE, dims, bytemuck::cast_slice(values))
    }

    /// A copy of native-endian elements in `bytes`, which need no alignment.
    pub fn from_bytes(dtype: DType, dims: &[usize], bytes: &[u8]) -> Result<Self, TensorError> {
        let expected = byte_len(dtype, dims)?;
        if bytes.len() != expected {
            let expected = expected as u64;
            return Err(TensorError::Length { dtype, dims: dims.to_vec(), expected, found: bytes.len() });
        }
        let mut tensor = Self::zeros(dtype, dims)?;
        tensor.data.as_mut_slice().copy_from_slice(bytes);
        Ok(tensor)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dims.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The elements as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// The elements, if they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.view().as_slice()
    }

    /// The tensor, borrowed.
    pub fn view(&self) -> TensorRef<'_> {
        TensorRef { dtype: self.dtype, dims: &self.dims, bytes: self.data.as_slice() }
    }

    /// The tensor, borrowed to be written.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        TensorMut { dtype: self.dtype, dims: &self.dims, bytes: self.data.as_mut_slice() }
    }
}

/// The elements of a tensor as f64; complex numbers as two values each. `None` for dtypes without a
/// conversion: f8 and sub-byte integers.
pub(crate) fn to_f64(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    fn read<T: Pod + Zeroable>(bytes: &[u8], convert: impl Fn(T) -> f64) -> Vec<f64> {
        bytes.chunks_exact(size_of::<T>()).map(|chunk| convert(bytemuck::pod_read_unaligned(chunk))).collect()
    }
    Some(match dtype {
        DType::F64 | DType::C128 => read(bytes, |v: f64| v),
        DType::F32 | DType::C64 => read(bytes, |v: f32| v.into()),
        DType::F16 => read(bytes, f16::to_f64),
        DType::Bf16 => read(bytes, bf16::to_f64),
        DType::I64 => read(bytes, |v: i64| v as f64),
        DType::U64 => read(bytes, |v: u64| v as f64),
        DType::I32 => read(bytes, |v: i32| v.into()),
        DType::U32 => read(bytes, |v: u32| v.into()),
        DType::I16 => read(bytes, |v: i16| v.into()),
        DType::U16 => read(bytes, |v: u16| v.into()),
        DType::I8 => read(bytes, |v: i8| v.into()),
        DType::U8 | DType::Bool => read(bytes, |v: u8| v.into()),
        DType::F8e4m3
        | DType::F8e5m2
        | DType::I4
        | DType::U4
        | DType::I2
        | DType::U2
        | DType::Unspecified => {
            return None;
        }
    })
}
