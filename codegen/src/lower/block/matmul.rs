//! Products of two tensors on thread blocks.
//!
//! ```text
//! y[batch, m, n] = sum over k of x[batch, m, k] * w[batch, n, k]      each letter any number of axes, also none
//!
//! block = (batch, group of tiles of m, tile of n, tile of m in its group)
//!
//!               k ->                                  k ->
//! x      rows [ tile | next | .. ]      w      rows [ tile | next | .. ]      in shared memory
//! ```
//!
//! Variants, from naive to fast:
//!
//! 1. [`fma`]: every thread accumulates a block of y in `f32` registers, for any float operands. A row of four steps of k
//!    is one 16-byte load from shared memory and serves a whole row or column of the block.
//! 2. [`mma`]: the warps multiply 16x16x16 matrix tiles with `f32` accumulators, where both operands are `f16` or both are
//!    `bf16`. An order of magnitude more products per cycle.
//! 3. [`group`]: groups of four warps let the matrix units of Hopper read both operands from shared memory by themselves,
//!    where both lie in memory with k last.
//!
//! 4. [`vector`]: few rows. Every column of w is read once, by one warp; nothing passes through shared memory.
//!
//! The number of rows is often a symbol: then one of the others and the vectors are both launched, and the grid of one
//! of them is empty.
//!
//! Blocks that run together have [`GROUP`] tiles of m and as many of n as there are multiprocessors for, so that the
//! second-level cache holds what they share.
//!
//! Operands that a group computes itself are evaluated element by element while they are staged; results pass the
//! epilogue on their way to memory. Elements beyond the ends of m, n and k are staged as 0 and never stored.

mod fma;
pub(super) mod group;
pub(in crate::lower) mod library;
mod mma;
pub(super) mod product;
pub(super) mod vector;

use super::scalar;
use super::share::{reaches, shares};
use super::staging::{self, Buffers, Fetched, Stage};
use crate::kernel::{Axis, Elem, If, KernelBuilder, Reg, SharedId, Stmt, Value};
use crate::lower::access::{Cx, shown};
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use crate::target::{GpuArch, GpuTarget};
use product::{Factor, Product, recognize};
use ssmc_ir::ops::{Contract, Label};
use ssmc_ir::{Def, Dim, Graph, Group};
pub(super) use vector::group_sum;

/// Tiles of m whose blocks follow each other, so that the columns of w that they share stay in the second-level cache.
const GROUP: i64 = 8;

/// Places of the result that a thread takes through the epilogue together: what it reads is asked for at once, and no place
/// waits for the one before.
const TOGETHER: i64 = 4;

/// Elements that a thread takes through the epilogue together, if rows of the result allow it.
const LANES: u16 = 4;

/// Which instructions multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Scalar fused multiply-adds.
    Fma,
    /// Matrix tiles, with tiles of the result of so many rows and columns.
    Mma(mma::Size),
    /// Products of warp groups; if they share k, [`Schedule::Sum`] follows.
    Group(group::Shape),
    /// Sums of what warp groups that share k leave.
    Sum(group::Shape),
    /// Scalar fused multiply-adds of few rows.
    Vector(vector::Few),
}

