//! Few rows: the columns of w stream past them once, at the speed of memory.
//!
//! ```text
//! warp = COLS columns; its lanes split k, neighbors in memory to neighboring lanes, and add up at the end
//! ```
//!
//! Rows are taken ROWS at a time. Where k is one axis that lies together in both operands, a lane loads LANES of its
//! elements at once.

use super::{Axes, pick, recognize};
use crate::kernel::{Axis, Elem, KernelBuilder, ReduceOp, Reg, WARP_SIZE, WarpShuffleOp};
use crate::lower::access::Cx;
use crate::lower::block::scalar;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::{Contract, Label};
use ssmc_ir::{Dim, Graph, Group};

/// Most rows for which this variant is taken.
pub(super) const ROWS_MAX: i64 = 8;

/// Rows and columns that a warp accumulates together.
const ROWS: i64 = 4;
const COLS: i64 = 2;

const WARPS: u32 = 4;

pub(super) const THREADS: u32 = WARPS * WARP_SIZE;

/// Steps of k in one load.
const LANES: u16 = 4;

/// How many rows a product has, if it is one.
pub(super) fn n_rows(graph: &Graph, group: &Group) -> Option<Dim> {
    let node = graph.node(group.root);
    let p = recognize(graph, node, &|id| group.members.contains(&id)).ok()?;
    let shape = &graph.ty(*node.results.first()?).shape;
    let extent = |label: &Label| p.output.iter().position(|l| l == label).map(|axis| shape[axis].clone());
    p.x.own.iter().try_fold(Dim::from(1), |n, label| Some(n * &extent(label)?))
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Contract, group: &Group) -> Result<Launch, LowerError> {
    let p = recognize(l.graph, l.node, &|id| group.members.contains(&id))?;
    let extents = op.extents(&[Some(l.graph.ty(l.operand(0)?)), Some(l.graph.ty(l.operand(1)?))]);
    let Ok(extents) = extents else { return l.unsupported("extents do not fit") };
    let axes = |labels: &[Label]| Axes {
        labels: labels.to_vec(),
        extents: labels.iter().map(|l| extents[l].clone()).collect(),
    };
    let (batch, m, n, k) = (axes(&p.batch), axes(&p.x.own), axes(&p.w.own), axes(&p.k));
    let elem = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let is_run = k.labels.len() == 1
        && k.n().as_const().is_some_and(|n| n % i64::from(LANES) == 0)
        && [&p.x, &p.w].iter().all(|factor| factor.labels.last() == k.labels.first());
    let (b, cx, sink) = l.parts();
    cx.lanes = if is_run { LANES } else { 1 };
    let lanes = i64::from(cx.lanes);
    let per_block = COLS * i64::from(WARPS);
    let grid = [batch.n(), n.n().ceildiv(&Dim::from(per_block))];
    let flops = grid[0].clone() * &m.n() * &n.n() * &k.n() * Dim::from(2);
    let place = row_index(cx, b, &grid);
    let batch_at = scalar(place[0])?;
    let batch_at = batch.unravel(cx, b, batch_at);
    let thread = b.thread_idx(Axis::X);
    let (warp, lane) = (b.div(thread, WARP_SIZE), b.rem(thread, WARP_SIZE));
    let tile = scalar(place[1])?;
    let (first_col, within) = (b.mul(tile, per_block), b.mul(warp, COLS));
    let first_col = b.add(first_col, within);
    let [rows, cols, depth] = [&m, &n, &k].map(|axes| cx.dim(b, &axes.n()));
    let first_k = b.mul(lane, lanes);
    let mut result = Ok(());
    b.for_("row", 0, rows, ROWS, |b, first_row| {
        result = cx.scope(|cx| {
            let clamped = |cx: &mut Cx<'_>, b: &mut KernelBuilder, first, count, limit, axes: &Axes| {
                let last = b.sub(limit, 1);
                (0..count)
                    .map(|i: i64| {
                        let at = b.add(first, i);
                        let at = b.min(at, last);
                        axes.unravel(cx, b, at)
                    })
                    .collect::<Vec<_>>()
            };
            let row_at = clamped(cx, b, first_row, ROWS, rows, &m);
            let col_at = clamped(cx, b, first_col, COLS, cols, &n);
            let zero = b.zero(Elem::F32.x(cx.lanes));
            let mut sums = Vec::new();
            for _ in 0..ROWS * COLS {
                sums.push(b.var_init(zero));
            }
            let mut inner = Ok(());
            b.for_("k", first_k, depth, lanes * i64::from(WARP_SIZE), |b, at| {
                inner = cx.scope(|cx| {
                    let k_at = match is_run {
                        true => vec![cx.lanes_from(at)],
                        false => k.unravel(cx, b, at),
                    };
                    let mut load = |factor: &super::product::Factor, own: (&Axes, &Vec<Idx>)| {
                        let parts = [(&own.0.labels, own.1), (&k.labels, &k_at), (&batch.labels, &batch_at)];
                        cx.get_wide_as(b, (factor.value, Elem::F32), &pick(&factor.labels, &parts))
                    };
                    let mut w = Vec::new();
                    for at in &col_at {
                        w.push(load(&p.w, (&n, at))?);
                    }
                    let mut x = Vec::new();
                    for at in &row_at {
                        x.push(load(&p.x, (&m, at))?);
                    }
                    for (i, sum) in sums.iter().enumerate() {
                        let (row, col) = (i / COLS as usize, i % COLS as usize);
                        let next = b.fma(x[row], w[col], *sum);
                        b.assign(*sum, next);
                    }
                    Ok(())
                });
            });
            inner?;
            // Lane i takes the i-th sum.
            let mut mine: Option<Reg> = None;
            for (i, sum) in sums.iter().enumerate() {
                let total = warp_sum(b, *sum);
                mine = Some(match mine {
                    None => total,
                    Some(others) => {
                        let is_mine = b.eq(lane, i);
                        b.select(is_mine, total, others)
                    }
                });
            }
            let value = mine.expect("there are sums");
            let (row, col) = (b.div(lane, COLS), b.rem(lane, COLS));
            let (row, col) = (b.add(first_row, row), b.add(first_col, col));
            let (has_sum, in_rows, in_cols) = (b.lt(lane, ROWS * COLS), b.lt(row, rows), b.lt(col, cols));
            let exists = b.and(has_sum, in_rows);
            let exists = b.and(exists, in_cols);
            let vectors = std::mem::replace(&mut cx.lanes, 1);
            let mut stored = Ok(());
            b.if_(exists, |b| {
                stored = cx.scope(|cx| {
                    let (m_at, n_at) = (m.unravel(cx, b, row), n.unravel(cx, b, col));
                    let parts = [(&m.labels, &m_at), (&n.labels, &n_at), (&batch.labels, &batch_at)];
                    let value = b.cast(value, elem);
                    sink.put(cx, b, &pick(&p.output, &parts), value)
                });
            });
            cx.lanes = vectors;
            stored
        });
    });
    result?;
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// The sum over the lanes of a vector and of a warp, pairwise.
fn warp_sum(b: &mut KernelBuilder, x: Reg) -> Reg {
    let mut sum = if b.lanes(x) == 1 { b.cast(x, Elem::F32) } else { b.reduce(ReduceOp::Add, x) };
    let mut distance = WARP_SIZE / 2;
    while distance > 0 {
        let other = b.warp_shuffle(WarpShuffleOp::Xor, sum, distance);
        sum = b.add(sum, other);
        distance /= 2;
    }
    sum
}
