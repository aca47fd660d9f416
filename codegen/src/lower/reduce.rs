//! Reductions, contractions without a packed weight, and the place of the largest element.
//!
//! One variant each: a block per row of the result, vectors along the last axis of the result, sums in registers in
//! the order of the elements. Reducing the last axis therefore gathers. The place of the largest element is found one
//! element at a time, a block per element of the result.

use super::access::Cx;
use super::elementwise::{for_lanes, row_index, rows_and_last};
use super::index::Idx;
use super::{Launch, LowerError, Lowering, accumulator, elem_of, multiply_add};
use crate::kernel::{Const, Elem, KernelBuilder, Reg, RegTy};
use ssmc_ir::ops::{ArgMax, Contract, Label, Reduce, ReduceFn};
use ssmc_ir::{Dim, ValueId};
use std::collections::BTreeMap;

pub(super) fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1), |n, d| n * d)
}

/// Nested loops over `extents`; the body gets one index per loop.
fn nest(
    cx: &mut Cx<'_>,
    b: &mut KernelBuilder,
    extents: &[Dim],
    idx: &mut Vec<Reg>,
    body: &mut dyn FnMut(&mut Cx<'_>, &mut KernelBuilder, &[Reg]) -> Result<(), LowerError>,
) -> Result<(), LowerError> {
    let Some((first, inner)) = extents.split_first() else { return cx.scope(|cx| body(cx, b, idx)) };
    let n = cx.dim(b, first);
    let mut result = Ok(());
    b.for_("k", 0, n, 1, |b, k| {
        idx.push(k);
        result = nest(cx, b, inner, idx, body);
        idx.pop();
    });
    result
}

/// Sum of products over the labels that the result lacks.
pub(super) fn contract(l: &mut Lowering<'_>, op: &Contract) -> Result<Launch, LowerError> {
    let operands: Vec<ValueId> = (0..op.spec.inputs.len()).map(|i| l.operand(i)).collect::<Result<_, _>>()?;
    let mut extents: BTreeMap<Label, Dim> = BTreeMap::new();
    for (labels, operand) in op.spec.inputs.iter().zip(&operands) {
        for (label, dim) in labels.iter().zip(l.shape(*operand)) {
            extents.insert(*label, dim.clone());
        }
    }
    let summed = op.spec.summed();
    let summed_extents: Vec<Dim> = summed.iter().map(|s| extents[s].clone()).collect();
    let result = l.node.results[0];
    let shape = l.shape(result);
    let elem = elem_of(l.graph.ty(result).dtype)?;
    let flops = product(shape) * product(&summed_extents) * Dim::from(operands.len());
    let (rows, last) = rows_and_last(shape);
    let grid = product(rows);
    let (b, cx, sink) = l.parts();
    let one = Dim::from(1);
    let last = last.unwrap_or(&one);
    cx.narrow(last);
    let row = row_index(cx, b, rows);
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let full = [row.as_slice(), &[at]].concat();
        let idx = full[..shape.len()].to_vec();
        let acc_elem = accumulator(elem);
        let zero = b.zero(acc_elem.x(cx.lanes));
        let acc = b.var_init(zero);
        nest(cx, b, &summed_extents, &mut Vec::new(), &mut |cx, b, ks| {
            let at_label = |label: &Label| match op.spec.output.iter().position(|o| o == label) {
                Some(axis) => idx[axis],
                None => {
                    Idx::Uniform(ks[summed.iter().position(|s| s == label).expect("the label is summed")])
                }
            };
            let mut factors = Vec::new();
            for (labels, operand) in op.spec.inputs.iter().zip(&operands) {
                let inner: Vec<Idx> = labels.iter().map(at_label).collect();
                factors.push(cx.get_wide_as(b, (*operand, acc_elem), &inner)?);
            }
            let (last, others) = factors.split_last().ok_or(LowerError::MissingOperand { op: "contract" })?;
            let product = others.iter().copied().reduce(|p, x| b.mul(p, x));
            let sum = match product {
                Some(p) => multiply_add(b, p, *last, acc),
                None => b.add(acc, *last),
            };
            b.assign(acc, sum);
            Ok(())
        })?;
        let x = b.cast(acc, elem);
        sink.put(cx, b, &idx, x)
    })?;
    Ok(Launch { grid, flops })
}

/// What an empty reduction gives.
fn neutral(b: &mut KernelBuilder, f: ReduceFn, ty: RegTy) -> Reg {
    match f {
        ReduceFn::Sum | ReduceFn::Mean => b.zero(ty),
        ReduceFn::Prod => b.const_like(ty, 1.0),
        ReduceFn::Max => bound(b, ty, false),
        ReduceFn::Min => bound(b, ty, true),
    }
}

/// The highest or lowest number of the type.
pub(super) fn bound(b: &mut KernelBuilder, ty: RegTy, highest: bool) -> Reg {
    let elem = ty.elem();
    let unused_bits = 64 - elem.bits();
    let value = match (elem.is_float(), elem.is_signed_int(), highest) {
        (true, _, true) => return b.const_like(ty, f64::INFINITY),
        (true, _, false) => return b.const_like(ty, f64::NEG_INFINITY),
        (false, true, true) => i64::MAX >> unused_bits,
        (false, true, false) => i64::MIN >> unused_bits,
        // All bits set.
        (false, false, true) => -1,
        (false, false, false) => 0,
    };
    b.constant(Const::int(elem, value), ty.lanes().unwrap_or(1))
}

