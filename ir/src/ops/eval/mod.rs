//! Reference evaluation: what each op means, written out slowly and obviously.
//!
//! Every op's [`OpDef::eval`](super::OpDef::eval) is one function here. Operands fit the type rule of the op (the
//! interpreter verifies the graph first); what depends on run-time extents or elements is checked where it is used.
//! Floating-point elements are `f64` throughout; the interpreter rounds results if it is asked to.

mod contract;
mod control;
mod conv;
mod elementwise;
mod layout;
mod linear_attention;
mod long_conv;
mod norm;
mod num;
mod quantized;
mod reduce;
mod scan;
mod scatter;
mod source;
mod wkv;

#[cfg(test)]
mod ssd_ref;
#[cfg(test)]
mod tests;

pub(super) use contract::contract;
pub(super) use control::{branch, iterate};
pub(super) use conv::{causal_conv1d, conv};
pub(super) use elementwise::{binary, bitcast, cast, compare, select, unary};
pub(super) use layout::{broadcast, concat, gather, pad, reshape, reverse, slice, transpose};
pub(super) use linear_attention::linear_attention;
pub(super) use long_conv::{dft, long_conv};
pub(super) use norm::{gated_rms_norm, layer_norm, rms_norm};
pub(super) use quantized::dequantize;
pub(super) use reduce::{argmax, cumsum, reduce};
pub(super) use scan::{complex_scan, discretized_scan, scan, selective_scan, ssd};
pub(super) use scatter::{scatter, top_k};
pub(super) use source::{constant, dim_value, iota, weight};
pub(super) use wkv::wkv;

use crate::dim::{Bindings, Dim, DimError};
use crate::graph::Graph;
use crate::interp::InterpError;
use crate::tensor::{Tensor, TensorError, n_elems};
use crate::types::{DType, Shape, TensorType};
use crate::weights::Weights;

