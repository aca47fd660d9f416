//! Where sequences of log decays may be: behind running sums.

use super::layout::groups;
use super::read::Axes;
use crate::view;
use ssmc_ir::ops::Op;
use ssmc_ir::{Graph, ValueId};
use std::collections::BTreeSet;

/// What running sums along floating-point axes add up, with the axes that count steps, each once.
pub(super) fn seeds(graph: &Graph) -> Vec<(ValueId, Axes)> {
    let mut seen = BTreeSet::new();
    let mut seeds = Vec::new();
    for (_, node) in graph.nodes() {
        let (Op::CumSum(op), Some(x)) = (&node.op, node.operands.first().copied().flatten()) else {
            continue;
        };
        if !graph.ty(x).dtype.is_float() {
            continue;
        }
        let seed = trace(graph, x, Axes::from([op.axis]));
        if !seed.1.is_empty() && seen.insert(seed.clone()) {
            seeds.push(seed);
        }
    }
    seeds
}

/// Goes back through layouts and masks.
fn trace(graph: &Graph, mut value: ValueId, mut axes: Axes) -> (ValueId, Axes) {
    while let Some((from, of)) = step(graph, value, &axes) {
        if of.is_empty() {
            break;
        }
        (value, axes) = (from, of);
    }
    (value, axes)
}

fn step(graph: &Graph, value: ValueId, axes: &Axes) -> Option<(ValueId, Axes)> {
    let node = graph.def_node(value)?;
    let x = node.operands.first().copied().flatten()?;
    let shape = &graph.ty(x).shape;
    let is_constant = |v: &ValueId| {
        view::splat(graph, *v).is_some()
            || graph.def_node(*v).is_some_and(|n| matches!(n.op, Op::Constant(_) | Op::WeightRef(_)))
    };
    Some(match &node.op {
        Op::Transpose(op) => (x, axes.iter().map(|axis| op.perm[*axis]).collect()),
        Op::Broadcast(op) => {
            let kept = |i: &usize| axes.contains(&op.axes[*i]) && !shape[*i].is(1);
            (x, (0..shape.rank()).filter(kept).collect())
        }
        Op::Reshape(op) => {
            let timed = groups(shape, &op.shape)?;
            let timed = timed.into_iter().filter(|(_, to)| to.iter().any(|axis| axes.contains(axis)));
            (x, timed.flat_map(|(from, _)| from).collect())
        }
        Op::Slice(op) if axes.contains(&op.axis) => (x, axes.clone()),
        Op::Reverse(op) if axes.contains(&op.axis) => (x, axes.clone()),
        Op::Pad(op) if axes.contains(&op.axis) => (x, axes.clone()),
        Op::Cast(op) if op.to.is_float() && graph.ty(x).dtype.is_float() => (x, axes.clone()),
        Op::Select(_) => {
            let sides = node.operands[1..].iter().copied().flatten();
            let varying: Vec<ValueId> = sides.filter(|v| !is_constant(v)).collect();
            let [side] = varying[..] else { return None };
            (side, axes.clone())
        }
        Op::Contract(op) => {
            // A mask: a constant that varies along the steps.
            let factors = op.spec.inputs.iter().zip(node.operands.iter().flatten());
            let (masks, others): (Vec<_>, Vec<_>) = factors.partition(|(_, v)| is_constant(v));
            let [(labels, inner)] = others[..] else { return None };
            let timed: Vec<u8> = axes.iter().map(|axis| op.spec.output[*axis]).collect();
            let is_mask = |labels: &Vec<u8>| timed.iter().any(|l| labels.contains(l));
            if masks.is_empty() || !masks.iter().all(|(labels, _)| is_mask(labels)) {
                return None;
            }
            let of = (0..labels.len()).filter(|i| timed.contains(&labels[*i])).collect();
            (*inner, of)
        }
        _ => return None,
    })
}
