//! The state space dual scan on CPUs: one decay per head, so no exponential per state.
//!
//! Variants: (1) recurrent: a tile of the head's rows in lanes, the state in a local array, two fused
//! multiply-adds per state and step; (2) chunked: scores inside a chunk, the state touched once per chunk.

use super::access::Cx;
use super::conv1d::{for_channels, new_sequence};
use super::elementwise::{for_lanes, row_index};
use super::index::Idx;
use super::selective_scan::{step_at, step_size};
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Elem, KernelBuilder, LocalId, ReduceOp, Reg, RegTy};
use ssmc_ir::ops::{Discretization, Mode, Ssd};
use ssmc_ir::{Dim, ValueId};

/// Rows of a head that a block of the recurrent variant takes: the widest vector.
const ROW_TILE: i64 = 16;

/// The operands, by name.
#[derive(Clone, Copy)]
struct Operands {
    x: ValueId,
    dt: ValueId,
    a: ValueId,
    b: ValueId,
    c: ValueId,
    d: Option<ValueId>,
    z: Option<ValueId>,
    dt_bias: Option<ValueId>,
    h0: Option<ValueId>,
    seq_idx: Option<ValueId>,
    skip_is_scalar: bool,
    h_last: ValueId,
    /// The type of states and sums.
    acc: Elem,
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

/// The head of a block: batch, group and head in the group.
#[derive(Clone, Copy)]
struct Head {
    batch: Idx,
    group: Idx,
    head: Idx,
}

impl Head {
    fn at(&self, t: Reg) -> [Idx; 4] {
        [self.batch, Idx::Uniform(t), self.group, self.head]
    }

    fn state(&self, p: Idx, n: Idx) -> [Idx; 5] {
        [self.batch, self.group, self.head, p, n]
    }

    /// Step size and dt*a at step `t`, one lane each.
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
        let a = o.scalar(cx, b, o.a, &[self.group, self.head])?;
        let dt_a = b.mul(dt, a);
        Ok((dt, dt_a))
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
    if op.discretization != Discretization::ExpEuler {
        return l.unsupported(format!("discretization {} has no kernel", op.discretization.name()));
    }
    let d = l.optional(5);
    let o = Operands {
        x: l.operand(0)?,
        dt: l.operand(1)?,
        a: l.operand(2)?,
        b: l.operand(3)?,
        c: l.operand(4)?,
        d,
        z: l.optional(6),
        dt_bias: l.optional(7),
        h0: l.optional(8),
        seq_idx: l.optional(9),
        skip_is_scalar: d.is_some_and(|d| l.shape(d)[2].is(1)),
        h_last: l.node.results[1],
        acc: accumulator(elem_of(l.graph.ty(l.operand(0)?).dtype)?),
    };
    match op.mode {
        Mode::Recurrent => recurrent(l, op, &o),
        Mode::Chunked => chunked(l, op, &o),
    }
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
    let rows = l.constant("head width", &shape[4])?;
    let n = l.constant("states", &l.shape(o.b)[3])?;
    let elem = elem_of(l.graph.ty(o.x).dtype)?;
    let tiles = Dim::from(rows).ceildiv(&Dim::from(ROW_TILE));
    let (b, cx, sink) = l.parts();
    let grid = [shape[0].clone(), shape[2].clone(), shape[3].clone(), tiles];
    let place = row_index(cx, b, &grid);
    let (head, Idx::Uniform(tile)) = (Head { batch: place[0], group: place[1], head: place[2] }, place[3])
    else {
        return Err(LowerError::Unsupported { op: "ssm.ssd", reason: "block indices are scalars".into() });
    };
    let first = b.mul(tile, ROW_TILE);
    let len = cx.dim(b, &shape[1]);
    let lanes = i64::from(cx.lanes);
    let state = b.local("state", o.acc, (n * lanes) as u32);
    for_channels(cx, b, (first, ROW_TILE, rows), &mut |cx, b, p| {
        let offset = b.const_i64(0);
        load_state(cx, b, o, &head, (p, n), (state, lanes, offset))?;
        let mut result = Ok(());
        b.for_("i", 0, len, 1, |b, i| {
            result = cx.scope(|cx| {
                let (t, before) = step_at(b, i, len, op.reverse);
                let (dt, dt_a) = head.step(cx, b, (o, op), t)?;
                let decay = b.exp(dt_a);
                let decay = match o.seq_idx {
                    Some(seq_idx) => {
                        let is_new = new_sequence(cx, b, seq_idx, head.batch, (t, before))?;
                        let zero = b.zero(o.acc.x(cx.lanes));
                        b.if_(is_new, |b| {
                            b.for_("n", 0, n * lanes, lanes, |b, at| b.store(state, at, zero));
                        });
                        decay
                    }
                    None => decay,
                };
                let decay = cx.widen(b, decay);
                let x = o.wide(cx, b, o.x, &[head.at(t).as_slice(), &[p]].concat())?;
                let dt = cx.widen(b, dt);
                let dt_x = b.mul(dt, x);
                let zero = b.zero(o.acc.x(cx.lanes));
                let sum = b.var_init(zero);
                let mut inner = Ok(());
                b.for_("n", 0, n, 1, |b, n| {
                    inner = cx.scope(|cx| {
                        let pick = [head.batch, Idx::Uniform(t), head.group, Idx::Uniform(n)];
                        let (b_t, c_t) = (o.wide(cx, b, o.b, &pick)?, o.wide(cx, b, o.c, &pick)?);
                        let at = b.mul(n, lanes);
                        let old = b.load(state, at, cx.lanes);
                        let input = b.mul(dt_x, b_t);
                        let new = b.fma(decay, old, input);
                        b.store(state, at, new);
                        let y = b.fma(new, c_t, sum);
                        b.assign(sum, y);
                        Ok(())
                    });
                });
                inner?;
                let y = b.cast(sum, o.acc);
                let y = head.finish(cx, b, o, (t, p), y)?;
                let y = b.cast(y, elem);
                sink.put(cx, b, &[head.at(t).as_slice(), &[p]].concat(), y)
            });
        });
        result?;
        if !sink.wants(o.h_last) {
            return Ok(());
        }
        let mut result = Ok(());
        b.for_("n", 0, n, 1, |b, n| {
            let at = b.mul(n, lanes);
            let h = b.load(state, at, cx.lanes);
            let h = b.cast(h, elem);
            result = sink.put_extra(cx, b, o.h_last, &head.state(p, Idx::Uniform(n)), h);
        });
        result
    })?;
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: steps * Dim::from(5 * n + 6) })
}

