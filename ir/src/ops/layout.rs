//! Ops that move elements without changing them.

use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, arg, eval, req,
    variadic,
};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};

fn axis_in(axis: usize, rank: usize) -> Result<(), OpError> {
    if axis < rank { Ok(()) } else { Err(OpError::attr("axis", format!("{axis} is not below {rank}"))) }
}

/// Repeats elements: operand axis `i` becomes result axis `axes[i]`; an extent of 1 may become any extent.
///
/// # Shapes
/// ```text
/// x: T[..] -> T[shape]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Broadcast {
    pub axes: Vec<usize>,
    pub shape: Shape,
}

impl OpDef for Broadcast {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn templates() -> Vec<Op> {
        vec![Broadcast { axes: Vec::new(), shape: Shape::scalar() }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axes", AttrMut::Usizes(&mut self.axes));
        v.attr("shape", AttrMut::Shape(&mut self.shape));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        if self.axes.len() != x.rank() {
            return Err(OpError::Rank { operand: "x", expected: self.axes.len(), found: x.rank() });
        }
        if !self.axes.is_sorted_by(|a, b| a < b) {
            return Err(OpError::attr("axes", format!("{:?} is not ascending", self.axes)));
        }
        for (i, axis) in self.axes.iter().enumerate() {
            axis_in(*axis, self.shape.rank())?;
            if x.shape[i] != self.shape[*axis] && !x.shape[i].is(1) {
                return Err(OpError::shape(
                    "x",
                    format!("1 or {} on axis {i}", self.shape[*axis]),
                    &x.shape[i],
                ));
            }
        }
        Ok(vec![x.with_shape(self.shape.clone())])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::broadcast(self, ctx, x)
    }
}

/// The same elements in row-major order under another shape.
///
/// # Shapes
/// ```text
/// x: T[..] -> T[shape], equal numbers of elements
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Reshape {
    pub shape: Shape,
}

impl OpDef for Reshape {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "reshape"
    }

    fn templates() -> Vec<Op> {
        vec![Reshape { shape: Shape::scalar() }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("shape", AttrMut::Shape(&mut self.shape));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        if x.shape.n_elems() != self.shape.n_elems() {
            return Err(OpError::shape("x", format!("as many elements as {}", self.shape), &x.shape));
        }
        Ok(vec![x.with_shape(self.shape.clone())])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::reshape(ctx, x)
    }
}

/// Permutes axes: result axis `i` is operand axis `perm[i]`.
///
/// # Shapes
/// ```text
/// x: T[..] -> T[x.shape[perm[0]], ..]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Transpose {
    pub perm: Vec<usize>,
}

impl OpDef for Transpose {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "transpose"
    }

    fn templates() -> Vec<Op> {
        vec![Transpose { perm: Vec::new() }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("perm", AttrMut::Usizes(&mut self.perm));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if sorted != (0..x.rank()).collect::<Vec<_>>() {
            return Err(OpError::attr("perm", format!("{:?} does not permute {} axes", self.perm, x.rank())));
        }
        Ok(vec![x.with_shape(self.perm.iter().map(|i| &x.shape[*i]).collect::<Shape>())])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::transpose(self, x)
    }
}

/// Elements `start, start + stride, ..` along one axis. `start` and `len` are already clamped to the operand.
///
/// # Shapes
/// ```text
/// x: T[.., n, ..] -> T[.., len, ..]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Slice {
    pub axis: usize,
    pub len: Dim,
    pub start: Dim,
    pub stride: i64,
}

impl OpDef for Slice {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "slice"
    }

    fn templates() -> Vec<Op> {
        vec![Slice { axis: 0, len: Dim::from(0), start: Dim::from(0), stride: 1 }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
        v.attr("len", AttrMut::Dim(&mut self.len));
        v.attr("start", AttrMut::Dim(&mut self.start));
        v.attr("stride", AttrMut::Int(&mut self.stride));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        axis_in(self.axis, x.rank())?;
        if self.stride == 0 {
            return Err(OpError::attr("stride", "is 0"));
        }
        let extent = &x.shape[self.axis];
        if let (Some(start), Some(len), Some(n)) =
            (self.start.as_const(), self.len.as_const(), extent.as_const())
        {
            let last = len
                .checked_sub(1)
                .and_then(|d| d.checked_mul(self.stride))
                .and_then(|d| d.checked_add(start));
            let inside = |i: i64| (0..n).contains(&i);
            if len < 0 || (len > 0 && !(inside(start) && last.is_some_and(inside))) {
                let expected = format!("an extent that holds {len} elements from {start} by {}", self.stride);
                return Err(OpError::shape("x", expected, extent));
            }
        }
        let mut dims = x.shape.to_vec();
        dims[self.axis] = self.len.clone();
        Ok(vec![x.with_shape(dims)])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::slice(self, ctx, x)
    }
}

