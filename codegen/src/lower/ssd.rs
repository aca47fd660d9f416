//! The state space dual scan on CPUs: one decay per head, so no exponential per state.
//!
//! Variants: (1) recurrent: a tile of the head's rows in lanes, the state in a local array, two fused
//! multiply-adds per state and step; (2) [`step`]: a single step, with states in lanes; (3) [`chunked`]: scores inside a
//! chunk, the state touched once per chunk.

mod chunked;
mod step;

use super::access::Cx;
use super::conv1d::{for_channels, new_sequence};
use super::elementwise::row_index;
use super::index::Idx;
use super::scan::discretize;
use super::selective_scan::{step_at, step_size};
use super::sink::Sink;
use super::slots::{Part, Rows};
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Elem, KernelBuilder, LocalId, Reg};
use ssmc_ir::ops::{Mode, ReadOut, Ssd};
use ssmc_ir::{Dim, ValueId};

/// Rows of a head that a block of the recurrent variant takes: the widest vector.
pub(super) const ROW_TILE: i64 = 16;

/// The operands, by name.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub(super) x: ValueId,
    pub(super) dt: ValueId,
    pub(super) a: ValueId,
    pub(super) b: ValueId,
    pub(super) c: ValueId,
    pub(super) d: Option<ValueId>,
    pub(super) z: Option<ValueId>,
    pub(super) dt_bias: Option<ValueId>,
    pub(super) h0: Option<ValueId>,
    pub(super) seq_idx: Option<ValueId>,
    pub(super) slots: Option<ValueId>,
    pub(super) skip_is_scalar: bool,
    pub(super) h_last: ValueId,
    /// The type of states and sums.
    pub(super) acc: Elem,
}

impl Operands {
    /// An element that no lane distinguishes.
    fn scalar(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        value: ValueId,
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        let v = cx.get(b, value, idx)?;
        Ok(b.cast(v, self.acc))
    }

    /// First and last states may lie in the same memory: every block has rows of its own, unless sequences share slots.
    fn in_place(&self) -> Option<(ValueId, ValueId)> {
        self.h0.filter(|_| self.slots.is_none()).map(|h0| (h0, self.h_last))
    }

    /// Elements, one per lane.
    fn wide(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        value: ValueId,
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        cx.get_wide_as(b, (value, self.acc), idx)
    }
}

/// The head of a block: batch, row of the states, group and head in the group.
#[derive(Clone, Copy)]
struct Head {
    batch: Idx,
    row: Idx,
    group: Idx,
    head: Idx,
}

impl Head {
    fn at(&self, t: Reg) -> [Idx; 4] {
        [self.batch, Idx::Uniform(t), self.group, self.head]
    }

    fn state(&self, p: Idx, n: Idx) -> [Idx; 5] {
        [self.row, self.group, self.head, p, n]
    }

    /// Step size and a at step `t`, one lane each.
    fn step(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        (o, op): (&Operands, &Ssd),
        t: Reg,
    ) -> Result<(Reg, Reg), LowerError> {
        let dt = o.scalar(cx, b, o.dt, &self.at(t))?;
        let bias = o.dt_bias.map(|v| o.scalar(cx, b, v, &[self.group, self.head])).transpose()?;
        let dt = step_size(b, dt, bias, op.dt_softplus, (op.dt_min, op.dt_max));
        Ok((dt, o.scalar(cx, b, o.a, &[self.group, self.head])?))
    }