impl Schedule {
    /// The schedules for a node with at least so many rows, 1 or 2: each with what its grid is to be multiplied by, 1, or
    /// 0 where another one runs.
    ///
    /// # Errors
    /// The node is no product of two float tensors with a sum.
    pub(super) fn alternatives_from(
        least: i64,
        graph: &Graph,
        group: &Group,
        target: &GpuTarget,
    ) -> Result<Vec<(Schedule, Dim)>, LowerError> {
        let tiled = Schedule::tiled(graph, group, target)?;
        let Some([rows, columns, depth]) = vector::extents(graph, group) else { return Ok(tiled) };
        let few = |is_one| Schedule::Vector(vector::Few::of(is_one, [&columns, &depth]));
        let few_of_groups = || -> Vec<Schedule> {
            let Some(shape) = Schedule::few_rows_of_groups(graph, group, target) else { return Vec::new() };
            let sum = (shape.splits() > 1).then_some(Schedule::Sum(shape));
            [Schedule::Group(shape)].into_iter().chain(sum).collect()
        };
        Ok(match rows.as_const() {
            Some(rows) if rows > vector::ROWS_MAX => {
                let few = if rows <= group::FEW_ROWS { few_of_groups() } else { Vec::new() };
                if few.is_empty() { tiled } else { few.into_iter().map(|s| (s, Dim::from(1))).collect() }
            }
            Some(rows) => vec![(few(rows == 1), Dim::from(1))],
            None => {
                let at_least = |n: i64| reaches(&rows, n);
                let (are_some, are_many) = (at_least(2), at_least(vector::ROWS_MAX + 1));
                let mut all = vec![(few(true), at_least(1) - &are_some), (few(false), are_some - &are_many)];
                if least > 1 {
                    all.remove(0);
                }
                let mut are_left = are_many.clone();
                let few = few_of_groups();
                if !few.is_empty() {
                    are_left = at_least(group::FEW_ROWS + 1);
                    let share = are_many - &are_left;
                    all.extend(few.into_iter().map(|schedule| (schedule, share.clone())));
                }
                all.extend(tiled.into_iter().map(|(schedule, share)| (schedule, share * &are_left)));
                all
            }
        })
    }

    /// The first schedule in tiles for a node.
    ///
    /// # Errors
    /// The node is no product of two float tensors with a sum.
    pub(super) fn choose(graph: &Graph, group: &Group, target: &GpuTarget) -> Result<Schedule, LowerError> {
        Ok(Schedule::tiled(graph, group, target)?[0].0)
    }

    /// The schedules in tiles for a node, each with 1 where it runs and 0 where another one does.
    ///
    /// # Errors
    /// The node is no product of two float tensors with a sum.
    fn tiled(graph: &Graph, group: &Group, target: &GpuTarget) -> Result<Vec<(Schedule, Dim)>, LowerError> {
        let one = |schedule| Ok(vec![(schedule, Dim::from(1))]);
        let is_member = |id| group.members.contains(&id);
        let p = recognize(graph, graph.node(group.root), &is_member)?;
        let elems = [elem_of(graph.ty(p.x.value).dtype)?, elem_of(graph.ty(p.w.value).dtype)?];
        if elems[0] != elems[1] || !elems[0].is_half() {
            return one(Schedule::Fma);
        }
        let extent = |factor: &Factor, label: &Label| extent(graph, factor, label);
        // Unknown extents may be large.
        let many = |factor: &Factor, many: i64| {
            let n =
                factor.own.iter().try_fold(1i64, |n, label| Some(n.saturating_mul(extent(factor, label)?)));
            n.is_none_or(|n| n >= many)
        };
        let has_groups = has_groups(graph, group, target, &p);
        let (has_rows, has_columns) = (many(&p.x, mma::Size::LARGE), many(&p.w, mma::Size::LARGE));
        if !has_rows || !(has_columns || has_groups && many(&p.w, group::FEWEST)) {
            return one(Schedule::Mma(mma::Size::Small));
        }
        if !has_groups {
            return one(Schedule::Mma(mma::Size::Large));
        }
        let shape = &graph.ty(graph.node(group.root).results[0]).shape;
        let n = |labels: &[Label]| {
            let extent = |label: &Label| p.output.iter().position(|l| l == label).map(|axis| &shape[axis]);
            labels.iter().filter_map(extent).fold(Dim::from(1), |n, dim| n * dim)
        };
        // What is not known counts as large.
        let cols = n(&p.w.own).as_const().unwrap_or(1 << 20);
        let batches = n(&p.batch).as_const().unwrap_or(1);
        let row_tiles = n(&p.x.own).ceildiv(&Dim::from(group::ROWS)) * Dim::from(batches);
        if !has_columns {
            let all = vec![
                (group::MANY_ROWS, Schedule::Group(group::Shape::of_few(cols))),
                (0, Schedule::Mma(mma::Size::Small)),
            ];
            return Ok(shares(&row_tiles, all));
        }
        let shapes = group::Shape::alternatives(&row_tiles, cols);
        Ok(shapes.into_iter().map(|(shape, share)| (Schedule::Group(shape), share)).collect())
    }