/// Chunks of `op.chunk_size` steps. With gap(i, j) the sum of dt*a over the steps after j up to i and S the state
/// before the chunk: y[i] = sum over j <= i of exp(gap(i,j)) * (c[i].b[j]) * dt[j]*x[j] + exp(gap(i,-1)) * S c[i],
/// then S = exp(gap(last,-1))*S + sum over j of exp(gap(last,j)) * dt[j]*x[j] b[j]'.
///
/// Gaps are summed from i downwards, never taken as differences: beside a huge step the small ones would vanish.
fn chunked(l: &mut Lowering<'_>, op: &Ssd, o: &Operands) -> Result<Launch, LowerError> {
    let shape = l.shape(o.x);
    let rows = l.constant("head width", &shape[4])?;
    let n = l.constant("states", &l.shape(o.b)[3])?;
    let elem = elem_of(l.graph.ty(o.x).dtype)?;
    let q = op.chunk_size as i64;
    let (b, cx, sink) = l.parts();
    let grid = [shape[0].clone(), shape[2].clone(), shape[3].clone()];
    let place = row_index(cx, b, &grid);
    let head = Head { batch: place[0], group: place[1], head: place[2] };
    let len = cx.dim(b, &shape[1]);
    let lanes = i64::from(cx.lanes);
    let pitch = (rows + lanes - 1) / lanes * lanes;
    let rows_dim = Dim::from(rows);
    let n_dim = Dim::from(n);
    let state = b.local("state", o.acc, (n * pitch) as u32);
    let dt_x = b.local("dt_x", o.acc, (q * pitch) as u32);
    let decays = b.local("dt_a", o.acc, q as u32);
    let score = b.local("score", o.acc, q as u32);
    for_lanes(cx, b, &rows_dim, &mut |cx, b, p| {
        let Idx::Lanes { base, .. } = p else {
            let zero = b.const_i64(0);
            return load_state(cx, b, o, &head, (p, n), (state, pitch, zero));
        };
        load_state(cx, b, o, &head, (p, n), (state, pitch, base))
    })?;
    // The sequence that the state belongs to: that of the step before the chunk.
    let chunks = b.ceil_div(len, q);
    let mut result = Ok(());
    b.for_("chunk", 0, chunks, 1, |b, chunk| {
        result = cx.scope(|cx| {
            let start = b.mul(chunk, q);
            let left = b.sub(len, start);
            let count = b.min(left, q);
            let step = |b: &mut KernelBuilder, i: Reg| {
                let i = b.add(start, i);
                step_at(b, i, len, op.reverse).0
            };
            // Same sequence as step `j` of the chunk; `None` without packing.
            let seq_of = |cx: &mut Cx<'_>, b: &mut KernelBuilder, i: Reg| match o.seq_idx {
                Some(seq_idx) => {
                    let t = step(b, i);
                    cx.get(b, seq_idx, &[head.batch, Idx::Uniform(t)]).map(Some)
                }
                None => Ok(None),
            };
            let before_chunk = {
                let first = b.const_i64(-1);
                let position = b.add(start, first);
                let position = b.max(position, 0);
                b.sub(position, start)
            };
            let zero = b.zero(RegTy::scalar(o.acc));
            let mut inner = Ok(());
            b.for_("i", 0, count, 1, |b, i| {
                inner = cx.scope(|cx| {
                    let t = step(b, i);
                    let (dt, dt_a) = head.step(cx, b, (o, op), t)?;
                    b.store(decays, i, dt_a);
                    let row = b.mul(i, pitch);
                    for_lanes(cx, b, &rows_dim, &mut |cx, b, p| {
                        let x = o.wide(cx, b, o.x, &[head.at(t).as_slice(), &[p]].concat())?;
                        let dt = cx.widen(b, dt);
                        let v = b.mul(dt, x);
                        store_row(b, dt_x, row, p, v);
                        Ok(())
                    })
                });
            });
            inner?;
            let mut inner = Ok(());
            b.for_("i", 0, count, 1, |b, i| {
                inner = cx.scope(|cx| {
                    let t = step(b, i);
                    let seq_i = seq_of(cx, b, i)?;
                    let end = b.add(i, 1);
                    let gap = b.var_init(zero);
                    let mut scores = Ok(());
                    b.for_("back", 0, end, 1, |b, back| {
                        scores = cx.scope(|cx| {
                            let j = b.sub(i, back);
                            let s = step(b, j);
                            let cb = dot(cx, b, o, (t, s), (&head, &n_dim))?;
                            let decay = b.exp(gap);
                            let mut v = b.mul(cb, decay);
                            let dt_a = b.load(decays, j, 1);
                            let wider = b.add(gap, dt_a);
                            b.assign(gap, wider);
                            if let (Some(a), Some(c)) = (seq_i, seq_of(cx, b, j)?) {
                                let same = b.eq(a, c);
                                v = b.select(same, v, 0.0);
                            }
                            b.store(score, j, v);
                            Ok(())
                        });
                    });
                    scores?;
                    let mut carry = b.exp(gap);
                    if let (Some(a), Some(c)) = (seq_i, seq_of(cx, b, before_chunk)?) {
                        let same = b.eq(a, c);
                        carry = b.select(same, carry, 0.0);
                    }
                    for_lanes(cx, b, &rows_dim, &mut |cx, b, p| {
                        let ty = o.acc.x(cx.lanes);
                        let zero = b.zero(ty);
                        let (inside, from_state) = (b.var_init(zero), b.var_init(zero));
                        b.for_("j", 0, end, 1, |b, j| {
                            let v = b.load(score, j, 1);
                            let v = cx.widen(b, v);
                            let row = b.mul(j, pitch);
                            let x = load_row(b, cx.lanes, dt_x, row, p);
                            let next = b.fma(v, x, inside);
                            b.assign(inside, next);
                        });
                        let mut result = Ok(());
                        b.for_("n", 0, n, 1, |b, n| {
                            result = cx.scope(|cx| {
                                let pick = [head.batch, Idx::Uniform(t), head.group, Idx::Uniform(n)];
                                let c_t = o.wide(cx, b, o.c, &pick)?;
                                let row = b.mul(n, pitch);
                                let s = load_row(b, cx.lanes, state, row, p);
                                let next = b.fma(c_t, s, from_state);
                                b.assign(from_state, next);
                                Ok(())
                            });
                        });
                        result?;
                        let carry = cx.widen(b, carry);
                        let y = b.fma(carry, from_state, inside);
                        let y = head.finish(cx, b, o, (t, p), y)?;
                        let y = b.cast(y, elem);
                        sink.put(cx, b, &[head.at(t).as_slice(), &[p]].concat(), y)
                    })
                });
            });
            inner?;
            let last = b.sub(count, 1);
            let gap = b.var_init(zero);
            let seq_last = seq_of(cx, b, last)?;
            let mut inner = Ok(());
            b.for_("back", 0, count, 1, |b, back| {
                inner = cx.scope(|cx| {
                    let j = b.sub(last, back);
                    let mut decay = b.exp(gap);
                    let dt_a = b.load(decays, j, 1);
                    let wider = b.add(gap, dt_a);
                    b.assign(gap, wider);
                    if let (Some(a), Some(c)) = (seq_last, seq_of(cx, b, j)?) {
                        let same = b.eq(a, c);
                        decay = b.select(same, decay, 0.0);
                    }
                    let row = b.mul(j, pitch);
                    for_lanes(cx, b, &rows_dim, &mut |cx, b, p| {
                        let x = load_row(b, cx.lanes, dt_x, row, p);
                        let decay = cx.widen(b, decay);
                        let x = b.mul(decay, x);
                        store_row(b, dt_x, row, p, x);
                        Ok(())
                    })
                });
            });
            inner?;
            let mut keep = b.exp(gap);
            if let (Some(a), Some(c)) = (seq_last, seq_of(cx, b, before_chunk)?) {
                let same = b.eq(a, c);
                keep = b.select(same, keep, 0.0);
            }
            let mut inner = Ok(());
            b.for_("n", 0, n, 1, |b, n| {
                inner = cx.scope(|cx| {
                    let row = b.mul(n, pitch);
                    for_lanes(cx, b, &rows_dim, &mut |cx, b, p| {
                        let old = load_row(b, cx.lanes, state, row, p);
                        let keep = cx.widen(b, keep);
                        let new = b.mul(keep, old);
                        let new = b.var_init(new);
                        let mut result = Ok(());
                        b.for_("j", 0, count, 1, |b, j| {
                            result = cx.scope(|cx| {
                                let s = step(b, j);
                                let pick = [head.batch, Idx::Uniform(s), head.group, Idx::Uniform(n)];
                                let b_s = o.wide(cx, b, o.b, &pick)?;
                                let from = b.mul(j, pitch);
                                let x = load_row(b, cx.lanes, dt_x, from, p);
                                let next = b.fma(b_s, x, new);
                                b.assign(new, next);
                                Ok(())
                            });
                        });
                        result?;
                        store_row(b, state, row, p, new);
                        Ok(())
                    })
                });
            });
            inner
        });
    });
    result?;
    if sink.wants(o.h_last) {
        let mut result = Ok(());
        b.for_("n", 0, n, 1, |b, n| {
            result = cx.scope(|cx| {
                let row = b.mul(n, pitch);
                for_lanes(cx, b, &rows_dim, &mut |cx, b, p| {
                    let h = load_row(b, cx.lanes, state, row, p);
                    let h = b.cast(h, elem);
                    sink.put_extra(cx, b, o.h_last, &head.state(p, Idx::Uniform(n)), h)
                })
            });
        });
        result?;
    }
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: steps * Dim::from(4 * n + q + 6) })
}

