//! Long convolution, direct.
//!
//! One variant: a tile of steps in registers, vectors along the channels. Taps whose inputs all exist are taken several
//! at a time, so that one load of the input serves several of them; at both ends of the sequence every input is
//! guarded.

use super::access::Cx;
use super::conv1d::for_channels;
use super::elementwise::row_index;
use super::index::Idx;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Elem, KernelBuilder, Reg, RegTy};
use ssmc_ir::ops::LongConv;
use ssmc_ir::{Dim, ValueId};

/// Channels of a block.
const CHANNEL_TILE: i64 = 64;
/// Steps of a block.
const TIME_TILE: i64 = 8;
/// Taps that share loads of the input.
const TAPS: i64 = 4;

/// What the taps act on.
#[derive(Clone, Copy)]
struct Input {
    x: ValueId,
    k: ValueId,
    is_batched: bool,
    history: Option<ValueId>,
    batch: Idx,
    len: Reg,
    /// Columns of the history.
    tail: Reg,
    elem: Elem,
    acc: Elem,
}

impl Input {
    fn tap(self, cx: &mut Cx<'_>, b: &mut KernelBuilder, j: Reg, c: Idx) -> Result<Reg, LowerError> {
        let at = [self.batch, Idx::Uniform(j), c];
        cx.get_wide_as(b, (self.k, self.acc), if self.is_batched { &at } else { &at[1..] })
    }

    /// The column at step `t`, which exists.
    fn column(self, cx: &mut Cx<'_>, b: &mut KernelBuilder, t: Reg, c: Idx) -> Result<Reg, LowerError> {
        cx.get_wide_as(b, (self.x, self.acc), &[self.batch, Idx::Uniform(t), c])
    }

    /// The column at any step, as it is stored: before the sequence that of the history, 0 where there is none.
    fn guarded(self, cx: &mut Cx<'_>, b: &mut KernelBuilder, t: Reg, c: Idx) -> Result<Reg, LowerError> {
        let mut fill = b.zero(RegTy::scalar(self.elem));
        if let Some(history) = self.history {
            let at = b.add(t, self.tail);
            fill = cx.guarded(b, history, &[self.batch, Idx::Uniform(at), c], 1, self.tail, fill)?;
        }
        let x = cx.guarded(b, self.x, &[self.batch, Idx::Uniform(t), c], 1, self.len, fill)?;
        Ok(cx.widen(b, x))
    }

    /// Adds the product of every tap in `from..to`, with guards; `origin` is the input of tap 0 at the first step.
    fn edge(
        self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        (from, to, origin): (Reg, Reg, Reg),
        (sums, c): (&[Reg], Idx),
    ) -> Result<(), LowerError> {
        let mut result = Ok(());
        b.for_("j", from, to, 1, |b, j| {
            result = cx.scope(|cx| {
                let tap = self.tap(cx, b, j, c)?;
                for (i, sum) in sums.iter().enumerate() {
                    let t = b.sub(origin, j);
                    let t = b.add(t, i as i64);
                    let x = self.guarded(cx, b, t, c)?;
                    let x = b.cast(x, self.acc);
                    let next = b.fma(tap, x, *sum);
                    b.assign(*sum, next);
                }
                Ok(())
            });
        });
        result
    }