    /// The shape for few rows of a product that warp groups do.
    fn few_rows_of_groups(graph: &Graph, group: &Group, target: &GpuTarget) -> Option<group::Shape> {
        let node = graph.node(group.root);
        let p = recognize(graph, node, &|id| group.members.contains(&id)).ok()?;
        let elems = [&p.x, &p.w].map(|factor| elem_of(graph.ty(factor.value).dtype).ok());
        let is_half = elems[0] == elems[1] && elems[0].is_some_and(Elem::is_half);
        let ([column], [depth]) = (&p.w.own[..], &p.k[..]) else { return None };
        let cols = extent(graph, &p.w, column).filter(|n| *n >= group::FEWEST)?;
        let fits = is_half && p.batch.is_empty() && has_groups(graph, group, target, &p);
        fits.then_some(())?;
        // Parts are added up some columns at a time.
        let may_split = cols % group::SUM_LANES == 0 && p.output.last() == Some(column);
        let depth = extent(graph, &p.w, depth).filter(|_| may_split);
        Some(group::Shape::of_few_rows(cols, depth))
    }

    /// Whether it is for products that a library may do as well: neither for few rows nor a part of one.
    pub(super) fn has_many_rows(self) -> bool {
        match self {
            Schedule::Fma | Schedule::Mma(_) => true,
            Schedule::Group(shape) => !shape.has_few_rows(),
            Schedule::Sum(_) | Schedule::Vector(_) => false,
        }
    }

    pub(super) fn threads(self) -> u32 {
        match self {
            Schedule::Fma => fma::THREADS,
            Schedule::Mma(size) => size.threads(),
            Schedule::Group(shape) => shape.threads(),
            Schedule::Sum(_) => group::sum_threads(),
            Schedule::Vector(few) => few.threads(),
        }
    }

    /// Rows and columns of the result that a block computes.
    fn tile(self) -> (i64, i64) {
        match self {
            Schedule::Fma => (fma::TILE, fma::TILE),
            Schedule::Mma(size) => (size.tile(), size.tile()),
            Schedule::Group(shape) => shape.tile(),
            Schedule::Sum(_) | Schedule::Vector(_) => unreachable!("vectors have no tiles"),
        }
    }
}

/// The extent of an axis of a factor, if it is known.
fn extent(graph: &Graph, factor: &Factor, label: &Label) -> Option<i64> {
    let axis = factor.labels.iter().position(|l| l == label);
    axis.and_then(|axis| graph.ty(factor.value).shape[axis].as_const())
}

/// Whether warp groups can multiply: both factors lie in memory with k last, in words of 16 bytes.
fn has_groups(graph: &Graph, group: &Group, target: &GpuTarget, p: &Product) -> bool {
    let is_inside = |value| matches!(graph.def(value), Def::Result(id, _) if group.members.contains(&id));
    let is_copied = |factor: &Factor| {
        let run = factor.labels.last().and_then(|label| extent(graph, factor, label)).unwrap_or(1);
        let is_last = p.k.len() == 1 && factor.labels.last() == p.k.last();
        let together = shown(graph, &is_inside, factor.value).map(|(_, together)| together);
        is_last && run % group::RUN == 0 && together.is_some_and(|n| n % group::RUN == 0)
    };
    target.arch >= GpuArch::Sm90a && is_copied(&p.x) && is_copied(&p.w)
}

/// The layout of a product of one row.
///
/// # Errors
/// The node is no product of two float tensors with a sum.
pub(super) fn few_rows(graph: &Graph, group: &Group) -> Result<vector::Few, LowerError> {
    let [_, columns, depth] = vector::extents(graph, group).ok_or_else(|| LowerError::Unsupported {
        op: graph.node(group.root).op.name(),
        reason: "it is no product of two matrices".into(),
    })?;
    Ok(vector::Few::of(true, [&columns, &depth]))
}

/// Some axes of the product as one axis.
struct Axes {
    labels: Vec<Label>,
    extents: Vec<Dim>,
}

