//! Short causal depthwise convolution.
//!
//! One variant: a tile of channels walks along the sequence, the last columns and the taps in registers.

use super::access::{Cx, Work};
use super::elementwise::row_index;
use super::index::Idx;
use super::sink::Sink;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Axis, Elem, KernelBuilder, Reg, RegTy};
use ssmc_ir::ops::{Activation, CausalConv1d};
use ssmc_ir::{Dim, ValueId};

/// Channels of a block.
pub(super) const CHANNEL_TILE: i64 = 64;

/// Runs `body` for the vectors of channels of a tile that starts at `first`.
pub(super) fn for_channels<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    (first, tile, n): (Reg, i64, i64),
    body: &mut super::elementwise::LaneBody<'_, 'a>,
) -> Result<(), LowerError> {
    let lanes = i64::from(cx.lanes);
    let end = b.add(first, tile);
    let end = if n % tile == 0 { end } else { b.min(end, n) };
    if let Work::Rows { threads } = cx.work {
        let thread = b.thread_idx(Axis::X);
        let first = b.add(first, thread);
        let mut result = Ok(());
        b.for_("c", first, end, threads.into(), |b, c| {
            result = cx.scope(|cx| body(cx, b, Idx::Uniform(c)));
        });
        return result;
    }
    let mut result = Ok(());
    b.for_("c", first, end, lanes, |b, base| {
        let mask = (n % lanes != 0).then(|| {
            let left = b.sub(n, base);
            b.lane_mask(left, cx.lanes)
        });
        let at = cx.lanes_from(base);
        result = cx.masked(mask, |cx| body(cx, b, at));
    });
    result
}

/// Whether step `t` begins another sequence than step `before`.
pub(super) fn new_sequence(
    cx: &mut Cx<'_>,
    b: &mut KernelBuilder,
    seq_idx: ValueId,
    batch: Idx,
    (t, before): (Reg, Reg),
) -> Result<Reg, LowerError> {
    let here = cx.get(b, seq_idx, &[batch, Idx::Uniform(t)])?;
    let there = cx.get(b, seq_idx, &[batch, Idx::Uniform(before)])?;
    Ok(b.ne(here, there))
}

/// The operands by name, and what types say of them.
pub(super) struct Conv<'a> {
    pub(super) x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    pub(super) state: Option<ValueId>,
    pub(super) seq_idx: Option<ValueId>,
    pub(super) state_out: ValueId,
    pub(super) shape: &'a [Dim],
    pub(super) channels: i64,
    pub(super) width: i64,
    pub(super) elem: Elem,
    /// The type of sums.
    pub(super) acc: Elem,
}

impl<'a> Conv<'a> {
    pub(super) fn of(l: &Lowering<'a>) -> Result<Self, LowerError> {
        let (x, w) = (l.operand(0)?, l.operand(1)?);
        let shape = l.shape(x);
        let elem = elem_of(l.graph.ty(x).dtype)?;
        Ok(Self {
            x,
            w,
            bias: l.optional(2),
            state: l.optional(3),
            seq_idx: l.optional(4),
            state_out: l.node.results[1],
            channels: l.constant("channels", &shape[2])?,
            width: l.constant("width", &l.shape(w)[1])?,
            shape,
            elem,
            acc: accumulator(elem),
        })
    }

    /// As [`Conv::filter`] for the channels from `base` on, whose taps lie together in memory.
    pub(super) fn filter_together(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        base: Reg,
    ) -> Result<(Vec<Reg>, Reg), LowerError> {
        let c = cx.lanes_from(base);
        if cx.is_inside(self.w) || cx.lanes == 1 {
            return self.filter(cx, b, c);
        }
        let width = self.width as u16;
        let param = cx.read_param(b, self.w)?;
        let at = b.mul(base, self.width);
        let all = b.load(param, at, cx.lanes * width);
        let mut taps = Vec::new();
        for j in 0..width {
            let mut tap = b.zero(b.ty(all).elem().x(cx.lanes));
            for lane in 0..cx.lanes {
                let x = b.extract(all, lane * width + j);
                tap = b.insert(tap, x, lane);
            }
            taps.push(b.cast(tap, self.acc));
        }
        Ok((taps, self.offset(cx, b, c)?))
    }

    /// Taps of the channels, and the bias or zeros.
    pub(super) fn filter(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        c: Idx,
    ) -> Result<(Vec<Reg>, Reg), LowerError> {
        let mut taps = Vec::new();
        for j in 0..self.width {
            let j = Idx::Uniform(b.const_i64(j));
            taps.push(cx.get_wide_as(b, (self.w, self.acc), &[c, j])?);
        }
        Ok((taps, self.offset(cx, b, c)?))
    }

