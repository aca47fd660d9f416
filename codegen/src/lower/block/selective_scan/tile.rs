//! One tile of time of some channels, in three phases with a barrier between each two.
//!
//! ```text
//! stage    thread = (channel, four steps): step sizes dt and inputs u = dt*x, b, c  -> shared memory
//! scan     thread = (channels, its share of their states): h in registers; y summed over lanes -> shared memory
//! finish   thread = (channel, four steps): skip, gate, store
//! ```
//!
//! In the first and the last phase neighboring threads have neighboring channels, which are neighbors in memory. What
//! the first phase of the next tile loads is under way while this tile is scanned. With helpers the phases are those of
//! three tiles at a time, by threads of their own, and every array has a buffer for the even tiles and one for the odd;
//! the last phase sums over lanes then.
//!
//! Shared memory gives a multiprocessor 128 bytes per clock, whether lanes read the same or not. A state of a step needs
//! 8 bytes of b and c, shared by the channels of a thread, and 8 bytes of dt and u, shared by the states of a thread; its
//! exponential takes as long as 8 bytes. So a thread has several channels or states where there are enough.

use super::{Mixer, Schedule, States};
use crate::kernel::{Elem, If, KernelBuilder, Reg, RegTy, SharedId, Stmt, Value, WarpShuffleOp};
use crate::lower::access::Cx;
use crate::lower::block::only_if;
use crate::lower::conv1d::new_sequence;
use crate::lower::index::Idx;
use crate::lower::selective_scan::{step_at, step_size};
use crate::lower::sink::Sink;
use crate::lower::{LowerError, elem_of};
use ssmc_ir::ValueId;
use std::ops::Range;

/// Steps of one channel that a thread stages together: one access to shared memory.
pub(super) const RUN: i64 = 4;

/// Elements left free between the rows of an array with a row of steps per channel: eight rows lie in distinct banks.
pub(super) const PAD: i64 = 4;

/// Where a thread works in the phases around the scan.
pub(super) struct Place {
    pub(super) batch: Idx,
    pub(super) group: Idx,
    /// Channel of the block, and of the tensor: the last one for channels that do not exist.
    pub(super) column: Reg,
    pub(super) channel: Reg,
    /// Whether the channel exists; `None` if all do.
    pub(super) exists: Option<Reg>,
    /// First of its steps of a tile.
    pub(super) first: Reg,
    /// Its number among the threads that stage.
    pub(super) thread: Reg,
    pub(super) len: Reg,
}

/// What is under way in registers, as it lies in memory.
pub(super) struct Loads {
    dt: Vec<Reg>,
    x: Vec<Reg>,
    b: Vec<Reg>,
    c: Vec<Reg>,
    z: Vec<Reg>,
}

/// What the last phase of a tile needs of its own steps besides sums: x, as `f32`, and what gates, as it lies in memory.
pub(super) struct Kept {
    pub(super) xs: Vec<Reg>,
    pub(super) zs: Vec<Reg>,
}

impl Kept {
    pub(super) fn assign(&self, b: &mut KernelBuilder, from: &Kept) {
        for (to, from) in self.xs.iter().zip(&from.xs).chain(self.zs.iter().zip(&from.zs)) {
            b.assign(*to, *from);
        }
    }
}

/// The buffer of a tile: where it begins in the arrays of rows, of sums, of pairs and of steps.
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    rows: Reg,
    sums: Reg,
    pairs: Reg,
    steps: Reg,
}

/// A state at four steps, of b or c.
struct Item {
    state: Reg,
    /// Where b lies among the states of a step, or of its row if a thread has one state.
    at: Reg,
    /// Its first step of a tile.
    first: Reg,
    /// Whether there is such an item; `None` if there is.
    exists: Option<Reg>,
}

pub(super) struct Tile<'m, 'a> {
    m: &'m Mixer<'a>,
    s: Schedule,
    place: Place,
    bias: Option<Reg>,
    skip: Option<Reg>,
    dt: SharedId,
    u: SharedId,
    y: SharedId,
    /// b and c: of each thread at each step, or if a thread has one state a row of steps for each state.
    pairs: SharedId,
    begins: Option<SharedId>,
    items: Vec<Item>,
}