    /// Read-out, skip and gate for rows `p` at step `t`.
    fn finish(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        o: &Operands,
        (t, p): (Reg, Idx),
        y: Reg,
    ) -> Result<Reg, LowerError> {
        let at = [self.at(t).as_slice(), &[p]].concat();
        let mut y = y;
        if let Some(d) = o.d {
            let row = if o.skip_is_scalar { Idx::Uniform(b.const_i64(0)) } else { p };
            let d = o.wide(cx, b, d, &[self.group, self.head, row])?;
            let x = o.wide(cx, b, o.x, &at)?;
            y = b.fma(d, x, y);
        }
        if let Some(z) = o.z {
            let z = o.wide(cx, b, z, &at)?;
            let gate = b.silu(z);
            y = b.mul(y, gate);
        }
        Ok(y)
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Ssd) -> Result<Launch, LowerError> {
    match op.mode {
        Mode::Recurrent => lower_recurrent(l, op),
        Mode::Chunked => {
            let o = operands(l)?;
            l.in_place = o.in_place();
            chunked::lower(l, op, &o)
        }
    }
}

/// The recurrent variant, whatever the mode.
pub(super) fn lower_recurrent(l: &mut Lowering<'_>, op: &Ssd) -> Result<Launch, LowerError> {
    let o = operands(l)?;
    l.in_place = o.in_place();
    if step::applies(l, &o) { step::lower(l, op, &o) } else { recurrent(l, op, &o) }
}

pub(super) fn operands(l: &Lowering<'_>) -> Result<Operands, LowerError> {
    let d = l.optional(5);
    // Loads of what is widened are of halves, which matrix units take.
    let loaded = |value: ValueId| l.cx.unwidened(value);
    Ok(Operands {
        x: loaded(l.operand(0)?),
        dt: l.operand(1)?,
        a: l.operand(2)?,
        b: loaded(l.operand(3)?),
        c: loaded(l.operand(4)?),
        d,
        z: l.optional(6).map(loaded),
        dt_bias: l.optional(7),
        h0: l.optional(8),
        seq_idx: l.optional(9),
        slots: l.optional(10),
        skip_is_scalar: d.is_some_and(|d| l.shape(d)[2].is(1)),
        h_last: l.node.results[1],
        acc: accumulator(elem_of(l.graph.ty(l.operand(0)?).dtype)?),
    })
}

/// Fills a `[N][lanes]` or `[N][P]` state array for rows `p` from h0 or zeros.
fn load_state(
    cx: &mut Cx<'_>,
    b: &mut KernelBuilder,
    o: &Operands,
    head: &Head,
    (p, n): (Idx, i64),
    (state, pitch, offset): (LocalId, i64, Reg),
) -> Result<(), LowerError> {
    let mut result = Ok(());
    b.for_("n", 0, n, 1, |b, n| {
        result = cx.scope(|cx| {
            let h = match o.h0 {
                Some(h0) => o.wide(cx, b, h0, &head.state(p, Idx::Uniform(n)))?,
                None => b.zero(o.acc.x(cx.lanes)),
            };
            let at = b.mul(n, pitch);
            let at = b.add(at, offset);
            b.store(state, at, h);
            Ok(())
        });
    });
    result
}

fn recurrent(l: &mut Lowering<'_>, op: &Ssd, o: &Operands) -> Result<Launch, LowerError> {
    let shape = l.shape(o.x);
    let width = l.constant("head width", &shape[4])?;
    let n = l.constant("states", &l.shape(o.b)[3])?;
    let elem = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let rows = Rows { batch: &shape[0], slots: o.slots.map(|slots| (slots, &l.shape(o.h_last)[0])) };
    let tiles = Dim::from(width).ceildiv(&Dim::from(ROW_TILE));
    let (b, cx, sink) = l.parts();
    cx.narrow(&shape[4]);
    let grid = [rows.grid(), shape[2].clone(), shape[3].clone(), tiles];
    let place = row_index(cx, b, &grid);
    let Idx::Uniform(tile) = place[3] else {
        return Err(LowerError::Unsupported { op: "ssm.ssd", reason: "block indices are scalars".into() });
    };
    let first = b.mul(tile, ROW_TILE);
    let len = cx.dim(b, &shape[1]);
    let lanes = i64::from(cx.lanes);
    let state = b.local("state", o.acc, (n * lanes) as u32);
    let walk = Walk { op, o, len, n, state, elem };
    rows.run(cx, b, place[0], &mut |cx, b, part| {
        let row = part.row();
        let batch = if let Part::Steps { batch, .. } = part { batch } else { row };
        let head = Head { batch, row, group: place[1], head: place[2] };
        for_channels(cx, b, (first, ROW_TILE, width), &mut |cx, b, p| {
            let offset = b.const_i64(0);
            load_state(cx, b, o, &head, (p, n), (state, lanes, offset))?;
            if let Part::Steps { .. } = part {
                walk.run(cx, b, (&head, p), sink)?;
            }
            if !sink.wants(o.h_last) {
                return Ok(());
            }
            part.keep(cx, b, &mut |cx, b| {
                let mut result = Ok(());
                b.for_("n", 0, n, 1, |b, n| {
                    let at = b.mul(n, lanes);
                    let h = b.load(state, at, cx.lanes);
                    let h = b.cast(h, elem);
                    result = sink.put_extra(cx, b, o.h_last, &head.state(p, Idx::Uniform(n)), h);
                });
                result
            })
        })
    })?;
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: steps * Dim::from(5 * n + 6) })
}

