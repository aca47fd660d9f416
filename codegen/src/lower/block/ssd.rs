//! The state space dual scan on thread blocks, in chunks on matrix tiles.
//!
//! ```text
//! block = (batch, group, head, some rows of the head); it walks through time, the state stays in accumulators
//!
//! of a chunk, with s[t] the sum of dt*a*log2(e) up to step t of it, e the last step:
//!   scores = (C B^T) * 2^(s[t] - s[u]) * dt[u]          for u <= t, rounded to the operands' type
//!   y      = scores X  +  2^s[t] * (C H^T)              H rounded likewise
//!   H      = 2^s[e] * H + (X * dt[u] * 2^(s[e] - s[u]))^T B
//! ```
//!
//! All sums are `f32`. The mask of the scores is added to their exponents, as 0 or minus infinity, so that nothing beyond
//! the diagonal is raised.

mod chunk;

use super::share::shares;
use super::staging::{self, Buffers, Stage};
use crate::kernel::{Elem, KernelBuilder, Reg, SharedId, WARP_SIZE};
use crate::lower::access::Cx;
use crate::lower::index::Idx;
use crate::lower::ssd::Operands;
use crate::lower::{LowerError, elem_of};
use crate::target::GpuTarget;
use ssmc_ir::ops::{Discretization, ReadOut, Ssd};
use ssmc_ir::{Dim, Graph, Node, ValueId};

pub(super) use chunk::lower;

/// Steps of a chunk.
const STEPS: i64 = 64;

/// Warps of a block that multiply, and as many that fetch, weigh and write for them.
const WARPS: i64 = 4;

/// Threads of either kind.
const HALF: u32 = WARPS as u32 * WARP_SIZE;

pub(super) const THREADS: u32 = 2 * HALF;

/// Extent of matrix tiles.
const TILE: i64 = 16;

/// Padding of rows of 16-bit elements: eight rows of a multiple of 16 elements lie in distinct banks.
const PAD: i64 = 8;

/// Padding of rows of the result.
const Y_PAD: i64 = 4;

/// Buffers of the operands: the next chunk is fetched during one.
const BUFFERS: i64 = 2;

/// How a scan is spread over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Rows of a head in one block.
    pub(super) rows: i64,
}

/// From how many heads on a schedule is taken, for 132 multiprocessors.
const SCHEDULES: [(i64, Schedule); 3] =
    [(64, Schedule { rows: 64 }), (40, Schedule { rows: 32 }), (0, Schedule { rows: 16 })];

impl Schedule {
    /// The schedules for a node, each with what its grid is to be multiplied by: 1, or 0 where another one runs. None if
    /// the node is to run the loops of CPUs.
    pub(super) fn alternatives(
        graph: &Graph,
        node: &Node,
        op: &Ssd,
        target: &GpuTarget,
    ) -> Vec<(Schedule, Dim)> {
        let Some((width, states)) = extents(graph, node, op) else { return Vec::new() };
        let Some(x) = node.operands[0] else { return Vec::new() };
        let shape = &graph.ty(x).shape;
        let heads = shape[0].clone() * &shape[2] * &shape[3];
        let fits = |(_, s): &(i64, Schedule)| s.fits(width, states, target);
        shares(&heads, SCHEDULES.into_iter().filter(fits).collect())
    }

    /// Warps below and beside each other in the state.
    fn warps(self) -> (i64, i64) {
        (self.rows / TILE, WARPS / (self.rows / TILE))
    }

    fn fits(self, width: i64, states: i64, target: &GpuTarget) -> bool {
        let (_, beside) = self.warps();
        let bytes = 2
            * (BUFFERS * STEPS * (2 * (states + PAD) + self.rows + PAD)
                + STEPS * (self.rows + PAD)
                + self.rows * (states + PAD))
            + 4 * (STEPS * (self.rows + Y_PAD) + 12 * STEPS);
        width % self.rows == 0
            && states % (TILE * beside) == 0
            && bytes <= target.max_shared_bytes as i64
            // The state in registers.
            && self.rows * states <= 8192
    }
}

/// Rows of a head and states of a scan that has a schedule here.
fn extents(graph: &Graph, node: &Node, op: &Ssd) -> Option<(i64, i64)> {
    let operand = |i: usize| node.operands.get(i).copied().flatten();
    let is_plain = op.discretization == Discretization::ExpEuler
        && op.read_out == ReadOut::After
        && !op.reverse
        && operand(9).is_none()
        && operand(10).is_none();
    let [x, b, c] = [operand(0)?, operand(3)?, operand(4)?].map(|v| graph.ty(v));
    let is_half = [x, b, c].iter().all(|ty| ty.dtype == x.dtype) && elem_of(x.dtype).ok()?.is_half();
    let is_step = x.shape[1].as_const() == Some(1);
    let extents = (x.shape[4].as_const()?, b.shape[3].as_const()?);
    (is_plain && is_half && !is_step).then_some(extents)
}

/// Shared memory of a block.
struct Memory {
    b: Stage,
    c: Stage,
    x: Stage,
    /// `X * dt * 2^(s[e] - s)`, row by row.
    weighted: SharedId,
    /// The state, rounded.
    state: SharedId,
    y: SharedId,
    /// `f32` vectors of the steps of a chunk, each twice: `s`, `2^s`, `dt`, `dt * 2^(s[e] - s)`; then 16 times `2^s[e]`.
    sums: SharedId,
    grown: SharedId,
    dt: SharedId,
    weights: SharedId,
    kept: SharedId,
    /// 0 up to element [`STEPS`], minus infinity behind it.
    mask: SharedId,
}

impl Memory {
    fn declare(
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        o: &Operands,
        s: Schedule,
        (states, elem): (i64, Elem),
    ) -> Result<Memory, LowerError> {
        let mut stage = |b: &mut KernelBuilder, name: &str, value: ValueId, cols: i64| {
            let shape =
                staging::Shape { value, rows: STEPS, cols, pad: PAD, run: cols, is_column_major: false };
            let shared = b.shared(name, elem, (BUFFERS * shape.size()) as u32);
            let buffers = Buffers { shared, first: 0, stride: shape.size() };
            Stage::new(cx, b, shape, buffers, HALF)
        };
        let c = stage(b, "c_tile", o.c, states)?;
        let b_stage = stage(b, "b_tile", o.b, states)?;
        let x = stage(b, "x_tile", o.x, s.rows)?;
        let y = b.shared("y_tile", Elem::F32, (STEPS * (s.rows + Y_PAD)) as u32);
        let mut vector = |name: &str, n: i64| b.shared(name, Elem::F32, n as u32);
        let (sums, grown, dt, weights) = (
            vector("sums", 2 * STEPS),
            vector("grown", 2 * STEPS),
            vector("dts", 2 * STEPS),
            vector("weights", 2 * STEPS),
        );
        let (kept, mask) = (vector("kept", 2 * TILE), vector("mask", 2 * STEPS));
        let weighted = b.shared("weighted", elem, (STEPS * (s.rows + PAD)) as u32);
        let state = b.shared("state", elem, (s.rows * (states + PAD)) as u32);
        Ok(Memory { b: b_stage, c, x, weighted, state, y, sums, grown, dt, weights, kept, mask })
    }
}

/// The head of a block.
struct Head {
    batch: Idx,
    group: Idx,
    head: Idx,
    /// The block's first row of the head.
    first: Reg,
    len: Reg,
}

impl Head {
    fn at(&self, t: Reg) -> [Idx; 4] {
        [self.batch, Idx::Uniform(t), self.group, self.head]
    }
}