/// Emits `body` for both values of `cond`, which it is told.
fn either<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    cond: Reg,
    body: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, bool) -> Result<(), LowerError>,
) -> Result<(), LowerError> {
    let mut side = |b: &mut KernelBuilder, is: bool| {
        b.open_list();
        let result = cx.scope(|cx| body(cx, b, is));
        let list = b.close_list();
        result.map(|()| list)
    };
    let (on_true, on_false) = (side(b, true)?, side(b, false)?);
    b.push_stmt(Stmt::If(If { cond, on_true, on_false }));
    Ok(())
}

/// The sum of some registers, in pairs.
fn pairwise(b: &mut KernelBuilder, mut parts: Vec<Reg>) -> Reg {
    while parts.len() > 1 {
        parts = parts.chunks(2).map(|pair| if let [x, y] = pair { b.add(*x, *y) } else { pair[0] }).collect();
    }
    parts[0]
}

/// Lanes as one register.
fn gathered(b: &mut KernelBuilder, lanes: &[Reg]) -> Reg {
    let mut all = b.zero(Elem::F32.x(lanes.len() as u16));
    for (lane, x) in lanes.iter().enumerate() {
        all = b.insert(all, *x, lane as u16);
    }
    all
}

impl<'m, 'a> Tile<'m, 'a> {
    pub(super) fn new(
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        m: &'m Mixer<'a>,
        s: Schedule,
        place: Place,
    ) -> Result<Self, LowerError> {
        let at = [place.group, Idx::Uniform(place.channel)];
        let mut per_channel =
            |value: Option<ValueId>| value.map(|v| super::f32_at(cx, b, v, &at)).transpose();
        let (bias, skip) = (per_channel(m.dt_bias)?, per_channel(m.d)?);
        let n = s.buffers();
        let [dt, u] = ["dt", "u"].map(|name| b.shared(name, Elem::F32, (n * s.row_len()) as u32));
        let y = b.shared("y", Elem::F32, (n * s.sums_len()) as u32);
        let pairs = b.shared("pairs", Elem::F32, (n * s.pair_len()) as u32);
        let begins = m.seq_idx.map(|_| b.shared("begins", Elem::I32, (n * s.steps) as u32));

        let states = s.lanes * s.states;
        let n_items = states * s.steps / RUN;
        let mut items = Vec::new();
        for first in (0..n_items).step_by(s.stagers() as usize) {
            let at = b.add(place.thread, first);
            let (state, run) = (b.rem(at, states), b.div(at, states));
            let exists = (first + s.stagers() > n_items).then(|| b.lt(at, n_items));
            let run = if exists.is_some() { b.rem(run, s.steps / RUN) } else { run };
            let within = b.rem(state, s.states);
            let twice = b.mul(state, 2);
            let at = if s.states == 1 { state } else { b.sub(twice, within) };
            items.push(Item { state, at, first: b.mul(run, RUN), exists });
        }
        Ok(Self { m, s, place, bias, skip, dt, u, y, pairs, begins, items })
    }

    /// Registers for what is under way.
    pub(super) fn loads(&self, cx: &Cx<'a>, b: &mut KernelBuilder) -> Result<Loads, LowerError> {
        let m = self.m;
        let n_steps = self.own_steps().count();
        let mut vars = |value: ValueId, n: usize| {
            let elem = elem_of(cx.graph.ty(value).dtype)?;
            let zero = b.zero(RegTy::scalar(elem));
            Ok::<_, LowerError>((0..n).map(|_| b.var_init(zero)).collect::<Vec<_>>())
        };
        let n_pairs = self.items.len() * RUN as usize;
        Ok(Loads {
            dt: vars(m.dt, n_steps)?,
            x: vars(m.x, n_steps)?,
            b: vars(m.b, n_pairs)?,
            c: vars(m.c, n_pairs)?,
            z: m.z.map_or(Ok(Vec::new()), |z| vars(z, n_steps))?,
        })
    }

