//! Products of two tensors on thread blocks.
//!
//! ```text
//! y[batch, m, n] = sum over k of x[batch, m, k] * w[batch, n, k]      each letter any number of axes, also none
//!
//! block = (batch, tile of n, tile of m)        a tile of y is TILE x TILE
//!
//!               k ->                           k ->
//! x   TILE rows [ tile | next ]      w  TILE rows [ tile | next ]      in shared memory, rows padded
//! ```
//!
//! Variants, from naive to fast:
//!
//! 1. [`fma`]: every thread accumulates a block of y in `f32` registers, for any float operands. A row of four steps of k
//!    is one 16-byte load from shared memory and serves a whole row or column of the block.
//! 2. [`mma`]: the warps multiply 16x8x16 matrix tiles with `f32` accumulators, where both operands are `f16` or both are
//!    `bf16`. An order of magnitude more products per cycle.
//!
//! 3. [`vector`]: few rows. Every column of w is read once, by one warp; nothing passes through shared memory.
//!
//! The number of rows is often a symbol: then the second or first and the third are both launched, and the grid of one
//! of them is empty.
//!
//! Operands that a group computes itself are evaluated element by element while they are staged; results pass the
//! epilogue on their way to memory. Elements beyond the ends of m, n and k are staged as 0 and never stored.

mod fma;
mod mma;
mod product;
mod vector;

use super::scalar;
use super::staging::{self, Fetched, Stage, buffers};
use crate::kernel::{Axis, Elem, KernelBuilder, Reg, Value};
use crate::lower::access::Cx;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use product::{Factor, Product, recognize};
use ssmc_ir::ops::{Contract, Label};
use ssmc_ir::{Dim, Graph, Group};

/// Rows and columns of the result that a block computes: both variants' buffers and accumulators fit the 48 KiB that a
/// block gets without opting in.
const TILE: i64 = 64;

/// Which instructions multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Scalar fused multiply-adds.
    Fma,
    /// Matrix tiles.
    Mma,
    /// Scalar fused multiply-adds of few rows, a warp per pair of columns.
    Vector,
}

impl Schedule {
    /// The schedules for a node, each with what its grid is to be multiplied by: 1, or 0 where the other one runs.
    ///
    /// # Errors
    /// The node is no product of two float tensors with a sum.
    pub(super) fn alternatives(graph: &Graph, group: &Group) -> Result<Vec<(Schedule, Dim)>, LowerError> {
        let tiled = Schedule::choose(graph, group)?;
        let Some(rows) = vector::n_rows(graph, group) else { return Ok(vec![(tiled, Dim::from(1))]) };
        Ok(match rows.as_const() {
            Some(rows) if rows > vector::ROWS_MAX => vec![(tiled, Dim::from(1))],
            Some(_) => vec![(Schedule::Vector, Dim::from(1))],
            None => {
                let is_many = rows.floordiv(&Dim::from(vector::ROWS_MAX + 1)).at_most(&Dim::from(1));
                vec![(Schedule::Vector, Dim::from(1) - &is_many), (tiled, is_many)]
            }
        })
    }

    /// The schedule in tiles for the element types of a node.
    ///
    /// # Errors
    /// The node is no product of two float tensors with a sum.
    pub(super) fn choose(graph: &Graph, group: &Group) -> Result<Schedule, LowerError> {
        let p = recognize(graph, graph.node(group.root), &|id| group.members.contains(&id))?;
        let elems = [elem_of(graph.ty(p.x.value).dtype)?, elem_of(graph.ty(p.w.value).dtype)?];
        Ok(if elems[0] == elems[1] && elems[0].is_half() { Schedule::Mma } else { Schedule::Fma })
    }

    pub(super) fn threads(self) -> u32 {
        match self {
            Schedule::Fma => fma::THREADS,
            Schedule::Mma => mma::THREADS,
            Schedule::Vector => vector::THREADS,
        }
    }
}

/// Some axes of the product as one axis.
struct Axes {
    labels: Vec<Label>,
    extents: Vec<Dim>,
}

impl Axes {
    fn n(&self) -> Dim {
        self.extents.iter().fold(Dim::from(1), |n, d| n * d)
    }

    /// The index along each axis of a position along all.
    fn unravel(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, position: Reg) -> Vec<Idx> {
        let extents = cx.extents(b, &self.extents);
        cx.index(b).unravel(Idx::Uniform(position), &extents)
    }
}

