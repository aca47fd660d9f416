//! The state space dual scan on thread blocks, in chunks on matrix tiles.
//!
//! ```text
//! unit  = (head, 64 or fewer of its rows)
//! block = (batch, group, neighboring units, segment of time); it walks through its chunks, states stay in accumulators
//!
//! of a chunk, with s[t] the sum of dt*a*log2(e) up to step t of it, e the last step:
//!   scores = (C B^T) * 2^(s[t] - s[u]) * dt[u]          for u <= t, rounded to the operands' type
//!   y      = scores X  +  2^s[t] * (C H^T)              H rounded likewise
//!   H      = 2^s[e] * H + (X * dt[u] * 2^(s[e] - s[u]))^T B
//! ```
//!
//! All sums are `f32`. The mask of the scores is added to their exponents, as 0 or minus infinity, so that nothing beyond
//! the diagonal is raised.
//!
//! Where there are fewer blocks than multiprocessors, time is split into segments and there are two launches: the first
//! finds what every segment but the last adds to the state, the second begins each segment with what those before it
//! leave.

mod group;
mod helpers;
mod state;
mod steps;
mod tiles;
mod walk;

use super::share::reaches;
use super::staging::{self, Buffers, Stage};
use crate::kernel::{Elem, KernelBuilder, SharedId, WARP_SIZE};
use crate::lower::access::{Cx, unwidened};
use crate::lower::ssd::Operands;
use crate::lower::{LowerError, elem_of};
use crate::target::{GpuArch, GpuTarget};
use ssmc_ir::ops::{Discretization, ReadOut, Ssd};
use ssmc_ir::{Dim, Graph, Group, Node, ValueId};

pub(super) use walk::lower;

/// Steps of a chunk.
const STEPS: i64 = 64;

/// Warps that multiply for a unit.
const WARPS: i64 = 4;

/// Threads of these warps.
const GROUP: i64 = WARPS * WARP_SIZE as i64;

/// Threads of a block that fetch, weigh and write for the others.
const HELPERS: i64 = 128;

/// Extent of matrix tiles.
const TILE: i64 = 16;

/// Columns of what the matrix units of a warp group read, and elements of so many in all rows of a chunk or unit.
const PANEL: i64 = 64;
const PANEL_SIZE: i64 = 64 * PANEL;

/// Padding of rows of 16-bit elements: eight rows of a multiple of 16 elements lie in distinct banks.
const PAD: i64 = 8;

/// Padding of rows of the result.
const Y_PAD: i64 = 4;

/// Buffers of the operands: the next chunk is fetched during one, more where less is done with one.
const BUFFERS: i64 = 2;
const BUFFERS_OF_ENDS: i64 = 4;

/// Multiprocessors that blocks are to fill.
const PROCESSORS: i64 = 132;

/// Chunks of a segment at least, and if blocks take several turns: a segment costs the way of its state through memory.
const CHUNKS_MIN: i64 = 2;
const CHUNKS_MANY: i64 = 16;

/// Turns of multiprocessors for long segments.
const TURNS: i64 = 4;

/// Blocks from which on time is not split: the first launch takes a third of the second's time.
const BLOCKS_MANY: i64 = 89;

/// How a scan is spread over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Rows of a unit.
    pub(super) rows: i64,
    /// Units of a block.
    pub(super) units: i64,
    /// Whether warp groups multiply rather than warps.
    pub(super) is_grouped: bool,
}

/// From the fastest on; what they reach on an H100 is in `docs/benchmarks.md`.
const SCHEDULES: [Schedule; 5] = [
    Schedule { rows: 64, units: 2, is_grouped: true },
    Schedule { rows: 64, units: 1, is_grouped: true },
    Schedule { rows: 64, units: 1, is_grouped: false },
    Schedule { rows: 32, units: 1, is_grouped: false },
    Schedule { rows: 16, units: 1, is_grouped: false },
];

/// How time is spread over blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Parts of time, at least one.
    pub(super) segments: Dim,
    /// Chunks of all of these but the last.
    pub(super) chunks: Dim,
}

/// Which of its two launches a kernel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// What the segments but the last add to the state, and by how much they let it decay.
    Ends,
    /// All the rest.
    Whole,
}

impl Split {
    /// All of time in one segment.
    pub(super) fn none(len: &Dim) -> Split {
        let one = Dim::from(1);
        Split { segments: one.clone(), chunks: len.ceildiv(&Dim::from(STEPS)).at_least(&one) }
    }

