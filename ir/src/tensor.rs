//! A tensor in host memory, as the reference interpreter computes with it.

use crate::scalar;
use crate::types::DType;
use std::fmt;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A complex number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Complex {
    pub re: f64,
    pub im: f64,
}

impl Complex {
    /// The number `re + i*im`.
    pub fn new(re: f64, im: f64) -> Self {
        Self { re, im }
    }

    /// e^z
    pub fn exp(self) -> Self {
        let r = self.re.exp();
        Self::new(r * self.im.cos(), r * self.im.sin())
    }

    /// e^z - 1, accurate near 0.
    pub fn exp_m1(self) -> Self {
        let half = (self.im / 2.0).sin();
        Self::new(self.re.exp_m1() * self.im.cos() - 2.0 * half * half, self.re.exp() * self.im.sin())
    }
}

impl Add for Complex {
    type Output = Self;
    fn add(self, y: Self) -> Self {
        Self::new(self.re + y.re, self.im + y.im)
    }
}

impl Sub for Complex {
    type Output = Self;
    fn sub(self, y: Self) -> Self {
        Self::new(self.re - y.re, self.im - y.im)
    }
}

impl Neg for Complex {
    type Output = Self;
    fn neg(self) -> Self {
        Self::new(-self.re, -self.im)
    }
}

impl Mul for Complex {
    type Output = Self;
    fn mul(self, y: Self) -> Self {
        Self::new(self.re * y.re - self.im * y.im, self.re * y.im + self.im * y.re)
    }
}

impl Div for Complex {
    type Output = Self;
    fn div(self, y: Self) -> Self {
        let norm = y.re * y.re + y.im * y.im;
        let n = self * Self::new(y.re, -y.im);
        Self::new(n.re / norm, n.im / norm)
    }
}

/// The elements of a [`Tensor`] in row-major order, in the widest type of their kind.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Data {
    Float(Vec<f64>),
    /// Signed and unsigned integers; `u64` by its bits.
    Int(Vec<i64>),
    Bool(Vec<bool>),
    Complex(Vec<Complex>),
}

/// Applies one expression to the vector of whatever kind.
macro_rules! each_kind {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            Data::Float($v) => Data::Float($body),
            Data::Int($v) => Data::Int($body),
            Data::Bool($v) => Data::Bool($body),
            Data::Complex($v) => Data::Complex($body),
        }
    };
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Float(v) => v.len(),
            Data::Int(v) => v.len(),
            Data::Bool(v) => v.len(),
            Data::Complex(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn kind(&self) -> &'static str {
        match self {
            Data::Float(_) => "float",
            Data::Int(_) => "integer",
            Data::Bool(_) => "bool",
            Data::Complex(_) => "complex",
        }
    }

    fn of_kind(&self, dtype: DType) -> bool {
        match self {
            Data::Float(_) => dtype.is_float(),
            Data::Int(_) => dtype.is_int(),
            Data::Bool(_) => dtype == DType::Bool,
            Data::Complex(_) => dtype.is_complex(),
        }
    }

    fn zeros(dtype: DType, n: usize) -> Self {
        if dtype.is_float() {
            Data::Float(vec![0.0; n])
        } else if dtype.is_complex() {
            Data::Complex(vec![Complex::default(); n])
        } else if dtype == DType::Bool {
            Data::Bool(vec![false; n])
        } else {
            Data::Int(vec![0; n])
        }
    }

    /// The elements at these positions.
    pub(crate) fn take(&self, positions: impl Iterator<Item = usize>) -> Self {
        each_kind!(self, v => positions.map(|i| v[i]).collect())
    }

    /// Appends elements of another tensor of the same kind; `false` if the kinds differ.
    pub(crate) fn append(&mut self, other: &Data, range: std::ops::Range<usize>) -> bool {
        match (self, other) {
            (Data::Float(a), Data::Float(b)) => a.extend_from_slice(&b[range]),
            (Data::Int(a), Data::Int(b)) => a.extend_from_slice(&b[range]),
            (Data::Bool(a), Data::Bool(b)) => a.extend_from_slice(&b[range]),
            (Data::Complex(a), Data::Complex(b)) => a.extend_from_slice(&b[range]),
            _ => return false,
        }
        true
    }
}

/// Why a tensor cannot be made or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum TensorError {
    #[error("expected {expected} elements for shape {shape:?}, found {found}")]
    Elements { shape: Vec<usize>, expected: usize, found: usize },
    #[error("expected {expected} bytes for {dtype}{shape:?}, found {found}")]
    Bytes { dtype: DType, shape: Vec<usize>, expected: usize, found: usize },
    #[error("shape {0:?} has too many elements")]
    TooLarge(Vec<usize>),
    #[error("expected {expected} elements, found {found}")]
    Kind { expected: String, found: &'static str },
}

