//! The selective scan on CPUs: channels in lanes, one pass along the sequence.
//!
//! Variants: (1) states unrolled in registers up to [`UNROLLED_STATES`]; (2) more states in a local array. The decay
//! is one exp2 per step, channel and state; `a` is scaled by log2(e) once, unless the discretization needs it as it is.
//!
//! Hardly any exponent of a decay is beyond 125, where a power of two needs limits. The greatest step size of [`STEPS`]
//! steps times the greatest `a` of each channel shows whether any is; if none, all are computed without limits. Else each
//! is computed both ways and chosen by its own exponent, so that no result depends on its neighbors.
//!
//! Steps of one channel lie a whole row apart, so every load of the recurrence would miss the first-level cache.
//! Therefore [`STEPS`] steps of all channels of a block are copied into local arrays first, row by row, with nothing between
//! the loads, so that as many of them overlap as the processor can keep in flight, and a page is used for all channels
//! while it is near. Then each vector of channels is scanned, gated and stored; states wait in memory meanwhile.

use super::access::{Cx, Work};
use super::conv1d::{for_channels, new_sequence};
use super::elementwise::row_index;
use super::index::Idx;
use super::scan::discretize;
use super::sink::Sink;
use super::slots::{Part, Rows};
use super::states::{States, UNROLLED_STATES};
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Elem, KernelBuilder, LocalId, ReduceOp, Reg};
use ssmc_ir::ops::{Discretization, F64, ReadOut, SelectiveScan};
use ssmc_ir::{Dim, ValueId};

/// Most channels of a block, of which rows are read together. Grids do not depend on the level.
const CHANNEL_TILE: i64 = 64;

/// Blocks that a sequence has, if there are channels enough: for as many threads.
const BLOCKS: i64 = 24;

/// Least channels of a block: the widest vector.
const LEAST_CHANNELS: i64 = 16;

/// Steps that are loaded together: three arrays of them take 24 KiB, less than a first-level cache.
const STEPS: i64 = 32;

/// Channels of a block.
fn channel_tile(channels: i64) -> i64 {
    let even = channels / BLOCKS;
    let down = if even > 0 { 1 << even.ilog2() } else { 1 };
    i64::clamp(down, LEAST_CHANNELS, CHANNEL_TILE)
}

/// The step size after bias, softplus and limits.
pub(super) fn step_size(
    b: &mut KernelBuilder,
    dt: Reg,
    bias: Option<Reg>,
    softplus: bool,
    (dt_min, dt_max): (F64, F64),
) -> Reg {
    let mut dt = match bias {
        Some(bias) => b.add(dt, bias),
        None => dt,
    };
    if softplus {
        dt = b.softplus(dt);
    }
    let ty = b.ty(dt);
    if dt_min.get() != f64::NEG_INFINITY {
        let low = b.const_like(ty, dt_min.get());
        dt = b.max(low, dt);
    }
    if dt_max.get() != f64::INFINITY {
        let high = b.const_like(ty, dt_max.get());
        dt = b.min(high, dt);
    }
    dt
}

/// Step number `i` of a scan in its direction, and the step before it (the same at the start).
pub(super) fn step_at(b: &mut KernelBuilder, i: Reg, len: Reg, reverse: bool) -> (Reg, Reg) {
    let before = b.sub(i, 1);
    let before = b.max(before, 0);
    if !reverse {
        return (i, before);
    }
    let last = b.sub(len, 1);
    (b.sub(last, i), b.sub(last, before))
}

/// The first channel of a vector.
fn channel_of(e: Idx) -> Reg {
    match e {
        Idx::Uniform(channel) | Idx::Lanes { base: channel, .. } => channel,
        Idx::Vector(_) => unreachable!("the channels of a vector follow each other"),
    }
}

/// What is fixed for a block, and its arrays.
struct Block<'o> {
    op: &'o SelectiveScan,
    x: ValueId,
    dt: ValueId,
    b: ValueId,
    c: ValueId,
    d: Option<ValueId>,
    z: Option<ValueId>,
    dt_bias: Option<ValueId>,
    seq_idx: Option<ValueId>,
    batch: Idx,
    group: Idx,
    elem: Elem,
    /// The type of states and sums.
    acc: Elem,
    /// States.
    n: i64,
    lanes: i64,
    len: Reg,
    /// The first channel.
    first: Reg,
    /// What decays are made of, and states, of all channels: for each vector of channels one vector per state.
    decay: LocalId,
    hs: LocalId,
    /// Step sizes, inputs and gates of some steps: for each vector of channels one vector per step.
    dts: LocalId,
    xs: LocalId,
    zs: Option<LocalId>,
    /// Results of one vector of channels, one vector per step.
    ys: LocalId,
    /// The greatest magnitude of what the decays of each channel are made of, if exponents are looked at.
    peaks: Option<LocalId>,
}