    /// As many segments as fill the multiprocessors with this many blocks each: once if they are short, several times if
    /// they are long, so that few multiprocessors idle at the end.
    pub(super) fn of(len: &Dim, blocks: &Dim) -> Split {
        let one = Dim::from(1);
        let chunks = len.ceildiv(&Dim::from(STEPS));
        let fill = |turns: i64| Dim::from(turns * PROCESSORS).floordiv(&blocks.at_least(&one));
        let often = fill(TURNS).at_most(&chunks.floordiv(&Dim::from(CHUNKS_MANY)));
        let is_few = one.clone() - &reaches(blocks, BLOCKS_MANY);
        let wanted = fill(1).at_least(&often) * &is_few;
        let most = chunks.floordiv(&Dim::from(CHUNKS_MIN));
        let each = chunks.ceildiv(&wanted.at_most(&most).at_least(&one)).at_least(&one);
        Split { segments: chunks.ceildiv(&each).at_least(&one), chunks: each }
    }
}

impl Schedule {
    /// The schedule for a node; `None` if it is to run the loops of CPUs.
    pub(super) fn choose(graph: &Graph, group: &Group, op: &Ssd, target: &GpuTarget) -> Option<Schedule> {
        let node = graph.node(group.root);
        let (width, states) = extents(graph, group, op)?;
        let heads = graph.ty(node.operands[0]?).shape[3].as_const();
        let loaded = |i: usize| {
            let value = node.operands.get(i).copied().flatten()?;
            Some(graph.ty(unwidened(graph, &|id| group.members.contains(&id), value)).dtype)
        };
        let is_gated = loaded(6).is_some() && loaded(6) == loaded(0);
        SCHEDULES.into_iter().find(|s| s.fits(heads, (width, states, is_gated), target))
    }

    /// How time is split for a node with this schedule.
    pub(super) fn split(self, graph: &Graph, node: &Node) -> Option<Split> {
        let shape = &graph.ty(node.operands[0]?).shape;
        Some(Split::of(&shape[1], &(shape[0].clone() * &shape[2] * &self.blocks(shape))))
    }

    /// Blocks of a group, of one batch and segment.
    fn blocks(self, shape: &[Dim]) -> Dim {
        (shape[3].clone() * &shape[4]).floordiv(&Dim::from(self.rows * self.units))
    }

    pub(super) fn threads(self) -> u32 {
        (self.units * GROUP + HELPERS) as u32
    }

    /// Warps below and beside each other in the state of a unit.
    fn warps(self) -> (i64, i64) {
        (self.rows / TILE, WARPS / (self.rows / TILE))
    }

    /// Rows of the operands that warp groups read are in panels without padding.
    fn pad(self) -> i64 {
        if self.is_grouped { 0 } else { PAD }
    }

    /// Whether there is room for a scan, with a gate of the type of x or without.
    pub(super) fn fits(
        self,
        heads: Option<i64>,
        (width, states, is_gated): (i64, i64, bool),
        target: &GpuTarget,
    ) -> bool {
        let (_, beside) = self.warps();
        let pad = self.pad();
        let rows = if is_gated { 2 } else { 1 };
        let halves = BUFFERS * STEPS * (2 * (states + pad) + rows * self.units * (self.rows + pad))
            + self.units * (STEPS * (self.rows + pad) + self.rows * (states + pad));
        let singles = self.units * (STEPS * (self.rows + Y_PAD) + 8 * STEPS + 2 * PANEL) + 2 * STEPS;
        let is_possible = match self.is_grouped {
            true => target.arch == GpuArch::Sm90a && states % PANEL == 0,
            false => states % (TILE * beside) == 0,
        };
        let has_units = self.units == 1 || heads.is_some_and(|n| n * width % (self.rows * self.units) == 0);
        is_possible
            && has_units
            && width % self.rows == 0
            && 2 * halves + 4 * singles <= target.max_shared_bytes as i64
            // The state in registers.
            && self.rows * states <= 8192
    }
}

/// Rows of a head and states of a scan that has a schedule here.
fn extents(graph: &Graph, group: &Group, op: &Ssd) -> Option<(i64, i64)> {
    let node = graph.node(group.root);
    let operand = |i: usize| node.operands.get(i).copied().flatten();
    let is_plain = op.discretization == Discretization::ExpEuler
        && op.read_out == ReadOut::After
        && !op.reverse
        && operand(9).is_none()
        && operand(10).is_none();
    let is_member = |id| group.members.contains(&id);
    let loaded = |value| graph.ty(unwidened(graph, &is_member, value));
    let [x, b, c] = [operand(0)?, operand(3)?, operand(4)?].map(loaded);
    let is_half = [x, b, c].iter().all(|ty| ty.dtype == x.dtype) && elem_of(x.dtype).ok()?.is_half();
    let is_step = x.shape[1].as_const() == Some(1);
    let extents = (x.shape[4].as_const()?, b.shape[3].as_const()?);
    (is_plain && is_half && !is_step).then_some(extents)
}