/// A tensor in host memory.
///
/// Floating-point elements are `f64` whatever the element type says: rounding is explicit ([`Tensor::rounded`]), so
/// that the interpreter can also compute without any.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

/// The number of elements of a shape, unless it leaves what memory can hold.
pub(crate) fn n_elems(shape: &[usize]) -> Result<usize, TensorError> {
    const LIMIT: usize = 1 << 36;
    let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    n.filter(|n| *n <= LIMIT).ok_or_else(|| TensorError::TooLarge(shape.to_vec()))
}

/// An integer reduced to the bits of its type and extended again.
pub(crate) fn wrap(dtype: DType, x: i64) -> i64 {
    let unused = 64 - dtype.bits().min(64) as u32;
    if dtype.is_signed_int() { (x << unused) >> unused } else { ((x as u64) << unused >> unused) as i64 }
}

/// The number that the storage of an integer type means; only `u64` differs from it.
pub(crate) fn widen(dtype: DType, x: i64) -> i128 {
    if dtype == DType::U64 { i128::from(x as u64) } else { i128::from(x) }
}

impl Tensor {
    /// A tensor of these elements.
    ///
    /// # Errors
    /// The number or the kind of the elements does not fit.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>, data: Data) -> Result<Self, TensorError> {
        let shape = shape.into();
        let expected = n_elems(&shape)?;
        if data.len() != expected {
            return Err(TensorError::Elements { shape, expected, found: data.len() });
        }
        if !data.of_kind(dtype) {
            return Err(TensorError::Kind { expected: dtype.to_string(), found: data.kind() });
        }
        Ok(Self { dtype, shape, data })
    }

    /// A tensor of a floating-point type; the elements are not rounded.
    ///
    /// # Errors
    /// The number of elements or the type does not fit.
    pub fn floats(dtype: DType, shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Result<Self, TensorError> {
        Self::new(dtype, shape, Data::Float(data))
    }

    /// A tensor of an integer type; the elements wrap to it.
    ///
    /// # Errors
    /// The number of elements or the type does not fit.
    pub fn ints(dtype: DType, shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Result<Self, TensorError> {
        Self::new(dtype, shape, Data::Int(data.into_iter().map(|x| wrap(dtype, x)).collect()))
    }

    /// A tensor of truth values.
    ///
    /// # Errors
    /// The number of elements does not fit.
    pub fn bools(shape: impl Into<Vec<usize>>, data: Vec<bool>) -> Result<Self, TensorError> {
        Self::new(DType::Bool, shape, Data::Bool(data))
    }

    /// A tensor of a complex type; the elements are not rounded.
    ///
    /// # Errors
    /// The number of elements or the type does not fit.
    pub fn complex(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        data: Vec<Complex>,
    ) -> Result<Self, TensorError> {
        Self::new(dtype, shape, Data::Complex(data))
    }

    /// A scalar `i64`.
    pub fn int_scalar(x: i64) -> Self {
        Self { dtype: DType::I64, shape: Vec::new(), data: Data::Int(vec![x]) }
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// The shape is too large.
    pub fn zeros(dtype: DType, shape: impl Into<Vec<usize>>) -> Result<Self, TensorError> {
        let shape = shape.into();
        let data = Data::zeros(dtype, n_elems(&shape)?);
        Ok(Self { dtype, shape, data })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    fn kind_error(&self, expected: &str) -> TensorError {
        TensorError::Kind { expected: expected.into(), found: self.data.kind() }
    }

    /// The elements of a floating-point tensor.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn as_floats(&self) -> Result<&[f64], TensorError> {
        if let Data::Float(v) = &self.data { Ok(v) } else { Err(self.kind_error("float")) }
    }

    /// The elements of an integer tensor; `u64` by its bits.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn as_ints(&self) -> Result<&[i64], TensorError> {
        if let Data::Int(v) = &self.data { Ok(v) } else { Err(self.kind_error("integer")) }
    }

    /// The elements of a bool tensor.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn as_bools(&self) -> Result<&[bool], TensorError> {
        if let Data::Bool(v) = &self.data { Ok(v) } else { Err(self.kind_error("bool")) }
    }

    /// The elements of a complex tensor.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn as_complex(&self) -> Result<&[Complex], TensorError> {
        if let Data::Complex(v) = &self.data { Ok(v) } else { Err(self.kind_error("complex")) }
    }

    /// Every element as `f64`: integers rounded, truth values 0 or 1, complex numbers as two neighbors.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(v) => v.clone(),
            Data::Int(v) => v.iter().map(|x| widen(self.dtype, *x) as f64).collect(),
            Data::Bool(v) => v.iter().map(|x| f64::from(u8::from(*x))).collect(),
            Data::Complex(v) => v.iter().flat_map(|z| [z.re, z.im]).collect(),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// The numbers of elements differ.
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Result<Self, TensorError> {
        Self::new(self.dtype, shape, self.data)
    }

    /// Floating-point and complex elements rounded to the element type.
    #[must_use]
    pub fn rounded(mut self) -> Self {
        let dtype = self.dtype;
        match &mut self.data {
            Data::Float(v) => v.iter_mut().for_each(|x| *x = scalar::round(dtype, *x)),
            Data::Complex(v) if dtype == DType::C64 => v.iter_mut().for_each(|z| {
                *z = Complex::new(scalar::round(DType::F32, z.re), scalar::round(DType::F32, z.im));
            }),
            Data::Complex(_) | Data::Int(_) | Data::Bool(_) => {}
        }
        self
    }

    /// Reads little-endian row-major elements. Sub-byte types are packed, the first element in the low bits.
    ///
    /// # Errors
    /// The number of bytes does not fit the shape.
    pub fn from_bytes(dtype: DType, shape: impl Into<Vec<usize>>, bytes: &[u8]) -> Result<Self, TensorError> {
        let shape = shape.into();
        let n = n_elems(&shape)?;
        let expected = (n * dtype.bits()).div_ceil(8);
        if bytes.len() != expected {
            return Err(TensorError::Bytes { dtype, shape, expected, found: bytes.len() });
        }
        let size = dtype.bits().div_ceil(8);
        let data = if dtype.is_complex() {
            let part = if dtype == DType::C64 { DType::F32 } else { DType::F64 };
            let read = |b: &[u8]| scalar::decode(part, b).unwrap_or(f64::NAN);
            Data::Complex(
                bytes.chunks_exact(size).map(|b| Complex::new(read(b), read(&b[size / 2..]))).collect(),
            )
        } else if dtype.is_float() {
            Data::Float(
                bytes.chunks_exact(size).map(|b| scalar::decode(dtype, b).unwrap_or(f64::NAN)).collect(),
            )
        } else if dtype == DType::Bool {
            Data::Bool(bytes.iter().map(|b| *b != 0).collect())
        } else if dtype.bits() < 8 {
            let per_byte = 8 / dtype.bits();
            let read = |i: usize| i64::from(bytes[i / per_byte] >> (i % per_byte * dtype.bits()));
            Data::Int((0..n).map(|i| wrap(dtype, read(i))).collect())
        } else {
            let read = |b: &[u8]| b.iter().rev().fold(0i64, |x, b| x << 8 | i64::from(*b));
            Data::Int(bytes.chunks_exact(size).map(|b| wrap(dtype, read(b))).collect())
        };
        Ok(Self { dtype, shape, data })
    }

    /// Little-endian row-major elements, rounded to the element type; sub-byte types packed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let dtype = self.dtype;
        match &self.data {
            Data::Float(v) => v.iter().flat_map(|x| scalar::encode(dtype, *x)).collect(),
            Data::Bool(v) => v.iter().map(|x| u8::from(*x)).collect(),
            Data::Complex(v) => {
                let part = if dtype == DType::C64 { DType::F32 } else { DType::F64 };
                v.iter().flat_map(|z| [z.re, z.im]).flat_map(|x| scalar::encode(part, x)).collect()
            }
            Data::Int(v) if dtype.bits() < 8 => {
                let per_byte = 8 / dtype.bits();
                let mask = (1u8 << dtype.bits()) - 1;
                let pack = |xs: &[i64]| {
                    xs.iter().rev().fold(0u8, |byte, x| byte << dtype.bits() | (*x as u8 & mask))
                };
                v.chunks(per_byte).map(pack).collect()
            }
            Data::Int(v) => {
                let size = dtype.bits() / 8;
                v.iter().flat_map(|x| x.to_le_bytes().into_iter().take(size)).collect()
            }
        }
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?} ", self.dtype, self.shape)?;
        match &self.data {
            Data::Float(v) => write!(f, "{v:?}"),
            Data::Int(v) => write!(f, "{v:?}"),
            Data::Bool(v) => write!(f, "{v:?}"),
            Data::Complex(v) => f.debug_list().entries(v.iter().map(|z| (z.re, z.im))).finish(),
        }
    }
}

#[cfg(test)]
mod tests;
