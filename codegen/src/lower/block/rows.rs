//! Sums along rows, such as the mean squares by which products scale their rows.
//!
//! ```text
//! some warps = row; lane = vectors of 16 bytes, as far apart as the row has lanes
//! ```
//!
//! Rows that are not long have a warp each, and blocks several rows. Rows of unknown or odd lengths have a thread each.

use super::matmul::group_sum;
use super::{block_sum, only_if};
use crate::kernel::{Axis, Elem, KernelBuilder, ReduceOp, Reg, WARP_SIZE};
use crate::lower::access::{Cx, unwidened};
use crate::lower::index::Idx;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::{BinaryFn, Op, Reduce, ReduceFn};
use ssmc_ir::{Dim, Graph, Group, Node, ValueId};

/// Vectors of a lane up to which a row has one warp.
const SHORT: i64 = 20;

/// Rows of a block if they are short.
const ROWS: u32 = 2;

/// Threads of a block if rows are long.
const THREADS: u32 = 128;

/// Most vectors that a lane has under way.
const LOADS: i64 = 20;

/// How rows are shared among threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Elements of a vector.
    lanes: i64,
    /// Whether a row has a block, not a warp.
    has_block: bool,
}

/// What the squares of a row are made of, if a node is the mean of them.
pub(super) fn mean_square_of(graph: &Graph, node: &Node) -> Option<ValueId> {
    let (Op::Reduce(op), [Some(x)]) = (&node.op, node.operands.as_slice()) else { return None };
    let is_by_rows = op.f == ReduceFn::Mean && op.axes == [graph.ty(*x).rank().checked_sub(1)?];
    is_by_rows.then(|| squared(graph, *x)).flatten()
}

/// What a value is the square of.
fn squared(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let node = graph.def_node(value)?;
    match (&node.op, node.operands.as_slice()) {
        (Op::Binary(op), [Some(x), Some(y)]) if op.f == BinaryFn::Mul && x == y => Some(*x),
        _ => None,
    }
}

impl Schedule {
    /// The schedule for a node; `None` if it is no sum along rows, or their length is odd.
    pub(super) fn of(graph: &Graph, group: &Group) -> Option<Self> {
        let node = graph.node(group.root);
        let (Op::Reduce(op), [Some(x)]) = (&node.op, node.operands.as_slice()) else { return None };
        let ty = graph.ty(*x);
        let is_sum =
            matches!(op.f, ReduceFn::Sum | ReduceFn::Mean) && op.axes == [ty.rank().checked_sub(1)?];
        let is_member = |id| group.members.contains(&id);
        let loaded = squared(graph, *x).map_or(*x, |x| unwidened(graph, &is_member, x));
        let lanes = 16 / elem_of(graph.ty(loaded).dtype).ok()?.size() as i64;
        let n = ty.shape.last()?.as_const()?;
        let fits = is_sum && elem_of(ty.dtype).ok()? == Elem::F32 && n > 0 && n % lanes == 0;
        fits.then_some(Self { lanes, has_block: n > SHORT * lanes * i64::from(WARP_SIZE) })
    }

    pub(super) fn threads(self) -> u32 {
        if self.has_block { THREADS } else { ROWS * WARP_SIZE }
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Reduce, s: Schedule) -> Result<Launch, LowerError> {
    let x = l.operand(0)?;
    let shape = l.shape(x);
    let Some((last, rows)) = shape.split_last() else { return l.unsupported("a scalar has no row") };
    let n = l.constant("the length of a row", last)?;
    let n_rows = rows.iter().fold(Dim::from(1), |n, d| n * d);
    let (b, cx, sink) = l.parts();
    let (block, thread) = (b.block_idx(), b.thread_idx(Axis::X));
    let (row, lane, per_row) = match s.has_block {
        true => (block, thread, i64::from(THREADS)),
        false => {
            let (first, warp) = (b.mul(block, ROWS), b.div(thread, WARP_SIZE));
            (b.add(first, warp), b.rem(thread, WARP_SIZE), i64::from(WARP_SIZE))
        }
    };
    // All lanes take part in sums: those of rows that do not exist read the last one.
    let limit = cx.dim(b, &n_rows);
    let last_row = b.sub(limit, 1);
    let nearest = b.min(row, last_row);
    let extents = cx.extents(b, rows);
    let at = cx.index(b).unravel(Idx::Uniform(nearest), &extents);
    cx.lanes = s.lanes as u16;
    let first = b.mul(lane, s.lanes);
    let step = per_row * s.lanes;
    let zero = b.zero(Elem::F32.x(cx.lanes));
    let sum = b.var_init(zero);
    let whole = n / step;
    let round = LOADS.min(whole.max(1));
    let mut result = Ok(());
    let add = |cx: &mut Cx<'_>, b: &mut KernelBuilder, places: &[Reg]| {
        let mut all = Vec::new();
        for place in places {
            let idx = [at.as_slice(), &[cx.lanes_from(*place)]].concat();
            all.push(cx.get_wide_as(b, (x, Elem::F32), &idx)?);
        }
        for x in all {
            let next = b.add(sum, x);
            b.assign(sum, next);
        }
        Ok::<_, LowerError>(())
    };
    b.for_("k", first, whole / round * round * step, round * step, |b, place| {
        result = cx.scope(|cx| {
            let places: Vec<Reg> = (0..round).map(|i| b.add(place, i * step)).collect();
            add(cx, b, &places)
        });
    });
    result?;
    let done = whole / round * round * step;
    if done < n {
        let rest = b.add(first, done);
        let mut result = Ok(());
        b.for_("k", rest, n, step, |b, place| result = cx.scope(|cx| add(cx, b, &[place])));
        result?;
    }
    cx.lanes = 1;
    let sum = match s.has_block {
        true => {
            let sum = b.reduce(ReduceOp::Add, sum);
            block_sum(b, sum, THREADS)
        }
        false => group_sum(b, sum, WARP_SIZE.into()),
    };
    let (is_first, exists) = (b.eq(lane, 0), b.lt(row, limit));
    let stores = b.and(is_first, exists);
    only_if(cx, b, stores, |cx, b| {
        let sum = match op.f {
            ReduceFn::Mean => {
                let n = b.const_like(b.ty(sum), n as f64);
                b.div(sum, n)
            }
            _ => sum,
        };
        sink.put(cx, b, &at, sum)
    })?;
    let grid = if s.has_block { n_rows.clone() } else { n_rows.ceildiv(&Dim::from(i64::from(ROWS))) };
    Ok(Launch { grid, flops: n_rows * Dim::from(2 * n) })
}
