//! The chunked variant: a block per head, matrix products inside a chunk, the state passed on between chunks.
//!
//! With gap(i, j) the sum of dt*a over the steps after j up to i and S the state before the chunk:
//!
//! ```text
//! y[i] = sum over j <= i of exp(gap(i,j)) * (c[i].b[j]) * dt[j]*x[j] + exp(gap(i,-1)) * S c[i], then
//! S = exp(gap(last,-1))*S + sum over j of exp(gap(last,j)) * dt[j]*x[j] b[j]'
//! ```
//!
//! Gaps are summed from i downwards, never taken as differences: beside a huge step the small ones would vanish.
//! In a packed batch the sums over j begin where the sequence of i begins, and what came before is left out.

use super::super::access::Cx;
use super::super::conv1d::new_sequence;
use super::super::elementwise::{for_lanes, lane_sum, row_index};
use super::super::index::Idx;
use super::super::scan::hold_factor;
use super::super::selective_scan::step_at;
use super::super::sink::Sink;
use super::super::{Launch, LowerError, Lowering, elem_of};
use super::{Head, Operands, load_state};
use crate::kernel::{Elem, KernelBuilder, LocalId, Reg, RegTy};
use ssmc_ir::Dim;
use ssmc_ir::ops::{Discretization, Ssd};

/// What is fixed for a block, and its arrays. A row holds one number per row of the head, padded to whole vectors.
struct Block<'o> {
    op: &'o Ssd,
    o: &'o Operands,
    head: Head,
    rows: Dim,
    n: i64,
    elem: Elem,
    len: Reg,
    /// Length of a row in arrays.
    pitch: i64,
    /// `[N]` rows.
    state: LocalId,
    /// dt*x, or what stands for it by the discretization, a row per step.
    dt_x: LocalId,
    /// dt*a per step.
    dt_a: LocalId,
    /// Scores of the present step with the steps before it.
    score: LocalId,
}

/// The present chunk.
struct Chunk {
    /// Its first step.
    start: Reg,
    /// Its number of steps.
    count: Reg,
    /// First step of the present sequence in this chunk, from `start`.
    begin: Reg,
    /// Whether the present sequence began before the chunk; `None` if all do.
    carried: Option<Reg>,
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Ssd, o: &Operands) -> Result<Launch, LowerError> {
    let shape = l.shape(o.x);
    let rows = l.constant("head width", &shape[4])?;
    let n = l.constant("states", &l.shape(o.b)[3])?;
    let elem = elem_of(l.graph.ty(o.x).dtype)?;
    let q = op.chunk_size as i64;
    let (b, cx, sink) = l.parts();
    let grid = [shape[0].clone(), shape[2].clone(), shape[3].clone()];
    let place = row_index(cx, b, &grid);
    let lanes = i64::from(cx.lanes);
    let pitch = (rows + lanes - 1) / lanes * lanes;
    let block = Block {
        op,
        o,
        head: Head { batch: place[0], row: place[0], group: place[1], head: place[2] },
        rows: Dim::from(rows),
        n,
        elem,
        len: cx.dim(b, &shape[1]),
        pitch,
        state: b.local("state", o.acc, (n * pitch) as u32),
        dt_x: b.local("dt_x", o.acc, (q * pitch) as u32),
        dt_a: b.local("dt_a", o.acc, q as u32),
        score: b.local("score", o.acc, q as u32),
    };
    for_lanes(cx, b, &block.rows, &mut |cx, b, p| {
        let offset = first_of(p);
        load_state(cx, b, o, &block.head, (p, n), (block.state, pitch, offset))
    })?;
    let chunks = b.ceil_div(block.len, q);
    let mut result = Ok(());
    b.for_("chunk", 0, chunks, 1, |b, chunk| {
        result = cx.scope(|cx| {
            let start = b.mul(chunk, q);
            let left = b.sub(block.len, start);
            let count = b.min(left, q);
            let zero = b.const_i64(0);
            let packed = o.seq_idx.is_some();
            let yes = packed.then(|| b.eq(zero, zero));
            let begin = if packed { b.var_init(zero) } else { zero };
            let chunk = Chunk { start, count, begin, carried: yes.map(|yes| b.var_init(yes)) };
            block.prepare(cx, b, &chunk)?;
            block.outputs(cx, b, &chunk, sink)?;
            block.pass_on(cx, b, &chunk)
        });
    });
    result?;
    if sink.wants(o.h_last) {
        let mut result = Ok(());
        b.for_("n", 0, n, 1, |b, n| {
            result = cx.scope(|cx| {
                let row = b.mul(n, pitch);
                for_lanes(cx, b, &block.rows, &mut |cx, b, p| {
                    let h = load_row(b, cx.lanes, block.state, row, p);
                    let h = b.cast(h, elem);
                    sink.put_extra(cx, b, o.h_last, &block.head.state(p, Idx::Uniform(n)), h)
                })
            });
        });
        result?;
    }
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: steps * Dim::from(4 * n + q + 6) })
}