impl Axes {
    /// Those of the batch, of each factor alone, and of the sum.
    fn of(l: &Lowering<'_>, op: &Contract, p: &Product) -> Result<[Self; 4], LowerError> {
        let extents = op.extents(&[Some(l.graph.ty(l.operand(0)?)), Some(l.graph.ty(l.operand(1)?))]);
        let Ok(extents) = extents else { return l.unsupported("extents do not fit") };
        let axes = |labels: &[Label]| Axes {
            labels: labels.to_vec(),
            extents: labels.iter().map(|l| extents[l].clone()).collect(),
        };
        Ok([axes(&p.batch), axes(&p.x.own), axes(&p.w.own), axes(&p.k)])
    }

    fn n(&self) -> Dim {
        self.extents.iter().fold(Dim::from(1), |n, d| n * d)
    }

    /// The index along each axis of a position along all.
    fn unravel(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, position: Reg) -> Vec<Idx> {
        let extents = cx.extents(b, &self.extents);
        cx.index(b).unravel(Idx::Uniform(position), &extents)
    }
}

/// What the variants in tiles need.
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
    /// Rows and columns of the tile of the result.
    tile: (i64, i64),
    threads: u32,
    /// Where sums go, if blocks share k.
    parts: Option<group::Parts>,
    /// The tiles of k that the block takes: the first one, and the one behind the last; all if `None`.
    share: Option<(Reg, Reg)>,
}

pub(super) fn lower(
    l: &mut Lowering<'_>,
    op: &Contract,
    group: &Group,
    schedule: Schedule,
) -> Result<Launch, LowerError> {
    if let Schedule::Vector(few) = schedule {
        return vector::lower(l, op, group, (few, vector::Around::default()));
    }
    let p = recognize(l.graph, l.node, &|id| group.members.contains(&id))?;
    let [batch, m, n, k] = Axes::of(l, op, &p)?;
    let elem = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let few = match schedule {
        Schedule::Group(shape) | Schedule::Sum(shape) if shape.has_few_rows() => Some(shape),
        _ => None,
    };
    let (b, cx, sink) = l.parts();
    let tile = match schedule {
        Schedule::Sum(_) => (1, group::SUM_LANES * i64::from(group::sum_threads())),
        _ => schedule.tile(),
    };
    let tiles = |axes: &Axes, extent: i64| axes.n().ceildiv(&Dim::from(extent));
    let row_tiles = match (few, schedule) {
        (Some(_), Schedule::Group(_)) => Dim::from(1),
        _ => tiles(&m, tile.0),
    };
    let together = row_tiles.as_const().map_or(GROUP, |n| n.clamp(1, GROUP));
    let groups = row_tiles.ceildiv(&Dim::from(together));
    let splits = match schedule {
        Schedule::Group(shape) => shape.splits(),
        _ => 1,
    };
    let mut grid = vec![batch.n(), groups, tiles(&n, tile.1), Dim::from(together)];
    if splits > 1 {
        grid.push(Dim::from(splits));
    }
    let flops = grid[0].clone() * &m.n() * &n.n() * &k.n() * Dim::from(2);
    let place = row_index(cx, b, &grid);
    let (group_at, col_at, within) = (scalar(place[1])?, scalar(place[2])?, scalar(place[3])?);
    let first_col = b.mul(col_at, tile.1);
    let row_at = b.mul(group_at, together);
    let row_at = b.add(row_at, within);
    let first_row = b.mul(row_at, tile.0);
    let batch_at = scalar(place[0])?;
    let batch_at = batch.unravel(cx, b, batch_at);
    let [rows, cols, mut depth] = [&m, &n, &k].map(|axes| cx.dim(b, &axes.n()));
    let threads = schedule.threads();
    let own = place.get(4).map(|own| scalar(*own)).transpose()?;
    let (mut parts, mut share) = (None, None);
    if let (Some(shape), Some(all)) = (few.filter(|shape| shape.splits() > 1), n.n().as_const()) {
        parts = Some(group::Parts::declare(cx, b, (shape, all), own));
        if let Some(own) = own {
            let (first, end) = shape.share(b, depth, own);
            let limit = b.mul(end, group::DEPTH);
            depth = b.min(depth, limit);
            share = Some((first, end));
        }
    }
    let block = Block {
        p: &p,
        batch,
        m,
        n,
        k,
        batch_at,
        first_row,
        first_col,
        rows,
        cols,
        depth,
        elem,
        tile,
        threads,
        parts,
        share,
    };
    if let (Some(shape), Schedule::Group(_)) = (few, schedule) {
        group::lower(cx, b, sink, &block, shape)?;
        return Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops });
    }
    let is_needed = b.lt(first_row, rows);
    let mut result = Ok(());
    // Groups at the end may lack tiles.
    b.if_(is_needed, |b| {
        result = cx.scope(|cx| match schedule {
            Schedule::Fma => fma::lower(cx, b, sink, &block),
            Schedule::Mma(size) => mma::lower(cx, b, sink, &block, size),
            Schedule::Group(shape) => group::lower(cx, b, sink, &block, shape),
            Schedule::Sum(shape) => group::add_up(cx, b, sink, (&block, shape)),
            Schedule::Vector(_) => unreachable!("taken above"),
        });
    });
    result?;
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// How tiles are laid out in shared memory.
#[derive(Clone, Copy)]
struct Layout {
    /// Steps of k in a tile.
    depth: i64,
    /// Padding of rows.
    pad: i64,
    /// Whether a tile may have a row per step of k, as its operand has in memory.
    may_be_deep: bool,
    /// Buffers of each tile.
    buffers: i64,
    /// Tiles that are under way; one buffer is in use, and one more if its use ends late.
    ahead: i64,
    /// Both operands have one element type and share an array, which the result takes over in the end.
    is_joint: bool,
    /// The array is swizzled.
    is_swizzled: bool,
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
    layout: Layout,
}

