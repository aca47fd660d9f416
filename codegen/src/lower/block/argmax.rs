//! The place of the largest element of long rows: a block per row.
//!
//! Threads take vectors in turn, several under way; then lanes, then warps compare. Of equal elements the first one wins
//! wherever it is, and NaN is above every number.

use crate::kernel::{Axis, Elem, KernelBuilder, Reg, RegTy, WARP_SIZE, WarpShuffleOp};
use crate::lower::access::Work;
use crate::lower::elementwise::row_index;
use crate::lower::reduce::bound;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::{ArgMax, Op};
use ssmc_ir::{Dim, Graph, Node};

pub(super) const THREADS: u32 = 1024;

/// Shortest rows that have a block of their own.
const LONG: i64 = 1024;

/// Vectors that a thread has under way.
const LOADS: i64 = 4;

/// What a node looks for, if it has this schedule: along the last axis of long rows.
pub(super) fn of<'n>(graph: &Graph, node: &'n Node) -> Option<&'n ArgMax> {
    let (Op::ArgMax(op), Some(Some(x))) = (&node.op, node.operands.first()) else { return None };
    let ty = graph.ty(*x);
    let is_float = matches!(elem_of(ty.dtype), Ok(elem) if elem.is_float());
    let n = ty.shape.last().and_then(Dim::as_const)?;
    let is_long = (LONG..i64::from(i32::MAX)).contains(&n) && op.axis + 1 == ty.rank();
    (is_float && is_long).then_some(op)
}

/// The largest element so far and its place.
#[derive(Clone, Copy)]
struct Best {
    value: Reg,
    place: Reg,
}

impl Best {
    fn zero(b: &mut KernelBuilder, elem: Elem) -> Self {
        let (value, place) = (bound(b, RegTy::scalar(elem), false), b.const_i64(0));
        let place = b.cast(place, Elem::I32);
        Self { value: b.var_init(value), place: b.var_init(place) }
    }

    /// Takes the other one over if it is above, or as high and before.
    fn merge(self, b: &mut KernelBuilder, value: Reg, place: Reg) {
        let is_more = b.gt(value, self.value);
        let (is_nan, own_is_nan) = (b.ne(value, value), b.ne(self.value, self.value));
        let own_is_number = b.not(own_is_nan);
        let is_first_nan = b.and(is_nan, own_is_number);
        let is_above = b.or(is_more, is_first_nan);
        let (is_equal, are_nan) = (b.eq(value, self.value), b.and(is_nan, own_is_nan));
        let is_level = b.or(is_equal, are_nan);
        let is_before = b.lt(place, self.place);
        let is_earlier = b.and(is_level, is_before);
        let wins = b.or(is_above, is_earlier);
        let (value, place) = (b.select(wins, value, self.value), b.select(wins, place, self.place));
        b.assign(self.value, value);
        b.assign(self.place, place);
    }

    /// The best of the lanes of a warp, in every lane.
    fn of_warp(self, b: &mut KernelBuilder) {
        let mut distance = WARP_SIZE / 2;
        while distance > 0 {
            let value = b.warp_shuffle(WarpShuffleOp::Xor, self.value, distance);
            let place = b.warp_shuffle(WarpShuffleOp::Xor, self.place, distance);
            self.merge(b, value, place);
            distance /= 2;
        }
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &ArgMax) -> Result<Launch, LowerError> {
    let x = l.operand(0)?;
    let (shape, rows) = (l.shape(x), l.shape(l.node.results[0]));
    let n = l.constant("the row", &shape[op.axis])?;
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let (b, cx, sink) = l.parts();
    cx.work = Work::Rows { threads: THREADS };
    cx.lanes = if n % 4 == 0 { 4 } else { 1 };
    let lanes = i64::from(cx.lanes);
    let row = row_index(cx, b, rows);
    let thread = b.thread_idx(Axis::X);
    let best = Best::zero(b, elem);
    let (first, step) = (b.mul(thread, lanes), i64::from(THREADS) * lanes);
    let mut result = Ok(());
    b.for_("i", first, n, step * LOADS, |b, at| {
        result = cx.scope(|cx| {
            let mut found = Vec::new();
            for i in 0..LOADS {
                // Behind the end the last ones are compared again, which changes nothing.
                let at = b.add(at, i * step);
                let at = b.min(at, n - lanes);
                let idx = [row.as_slice(), &[cx.lanes_from(at)]].concat();
                found.push((at, cx.get_wide(b, x, &idx)?));
            }
            for (at, x) in found {
                for lane in 0..cx.lanes {
                    let value = if lanes == 1 { x } else { b.extract(x, lane) };
                    let place = b.add(at, i64::from(lane));
                    let place = b.cast(place, Elem::I32);
                    best.merge(b, value, place);
                }
            }
            Ok(())
        });
    });
    result?;
    best.of_warp(b);
    let warps = THREADS / WARP_SIZE;
    let values = b.fresh_shared("values", elem, warps);
    let places = b.fresh_shared("places", Elem::I32, warps);
    let (warp, lane) = (b.div(thread, WARP_SIZE), b.rem(thread, WARP_SIZE));
    let is_first = b.eq(lane, 0);
    b.if_(is_first, |b| {
        b.store(values, warp, best.value);
        b.store(places, warp, best.place);
    });
    b.barrier();
    let (value, place) = (b.load(values, lane, 1), b.load(places, lane, 1));
    let all = Best { value: b.var_init(value), place: b.var_init(place) };
    all.of_warp(b);
    let is_one = b.eq(thread, 0);
    cx.lanes = 1;
    let mut result = Ok(());
    b.if_(is_one, |b| {
        result = cx.scope(|cx| {
            let place = b.cast(all.place, Elem::I64);
            sink.put(cx, b, &row, place)
        });
    });
    result?;
    let elems = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: rows.iter().fold(Dim::from(1), |n, d| n * d), flops: elems })
}
