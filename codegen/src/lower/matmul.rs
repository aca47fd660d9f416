//! Products with a weight matrix: the weight packed into panels, a register block of rows times a panel.
//!
//! One block brings some rows into the form that it multiplies and computes them times several panels of [`PANEL`]
//! columns: [`plain`] for weights as numbers, [`halves`] for `bf16`, [`integers`] for quantized ones. Blocks of the same
//! panels follow each other, so that these stay in the second-level cache. On 512-bit vectors the register block is
//! 12 x 32 (24 accumulators, two weight vectors, one broadcast); on 256-bit vectors it is 6 x 16, run four times. Missing
//! columns are masked.

mod halves;
mod integers;
mod plain;
mod tiles;

use super::access::Cx;
use super::elementwise::row_index;
use super::index::Idx;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::assemble::{PANEL, Packing};
use crate::kernel::{Elem, KernelBuilder, LocalId, ParamId, Reg};
use crate::target::CpuTarget;
use ssmc_ir::ops::{Contract, Dequantize, Label, Op};
use ssmc_ir::{DType, Dim, Graph, Node, ValueId};

/// Rows that are multiplied together.
const ROWS: i64 = 12;

/// Rows of a block that brings them into another form: several times [`ROWS`], and whole matrix tiles.
const BLOCK_ROWS: i64 = 48;

/// Bytes of panels that a block multiplies with at most, if it has rows enough.
const CACHED_BYTES: i64 = 1 << 20;

/// Vectors of columns that are accumulated together.
const VECTORS: i64 = 2;

/// How a matrix is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Storage {
    /// As numbers, which are cast to what the product takes.
    Plain,
    /// As integers with scales.
    Integers { scale: ValueId, op: Dequantize },
}

/// The weight behind an operand: the operand itself, what is cast to it or the integers that it stands for.
fn weight_of(graph: &Graph, value: ValueId) -> Option<(ValueId, Storage)> {
    let node = graph.def_node(value)?;
    let is_weight = |x: &ValueId| matches!(graph.def_op(*x), Some(Op::WeightRef(_)));
    match &node.op {
        Op::WeightRef(_) => Some((value, Storage::Plain)),
        Op::Cast(_) => Some((node.operands[0].filter(is_weight)?, Storage::Plain)),
        Op::Dequantize(op) => {
            let (q, scale) = (node.operands[0].filter(is_weight)?, node.operands[1].filter(is_weight)?);
            Some((q, Storage::Integers { scale, op: op.clone() }))
        }
        _ => None,
    }
}

struct Product {
    x: ValueId,
    x_labels: Vec<Label>,
    weight: ValueId,
    storage: Storage,
    /// Axes of the weight that are summed, in its own order, and the one that stays.
    k_axes: Vec<usize>,
    n_axis: usize,
    n_label: Label,
    k_labels: Vec<Label>,
    m_labels: Vec<Label>,
}

fn recognize(graph: &Graph, node: &Node) -> Option<Product> {
    let Op::Contract(op) = &node.op else { return None };
    let [first, second] = op.spec.inputs.as_slice() else { return None };
    let operands = [node.operands[0]?, node.operands[1]?];
    let swap = weight_of(graph, operands[1]).is_none();
    let (x, w, x_labels, w_labels) = match swap {
        false => (operands[0], operands[1], first, second),
        true => (operands[1], operands[0], second, first),
    };
    let (weight, storage) = weight_of(graph, w)?;
    let kept: Vec<usize> = (0..w_labels.len()).filter(|i| op.spec.output.contains(&w_labels[*i])).collect();
    let k_axes: Vec<usize> = (0..w_labels.len()).filter(|i| !kept.contains(i)).collect();
    let [n_axis] = kept.as_slice() else { return None };
    let n_label = w_labels[*n_axis];
    let k_labels: Vec<Label> = k_axes.iter().map(|i| w_labels[*i]).collect();
    if x_labels.contains(&n_label) || k_labels.is_empty() || !k_labels.iter().all(|k| x_labels.contains(k)) {
        return None;
    }
    let m_labels: Vec<Label> = op.spec.output.iter().copied().filter(|l| *l != n_label).collect();
    // Labels that are summed in x alone would need a sum of their own.
    if x_labels.iter().any(|l| !k_labels.contains(l) && !m_labels.contains(l))
        || !graph.ty(x).dtype.is_float()
    {
        return None;
    }
    if let Storage::Integers { op, .. } = &storage {
        let k = graph.ty(weight).shape[op.axis].as_const();
        let is_along_k = k_axes == [op.axis] && op.group > 0;
        if !is_along_k || !k.is_some_and(|k| integers::fits(k, op)) {
            return None;
        }
    }
    Some(Product {
        x,
        x_labels: x_labels.clone(),
        weight,
        storage,
        k_axes,
        n_axis: *n_axis,
        n_label,
        k_labels,
        m_labels,
    })
}

