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
//! Operands that a group computes itself are evaluated element by element while they are staged; results pass the
//! epilogue on their way to memory. Elements beyond the ends of m, n and k are staged as 0 and never stored.

mod fma;
mod mma;

use super::staging::{self, Fetched, Stage, buffers};
use crate::kernel::{Axis, Elem, KernelBuilder, Reg};
use crate::lower::access::Cx;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::{Contract, Label, Op};
use ssmc_ir::{DType, Def, Dim, Graph, Group, Node, NodeId, ValueId};

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
}

impl Schedule {
    /// The schedule for the element types of a node.
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
        }
    }
}

/// One operand: its axes, and the labels of the axis that the other operand lacks.
struct Factor {
    value: ValueId,
    labels: Vec<Label>,
    own: Vec<Label>,
}

/// A contraction as a product of matrices.
struct Product {
    x: Factor,
    w: Factor,
    batch: Vec<Label>,
    k: Vec<Label>,
    output: Vec<Label>,
}

/// What is staged for an operand: the operand itself, or what the group widens to it, exactly, on every load.
fn source(graph: &Graph, is_member: &dyn Fn(NodeId) -> bool, value: ValueId) -> ValueId {
    let Def::Result(id, _) = graph.def(value) else { return value };
    let node = graph.node(id);
    let (Op::Cast(op), Some(x)) = (&node.op, node.operands.first().copied().flatten()) else { return value };
    let widens = op.to == DType::F32 && matches!(graph.ty(x).dtype, DType::F16 | DType::BF16);
    if widens && is_member(id) { x } else { value }
}

