//! The walk of a block through the chunks of its segment.
//!
//! ```text
//! barrier
//! multiplying: C B^T, y = 2^s * (C H^T) + scores X      helpers: fetch the next chunk, weigh X, sum the next steps
//! barrier
//! multiplying: H = 2^s[e] * H + weighted^T B, rounded   helpers: epilogue of y
//! ```
//!
//! Warp groups are done with the state before the helpers are done with y, and take some of its rows through the epilogue.
//!
//! In the first of two launches nothing is read out: those that multiply weigh X first, and there is no epilogue.

use super::state::State;
use super::steps::Steps;
use super::{
    GROUP, HELPERS, Memory, PANEL, PROCESSORS, STEPS, Schedule, Split, TILE, TURNS, WARPS, Work, group, tiles,
};
use crate::kernel::{Axis, Elem, KernelBuilder, ParamId, Reg, TileRole, TileTy, WARP_SIZE};
use crate::lower::access::Cx;
use crate::lower::block::{only_if, scalar};
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use crate::lower::ssd::{Operands, operands};
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::Dim;
use ssmc_ir::ops::Ssd;

pub(in crate::lower::block) fn lower(
    l: &mut Lowering<'_>,
    op: &Ssd,
    s: Schedule,
    (work, split): (Work, &Split),
) -> Result<Launch, LowerError> {
    let o = operands(l)?;
    let shape = l.shape(o.x);
    let width = l.constant("head width", &shape[4])?;
    let states = l.constant("states", &l.shape(o.b)[3])?;
    let elem = elem_of(l.graph.ty(o.x).dtype)?;
    let result = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let (b, cx, sink) = l.parts();
    let segments = match work {
        Work::Ends => split.segments.clone() - &Dim::from(1),
        Work::Whole => split.segments.clone(),
    };
    let blocks = s.blocks(shape);
    let grid = [shape[0].clone(), shape[2].clone(), blocks.clone(), segments.clone()];
    let place = row_index(cx, b, &grid);
    let (unit, segment) = (scalar(place[2])?, scalar(place[3])?);
    let first_unit = b.mul(unit, s.units);
    let len = cx.dim(b, &shape[1]);
    let n_segments = cx.dim(b, &split.segments);
    // Its place among the blocks of one segment.
    let extents = cx.extents(b, &grid[..3]);
    let heads = scalar(cx.index(b).linear(&place[..3], &extents))?;
    let memory = Memory::declare(cx, b, &o, s, (states, elem, work))?;
    let ends = match split.segments.as_const() {
        Some(1) => None,
        _ => {
            // Where there are several segments there are no more than these; what a single one would have is never
            // touched.
            let blocks = shape[0].clone() * &shape[2] * &blocks * &split.segments;
            let blocks = blocks.at_most(&Dim::from(TURNS * PROCESSORS));
            Some(Ends::declare(cx, b, work, (s, states, blocks)))
        }
    };
    let place = Place {
        batch: place[0],
        group: place[1],
        first_unit,
        parts: width / s.rows,
        len,
        segment,
        n_segments,
        heads,
    };
    let walk = Walk { op, o, s, states, elem, result, place, memory, ends, threads: Threads::of(b, s) };
    let chunks = cx.dim(b, &split.chunks);
    walk.run(cx, b, sink, chunks)?;
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    let flops = match work {
        Work::Ends => steps * Dim::from(2 * states) * &segments,
        Work::Whole => steps * Dim::from(5 * states + 6) * &split.segments,
    };
    let flops = flops.floordiv(&split.segments);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// What a block works on.
pub(super) struct Place {
    pub(super) batch: Idx,
    pub(super) group: Idx,
    pub(super) first_unit: Reg,
    /// Units of a head.
    pub(super) parts: i64,
    pub(super) len: Reg,
    pub(super) segment: Reg,
    pub(super) n_segments: Reg,
    /// The number of the block, if all its segments count as one.
    pub(super) heads: Reg,
}

/// Who a thread is.
pub(super) struct Threads {
    pub(super) thread: Reg,
    pub(super) lane: Reg,
    /// Of one that multiplies: its unit and the place of its warp there.
    pub(super) unit: Reg,
    pub(super) warp: Reg,
    /// Of one that helps: its place among all helpers, its unit, and its place among those of the unit.
    pub(super) helper: Reg,
    pub(super) helper_unit: Reg,
    pub(super) unit_helper: Reg,
    is_helper: Reg,
    is_multiplying: Reg,
    /// Whether it is in the one warp of a unit that sums steps.
    is_summing: Reg,
}

impl Threads {
    /// The unit of a thread that multiplies or helps.
    pub(super) fn any_unit(&self, b: &mut KernelBuilder) -> Reg {
        b.select(self.is_helper, self.helper_unit, self.unit)
    }

    fn of(b: &mut KernelBuilder, s: Schedule) -> Threads {
        let thread = b.thread_idx(Axis::X);
        let lane = b.rem(thread, WARP_SIZE);
        let unit = b.div(thread, GROUP);
        let all_warps = b.div(thread, WARP_SIZE);
        let warp = b.rem(all_warps, WARPS);
        let is_helper = b.ge(unit, s.units);
        let is_multiplying = b.lt(unit, s.units);
        let helper = b.rem(thread, HELPERS);
        let (of_unit, warps) = (HELPERS / s.units, WARPS / s.units);
        let (helper_unit, unit_helper) = (b.div(warp, warps), b.rem(helper, of_unit));
        let within = b.rem(warp, warps);
        let is_first = b.eq(within, 0);
        let is_summing = b.and(is_helper, is_first);
        Threads {
            thread,
            lane,
            unit,
            warp,
            helper,
            helper_unit,
            unit_helper,
            is_helper,
            is_multiplying,
            is_summing,
        }
    }
}

/// What the first launch leaves of each unit and segment.
pub(super) struct Ends {
    /// The state that it adds, row by row.
    pub(super) states: ParamId,
    /// [`PANEL`] times how much it lets the state decay.
    pub(super) kept: ParamId,
}

impl Ends {
    fn declare(
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        work: Work,
        (s, states, blocks): (Schedule, i64, Dim),
    ) -> Ends {
        let is_written = work == Work::Ends;
        let mut scratch = |i: usize, n: i64| {
            let size = blocks.clone() * Dim::from(s.units * n);
            cx.scratch_param(b, (i, Elem::F32, &size), is_written)
        };
        Ends { states: scratch(0, s.rows * states), kept: scratch(1, PANEL) }
    }
}

/// A block's work.
pub(super) struct Walk<'o> {
    pub(super) op: &'o Ssd,
    pub(super) o: Operands,
    pub(super) s: Schedule,
    pub(super) states: i64,
    pub(super) elem: Elem,
    /// The element type of y and of the last state.
    pub(super) result: Elem,
    pub(super) place: Place,
    pub(super) memory: Memory,
    pub(super) ends: Option<Ends>,
    pub(super) threads: Threads,
}