    pub(super) fn len(&self) -> Reg {
        self.place.len
    }

    pub(super) fn n_tiles(&self, b: &mut KernelBuilder) -> Reg {
        b.ceil_div(self.place.len, self.s.steps)
    }

    /// The first step of tile `j`.
    pub(super) fn base(&self, b: &mut KernelBuilder, j: Reg) -> Reg {
        b.mul(j, self.s.steps)
    }

    /// The first step of the tile after the one that begins at step `base`.
    pub(super) fn base_after(&self, b: &mut KernelBuilder, base: Reg) -> Reg {
        b.add(base, self.s.steps)
    }

    /// The buffer of tile `j`.
    pub(super) fn buffer(&self, b: &mut KernelBuilder, j: Reg) -> Buffer {
        let s = self.s;
        let which = b.and(j, s.buffers() - 1);
        let lens = [s.row_len(), s.sums_len(), s.pair_len(), s.steps];
        let [rows, sums, pairs, steps] = lens.map(|len| b.mul(which, len));
        Buffer { rows, sums, pairs, steps }
    }

    /// Registers that keep what the last phase needs while the loads of the next tile are under way.
    pub(super) fn kept(&self, cx: &Cx<'a>, b: &mut KernelBuilder) -> Result<Kept, LowerError> {
        let n = self.own_steps().count();
        let mut vars = |elem: Elem| {
            let zero = b.zero(RegTy::scalar(elem));
            (0..n).map(|_| b.var_init(zero)).collect::<Vec<_>>()
        };
        let gate = self.m.z.map(|z| elem_of(cx.graph.ty(z).dtype)).transpose()?;
        Ok(Kept { xs: vars(Elem::F32), zs: gate.map_or(Vec::new(), vars) })
    }

    /// The steps of this thread around the scan, counted in the tile: the first of them is [`Place::first`].
    pub(super) fn own_steps(&self) -> impl Iterator<Item = i64> + use<> {
        let apart = self.s.apart();
        let passes = self.s.steps / apart;
        (0..passes).flat_map(move |pass| (0..RUN).map(move |k| pass * apart + k))
    }

    fn at(&self, t: Reg) -> [Idx; 4] {
        [self.place.batch, Idx::Uniform(t), self.place.group, Idx::Uniform(self.place.channel)]
    }

    /// Position on the sequence axis of step `i`; of the last one for steps beyond the end, unless there are none.
    fn time(&self, b: &mut KernelBuilder, i: Reg, is_full: bool) -> Reg {
        let last = b.sub(self.place.len, 1);
        let i = if is_full { i } else { b.min(i, last) };
        if self.m.op.reverse { b.sub(last, i) } else { i }
    }

    /// Whether all steps of the tile that begins at step `base` exist.
    fn is_full(&self, b: &mut KernelBuilder, base: Reg) -> Reg {
        let end = b.add(base, self.s.steps);
        b.le(end, self.place.len)
    }

    /// Loads what [`Tile::stage`] needs of the tile that begins at step `base`; with helpers also what gates it.
    pub(super) fn fetch(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        loads: &Loads,
        base: Reg,
    ) -> Result<(), LowerError> {
        let gate = self.m.z.filter(|_| self.s.has_helpers());
        let is_full = self.is_full(b, base);
        either(cx, b, is_full, &mut |cx, b, is_full| {
            let first = b.add(base, self.place.first);
            for (i, step) in self.own_steps().enumerate() {
                let step = b.add(first, step);
                let t = self.time(b, step, is_full);
                let steps = [(self.m.dt, loads.dt[i]), (self.m.x, loads.x[i])];
                for (value, var) in steps.into_iter().chain(gate.map(|z| (z, loads.z[i]))) {
                    let loaded = cx.get(b, value, &self.at(t))?;
                    b.assign(var, loaded);
                }
            }
            for (i, item) in self.items.iter().enumerate() {
                let first = b.add(base, item.first);
                let state = b.min(item.state, self.m.n - 1);
                let state = if self.s.lanes * self.s.states == self.m.n { item.state } else { state };
                for k in 0..RUN {
                    let step = b.add(first, k);
                    let t = self.time(b, step, is_full);
                    let at = [self.place.batch, Idx::Uniform(t), self.place.group, Idx::Uniform(state)];
                    let place = i * RUN as usize + k as usize;
                    for (value, vars) in [(self.m.b, &loads.b), (self.m.c, &loads.c)] {
                        let loaded = cx.get(b, value, &at)?;
                        b.assign(vars[place], loaded);
                    }
                }
            }
            Ok(())
        })
    }

