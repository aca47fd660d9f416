//! Hashes of what values compute, equal for the steps of an unrolled loop.
//!
//! A slice of one index counts as the tensor that it is taken from, a literal as its type, and the order of the
//! operands of commutative ops does not matter. Hashes only propose; [`super::pack`] proves.

use crate::cse::is_commutative;
use ssmc_ir::ops::{Contract, Op, Slice, Spec};
use ssmc_ir::{Def, Entity, Graph, Node, ValueId};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A hash for every value of a graph.
pub(super) struct Keys(Vec<u64>);

impl Keys {
    /// The hashes; a value for which `leaf` knows one counts as that, whatever defines it.
    pub(super) fn new(graph: &Graph, leaf: impl Fn(ValueId) -> Option<u64>) -> Self {
        let mut keys = Self(vec![0; graph.values().len()]);
        for port in graph.inputs() {
            keys.0[port.value.idx()] = hash(("input", port.value));
        }
        for (_, node) in graph.nodes() {
            let key = keys.node(graph, node, |v| leaf(v).is_some());
            for (i, value) in node.results.iter().enumerate() {
                keys.0[value.idx()] = leaf(*value).unwrap_or_else(|| hash((key, i)));
            }
        }
        keys
    }

    /// The hash of a value.
    pub(super) fn of(&self, value: ValueId) -> u64 {
        self.0[value.idx()]
    }

    fn node(&self, graph: &Graph, node: &Node, is_leaf: impl Fn(ValueId) -> bool) -> u64 {
        let operands = || node.operands.iter().map(|v| v.map(|v| self.of(v)));
        match &node.op {
            Op::Constant(c) => hash(("constant", c.dtype, &c.shape)),
            // No chain walks along a state: its parts are not those of one tensor.
            Op::Slice(op) if index(graph, node, op).is_some_and(|(x, _)| !is_leaf(x)) => {
                hash(("index", node.operands[0].map(|x| self.of(x)), op.axis))
            }
            Op::Contract(op) => {
                let mut factors: Vec<_> = (0..op.spec.inputs.len())
                    .map(|i| (places(&op.spec, i), node.operands[i].map(|v| self.of(v))))
                    .collect();
                factors.sort_unstable();
                hash(("contract", factors))
            }
            op if is_commutative(op) => {
                let mut operands: Vec<_> = operands().collect();
                operands.sort_unstable();
                hash((op, operands))
            }
            op if !node.regions.is_empty() => hash((op, node.results[0])),
            op => hash((op, operands().collect::<Vec<_>>())),
        }
    }
}

/// The hash of anything, the same in every run.
pub(super) fn hash(x: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    x.hash(&mut hasher);
    hasher.finish()
}

/// The place in the result of every label of operand `i`; labels that are summed over have none.
pub(super) fn places(spec: &Spec, i: usize) -> Vec<Option<usize>> {
    spec.inputs[i].iter().map(|l| spec.output.iter().position(|o| o == l)).collect()
}

/// The factors of an elementwise product that have all axes of the result in its order, if nothing is summed over.
pub(super) fn full_factors(op: &Contract) -> impl Iterator<Item = usize> + '_ {
    let is_sum = !op.spec.summed().is_empty();
    (0..op.spec.inputs.len()).filter(move |i| !is_sum && op.spec.inputs[*i] == op.spec.output)
}

/// A slice of one index: the tensor and the index.
pub(super) fn index(graph: &Graph, node: &Node, op: &Slice) -> Option<(ValueId, i64)> {
    let x = node.operands[0]?;
    let is_literal =
        matches!(graph.def(x), Def::Result(id, _) if matches!(graph.node(id).op, Op::Constant(_)));
    (op.len.is(1) && !is_literal).then(|| op.start.as_const()).flatten().map(|start| (x, start))
}
