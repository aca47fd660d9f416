//! Products that a library can do: matrices of halves in memory, with no more around them than a sum.
//!
//! ```text
//! y[row, col] = sum over k of x[row, k] * w[col, k] + addend[row, col] + bias[col]
//! ```
//!
//! The sum over k is in `f32`; y has the type of x or `f32`, and so have addend and bias.

use super::extent;
use super::group::RUN;
use super::product::recognize;
use crate::lower::access::unwidened;
use ssmc_ir::ops::{BinaryFn, Label, Op};
use ssmc_ir::{DType, Def, Dim, Graph, Group, ValueId};

/// A launch as a library sees it. Tensors are row-major, and all of them lie in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct LibraryProduct {
    pub rows: Dim,
    pub cols: i64,
    pub depth: i64,
    pub x: ValueId,
    /// Elements from one row of x to the next, and before the first one.
    pub x_pitch: i64,
    pub x_offset: i64,
    pub w: ValueId,
    /// w lies as `w[k, col]`.
    pub w_is_deep: bool,
    pub y: ValueId,
    pub addend: Option<ValueId>,
    pub bias: Option<ValueId>,
}

impl LibraryProduct {
    /// The product that a group computes, if it computes nothing else.
    pub(in crate::lower) fn of(graph: &Graph, group: &Group) -> Option<LibraryProduct> {
        let p = recognize(graph, graph.node(group.root), &|id| group.members.contains(&id)).ok()?;
        let joined = |a: &[Label], b: &[Label]| [a, b].concat();
        let is_flat = p.batch.is_empty()
            && p.x.labels == joined(&p.x.own, &p.k)
            && p.output == joined(&p.x.own, &p.w.own);
        let w_is_deep = p.w.labels != joined(&p.w.own, &p.k);
        if !is_flat || (w_is_deep && p.w.labels != joined(&p.k, &p.w.own)) {
            return None;
        }
        let n = |labels: &[Label]| {
            let n = labels.iter().try_fold(1i64, |n, label| n.checked_mul(extent(graph, &p.w, label)?));
            n.filter(|n| (1..=1 << 31).contains(n))
        };
        let (cols, depth) = (n(&p.w.own)?, n(&p.k)?);
        let dtype = graph.ty(p.x.value).dtype;
        if !matches!(dtype, DType::F16 | DType::BF16) || graph.ty(p.w.value).dtype != dtype {
            return None;
        }
        let parts = Parts { graph, group };
        let (x, x_pitch, x_offset) = parts.rows(p.x.value, depth)?;
        let w = parts.whole(p.w.value)?;
        let (addend, bias) = parts.sums(cols)?;
        let [y] = group.outputs[..] else { return None };
        let y_dtype = graph.ty(y).dtype;
        let fits = |value: Option<ValueId>| value.is_none_or(|value| graph.ty(value).dtype == y_dtype);
        if !(y_dtype == dtype || y_dtype == DType::F32) || !fits(addend) || !fits(bias) {
            return None;
        }
        let shape = &graph.ty(p.x.value).shape;
        let rows = shape[..p.x.own.len()].iter().fold(Dim::from(1), |n, dim| n * dim);
        Some(LibraryProduct { rows, cols, depth, x, x_pitch, x_offset, w, w_is_deep, y, addend, bias })
    }
}

/// What surrounds the product.
struct Parts<'g> {
    graph: &'g Graph,
    group: &'g Group,
}

impl Parts<'_> {
    /// The op that computes a value in the group, and its first operand.
    fn computed(&self, value: ValueId) -> Option<(&Op, ValueId)> {
        let Def::Result(id, _) = self.graph.def(value) else { return None };
        let node = self.graph.node(id);
        let first = node.operands.first().copied().flatten();
        first.filter(|_| self.group.members.contains(&id)).map(|first| (&node.op, first))
    }

    fn is_in_memory(&self, value: ValueId) -> bool {
        !matches!(self.graph.def(value), Def::Result(id, _) if self.group.members.contains(&id))
    }

    /// The tensor in memory with the elements of a value, which may be reshaped and widened.
    fn whole(&self, value: ValueId) -> Option<ValueId> {
        let mut value = unwidened(self.graph, &|id| self.group.members.contains(&id), value);
        while let Some((Op::Reshape(_), inner)) = self.computed(value) {
            value = unwidened(self.graph, &|id| self.group.members.contains(&id), inner);
        }
        self.is_in_memory(value).then_some(value)
    }

    /// The tensor in memory of which a value shows all rows, or as many columns of them, with the elements from row to row
    /// and those before the first one.
    fn rows(&self, mut value: ValueId, depth: i64) -> Option<(ValueId, i64, i64)> {
        if let Some(whole) = self.whole(value) {
            return Some((whole, depth, 0));
        }
        while let Some((op, inner)) = self.computed(value) {
            match op {
                Op::Reshape(_) => value = inner,
                Op::Slice(op) if op.stride == 1 => {
                    let shape = &self.graph.ty(inner).shape;
                    let (start, len) = (op.start.as_const()?, op.len.as_const()?);
                    let pitch = shape.last()?.as_const()?;
                    // Libraries are told that matrices begin where 16 bytes do.
                    let is_part = op.axis + 1 == shape.len() && len == depth && start % RUN == 0;
                    return Some((self.whole(inner).filter(|_| is_part)?, pitch, start));
                }
                _ => return None,
            }
        }
        None
    }

    /// What the epilogue adds to the product and to each of its rows, if it does nothing else. Casts in between count as
    /// exact.
    fn sums(&self, cols: i64) -> Option<(Option<ValueId>, Option<ValueId>)> {
        let (mut addend, mut bias) = (None, None);
        let mut value = self.graph.node(self.group.root).results[0];
        for id in &self.group.epilogue {
            let node = self.graph.node(*id);
            match &node.op {
                Op::Reshape(_) => {}
                Op::Cast(op) if matches!(op.to, DType::F32 | DType::F16 | DType::BF16) => {}
                Op::Binary(op) if op.f == BinaryFn::Add => {
                    let mut others = node.operands.iter().copied().flatten().filter(|v| *v != value);
                    let other = others.next()?;
                    let place = match self.vector(other, cols) {
                        Some(vector) => bias.replace(vector),
                        None => addend.replace(self.whole(other)?),
                    };
                    if place.is_some() {
                        return None;
                    }
                }
                _ => return None,
            }
            value = node.results[0];
        }
        Some((addend, bias))
    }

    /// The tensor in memory of so many elements that a value repeats in each of its rows.
    fn vector(&self, value: ValueId, cols: i64) -> Option<ValueId> {
        let value = unwidened(self.graph, &|id| self.group.members.contains(&id), value);
        let (Op::Broadcast(op), inner) = self.computed(value)? else { return None };
        let (shape, all) = (&self.graph.ty(inner).shape, &self.graph.ty(value).shape);
        let last = op.axes.iter().zip(shape.iter()).filter(|(_, dim)| !dim.is(1));
        let [(axis, dim)] = last.collect::<Vec<_>>()[..] else { return None };
        let is_row = axis + 1 == all.len() && dim.as_const() == Some(cols);
        self.whole(inner).filter(|_| is_row)
    }
}