    /// Loads what gates the tile that begins at step `base`, without helpers.
    pub(super) fn fetch_gate(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        loads: &Loads,
        base: Reg,
    ) -> Result<(), LowerError> {
        let Some(z) = self.m.z else { return Ok(()) };
        let is_full = self.is_full(b, base);
        either(cx, b, is_full, &mut |cx, b, is_full| {
            let first = b.add(base, self.place.first);
            for (step, var) in self.own_steps().zip(&loads.z) {
                let step = b.add(first, step);
                let t = self.time(b, step, is_full);
                let loaded = cx.get(b, z, &self.at(t))?;
                b.assign(*var, loaded);
            }
            Ok(())
        })
    }

    /// Shares what was loaded; steps that do not exist leave states as they are. Returns what the last phase needs.
    pub(super) fn stage(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        loads: &Loads,
        (base, buffer): (Reg, Buffer),
    ) -> Result<Kept, LowerError> {
        let limits = (self.m.op.dt_min, self.m.op.dt_max);
        let (mut dts, mut us, mut xs) = (Vec::new(), Vec::new(), Vec::new());
        for (dt, x) in loads.dt.iter().zip(&loads.x) {
            let dt = b.cast(*dt, Elem::F32);
            let dt = step_size(b, dt, self.bias, self.m.op.dt_softplus, limits);
            let x = b.cast(*x, Elem::F32);
            let u = b.mul(dt, x);
            dts.push(b.var_init(dt));
            us.push(b.var_init(u));
            xs.push(x);
        }
        let mut bs = Vec::new();
        for var in &loads.b {
            let x = b.cast(*var, Elem::F32);
            bs.push(b.var_init(x));
        }
        let is_full = self.is_full(b, base);
        let is_partial = b.not(is_full);
        b.if_(is_partial, |b| {
            let only_before_end = |b: &mut KernelBuilder, step: Reg, vars: &[Reg]| {
                let exists = b.lt(step, self.place.len);
                for var in vars {
                    let x = b.select(exists, *var, 0.0);
                    b.assign(*var, x);
                }
            };
            let first = b.add(base, self.place.first);
            for (i, step) in self.own_steps().enumerate() {
                let step = b.add(first, step);
                only_before_end(b, step, &[dts[i], us[i]]);
            }
            for (item, bs) in self.items.iter().zip(bs.chunks(RUN as usize)) {
                for (k, var) in bs.iter().enumerate() {
                    let step = b.add(base, item.first);
                    let step = b.add(step, k);
                    only_before_end(b, step, &[*var]);
                }
            }
        });
        for (shared, values) in [(self.dt, &dts), (self.u, &us)] {
            for (step, run) in self.own_steps().step_by(RUN as usize).zip(values.chunks(RUN as usize)) {
                let at = self.row(b, self.place.column, self.place.first, step);
                let at = b.add(at, buffer.rows);
                let run = gathered(b, run);
                b.store(shared, at, run);
            }
        }
        for (i, item) in self.items.iter().enumerate() {
            let range = i * RUN as usize..(i + 1) * RUN as usize;
            let cs: Vec<Reg> = loads.c[range.clone()].iter().map(|c| b.cast(*c, Elem::F32)).collect();
            self.stage_pair(b, (item, buffer), &bs[range], &cs);
        }
        self.stage_begins(cx, b, (base, buffer))?;
        Ok(Kept { xs, zs: loads.z.clone() })
    }