/// What is known of the exponents of decays.
#[derive(Clone, Copy)]
enum Exponents {
    /// Nothing: all are limited.
    Limited,
    /// None needs limits.
    Small,
    /// Some may need limits; the others are computed as those of [`Exponents::Small`].
    Any,
}

/// A vector of channels in one part of the sequence.
struct Channels {
    e: Idx,
    /// Where its vectors of states and of steps begin in the arrays of all channels.
    base: Reg,
    steps: Reg,
    states: States,
    bias: Option<Reg>,
    skip: Option<Reg>,
}

/// The greatest magnitude of an exponent that needs no limits, see [`BinaryOp::Exp2Mul`](crate::kernel::BinaryOp).
const MOST_EXPONENT: f64 = 125.0;

/// The greatest of some magnitudes. As integers they are ordered with NaN above all.
struct Peak(Reg);

impl Peak {
    fn new(b: &mut KernelBuilder, lanes: u16) -> Self {
        let zero = b.zero(Elem::I32.x(lanes));
        Self(b.var_init(zero))
    }

    fn add(&self, b: &mut KernelBuilder, x: Reg) {
        let bits = b.bitcast(x, Elem::I32);
        let magnitude = b.and(bits, 0x7fff_ffff);
        let greater = b.max(magnitude, self.0);
        b.assign(self.0, greater);
    }

    fn get(&self, b: &mut KernelBuilder) -> Reg {
        b.bitcast(self.0, Elem::F32)
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &SelectiveScan) -> Result<Launch, LowerError> {
    let [x, dt, a, bb, c] = [l.operand(0)?, l.operand(1)?, l.operand(2)?, l.operand(3)?, l.operand(4)?];
    let (d, z, dt_bias) = (l.optional(5), l.optional(6), l.optional(7));
    let (h0, seq_idx) = (l.optional(8), l.optional(9));
    let shape = l.shape(x);
    let channels = l.constant("channels", &shape[3])?;
    let n = l.constant("states", &l.shape(a)[2])?;
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let acc = accumulator(elem);
    let h_last = l.node.results[1];
    let rows = Rows { batch: &shape[0], slots: l.optional(10).map(|slots| (slots, &l.shape(h_last)[0])) };
    // Every block has channels of its own, unless sequences share slots.
    l.in_place = h0.filter(|_| rows.slots.is_none()).map(|h0| (h0, h_last));
    let (b, cx, sink) = l.parts();
    cx.narrow(&shape[3]);
    // One channel for each thread where threads go through whole sequences.
    let tile = if matches!(cx.work, Work::Serial { .. }) { 1 } else { channel_tile(channels) };
    let grid = [rows.grid(), shape[2].clone(), Dim::from(channels).ceildiv(&Dim::from(tile))];
    let place = row_index(cx, b, &grid);
    let (group, Idx::Uniform(tile_index)) = (place[1], place[2]) else {
        return Err(LowerError::Unsupported {
            op: "ssm.selective_scan",
            reason: "block indices are scalars".into(),
        });
    };
    let first = b.mul(tile_index, tile);
    let len = cx.dim(b, &shape[1]);
    let lanes = i64::from(cx.lanes);
    let in_block = (tile + lanes - 1) / lanes * lanes;
    let mut array = |name: &str, len: i64| b.local(name, acc, len as u32);
    let (decay, hs) = (array("decay", n * in_block), array("h", n * in_block));
    let (dts, xs) = (array("dt", STEPS * in_block), array("x", STEPS * in_block));
    let zs = z.map(|_| array("z", STEPS * in_block));
    let ys = array("y", STEPS * lanes);
    // Where threads go through sequences by themselves lanes would have to agree.
    let is_looked_at =
        matches!(cx.work, Work::Vectors) && acc == Elem::F32 && op.discretization == Discretization::ExpEuler;
    let peaks = is_looked_at.then(|| array("peak", in_block));
    rows.run(cx, b, place[0], &mut |cx, b, part| {
        let row = part.row();
        let batch = if let Part::Steps { batch, .. } = part { batch } else { row };
        let block = Block {
            op,
            x,
            dt,
            b: bb,
            c,
            d,
            z,
            dt_bias,
            seq_idx,
            batch,
            group,
            elem,
            acc,
            n,
            lanes,
            len,
            first,
            decay,
            hs,
            dts,
            xs,
            zs,
            ys,
            peaks,
        };
        let of_block = (first, tile, channels);
        for_channels(cx, b, of_block, &mut |cx, b, e| {
            let zero = b.zero(acc.x(cx.lanes));
            let base = block.base(b, e);
            let peak = peaks.map(|peaks| (peaks, Peak::new(b, cx.lanes)));
            block.for_states(cx, b, base, &mut |cx, b, state, at| {
                let idx = [row, group, e, Idx::Uniform(state)];
                let a = cx.get_wide_as(b, (a, acc), &idx[1..])?;
                let scaled = match op.discretization {
                    Discretization::ExpEuler => b.mul(a, std::f64::consts::LOG2_E),
                    Discretization::Zoh | Discretization::Bilinear => a,
                };
                b.store(decay, at, scaled);
                if let Some((_, peak)) = &peak {
                    peak.add(b, scaled);
                }
                let init = match h0 {
                    Some(h0) => cx.get_wide_as(b, (h0, acc), &idx)?,
                    None => zero,
                };
                b.store(hs, at, init);
                Ok(())
            })?;
            if let Some((peaks, peak)) = &peak {
                let at = block.peak_at(b, e);
                let peak = peak.get(b);
                b.store(*peaks, at, peak);
            }
            Ok(())
        })?;
        if let Part::Steps { .. } = part {
            block.walk(cx, b, of_block, sink)?;
        }
        if !sink.wants(h_last) {
            return Ok(());
        }
        part.keep(cx, b, &mut |cx, b| {
            for_channels(cx, b, of_block, &mut |cx, b, e| {
                let base = block.base(b, e);
                block.for_states(cx, b, base, &mut |cx, b, state, at| {
                    let h = b.load(hs, at, cx.lanes);
                    let h = b.cast(h, elem);
                    sink.put_extra(cx, b, h_last, &[row, group, e, Idx::Uniform(state)], h)
                })
            })
        })
    })?;
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: steps * Dim::from(7 * n + 20) })
}

