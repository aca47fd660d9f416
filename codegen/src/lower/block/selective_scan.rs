//! The selective scan on thread blocks.
//!
//! ```text
//! h[t,n] = exp(dt[t]*a[n]) * h[t-1,n] + dt[t]*b[t,n]*x[t]        dt after bias, softplus and limits
//! y[t]   = (sum over n of c[t,n]*h[t,n] + d*x[t]) * silu(z[t])
//! ```
//!
//! Variants, from many channels to few:
//!
//! 1. [`channels`]: a thread is one channel with its N states in registers and walks along time; the channels of a block
//!    share tiles of b and c in shared memory. No communication between threads, N exponentials per step.
//! 2. [`time`]: a block is one channel; its threads split a tile of time, state by state, with the block scan of affine
//!    maps. Twice the arithmetic of the first and two passes over the items, but as many blocks as channels.
//!
//! `a` is scaled by log2(e) so that a decay is one exp2. Everything between load and store is `f32`.

mod channels;
mod time;

use crate::kernel::{Elem, KernelBuilder, Reg};
use crate::lower::access::Cx;
use crate::lower::index::Idx;
use crate::lower::selective_scan::step_size;
use crate::lower::sink::Sink;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use crate::target::GpuTarget;
use ssmc_ir::ops::{Discretization, ReadOut, SelectiveScan};
use ssmc_ir::{Dim, Graph, Node, ValueId};

/// Batch x channels from which one thread per channel is chosen: a block of [`CHANNEL_THREADS`] for each of the 132
/// multiprocessors of an H100. With fewer channels part of the device would idle while time is walked through alone.
const CHANNELS_MIN: i64 = 132 * CHANNEL_THREADS as i64;

/// Lengths up to which splitting time leaves most threads of a block without a step.
const SHORT_LEN: i64 = TIME_ITEMS * 32;

/// Channels of a block, one per thread: two warps hide latency, and small models still make many blocks.
const CHANNEL_THREADS: u32 = 64;

/// Most states that a thread keeps: the state and its decay take two registers each, of 255.
const CHANNEL_STATES_MAX: i64 = 64;

/// Most steps of one tile of b and c.
const CHANNEL_STEPS_MAX: i64 = 32;

/// Threads that share one channel.
const TIME_THREADS: u32 = 128;

/// Consecutive steps of one thread; upstream's `selective_scan_fwd` uses 4 to 16.
const TIME_ITEMS: i64 = 4;

/// How a selective scan is spread over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// One channel per thread; tiles of `steps` steps.
    Channels { threads: u32, steps: i64 },
    /// One channel per block; each thread has `items` consecutive steps of a tile.
    Time { threads: u32, items: i64 },
}

impl Schedule {
    /// The schedule for batch x channels of a node: many go to threads, few to blocks. An unknown batch counts as 1,
    /// unknown channels as many.
    ///
    /// # Errors
    /// The number of states is not a constant.
    pub(super) fn choose(graph: &Graph, node: &Node, target: &GpuTarget) -> Result<Schedule, LowerError> {
        let (x, b) = match (node.operands[0], node.operands[3]) {
            (Some(x), Some(b)) => (graph.ty(x), graph.ty(b)),
            _ => return Err(LowerError::MissingOperand { op: node.op.name() }),
        };
        let Some(n) = b.shape[3].as_const() else {
            let reason = format!("states must be a constant, found {}", b.shape[3]);
            return Err(LowerError::Unsupported { op: node.op.name(), reason });
        };
        // The block scan keeps two carries per state beside the totals of its warps.
        let most = target.static_shared_bytes as i64 / 16;
        if !(1..=most).contains(&n) {
            let reason = format!("{n} states, expected 1 to {most}");
            return Err(LowerError::Unsupported { op: node.op.name(), reason });
        }
        let batch = x.shape[0].as_const().unwrap_or(1);
        let channels = (x.shape[2].clone() * &x.shape[3]).as_const().unwrap_or(CHANNELS_MIN);
        let is_short = x.shape[1].as_const().is_some_and(|len| len <= SHORT_LEN);
        let elem = elem_of(b.dtype)?;
        Ok(Schedule::of(batch.saturating_mul(channels), is_short, n, elem, target))
    }

    /// The schedule for this many channels of the whole batch with `n` states each, b and c being of type `elem`.
    pub(super) fn of(channels: i64, is_short: bool, n: i64, elem: Elem, target: &GpuTarget) -> Schedule {
        let is_wide = channels >= CHANNELS_MIN || is_short;
        if !is_wide || n > CHANNEL_STATES_MAX {
            return Schedule::Time { threads: TIME_THREADS, items: TIME_ITEMS };
        }
        // Two buffers of b and two of c in half of what a block gets without opting in.
        let row = 4 * n.max(1) * elem.size() as i64;
        let fitting = (target.static_shared_bytes as i64 / 2 / row).max(1);
        Schedule::Channels { threads: CHANNEL_THREADS, steps: CHANNEL_STEPS_MAX.min(fitting) }
    }

    pub(super) fn threads(self) -> u32 {
        match self {
            Schedule::Channels { threads, .. } | Schedule::Time { threads, .. } => threads,
        }
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

/// The values of one channel that do not change along time.
struct Channel {
    bias: Option<Reg>,
    skip: Option<Reg>,
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
    let x = l.operand(0)?;
    let m = Mixer {
        op,
        x,
        dt: l.operand(1)?,
        a: l.operand(2)?,
        b: l.operand(3)?,
        c: l.operand(4)?,
        d: l.optional(5),
        z: l.optional(6),
        dt_bias: l.optional(7),
        h0: l.optional(8),
        seq_idx: l.optional(9),
        h_last: l.node.results[1],
        shape: l.shape(x),
        n: l.constant("states", &l.shape(l.operand(2)?)[2])?,
        elem: elem_of(l.graph.ty(x).dtype)?,
    };
    let grid = match schedule {
        Schedule::Channels { threads, steps } => channels::lower(l, &m, threads, steps)?,
        Schedule::Time { threads, items } => time::lower(l, &m, threads, items)?,
    };
    let steps = m.shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid, flops: steps * Dim::from(7 * m.n + 20) })
}

/// An element as `f32`.
fn f32_at(cx: &mut Cx<'_>, b: &mut KernelBuilder, value: ValueId, idx: &[Idx]) -> Result<Reg, LowerError> {
    let x = cx.get(b, value, idx)?;
    Ok(b.cast(x, Elem::F32))
}

impl<'a> Mixer<'a> {
    /// Step size, after all that is done to it, and input of one step.
    fn inputs(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        channel: &Channel,
        at: &[Idx],
    ) -> Result<(Reg, Reg), LowerError> {
        let dt = f32_at(cx, b, self.dt, at)?;
        let limits = (self.op.dt_min, self.op.dt_max);
        let dt = step_size(b, dt, channel.bias, self.op.dt_softplus, limits);
        Ok((dt, f32_at(cx, b, self.x, at)?))
    }

    /// Adds the skip, gates and stores the read-out `sum` of one step.
    fn output(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        channel: &Channel,
        at: &[Idx],
        (sum, x): (Reg, Reg),
    ) -> Result<(), LowerError> {
        let mut y = match channel.skip {
            Some(skip) => b.fma(skip, x, sum),
            None => b.cast(sum, Elem::F32),
        };
        if let Some(z) = self.z {
            let z = f32_at(cx, b, z, at)?;
            let gate = b.silu(z);
            y = b.mul(y, gate);
        }
        let y = b.cast(y, self.elem);
        sink.put(cx, b, at, y)
    }
}
