//! Short causal depthwise convolution.
//!
//! One variant: a tile of channels walks along the sequence, the last columns and the taps in registers. On CPUs the
//! vectors of a tile take turns every [`STEPS`] steps, which are copied first with nothing between the loads, so that pages
//! and neighboring cache lines are used while they are near, and many loads are in flight.

use super::access::{Cx, Work};
use super::elementwise::row_index;
use super::index::Idx;
use super::sink::Sink;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Axis, Elem, KernelBuilder, LocalId, Reg, RegTy};
use ssmc_ir::ops::{Activation, CausalConv1d};
use ssmc_ir::{Dim, Graph, Node, ValueId};

/// Channels of a block.
pub(super) const CHANNEL_TILE: i64 = 64;

/// Steps of one turn.
const STEPS: i64 = 64;

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
        Self::of_node(l.graph, l.node)
    }

    /// The convolution of a node.
    pub(super) fn of_node(graph: &'a Graph, node: &'a Node) -> Result<Self, LowerError> {
        let op = node.op.name();
        let optional = |i: usize| node.operands.get(i).copied().flatten();
        let operand = |i: usize| optional(i).ok_or(LowerError::MissingOperand { op });
        let constant = |what: &str, dim: &Dim| {
            let reason = || format!("{what} must be a constant, found {dim}");
            dim.as_const().ok_or_else(|| LowerError::Unsupported { op, reason: reason() })
        };
        let (x, w) = (operand(0)?, operand(1)?);
        let shape: &'a [Dim] = &graph.ty(x).shape;
        let elem = elem_of(graph.ty(x).dtype)?;
        Ok(Self {
            x,
            w,
            bias: optional(2),
            state: optional(3),
            seq_idx: optional(4),
            state_out: node.results[1],
            channels: constant("channels", &shape[2])?,
            width: constant("width", &graph.ty(w).shape[1])?,
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
        let Some(w) = cx.flat(self.w).filter(|_| cx.lanes > 1) else { return self.filter(cx, b, c) };
        let width = self.width as u16;
        let param = cx.read_param(b, w)?;
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
    let Conv { x, state, shape, channels, width, state_out, .. } = conv;
    let tiles = Dim::from(channels).ceildiv(&Dim::from(CHANNEL_TILE));
    // A block has its own channels; it goes through all steps first, and columns move towards the front.
    l.in_place = state.map(|state| (state, state_out));
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
    let of_block = (first, CHANNEL_TILE, channels);
    let walk = Walk { conv: &conv, op, batch };
    if matches!(cx.work, Work::Vectors) {
        walk.in_parts(cx, b, of_block, len, sink)?;
    } else {
        for_channels(cx, b, of_block, &mut |cx, b, c| {
            let columns = walk.begin(cx, b, c)?;
            let columns: Vec<Reg> = columns.into_iter().map(|column| b.var_init(column)).collect();
            let start = b.const_i64(0);
            walk.steps(cx, b, c, &columns, (start, len, None), sink)
        })?;
    }
    for_channels(cx, b, of_block, &mut |cx, b, c| {
        put_state(cx, b, sink, (state_out, x, state), (batch, c, len), width)
    })?;
    let elems = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: shape[0].clone() * &tiles, flops: elems * Dim::from(2 * width) })
}

/// The way of a block along the sequence.
struct Walk<'w, 'a> {
    conv: &'w Conv<'a>,
    op: &'w CausalConv1d,
    batch: Idx,
}

