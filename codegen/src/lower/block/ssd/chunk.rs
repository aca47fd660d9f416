//! The walk of a block through the chunks of its head.
//!
//! ```text
//! barrier
//! four warps: C B^T, y = 2^s * (C H^T) + scores X       the others: fetch the next chunk, weigh X, sum the next steps
//! barrier
//! four warps: H = 2^s[e] * H + weighted^T B, rounded    the others: epilogue of y
//! ```

use super::{BUFFERS, HALF, Head, Memory, PAD, STEPS, Schedule, THREADS, TILE, WARPS, Y_PAD};
use crate::kernel::{
    Axis, BinaryOp, Elem, KernelBuilder, MathOp, Reg, RegTy, TileLayout, TileRole, TileTy, WARP_SIZE,
    WarpShuffleOp,
};
use crate::lower::access::Cx;
use crate::lower::block::staging::Stage;
use crate::lower::block::{only_if, scalar};
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::selective_scan::step_size;
use crate::lower::sink::Sink;
use crate::lower::ssd::{Operands, operands};
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::Ssd;
use ssmc_ir::{Dim, ValueId};
use std::f64::consts::LOG2_E;

const TILE_TY: TileTy = TileTy { rows: TILE as u16, cols: TILE as u16, elem: Elem::F32, role: TileRole::Acc };

/// Elements that a thread takes through the epilogue together, and when it weighs X.
const LANES: u16 = 4;
const WEIGHED: u16 = 8;

/// Columns of the state that pass through the array of y together.
const PIECE: i64 = 64;

pub(in crate::lower::block) fn lower(
    l: &mut Lowering<'_>,
    op: &Ssd,
    s: Schedule,
) -> Result<Launch, LowerError> {
    let o = operands(l)?;
    let shape = l.shape(o.x);
    let width = l.constant("head width", &shape[4])?;
    let states = l.constant("states", &l.shape(o.b)[3])?;
    let elem = elem_of(l.graph.ty(o.x).dtype)?;
    let (b, cx, sink) = l.parts();
    let grid = [shape[0].clone(), shape[2].clone(), shape[3].clone(), Dim::from(width / s.rows)];
    let place = row_index(cx, b, &grid);
    let part = scalar(place[3])?;
    let first = b.mul(part, s.rows);
    let len = cx.dim(b, &shape[1]);
    let head = Head { batch: place[0], group: place[1], head: place[2], first, len };
    let memory = Memory::declare(cx, b, &o, s, (states, elem))?;
    let thread = b.thread_idx(Axis::X);
    let (warp, lane) = (b.div(thread, WARP_SIZE), b.rem(thread, WARP_SIZE));
    let helper = b.and(thread, i64::from(HALF) - 1);
    let walk = Walk { op, o, s, states, elem, head, memory, thread, helper, warp, lane };
    walk.run(cx, b, sink)?;
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    let flops = steps * Dim::from(5 * states + 6);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// A block's work.
struct Walk<'o> {
    op: &'o Ssd,
    o: Operands,
    s: Schedule,
    states: i64,
    elem: Elem,
    head: Head,
    memory: Memory,
    thread: Reg,
    /// The place of a thread among those that help.
    helper: Reg,
    warp: Reg,
    lane: Reg,
}

/// The part of the state that a warp holds.
struct State {
    /// Its first row.
    row: Reg,
    /// Tiles beside each other, and their first columns.
    tiles: Vec<Reg>,
    cols: Vec<Reg>,
}

/// The steps of the summing warp: a thread has two neighboring ones.
struct Steps {
    /// Their dt, as it lies in memory.
    raw: [Reg; 2],
    /// a * log2(e)
    rate: Reg,
    bias: Option<Reg>,
}