    /// Adds the products of taps in `from..to`, a multiple of [`TAPS`], whose inputs all exist.
    fn interior(
        self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        (from, to, origin): (Reg, Reg, Reg),
        (sums, c): (&[Reg], Idx),
    ) -> Result<(), LowerError> {
        let mut result = Ok(());
        b.for_("j", from, to, TAPS, |b, first| {
            result = cx.scope(|cx| {
                let mut taps = Vec::new();
                for m in 0..TAPS {
                    let j = b.add(first, m);
                    taps.push(self.tap(cx, b, j, c)?);
                }
                let newest = b.sub(origin, first);
                // Column d steps after the first step's input of tap `first`.
                let mut columns = Vec::new();
                for d in 1 - TAPS..TIME_TILE {
                    let t = b.add(newest, d);
                    columns.push(self.column(cx, b, t, c)?);
                }
                for (i, sum) in sums.iter().enumerate() {
                    let mut next = *sum;
                    for (m, tap) in taps.iter().enumerate() {
                        next = b.fma(*tap, columns[i + TAPS as usize - 1 - m], next);
                    }
                    b.assign(*sum, next);
                }
                Ok(())
            });
        });
        result
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &LongConv) -> Result<Launch, LowerError> {
    let (x, k, history) = (l.operand(0)?, l.operand(1)?, l.optional(2));
    let (shape, k_shape) = (l.shape(x), l.shape(k));
    let channels = l.constant("channels", &shape[2])?;
    let width_dim = &k_shape[k_shape.len() - 2];
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let acc = accumulator(elem);
    let history_out = l.node.results[1];
    let tail_dim = l.shape(history_out)[1].clone();
    let channel_tiles = Dim::from(channels).ceildiv(&Dim::from(CHANNEL_TILE));
    // At least one tile: the first one also writes the history.
    let time_tiles = shape[1].ceildiv(&Dim::from(TIME_TILE)).at_least(&Dim::from(1));
    let (b, cx, sink) = l.parts();
    cx.narrow(&shape[2]);
    let grid = [shape[0].clone(), time_tiles, channel_tiles];
    let place = row_index(cx, b, &grid);
    let (batch, Idx::Uniform(time), Idx::Uniform(tile)) = (place[0], place[1], place[2]) else {
        let reason = "block indices are scalars".into();
        return Err(LowerError::Unsupported { op: "ssm.long_conv", reason });
    };
    let (first_channel, start) = (b.mul(tile, CHANNEL_TILE), b.mul(time, TIME_TILE));
    let (len, width) = (cx.dim(b, &shape[1]), cx.dim(b, width_dim));
    let (lead, tail) = (cx.dim(b, &op.lead), cx.dim(b, &tail_dim));
    let input = Input { x, k, is_batched: k_shape.len() == 3, history, batch, len, tail, elem, acc };
    let origin = b.add(start, lead);
    // Taps below `low` and from `high` on miss an input of some step; those outside of first..last miss all.
    let past_end = b.sub(origin, len);
    let low = b.add(past_end, TIME_TILE);
    let low = b.max(low, 0);
    let low = b.min(low, width);
    let first = b.add(past_end, 1);
    let first = b.max(first, 0);
    let first = b.min(first, low);
    let high = b.add(origin, 1);
    let high = b.min(high, width);
    let high = b.max(high, low);
    let last = match history {
        Some(_) => width,
        None => {
            let last = b.add(origin, TIME_TILE);
            b.min(last, width)
        }
    };
    let count = b.sub(high, low);
    let rest = b.rem(count, TAPS);
    let middle = b.sub(high, rest);
    for_channels(cx, b, (first_channel, CHANNEL_TILE, channels), &mut |cx, b, c| {
        let zero = b.zero(acc.x(cx.lanes));
        let sums: Vec<Reg> = (0..TIME_TILE).map(|_| b.var_init(zero)).collect();
        input.edge(cx, b, (first, low, origin), (&sums, c))?;
        input.interior(cx, b, (low, middle, origin), (&sums, c))?;
        input.edge(cx, b, (middle, last, origin), (&sums, c))?;
        for (i, sum) in sums.iter().enumerate() {
            let t = b.add(start, i as i64);
            let exists = b.lt(t, len);
            let mut result = Ok(());
            b.if_(exists, |b| {
                result = cx.scope(|cx| {
                    let y = b.cast(*sum, elem);
                    sink.put(cx, b, &[batch, Idx::Uniform(t), c], y)
                });
            });
            result?;
        }
        if !sink.wants(history_out) {
            return Ok(());
        }
        let is_first = b.eq(time, 0);
        let mut result = Ok(());
        b.if_(is_first, |b| {
            b.for_("j", 0, tail, 1, |b, j| {
                result = cx.scope(|cx| {
                    let t = b.sub(len, tail);
                    let t = b.add(t, j);
                    let column = input.guarded(cx, b, t, c)?;
                    sink.put_extra(cx, b, history_out, &[batch, Idx::Uniform(j), c], column)
                });
            });
        });
        result
    })?;
    let elems = shape.iter().fold(Dim::from(1), |n, d| n * d);
    let flops = elems * width_dim * Dim::from(2);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}