/// Shared memory of a block. What a unit has lies behind that of the units before it.
struct Memory {
    /// Chunks that there is room for.
    buffers: i64,
    /// Panels of columns, or all columns.
    b: Vec<Stage>,
    x: Stage,
    /// `X * dt * 2^(s[e] - s)`, row by row.
    weighted: SharedId,
    /// `f32` vectors of the steps of a chunk, each twice: here `dt * 2^(s[e] - s)`.
    weights: SharedId,
    /// [`PANEL`] times `2^s[e]`, twice.
    kept: SharedId,
    read_out: Option<ReadOutMemory>,
}

/// What only the launch that writes y needs.
struct ReadOutMemory {
    c: Vec<Stage>,
    /// The gate, where it has the type of x: as x.
    z: Option<Stage>,
    /// The states, rounded.
    state: SharedId,
    y: SharedId,
    /// `f32` vectors of the steps of a chunk, each twice: `s`, `2^s`, `dt`.
    sums: SharedId,
    grown: SharedId,
    dt: SharedId,
    /// 0 up to element [`STEPS`], minus infinity behind it.
    mask: SharedId,
}

impl Memory {
    fn declare(
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        o: &Operands,
        s: Schedule,
        (states, elem, work): (i64, Elem, Work),
    ) -> Result<Memory, LowerError> {
        let whole = work == Work::Whole;
        let buffers = if whole || !s.is_grouped { BUFFERS } else { BUFFERS_OF_ENDS };
        let array = |b: &mut KernelBuilder, name: &str, len: i64| match s.is_grouped {
            true => b.shared_swizzled(name, elem, len as u32),
            false => b.shared(name, elem, len as u32),
        };
        let stages = |cx: &mut Cx<'_>, b: &mut KernelBuilder, name: &str, value: ValueId| {
            let (cols, pad) = if s.is_grouped { (PANEL, 0) } else { (states, PAD) };
            let shape = staging::Shape { value, rows: STEPS, cols, pad, run: cols, is_column_major: false };
            let stride = states / cols * shape.size();
            let shared = array(b, name, buffers * stride);
            let panel =
                |first: i64| Stage::new(cx, b, shape, Buffers { shared, first, stride }, HELPERS as u32);
            (0..states / cols).map(|i| i * shape.size()).map(panel).collect::<Result<Vec<_>, _>>()
        };
        let c = whole.then(|| stages(cx, b, "c_tile", o.c)).transpose()?;
        let b_stages = stages(cx, b, "b_tile", o.b)?;
        let pad = s.pad();
        let shape = staging::Shape {
            value: o.x,
            rows: STEPS,
            cols: s.rows,
            pad,
            run: s.rows,
            is_column_major: false,
        };
        let rows_of_units = |cx: &mut Cx<'_>, b: &mut KernelBuilder, name: &str, value: ValueId| {
            let shape = staging::Shape { value, ..shape };
            let shared = array(b, name, s.units * buffers * shape.size());
            let all = Buffers { shared, first: 0, stride: shape.size() };
            Stage::new(cx, b, shape, all, (HELPERS / s.units) as u32)
        };
        let x = rows_of_units(cx, b, "x_tile", o.x)?;
        let is_alike = |z: &ValueId| cx.graph.ty(*z).dtype == cx.graph.ty(o.x).dtype;
        let z = o.z.filter(is_alike).filter(|_| whole);
        let z = z.map(|z| rows_of_units(cx, b, "z_tile", z)).transpose()?;
        let weighted = array(b, "weighted", s.units * shape.size());
        let vector =
            |b: &mut KernelBuilder, name: &str, n: i64| b.shared(name, Elem::F32, (s.units * n) as u32);
        let (weights, kept) = (vector(b, "weights", 2 * STEPS), vector(b, "kept", 2 * PANEL));
        let read_out = c.map(|c| ReadOutMemory {
            c,
            z,
            state: array(b, "state", s.units * s.rows * (states + pad)),
            y: vector(b, "y_tile", STEPS * (s.rows + Y_PAD)),
            sums: vector(b, "sums", 2 * STEPS),
            grown: vector(b, "grown", 2 * STEPS),
            dt: vector(b, "dts", 2 * STEPS),
            mask: b.shared("mask", Elem::F32, 2 * STEPS as u32),
        });
        Ok(Memory { buffers, b: b_stages, x, weighted, weights, kept, read_out })
    }
}