impl Product {
    /// Whether the weight lies in pairs of `bf16`.
    fn is_half(&self, graph: &Graph, acc: Elem) -> bool {
        let shape = &graph.ty(self.weight).shape;
        let k = self.k_axes.iter().try_fold(1, |k, axis| Some(k * shape[*axis].as_const()?));
        matches!(self.storage, Storage::Plain)
            && graph.ty(self.weight).dtype == DType::BF16
            && acc == Elem::F32
            && k.is_some_and(|k| k % 2 == 0)
    }

    fn packing(&self, graph: &Graph, acc: Elem) -> Packing {
        let (k_axes, n_axis) = (self.k_axes.clone(), self.n_axis);
        match &self.storage {
            Storage::Integers { op, .. } => Packing::Quads { k_axes, n_axis, bits: op.bits as u32 },
            Storage::Plain if self.is_half(graph, acc) => Packing::Pairs { k_axes, n_axis },
            Storage::Plain => Packing::Panels { k_axes, n_axis },
        }
    }
}

/// How a weight, whose rows are looked up, is packed for a product of the graph that sums along them, if there is one.
pub(super) fn packing_of_rows(graph: &Graph, weight: ValueId) -> Option<Packing> {
    let name = |value: ValueId| match graph.def_op(value) {
        Some(Op::WeightRef(weight)) => Some(&weight.name),
        _ => None,
    };
    let wanted = name(weight)?;
    graph.nodes().find_map(|(_, node)| {
        let p = recognize(graph, node).filter(|p| name(p.weight) == Some(wanted) && p.k_axes == [1])?;
        let acc = accumulator(elem_of(graph.ty(node.results[0]).dtype).ok()?);
        Some(p.packing(graph, acc))
    })
}

/// Whether this contraction is a product with a weight matrix.
pub(crate) fn applies(graph: &Graph, node: &Node) -> bool {
    recognize(graph, node).is_some()
}

/// What the code for a product needs to know of it.
struct Shape<'p> {
    p: &'p Product,
    output: Vec<Label>,
    k_extents: Vec<Dim>,
    m_extents: Vec<Dim>,
    k: i64,
    n: i64,
    elem: Elem,
    /// The type of sums.
    acc: Elem,
}

/// How often the vectors of a register block go into a panel, and whether columns of a panel may be missing.
struct Columns {
    lanes: i64,
    vectors: i64,
    has_tail: bool,
}

impl Columns {
    /// Vectors of `each` elements per column, from column `start` of what begins at `at`.
    fn load(&self, b: &mut KernelBuilder, (mem, at): (ParamId, Reg), start: i64, each: i64) -> Vec<Reg> {
        let load = |v: i64| {
            let at = b.add(at, each * (start + v * self.lanes));
            b.load(mem, at, (each * self.lanes) as u16)
        };
        (0..self.vectors).map(load).collect()
    }
}

/// The panels and rows of a block that multiplies with several panels.
struct Span {
    grid: Dim,
    /// First row, and the one after the last.
    rows: (Reg, Reg),
    /// First panel, and the one after the last.
    panels: (Reg, Reg),
}

impl Span {
    /// Of blocks of `block_rows` rows for all panels of `panel_bytes` and `m` rows.
    fn new(
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        shape: &Shape<'_>,
        panel_bytes: i64,
        (m, block_rows): (&Dim, i64),
    ) -> Result<Self, LowerError> {
        let n_panels = (shape.n + PANEL - 1) / PANEL;
        let m_blocks = m.ceildiv(&Dim::from(block_rows));
        let at_once = panels_at_once(n_panels, panel_bytes, &m_blocks);
        let grid = [Dim::from(n_panels).ceildiv(&at_once), m_blocks];
        let at_once = cx.dim(b, &at_once);
        let place = row_index(cx, b, &grid);
        let [Idx::Uniform(group), Idx::Uniform(m_block)] = place[..] else { return Err(not_scalar()) };
        let first_row = b.mul(m_block, block_rows);
        let end_row = b.add(first_row, block_rows);
        let n_rows = cx.dim(b, m);
        let end_row = b.min(end_row, n_rows);
        let first = b.mul(group, at_once);
        let end = b.add(first, at_once);
        let end = b.min(end, n_panels);
        let [groups, m_blocks] = grid;
        Ok(Self { grid: groups * &m_blocks, rows: (first_row, end_row), panels: (first, end) })
    }