    /// Shares b and c of a state at four steps; both are 0 for states that do not exist.
    fn stage_pair(&self, b: &mut KernelBuilder, (item, buffer): (&Item, Buffer), bs: &[Reg], cs: &[Reg]) {
        let states = self.s.lanes * self.s.states;
        for (offset, values) in [(0, bs), (self.c_offset(), cs)] {
            let mut values = values.to_vec();
            if states != self.m.n {
                let is_state = b.lt(item.state, self.m.n);
                values = values.iter().map(|x| b.select(is_state, *x, 0.0)).collect();
            }
            if self.s.states == 1 {
                let at = self.row(b, item.at, item.first, 0);
                let at = b.add(at, buffer.pairs);
                let at = b.add(at, offset);
                let run = gathered(b, &values);
                self.store_pair(b, at, run, item.exists);
                continue;
            }
            for (k, x) in values.into_iter().enumerate() {
                let at = self.pair(b, item.first, k as i64, item.at);
                let at = b.add(at, buffer.pairs);
                let at = b.add(at, offset);
                self.store_pair(b, at, x, item.exists);
            }
        }
    }

    /// Masked rather than in a branch, after which the assembler takes warps for parted.
    fn store_pair(&self, b: &mut KernelBuilder, at: Reg, x: Reg, exists: Option<Reg>) {
        match exists {
            Some(exists) => {
                let mask = b.splat(exists, b.lanes(x));
                b.store_masked(self.pairs, at, x, mask);
            }
            None => b.store(self.pairs, at, x),
        }
    }

    /// Shares at which steps a sequence begins.
    fn stage_begins(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (base, buffer): (Reg, Buffer),
    ) -> Result<(), LowerError> {
        let (Some(begins), Some(seq_idx)) = (self.begins, self.m.seq_idx) else { return Ok(()) };
        let mut result = Ok(());
        b.for_("i", self.place.thread, self.s.steps, self.s.stagers(), |b, i| {
            result = cx.scope(|cx| {
                let step = b.add(base, i);
                let last = b.sub(self.place.len, 1);
                let clamped = b.min(step, last);
                let around = step_at(b, clamped, self.place.len, self.m.op.reverse);
                let is_new = new_sequence(cx, b, seq_idx, self.place.batch, around)?;
                let exists = b.lt(step, self.place.len);
                let is_new = b.and(is_new, exists);
                let is_new = b.cast(is_new, Elem::I32);
                let at = b.add(buffer.steps, i);
                b.store(begins, at, is_new);
                Ok(())
            });
        });
        result
    }

    /// Where step `first + step` is in the row of a channel or state.
    fn row(&self, b: &mut KernelBuilder, row: Reg, first: impl Into<Value>, step: i64) -> Reg {
        let row = b.mul(row, self.s.steps + PAD);
        let at = b.add(row, first);
        b.add(at, step)
    }

    /// Where y of a channel of the block is at step `first + step`; with helpers the part that the first lane has.
    fn sums_at(&self, b: &mut KernelBuilder, (column, first, step): (Reg, Reg, i64), buffer: Buffer) -> Reg {
        let row = b.mul(column, self.s.sums_pitch());
        let at = b.add(row, first);
        let at = b.add(at, buffer.sums);
        b.add(at, step)
    }

    /// From b to c of a state.
    fn c_offset(&self) -> i64 {
        if self.s.states == 1 { self.s.pair_len() / 2 } else { self.s.states }
    }

    /// Where what lies at `within` among b and c of a step is at step `first + step`, if a thread has several states.
    fn pair(&self, b: &mut KernelBuilder, first: Reg, step: i64, within: Reg) -> Reg {
        let of_step = 2 * self.s.lanes * self.s.states;
        let row = b.mul(first, of_step);
        let at = b.add(row, within);
        b.add(at, step * of_step)
    }

