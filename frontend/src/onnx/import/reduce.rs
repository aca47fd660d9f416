//! Reductions and running sums.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, Known};
use ssmc_ir::ops::{ArgMax, BinaryFn, CumSum, ReduceFn, Reverse, UnaryFn};
use ssmc_ir::{DType, Dim, DimFn};

/// The operand, the axes and whether they stay, as every reduction states them.
struct Plan {
    x: Val,
    axes: Vec<usize>,
    keep: bool,
}

/// Axes come as an attribute before `input_since` and as an input from there on.
fn plan(c: &Ctx<'_, '_>, input_since: i64) -> Result<Plan, Fault> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let keep = c.attrs.flag("keepdims", true)?;
    let noop = c.attrs.flag("noop_with_empty_axes", false)?;
    let axes = match c.axes(input_since, 1, rank)? {
        Some(axes) if !axes.is_empty() => axes,
        _ if noop => Vec::new(),
        _ => (0..rank).collect(),
    };
    Ok(Plan { x, axes, keep })
}

/// `ReduceSum` and its like.
pub(crate) fn reduce(c: &mut Ctx<'_, '_>, f: ReduceFn, input_since: i64) -> Imported<Vec<Val>> {
    let Plan { x, axes, keep } = plan(c, input_since)?;
    if let Some(k) = c.known(x).filter(|k| k.shape.len() == 1 && axes == [0])
        && let Some(d) = fold(f, &k.elems)
    {
        let shape = if keep { vec![1] } else { vec![] };
        let known = Known { dtype: k.dtype, shape, elems: vec![d] };
        return one(c.make_known(known));
    }
    if c.dtype(x) == DType::Bool && matches!(f, ReduceFn::Max | ReduceFn::Min) {
        let x = c.cast(x, DType::U8)?;
        let y = c.reduce(f, x, &axes, keep)?;
        return one(c.cast(y, DType::Bool)?);
    }
    one(c.reduce(f, x, &axes, keep)?)
}

fn fold(f: ReduceFn, elems: &[Dim]) -> Option<Dim> {
    let (first, rest) = elems.split_first()?;
    rest.iter().try_fold(first.clone(), |acc, d| match f {
        ReduceFn::Sum => shape::add(&acc, d),
        ReduceFn::Prod => shape::mul(&acc, d),
        ReduceFn::Max => shape::apply(DimFn::Max, &acc, d),
        ReduceFn::Min => shape::apply(DimFn::Min, &acc, d),
        ReduceFn::Mean => None,
    })
}

/// `ReduceL1`: sum of |x|.
pub(crate) fn l1(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let Plan { x, axes, keep } = plan(c, 18)?;
    let x = c.unary(UnaryFn::Abs, x)?;
    one(c.reduce(ReduceFn::Sum, x, &axes, keep)?)
}

fn squares(c: &mut Ctx<'_, '_>) -> Result<Val, Fault> {
    let Plan { x, axes, keep } = plan(c, 18)?;
    let square = c.binary(BinaryFn::Mul, x, x)?;
    c.reduce(ReduceFn::Sum, square, &axes, keep)
}

/// `ReduceSumSquare`: sum of x^2.
pub(crate) fn sum_square(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    one(squares(c)?)
}

/// `ReduceL2`: square root of the sum of x^2.
pub(crate) fn l2(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let sum = squares(c)?;
    one(c.unary(UnaryFn::Sqrt, sum)?)
}

/// `ReduceLogSum`: log of the sum.
pub(crate) fn log_sum(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let Plan { x, axes, keep } = plan(c, 18)?;
    let sum = c.reduce(ReduceFn::Sum, x, &axes, keep)?;
    one(c.unary(UnaryFn::Log, sum)?)
}

/// `ReduceLogSumExp`: m + log of the sum of e^(x - m), with m the maximum.
pub(crate) fn log_sum_exp(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let Plan { x, axes, keep } = plan(c, 18)?;
    let max = c.reduce(ReduceFn::Max, x, &axes, true)?;
    let shifted = c.binary(BinaryFn::Sub, x, max)?;
    let exp = c.unary(UnaryFn::Exp, shifted)?;
    let sum = c.reduce(ReduceFn::Sum, exp, &axes, true)?;
    let log = c.unary(UnaryFn::Log, sum)?;
    let y = c.binary(BinaryFn::Add, log, max)?;
    if keep {
        return one(y);
    }
    let dims = c.dims(y);
    let kept: Vec<Dim> = (0..dims.len()).filter(|i| !axes.contains(i)).map(|i| dims[i].clone()).collect();
    one(c.reshape(y, &kept)?)
}

/// `CumSum` along a constant axis.
pub(crate) fn cumsum(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let axis = shape::axis(c.int_input(1, "axis")?, c.rank(x))?;
    let (exclusive, reverse) = (c.attrs.flag("exclusive", false)?, c.attrs.flag("reverse", false)?);
    one(c.emit(CumSum { axis, exclusive, reverse }, &[x])?)
}

/// `ArgMax`.
pub(crate) fn arg_max(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    place(c, x)
}

/// `ArgMin`: the place of the largest in reversed order.
pub(crate) fn arg_min(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let x = super::generate::reversed_order(c, x)?;
    place(c, x)
}

/// The place of the largest; the last of equal elements is the first from the end.
fn place(c: &mut Ctx<'_, '_>, x: Val) -> Imported<Vec<Val>> {
    let axis = c.axis(0, c.rank(x))?;
    let (keep, last) = (c.attrs.flag("keepdims", true)?, c.attrs.flag("select_last_index", false)?);
    let mut dims = c.dims(x);
    let from = if last { c.emit(Reverse { axis }, &[x])? } else { x };
    let mut y = c.emit(ArgMax { axis }, &[from])?;
    if last {
        let end = shape::sub(&dims[axis], &Dim::from(1)).ok_or(shape::OVERFLOW)?;
        let end = c.make_known(Known { dtype: DType::I64, ..Known::scalar(end) });
        y = c.binary(BinaryFn::Sub, end, y)?;
    }
    if keep {
        dims[axis] = Dim::from(1);
        y = c.reshape(y, &dims)?;
    }
    one(y)
}
