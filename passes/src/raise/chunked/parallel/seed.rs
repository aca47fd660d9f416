//! Where parallel scans may begin: at `y + a * x` with x and y at different steps of one tensor.

use crate::view;
use ssmc_ir::ops::{Binary, BinaryFn, Op};
use ssmc_ir::{Graph, Node, ValueId};
use std::collections::BTreeSet;

/// A tensor and its axis of steps.
pub(super) type Steps = (ValueId, usize);

/// Views of views are followed this far.
const MAX_VIEWS: usize = 16;
/// How many axes are tried for one sum.
const MAX_TRIED: usize = 16;

/// Decays and inputs with their axes of steps.
pub(super) fn seeds(graph: &Graph) -> Vec<(Steps, Steps)> {
    let mut seen = BTreeSet::new();
    let mut seeds = Vec::new();
    for (_, node) in graph.nodes() {
        if !matches!(node.op, Op::Binary(Binary { f: BinaryFn::Add })) {
            continue;
        }
        let mut tried = 0;
        for (sum, product) in [(0, 1), (1, 0)] {
            let (Some(y), Some(p)) = (node.operands[sum], node.operands[product]) else { continue };
            let Some([u, v]) = factors(graph, p) else { continue };
            for (a, x) in [(u, v), (v, u)] {
                for seed in pairs(graph, a, x, y) {
                    if tried < MAX_TRIED && seen.insert(seed) {
                        seeds.push(seed);
                        tried += 1;
                    }
                }
            }
        }
    }
    seeds
}

/// The factors of a product of two tensors, element by element.
fn factors(graph: &Graph, value: ValueId) -> Option<[ValueId; 2]> {
    let mut node = graph.def_node(value)?;
    while let Op::Reshape(_) | Op::Transpose(_) = node.op {
        node = graph.def_node(node.operands[0]?)?;
    }
    let is_product = match &node.op {
        Op::Binary(op) => op.f == BinaryFn::Mul,
        Op::Contract(op) => op.spec.summed().is_empty(),
        _ => false,
    };
    let [Some(u), Some(v)] = node.operands[..] else { return None };
    is_product.then_some([u, v])
}

/// What `x` and `y` are both views of, at different steps, with what `a` is a view of; the last ones first.
fn pairs(graph: &Graph, a: ValueId, x: ValueId, y: ValueId) -> Vec<(Steps, Steps)> {
    let (xs, ys) = (views(graph, x), views(graph, y));
    if x == y || !graph.ty(x).dtype.is_float() {
        return Vec::new();
    }
    let shared: Vec<ValueId> = xs.into_iter().filter(|v| ys.contains(v)).collect();
    let decays = views(graph, a);
    let mut found = Vec::new();
    for b in shared.iter().rev() {
        for a in decays.iter().rev().filter(|a| *a != b) {
            if graph.ty(*a).dtype != graph.ty(*b).dtype || shared.contains(a) {
                continue;
            }
            for (i, n) in graph.ty(*b).shape.iter().enumerate() {
                if n.as_const().is_none_or(|n| n < 2) {
                    continue;
                }
                let same = (0..graph.ty(*a).rank()).filter(|j| graph.ty(*a).shape[*j] == *n);
                found.extend(same.map(|j| ((*a, j), (*b, i))));
            }
        }
    }
    found
}

/// The value and what it is a view of.
pub(in crate::raise) fn views(graph: &Graph, value: ValueId) -> Vec<ValueId> {
    let mut found = vec![value];
    let mut next = graph.def_node(value).and_then(|node| step(graph, node));
    while let Some(value) = next.filter(|_| found.len() < MAX_VIEWS) {
        found.push(value);
        next = graph.def_node(value).and_then(|node| step(graph, node));
    }
    found
}

fn step(graph: &Graph, node: &Node) -> Option<ValueId> {
    let is_number = |v: &ValueId| {
        view::splat(graph, *v).is_some()
            || matches!(graph.def_op(*v), Some(Op::Constant(_) | Op::WeightRef(_)))
    };
    match &node.op {
        Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Broadcast(_)
        | Op::Slice(_)
        | Op::Reverse(_)
        | Op::Pad(_)
        | Op::Cast(_) => node.operands[0],
        Op::Concat(_) => {
            let varying: BTreeSet<ValueId> =
                node.operands.iter().flatten().copied().filter(|v| !is_number(v)).collect();
            let roots: BTreeSet<ValueId> = varying.iter().map(|v| views_without_joins(graph, *v)).collect();
            match (varying.len(), roots.len()) {
                (1, _) => varying.first().copied(),
                (_, 1) => roots.first().copied(),
                _ => None,
            }
        }
        Op::Select(_) => {
            let mut sides = node.operands[1..].iter().flatten().filter(|v| !is_number(v));
            let side = sides.next().copied();
            if sides.next().is_some() { None } else { side }
        }
        _ => None,
    }
}

/// What the value is a slice of.
fn views_without_joins(graph: &Graph, mut value: ValueId) -> ValueId {
    while let Some(node) = graph.def_node(value)
        && matches!(node.op, Op::Reshape(_) | Op::Slice(_))
        && let Some(x) = node.operands[0]
    {
        value = x;
    }
    value
}