    /// The recurrence along the steps that exist, and its read-out.
    pub(super) fn scan(&self, b: &mut KernelBuilder, states: &States, (base, buffer): (Reg, Buffer)) {
        let s = self.s;
        let left = b.sub(self.place.len, base);
        let count = b.min(left, s.steps);
        b.for_("s", 0, count, s.turn, |b, first| {
            // Sums are stored behind all loads of the turn: the assembler does not know that they lie apart.
            let together = RUN.max(s.lanes);
            let mut stored = Vec::new();
            for group in (0..s.turn).step_by(together as usize) {
                let sums = self.scan_group(b, states, (first, group), buffer);
                for (column, sums) in states.columns.iter().zip(sums) {
                    if s.has_helpers() {
                        let runs = (group..).step_by(RUN as usize).zip(sums.chunks(RUN as usize));
                        stored.extend(runs.map(|(step, run)| (step, *column, run.to_vec())));
                    } else {
                        stored.push((group, *column, sum_over_lanes(b, sums, states.lane, s.lanes)));
                    }
                }
            }
            for (step, column, own) in stored {
                let pitch = if s.has_helpers() { s.steps + PAD } else { own.len() as i64 };
                let offset = b.mul(states.lane, pitch);
                let at = self.sums_at(b, (column, first, step), buffer);
                let at = b.add(at, offset);
                let own = if own.len() == 1 { own[0] } else { gathered(b, &own) };
                b.store(self.y, at, own);
            }
        });
    }

    /// As many steps from `first + group` on as are summed together. Returns this thread's part of the read-out of every
    /// step, channel by channel.
    fn scan_group(
        &self,
        b: &mut KernelBuilder,
        states: &States,
        (first, group): (Reg, i64),
        buffer: Buffer,
    ) -> Vec<Vec<Reg>> {
        let s = self.s;
        let mut sums = vec![Vec::new(); states.columns.len()];
        let own_pairs = b.mul(states.lane, 2 * s.states);
        for run in (group..group + RUN.max(s.lanes)).step_by(RUN as usize) {
            let mut inputs = Vec::new();
            for column in &states.columns {
                let at = self.row(b, *column, first, run);
                let at = b.add(at, buffer.rows);
                inputs.push((b.load(self.dt, at, RUN as u16), b.load(self.u, at, RUN as u16)));
            }
            let transposed = (s.states == 1).then(|| {
                let at = self.row(b, states.lane, first, run);
                let at = b.add(at, buffer.pairs);
                let bs = b.load(self.pairs, at, RUN as u16);
                let at = b.add(at, self.c_offset());
                (bs, b.load(self.pairs, at, RUN as u16))
            });
            for k in 0..RUN {
                if let Some(begins) = self.begins {
                    let at = b.add(first, run + k);
                    let at = b.add(at, buffer.steps);
                    let is_new = b.load(begins, at, 1);
                    let is_new = b.ne(is_new, 0);
                    b.if_(is_new, |b| states.h.iter().for_each(|h| b.assign(*h, 0.0)));
                }
                let pairs: Vec<(Reg, Reg)> = match transposed {
                    Some((bs, cs)) => vec![(b.extract(bs, k as u16), b.extract(cs, k as u16))],
                    None => {
                        let at = self.pair(b, first, run + k, own_pairs);
                        let at = b.add(at, buffer.pairs);
                        let n = s.states as u16;
                        let both = b.load(self.pairs, at, 2 * n);
                        (0..n).map(|i| (b.extract(both, i), b.extract(both, n + i))).collect()
                    }
                };
                for (i, (dts, us)) in inputs.iter().enumerate() {
                    let (dt, u) = (b.extract(*dts, k as u16), b.extract(*us, k as u16));
                    let own = i * s.states as usize..(i + 1) * s.states as usize;
                    sums[i].push(advance(b, states, own, (dt, u), &pairs));
                }
            }
        }
        sums
    }

