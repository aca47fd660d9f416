//! Normalizations.
//!
//! One variant: a block per row; passes over the row for its mean, for its mean square and for the result, which finds
//! the row in the first-level cache.

use super::access::{Cx, Work};
use super::block::block_sum;
use super::elementwise::{for_lanes, lane_sum, row_index, rows_and_last};
use super::index::Idx;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Elem, KernelBuilder, Reg};
use ssmc_ir::ops::{GatedRmsNorm, LayerNorm, RmsNorm};
use ssmc_ir::{Dim, ValueId};

/// What a row's elements are before normalization.
type Element<'f, 'a> = dyn Fn(&mut Cx<'a>, &mut KernelBuilder, &[Idx]) -> Result<Reg, LowerError> + 'f;

/// Sum over a row of `f(x)`, which has the type `acc`, in every lane.
fn row_sum<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    (row, acc): (&[Idx], Elem),
    extent: &Dim,
    f: &Element<'_, 'a>,
) -> Result<Reg, LowerError> {
    let zero = b.zero(acc.x(cx.lanes));
    let total = b.var_init(zero);
    for_lanes(cx, b, extent, &mut |cx, b, at| {
        let x = f(cx, b, &[row, &[at]].concat())?;
        let x = match cx.mask {
            Some(mask) => b.select(mask, x, zero),
            None => x,
        };
        let sum = b.add(total, x);
        b.assign(total, sum);
        Ok(())
    })?;
    let sum = lane_sum(b, total);
    let sum = match cx.work {
        Work::Rows { threads } => block_sum(b, sum, threads),
        Work::Vectors | Work::Serial { .. } | Work::Elements { .. } => sum,
    };
    Ok(cx.widen(b, sum))
}

fn rows<'a>(l: &Lowering<'a>, x: ValueId) -> Result<(&'a [Dim], &'a Dim), LowerError> {
    match rows_and_last(l.shape(x)) {
        (rows, Some(last)) => Ok((rows, last)),
        (_, None) => l.unsupported("a scalar has no row"),
    }
}

/// 1 / sqrt(sum / n + eps), in every lane.
pub(super) fn inverse_deviation(b: &mut KernelBuilder, sum: Reg, n: Reg, eps: f64) -> Reg {
    let mean = b.div(sum, n);
    let shifted = b.add(mean, eps);
    let root = b.sqrt(shifted);
    let one = b.const_like(b.ty(root), 1.0);
    b.div(one, root)
}

/// The gate of a normalization and whether the norm comes first.
struct Gate {
    z: ValueId,
    norm_first: bool,
}

fn rms(
    l: &mut Lowering<'_>,
    weight: Option<ValueId>,
    gate: Option<Gate>,
    eps: f64,
) -> Result<Launch, LowerError> {
    let x = l.operand(0)?;
    let (rows, last) = rows(l, x)?;
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let acc = accumulator(elem);
    let (b, cx, sink) = l.parts();
    cx.narrow(last);
    let row = row_index(cx, b, rows);
    let silu_z = |cx: &mut Cx<'_>, b: &mut KernelBuilder, gate: &Gate, idx: &[Idx]| {
        let z = cx.get_wide_as(b, (gate.z, acc), idx)?;
        Ok::<_, LowerError>(b.silu(z))
    };
    let input = |cx: &mut Cx<'_>, b: &mut KernelBuilder, idx: &[Idx]| {
        let v = cx.get_wide_as(b, (x, acc), idx)?;
        match &gate {
            Some(gate) if !gate.norm_first => {
                let g = silu_z(cx, b, gate, idx)?;
                Ok::<_, LowerError>(b.mul(v, g))
            }
            _ => Ok(v),
        }
    };
    let squares = row_sum(cx, b, (&row, acc), last, &|cx, b, idx| {
        let v = input(cx, b, idx)?;
        Ok(b.mul(v, v))
    })?;
    let n = cx.dim(b, last);
    let n = b.cast(n, acc);
    let n = cx.widen(b, n);
    let scale = inverse_deviation(b, squares, n, eps);
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let idx = [row.as_slice(), &[at]].concat();
        let v = input(cx, b, &idx)?;
        let mut y = b.mul(v, scale);
        if let Some(weight) = weight {
            let w = cx.get_wide_as(b, (weight, acc), &[at])?;
            y = b.mul(y, w);
        }
        if let Some(gate) = &gate
            && gate.norm_first
        {
            let g = silu_z(cx, b, gate, &idx)?;
            y = b.mul(y, g);
        }
        let y = b.cast(y, elem);
        sink.put(cx, b, &idx, y)
    })?;
    let elems = rows.iter().fold(last.clone(), |n, d| n * d);
    Ok(Launch { grid: rows.iter().fold(Dim::from(1), |n, d| n * d), flops: elems * 4 })
}

pub(super) fn rms_norm(l: &mut Lowering<'_>, op: &RmsNorm) -> Result<Launch, LowerError> {
    let weight = l.optional(1);
    rms(l, weight, None, op.eps.get())
}

pub(super) fn gated_rms_norm(l: &mut Lowering<'_>, op: &GatedRmsNorm) -> Result<Launch, LowerError> {
    let gate = Gate { z: l.operand(1)?, norm_first: op.norm_before_gate };
    let weight = l.optional(2);
    rms(l, weight, Some(gate), op.eps.get())
}

/// Mean first, then the mean square of the differences, as the equation says.
pub(super) fn layer_norm(l: &mut Lowering<'_>, op: &LayerNorm) -> Result<Launch, LowerError> {
    let (x, weight, bias) = (l.operand(0)?, l.optional(1), l.optional(2));
    let (rows, last) = rows(l, x)?;
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let acc = accumulator(elem);
    let (b, cx, sink) = l.parts();
    cx.narrow(last);
    let row = row_index(cx, b, rows);
    let input = |cx: &mut Cx<'_>, b: &mut KernelBuilder, idx: &[Idx]| cx.get_wide_as(b, (x, acc), idx);
    let sum = row_sum(cx, b, (&row, acc), last, &input)?;
    let n = cx.dim(b, last);
    let n = b.cast(n, acc);
    let n = cx.widen(b, n);
    let mean = b.div(sum, n);
    let squares = row_sum(cx, b, (&row, acc), last, &|cx, b, idx| {
        let v = input(cx, b, idx)?;
        let v = b.sub(v, mean);
        Ok(b.mul(v, v))
    })?;
    let scale = inverse_deviation(b, squares, n, op.eps.get());
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let idx = [row.as_slice(), &[at]].concat();
        let v = input(cx, b, &idx)?;
        let v = b.sub(v, mean);
        let mut y = b.mul(v, scale);
        if let Some(weight) = weight {
            let w = cx.get_wide_as(b, (weight, acc), &[at])?;
            y = b.mul(y, w);
        }
        if let Some(bias) = bias {
            let c = cx.get_wide_as(b, (bias, acc), &[at])?;
            y = b.add(y, c);
        }
        let y = b.cast(y, elem);
        sink.put(cx, b, &idx, y)
    })?;
    let elems = rows.iter().fold(last.clone(), |n, d| n * d);
    Ok(Launch { grid: rows.iter().fold(Dim::from(1), |n, d| n * d), flops: elems * 7 })
}