impl Tiles {
    fn stage(&self, side: Side) -> &Stage {
        match side {
            Side::X => &self.x.stage,
            Side::W => &self.w.stage,
        }
    }
}

/// Which operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    X,
    W,
}

/// What is done with a tile: before the next one is fetched, and after. It gets where the buffers of x and w begin.
trait Compute {
    fn begin(&mut self, b: &mut KernelBuilder, x: Reg, w: Reg);
    fn end(&mut self, b: &mut KernelBuilder, x: Reg, w: Reg);
}

impl<'p> Block<'p> {
    fn tiles(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, layout: Layout) -> Result<Tiles, LowerError> {
        let shape = |factor: &Factor, own: &Axes, extent: i64| {
            let is_k_last = factor.labels.last().is_some_and(|l| self.p.k.contains(l));
            let is_deep = layout.may_be_deep && !is_k_last;
            let shape = staging::Shape {
                value: factor.value,
                rows: if is_deep { layout.depth } else { extent },
                cols: if is_deep { extent } else { layout.depth },
                pad: layout.pad,
                run: if is_deep { run(factor, own) } else { run(factor, &self.k) },
                is_column_major: !is_deep && !is_k_last,
            };
            (shape, is_deep)
        };
        let (x, x_is_deep) = shape(&self.p.x, &self.m, self.tile.0);
        let (w, w_is_deep) = shape(&self.p.w, &self.n, self.tile.1);
        let elem = |shape: &staging::Shape| elem_of(cx.graph.ty(shape.value).dtype);
        let (x_elem, w_elem) = (elem(&x)?, elem(&w)?);
        let array = |b: &mut KernelBuilder, name: &str, elem: Elem, size: i64| {
            let len = (layout.buffers * size) as u32;
            match layout.is_swizzled {
                true => b.shared_swizzled(name, elem, len),
                false => b.shared(name, elem, len),
            }
        };
        let (x_buffers, w_buffers) = if layout.is_joint {
            let stride = x.size() + w.size();
            let shared = array(b, "tiles", x_elem, stride);
            (Buffers { shared, first: 0, stride }, Buffers { shared, first: x.size(), stride })
        } else {
            let mut alone = |name: &str, elem: Elem, shape: &staging::Shape| {
                let stride = shape.size();
                Buffers { shared: array(b, name, elem, stride), first: 0, stride }
            };
            (alone("x_tile", x_elem, &x), alone("w_tile", w_elem, &w))
        };
        Ok(Tiles {
            x: Tile { stage: Stage::new(cx, b, x, x_buffers, self.threads)?, is_deep: x_is_deep },
            w: Tile { stage: Stage::new(cx, b, w, w_buffers, self.threads)?, is_deep: w_is_deep },
            layout,
        })
    }

