//! Recurrences that are not fused with their read-out: every state is written.
//!
//! One variant: a block per row of states, vectors along the last axis, the carried state in a register.

use super::access::Cx;
use super::conv1d::new_sequence;
use super::elementwise::{for_lanes, row_index};
use super::index::Idx;
use super::selective_scan::step_at;
use super::slots::{Part, Rows};
use super::{Launch, LowerError, Lowering, accumulator, elem_of, multiply_add};
use crate::kernel::{KernelBuilder, Reg};
use ssmc_ir::ops::{CumSum, Discretization, DiscretizedScan, Scan};
use ssmc_ir::{Dim, ValueId};

fn product<'d>(dims: impl IntoIterator<Item = &'d Dim>) -> Dim {
    dims.into_iter().fold(Dim::from(1), |n, d| n * d)
}

/// A recurrence over axis 1 of `[B, L, s..]`.
struct Recurrence {
    reverse: bool,
    h0: Option<ValueId>,
    seq_idx: Option<ValueId>,
    slots: Option<ValueId>,
}

/// The new state from the index of an element `[b, t, s..]` and the old state.
type Step<'f, 'a> = dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, &[Idx], Reg) -> Result<Reg, LowerError> + 'f;

fn recur<'a>(l: &mut Lowering<'a>, r: &Recurrence, step: &mut Step<'_, 'a>) -> Result<Launch, LowerError> {
    let (h, h_last) = (l.node.results[0], l.node.results[1]);
    let shape = l.shape(h);
    let elem = elem_of(l.graph.ty(h).dtype)?;
    let one = Dim::from(1);
    let (outer, last) = match shape {
        [_, _, outer @ .., last] => (outer, last),
        _ => (&[][..], &one),
    };
    let rank = shape.len();
    let rows = Rows { batch: &shape[0], slots: r.slots.map(|slots| (slots, &l.shape(h_last)[0])) };
    let (b, cx, sink) = l.parts();
    cx.narrow(last);
    let grid: Vec<Dim> = std::iter::once(rows.grid()).chain(outer.iter().cloned()).collect();
    let place = row_index(cx, b, &grid);
    let len = cx.dim(b, &shape[1]);
    let wide = accumulator(elem);
    rows.run(cx, b, place[0], &mut |cx, b, part| {
        for_lanes(cx, b, last, &mut |cx, b, at| {
            // The index of a state of this row, of the batch or of the states.
            let of = |row: Idx| [&[row], &place[1..], &[at]].concat()[..rank - 1].to_vec();
            let state_idx = of(part.row());
            let init = match r.h0 {
                Some(h0) => {
                    let h0 = cx.get_wide(b, h0, &state_idx)?;
                    b.cast(h0, wide)
                }
                None => b.zero(wide.x(cx.lanes)),
            };
            let state = b.var_init(init);
            if let Part::Steps { batch, .. } = part {
                let mut result = Ok(());
                b.for_("i", 0, len, 1, |b, i| {
                    result = cx.scope(|cx| {
                        let (t, before) = step_at(b, i, len, r.reverse);
                        if let Some(seq_idx) = r.seq_idx {
                            let is_new = new_sequence(cx, b, seq_idx, batch, (t, before))?;
                            let zero = b.zero(wide.x(cx.lanes));
                            b.if_(is_new, |b| b.assign(state, zero));
                        }
                        let mut idx = of(batch);
                        idx.insert(1, Idx::Uniform(t));
                        let new = step(cx, b, &idx, state)?;
                        b.assign(state, new);
                        let out = b.cast(state, elem);
                        sink.put(cx, b, &idx, out)
                    });
                });
                result?;
            }
            part.keep(cx, b, &mut |cx, b| {
                let out = b.cast(state, elem);
                sink.put_extra(cx, b, h_last, &state_idx, out)
            })
        })
    })?;
    Ok(Launch { grid: product(&grid), flops: product(shape) * 2 })
}

pub(super) fn scan(l: &mut Lowering<'_>, op: &Scan) -> Result<Launch, LowerError> {
    let (a, input) = (l.operand(0)?, l.operand(1)?);
    let a_shape = l.shape(a);
    let r =
        Recurrence { reverse: op.reverse, h0: l.optional(2), seq_idx: l.optional(3), slots: l.optional(4) };
    recur(l, &r, &mut |cx, b, idx, h| {
        let zero = b.const_i64(0);
        let a_idx: Vec<Idx> =
            idx.iter().zip(a_shape).map(|(i, d)| if d.is(1) { Idx::Uniform(zero) } else { *i }).collect();
        let elem = b.ty(h).elem();
        let (a, x) = (cx.get_wide(b, a, &a_idx)?, cx.get_wide(b, input, idx)?);
        let (a, x) = (b.cast(a, elem), b.cast(x, elem));
        Ok(multiply_add(b, a, h, x))
    })
}

