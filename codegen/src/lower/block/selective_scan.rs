//! The selective scan on thread blocks.
//!
//! ```text
//! h[t,n] = exp(dt[t]*a[n]) * h[t-1,n] + dt[t]*b[t,n]*x[t]        dt after bias, softplus and limits
//! y[t]   = (sum over n of c[t,n]*h[t,n] + d*x[t]) * silu(z[t])
//! ```
//!
//! A channel has 1 to 32 neighboring threads ("lanes") with an equal share of its states each. More lanes give more
//! threads where batch x channels is small; fewer share more. [`tile`] says how the work is laid out, [`walk`] in which
//! order.
//!
//! `a` is scaled by log2(e) so that a decay is one exp2. A decay then errs by at most 2^-22: 2 units of the last place
//! from the exp2, and |x| 2^-23 2^-|x| from the two roundings of its exponent x. Everything between load and store is
//! `f32`.

mod tile;
mod walk;

use super::share::shares;
use super::{only_if, scalar};
use crate::kernel::{Axis, Elem, KernelBuilder, Reg, WARP_SIZE, WarpShuffleOp};
use crate::lower::access::Cx;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use crate::target::GpuTarget;
use ssmc_ir::ops::{Discretization, ReadOut, SelectiveScan};
use ssmc_ir::{Dim, Graph, Node, ValueId};
use tile::{PAD, Place, RUN, Tile};

/// Most states of a channel that a thread keeps: the state and its decay take two registers each, of 255.
const STATES_MAX: i64 = 16;

/// How a selective scan is spread over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Threads of a channel.
    pub(super) lanes: i64,
    /// States that each of these has of a channel.
    pub(super) states: i64,
    /// Channels of a thread.
    pub(super) columns: i64,
    /// Channels of a block.
    pub(super) channels: i64,
    /// Steps of a tile.
    pub(super) steps: i64,
    /// Steps that a thread scans in one turn: loads and exchanges of some pass during the arithmetic of others.
    pub(super) turn: i64,
    /// How many threads fetch, stage and write for each that scans; if none, these do it themselves.
    pub(super) helpers: i64,
}

/// A schedule without its number of states: lanes, columns, channels, steps, steps of a turn, and helpers.
pub(super) type Shape = [i64; 6];

/// For 132 multiprocessors, from many channels to few: from how many on it is taken, and the schedule. Where there are few
/// blocks their channels are such that no multiprocessor has many more than the others. What they reach on an H100 is in
/// `docs/benchmarks.md`.
const SHAPES: [(i64, Shape); 5] = [
    (16384, [2, 1, 32, 16, 8, 0]),
    (5281, [8, 1, 16, 32, 16, 0]),
    (4225, [4, 1, 40, 32, 32, 1]),
    (3072, [8, 1, 16, 32, 16, 0]),
    (0, [8, 1, 16, 64, 32, 1]),
];

impl Schedule {
    /// The schedule of this shape for `n` states, if it fits.
    pub(super) fn of(shape: Shape, n: i64, target: &GpuTarget) -> Option<Schedule> {
        let [lanes, columns, channels, steps, turn, helpers] = shape;
        let states = n.div_euclid(lanes) + i64::from(n % lanes != 0);
        let s = Schedule { lanes, states, columns, channels, steps, turn, helpers };
        // A block with helpers has a multiprocessor nearly to itself.
        let limit = if helpers > 0 { target.max_shared_bytes } else { target.static_shared_bytes };
        let fits = s.shared_bytes() <= limit as i64
            && steps % s.apart() == 0
            && steps % turn == 0
            && turn % RUN.max(lanes) == 0;
        let whole_warps = helpers == 0 || s.workers() % i64::from(WARP_SIZE) == 0;
        (lanes < 2 * n && fits && whole_warps && states * columns <= STATES_MAX).then_some(s)
    }