fn recognize(
    graph: &Graph,
    node: &Node,
    is_member: &dyn Fn(NodeId) -> bool,
) -> Result<Product, LowerError> {
    let refuse = |reason: &str| LowerError::Unsupported { op: node.op.name(), reason: reason.into() };
    let Op::Contract(Contract { spec }) = &node.op else { return Err(refuse("it is no product")) };
    let ([first, second], [Some(a), Some(b)]) = (spec.inputs.as_slice(), node.operands.as_slice()) else {
        return Err(refuse("only products of two tensors have a thread-block schedule"));
    };
    for value in [a, b] {
        let dtype = graph.ty(*value).dtype;
        if !matches!(elem_of(dtype)?, Elem::F32 | Elem::F16 | Elem::Bf16) {
            return Err(LowerError::ElementType { op: node.op.name(), found: dtype.name() });
        }
    }
    let in_output = |l: &&Label| spec.output.contains(l);
    let factor = |value: ValueId, labels: &[Label], other: &[Label]| Factor {
        value: source(graph, is_member, value),
        labels: labels.to_vec(),
        own: spec.output.iter().copied().filter(|l| labels.contains(l) && !other.contains(l)).collect(),
    };
    let (mut x, mut w) = (factor(*a, first, second), factor(*b, second, first));
    // Neighboring threads store neighboring columns, so the last axis of the result is one of columns.
    if spec.output.last().is_some_and(|l| x.own.contains(l)) {
        std::mem::swap(&mut x, &mut w);
    }
    let batch = spec.output.iter().copied().filter(|l| first.contains(l) && second.contains(l)).collect();
    let k: Vec<Label> =
        w.labels.iter().copied().filter(|l| !in_output(&l) && x.labels.contains(l)).collect();
    if k.is_empty() || k.len() != spec.summed().len() {
        return Err(refuse("only sums over axes of both operands have a thread-block schedule"));
    }
    Ok(Product { x, w, batch, k, output: spec.output.clone() })
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
    let batch_extents = cx.extents(b, &batch.extents);
    let batch_at = cx.index(b).unravel(place[0], &batch_extents);
    let [rows, cols, depth] = [&m, &n, &k].map(|axes| cx.dim(b, &axes.n()));
    let block =
        Block { p: &p, batch, m, n, k, batch_at, first_row, first_col, rows, cols, depth, elem };
    match schedule {
        Schedule::Fma => fma::lower(cx, b, sink, &block)?,
        Schedule::Mma => mma::lower(cx, b, sink, &block)?,
    }
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// How deep a tile of k is, and the padding of its rows.
struct Depth {
    k: i64,
    pad: i64,
}

/// The tiles of both operands.
struct Stages {
    x: Stage,
    w: Stage,
    depth: i64,
}

impl<'p> Block<'p> {
    fn stages(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        depth: Depth,
        threads: u32,
    ) -> Result<Stages, LowerError> {
        let mut stage = |name: &str, factor: &Factor| {
            let shape = staging::Shape {
                value: factor.value,
                rows: TILE,
                cols: depth.k,
                pad: depth.pad,
                run: self.run(factor),
                is_column_major: !factor.labels.last().is_some_and(|l| self.p.k.contains(l)),
            };
            Stage::declare(cx, b, name, shape, threads)
        };
        let (x, w) = (stage("x_tile", &self.p.x)?, stage("w_tile", &self.p.w)?);
        Ok(Stages { x, w, depth: depth.k })
    }

    /// Elements along k that lie together in memory, from multiples of their number.
    fn run(&self, factor: &Factor) -> i64 {
        match self.k.n().as_const() {
            Some(k) if factor.labels.ends_with(&self.k.labels) => k.max(1),
            _ => 1,
        }
    }

    /// Begins to fill the buffers of both operands with tile `j` of k.
    fn fetch<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        stages: &Stages,
        thread: Reg,
        (j, x_buffer, w_buffer): (Reg, Reg, Reg),
    ) -> Result<[Fetched; 2], LowerError> {
        let base = b.mul(j, stages.depth);
        let of = |factor: &Factor, own: &Axes, first: Reg, n: Reg| {
            let (labels, own_labels) = (factor.labels.clone(), own.labels.clone());
            let own_extents = own.extents.clone();
            move |cx: &mut Cx<'a>, b: &mut KernelBuilder, (row, col): (Reg, Reg)| {
                let (at, k) = (b.add(first, row), b.add(base, col));
                let own_extents = cx.extents(b, &own_extents);
                let own_at = cx.index(b).unravel(Idx::Uniform(at), &own_extents);
                let k_extents = cx.extents(b, &self.k.extents);
                let k_at = cx.index(b).unravel(Idx::Uniform(k), &k_extents);
                let parts =
                    [(&own_labels, &own_at), (&self.k.labels, &k_at), (&self.batch.labels, &self.batch_at)];
                let idx = pick(&labels, &parts);
                let (in_rows, in_depth) = (b.lt(at, n), b.lt(k, self.depth));
                (idx, b.and(in_rows, in_depth))
            }
        };
        let mut place = of(&self.p.x, &self.m, self.first_row, self.rows);
        let x = stages.x.fetch(cx, b, (thread, x_buffer), &mut place)?;
        let mut place = of(&self.p.w, &self.n, self.first_col, self.cols);
        let w = stages.w.fetch(cx, b, (thread, w_buffer), &mut place)?;
        Ok([x, w])
    }

    /// Runs `compute` for every tile of k; it gets where the buffers of x and w begin.
    fn for_tiles(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        stages: &Stages,
        compute: &mut dyn FnMut(&mut KernelBuilder, Reg, Reg),
    ) -> Result<(), LowerError> {
        let thread = b.thread_idx(Axis::X);
        let arrive = |b: &mut KernelBuilder, [x, w]: &[Fetched; 2]| {
            stages.x.arrive(b, x);
            stages.w.arrive(b, w);
        };
        let zero = b.const_i64(0);
        let fetched = self.fetch(cx, b, stages, thread, (zero, zero, zero))?;
        arrive(b, &fetched);
        let n_tiles = b.ceil_div(self.depth, stages.depth);
        let mut result = Ok(());
        b.for_("tile", 0, n_tiles, 1, |b, j| {
            result = cx.scope(|cx| {
                b.barrier();
                let (x_this, x_next) = buffers(b, j, stages.x.size());
                let (w_this, w_next) = buffers(b, j, stages.w.size());
                let after = b.add(j, 1);
                let fetched = self.fetch(cx, b, stages, thread, (after, x_next, w_next))?;
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
                let (m_extents, n_extents) =
                    (cx.extents(b, &self.m.extents), cx.extents(b, &self.n.extents));
                let m_at = cx.index(b).unravel(Idx::Uniform(m), &m_extents);
                let n_at = cx.index(b).unravel(Idx::Uniform(n), &n_extents);
                let parts = [
                    (&self.m.labels, &m_at),
                    (&self.n.labels, &n_at),
                    (&self.batch.labels, &self.batch_at),
                ];
                let idx = pick(&self.p.output, &parts);
                let value = value(b);
                let value = b.cast(value, self.elem);
                sink.put(cx, b, &idx, value)
            });
        });
        result
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

fn scalar(i: Idx) -> Result<Reg, LowerError> {
    match i {
        Idx::Uniform(r) => Ok(r),
        Idx::Lanes { .. } | Idx::Vector(_) => {
            Err(LowerError::Unsupported { op: "contract", reason: "block indices are scalars".into() })
        }
    }
}
