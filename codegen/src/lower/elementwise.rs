//! Elementwise groups, and loops over vectors.
//!
//! One variant: a block per row of the result, vectors along the last axis, what is left under a mask. What is read
//! in another order than it is written (transposes, reversed axes) is gathered.

use super::access::{Cx, Work};
use super::index::Idx;
use super::{Launch, LowerError, Lowering};
use crate::kernel::{Axis, KernelBuilder, ReduceOp, Reg};
use ssmc_ir::Dim;

pub(super) fn lower(l: &mut Lowering<'_>) -> Result<Launch, LowerError> {
    let value = l.node.results[0];
    let shape = l.shape(value);
    let (b, cx, sink) = l.parts();
    let (rows, last) = rows_and_last(shape);
    let Some(last) = last else {
        cx.lanes = 1;
        let x = cx.get(b, value, &[])?;
        sink.put(cx, b, &[], x)?;
        return Ok(Launch { grid: Dim::from(1), flops: Dim::from(1) });
    };
    cx.narrow(last);
    let row = row_index(cx, b, rows);
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let idx = [row.as_slice(), &[at]].concat();
        let x = cx.get(b, value, &idx)?;
        sink.put(cx, b, &idx, x)
    })?;
    let elems: Dim = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: rows.iter().fold(Dim::from(1), |n, d| n * d), flops: elems })
}

/// All axes but the last, and the last.
pub(super) fn rows_and_last(shape: &[Dim]) -> (&[Dim], Option<&Dim>) {
    match shape.split_last() {
        Some((last, rows)) => (rows, Some(last)),
        None => (shape, None),
    }
}

/// The multi-index of this block in a grid over these extents, or of this thread if threads have rows of their own.
pub(super) fn row_index(cx: &mut Cx<'_>, b: &mut KernelBuilder, extents: &[Dim]) -> Vec<Idx> {
    match cx.work.clone() {
        Work::Vectors | Work::Rows { .. } => {
            let block = b.block_idx();
            let extents = cx.extents(b, extents);
            cx.index(b).unravel(Idx::Uniform(block), &extents)
        }
        Work::Serial { threads } => {
            let item = item(b, threads);
            let extents = cx.extents(b, extents);
            cx.index(b).unravel(Idx::Uniform(item), &extents)
        }
        Work::Elements { threads, last, .. } => {
            let item = item(b, threads);
            let extents = cx.extents(b, &[extents, std::slice::from_ref(&last)].concat());
            let mut idx = cx.index(b).unravel(Idx::Uniform(item), &extents);
            let at = match idx.pop() {
                Some(Idx::Uniform(at)) => Some(at),
                _ => None,
            };
            cx.work = Work::Elements { threads, last, at };
            idx
        }
    }
}

/// The position of this thread among all threads of the grid.
pub(super) fn item(b: &mut KernelBuilder, threads: u32) -> Reg {
    let (block, thread) = (b.block_idx(), b.thread_idx(Axis::X));
    let first = b.mul(block, threads);
    b.add(first, thread)
}

/// The body of a vector loop.
pub(super) type LaneBody<'f, 'a> =
    dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, Idx) -> Result<(), LowerError> + 'f;

/// Runs `body` for whole vectors of `0..extent` and once more, masked, for what is left.
pub(super) fn for_lanes<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    extent: &Dim,
    body: &mut LaneBody<'_, 'a>,
) -> Result<(), LowerError> {
    let n = cx.dim(b, extent);
    match cx.work.clone() {
        Work::Elements { last, at: Some(at), .. } if last == *extent => {
            return cx.scope(|cx| body(cx, b, Idx::Uniform(at)));
        }
        Work::Elements { .. } => {
            let reason = format!("a thread per element does not walk along {extent}");
            return Err(LowerError::Unsupported { op: "loop", reason });
        }
        Work::Rows { threads } => {
            // Whole vectors: the caller chose lanes that divide the extent.
            let (thread, lanes) = (b.thread_idx(Axis::X), i64::from(cx.lanes));
            let first = b.mul(thread, lanes);
            let mut result = Ok(());
            b.for_("i", first, n, i64::from(threads) * lanes, |b, i| {
                let at = cx.lanes_from(i);
                result = cx.scope(|cx| body(cx, b, at));
            });
            return result;
        }
        Work::Vectors | Work::Serial { .. } => {}
    }
    let lanes = i64::from(cx.lanes);
    let rest = b.rem(n, lanes);
    let whole = b.sub(n, rest);
    let mut result = Ok(());
    if b.known_i64(whole) != Some(0) {
        b.for_("i", 0, whole, lanes, |b, i| {
            let at = cx.lanes_from(i);
            result = cx.scope(|cx| body(cx, b, at));
        });
        result?;
    }
    if b.known_i64(rest) == Some(0) {
        return Ok(());
    }
    let mut result = Ok(());
    let some_left = b.gt(rest, 0);
    b.if_(some_left, |b| {
        let mask = b.lane_mask(rest, cx.lanes);
        let at = cx.lanes_from(whole);
        result = cx.masked(Some(mask), |cx| body(cx, b, at));
    });
    result
}

/// The sum of all lanes.
pub(super) fn lane_sum(b: &mut KernelBuilder, x: Reg) -> Reg {
    // A variable of one lane is copied: it may change later.
    if b.lanes(x) == 1 { b.cast(x, b.ty(x).elem()) } else { b.reduce(ReduceOp::Add, x) }
}
