//! What is linear in some values, with constants for coefficients.

use crate::view;
use ssmc_ir::ops::{Binary, BinaryFn, Op, ScatterFn, Unary, UnaryFn};
use ssmc_ir::{Def, Entity, Graph, Node, NodeId, PrimaryMap, ValueId};
use std::collections::BTreeSet;

/// Which values depend on no input.
pub(super) fn fixed(graph: &Graph) -> Vec<bool> {
    let mut fixed = vec![false; graph.values().len()];
    for (_, node) in graph.nodes() {
        let is_fixed = node.regions.is_empty() && node.operands.iter().flatten().all(|v| fixed[v.idx()]);
        for value in &node.results {
            fixed[value.idx()] = is_fixed;
        }
    }
    fixed
}

/// Inputs and all that is linear in them.
pub(super) struct Region {
    pub(super) bases: Vec<ValueId>,
    pub(super) linear: BTreeSet<ValueId>,
    /// The nodes that compute it, with those of its constants, in order.
    pub(super) nodes: BTreeSet<NodeId>,
}

impl Region {
    /// Follows the inputs as far as that goes; `None` if it takes too long.
    pub(super) fn grow(
        graph: &Graph,
        users: &PrimaryMap<ValueId, Vec<(NodeId, usize)>>,
        fixed: &[bool],
        bases: &[ValueId],
        budget: &mut usize,
    ) -> Option<Self> {
        let mut region =
            Self { bases: bases.to_vec(), linear: bases.iter().copied().collect(), nodes: BTreeSet::new() };
        let readers = |v: ValueId| users[v].iter().map(|(node, _)| *node);
        let mut queue: BTreeSet<NodeId> = bases.iter().flat_map(|v| readers(*v)).collect();
        let mut constants = Vec::new();
        while let Some(id) = queue.pop_first() {
            *budget = budget.checked_sub(1)?;
            let node = graph.node(id);
            if !region.is_linear(graph, fixed, node) || node.results.iter().any(|v| bases.contains(v)) {
                continue;
            }
            region.nodes.insert(id);
            region.linear.insert(node.results[0]);
            constants.extend(node.operands.iter().flatten().filter(|v| !region.linear.contains(v)));
            queue.extend(readers(node.results[0]));
        }
        while let Some(value) = constants.pop() {
            let Def::Result(by, _) = graph.def(value) else { return None };
            if region.nodes.insert(by) {
                *budget = budget.checked_sub(1)?;
                constants.extend(graph.node(by).operands.iter().flatten());
            }
        }
        Some(region)
    }

    fn is_linear(&self, graph: &Graph, fixed: &[bool], node: &Node) -> bool {
        let operand = |i: usize| node.operands.get(i).copied().flatten();
        let is = |i: usize| operand(i).is_some_and(|v| self.linear.contains(&v));
        let is_fixed = |i: usize| operand(i).is_some_and(|v| fixed[v.idx()]);
        let is_zero = |i: usize| operand(i).is_some_and(|v| view::splat(graph, v) == Some(0.0));
        let is_or_zero = |i: usize| is(i) || is_zero(i);
        match &node.op {
            Op::Transpose(_) | Op::Reshape(_) | Op::Slice(_) | Op::Reverse(_) | Op::Broadcast(_) => true,
            Op::Cast(op) => op.to.is_float(),
            Op::Pad(_) => is(0) && is_zero(1),
            Op::Concat(_) => (0..node.operands.len()).all(is_or_zero),
            Op::Select(_) => is_fixed(0) && is_or_zero(1) && is_or_zero(2),
            Op::Scatter(op) => op.f == ScatterFn::Set && is_or_zero(0) && is_fixed(1) && is_or_zero(2),
            Op::Unary(Unary { f: UnaryFn::Neg }) => true,
            Op::Binary(Binary { f: BinaryFn::Add | BinaryFn::Sub }) => is_or_zero(0) && is_or_zero(1),
            Op::Binary(Binary { f: BinaryFn::Mul }) => (is(0) && is_fixed(1)) || (is_fixed(0) && is(1)),
            Op::Binary(Binary { f: BinaryFn::Div }) => is(0) && is_fixed(1),
            Op::Contract(op) if op.spec.summed().is_empty() => {
                let n = node.operands.len();
                (0..n).filter(|i| is(*i)).count() == 1 && (0..n).all(|i| is(i) || is_fixed(i))
            }
            _ => false,
        }
    }
}