    /// Emits the code for the rows of the block: for [`ROWS`] together as long as there are as many, then for one after
    /// the other.
    fn for_rows<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        body: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, &[Reg]),
    ) {
        let (first, end) = self.rows;
        b.for_("tile", first, end, ROWS, |b, m0| for_rows(cx, b, (m0, end), body));
    }
}

impl Shape<'_> {
    fn columns(&self, lanes: u16) -> Columns {
        let lanes = i64::from(lanes);
        let vectors = VECTORS.min((PANEL.min(self.n) + lanes - 1) / lanes).max(1);
        // Columns come in whole vectors, and in whole panels if there is more than one.
        let whole = if self.n > PANEL { PANEL } else { vectors * lanes };
        Columns { lanes, vectors, has_tail: self.n % whole != 0 }
    }

    /// The indices of a row.
    fn row_idx(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, row: Reg) -> Vec<Idx> {
        let extents = cx.extents(b, &self.m_extents);
        cx.index(b).unravel(Idx::Uniform(row), &extents)
    }

    /// The element of the factor that is no weight, in a row and at a place of the sum.
    fn x<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        row: &[Idx],
        k_idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        let at_label = |label: &Label| match self.p.k_labels.iter().position(|l| l == label) {
            Some(i) => k_idx[i],
            None => row[self.p.m_labels.iter().position(|l| l == label).expect("a label is of k or m")],
        };
        let idx: Vec<Idx> = self.p.x_labels.iter().map(at_label).collect();
        let x = cx.get(b, self.p.x, &idx)?;
        Ok(b.cast(x, self.acc))
    }

    /// A row of the factor that is no weight, as `elem`, to `copied` from element `first` on.
    fn copy_row(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        row: Reg,
        (copied, first, elem): (LocalId, Reg, Elem),
    ) -> Result<(), LowerError> {
        let k_extents = cx.extents(b, &self.k_extents);
        let lanes = i64::from(cx.lanes);
        let row_idx = self.row_idx(cx, b, row);
        let mut result = Ok(());
        b.for_("k", 0, self.k, lanes, |b, k| {
            let left = b.sub(self.k, k);
            let mask = (self.k % lanes != 0).then(|| b.lane_mask(left, cx.lanes));
            result = cx.masked(mask, |cx| {
                let at = cx.lanes_from(k);
                let k_idx = cx.index(b).unravel(at, &k_extents);
                let x = self.x(cx, b, &row_idx, &k_idx)?;
                let x = cx.widen(b, x);
                let x = b.cast(x, elem);
                let to = b.add(first, k);
                match mask {
                    Some(mask) => b.store_masked(copied, to, x, mask),
                    None => b.store(copied, to, x),
                }
                Ok(())
            });
        });
        result
    }

    /// Hands sums of a row over, vectors of columns from `column` on.
    fn put<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        row: &[Idx],
        (column, sums): (Reg, &[Reg]),
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let columns = self.columns(cx.lanes);
        for (v, sum) in sums.iter().enumerate() {
            let base = b.add(column, v as i64 * columns.lanes);
            let left = b.sub(self.n, base);
            let mask = columns.has_tail.then(|| b.lane_mask(left, cx.lanes));
            cx.masked(mask, |cx| {
                let column = cx.lanes_from(base);
                let at_label = |label: &Label| {
                    if *label == self.p.n_label {
                        return column;
                    }
                    let axis = self.p.m_labels.iter().position(|l| l == label);
                    row[axis.expect("an output label is of m or n")]
                };
                let idx: Vec<Idx> = self.output.iter().map(at_label).collect();
                let x = b.cast(*sum, self.elem);
                put(cx, b, &idx, x)
            })?;
        }
        Ok(())
    }
}