/// Where the operands of a chunk begin in shared memory, and its vectors.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// Which of the buffers it has.
    pub(super) slot: Reg,
    /// Of the first unit.
    pub(super) sums: Reg,
    pub(super) kept: Reg,
}

impl Walk<'_> {
    /// Accumulators of a warp.
    pub(super) fn tile(&self) -> TileTy {
        let cols = if self.s.is_grouped { PANEL } else { TILE };
        TileTy { rows: TILE as u16, cols: cols as u16, elem: Elem::F32, role: TileRole::Acc }
    }

    /// Helpers of a unit.
    pub(super) fn helpers(&self) -> i64 {
        HELPERS / self.s.units
    }

    /// The head of a unit of the block, and its first row there.
    pub(super) fn head(&self, b: &mut KernelBuilder, unit: Reg) -> (Idx, Reg) {
        let unit = b.add(self.place.first_unit, unit);
        let head = b.div(unit, self.place.parts);
        let part = b.rem(unit, self.place.parts);
        (Idx::Uniform(head), b.mul(part, self.s.rows))
    }

    fn run<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        chunks: Reg,
    ) -> Result<(), LowerError> {
        let first = b.mul(self.place.segment, chunks);
        let end = b.add(first, chunks);
        let all = b.ceil_div(self.place.len, STEPS);
        let end = b.min(end, all);
        let buffers = self.memory.buffers;
        for ahead in 0..buffers - 1 {
            let j = b.add(first, ahead);
            self.in_helpers(cx, b, |cx, b| self.fetch(cx, b, (j, end)))?;
        }
        self.fill_mask(b);
        let state = State::zero(self, b);
        if self.memory.read_out.is_some() {
            self.begin_state(cx, b, &state)?;
        }
        let steps = self.declare_steps(cx, b)?;
        let skip = self.skip(cx, b)?;
        self.in_summing_warps(cx, b, |cx, b| {
            self.load_steps(cx, b, first, &steps)?;
            self.sum_steps(b, first, &steps);
            let second = b.add(first, 1);
            self.load_steps(cx, b, second, &steps)
        })?;
        if self.memory.read_out.is_some() {
            self.while_multiplying(b, |b| self.round_state(b, &state));
        }
        let mut result = Ok(());
        b.for_("chunk", first, end, 1, |b, j| {
            result = cx.scope(|cx| self.chunk(cx, b, sink, (j, end), (&steps, &state, skip)));
        });
        result?;
        b.async_wait(0);
        if self.memory.read_out.is_none() {
            self.keep_ends(b, &state, &steps);
        } else if sink.wants(self.o.h_last) {
            let next = b.add(self.place.segment, 1);
            let is_last = b.eq(next, self.place.n_segments);
            let mut result = Ok(());
            b.if_(is_last, |b| result = cx.scope(|cx| self.keep_state(cx, b, sink, &state)));
            result?;
        }
        Ok(())
    }

    fn chunk<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (j, end): (Reg, Reg),
        (steps, state, skip): (&Steps, &State, Option<Reg>),
    ) -> Result<(), LowerError> {
        let next = b.add(j, 1);
        let buffers = self.memory.buffers;
        let slot = b.and(j, buffers - 1);
        let half = b.and(j, 1);
        let at = Chunk { slot, sums: b.mul(half, STEPS), kept: b.mul(half, PANEL) };
        let has_next = b.lt(next, end);
        b.async_wait((buffers - 2) as u16);
        b.barrier();
        self.in_helpers(cx, b, |cx, b| {
            let ahead = b.add(j, buffers - 1);
            self.fetch(cx, b, (ahead, end))?;
            if self.memory.read_out.is_some() {
                self.weigh(b, at, (self.threads.helper_unit, self.threads.unit_helper, self.helpers()));
            }
            Ok(())
        })?;
        self.in_summing_warps(cx, b, |cx, b| {
            only_if(cx, b, has_next, |cx, b| {
                self.sum_steps(b, next, steps);
                let after = b.add(j, 2);
                self.load_steps(cx, b, after, steps)
            })
        })?;
        let reads = self.memory.read_out.as_ref();
        self.while_multiplying(b, |b| match reads {
            Some(m) if self.s.is_grouped => group::read_out(self, b, m, at),
            Some(m) => tiles::read_out(self, b, m, at),
            None => {
                let thread = b.rem(self.threads.thread, GROUP);
                self.weigh(b, at, (self.threads.unit, thread, GROUP));
            }
        });
        b.barrier();
        self.while_multiplying(b, |b| {
            match self.s.is_grouped {
                true => group::update(self, b, state, at),
                false => tiles::update(self, b, state, at),
            }
            if reads.is_some() {
                self.round_state(b, state);
            }
        });
        let Some(m) = reads else { return Ok(()) };
        let share = self.helped_share();
        self.in_helpers(cx, b, |cx, b| self.finish(cx, b, sink, (m, j, slot), (&share, skip)))?;
        if !self.s.is_grouped {
            return Ok(());
        }
        only_if(cx, b, self.threads.is_multiplying, |cx, b| {
            let share = self.own_share(b);
            self.finish(cx, b, sink, (m, j, slot), (&share, skip))
        })
    }

    fn in_summing_warps<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        body: impl FnOnce(&mut Cx<'a>, &mut KernelBuilder) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        only_if(cx, b, self.threads.is_summing, body)
    }

    fn in_helpers<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        body: impl FnOnce(&mut Cx<'a>, &mut KernelBuilder) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        only_if(cx, b, self.threads.is_helper, body)
    }

    pub(super) fn while_multiplying(&self, b: &mut KernelBuilder, body: impl FnOnce(&mut KernelBuilder)) {
        b.if_(self.threads.is_multiplying, body);
    }

    pub(super) fn while_summing(&self, b: &mut KernelBuilder, body: impl FnOnce(&mut KernelBuilder)) {
        b.if_(self.threads.is_summing, body);
    }

    /// What is added to exponents: 0 up to the diagonal, minus infinity beyond.
    fn fill_mask(&self, b: &mut KernelBuilder) {
        let Some(m) = &self.memory.read_out else { return };
        b.for_("i", self.threads.thread, 2 * STEPS, self.s.threads().into(), |b, i| {
            let is_kept = b.le(i, STEPS);
            let (zero, beyond) = (b.const_f32(0.0), b.const_f32(f32::NEG_INFINITY));
            let mask = b.select(is_kept, zero, beyond);
            b.store(m.mask, i, mask);
        });
    }
}
