//! What the helpers do: fetch chunks, weigh X and take y through the epilogue, with the help of those that multiply.

use super::walk::{Chunk, Walk};
use super::{GROUP, PANEL, ReadOutMemory, STEPS, Y_PAD};
use crate::kernel::{Elem, KernelBuilder, Reg};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::block::only_if;
use crate::lower::block::staging::Stage;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use std::ops::Range;

/// Elements that a thread takes through the epilogue together, and when it weighs X.
const LANES: u16 = 8;

/// Rows of which a thread loads before it stores any; one that multiplies has the state in registers besides.
const TOGETHER: usize = 4;
const TOGETHER_OWN: usize = 2;

/// Rows of y that warp groups take through the epilogue themselves, with a gate and without: what the helpers would still
/// be at when the groups are done.
const OWN_ROWS_GATED: i64 = 32;
const OWN_ROWS: i64 = 16;

/// Who takes which rows of y through the epilogue.
pub(super) struct Share {
    unit: Reg,
    /// The thread, among so many.
    thread: Reg,
    threads: i64,
    rows: Range<i64>,
    together: usize,
}

impl Walk<'_> {
    /// Fetches a chunk if it is before `end`; copies of operands in memory may still be under way then.
    pub(super) fn fetch<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (j, end): (Reg, Reg),
    ) -> Result<(), LowerError> {
        let exists = b.lt(j, end);
        only_if(cx, b, exists, |cx, b| self.fetch_chunk(cx, b, j))?;
        // Copies are counted by chunks, those that do not exist too.
        b.async_commit();
        Ok(())
    }

    fn fetch_chunk<'a>(&self, cx: &mut Cx<'a>, b: &mut KernelBuilder, j: Reg) -> Result<(), LowerError> {
        let (place, m, threads) = (&self.place, &self.memory, &self.threads);
        let slot = b.and(j, m.buffers - 1);
        let first = b.mul(j, STEPS);
        let c = m.read_out.iter().flat_map(|m| (0..).zip(&m.c));
        for (panel, stage) in c.chain((0..).zip(&m.b)) {
            let buffer = stage.buffer(b, slot);
            let fetched = stage.fetch(cx, b, (threads.helper, buffer), &mut |_, b, (row, col)| {
                let t = b.add(first, row);
                let exists = b.lt(t, place.len);
                let col = b.add(col, panel * PANEL);
                (vec![place.batch, Idx::Uniform(t), place.group, Idx::Uniform(col)], exists)
            })?;
            stage.arrive(b, &fetched);
        }
        let buffer = self.x_at(b, threads.helper_unit, slot);
        let (head, first_row) = self.head(b, threads.helper_unit);
        let z = m.read_out.iter().filter_map(|m| m.z.as_ref());
        for stage in std::iter::once(&m.x).chain(z) {
            let fetched = stage.fetch(cx, b, (threads.unit_helper, buffer), &mut |_, b, (row, col)| {
                let t = b.add(first, row);
                let exists = b.lt(t, place.len);
                let p = b.add(first_row, col);
                (vec![place.batch, Idx::Uniform(t), place.group, head, Idx::Uniform(p)], exists)
            })?;
            stage.arrive(b, &fetched);
        }
        Ok(())
    }

    /// Where X of a unit, and the gate, begin in one of the buffers.
    pub(super) fn x_at(&self, b: &mut KernelBuilder, unit: Reg, slot: Reg) -> Reg {
        let x: &Stage = &self.memory.x;
        let at = x.buffer(b, slot);
        let unit = b.mul(unit, self.memory.buffers * STEPS * x.pitch());
        b.add(at, unit)
    }

    /// Where the elements lie that a thread of `n` takes: its first row and its first column. It takes every so many-th row
    /// from there, as the third result says.
    fn share(&self, b: &mut KernelBuilder, (thread, n): (Reg, i64)) -> (Reg, Reg, i64) {
        let per_row = self.s.rows / i64::from(LANES);
        let (row, col) = (b.div(thread, per_row), b.rem(thread, per_row));
        (row, b.mul(col, i64::from(LANES)), n / per_row)
    }

    /// What a thread takes of these rows, that are so far apart: those that are loaded together beside each other.
    fn passes(rows: Range<i64>, apart: i64, together: usize) -> Vec<Vec<i64>> {
        let rows: Vec<i64> = rows.step_by(apart as usize).collect();
        rows.chunks(together).map(<[i64]>::to_vec).collect()
    }

    /// Rows of y that those take through the epilogue that multiply.
    fn own_rows(&self) -> i64 {
        let is_gated = self.memory.read_out.as_ref().is_some_and(|m| m.z.is_some());
        match (self.s.is_grouped, is_gated) {
            (false, _) => 0,
            (true, false) => OWN_ROWS,
            (true, true) => OWN_ROWS_GATED,
        }
    }

    /// The helpers' part of the epilogue.
    pub(super) fn helped_share(&self) -> Share {
        Share {
            unit: self.threads.helper_unit,
            thread: self.threads.unit_helper,
            threads: self.helpers(),
            rows: 0..STEPS - self.own_rows(),
            together: TOGETHER,
        }
    }

    /// The part of warp groups.
    pub(super) fn own_share(&self, b: &mut KernelBuilder) -> Share {
        Share {
            unit: self.threads.unit,
            thread: b.rem(self.threads.thread, GROUP),
            threads: GROUP,
            rows: STEPS - self.own_rows()..STEPS,
            together: TOGETHER_OWN,
        }
    }

    /// `X * dt * 2^(s[e] - s)` of a unit, by so many threads of which this is number `thread`.
    pub(super) fn weigh(&self, b: &mut KernelBuilder, at: Chunk, (unit, thread, threads): (Reg, Reg, i64)) {
        let m = &self.memory;
        let pitch = m.x.pitch();
        let (row, col, apart) = self.share(b, (thread, threads));
        let x_at = self.x_at(b, unit, at.slot);
        let offset = b.mul(unit, 2 * STEPS);
        let weights_at = b.add(at.sums, offset);
        let weights_at = b.add(weights_at, row);
        let weighted_at = b.mul(unit, STEPS * pitch);
        let first = b.mul(row, pitch);
        let first = b.add(first, col);
        for rows in Self::passes(0..STEPS, apart, TOGETHER) {
            let loaded: Vec<(Reg, Reg, Reg)> = rows
                .into_iter()
                .map(|row| {
                    let weight_at = b.add(weights_at, row);
                    let weight = b.load(m.weights, weight_at, 1);
                    let at = b.add(first, row * pitch);
                    let from = b.add(x_at, at);
                    (at, m.x.load(b, from, LANES), weight)
                })
                .collect();
            for (at, x, weight) in loaded {
                let weight = b.splat(weight, LANES);
                let x = b.mul(x, weight);
                let x = b.cast(x, self.elem);
                let to = b.add(weighted_at, at);
                b.store(m.weighted, to, x);
            }
        }
    }

    /// The skip of a thread's unit where that is one number, which is asked for once.
    pub(super) fn skip(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder) -> Result<Option<Reg>, LowerError> {
        let is_one = self.o.skip_is_scalar && self.memory.read_out.is_some();
        let Some(d) = self.o.d.filter(|_| is_one) else { return Ok(None) };
        let unit = self.threads.any_unit(b);
        let (head, _) = self.head(b, unit);
        let row = Idx::Uniform(b.const_i64(0));
        let skip = cx.get(b, d, &[self.place.group, head, row])?;
        Ok(Some(b.cast(skip, Elem::F32)))
    }

    /// Takes rows of y through skip, gate and epilogue to memory.
    pub(super) fn finish<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (m, j, slot): (&ReadOutMemory, Reg, Reg),
        (share, skip): (&Share, Option<Reg>),
    ) -> Result<(), LowerError> {
        let before = std::mem::replace(&mut cx.lanes, LANES);
        let result = cx.scope(|cx| self.finish_rows(cx, b, sink, (m, j, slot), (share, skip)));
        cx.lanes = before;
        result
    }

    fn finish_rows<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (m, j, slot): (&ReadOutMemory, Reg, Reg),
        (share, skip): (&Share, Option<Reg>),
    ) -> Result<(), LowerError> {
        let (o, place, unit) = (&self.o, &self.place, share.unit);
        let (pitch, x_pitch) = (self.s.rows + Y_PAD, self.memory.x.pitch());
        let (row, col, apart) = self.share(b, (share.thread, share.threads));
        let first = b.mul(j, STEPS);
        let first = b.add(first, row);
        let x_at = self.x_at(b, unit, slot);
        let x_row = b.mul(row, x_pitch);
        let x_row = b.add(x_row, col);
        let x_at = b.add(x_at, x_row);
        let y_at = b.mul(unit, STEPS * pitch);
        let y_row = b.mul(row, pitch);
        let y_row = b.add(y_row, col);
        let y_at = b.add(y_at, y_row);
        let (head, first_row) = self.head(b, unit);
        let p = b.add(first_row, col);
        let p = cx.lanes_from(p);
        let skip = match (skip, o.d) {
            (Some(skip), _) => Some(b.splat(skip, LANES)),
            (None, Some(d)) => Some(cx.get_wide_as(b, (d, Elem::F32), &[place.group, head, p])?),
            (None, None) => None,
        };
        for rows in Self::passes(share.rows.clone(), apart, share.together) {
            let loaded: Vec<(i64, Reg)> = rows
                .into_iter()
                .map(|row| {
                    let at = b.add(y_at, row * pitch);
                    let mut y = b.load(m.y, at, LANES);
                    // The buffers of x and its gate last until the next barrier.
                    let from = b.add(x_at, row * x_pitch);
                    if let Some(skip) = skip {
                        let x = self.memory.x.load(b, from, LANES);
                        y = b.fma(skip, x, y);
                    }
                    if let Some(z) = &m.z {
                        let z = z.load(b, from, LANES);
                        let gate = b.silu(z);
                        y = b.mul(y, gate);
                    }
                    (row, y)
                })
                .collect();
            for (row, y) in loaded {
                let t = b.add(first, row);
                let exists = b.lt(t, place.len);
                only_if(cx, b, exists, |cx, b| {
                    let at = [place.batch, Idx::Uniform(t), place.group, head, p];
                    let mut y = y;
                    if let (Some(z), None) = (o.z, &m.z) {
                        let z = cx.get_wide_as(b, (z, Elem::F32), &at)?;
                        let gate = b.silu(z);
                        y = b.mul(y, gate);
                    }
                    let y = b.cast(y, self.result);
                    sink.put(cx, b, &at, y)
                })?;
            }
        }
        Ok(())
    }
}