/// The type in which elements are combined. The sum behind a mean of integers does not wrap.
fn combined_in(f: ReduceFn, elem: Elem) -> Elem {
    match f {
        ReduceFn::Mean if elem.is_signed_int() => Elem::I64,
        ReduceFn::Mean if !elem.is_float() => Elem::U64,
        _ => accumulator(elem),
    }
}

/// One reduction over some axes.
pub(super) fn reduce(l: &mut Lowering<'_>, op: &Reduce) -> Result<Launch, LowerError> {
    let x = l.operand(0)?;
    let in_shape = l.shape(x);
    let result = l.node.results[0];
    let shape = l.shape(result);
    let elem = elem_of(l.graph.ty(result).dtype)?;
    let reduced: Vec<Dim> = op.axes.iter().map(|a| in_shape[*a].clone()).collect();
    let count = product(&reduced);
    let (rows, last) = rows_and_last(shape);
    let (grid, flops) = (product(rows), product(in_shape));
    let (b, cx, sink) = l.parts();
    let one = Dim::from(1);
    let last = last.unwrap_or(&one);
    cx.narrow(last);
    let row = row_index(cx, b, rows);
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let full = [row.as_slice(), &[at]].concat();
        let idx = full[..shape.len()].to_vec();
        let acc_elem = combined_in(op.f, elem);
        let init = neutral(b, op.f, acc_elem.x(cx.lanes));
        let acc = b.var_init(init);
        nest(cx, b, &reduced, &mut Vec::new(), &mut |cx, b, ks| {
            let (mut kept, mut summed) = (idx.iter(), ks.iter());
            let inner: Vec<Idx> = (0..in_shape.len())
                .map(|axis| match op.axes.contains(&axis) {
                    true => Idx::Uniform(*summed.next().expect("one loop per reduced axis")),
                    false => *kept.next().expect("one index per kept axis"),
                })
                .collect();
            let x = cx.get_wide_as(b, (x, acc_elem), &inner)?;
            let next = match op.f {
                ReduceFn::Sum | ReduceFn::Mean => b.add(acc, x),
                ReduceFn::Prod => b.mul(acc, x),
                ReduceFn::Max if acc_elem.is_float() => b.max_nan(acc, x),
                ReduceFn::Max => b.max(acc, x),
                ReduceFn::Min if acc_elem.is_float() => b.min_nan(acc, x),
                ReduceFn::Min => b.min(acc, x),
            };
            b.assign(acc, next);
            Ok(())
        })?;
        let mut y = b.cast(acc, acc_elem);
        if op.f == ReduceFn::Mean {
            let n = cx.dim(b, &count);
            let n = b.cast(n, acc_elem);
            let n = cx.widen(b, n);
            y = super::scalar::binary(b, ssmc_ir::ops::BinaryFn::Div, y, n)?;
        }
        let y = b.cast(y, elem);
        sink.put(cx, b, &idx, y)
    })?;
    Ok(Launch { grid, flops })
}

/// Index of the first largest element; NaN counts as larger than every number.
pub(super) fn argmax(l: &mut Lowering<'_>, op: &ArgMax) -> Result<Launch, LowerError> {
    let x = l.operand(0)?;
    let in_shape = l.shape(x);
    let shape = l.shape(l.node.results[0]);
    let elem = match elem_of(l.graph.ty(x).dtype)? {
        Elem::Bool => Elem::U8,
        elem => elem,
    };
    let (b, cx, sink) = l.parts();
    cx.lanes = 1;
    let idx = row_index(cx, b, shape);
    let n = cx.dim(b, &in_shape[op.axis]);
    let mut at = idx.clone();
    at.insert(op.axis, Idx::Uniform(b.const_i64(0)));
    let lowest = bound(b, RegTy::scalar(elem), false);
    let best = b.var_init(lowest);
    let zero = b.const_i64(0);
    let place = b.var_init(zero);
    let mut result = Ok(());
    b.for_("i", 0, n, 1, |b, i| {
        result = cx.scope(|cx| {
            at[op.axis] = Idx::Uniform(i);
            let x = cx.get_wide_as(b, (x, elem), &at)?;
            let is_more = b.gt(x, best);
            let (is_nan, best_is_number) = (b.ne(x, x), b.eq(best, best));
            let first_nan = b.and(is_nan, best_is_number);
            let wins = b.or(is_more, first_nan);
            let (new_best, new_place) = (b.select(wins, x, best), b.select(wins, i, place));
            b.assign(best, new_best);
            b.assign(place, new_place);
            Ok(())
        });
    });
    result?;
    let place = b.cast(place, Elem::I64);
    sink.put(cx, b, &idx, place)?;
    Ok(Launch { grid: product(shape), flops: product(in_shape) })
}