/// Why an op has no value for these operands.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum EvalError {
    #[error(transparent)]
    Dim(#[from] DimError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("extent {dim} is {value}")]
    NegativeExtent { dim: Dim, value: i64 },
    #[error("there is no weight {name:?}")]
    WeightMissing { name: String },
    #[error("weight {name:?}: expected {expected}, found {found}")]
    WeightType { name: String, expected: TensorType, found: TensorType },
    #[error("operand {operand}: index {index} is outside an extent of {extent}")]
    Index { operand: &'static str, index: i64, extent: usize },
    #[error("operand {operand} is missing")]
    Missing { operand: usize },
    #[error("operand {operand}: expected shape {expected:?}, found {found:?}")]
    Shape { operand: &'static str, expected: Vec<usize>, found: Vec<usize> },
    #[error("{op} of an empty axis")]
    EmptyAxis { op: &'static str },
    #[error("integer division by zero")]
    DivisionByZero,
    #[error("element type {dtype} has no {op}")]
    NoSuchFunction { op: &'static str, dtype: DType },
    #[error("region: {0}")]
    Region(#[source] Box<InterpError>),
}

/// The operand values of a node, `None` where an optional operand is absent.
pub type Args<'a> = [Option<&'a Tensor>];

/// Evaluates a region: graph, inputs in order; outputs in order.
pub type RunRegion<'a> = dyn Fn(&Graph, &[&Tensor]) -> Result<Vec<Tensor>, InterpError> + 'a;

/// What an op may look at beside its operands.
#[derive(Clone, Copy)]
pub struct EvalCtx<'a> {
    /// Values of the symbols.
    pub bindings: &'a Bindings,
    /// The weights beside the graph.
    pub weights: &'a Weights,
    /// Types of the node's results.
    pub results: &'a [TensorType],
    /// Regions of the node.
    pub regions: &'a [Graph],
    /// How to run a region.
    pub run: &'a RunRegion<'a>,
}

impl EvalCtx<'_> {
    /// The value of an extent.
    fn extent(&self, dim: &Dim) -> Result<usize, EvalError> {
        let value = dim.eval(self.bindings)?;
        usize::try_from(value).map_err(|_| EvalError::NegativeExtent { dim: dim.clone(), value })
    }

    /// The extents of a shape, which memory can hold.
    pub(crate) fn shape(&self, shape: &Shape) -> Result<Vec<usize>, EvalError> {
        let dims = shape.iter().map(|d| self.extent(d)).collect::<Result<Vec<_>, _>>()?;
        n_elems(&dims)?;
        Ok(dims)
    }

    /// The extents of a result.
    fn result_shape(&self, i: usize) -> Result<Vec<usize>, EvalError> {
        self.shape(&self.results[i].shape)
    }
}

/// How far a backend may stray from the reference: `|found - expected| <= atol + rtol * |expected|`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Tolerance {
    pub rtol: f64,
    pub atol: f64,
}

impl Tolerance {
    /// Equal bits.
    pub const EXACT: Self = Self { rtol: 0.0, atol: 0.0 };

    /// A few roundings of this element type.
    pub fn rounding(dtype: DType) -> Self {
        let (rtol, atol) = match dtype {
            DType::F64 | DType::C128 => (1e-12, 1e-14),
            DType::F32 | DType::C64 => (1e-5, 1e-6),
            DType::F16 => (2e-3, 1e-4),
            DType::BF16 => (1.6e-2, 1e-3),
            DType::F8E4M3 => (0.13, 2e-3),
            DType::F8E5M2 => (0.26, 2e-3),
            _ => return Self::EXACT,
        };
        Self { rtol, atol }
    }

    /// Sums of many terms: products and reductions.
    pub fn sum(dtype: DType) -> Self {
        let (rtol, atol) = match dtype {
            DType::F64 | DType::C128 => (1e-10, 1e-11),
            DType::F32 | DType::C64 => (1e-4, 1e-4),
            DType::F16 => (3e-3, 3e-3),
            DType::BF16 => (3e-2, 3e-2),
            _ => return Self::rounding(dtype),
        };
        Self { rtol, atol }
    }

    /// Recurrences; upstream's bounds for the selective scan.
    pub fn scan(dtype: DType) -> Self {
        let (rtol, atol) = match dtype {
            DType::F64 | DType::C128 => (1e-9, 1e-10),
            DType::F32 | DType::C64 => (6e-4, 2e-3),
            DType::F16 => (3e-3, 5e-3),
            DType::BF16 => (3e-2, 5e-2),
            _ => return Self::rounding(dtype),
        };
        Self { rtol, atol }
    }

    /// Whether `found` is close enough to `expected`; NaN equals NaN, infinities equal themselves.
    pub fn accepts(self, expected: f64, found: f64) -> bool {
        if expected.is_nan() || found.is_nan() {
            return expected.is_nan() && found.is_nan();
        }
        expected == found || (found - expected).abs() <= self.atol + self.rtol * expected.abs()
    }
}

/// A required operand.
fn arg<'a>(x: &Args<'a>, i: usize) -> Result<&'a Tensor, EvalError> {
    x.get(i).copied().flatten().ok_or(EvalError::Missing { operand: i })
}

/// An optional operand.
fn optional<'a>(x: &Args<'a>, i: usize) -> Option<&'a Tensor> {
    x.get(i).copied().flatten()
}

/// The elements of an optional floating-point operand.
fn optional_floats<'a>(x: &Args<'a>, i: usize) -> Result<Option<&'a [f64]>, EvalError> {
    Ok(optional(x, i).map(Tensor::as_floats).transpose()?)
}

/// Row-major strides.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Extents before, at and after an axis, as (outer, axis, inner) of a tensor seen with three axes.
fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// Calls `visit` with every index of `shape` in row-major order.
fn for_each_index(shape: &[usize], mut visit: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        visit(&index);
        let Some(axis) = (0..shape.len()).rev().find(|i| index[*i] + 1 < shape[*i]) else { return };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}
