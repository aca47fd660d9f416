//! Reductions along axes.

use super::attr::keyword;
use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, req,
};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum ReduceFn {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
}

keyword!(ReduceFn { Sum = "sum", Mean = "mean", Max = "max", Min = "min", Prod = "prod" });

/// Combines all elements along the axes, which disappear. Empty: 0, NaN, lowest, highest, 1.
///
/// # Shapes
/// ```text
/// x: T[..] -> T[.. without axes]
/// ```
///
/// # Numerics
/// NaN is the largest and the smallest element; integers: sum and product wrap, the mean rounds towards
/// zero and has no value for an empty axis
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Reduce {
    pub axes: Vec<usize>,
    pub f: ReduceFn,
}

impl OpDef for Reduce {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "reduce"
    }

    fn templates() -> Vec<Op> {
        vec![Reduce { axes: Vec::new(), f: ReduceFn::Sum }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axes", AttrMut::Usizes(&mut self.axes));
        v.attr("f", AttrMut::Word(&mut self.f));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        let ordered = matches!(self.f, ReduceFn::Max | ReduceFn::Min);
        if x.dtype == DType::Bool || (ordered && x.dtype.is_complex()) {
            return Err(OpError::dtype("x", format!("one that {} takes", self.f.name()), x.dtype));
        }
        if !self.axes.is_sorted_by(|a, b| a < b) || self.axes.last().is_some_and(|a| *a >= x.rank()) {
            return Err(OpError::attr(
                "axes",
                format!("{:?} is not ascending below {}", self.axes, x.rank()),
            ));
        }
        let kept = (0..x.rank()).filter(|i| !self.axes.contains(i)).map(|i| &x.shape[i]);
        Ok(vec![x.with_shape(kept.collect::<Shape>())])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::reduce(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}

/// Running sum along one axis; exclusive: without the element itself; reverse: from the end.
///
/// # Shapes
/// ```text
/// x: T[s] -> T[s]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct CumSum {
    pub axis: usize,
    pub exclusive: bool,
    pub reverse: bool,
}

impl OpDef for CumSum {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn templates() -> Vec<Op> {
        vec![CumSum { axis: 0, exclusive: false, reverse: false }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
        v.attr("exclusive", AttrMut::Bool(&mut self.exclusive));
        v.attr("reverse", AttrMut::Bool(&mut self.reverse));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        if self.axis >= x.rank() {
            return Err(OpError::attr("axis", format!("{} is not below {}", self.axis, x.rank())));
        }
        if x.dtype == DType::Bool {
            return Err(OpError::dtype("x", "a number", x.dtype));
        }
        Ok(vec![x.clone()])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::cumsum(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}

/// Index of the first largest element along one axis, which disappears. NaN is larger than any number.
///
/// # Shapes
/// ```text
/// x: T[..] -> i64[.. without axis]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct ArgMax {
    pub axis: usize,
}

impl OpDef for ArgMax {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "argmax"
    }

    fn templates() -> Vec<Op> {
        vec![ArgMax { axis: 0 }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        if self.axis >= x.rank() {
            return Err(OpError::attr("axis", format!("{} is not below {}", self.axis, x.rank())));
        }
        if x.dtype.is_complex() {
            return Err(OpError::dtype("x", "one with an order", x.dtype));
        }
        let kept = (0..x.rank()).filter(|i| *i != self.axis).map(|i| &x.shape[i]);
        Ok(vec![TensorType::new(DType::I64, kept.collect::<Shape>())])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::argmax(self, x)
    }
}