    fn offset(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, c: Idx) -> Result<Reg, LowerError> {
        match self.bias {
            Some(bias) => cx.get_wide_as(b, (bias, self.acc), &[c]),
            None => Ok(b.zero(self.acc.x(cx.lanes))),
        }
    }
}

pub(super) fn activate(b: &mut KernelBuilder, op: &CausalConv1d, sum: Reg) -> Reg {
    match op.activation {
        Activation::None => sum,
        Activation::Silu => b.silu(sum),
    }
}

/// Stores the last `width - 1` columns of a channel, those of the state before and the `len` steps of `x`.
pub(super) fn put_state<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    sink: &mut Sink<'a>,
    (state_out, x, state): (ValueId, ValueId, Option<ValueId>),
    (batch, c, len): (Idx, Idx, Reg),
    width: i64,
) -> Result<(), LowerError> {
    if !sink.wants(state_out) {
        return Ok(());
    }
    let elem = elem_of(cx.graph.ty(x).dtype)?;
    for j in 0..width - 1 {
        // Column j is step L - (K-1) + j, or still column L + j of the state before.
        let t = b.add(len, j - (width - 1));
        let old = b.add(len, j);
        let before = match state {
            Some(state) => {
                let rest = b.const_i64(width - 1);
                let zero = b.zero(RegTy::scalar(elem));
                cx.guarded(b, state, &[batch, Idx::Uniform(old), c], 1, rest, zero)?
            }
            None => b.zero(elem.x(cx.lanes)),
        };
        let column = cx.guarded(b, x, &[batch, Idx::Uniform(t), c], 1, len, before)?;
        let j = Idx::Uniform(b.const_i64(j));
        sink.put_extra(cx, b, state_out, &[batch, j, c], column)?;
    }
    Ok(())
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &CausalConv1d) -> Result<Launch, LowerError> {
    let conv = Conv::of(l)?;
    let Conv { x, state, seq_idx, shape, channels, width, elem, acc, state_out, .. } = conv;
    let tiles = Dim::from(channels).ceildiv(&Dim::from(CHANNEL_TILE));
    let (b, cx, sink) = l.parts();
    cx.narrow(&shape[2]);
    let place = row_index(cx, b, &[shape[0].clone(), tiles.clone()]);
    let (batch, Idx::Uniform(tile)) = (place[0], place[1]) else {
        return Err(LowerError::Unsupported {
            op: "ssm.causal_conv1d",
            reason: "block indices are scalars".into(),
        });
    };
    let first = b.mul(tile, CHANNEL_TILE);
    let len = cx.dim(b, &shape[1]);
    for_channels(cx, b, (first, CHANNEL_TILE, channels), &mut |cx, b, c| {
        let (taps, offset) = conv.filter(cx, b, c)?;
        let zero = b.zero(acc.x(cx.lanes));
        let mut columns = Vec::new();
        for j in 0..width - 1 {
            let column = match state {
                Some(state) => {
                    let j = Idx::Uniform(b.const_i64(j));
                    cx.get_wide_as(b, (state, acc), &[batch, j, c])?
                }
                None => zero,
            };
            columns.push(b.var_init(column));
        }
        let mut result = Ok(());
        b.for_("t", 0, len, 1, |b, t| {
            result = cx.scope(|cx| {
                if let Some(seq_idx) = seq_idx {
                    let before = b.sub(t, 1);
                    let before = b.max(before, 0);
                    let is_new = new_sequence(cx, b, seq_idx, batch, (t, before))?;
                    b.if_(is_new, |b| columns.iter().for_each(|column| b.assign(*column, zero)));
                }
                let idx = [batch, Idx::Uniform(t), c];
                let x = cx.get_wide_as(b, (x, acc), &idx)?;
                let mut sum = offset;
                for (tap, column) in taps.iter().zip(columns.iter().chain([&x])) {
                    sum = b.fma(*tap, *column, sum);
                }
                let y = activate(b, op, sum);
                let y = b.cast(y, elem);
                sink.put(cx, b, &idx, y)?;
                for j in 1..columns.len() {
                    b.assign(columns[j - 1], columns[j]);
                }
                if let Some(last) = columns.last() {
                    b.assign(*last, x);
                }
                Ok(())
            });
        });
        result?;
        put_state(cx, b, sink, (state_out, x, state), (batch, c, len), width)
    })?;
    let elems = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: shape[0].clone() * &tiles, flops: elems * Dim::from(2 * width) })
}
