//! Products with a weight matrix: the weight packed into panels, a register block of rows times a panel.
//!
//! One block computes `ROWS` rows times one panel of [`PANEL`] columns. Blocks of one panel follow each other, so
//! that the panel stays in the second-level cache. On 512-bit vectors the register block is 12 x 32 (24
//! accumulators, two weight vectors, one broadcast); on 256-bit vectors it is 6 x 16, run four times. One variant: what
//! is left of the rows runs through the same code one row at a time, missing columns are masked.

use super::access::Cx;
use super::elementwise::row_index;
use super::index::Idx;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::assemble::{PANEL, Packing};
use crate::kernel::{Elem, KernelBuilder, ParamId, Reg};
use ssmc_ir::ops::{Contract, Label, Op};
use ssmc_ir::{Dim, Graph, Node, ValueId};

/// Rows of a block.
const ROWS: i64 = 12;

/// Vectors of columns that are accumulated together.
const VECTORS: i64 = 2;

/// The weight behind an operand: the operand itself or what is cast to it.
fn weight_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let node = graph.def_node(value)?;
    match &node.op {
        Op::WeightRef(_) => Some(value),
        Op::Cast(_) => node.operands[0].filter(|x| matches!(graph.def_op(*x), Some(Op::WeightRef(_)))),
        _ => None,
    }
}

struct Product {
    x: ValueId,
    x_labels: Vec<Label>,
    weight: ValueId,
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
    let weight = weight_of(graph, w)?;
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
    Some(Product {
        x,
        x_labels: x_labels.clone(),
        weight,
        k_axes,
        n_axis: *n_axis,
        n_label,
        k_labels,
        m_labels,
    })
}

/// Whether this contraction is a product with a weight matrix.
pub(crate) fn applies(graph: &Graph, node: &Node) -> bool {
    recognize(graph, node).is_some()
}

/// What every tile of a block needs.
struct Tile<'p> {
    p: &'p Product,
    output: Vec<Label>,
    panel: ParamId,
    /// First element of the panel.
    panel_base: Reg,
    /// First column of the panel.
    column: Reg,
    k_extents: Vec<Dim>,
    m_extents: Vec<Dim>,
    k: i64,
    n: i64,
    elem: Elem,
    /// The type of sums.
    acc: Elem,
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Contract) -> Result<Launch, LowerError> {
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
    let m_tiles = m.ceildiv(&Dim::from(ROWS));
    let panels = Dim::from(n).ceildiv(&Dim::from(PANEL));
    let elem = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let (b, cx, sink) = l.parts();
    cx.narrow(&Dim::from(n));
    let packing = Packing::Panels { k_axes: p.k_axes.clone(), n_axis: p.n_axis };
    let panel_param = cx.packed_param(b, p.weight, packing)?;
    let place = row_index(cx, b, &[panels.clone(), m_tiles.clone()]);
    let [Idx::Uniform(panel), Idx::Uniform(m_tile)] = place[..] else {
        return Err(LowerError::Unsupported { op: "contract", reason: "block indices are scalars".into() });
    };
    let panel_base = b.mul(panel, k * PANEL);
    let column = b.mul(panel, PANEL);
    let tile = Tile {
        p: &p,
        output: op.spec.output.clone(),
        panel: panel_param,
        panel_base,
        column,
        k_extents,
        m_extents,
        k,
        n,
        elem,
        acc: accumulator(elem),
    };
    let m0 = b.mul(m_tile, ROWS);
    let m_end = b.add(m0, ROWS);
    let m_all = cx.dim(b, &m);
    let is_full = b.le(m_end, m_all);
    let rows_at_once = if cx.lanes >= 16 { ROWS } else { ROWS / 2 };
    let mut result = Ok(());
    b.if_(is_full, |b| {
        for first in (0..ROWS).step_by(rows_at_once as usize) {
            let rows: Vec<Reg> = (first..first + rows_at_once).map(|r| b.add(m0, r)).collect();
            let put: &mut Put<'_, '_> = &mut |cx, b, idx, x| sink.put(cx, b, idx, x);
            result = result.clone().and(cx.scope(|cx| run(&tile, cx, b, &rows, put)));
        }
    });
    result?;
    let is_tail = b.not(is_full);
    let mut result = Ok(());
    b.if_(is_tail, |b| {
        b.for_("m", m0, m_all, 1, |b, row| {
            result = cx.scope(|cx| run(&tile, cx, b, &[row], &mut |cx, b, idx, x| sink.put(cx, b, idx, x)));
        });
    });
    result?;
    Ok(Launch { grid: panels * &m_tiles, flops: m * Dim::from(2 * k * n) })
}