impl Walk<'_> {
    fn run<'a>(&self, cx: &mut Cx<'a>, b: &mut KernelBuilder, sink: &mut Sink<'a>) -> Result<(), LowerError> {
        self.fill_mask(b);
        let (_, beside) = self.s.warps();
        let (down, across) = (b.div(self.warp, beside), b.rem(self.warp, beside));
        let share = self.states / beside;
        let (row, first_col) = (b.mul(down, TILE), b.mul(across, share));
        let cols = (0..share).step_by(TILE as usize).map(|n| b.add(first_col, n)).collect();
        let zero = b.tile_fill(TILE_TY, 0.0);
        let tiles = (0..share / TILE).map(|_| b.var_init(zero)).collect();
        let state = State { row, tiles, cols };
        if let Some(h0) = self.o.h0 {
            self.load_state(cx, b, &state, h0)?;
        }
        let zero = b.const_i64(0);
        let steps = self.declare_steps(cx, b)?;
        let one = b.const_i64(1);
        let sums = |cx: &mut Cx<'a>, b: &mut KernelBuilder| {
            self.load_steps(cx, b, zero, &steps)?;
            self.sum_steps(b, zero, &steps);
            self.load_steps(cx, b, one, &steps)
        };
        self.in_summing_warp(cx, b, sums)?;
        self.in_others(b, |b| self.round_state(b, &state));
        self.in_helpers(cx, b, |cx, b| self.fetch(cx, b, (zero, zero)))?;
        let n_chunks = b.ceil_div(self.head.len, STEPS);
        let mut result = Ok(());
        b.for_("chunk", 0, n_chunks, 1, |b, j| {
            result = cx.scope(|cx| self.chunk(cx, b, sink, (j, &steps), &state));
        });
        result?;
        b.async_wait(0);
        if sink.wants(self.o.h_last) {
            self.keep_state(cx, b, sink, &state)?;
        }
        Ok(())
    }

    /// One of the helpers sums the steps.
    fn in_summing_warp<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        body: impl FnOnce(&mut Cx<'a>, &mut KernelBuilder) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let is_summing = b.eq(self.warp, WARPS);
        only_if(cx, b, is_summing, body)
    }

    fn in_helpers<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        body: impl FnOnce(&mut Cx<'a>, &mut KernelBuilder) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let is_helper = b.ge(self.warp, WARPS);
        only_if(cx, b, is_helper, body)
    }

    fn in_others(&self, b: &mut KernelBuilder, body: impl FnOnce(&mut KernelBuilder)) {
        let is_other = b.lt(self.warp, WARPS);
        b.if_(is_other, body);
    }

    /// What is added to exponents: 0 up to the diagonal, minus infinity beyond.
    fn fill_mask(&self, b: &mut KernelBuilder) {
        b.for_("i", self.thread, 2 * STEPS, THREADS.into(), |b, i| {
            let is_kept = b.le(i, STEPS);
            let (zero, beyond) = (b.const_f32(0.0), b.const_f32(f32::NEG_INFINITY));
            let mask = b.select(is_kept, zero, beyond);
            b.store(self.memory.mask, i, mask);
        });
    }

    /// Fetches a chunk; copies of operands in memory may still be under way then.
    fn fetch<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (j, slot): (Reg, Reg),
    ) -> Result<(), LowerError> {
        let (head, m) = (&self.head, &self.memory);
        let first = b.mul(j, STEPS);
        let mut of = |b: &mut KernelBuilder, stage: &Stage, is_x: bool| {
            let buffer = stage.buffer(b, slot);
            let place = &mut |_: &mut Cx<'a>, b: &mut KernelBuilder, (row, col): (Reg, Reg)| {
                let t = b.add(first, row);
                let exists = b.lt(t, head.len);
                let idx = if is_x {
                    let p = b.add(head.first, col);
                    [head.at(t).as_slice(), &[Idx::Uniform(p)]].concat()
                } else {
                    vec![head.batch, Idx::Uniform(t), head.group, Idx::Uniform(col)]
                };
                (idx, exists)
            };
            stage.fetch(cx, b, (self.helper, buffer), place)
        };
        for (stage, is_x) in [(&m.c, false), (&m.b, false), (&m.x, true)] {
            let fetched = of(b, stage, is_x)?;
            stage.arrive(b, &fetched);
        }
        b.async_commit();
        Ok(())
    }

    fn declare_steps(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder) -> Result<Steps, LowerError> {
        let of_head = [self.head.group, self.head.head];
        let mut scalar = |b: &mut KernelBuilder, value: ValueId| {
            let v = cx.get(b, value, &of_head)?;
            Ok::<_, LowerError>(b.cast(v, Elem::F32))
        };
        let a = scalar(b, self.o.a)?;
        let bias = self.o.dt_bias.map(|bias| scalar(b, bias)).transpose()?;
        let rate = b.mul(a, LOG2_E);
        let zero = b.zero(RegTy::scalar(elem_of(cx.graph.ty(self.o.dt).dtype)?));
        Ok(Steps { raw: [(); 2].map(|()| b.var_init(zero)), rate, bias })
    }

    /// Loads dt of the steps that a thread of the summing warp has in a chunk.
    fn load_steps(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        j: Reg,
        steps: &Steps,
    ) -> Result<(), LowerError> {
        for (raw, t) in steps.raw.into_iter().zip(self.steps(b, j)) {
            let mut result = Ok(());
            let exists = b.lt(t, self.head.len);
            b.if_(exists, |b| {
                let dt = cx.scope(|cx| cx.get(b, self.o.dt, &self.head.at(t)));
                result = dt.map(|dt| b.assign(raw, dt));
            });
            result?;
        }
        Ok(())
    }

    fn steps(&self, b: &mut KernelBuilder, j: Reg) -> [Reg; 2] {
        let first = b.mul(j, STEPS);
        let pair = b.mul(self.lane, 2);
        let t = b.add(first, pair);
        [t, b.add(t, 1)]
    }

    /// The summing warp's sums of a chunk, and what is made of them.
    fn sum_steps(&self, b: &mut KernelBuilder, j: Reg, steps: &Steps) {
        let (m, head) = (&self.memory, &self.head);
        let zero = b.const_f32(0.0);
        let places = self.steps(b, j);
        let [first, second] = [0, 1].map(|i| {
            let raw = b.cast(steps.raw[i], Elem::F32);
            let dt = step_size(b, raw, steps.bias, self.op.dt_softplus, (self.op.dt_min, self.op.dt_max));
            let exists = b.lt(places[i], head.len);
            let dt = b.select(exists, dt, zero);
            (dt, b.mul(dt, steps.rate))
        });
        let mut sum = b.add(first.1, second.1);
        let mut apart = 1;
        while apart < i64::from(WARP_SIZE) {
            let before = b.warp_shuffle(WarpShuffleOp::Up, sum, apart);
            let (has_before, both) = (b.ge(self.lane, apart), b.add(before, sum));
            sum = b.select(has_before, both, sum);
            apart *= 2;
        }
        let before = b.warp_shuffle(WarpShuffleOp::Up, sum, 1);
        let has_before = b.ge(self.lane, 1);
        let before = b.select(has_before, before, zero);
        let total = b.warp_shuffle(WarpShuffleOp::Idx, sum, i64::from(WARP_SIZE) - 1);
        let half = b.and(j, 1);
        let (at, offset) = (b.mul(self.lane, 2), b.mul(half, STEPS));
        let at = b.add(at, offset);
        let to_first = b.add(before, first.1);
        for (i, (sum, dt)) in [(to_first, first.0), (sum, second.0)].into_iter().enumerate() {
            let at = b.add(at, i as i64);
            let grown = b.math(MathOp::Exp2, sum);
            let rest = b.sub(total, sum);
            let rest = b.math(MathOp::Exp2, rest);
            let weight = b.mul(dt, rest);
            for (array, x) in [(m.sums, sum), (m.grown, grown), (m.dt, dt), (m.weights, weight)] {
                b.store(array, at, x);
            }
        }
        let kept = b.math(MathOp::Exp2, total);
        let is_one = b.lt(self.lane, TILE);
        let offset = b.mul(half, TILE);
        let at = b.add(self.lane, offset);
        b.if_(is_one, |b| b.store(m.kept, at, kept));
    }

    fn chunk<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (j, steps): (Reg, &Steps),
        state: &State,
    ) -> Result<(), LowerError> {
        let m = &self.memory;
        let next = b.add(j, 1);
        let [slot, next_slot] = [j, next].map(|j| b.and(j, BUFFERS - 1));
        let half = b.and(j, 1);
        let (sums_at, kept_at) = (b.mul(half, STEPS), b.mul(half, TILE));
        b.async_wait(0);
        b.barrier();
        let [b_at, c_at, x_at] = [&m.b, &m.c, &m.x].map(|stage| stage.buffer(b, slot));
        self.in_helpers(cx, b, |cx, b| {
            self.fetch(cx, b, (next, next_slot))?;
            self.weigh(b, x_at, sums_at);
            Ok(())
        })?;
        self.in_summing_warp(cx, b, |cx, b| {
            self.sum_steps(b, next, steps);
            let after = b.add(j, 2);
            self.load_steps(cx, b, after, steps)
        })?;
        self.in_others(b, |b| {
            let scores = self.scores(b, (b_at, c_at));
            let y = self.read_out(b, &scores, (c_at, x_at), sums_at);
            let pitch = self.s.rows + Y_PAD;
            let row = b.mul(self.warp, TILE * pitch);
            for (i, tile) in (0..).zip(&y) {
                let at = b.add(row, i * TILE);
                b.tile_store(m.y, at, pitch, TileLayout::RowMajor, *tile);
            }
        });
        b.barrier();
        self.in_others(b, |b| {
            self.update(b, state, (b_at, kept_at));
            self.round_state(b, state);
        });
        self.in_helpers(cx, b, |cx, b| self.finish(cx, b, sink, (j, x_at)))
    }

    /// The state as a factor in shared memory.
    fn round_state(&self, b: &mut KernelBuilder, state: &State) {
        let pitch = self.states + PAD;
        for (tile, col) in state.tiles.iter().zip(&state.cols) {
            let at = b.mul(state.row, pitch);
            let at = b.add(at, *col);
            let rounded = b.tile_cast(*tile, self.elem);
            b.tile_store(self.memory.state, at, pitch, TileLayout::RowMajor, rounded);
        }
    }

    fn factor(&self, role: TileRole) -> TileTy {
        TileTy { elem: self.elem, role, ..TILE_TY }
    }

    /// C B^T for the warp's rows: tiles beside each other.
    fn scores(&self, b: &mut KernelBuilder, (b_at, c_at): (Reg, Reg)) -> Vec<Reg> {
        let m = &self.memory;
        let pitch = self.states + PAD;
        let row = b.mul(self.warp, TILE * pitch);
        let c_at = b.add(c_at, row);
        let zero = b.tile_fill(TILE_TY, 0.0);
        let mut sums = vec![zero; (STEPS / TILE) as usize];
        for n in (0..self.states).step_by(TILE as usize) {
            let at = b.add(c_at, n);
            let c = b.tile_load(self.factor(TileRole::A), m.c.shared(), at, pitch, TileLayout::RowMajor);
            for (i, sum) in (0..).zip(&mut sums) {
                let at = b.add(b_at, i * TILE * pitch + n);
                let factor =
                    b.tile_load(self.factor(TileRole::B), m.b.shared(), at, pitch, TileLayout::ColMajor);
                *sum = b.mma(c, factor, *sum);
            }
        }
        sums
    }

    /// The rows of y that the warp has: tiles beside each other.
    fn read_out(
        &self,
        b: &mut KernelBuilder,
        scores: &[Reg],
        (c_at, x_at): (Reg, Reg),
        sums_at: Reg,
    ) -> Vec<Reg> {
        let m = &self.memory;
        let pitch = self.states + PAD;
        let first = b.mul(self.warp, TILE);
        let row = b.mul(self.warp, TILE * pitch);
        let c_at = b.add(c_at, row);
        let zero = b.tile_fill(TILE_TY, 0.0);
        let mut y = vec![zero; (self.s.rows / TILE) as usize];
        for n in (0..self.states).step_by(TILE as usize) {
            let at = b.add(c_at, n);
            let c = b.tile_load(self.factor(TileRole::A), m.c.shared(), at, pitch, TileLayout::RowMajor);
            for (i, y) in (0..).zip(&mut y) {
                let at = b.const_i64(i * TILE * pitch + n);
                let h = b.tile_load(self.factor(TileRole::B), m.state, at, pitch, TileLayout::ColMajor);
                *y = b.mma(c, h, *y);
            }
        }
        // A vector of rows is a tile whose columns do not move on, one of columns a tile whose rows do not.
        let rows_at = b.add(sums_at, first);
        let grown = b.tile_load(TILE_TY, m.grown, rows_at, 0, TileLayout::ColMajor);
        for y in &mut y {
            *y = b.tile_binary(BinaryOp::Mul, *y, grown);
        }
        let to = b.tile_load(TILE_TY, m.sums, rows_at, 0, TileLayout::ColMajor);
        for (u, sum) in (0..).zip(scores) {
            let cols_at = b.add(sums_at, u * TILE);
            let from = b.tile_load(TILE_TY, m.sums, cols_at, 0, TileLayout::RowMajor);
            let dt = b.tile_load(TILE_TY, m.dt, cols_at, 0, TileLayout::RowMajor);
            let mask_at = b.sub(STEPS + u * TILE, first);
            let mask = b.tile_load(TILE_TY, m.mask, mask_at, -1, TileLayout::RowMajor);
            let exponent = b.tile_binary(BinaryOp::Sub, to, from);
            let exponent = b.tile_binary(BinaryOp::Add, exponent, mask);
            let decay = b.tile_exp2(exponent);
            let decay = b.tile_binary(BinaryOp::Mul, decay, dt);
            let score = b.tile_binary(BinaryOp::Mul, *sum, decay);
            let score = b.tile_cast(score, self.elem);
            let pitch = self.s.rows + PAD;
            for (i, y) in (0..).zip(&mut y) {
                let at = b.add(x_at, u * TILE * pitch + i * TILE);
                let x = b.tile_load(self.factor(TileRole::B), m.x.shared(), at, pitch, TileLayout::RowMajor);
                *y = b.mma(score, x, *y);
            }
        }
        y
    }

    /// `X * dt * 2^(s[e] - s)`.
    fn weigh(&self, b: &mut KernelBuilder, x_at: Reg, sums_at: Reg) {
        let m = &self.memory;
        let (per_row, pitch) = (self.s.rows / i64::from(WEIGHED), self.s.rows + PAD);
        b.for_("i", self.helper, STEPS * per_row, HALF.into(), |b, i| {
            let (row, col) = (b.div(i, per_row), b.rem(i, per_row));
            let weight_at = b.add(sums_at, row);
            let weight = b.load(m.weights, weight_at, 1);
            let weight = b.splat(weight, WEIGHED);
            let (row, col) = (b.mul(row, pitch), b.mul(col, i64::from(WEIGHED)));
            let at = b.add(row, col);
            let from = b.add(x_at, at);
            let x = m.x.load(b, from, WEIGHED);
            let x = b.mul(x, weight);
            let x = b.cast(x, self.elem);
            b.store(m.weighted, at, x);
        });
    }

    /// `H = 2^s[e] * H + weighted^T B`
    fn update(&self, b: &mut KernelBuilder, state: &State, (b_at, kept_at): (Reg, Reg)) {
        let m = &self.memory;
        let kept = b.tile_load(TILE_TY, m.kept, kept_at, 0, TileLayout::RowMajor);
        let mut sums: Vec<Reg> =
            state.tiles.iter().map(|tile| b.tile_binary(BinaryOp::Mul, *tile, kept)).collect();
        for u in (0..STEPS).step_by(TILE as usize) {
            let pitch = self.s.rows + PAD;
            let at = b.add(state.row, u * pitch);
            let x = b.tile_load(self.factor(TileRole::A), m.weighted, at, pitch, TileLayout::ColMajor);
            for (sum, col) in sums.iter_mut().zip(&state.cols) {
                let pitch = self.states + PAD;
                let at = b.add(b_at, *col);
                let at = b.add(at, u * pitch);
                let factor =
                    b.tile_load(self.factor(TileRole::B), m.b.shared(), at, pitch, TileLayout::RowMajor);
                *sum = b.mma(x, factor, *sum);
            }
        }
        for (tile, sum) in state.tiles.iter().zip(sums) {
            b.assign(*tile, sum);
        }
    }

    /// Takes y through skip, gate and epilogue to memory.
    fn finish<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (j, x_at): (Reg, Reg),
    ) -> Result<(), LowerError> {
        let (o, head, pitch) = (&self.o, &self.head, self.s.rows + Y_PAD);
        let chunks = self.s.rows / i64::from(LANES);
        let first = b.mul(j, STEPS);
        let mut result = Ok(());
        let before = std::mem::replace(&mut cx.lanes, LANES);
        b.for_("i", self.helper, STEPS * chunks, HALF.into(), |b, i| {
            let (row, col) = (b.div(i, chunks), b.rem(i, chunks));
            let col = b.mul(col, i64::from(LANES));
            let t = b.add(first, row);
            let exists = b.lt(t, head.len);
            let row_of_y = row;
            b.if_(exists, |b| {
                result = cx.scope(|cx| {
                    let at = b.mul(row, pitch);
                    let at = b.add(at, col);
                    let mut y = b.load(self.memory.y, at, LANES);
                    let p = b.add(head.first, col);
                    let p = cx.lanes_from(p);
                    let at = [head.at(t).as_slice(), &[p]].concat();
                    if let Some(d) = o.d {
                        let row = if o.skip_is_scalar { Idx::Uniform(b.const_i64(0)) } else { p };
                        let d = cx.get_wide_as(b, (d, Elem::F32), &[head.group, head.head, row])?;
                        // The buffer of x lasts until the next barrier.
                        let from = b.mul(row_of_y, self.s.rows + PAD);
                        let from = b.add(from, col);
                        let from = b.add(from, x_at);
                        let x = self.memory.x.load(b, from, LANES);
                        y = b.fma(d, x, y);
                    }
                    if let Some(z) = o.z {
                        let z = cx.get_wide_as(b, (z, Elem::F32), &at)?;
                        let gate = b.silu(z);
                        y = b.mul(y, gate);
                    }
                    let y = b.cast(y, self.elem);
                    sink.put(cx, b, &at, y)
                });
            });
        });
        cx.lanes = before;
        result
    }

    /// Runs `body` for every row and every `LANES` columns of the state that the array of y holds; it gets the place
    /// there and the index in the tensor of states.
    fn for_piece<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        first: i64,
        body: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, Reg, [Idx; 5]) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let head = &self.head;
        let n = PIECE.min(self.states - first);
        let chunks = PIECE / i64::from(LANES);
        let mut result = Ok(());
        let before = std::mem::replace(&mut cx.lanes, LANES);
        b.for_("i", self.thread, self.s.rows * chunks, THREADS.into(), |b, i| {
            let (row, col) = (b.div(i, chunks), b.rem(i, chunks));
            let col = b.mul(col, i64::from(LANES));
            let exists = b.lt(col, n);
            b.if_(exists, |b| {
                result = cx.scope(|cx| {
                    let at = b.mul(row, PIECE + Y_PAD);
                    let at = b.add(at, col);
                    let (p, n) = (b.add(head.first, row), b.add(col, first));
                    let n = cx.lanes_from(n);
                    body(cx, b, at, [head.batch, head.group, head.head, Idx::Uniform(p), n])
                });
            });
        });
        cx.lanes = before;
        result
    }

    /// Runs `body` for every tile of the warp's state in a piece: the tile and where it lies in the array of y.
    fn for_tiles(
        &self,
        b: &mut KernelBuilder,
        state: &State,
        first: i64,
        body: &mut dyn FnMut(&mut KernelBuilder, Reg, Reg),
    ) {
        let is_other = b.lt(self.warp, WARPS);
        for (tile, col) in state.tiles.iter().zip(&state.cols) {
            let (from, to) = (b.ge(*col, first), b.lt(*col, first + PIECE));
            let is_here = b.and(from, to);
            let is_here = b.and(is_here, is_other);
            b.if_(is_here, |b| {
                let at = b.mul(state.row, PIECE + Y_PAD);
                let at = b.add(at, *col);
                let at = b.sub(at, first);
                body(b, *tile, at);
            });
        }
    }

    fn load_state(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        state: &State,
        h0: ValueId,
    ) -> Result<(), LowerError> {
        let y = self.memory.y;
        for first in (0..self.states).step_by(PIECE as usize) {
            b.barrier();
            self.for_piece(cx, b, first, &mut |cx, b, at, idx| {
                let h = cx.get_wide_as(b, (h0, Elem::F32), &idx)?;
                b.store(y, at, h);
                Ok(())
            })?;
            b.barrier();
            self.for_tiles(b, state, first, &mut |b, tile, at| {
                let h = b.tile_load(TILE_TY, y, at, PIECE + Y_PAD, TileLayout::RowMajor);
                b.assign(tile, h);
            });
        }
        b.barrier();
        Ok(())
    }

    fn keep_state<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        state: &State,
    ) -> Result<(), LowerError> {
        let y = self.memory.y;
        for first in (0..self.states).step_by(PIECE as usize) {
            b.barrier();
            self.for_tiles(b, state, first, &mut |b, tile, at| {
                b.tile_store(y, at, PIECE + Y_PAD, TileLayout::RowMajor, tile);
            });
            b.barrier();
            self.for_piece(cx, b, first, &mut |cx, b, at, idx| {
                let h = b.load(y, at, LANES);
                let h = b.cast(h, self.elem);
                sink.put_extra(cx, b, self.o.h_last, &idx, h)
            })?;
        }
        Ok(())
    }
}
