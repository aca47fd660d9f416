//! Writes at positions that depend on data, and the order of elements.

use super::attr::keyword;
use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, req,
};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};

/// What becomes of an element that an update falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScatterFn {
    /// the update
    Set,
    /// their sum
    Add,
    /// their product
    Mul,
    /// the smaller one
    Min,
    /// the larger one
    Max,
}

keyword!(ScatterFn { Set = "set", Add = "add", Mul = "mul", Min = "min", Max = "max" });

/// `x` with rows changed by updates, one after the other (ONNX `ScatterND` on flat indices).
///
/// # Equation
/// ```text
/// y = x; for m in 0..M: y[indices[m]] = f(y[indices[m]], updates[m]); negative indices count from the end
/// ```
///
/// # Shapes
/// ```text
/// x: T[N, s..], indices: i64[M] or i32[M], updates: T[M, s..] -> T[N, s..]
/// ```
///
/// # Numerics
/// updates of one row are applied in order; each result is rounded to T; NaN wins over numbers in min and max
///
/// # Errors
/// an index outside the first axis
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Scatter {
    pub f: ScatterFn,
}

impl OpDef for Scatter {
    const OPERANDS: &'static [Operand] = &[req("x"), req("indices"), req("updates")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "scatter"
    }

    fn templates() -> Vec<Op> {
        vec![Scatter { f: ScatterFn::Set }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("f", AttrMut::Word(&mut self.f));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let (x, indices, updates) = (arg(x, 0), arg(x, 1), arg(x, 2));
        if x.rank() == 0 {
            return Err(OpError::Rank { operand: "x", expected: 1, found: 0 });
        }
        if self.f != ScatterFn::Set && (x.dtype == DType::Bool || x.dtype.is_complex()) {
            return Err(OpError::dtype("x", format!("one that {} takes", self.f.name()), x.dtype));
        }
        if !matches!(indices.dtype, DType::I64 | DType::I32) {
            return Err(OpError::dtype("indices", "i64 or i32", indices.dtype));
        }
        if indices.rank() != 1 {
            return Err(OpError::Rank { operand: "indices", expected: 1, found: indices.rank() });
        }
        if updates.dtype != x.dtype {
            return Err(OpError::dtype("updates", x.dtype.to_string(), updates.dtype));
        }
        let expected: crate::types::Shape = std::iter::once(&indices.shape[0]).chain(&x.shape[1..]).collect();
        if updates.shape != expected {
            return Err(OpError::shape("updates", expected.to_string(), &updates.shape));
        }
        Ok(vec![x.clone()])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::scatter(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        if self.f == ScatterFn::Set { Tolerance::EXACT } else { Tolerance::sum(dtype) }
    }
}

/// The `k` largest (or smallest) elements along an axis, best first, and their indices. Of equal elements the one
/// with the lower index comes first; NaN is larger than any number.
///
/// # Shapes
/// ```text
/// x: T[..n..] -> values: T[..k..], indices: i64[..k..]
/// ```
///
/// # Errors
/// `k` is larger than the extent of the axis
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct TopK {
    pub axis: usize,
    pub k: Dim,
    pub largest: bool,
}

impl OpDef for TopK {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["values", "indices"];

    fn name(&self) -> &'static str {
        "top_k"
    }

    fn templates() -> Vec<Op> {
        vec![TopK { axis: 0, k: Dim::from(1), largest: true }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
        v.attr("k", AttrMut::Dim(&mut self.k));
        v.attr("largest", AttrMut::Bool(&mut self.largest));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        if self.axis >= x.rank() {
            return Err(OpError::attr("axis", format!("{} is not below {}", self.axis, x.rank())));
        }
        if x.dtype.is_complex() {
            return Err(OpError::dtype("x", "one with an order", x.dtype));
        }
        let mut dims = x.shape.to_vec();
        if let (Some(k), Some(n)) = (self.k.as_const(), dims[self.axis].as_const())
            && !(0..=n).contains(&k)
        {
            return Err(OpError::attr("k", format!("{k} is not in 0..={n}")));
        }
        dims[self.axis] = self.k.clone();
        let values = x.with_shape(dims);
        let indices = TensorType::new(DType::I64, values.shape.clone());
        Ok(vec![values, indices])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::top_k(self, ctx, x)
    }
}