impl Block<'_> {
    /// Position on the sequence axis of step `i` of the chunk, and of the step before it.
    fn step(&self, b: &mut KernelBuilder, chunk: &Chunk, i: Reg) -> (Reg, Reg) {
        let i = b.add(chunk.start, i);
        step_at(b, i, self.len, self.op.reverse)
    }

    /// dt*a and dt*x of every step.
    fn prepare(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, chunk: &Chunk) -> Result<(), LowerError> {
        let mut result = Ok(());
        b.for_("i", 0, chunk.count, 1, |b, i| {
            result = cx.scope(|cx| {
                let (t, _) = self.step(b, chunk, i);
                let (dt, a) = self.head.step(cx, b, (self.o, self.op), t)?;
                let dt_a = b.mul(dt, a);
                b.store(self.dt_a, i, dt_a);
                // Both rules decay by exp(dt*a); the type rule of ssd has no others in chunks.
                let dt = match self.op.discretization {
                    Discretization::Zoh => hold_factor(b, dt, a),
                    Discretization::ExpEuler | Discretization::Bilinear => dt,
                };
                let row = b.mul(i, self.pitch);
                for_lanes(cx, b, &self.rows, &mut |cx, b, p| {
                    let x = self.o.wide(cx, b, self.o.x, &[self.head.at(t).as_slice(), &[p]].concat())?;
                    let dt = cx.widen(b, dt);
                    let v = b.mul(dt, x);
                    store_row(b, self.dt_x, row, p, v);
                    Ok(())
                })
            });
        });
        result
    }

    /// Walks from step `i` back to the beginning of its sequence: `visit` gets each step j and exp(gap(i, j)).
    /// Returns exp(gap(i, begin - 1)).
    fn walk_back<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (chunk, i): (&Chunk, Reg),
        visit: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, Reg, Reg) -> Result<(), LowerError>,
    ) -> Result<Reg, LowerError> {
        let zero = b.zero(RegTy::scalar(self.o.acc));
        let gap = b.var_init(zero);
        let span = b.sub(i, chunk.begin);
        let span = b.add(span, 1);
        let mut result = Ok(());
        b.for_("back", 0, span, 1, |b, back| {
            result = cx.scope(|cx| {
                let j = b.sub(i, back);
                let decay = b.exp(gap);
                visit(cx, b, j, decay)?;
                let dt_a = b.load(self.dt_a, j, 1);
                let wider = b.add(gap, dt_a);
                b.assign(gap, wider);
                Ok(())
            });
        });
        result?;
        Ok(b.exp(gap))
    }

    /// y of every step.
    fn outputs<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        chunk: &Chunk,
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let mut result = Ok(());
        b.for_("i", 0, chunk.count, 1, |b, i| {
            result = cx.scope(|cx| {
                let (t, before) = self.step(b, chunk, i);
                if let (Some(seq_idx), Some(carried)) = (self.o.seq_idx, chunk.carried) {
                    let is_new = new_sequence(cx, b, seq_idx, self.head.batch, (t, before))?;
                    b.if_(is_new, |b| {
                        b.assign(chunk.begin, i);
                        let no = b.zero(RegTy::scalar(Elem::Bool));
                        b.assign(carried, no);
                    });
                }
                let carry = self.walk_back(cx, b, (chunk, i), &mut |cx, b, j, decay| {
                    let (s, _) = self.step(b, chunk, j);
                    let cb = self.dot(cx, b, t, s)?;
                    let v = b.mul(cb, decay);
                    b.store(self.score, j, v);
                    Ok(())
                })?;
                for_lanes(cx, b, &self.rows, &mut |cx, b, p| {
                    let y = self.output_rows(cx, b, (chunk, carry), (i, t), p)?;
                    let y = self.head.finish(cx, b, self.o, (t, p), y)?;
                    let y = b.cast(y, self.elem);
                    sink.put(cx, b, &[self.head.at(t).as_slice(), &[p]].concat(), y)
                })
            });
        });
        result
    }

    /// Rows `p` of y at step `i`, which lies at `t`.
    fn output_rows(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        (chunk, carry): (&Chunk, Reg),
        (i, t): (Reg, Reg),
        p: Idx,
    ) -> Result<Reg, LowerError> {
        let zero = b.zero(self.o.acc.x(cx.lanes));
        let (inside, from_state) = (b.var_init(zero), b.var_init(zero));
        let end = b.add(i, 1);
        b.for_("j", chunk.begin, end, 1, |b, j| {
            let v = b.load(self.score, j, 1);
            let v = cx.widen(b, v);
            let row = b.mul(j, self.pitch);
            let x = load_row(b, cx.lanes, self.dt_x, row, p);
            let next = b.fma(v, x, inside);
            b.assign(inside, next);
        });
        let mut result = Ok(());
        if_carried(b, chunk, |b| {
            b.for_("n", 0, self.n, 1, |b, n| {
                result = cx.scope(|cx| {
                    let pick = [self.head.batch, Idx::Uniform(t), self.head.group, Idx::Uniform(n)];
                    let c_t = self.o.wide(cx, b, self.o.c, &pick)?;
                    let row = b.mul(n, self.pitch);
                    let s = load_row(b, cx.lanes, self.state, row, p);
                    let next = b.fma(c_t, s, from_state);
                    b.assign(from_state, next);
                    Ok(())
                });
            });
        });
        result?;
        let carry = cx.widen(b, carry);
        Ok(b.fma(carry, from_state, inside))
    }

    /// The state after the chunk.
    fn pass_on(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, chunk: &Chunk) -> Result<(), LowerError> {
        let last = b.sub(chunk.count, 1);
        let keep = self.walk_back(cx, b, (chunk, last), &mut |cx, b, j, decay| {
            let row = b.mul(j, self.pitch);
            for_lanes(cx, b, &self.rows, &mut |cx, b, p| {
                let x = load_row(b, cx.lanes, self.dt_x, row, p);
                let decay = cx.widen(b, decay);
                let x = b.mul(decay, x);
                store_row(b, self.dt_x, row, p, x);
                Ok(())
            })
        })?;
        let mut result = Ok(());
        b.for_("n", 0, self.n, 1, |b, n| {
            result = cx.scope(|cx| {
                let row = b.mul(n, self.pitch);
                for_lanes(cx, b, &self.rows, &mut |cx, b, p| {
                    let zero = b.zero(self.o.acc.x(cx.lanes));
                    let new = b.var_init(zero);
                    if_carried(b, chunk, |b| {
                        let old = load_row(b, cx.lanes, self.state, row, p);
                        let keep = cx.widen(b, keep);
                        let kept = b.mul(keep, old);
                        b.assign(new, kept);
                    });
                    let mut result = Ok(());
                    b.for_("j", chunk.begin, chunk.count, 1, |b, j| {
                        result = cx.scope(|cx| {
                            let (s, _) = self.step(b, chunk, j);
                            let pick = [self.head.batch, Idx::Uniform(s), self.head.group, Idx::Uniform(n)];
                            let b_s = self.o.wide(cx, b, self.o.b, &pick)?;
                            let from = b.mul(j, self.pitch);
                            let x = load_row(b, cx.lanes, self.dt_x, from, p);
                            let next = b.fma(b_s, x, new);
                            b.assign(new, next);
                            Ok(())
                        });
                    });
                    result?;
                    store_row(b, self.state, row, p, new);
                    Ok(())
                })
            });
        });
        result
    }

    /// `c[t] . b[s]`, one lane.
    fn dot(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, t: Reg, s: Reg) -> Result<Reg, LowerError> {
        let zero = b.zero(self.o.acc.x(cx.lanes));
        let sum = b.var_init(zero);
        for_lanes(cx, b, &Dim::from(self.n), &mut |cx, b, n| {
            let pick = |t: Reg| [self.head.batch, Idx::Uniform(t), self.head.group, n];
            let x = self.o.wide(cx, b, self.o.c, &pick(t))?;
            let y = self.o.wide(cx, b, self.o.b, &pick(s))?;
            let next = b.fma(x, y, sum);
            // What all states share is the same in lanes that do not exist.
            let next = match cx.mask {
                Some(mask) => b.select(mask, next, sum),
                None => next,
            };
            b.assign(sum, next);
            Ok(())
        })?;
        Ok(lane_sum(b, sum))
    }
}

/// `body` where the state belongs to the present sequence.
fn if_carried(b: &mut KernelBuilder, chunk: &Chunk, body: impl FnOnce(&mut KernelBuilder)) {
    match chunk.carried {
        Some(carried) => b.if_(carried, body),
        None => body(b),
    }
}

/// The first of the rows `p`.
fn first_of(p: Idx) -> Reg {
    match p {
        Idx::Uniform(r) | Idx::Lanes { base: r, .. } | Idx::Vector(r) => r,
    }
}

/// Rows of arrays are padded to whole vectors, so no mask is needed.
fn load_row(b: &mut KernelBuilder, lanes: u16, mem: LocalId, row: Reg, p: Idx) -> Reg {
    let at = b.add(row, first_of(p));
    b.load(mem, at, lanes)
}

fn store_row(b: &mut KernelBuilder, mem: LocalId, row: Reg, p: Idx, x: Reg) {
    let at = b.add(row, first_of(p));
    b.store(mem, at, x);
}