/// What both variants need.
struct Block<'p> {
    p: &'p Product,
    batch: Axes,
    m: Axes,
    n: Axes,
    k: Axes,
    /// Index of the batch, first row and first column.
    batch_at: Vec<Idx>,
    first_row: Reg,
    first_col: Reg,
    rows: Reg,
    cols: Reg,
    depth: Reg,
    elem: Elem,
}

pub(super) fn lower(
    l: &mut Lowering<'_>,
    op: &Contract,
    group: &Group,
    schedule: Schedule,
) -> Result<Launch, LowerError> {
    if schedule == Schedule::Vector {
        return vector::lower(l, op, group);
    }
    let p = recognize(l.graph, l.node, &|id| group.members.contains(&id))?;
    let extents = op.extents(&[Some(l.graph.ty(l.operand(0)?)), Some(l.graph.ty(l.operand(1)?))]);
    let Ok(extents) = extents else { return l.unsupported("extents do not fit") };
    let axes = |labels: &[Label]| Axes {
        labels: labels.to_vec(),
        extents: labels.iter().map(|l| extents[l].clone()).collect(),
    };
    let (batch, m, n, k) = (axes(&p.batch), axes(&p.x.own), axes(&p.w.own), axes(&p.k));
    let elem = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let (b, cx, sink) = l.parts();
    let tiles = |axes: &Axes| axes.n().ceildiv(&Dim::from(TILE));
    // Tiles of rows follow each other, so that the columns of w they share stay in the second-level cache.
    let grid = [batch.n(), tiles(&n), tiles(&m)];
    let flops = grid[0].clone() * &m.n() * &n.n() * &k.n() * Dim::from(2);
    let place = row_index(cx, b, &grid);
    let first = |b: &mut KernelBuilder, tile: Idx| Ok::<_, LowerError>(b.mul(scalar(tile)?, TILE));
    let (first_col, first_row) = (first(b, place[1])?, first(b, place[2])?);
    let batch_at = scalar(place[0])?;
    let batch_at = batch.unravel(cx, b, batch_at);
    let [rows, cols, depth] = [&m, &n, &k].map(|axes| cx.dim(b, &axes.n()));
    let block = Block { p: &p, batch, m, n, k, batch_at, first_row, first_col, rows, cols, depth, elem };
    match schedule {
        Schedule::Fma => fma::lower(cx, b, sink, &block)?,
        Schedule::Mma => mma::lower(cx, b, sink, &block)?,
        Schedule::Vector => unreachable!("taken above"),
    }
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// How tiles are laid out in shared memory.
struct Layout {
    /// Steps of k in a tile.
    depth: i64,
    /// Padding of rows.
    pad: i64,
    /// Whether a tile may have a row per step of k, as its operand has in memory.
    may_be_deep: bool,
}

/// The tile of one operand.
struct Tile {
    stage: Stage,
    /// Rows are steps of k, columns those of the operand; otherwise the other way around.
    is_deep: bool,
}

impl Tile {
    /// Where the element of row or column `own` at step `k` is.
    fn at(&self, b: &mut KernelBuilder, buffer: Reg, own: Reg, k: impl Into<Value>) -> Reg {
        let k = b.index(k);
        let (row, col) = if self.is_deep { (k, own) } else { (own, k) };
        let row = b.mul(row, self.stage.pitch());
        let at = b.add(row, col);
        b.add(at, buffer)
    }
}

/// The tiles of both operands.
struct Tiles {
    x: Tile,
    w: Tile,
    depth: i64,
}

impl<'p> Block<'p> {
    fn tiles(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        layout: Layout,
        threads: u32,
    ) -> Result<Tiles, LowerError> {
        let mut tile = |name: &str, factor: &Factor, own: &Axes| {
            let is_k_last = factor.labels.last().is_some_and(|l| self.p.k.contains(l));
            let is_deep = layout.may_be_deep && !is_k_last;
            let shape = staging::Shape {
                value: factor.value,
                rows: if is_deep { layout.depth } else { TILE },
                cols: if is_deep { TILE } else { layout.depth },
                pad: layout.pad,
                run: if is_deep { run(factor, own) } else { run(factor, &self.k) },
                is_column_major: !is_deep && !is_k_last,
            };
            Ok::<_, LowerError>(Tile { stage: Stage::declare(cx, b, name, shape, threads)?, is_deep })
        };
        let (x, w) = (tile("x_tile", &self.p.x, &self.m)?, tile("w_tile", &self.p.w, &self.n)?);
        Ok(Tiles { x, w, depth: layout.depth })
    }

    /// Begins to fill the buffers of both operands with tile `j` of k.
    fn fetch<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        tiles: &Tiles,
        thread: Reg,
        (j, x_buffer, w_buffer): (Reg, Reg, Reg),
    ) -> Result<[Fetched; 2], LowerError> {
        let base = b.mul(j, tiles.depth);
        let mut of = |tile: &Tile, buffer, factor: &Factor, own: &Axes, (first, n): (Reg, Reg)| {
            let place = &mut |cx: &mut Cx<'a>, b: &mut KernelBuilder, (row, col): (Reg, Reg)| {
                let (at, k) = if tile.is_deep { (col, row) } else { (row, col) };
                let (at, k) = (b.add(first, at), b.add(base, k));
                let (own_at, k_at) = (own.unravel(cx, b, at), self.k.unravel(cx, b, k));
                let parts =
                    [(&own.labels, &own_at), (&self.k.labels, &k_at), (&self.batch.labels, &self.batch_at)];
                let (in_own, in_depth) = (b.lt(at, n), b.lt(k, self.depth));
                (pick(&factor.labels, &parts), b.and(in_own, in_depth))
            };
            tile.stage.fetch(cx, b, (thread, buffer), place)
        };
        let x = of(&tiles.x, x_buffer, &self.p.x, &self.m, (self.first_row, self.rows))?;
        let w = of(&tiles.w, w_buffer, &self.p.w, &self.n, (self.first_col, self.cols))?;
        Ok([x, w])
    }

    /// Runs `compute` for every tile of k; it gets where the buffers of x and w begin.
    fn for_tiles(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        tiles: &Tiles,
        compute: &mut dyn FnMut(&mut KernelBuilder, Reg, Reg),
    ) -> Result<(), LowerError> {
        let thread = b.thread_idx(Axis::X);
        let arrive = |b: &mut KernelBuilder, [x, w]: &[Fetched; 2]| {
            tiles.x.stage.arrive(b, x);
            tiles.w.stage.arrive(b, w);
        };
        let zero = b.const_i64(0);
        let fetched = self.fetch(cx, b, tiles, thread, (zero, zero, zero))?;
        arrive(b, &fetched);
        let n_tiles = b.ceil_div(self.depth, tiles.depth);
        let mut result = Ok(());
        b.for_("tile", 0, n_tiles, 1, |b, j| {
            result = cx.scope(|cx| {
                b.barrier();
                let (x_this, x_next) = buffers(b, j, tiles.x.stage.size());
                let (w_this, w_next) = buffers(b, j, tiles.w.stage.size());
                let after = b.add(j, 1);
                let fetched = self.fetch(cx, b, tiles, thread, (after, x_next, w_next))?;
                compute(b, x_this, w_this);
                arrive(b, &fetched);
                Ok(())
            });
        });
        result
    }

    /// Stores one element of the result, if there is such an element.
    fn put<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (row, col): (Reg, Reg),
        value: impl FnOnce(&mut KernelBuilder) -> Reg,
    ) -> Result<(), LowerError> {
        let (m, n) = (b.add(self.first_row, row), b.add(self.first_col, col));
        let (in_rows, in_cols) = (b.lt(m, self.rows), b.lt(n, self.cols));
        let exists = b.and(in_rows, in_cols);
        let mut result = Ok(());
        b.if_(exists, |b| {
            result = cx.scope(|cx| {
                let (m_at, n_at) = (self.m.unravel(cx, b, m), self.n.unravel(cx, b, n));
                let parts =
                    [(&self.m.labels, &m_at), (&self.n.labels, &n_at), (&self.batch.labels, &self.batch_at)];
                let idx = pick(&self.p.output, &parts);
                let value = value(b);
                let value = b.cast(value, self.elem);
                sink.put(cx, b, &idx, value)
            });
        });
        result
    }
}

/// Elements along some axes that lie together in an operand, from multiples of their number.
fn run(factor: &Factor, axes: &Axes) -> i64 {
    match axes.n().as_const() {
        Some(n) if factor.labels.ends_with(&axes.labels) => n.max(1),
        _ => 1,
    }
}

/// The index along the axes with these labels; every label is in one of the parts.
fn pick(labels: &[Label], parts: &[(&Vec<Label>, &Vec<Idx>)]) -> Vec<Idx> {
    let find = |label: &Label| {
        let in_part = |(labels, idx): &(&Vec<Label>, &Vec<Idx>)| {
            labels.iter().position(|l| l == label).map(|axis| idx[axis])
        };
        parts.iter().find_map(in_part).expect("a label is of the batch, of k or of one operand")
    };
    labels.iter().map(find).collect()
}