/// Reverses one axis.
///
/// # Shapes
/// ```text
/// x: T[s] -> T[s]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Reverse {
    pub axis: usize,
}

impl OpDef for Reverse {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "reverse"
    }

    fn templates() -> Vec<Op> {
        vec![Reverse { axis: 0 }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        axis_in(self.axis, x.rank())?;
        Ok(vec![x.clone()])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::reverse(self, x)
    }
}

/// Joins tensors along one axis.
///
/// # Shapes
/// ```text
/// xs: T[.., n_i, ..] -> T[.., sum of n_i, ..]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Concat {
    pub axis: usize,
}

impl OpDef for Concat {
    const OPERANDS: &'static [Operand] = &[req("x"), variadic("more")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "concat"
    }

    fn templates() -> Vec<Op> {
        vec![Concat { axis: 0 }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let first = arg(x, 0);
        axis_in(self.axis, first.rank())?;
        let mut dims = first.shape.to_vec();
        for i in 1..x.len() {
            let next = arg(x, i);
            if next.dtype != first.dtype {
                return Err(OpError::dtype("more", first.dtype, next.dtype));
            }
            if next.rank() != first.rank() {
                return Err(OpError::Rank { operand: "more", expected: first.rank(), found: next.rank() });
            }
            for (axis, d) in next.shape.iter().enumerate() {
                if axis == self.axis {
                    dims[axis] = dims[axis].clone() + d;
                } else if *d != first.shape[axis] {
                    return Err(OpError::shape("more", &first.shape, &next.shape));
                }
            }
        }
        Ok(vec![first.with_shape(dims)])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::concat(self, x)
    }
}

/// Adds `low` copies of `value` before and `high` after the elements of one axis.
///
/// # Shapes
/// ```text
/// x: T[.., n, ..], value: T[] -> T[.., low + n + high, ..]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Pad {
    pub axis: usize,
    pub high: Dim,
    pub low: Dim,
}

impl OpDef for Pad {
    const OPERANDS: &'static [Operand] = &[req("x"), req("value")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "pad"
    }

    fn templates() -> Vec<Op> {
        vec![Pad { axis: 0, high: Dim::from(0), low: Dim::from(0) }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
        v.attr("high", AttrMut::Dim(&mut self.high));
        v.attr("low", AttrMut::Dim(&mut self.low));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let (x, value) = (arg(x, 0), arg(x, 1));
        axis_in(self.axis, x.rank())?;
        if value.dtype != x.dtype {
            return Err(OpError::dtype("value", x.dtype, value.dtype));
        }
        if value.rank() != 0 {
            return Err(OpError::Rank { operand: "value", expected: 0, found: value.rank() });
        }
        let mut dims = x.shape.to_vec();
        dims[self.axis] = self.low.clone() + &dims[self.axis] + &self.high;
        Ok(vec![x.with_shape(dims)])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::pad(self, ctx, x)
    }
}

/// Takes entries of `x` along one axis by index; a negative index counts from the end.
///
/// # Equation
/// ```text
/// y[a.., i.., b..] = x[a.., indices[i..], b..]
/// ```
///
/// # Shapes
/// ```text
/// x: T[a.., n, b..], indices: int[i..] -> T[a.., i.., b..]
/// ```
///
/// # Numerics
/// an index outside -n..n is an error in the interpreter; compiled code clamps it into the axis
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Gather {
    pub axis: usize,
}

impl OpDef for Gather {
    const OPERANDS: &'static [Operand] = &[req("x"), req("indices")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "gather"
    }

    fn templates() -> Vec<Op> {
        vec![Gather { axis: 0 }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let (x, indices) = (arg(x, 0), arg(x, 1));
        axis_in(self.axis, x.rank())?;
        if !indices.dtype.is_int() {
            return Err(OpError::dtype("indices", "an integer", indices.dtype));
        }
        let dims = [&x.shape[..self.axis], &indices.shape, &x.shape[self.axis + 1..]].concat();
        Ok(vec![x.with_shape(dims)])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::gather(self, ctx, x)
    }
}