    /// The schedules for a node, each with what its grid is to be multiplied by: 1, or 0 where another one runs.
    ///
    /// # Errors
    /// The number of states is not a constant, or too large.
    pub(super) fn alternatives(
        graph: &Graph,
        node: &Node,
        target: &GpuTarget,
    ) -> Result<Vec<(Schedule, Dim)>, LowerError> {
        let (x, b) = match (node.operands[0], node.operands[3]) {
            (Some(x), Some(b)) => (graph.ty(x), graph.ty(b)),
            _ => return Err(LowerError::MissingOperand { op: node.op.name() }),
        };
        let refuse = |reason: String| LowerError::Unsupported { op: node.op.name(), reason };
        let n = b.shape[3].as_const();
        let n = n.ok_or_else(|| refuse(format!("states must be a constant, found {}", b.shape[3])))?;
        let channels = x.shape[0].clone() * &x.shape[2] * &x.shape[3];
        let of_one = (x.shape[2].clone() * &x.shape[3]).as_const();
        let mut below = i64::MAX;
        let mut of = |(from, shape): (i64, Shape)| {
            let is_met = of_one.is_none_or(|n| n < 1 || (from + n - 1).div_euclid(n).max(1) * n < below);
            below = from;
            let schedule = || Schedule::of(shape, n, target).or_else(|| Schedule::fallback(n, target));
            if is_met { Some((from, schedule()?)) } else { None }
        };
        let all = shares(&channels, SHAPES.into_iter().filter_map(&mut of).collect());
        if all.is_empty() { Err(refuse(format!("{n} states"))) } else { Ok(all) }
    }

    /// A schedule for numbers of states that do not fit the shapes.
    pub(super) fn fallback(n: i64, target: &GpuTarget) -> Option<Schedule> {
        [1, 2, 4, 8, 16, 32].into_iter().find_map(|lanes| {
            let turn = RUN.max(lanes);
            Schedule::of([lanes, 1, 32 / lanes.min(4), 16.max(4 * lanes), turn, 0], n, target)
        })
    }

    /// Threads of a block.
    pub(super) fn threads(self) -> u32 {
        (self.workers() * (1 + self.helpers)) as u32
    }

    /// Threads that scan.
    fn workers(self) -> i64 {
        self.channels * self.lanes / self.columns
    }

    /// Threads that stage: the helpers, or those that scan.
    fn stagers(self) -> i64 {
        self.workers() * self.helpers.max(1)
    }

    fn has_helpers(self) -> bool {
        self.helpers > 0
    }

    /// Tiles that are at hand in shared memory.
    fn buffers(self) -> i64 {
        if self.has_helpers() { 2 } else { 1 }
    }

    /// Steps from one to the next that a thread stages of its channel, if it stages several times four.
    fn apart(self) -> i64 {
        RUN * self.stagers() / self.channels
    }

    /// Elements of dt and u.
    fn row_len(self) -> i64 {
        self.channels * (self.steps + PAD)
    }

    /// Elements of y, or with helpers of the parts of it that the lanes have.
    fn sums_len(self) -> i64 {
        self.channels * self.sums_pitch()
    }

    /// Elements from a channel to the next one in y.
    fn sums_pitch(self) -> i64 {
        if self.has_helpers() { self.lanes * (self.steps + PAD) + PAD } else { self.steps + PAD }
    }

    /// Elements of b and c together.
    fn pair_len(self) -> i64 {
        2 * self.lanes * self.states * if self.states == 1 { self.steps + PAD } else { self.steps }
    }

    fn shared_bytes(self) -> i64 {
        4 * self.buffers() * (2 * self.row_len() + self.sums_len() + self.pair_len() + self.steps)
    }
}

/// The operands of the root.
struct Mixer<'a> {
    op: &'a SelectiveScan,
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
    h_last: ValueId,
    /// [B, L, G, E]
    shape: &'a [Dim],
    n: i64,
    elem: Elem,
}

/// The states of a thread, and whose they are.
struct States {
    /// Channels of the block.
    columns: Vec<Reg>,
    /// Which of the threads of the channels this is.
    lane: Reg,
    /// `a * log2(e)`, channel by channel.
    decay: Vec<Reg>,
    h: Vec<Reg>,
    /// Whether there is such a state of a channel; `None` if there is.
    are_states: Vec<Option<Reg>>,
    places: Vec<StatePlace>,
}

