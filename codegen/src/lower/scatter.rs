//! Writes at positions that depend on data, and the order of elements.
//!
//! One variant each. Scatter: a block per row of what lies behind the first axis, vectors along the last one; the
//! block copies its column of the tensor and applies the updates in order. Order: a block per row, each place of the
//! result found by one walk over the row.

use super::elementwise::{for_lanes, row_index};
use super::index::Idx;
use super::reduce::product;
use super::{Launch, LowerError, Lowering, elem_of};
use crate::kernel::{Elem, KernelBuilder, Reg};
use ssmc_ir::Dim;
use ssmc_ir::ops::{Scatter, ScatterFn, TopK};

fn apply(b: &mut KernelBuilder, f: ScatterFn, old: Reg, new: Reg) -> Reg {
    let is_float = b.ty(old).elem().is_float();
    match f {
        ScatterFn::Set => new,
        ScatterFn::Add => b.add(old, new),
        ScatterFn::Mul => b.mul(old, new),
        ScatterFn::Max if is_float => b.max_nan(old, new),
        ScatterFn::Max => b.max(old, new),
        ScatterFn::Min if is_float => b.min_nan(old, new),
        ScatterFn::Min => b.min(old, new),
    }
}

pub(super) fn scatter(l: &mut Lowering<'_>, op: &Scatter) -> Result<Launch, LowerError> {
    let (x, indices, updates) = (l.operand(0)?, l.operand(1)?, l.operand(2)?);
    let result = l.node.results[0];
    let (shape, n_updates) = (l.shape(result), &l.shape(indices)[0]);
    let one = Dim::from(1);
    let (rows, last) = match shape {
        [_, rows @ .., last] => (rows, last),
        _ => (&[][..], &one),
    };
    let (grid, rank) = (product(rows), shape.len());
    let (b, cx, _) = l.parts();
    let param = cx.update_param(b, result)?;
    cx.narrow(last);
    let row = row_index(cx, b, rows);
    let (n, m) = (cx.dim(b, &shape[0]), cx.dim(b, n_updates));
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let place = |i: Reg| [&[Idx::Uniform(i)], row.as_slice(), &[at]].concat()[..rank].to_vec();
        let mut outcome = Ok(());
        b.for_("i", 0, n, 1, |b, i| {
            outcome = cx.scope(|cx| {
                let old = cx.get_wide(b, x, &place(i))?;
                cx.store(b, param, shape, &place(i), old);
                Ok(())
            });
        });
        outcome?;
        let mut outcome = Ok(());
        b.for_("j", 0, m, 1, |b, j| {
            outcome = cx.scope(|cx| {
                let to = cx.get(b, indices, &[Idx::Uniform(j)])?;
                let to = b.cast(to, Elem::I64);
                let (wrapped, is_negative) = (b.add(to, n), b.lt(to, 0));
                let to = b.select(is_negative, wrapped, to);
                let (from, below) = (b.ge(to, 0), b.lt(to, n));
                let inside = b.and(from, below);
                let mut written = Ok(());
                b.if_(inside, |b| {
                    written = cx.scope(|cx| {
                        let new = cx.get_wide(b, updates, &place(j))?;
                        let new = match op.f {
                            ScatterFn::Set => new,
                            f => {
                                let old = cx.load(b, param, shape, &place(to));
                                let old = cx.widen(b, old);
                                apply(b, f, old, new)
                            }
                        };
                        cx.store(b, param, shape, &place(to), new);
                        Ok(())
                    });
                });
                written
            });
        });
        outcome
    })?;
    Ok(Launch { grid, flops: product(l.shape(updates)) })
}

/// Each result is the best element that comes after the one before it: by value, then by index.
pub(super) fn top_k(l: &mut Lowering<'_>, op: &TopK) -> Result<Launch, LowerError> {
    let x = l.operand(0)?;
    let in_shape = l.shape(x);
    let (values, places) = (l.node.results[0], l.node.results[1]);
    let stored = elem_of(l.graph.ty(x).dtype)?;
    let elem = if stored == Elem::Bool { Elem::U8 } else { super::accumulator(stored) };
    let mut rows = in_shape.to_vec();
    let extent = rows.remove(op.axis);
    let (b, cx, sink) = l.parts();
    cx.lanes = 1;
    let row = row_index(cx, b, &rows);
    let (n, k) = (cx.dim(b, &extent), cx.dim(b, &op.k));
    let at = |i: Reg| {
        let mut at = row.clone();
        at.insert(op.axis, Idx::Uniform(i));
        at
    };
    let (zero, minus_one) = (b.zero(elem.x(1)), b.const_i64(-1));
    let (last, last_place) = (b.var_init(zero), b.var_init(minus_one));
    let mut outcome = Ok(());
    b.for_("r", 0, k, 1, |b, r| {
        outcome = cx.scope(|cx| {
            let (best, best_place) = (b.var_init(zero), b.var_init(minus_one));
            let mut inner = Ok(());
            b.for_("i", 0, n, 1, |b, i| {
                inner = cx.scope(|cx| {
                    let x = cx.get_wide_as(b, (x, elem), &at(i))?;
                    let is_first = b.lt(last_place, 0);
                    let after_last = comes_before(b, op.largest, (last, last_place), (x, i));
                    let is_open = b.or(is_first, after_last);
                    let is_only = b.lt(best_place, 0);
                    let is_better = comes_before(b, op.largest, (x, i), (best, best_place));
                    let wins = b.or(is_only, is_better);
                    let wins = b.and(wins, is_open);
                    let (new, new_place) = (b.select(wins, x, best), b.select(wins, i, best_place));
                    b.assign(best, new);
                    b.assign(best_place, new_place);
                    Ok(())
                });
            });
            inner?;
            b.assign(last, best);
            b.assign(last_place, best_place);
            let value = b.cast(best, stored);
            sink.put(cx, b, &at(r), value)?;
            let place = b.cast(best_place, Elem::I64);
            sink.put_extra(cx, b, places, &at(r), place)
        });
    });
    outcome?;
    debug_assert_eq!(l.shape(values).len(), in_shape.len());
    Ok(Launch { grid: product(&rows), flops: product(in_shape) * op.k.clone() })
}

/// Whether the first element comes before the second: it is better, or equal and earlier. NaN is the largest.
fn comes_before(b: &mut KernelBuilder, largest: bool, (x, i): (Reg, Reg), (y, j): (Reg, Reg)) -> Reg {
    let (above, below) = if largest { ((x, y), (y, x)) } else { ((y, x), (x, y)) };
    let is_above = |b: &mut KernelBuilder, (p, q): (Reg, Reg)| {
        let more = b.gt(p, q);
        let (is_nan, is_number) = (b.ne(p, p), b.eq(q, q));
        let first_nan = b.and(is_nan, is_number);
        b.or(more, first_nan)
    };
    let (better, worse) = (is_above(b, above), is_above(b, below));
    let earlier = b.lt(i, j);
    let not_worse = b.not(worse);
    let tie = b.and(not_worse, earlier);
    b.or(better, tie)
}
