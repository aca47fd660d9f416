//! Tensors in memory behind views and conversions that a group computes.

use super::Cx;
use crate::kernel::KernelBuilder;
use crate::lower::index::Idx;
use ssmc_ir::ops::{Op, Slice};
use ssmc_ir::{Def, Dim, Graph, NodeId, ValueId};

/// The tensor whose elements a value shows in their order, by reshapes and parts that the group computes, and how many
/// elements from each multiple of that number on lie together in it, at a multiple of that number; 0 if all do. `None` if
/// elements are computed, or moved otherwise.
pub(crate) fn shown(
    graph: &Graph,
    is_inside: &dyn Fn(ValueId) -> bool,
    mut value: ValueId,
) -> Option<(ValueId, i64)> {
    let mut together = 0;
    while is_inside(value) {
        let node = graph.def_node(value)?;
        let inner = node.operands.first().copied().flatten()?;
        match &node.op {
            Op::Reshape(_) => {}
            Op::Slice(op) if op.stride == 1 => {
                let shape = &graph.ty(inner).shape;
                let behind = shape[op.axis + 1..].iter().fold(Dim::from(1), |n, d| n * d).as_const()?;
                for n in [&shape[op.axis], &op.start, &op.len] {
                    together = gcd(together, n.as_const()? * behind);
                }
            }
            _ => return None,
        }
        value = inner;
    }
    Some((value, together))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What a group with these members widens to a value, on every load; otherwise the value itself.
pub(crate) fn unwidened(graph: &Graph, is_member: &dyn Fn(NodeId) -> bool, value: ValueId) -> ValueId {
    match graph.def(value) {
        Def::Result(id, _) if is_member(id) => graph.widened(graph.node(id)).unwrap_or(value),
        _ => value,
    }
}

impl Cx<'_> {
    /// As [`unwidened()`].
    pub(crate) fn unwidened(&self, value: ValueId) -> ValueId {
        let node = self.graph.def_node(value).filter(|_| self.is_inside(value));
        node.and_then(|node| self.graph.widened(node)).unwrap_or(value)
    }

    /// As [`shown`].
    pub(crate) fn shown(&self, value: ValueId) -> Option<(ValueId, i64)> {
        shown(self.graph, &|value| self.is_inside(value), value)
    }

    /// The tensor in memory that has the elements of a value in their order, where the group computes reshapes and
    /// conversions to wider types alone.
    pub(crate) fn flat(&self, mut value: ValueId) -> Option<ValueId> {
        while self.is_inside(value) {
            let node = self.graph.def_node(value)?;
            value = match &node.op {
                Op::Reshape(_) => node.operands.first().copied().flatten()?,
                _ => self.graph.widened(node)?,
            };
        }
        Some(value)
    }

    /// The index into the tensor that a value shows, of the element at `idx`.
    pub(crate) fn through_views(
        &mut self,
        b: &mut KernelBuilder,
        mut value: ValueId,
        idx: Vec<Idx>,
    ) -> Vec<Idx> {
        let (graph, mut idx) = (self.graph, idx);
        while self.is_inside(value)
            && let Some(node) = graph.def_node(value)
            && let Some(Some(inner)) = node.operands.first()
        {
            idx = match &node.op {
                Op::Reshape(op) => self.map_reshape(b, &idx, &op.shape, &graph.ty(*inner).shape),
                Op::Slice(op) => self.map_slice(b, op, &idx),
                _ => return idx,
            };
            value = *inner;
        }
        idx
    }

    /// The index of the element that a slice has at `idx`.
    pub(super) fn map_slice(&mut self, b: &mut KernelBuilder, op: &Slice, idx: &[Idx]) -> Vec<Idx> {
        let start = self.dim(b, &op.start);
        let stride = b.const_i64(op.stride);
        let mut inner = idx.to_vec();
        let mut ib = self.index(b);
        let scaled = ib.mul(idx[op.axis], stride);
        inner[op.axis] = ib.add(scaled, Idx::Uniform(start));
        inner
    }
}