/// A state of the tensor.
struct StatePlace {
    channel: Reg,
    n: Reg,
    /// Whether there is such a state; `None` if there is.
    exists: Option<Reg>,
}

/// Whether a scan has one of these schedules; others run the loops of CPUs.
pub(super) fn applies(node: &Node, op: &SelectiveScan) -> bool {
    let has_slots = node.operands.get(10).is_some_and(Option::is_some);
    op.discretization == Discretization::ExpEuler && op.read_out == ReadOut::After && !has_slots
}

pub(super) fn lower<'a>(
    l: &mut Lowering<'a>,
    op: &'a SelectiveScan,
    schedule: Schedule,
) -> Result<Launch, LowerError> {
    // What is widened is loaded as it is: conversions would wait for loads that are to be under way.
    let loaded = |value: ValueId| l.cx.unwidened(value);
    let x = loaded(l.operand(0)?);
    let m = Mixer {
        op,
        x,
        dt: loaded(l.operand(1)?),
        a: l.operand(2)?,
        b: loaded(l.operand(3)?),
        c: loaded(l.operand(4)?),
        d: l.optional(5),
        z: l.optional(6).map(loaded),
        dt_bias: l.optional(7),
        h0: l.optional(8),
        seq_idx: l.optional(9),
        h_last: l.node.results[1],
        shape: l.shape(x),
        n: l.constant("states", &l.shape(l.operand(2)?)[2])?,
        elem: elem_of(l.graph.ty(l.node.results[0]).dtype)?,
    };
    let grid = m.lower(l, schedule)?;
    let steps = m.shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid, flops: steps * Dim::from(7 * m.n + 20) })
}

/// A number below 2^31 that is the same for all threads of a warp, so that the assembler knows it too: in a branch that may
/// part a warp it lets no instruction pass a shuffle.
fn uniform(b: &mut KernelBuilder, x: Reg) -> Reg {
    let x = b.cast(x, Elem::I32);
    let x = b.warp_shuffle(WarpShuffleOp::Idx, x, 0);
    b.cast(x, Elem::I64)
}

/// An element as `f32`.
fn f32_at(cx: &mut Cx<'_>, b: &mut KernelBuilder, value: ValueId, idx: &[Idx]) -> Result<Reg, LowerError> {
    let x = cx.get(b, value, idx)?;
    Ok(b.cast(x, Elem::F32))
}