impl<'a> Walk<'_, 'a> {
    /// The columns before the first step.
    fn begin(&self, cx: &mut Cx<'a>, b: &mut KernelBuilder, c: Idx) -> Result<Vec<Reg>, LowerError> {
        let Conv { state, width, acc, .. } = *self.conv;
        let column = |j: i64| match state {
            Some(state) => {
                let j = Idx::Uniform(b.const_i64(j));
                cx.get_wide_as(b, (state, acc), &[self.batch, j, c])
            }
            None => Ok(b.zero(acc.x(cx.lanes))),
        };
        (0..width - 1).map(column).collect()
    }

    /// All steps, [`STEPS`] of all channels at a time; the last columns wait in an array meanwhile.
    fn in_parts(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        of_block: (Reg, i64, i64),
        len: Reg,
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let (kept, lanes) = (self.conv.width - 1, i64::from(cx.lanes));
        let in_block = (CHANNEL_TILE + lanes - 1) / lanes * lanes;
        let waiting = b.local("columns", self.conv.acc, (in_block * kept) as u32);
        let copied = b.local("x", self.conv.acc, (in_block * STEPS) as u32);
        let vector = |b: &mut KernelBuilder, c: Idx| {
            let channel = match c {
                Idx::Uniform(channel) | Idx::Lanes { base: channel, .. } => channel,
                Idx::Vector(_) => unreachable!("the channels of a vector follow each other"),
            };
            b.sub(channel, of_block.0)
        };
        let place = |b: &mut KernelBuilder, c: Idx, j: usize| {
            let vector = vector(b, c);
            let at = b.mul(vector, kept);
            b.add(at, j as i64 * lanes)
        };
        for_channels(cx, b, of_block, &mut |cx, b, c| {
            for (j, column) in self.begin(cx, b, c)?.into_iter().enumerate() {
                let at = place(b, c, j);
                b.store(waiting, at, column);
            }
            Ok(())
        })?;
        let parts = b.ceil_div(len, STEPS);
        let mut result = Ok(());
        b.for_("part", 0, parts, 1, |b, part| {
            let start = b.mul(part, STEPS);
            let end = b.add(start, STEPS);
            let end = b.min(end, len);
            result = cx.scope(|cx| {
                let mut copy = Ok(());
                b.for_("t", start, end, 1, |b, t| {
                    copy = cx.scope(|cx| {
                        for_channels(cx, b, of_block, &mut |cx, b, c| {
                            let idx = [self.batch, Idx::Uniform(t), c];
                            let x = cx.get_wide_as(b, (self.conv.x, self.conv.acc), &idx)?;
                            let at = vector(b, c);
                            let at = b.mul(at, STEPS);
                            let at = self.copy_at(b, (at, start), t, lanes);
                            b.store(copied, at, x);
                            Ok(())
                        })
                    });
                });
                copy?;
                for_channels(cx, b, of_block, &mut |cx, b, c| {
                    let from = vector(b, c);
                    let from = b.mul(from, STEPS);
                    let load = |j: usize| {
                        let at = place(b, c, j);
                        let column = b.load(waiting, at, cx.lanes);
                        b.var_init(column)
                    };
                    let columns: Vec<Reg> = (0..kept as usize).map(load).collect();
                    self.steps(cx, b, c, &columns, (start, end, Some((copied, from))), sink)?;
                    for (j, column) in columns.iter().enumerate() {
                        let at = place(b, c, j);
                        b.store(waiting, at, *column);
                    }
                    Ok(())
                })
            });
        });
        result
    }

    /// Where step `t` is, in copies of the steps from `start` on that begin at `base`.
    fn copy_at(&self, b: &mut KernelBuilder, (base, start): (Reg, Reg), t: Reg, lanes: i64) -> Reg {
        let step = b.sub(t, start);
        let step = b.mul(step, lanes);
        b.add(base, step)
    }

    /// Steps of some channels, whose columns before are given and moved on. With an array x is taken from there, where
    /// its steps begin at some place.
    fn steps(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        c: Idx,
        columns: &[Reg],
        (start, end, copied): (Reg, Reg, Option<(LocalId, Reg)>),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let Conv { x, seq_idx, elem, acc, .. } = *self.conv;
        let batch = self.batch;
        let (taps, offset) = self.conv.filter(cx, b, c)?;
        let zero = b.zero(acc.x(cx.lanes));
        let mut result = Ok(());
        b.for_("t", start, end, 1, |b, t| {
            result = cx.scope(|cx| {
                if let Some(seq_idx) = seq_idx {
                    let before = b.sub(t, 1);
                    let before = b.max(before, 0);
                    let is_new = new_sequence(cx, b, seq_idx, batch, (t, before))?;
                    b.if_(is_new, |b| columns.iter().for_each(|column| b.assign(*column, zero)));
                }
                let idx = [batch, Idx::Uniform(t), c];
                let x = match copied {
                    Some((copied, base)) => {
                        let at = self.copy_at(b, (base, start), t, i64::from(cx.lanes));
                        b.load(copied, at, cx.lanes)
                    }
                    None => cx.get_wide_as(b, (x, acc), &idx)?,
                };
                let mut sum = offset;
                for (tap, column) in taps.iter().zip(columns.iter().chain([&x])) {
                    sum = b.fma(*tap, *column, sum);
                }
                let y = activate(b, self.op, sum);
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
        result
    }
}