    /// Skip, gate and store of the tile that begins at step `base`; `kept` is what [`Tile::stage`] returned.
    pub(super) fn finish(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (base, buffer, kept): (Reg, Buffer, &Kept),
    ) -> Result<(), LowerError> {
        let is_full = self.is_full(b, base);
        let mut both = |cx: &mut Cx<'a>, b: &mut KernelBuilder| {
            either(cx, b, is_full, &mut |cx, b, is_full| {
                let first = b.add(base, self.place.first);
                for (run, step) in self.own_steps().step_by(RUN as usize).enumerate() {
                    let mut some = |cx: &mut Cx<'a>, b: &mut KernelBuilder| {
                        let at = self.sums_at(b, (self.place.column, self.place.first, step), buffer);
                        let parts = if self.s.has_helpers() { self.s.lanes } else { 1 };
                        let parts: Vec<Reg> = (0..parts)
                            .map(|lane| {
                                let at = b.add(at, lane * (self.s.steps + PAD));
                                b.load(self.y, at, RUN as u16)
                            })
                            .collect();
                        let sums = pairwise(b, parts);
                        for k in 0..RUN as usize {
                            let i = run * RUN as usize + k;
                            let step = b.add(first, step + k as i64);
                            let mut put = |cx: &mut Cx<'a>, b: &mut KernelBuilder| {
                                let t = self.time(b, step, true);
                                let skip = self.skip.map(|skip| (skip, kept.xs[i]));
                                let z = kept.zs.get(i).map(|z| b.cast(*z, Elem::F32));
                                let sum = b.extract(sums, k as u16);
                                let y = self.m.output(b, sum, skip, z);
                                sink.put(cx, b, &self.at(t), y)
                            };
                            guarded(cx, b, (!is_full).then_some((step, self.place.len)), &mut put)?;
                        }
                        Ok(())
                    };
                    let step = b.add(first, step);
                    guarded(cx, b, (!is_full).then_some((step, self.place.len)), &mut some)?;
                }
                Ok(())
            })
        };
        match self.place.exists {
            Some(exists) => only_if(cx, b, exists, &mut both),
            None => both(cx, b),
        }
    }
}

pub(super) type Body<'f, 'a> = dyn FnMut(&mut Cx<'a>, &mut KernelBuilder) -> Result<(), LowerError> + 'f;

/// Runs `body` if the first of the numbers is below the second; always without numbers.
fn guarded<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    below: Option<(Reg, Reg)>,
    body: &mut Body<'_, 'a>,
) -> Result<(), LowerError> {
    match below {
        Some((x, limit)) => {
            let cond = b.lt(x, limit);
            only_if(cx, b, cond, body)
        }
        None => body(cx, b),
    }
}

/// One step of the states `own` of a thread, those of one channel; `pairs` are b and c of each. Returns their part of the
/// read-out.
fn advance(
    b: &mut KernelBuilder,
    states: &States,
    own: Range<usize>,
    (dt, u): (Reg, Reg),
    pairs: &[(Reg, Reg)],
) -> Reg {
    let mut sum: Option<Reg> = None;
    for (i, (b_n, c_n)) in own.zip(pairs) {
        let exponent = b.mul(dt, states.decay[i]);
        let a_bar = b.exp2(exponent);
        let input = b.mul(u, *b_n);
        let mut new = b.fma(a_bar, states.h[i], input);
        if let Some(is_state) = states.are_states[i] {
            // An infinite input would make NaN of b = 0.
            new = b.select(is_state, new, 0.0);
        }
        b.assign(states.h[i], new);
        sum = Some(match sum {
            None => b.mul(new, *c_n),
            Some(sum) => b.fma(new, *c_n, sum),
        });
    }
    sum.expect("a thread has a state")
}

/// Sums of each step over the `lanes` neighboring threads of a channel. Lane `i` gets the `i`-th share of the steps: in
/// every round a lane keeps one half of its sums and trades the other for what its partner has of the first.
fn sum_over_lanes(b: &mut KernelBuilder, mut sums: Vec<Reg>, lane: Reg, lanes: i64) -> Vec<Reg> {
    let mut distance = lanes / 2;
    while distance > 0 {
        let bit = b.and(lane, distance);
        let is_upper = b.ne(bit, 0);
        let upper = sums.split_off(sums.len() / 2);
        let trade = |(low, high): (&Reg, &Reg)| {
            let keep = b.select(is_upper, *high, *low);
            let give = b.select(is_upper, *low, *high);
            let got = b.warp_shuffle(WarpShuffleOp::Xor, give, distance);
            b.add(keep, got)
        };
        sums = sums.iter().zip(&upper).map(trade).collect();
        distance /= 2;
    }
    sums
}