/// Takes the element of the result at an index.
type Put<'f, 'a> = dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, &[Idx], Reg) -> Result<(), LowerError> + 'f;

/// Some rows times the panel.
fn run<'a>(
    t: &Tile<'_>,
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    rows: &[Reg],
    put: &mut Put<'_, 'a>,
) -> Result<(), LowerError> {
    let lanes = i64::from(cx.lanes);
    let m_extents = cx.extents(b, &t.m_extents);
    let k_extents = cx.extents(b, &t.k_extents);
    let row_idx: Vec<Vec<Idx>> =
        rows.iter().map(|row| cx.index(b).unravel(Idx::Uniform(*row), &m_extents)).collect();
    let vectors = VECTORS.min((PANEL.min(t.n) + lanes - 1) / lanes).max(1);
    // Columns come in whole vectors, and in whole panels if there is more than one.
    let whole = if t.n > PANEL { PANEL } else { vectors * lanes };
    for start in (0..PANEL.min(t.n)).step_by((vectors * lanes) as usize) {
        let zero = b.zero(t.acc.x(cx.lanes));
        let acc: Vec<Vec<Reg>> =
            rows.iter().map(|_| (0..vectors).map(|_| b.var_init(zero)).collect()).collect();
        let mut result = Ok(());
        b.for_("k", 0, t.k, 1, |b, k| {
            result = cx.scope(|cx| {
                let offset = b.mul(k, PANEL);
                let at = b.add(t.panel_base, offset);
                let w: Vec<Reg> = (0..vectors)
                    .map(|v| {
                        let at = b.add(at, start + v * lanes);
                        let w = b.load(t.panel, at, cx.lanes);
                        b.cast(w, t.acc)
                    })
                    .collect();
                let k_idx = cx.index(b).unravel(Idx::Uniform(k), &k_extents);
                for (row, acc) in row_idx.iter().zip(&acc) {
                    let at_label = |label: &Label| match t.p.k_labels.iter().position(|l| l == label) {
                        Some(i) => k_idx[i],
                        None => {
                            row[t.p.m_labels.iter().position(|l| l == label).expect("a label is of k or m")]
                        }
                    };
                    let idx: Vec<Idx> = t.p.x_labels.iter().map(at_label).collect();
                    let x = cx.get(b, t.p.x, &idx)?;
                    let x = b.cast(x, t.acc);
                    let x = cx.widen(b, x);
                    for (w, acc) in w.iter().zip(acc) {
                        let sum = b.fma(x, *w, *acc);
                        b.assign(*acc, sum);
                    }
                }
                Ok(())
            });
        });
        result?;
        for (row, acc) in row_idx.iter().zip(&acc) {
            for (v, acc) in acc.iter().enumerate() {
                let base = b.add(t.column, start + v as i64 * lanes);
                let left = b.sub(t.n, base);
                let mask = (t.n % whole != 0).then(|| b.lane_mask(left, cx.lanes));
                cx.masked(mask, |cx| {
                    let column = cx.lanes_from(base);
                    let at_label = |label: &Label| {
                        if *label == t.p.n_label {
                            return column;
                        }
                        row[t
                            .p
                            .m_labels
                            .iter()
                            .position(|l| l == label)
                            .expect("an output label is of m or n")]
                    };
                    let idx: Vec<Idx> = t.output.iter().map(at_label).collect();
                    let x = b.cast(*acc, t.elem);
                    put(cx, b, &idx, x)
                })?;
            }
        }
    }
    Ok(())
}
