//! Axes that were merged for a batched product are taken apart.
//!
//! Exporters merge batch and heads into one axis, multiply matrix by matrix, and divide the axis again. Where a factor
//! is such a merged view, the product is written over the axes as they were; the reshape moves behind it, where it
//! meets the one that divides.

use super::products::is_weight;
use crate::pass::{Changed, Pass, PassCtx, PassError};
use crate::view;
use ssmc_ir::edit::{Action, EditError, rewrite};
use ssmc_ir::ops::{Contract, Op, Spec};
use ssmc_ir::{Dim, Graph, GraphBuilder, Model, Node, ValueId};

/// Takes merged axes of sums of products of activations apart. Products with weights are left alone, and those with
/// what a loop computed: its axes are those of the recurrence, which the read-out has to share.
pub struct Split;

impl Pass for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = rewrite(&model.graph, |r, _, node| {
            let Op::Contract(op) = &node.op else { return Ok(Action::Copy) };
            let old = r.old();
            let keeps = |v: &ValueId| is_weight(old, *v) || is_of_loop(old, *v);
            if op.spec.summed().is_empty() || node.operands.iter().flatten().any(keeps) {
                return Ok(Action::Copy);
            }
            let Some((label, parts)) = merged(old, node, op) else { return Ok(Action::Copy) };
            // Labels are letters.
            if labels(op) + parts.len() > 52 {
                return Ok(Action::Copy);
            }
            let operands: Vec<ValueId> = r.operands(node)?.into_iter().flatten().collect();
            let result = split(r.builder(), op, &operands, label, &parts)?;
            let result = r.builder().reshape(result, old.ty(node.results[0]).shape.clone())?;
            r.replace(node.results[0], result)?;
            Ok::<_, EditError>(Action::Done)
        })?;
        Ok(Changed::replace(model, graph))
    }
}

/// Whether a value is a view of what a loop computed.
fn is_of_loop(graph: &Graph, mut value: ValueId) -> bool {
    while let Some(node) = graph.def_node(value) {
        match (&node.op, node.operands.first()) {
            (Op::Loop(_), _) => return true,
            (
                Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Reverse(_) | Op::Cast(_),
                Some(Some(x)),
            ) => {
                value = *x;
            }
            _ => return false,
        }
    }
    false
}

fn labels(op: &Contract) -> usize {
    let mut labels: Vec<u8> = op.spec.inputs.iter().flatten().copied().collect();
    labels.sort_unstable();
    labels.dedup();
    labels.len()
}

/// A label of the result that one factor merges from several axes, and the extents of these.
fn merged(graph: &Graph, node: &Node, op: &Contract) -> Option<(u8, Vec<Dim>)> {
    for (labels, value) in op.spec.inputs.iter().zip(node.operands.iter().flatten()) {
        let Some(by) = graph.def_node(*value).filter(|n| matches!(n.op, Op::Reshape(_))) else { continue };
        let from = &graph.ty(by.operands[0]?).shape;
        let to = &graph.ty(*value).shape;
        for (axis, label) in labels.iter().enumerate().filter(|(_, l)| op.spec.output.contains(l)) {
            if let Some(parts) = parts(from, to, axis) {
                return Some((*label, parts));
            }
        }
    }
    None
}

/// The consecutive axes of `from` that make one axis of `to`, if there are several and the axes before them agree.
fn parts(from: &[Dim], to: &[Dim], axis: usize) -> Option<Vec<Dim>> {
    let dense = |dims: &[Dim]| -> Vec<Dim> { dims.iter().filter(|d| !d.is(1)).cloned().collect() };
    let (from, before) = (dense(from), dense(&to[..axis]));
    let rest = from.strip_prefix(&before[..])?;
    let mut product = Dim::from(1);
    for (i, dim) in rest.iter().enumerate() {
        product = product * dim;
        if product == to[axis] {
            return (i > 0).then(|| rest[..=i].to_vec());
        }
    }
    None
}

/// The product with several labels in place of one.
fn split(
    b: &mut GraphBuilder,
    op: &Contract,
    operands: &[ValueId],
    label: u8,
    parts: &[Dim],
) -> Result<ValueId, EditError> {
    let used: Vec<u8> = op.spec.inputs.iter().flatten().copied().collect();
    let fresh: Vec<u8> =
        (b'a'..=b'z').chain(b'A'..=b'Z').filter(|l| !used.contains(l)).take(parts.len()).collect();
    let spread = |labels: &[u8]| -> Vec<u8> {
        labels.iter().flat_map(|l| if *l == label { fresh.clone() } else { vec![*l] }).collect()
    };
    let mut taken = Vec::new();
    for (labels, x) in op.spec.inputs.iter().zip(operands) {
        let dims: Vec<Dim> = (labels.iter().zip(b.shape(*x).iter()))
            .flat_map(|(l, d)| if *l == label { parts.to_vec() } else { vec![d.clone()] })
            .collect();
        taken.push(view::reshape(b, *x, &dims)?);
    }
    let inputs = op.spec.inputs.iter().map(|labels| spread(labels)).collect();
    let spec = Spec { inputs, output: spread(&op.spec.output) }.renamed();
    Ok(b.op(Contract { spec }, &taken)?)
}