impl<'a> Mixer<'a> {
    /// All tiles of all channels. Returns the grid.
    fn lower(&self, l: &mut Lowering<'a>, s: Schedule) -> Result<Dim, LowerError> {
        let (b, cx, sink) = l.parts();
        let extent = &self.shape[3];
        let grid = [self.shape[0].clone(), self.shape[2].clone(), extent.ceildiv(&Dim::from(s.channels))];
        let place = row_index(cx, b, &grid);
        let (batch, group, tile) = (place[0], place[1], scalar(place[2])?);
        let own_thread = b.thread_idx(Axis::X);
        let (thread, stager, is_scanning) = match s.has_helpers() {
            true => {
                // Those of the other role compute indices of threads that exist.
                let helper = b.sub(own_thread, s.workers());
                let warp = b.div(own_thread, WARP_SIZE);
                let warp = uniform(b, warp);
                let is_scanning = b.lt(warp, s.workers() / i64::from(WARP_SIZE));
                (b.min(own_thread, s.workers() - 1), b.max(helper, 0), Some(is_scanning))
            }
            false => (own_thread, own_thread, None),
        };
        let first = b.mul(tile, s.channels);
        let channels = cx.dim(b, extent);
        let len = cx.dim(b, &self.shape[1]);
        let are_whole = extent.as_const().is_some_and(|n| n % s.channels == 0);
        // A channel of the tensor and whether it exists; the last one for those that do not.
        let channel = |b: &mut KernelBuilder, column: Reg| {
            let at = b.add(first, column);
            if are_whole {
                return (at, None);
            }
            let (exists, last) = (b.lt(at, channels), b.sub(channels, 1));
            (b.min(at, last), Some(exists))
        };
        // In 32 bits: other divisions by what is no power of two are calls, around which registers spill.
        let short = b.cast(stager, Elem::I32);
        let (column, run) = (b.rem(short, s.channels), b.div(short, s.channels));
        let (column, run) = (b.cast(column, Elem::I64), b.cast(run, Elem::I64));
        let (at, exists) = channel(b, column);
        let first_step = b.mul(run, RUN);
        let place =
            Place { batch, group, column, channel: at, exists, first: first_step, thread: stager, len };
        let t = Tile::new(cx, b, self, s, place)?;

        let own = b.shr(thread, s.lanes.trailing_zeros());
        let lane = b.and(thread, s.lanes - 1);
        let mut states = States {
            columns: Vec::new(),
            lane,
            decay: Vec::new(),
            h: Vec::new(),
            are_states: Vec::new(),
            places: Vec::new(),
        };
        for i in 0..s.columns {
            let column = b.add(own, i * s.channels / s.columns);
            states.columns.push(column);
            let channel = channel(b, column);
            self.add_states(cx, b, s, (batch, group, channel), &mut states)?;
        }

        match is_scanning {
            Some(is_scanning) => t.walk_with_helpers(cx, b, sink, (&states, is_scanning))?,
            None => t.walk(cx, b, sink, &states)?,
        }
        if sink.wants(self.h_last) {
            for (h, place) in states.h.iter().zip(&states.places) {
                let exists = match (place.exists, is_scanning) {
                    (Some(x), Some(y)) => Some(b.and(x, y)),
                    (x, y) => x.or(y),
                };
                let mut put = |cx: &mut Cx<'a>, b: &mut KernelBuilder| {
                    let h = b.cast(*h, self.elem);
                    let at = [batch, group, Idx::Uniform(place.channel), Idx::Uniform(place.n)];
                    sink.put_extra(cx, b, self.h_last, &at, h)
                };
                match exists {
                    Some(exists) => only_if(cx, b, exists, &mut put)?,
                    None => put(cx, b)?,
                }
            }
        }
        Ok(grid.iter().fold(Dim::from(1), |n, d| n * d))
    }

    /// The states that a thread has of one channel, at the start.
    fn add_states(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        s: Schedule,
        (batch, group, (channel, exists)): (Idx, Idx, (Reg, Option<Reg>)),
        states: &mut States,
    ) -> Result<(), LowerError> {
        let first = b.mul(states.lane, s.states);
        for i in 0..s.states {
            let n = b.add(first, i);
            let (n, is_state) = match s.lanes * s.states == self.n {
                true => (n, None),
                false => (b.min(n, self.n - 1), Some(b.lt(n, self.n))),
            };
            let (e, state) = (Idx::Uniform(channel), Idx::Uniform(n));
            let a = f32_at(cx, b, self.a, &[group, e, state])?;
            states.decay.push(b.mul(a, std::f64::consts::LOG2_E));
            let mut h = b.const_f32(0.0);
            if let Some(h0) = self.h0 {
                let start = f32_at(cx, b, h0, &[batch, group, e, state])?;
                h = is_state.map_or(start, |is_state| b.select(is_state, start, h));
            }
            let h = b.var_init(h);
            b.name(h, &format!("h{}", states.h.len()));
            states.h.push(h);
            states.are_states.push(is_state);
            let exists = match (exists, is_state) {
                (Some(x), Some(y)) => Some(b.and(x, y)),
                (x, y) => x.or(y),
            };
            states.places.push(StatePlace { channel, n, exists });
        }
        Ok(())
    }

    /// Adds the skip, a factor and x, to the read-out `sum` of one step and channel, and gates it by `z`.
    fn output(&self, b: &mut KernelBuilder, sum: Reg, skip: Option<(Reg, Reg)>, z: Option<Reg>) -> Reg {
        let mut y = match skip {
            Some((skip, x)) => b.fma(skip, x, sum),
            None => sum,
        };
        if let Some(z) = z {
            let gate = b.silu(z);
            y = b.mul(y, gate);
        }
        b.cast(y, self.elem)
    }
}