/// a_bar and the factor of b in b_bar.
pub(super) fn discretize(b: &mut KernelBuilder, rule: Discretization, dt: Reg, a: Reg) -> (Reg, Reg) {
    let z = b.mul(dt, a);
    match rule {
        Discretization::ExpEuler => (b.exp(z), dt),
        Discretization::Zoh => {
            let factor = hold_factor(b, dt, a);
            (b.exp(z), factor)
        }
        Discretization::Bilinear => {
            let half = b.mul(z, 0.5);
            let (above, below) = (b.add(half, 1.0), b.sub(1.0, half));
            (b.div(above, below), b.div(dt, below))
        }
    }
}

/// (exp(dt*a) - 1) / a, or dt where a is 0.
pub(super) fn hold_factor(b: &mut KernelBuilder, dt: Reg, a: Reg) -> Reg {
    let z = b.mul(dt, a);
    let grown = b.expm1(z);
    let factor = b.div(grown, a);
    let is_constant = b.eq(a, 0);
    b.select(is_constant, dt, factor)
}

pub(super) fn discretized(l: &mut Lowering<'_>, op: &DiscretizedScan) -> Result<Launch, LowerError> {
    let [x, dt, a, bb] = [l.operand(0)?, l.operand(1)?, l.operand(2)?, l.operand(3)?];
    let scalar_decay = l.shape(a).len() == 2;
    let r =
        Recurrence { reverse: op.reverse, h0: l.optional(4), seq_idx: l.optional(5), slots: l.optional(6) };
    recur(l, &r, &mut |cx, b, idx, h| {
        // idx is [b, t, g, e, n], or [b, t, g, r, p, n] with one decay per head.
        let n = idx[idx.len() - 1];
        let a_idx = if scalar_decay { idx[2..4].to_vec() } else { vec![idx[2], idx[3], n] };
        let elem = b.ty(h).elem();
        let dt = cx.get_wide_as(b, (dt, elem), &idx[..4])?;
        let a = cx.get_wide_as(b, (a, elem), &a_idx)?;
        let x = cx.get_wide_as(b, (x, elem), &idx[..idx.len() - 1])?;
        let b_t = cx.get_wide_as(b, (bb, elem), &[idx[0], idx[1], idx[2], n])?;
        let (a_bar, factor) = discretize(b, op.discretization, dt, a);
        let scaled = b.mul(factor, x);
        let input = b.mul(scaled, b_t);
        Ok(b.fma(a_bar, h, input))
    })
}

pub(super) fn cumsum(l: &mut Lowering<'_>, op: &CumSum) -> Result<Launch, LowerError> {
    let x = l.operand(0)?;
    let shape = l.shape(x);
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let mut rest = shape.to_vec();
    let len = rest.remove(op.axis);
    let one = Dim::from(1);
    let (grid, last) = match rest.split_last() {
        Some((last, grid)) => (grid.to_vec(), last.clone()),
        None => (Vec::new(), one),
    };
    let (b, cx, sink) = l.parts();
    cx.narrow(&last);
    let place = row_index(cx, b, &grid);
    let len = cx.dim(b, &len);
    for_lanes(cx, b, &last, &mut |cx, b, at| {
        let others = [place.as_slice(), &[at]].concat()[..rest.len()].to_vec();
        let wide = accumulator(elem);
        let zero = b.zero(wide.x(cx.lanes));
        let sum = b.var_init(zero);
        let mut result = Ok(());
        b.for_("i", 0, len, 1, |b, i| {
            result = cx.scope(|cx| {
                let (t, _) = step_at(b, i, len, op.reverse);
                let mut idx = others.clone();
                idx.insert(op.axis, Idx::Uniform(t));
                let x = cx.get_wide(b, x, &idx)?;
                let x = b.cast(x, wide);
                let before = b.cast(sum, elem);
                let next = b.add(sum, x);
                b.assign(sum, next);
                let after = b.cast(sum, elem);
                sink.put(cx, b, &idx, if op.exclusive { before } else { after })
            });
        });
        result
    })?;
    Ok(Launch { grid: product(&grid), flops: product(shape) })
}