/// What the steps of the recurrent variant have in common.
struct Walk<'o> {
    op: &'o Ssd,
    o: &'o Operands,
    len: Reg,
    n: i64,
    /// `[N]` vectors.
    state: LocalId,
    elem: Elem,
}

impl Walk<'_> {
    /// All steps of the rows `p` of a head.
    fn run<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        at: (&Head, Idx),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let mut result = Ok(());
        b.for_("i", 0, self.len, 1, |b, i| {
            result = cx.scope(|cx| {
                let t = step_at(b, i, self.len, self.op.reverse);
                self.step(cx, b, at, t, sink)
            });
        });
        result
    }

    fn step<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (head, p): (&Head, Idx),
        (t, before): (Reg, Reg),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let (o, lanes) = (self.o, i64::from(cx.lanes));
        let (dt, a) = head.step(cx, b, (o, self.op), t)?;
        let (decay, factor) = discretize(b, self.op.discretization, dt, a);
        let zero = b.zero(o.acc.x(cx.lanes));
        if let Some(seq_idx) = o.seq_idx {
            let is_new = new_sequence(cx, b, seq_idx, head.batch, (t, before))?;
            b.if_(is_new, |b| {
                b.for_("n", 0, self.n * lanes, lanes, |b, at| b.store(self.state, at, zero));
            });
        }
        let decay = cx.widen(b, decay);
        let x = o.wide(cx, b, o.x, &[head.at(t).as_slice(), &[p]].concat())?;
        let factor = cx.widen(b, factor);
        let factor_x = b.mul(factor, x);
        let sum = b.var_init(zero);
        let mut inner = Ok(());
        b.for_("n", 0, self.n, 1, |b, n| {
            inner = cx.scope(|cx| {
                let pick = [head.batch, Idx::Uniform(t), head.group, Idx::Uniform(n)];
                let (b_t, c_t) = (o.wide(cx, b, o.b, &pick)?, o.wide(cx, b, o.c, &pick)?);
                let at = b.mul(n, lanes);
                let old = b.load(self.state, at, cx.lanes);
                let input = b.mul(factor_x, b_t);
                let new = b.fma(decay, old, input);
                b.store(self.state, at, new);
                let seen = if self.op.read_out == ReadOut::After { new } else { old };
                let y = b.fma(seen, c_t, sum);
                b.assign(sum, y);
                Ok(())
            });
        });
        inner?;
        let y = b.cast(sum, o.acc);
        let y = head.finish(cx, b, o, (t, p), y)?;
        let y = b.cast(y, self.elem);
        sink.put(cx, b, &[head.at(t).as_slice(), &[p]].concat(), y)
    }
}