impl Block<'_> {
    /// Where the vectors of these channels begin in the arrays of all channels.
    fn base(&self, b: &mut KernelBuilder, e: Idx) -> Reg {
        let channel = channel_of(e);
        let at = b.sub(channel, self.first);
        b.mul(at, self.n)
    }

    /// Runs `body` for each state, given its number and its place in the arrays of all channels.
    fn for_states<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        base: Reg,
        body: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, Reg, Reg) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let mut result = Ok(());
        b.for_("n", 0, self.n, 1, |b, state| {
            let at = b.mul(state, self.lanes);
            let at = b.add(base, at);
            result = cx.scope(|cx| body(cx, b, state, at));
        });
        result
    }

    /// All steps of the channels of the block.
    fn walk<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        of_block: (Reg, i64, i64),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let parts = b.ceil_div(self.len, STEPS);
        let mut result = Ok(());
        b.for_("part", 0, parts, 1, |b, part| {
            let start = b.mul(part, STEPS);
            let left = b.sub(self.len, start);
            let steps = (start, b.min(left, STEPS));
            result = cx.scope(|cx| {
                self.fetch(cx, b, of_block, steps)?;
                for_channels(cx, b, of_block, &mut |cx, b, e| {
                    let channels = self.channels(cx, b, e)?;
                    let is_small = self.load(cx, b, &channels, steps)?;
                    self.scan_if(cx, b, &channels, steps, is_small)?;
                    self.put_back(cx, b, &channels)?;
                    self.store(cx, b, &channels, steps, sink)
                })
            });
        });
        result
    }

    /// The channels with their states.
    fn channels(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, e: Idx) -> Result<Channels, LowerError> {
        let base = self.base(b, e);
        let local = (self.n > UNROLLED_STATES).then_some(self.hs);
        let states = States::new(b, local, self.n, (self.acc, cx.lanes));
        let bias = self.dt_bias.map(|v| cx.get_wide_as(b, (v, self.acc), &[self.group, e])).transpose()?;
        let skip = self.d.map(|v| cx.get_wide_as(b, (v, self.acc), &[self.group, e])).transpose()?;
        let steps = self.steps_base(b, e);
        let channels = Channels { e, base, steps, states, bias, skip };
        if local.is_none() {
            channels.states.for_each(cx, b, self.n, &mut |cx, b, state, h| {
                let at = self.at(b, &channels, state);
                let init = b.load(self.hs, at, cx.lanes);
                channels.states.set(b, h, at, init);
                Ok(())
            })?;
        }
        Ok(channels)
    }

    /// Stores states that are in registers.
    fn put_back(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, ch: &Channels) -> Result<(), LowerError> {
        if self.n > UNROLLED_STATES {
            return Ok(());
        }
        ch.states.for_each(cx, b, self.n, &mut |cx, b, state, h| {
            let at = self.at(b, ch, state);
            let h = ch.states.get(b, h, at, cx.lanes);
            b.store(self.hs, at, h);
            Ok(())
        })
    }

    /// Where a state of a vector of channels lies.
    fn at(&self, b: &mut KernelBuilder, ch: &Channels, state: Reg) -> Reg {
        let at = b.mul(state, self.lanes);
        b.add(ch.base, at)
    }

    /// Runs `body` for the steps `start..start + count`, given the place of the step in arrays, its position on the
    /// sequence axis and that of the step before it.
    fn for_steps<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (start, count): (Reg, Reg),
        body: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, Reg, (Reg, Reg)) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let mut result = Ok(());
        b.for_("i", 0, count, 1, |b, i| {
            result = cx.scope(|cx| {
                let at = b.mul(i, self.lanes);
                let step = b.add(start, i);
                let t = step_at(b, step, self.len, self.op.reverse);
                body(cx, b, at, t)
            });
        });
        result
    }

    /// Copies step sizes as they are, x and z of all channels.
    fn fetch(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        of_block: (Reg, i64, i64),
        steps: (Reg, Reg),
    ) -> Result<(), LowerError> {
        self.for_steps(cx, b, steps, &mut |cx, b, step, (t, _)| {
            for_channels(cx, b, of_block, &mut |cx, b, e| {
                let idx = [self.batch, Idx::Uniform(t), self.group, e];
                let base = self.steps_base(b, e);
                let at = b.add(base, step);
                let from =
                    [(Some(self.dt), Some(self.dts)), (Some(self.x), Some(self.xs)), (self.z, self.zs)];
                for (value, array) in from {
                    if let (Some(value), Some(array)) = (value, array) {
                        let value = cx.get_wide_as(b, (value, self.acc), &idx)?;
                        b.store(array, at, value);
                    }
                }
                Ok(())
            })
        })
    }

    /// Where the steps of these channels begin in the arrays of all channels.
    fn steps_base(&self, b: &mut KernelBuilder, e: Idx) -> Reg {
        let channel = channel_of(e);
        let at = b.sub(channel, self.first);
        b.mul(at, STEPS)
    }

    /// Where the greatest magnitude of these channels lies.
    fn peak_at(&self, b: &mut KernelBuilder, e: Idx) -> Reg {
        let channel = channel_of(e);
        b.sub(channel, self.first)
    }

    /// Step sizes after bias, softplus and limits. Returns whether no exponent needs limits, if that is looked at.
    fn load(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        ch: &Channels,
        steps: (Reg, Reg),
    ) -> Result<Option<Reg>, LowerError> {
        let op = self.op;
        let peak = self.peaks.map(|peaks| (peaks, Peak::new(b, cx.lanes)));
        self.for_steps(cx, b, steps, &mut |cx, b, step, _| {
            let at = b.add(ch.steps, step);
            let dt = b.load(self.dts, at, cx.lanes);
            let dt = step_size(b, dt, ch.bias, op.dt_softplus, (op.dt_min, op.dt_max));
            b.store(self.dts, at, dt);
            if let Some((_, peak)) = &peak {
                peak.add(b, dt);
            }
            Ok(())
        })?;
        Ok(peak.map(|(peaks, peak)| {
            let at = self.peak_at(b, ch.e);
            let factor = b.load(peaks, at, cx.lanes);
            let peak = peak.get(b);
            let exponent = b.mul(peak, factor);
            let is_small = b.le(exponent, MOST_EXPONENT);
            let ones = b.cast(is_small, Elem::I32);
            let all = b.reduce(ReduceOp::Min, ones);
            b.ne(all, 0)
        }))
    }

    /// The recurrence, in one of its two forms if exponents were looked at.
    fn scan_if(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        ch: &Channels,
        steps: (Reg, Reg),
        is_small: Option<Reg>,
    ) -> Result<(), LowerError> {
        let Some(is_small) = is_small else { return self.scan(cx, b, ch, steps, Exponents::Limited) };
        let mut results = [Ok(()), Ok(())];
        let [small, any] = &mut results;
        let cx = std::cell::RefCell::new(cx);
        b.if_else(
            is_small,
            |b| *small = cx.borrow_mut().scope(|cx| self.scan(cx, b, ch, steps, Exponents::Small)),
            |b| *any = cx.borrow_mut().scope(|cx| self.scan(cx, b, ch, steps, Exponents::Any)),
        );
        results.into_iter().collect()
    }

    /// 2^(dt * decay)
    fn power(&self, b: &mut KernelBuilder, dt: Reg, decay: Reg, exponents: Exponents) -> Reg {
        let limited = |b: &mut KernelBuilder| {
            let exponent = b.mul(dt, decay);
            (exponent, b.exp2(exponent))
        };
        match exponents {
            Exponents::Limited => limited(b).1,
            Exponents::Small => b.exp2_mul(dt, decay),
            Exponents::Any => {
                let (exponent, limited) = limited(b);
                let magnitude = b.abs(exponent);
                let is_small = b.le(magnitude, MOST_EXPONENT);
                let small = b.exp2_mul(dt, decay);
                b.select(is_small, small, limited)
            }
        }
    }

    /// The recurrence and its read-out.
    fn scan(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        ch: &Channels,
        steps: (Reg, Reg),
        exponents: Exponents,
    ) -> Result<(), LowerError> {
        let zero = b.zero(self.acc.x(cx.lanes));
        self.for_steps(cx, b, steps, &mut |cx, b, step, (t, before)| {
            if let Some(seq_idx) = self.seq_idx {
                let is_new = new_sequence(cx, b, seq_idx, self.batch, (t, before))?;
                let mut result = Ok(());
                b.if_(is_new, |b| {
                    result = ch.states.for_each(cx, b, self.n, &mut |_, b, state, h| {
                        let at = self.at(b, ch, state);
                        ch.states.set(b, h, at, zero);
                        Ok(())
                    });
                });
                result?;
            }
            let at = b.add(ch.steps, step);
            let dt = b.load(self.dts, at, cx.lanes);
            let x = b.load(self.xs, at, cx.lanes);
            let dt_x = b.mul(dt, x);
            let sum = b.var_init(zero);
            ch.states.for_each(cx, b, self.n, &mut |cx, b, state, h| {
                let pick = [self.batch, Idx::Uniform(t), self.group, Idx::Uniform(state)];
                let b_t = cx.get_wide_as(b, (self.b, self.acc), &pick)?;
                let c_t = cx.get_wide_as(b, (self.c, self.acc), &pick)?;
                let at = self.at(b, ch, state);
                let decay = b.load(self.decay, at, cx.lanes);
                let (a_bar, input) = match self.op.discretization {
                    Discretization::ExpEuler => (self.power(b, dt, decay, exponents), b.mul(dt_x, b_t)),
                    rule @ (Discretization::Zoh | Discretization::Bilinear) => {
                        let (a_bar, factor) = discretize(b, rule, dt, decay);
                        let factor_x = b.mul(factor, x);
                        (a_bar, b.mul(factor_x, b_t))
                    }
                };
                let old = ch.states.get(b, h, at, cx.lanes);
                let new = b.fma(a_bar, old, input);
                let seen = if self.op.read_out == ReadOut::After { new } else { old };
                let y = b.fma(seen, c_t, sum);
                ch.states.set(b, h, at, new);
                b.assign(sum, y);
                Ok(())
            })?;
            b.store(self.ys, step, sum);
            Ok(())
        })
    }

    /// Skip and gate.
    fn store<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        ch: &Channels,
        steps: (Reg, Reg),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        self.for_steps(cx, b, steps, &mut |cx, b, at, (t, _)| {
            let idx = [self.batch, Idx::Uniform(t), self.group, ch.e];
            let mut y = b.load(self.ys, at, cx.lanes);
            if let Some(skip) = ch.skip {
                let from = b.add(ch.steps, at);
                let x = b.load(self.xs, from, cx.lanes);
                y = b.fma(skip, x, y);
            }
            if let Some(zs) = self.zs {
                let from = b.add(ch.steps, at);
                let z = b.load(zs, from, cx.lanes);
                let gate = b.silu(z);
                y = b.mul(y, gate);
            }
            let y = b.cast(y, self.elem);
            sink.put(cx, b, &idx, y)
        })
    }
}