/// c[t] . b[s], one lane.
fn dot(
    cx: &mut Cx<'_>,
    b: &mut KernelBuilder,
    o: &Operands,
    (t, s): (Reg, Reg),
    (head, n): (&Head, &Dim),
) -> Result<Reg, LowerError> {
    let zero = b.zero(o.acc.x(cx.lanes));
    let sum = b.var_init(zero);
    for_lanes(cx, b, n, &mut |cx, b, n| {
        let x = o.wide(cx, b, o.c, &[head.batch, Idx::Uniform(t), head.group, n])?;
        let y = o.wide(cx, b, o.b, &[head.batch, Idx::Uniform(s), head.group, n])?;
        let next = b.fma(x, y, sum);
        // What all states share is the same in lanes that do not exist.
        let next = match cx.mask {
            Some(mask) => b.select(mask, next, sum),
            None => next,
        };
        b.assign(sum, next);
        Ok(())
    })?;
    Ok(if cx.lanes == 1 { b.cast(sum, o.acc) } else { b.reduce(ReduceOp::Add, sum) })
}

/// Position of rows `p` in an array whose row starts at `row`.
fn place(b: &mut KernelBuilder, row: Reg, p: Idx) -> Reg {
    match p {
        Idx::Uniform(r) | Idx::Lanes { base: r, .. } | Idx::Vector(r) => b.add(row, r),
    }
}

/// Local rows are padded to whole vectors, so no mask is needed.
fn load_row(b: &mut KernelBuilder, lanes: u16, mem: LocalId, row: Reg, p: Idx) -> Reg {
    let at = place(b, row, p);
    b.load(mem, at, lanes)
}

fn store_row(b: &mut KernelBuilder, mem: LocalId, row: Reg, p: Idx, x: Reg) {
    let at = place(b, row, p);
    b.store(mem, at, x);
}