impl Shape<'_> {
    /// As [`Shape::put`] for the sums of a whole panel, which lie in a row of [`PANEL`] elements of an array.
    fn put_row<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        row: Reg,
        (panel, sums, slot): (Reg, LocalId, Reg),
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let columns = self.columns(cx.lanes);
        let row_idx = self.row_idx(cx, b, row);
        let base = b.mul(slot, PANEL);
        for start in (0..PANEL.min(self.n)).step_by((columns.vectors * columns.lanes) as usize) {
            let load = |v: i64| {
                let at = b.add(base, start + v * columns.lanes);
                b.load(sums, at, cx.lanes)
            };
            let sums: Vec<Reg> = (0..columns.vectors).map(load).collect();
            let column = b.mul(panel, PANEL);
            let column = b.add(column, start);
            self.put(cx, b, &row_idx, (column, &sums), put)?;
        }
        Ok(())
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Contract, target: &CpuTarget) -> Result<Launch, LowerError> {
    let p = recognize(l.graph, l.node).ok_or(LowerError::MissingOperand { op: "contract" })?;
    let w_shape = l.shape(p.weight);
    let n = l.constant("columns", &w_shape[p.n_axis])?;
    let k_extents: Vec<Dim> = p.k_axes.iter().map(|a| w_shape[*a].clone()).collect();
    let k = k_extents.iter().try_fold(1, |k, d| Ok(k * l.constant("rows of the weight", d)?))?;
    let x_shape = l.shape(p.x);
    let extent_of = |label: &Label| -> Dim {
        let axis = p.x_labels.iter().position(|x| x == label);
        axis.map_or(Dim::from(1), |axis| x_shape[axis].clone())
    };
    let m_extents: Vec<Dim> = p.m_labels.iter().map(extent_of).collect();
    let m = m_extents.iter().fold(Dim::from(1), |m, d| m * d);
    let elem = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let shape = Shape {
        p: &p,
        output: op.spec.output.clone(),
        k_extents,
        m_extents,
        k,
        n,
        elem,
        acc: accumulator(elem),
    };
    let flops = m.clone() * Dim::from(2 * k * n);
    let is_half = p.is_half(l.graph, shape.acc);
    let grid = match &p.storage {
        Storage::Integers { scale, op } => integers::lower(l, &shape, (*scale, op), target, &m)?,
        Storage::Plain if is_half => halves::lower(l, &shape, target, &m)?,
        Storage::Plain => plain::lower(l, &shape, &m)?,
    };
    Ok(Launch { grid, flops })
}

fn not_scalar() -> LowerError {
    LowerError::Unsupported { op: "contract", reason: "block indices are scalars".into() }
}

/// Emits the code for [`ROWS`] rows from `m0` on: for all of them if there are as many, else for one after the other.
fn for_rows<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    (m0, m_all): (Reg, Reg),
    body: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, &[Reg]),
) {
    let m_end = b.add(m0, ROWS);
    let is_full = b.le(m_end, m_all);
    b.if_(is_full, |b| {
        let rows: Vec<Reg> = (0..ROWS).map(|r| b.add(m0, r)).collect();
        body(cx, b, &rows);
    });
    let is_tail = b.not(is_full);
    b.if_(is_tail, |b| b.for_("m", m0, m_all, 1, |b, row| body(cx, b, &[row])));
}

/// Takes the element of the result at an index.
type Put<'f, 'a> = dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, &[Idx], Reg) -> Result<(), LowerError> + 'f;

/// Panels that one block multiplies with, after it has brought its rows into another form: so many that this pays, and
/// so few that a step has blocks for several threads. With more blocks of rows they are as many as the second-level
/// cache holds while these pass by, in groups as equal as they can be: threads get blocks in equal numbers.
fn panels_at_once(panels: i64, panel_bytes: i64, m_blocks: &Dim) -> Dim {
    let few = (panels / 8).clamp(1, 8);
    let most = (CACHED_BYTES / panel_bytes.max(1)).clamp(few, panels.max(few));
    let n_groups = (panels + most - 1) / most;
    let most = ((panels + n_groups - 1) / n_groups.max(1)).max(few);
    let more = m_blocks.floordiv(&Dim::from(2)) * &Dim::from(few);
    more.at_least(&Dim::from(few)).at_most(&Dim::from(most))
}