    /// Begins to fill a buffer of an operand with tile `j` of k.
    fn fetch<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (tiles, side): (&Tiles, Side),
        (thread, j, slot): (Reg, Reg, Reg),
    ) -> Result<Fetched, LowerError> {
        let (tile, factor, own, first, n) = match side {
            Side::X => (&tiles.x, &self.p.x, &self.m, self.first_row, self.rows),
            Side::W => (&tiles.w, &self.p.w, &self.n, self.first_col, self.cols),
        };
        let base = b.mul(j, tiles.layout.depth);
        let buffer = tile.stage.buffer(b, slot);
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
    }

    /// Runs `compute` for every tile of k. Afterwards all copies have ended.
    fn for_tiles(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        tiles: &Tiles,
        compute: &mut dyn Compute,
    ) -> Result<(), LowerError> {
        let Layout { depth, buffers, ahead, .. } = tiles.layout;
        let thread = b.thread_idx(Axis::X);
        // Weights, which never change, are asked for before what the launch before this one may still be writing.
        for side in [Side::W, Side::X] {
            for j in 0..ahead {
                let slot = b.const_i64(j);
                let j = match self.share {
                    Some((first, _)) => b.add(first, j),
                    None => slot,
                };
                let fetched = self.fetch(cx, b, (tiles, side), (thread, j, slot))?;
                tiles.stage(side).arrive(b, &fetched);
                if side == Side::X {
                    b.async_commit();
                }
            }
        }
        let slot = |b: &mut KernelBuilder, first: i64| {
            let first = b.const_i64(first);
            b.var_init(first)
        };
        let (this, next) = (slot(b, 0), slot(b, ahead % buffers));
        let (first, end) = match self.share {
            Some(share) => share,
            None => (b.const_i64(0), b.ceil_div(self.depth, depth)),
        };
        let mut result = Ok(());
        b.for_("tile", first, end, 1, |b, j| {
            result = cx.scope(|cx| {
                b.async_wait((ahead - 1) as u16);
                b.barrier();
                let (x, w) = (tiles.x.stage.buffer(b, this), tiles.w.stage.buffer(b, this));
                compute.begin(b, x, w);
                let after = b.add(j, ahead);
                let [of_x, of_w] =
                    [Side::X, Side::W].map(|side| self.fetch(cx, b, (tiles, side), (thread, after, next)));
                b.async_commit();
                compute.end(b, x, w);
                tiles.x.stage.arrive(b, &of_x?);
                tiles.w.stage.arrive(b, &of_w?);
                for slot in [this, next] {
                    let following = b.add(slot, 1);
                    let is_last = b.eq(following, buffers);
                    let first = b.const_i64(0);
                    let following = b.select(is_last, first, following);
                    b.assign(slot, following);
                }
                Ok(())
            });
        });
        b.async_wait(0);
        result
    }

    /// An array for the tile of the result over the buffers, with rows `pitch` elements apart. All warps must have ended
    /// their work with the tiles before this, and stored before [`Block::store`].
    fn result(&self, b: &mut KernelBuilder, tiles: &Tiles, pitch: i64) -> SharedId {
        b.barrier();
        b.shared_over("y_tile", Elem::F32, (self.tile.0 * pitch) as u32, tiles.x.stage.shared())
    }

    /// Takes the tile of the result through the epilogue to memory.
    fn store<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (result, pitch): (SharedId, i64),
    ) -> Result<(), LowerError> {
        b.barrier();
        let thread = b.thread_idx(Axis::X);
        let last = self.n.extents.last().and_then(Dim::as_const);
        let is_last = self.p.output.ends_with(&self.n.labels);
        let lanes = if is_last && last.is_some_and(|n| n % i64::from(LANES) == 0) { LANES } else { 1 };
        // Divided by shifts.
        let width = 1 << self.tile.1.trailing_zeros();
        let chunks = width / i64::from(lanes);
        let before = std::mem::replace(&mut cx.lanes, lanes);
        let mut stored = Ok(());
        let part = Part { result, pitch, chunks, lanes };
        let n_chunks = self.tile.0 * chunks;
        b.for_("part", 0, self.tile.1, width, |b, first| {
            let one_by_one = |cx: &mut Cx<'a>, b: &mut KernelBuilder, sink: &mut Sink<'a>| {
                let mut stored = Ok(());
                b.for_("i", thread, n_chunks, self.threads.into(), |b, i| {
                    let (row, col) = part.place(b, first, i);
                    stored = cx.scope(|cx| self.put(cx, b, sink, (row, col), |b| part.load(b, row, col)));
                });
                stored
            };
            let step = i64::from(self.threads) * TOGETHER;
            if n_chunks % step != 0 {
                stored = one_by_one(cx, b, sink);
                return;
            }
            // Places are taken together where the whole tile exists.
            let [last_row, last_col] = [(self.first_row, self.tile.0), (self.first_col, self.tile.1)]
                .map(|(first, n)| b.add(first, n));
            let (in_rows, in_cols) = (b.le(last_row, self.rows), b.le(last_col, self.cols));
            let is_whole = b.and(in_rows, in_cols);
            b.open_list();
            b.for_("i", thread, n_chunks, step, |b, i| {
                stored = cx.scope(|cx| self.put_together(cx, b, sink, &part, (first, i)));
            });
            let on_true = b.close_list();
            b.open_list();
            let rest = cx.scope(|cx| one_by_one(cx, b, sink));
            let on_false = b.close_list();
            b.push_stmt(Stmt::If(If { cond: is_whole, on_true, on_false }));
            stored = std::mem::replace(&mut stored, Ok(())).and(rest);
        });
        cx.lanes = before;
        stored
    }

    /// Stores what a thread has at `TOGETHER` places of a tile that exists as a whole.
    fn put_together<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        part: &Part,
        (first, i): (Reg, Reg),
    ) -> Result<(), LowerError> {
        let mut places = Vec::new();
        for k in 0..TOGETHER {
            let i = b.add(i, k * i64::from(self.threads));
            let (row, col) = part.place(b, first, i);
            let (m, n) = (b.add(self.first_row, row), b.add(self.first_col, col));
            let idx = self.index(cx, b, (m, n));
            sink.fetch(cx, b, &idx)?;
            places.push((row, col, idx));
        }
        for (row, col, idx) in places {
            let value = part.load(b, row, col);
            let value = b.cast(value, self.elem);
            sink.put(cx, b, &idx, value)?;
        }
        Ok(())
    }

    /// The index of an element of the result, and of those beside it.
    fn index(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, (m, n): (Reg, Reg)) -> Vec<Idx> {
        let extents = cx.extents(b, &self.n.extents);
        let n = cx.lanes_from(n);
        let (m_at, n_at) = (self.m.unravel(cx, b, m), cx.index(b).unravel(n, &extents));
        let parts = [(&self.m.labels, &m_at), (&self.n.labels, &n_at), (&self.batch.labels, &self.batch_at)];
        pick(&self.p.output, &parts)
    }

    /// Stores an element of the result and those beside it, as many as vectors have lanes, if there are such elements.
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
                let idx = self.index(cx, b, (m, n));
                let value = value(b);
                let value = b.cast(value, self.elem);
                sink.put(cx, b, &idx, value)
            });
        });
        result
    }
}

/// Columns of the tile of the result in shared memory that are stored in one loop: where rows begin, and how many of so
/// many lanes they have there.
struct Part {
    result: SharedId,
    pitch: i64,
    chunks: i64,
    lanes: u16,
}

impl Part {
    /// Row and column of place `i` behind column `first`.
    fn place(&self, b: &mut KernelBuilder, first: Reg, i: Reg) -> (Reg, Reg) {
        let (row, col) = (b.div(i, self.chunks), b.rem(i, self.chunks));
        let col = b.mul(col, i64::from(self.lanes));
        (row, b.add(col, first))
    }

    fn load(&self, b: &mut KernelBuilder, row: Reg, col: Reg) -> Reg {
        let at = b.mul(row, self.pitch);
        let at = b.add(at, col);
        b.load(self.result, at, self.lanes)
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
