//! Scans that differ only in their inputs become one scan over a batch.
//!
//! Exporters write a loop over the batch out as well: each sequence then has a scan of its own, with the same decay.

use super::order;
use crate::pass::{Changed, Pass, PassCtx, PassError};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Concat, Op};
use ssmc_ir::{Graph, Loc, Model, Node, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Joins scans of one sequence each that have the same attributes and coefficients and do not depend on each other.
pub struct MergeScans;

impl Pass for MergeScans {
    fn name(&self) -> &'static str {
        "merge-scans"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let mut groups = groups(graph);
        let (order, stand) = order::together(graph, &groups);
        let mut stand = stand.into_iter();
        groups.retain(|_| stand.next() == Some(true));
        if groups.is_empty() {
            return Ok(Changed::No);
        }
        let members: BTreeSet<NodeId> = groups.iter().flatten().copied().collect();
        let by_last: BTreeMap<NodeId, &[NodeId]> =
            groups.iter().filter_map(|group| Some((*group.last()?, &group[..]))).collect();
        let mut rewriter = Rewriter::new(graph);
        for id in order {
            if let Some(group) = by_last.get(&id) {
                let from = group.iter().map(|id| graph.node(*id).loc).collect();
                rewriter.builder().set_loc(Loc::Derived { by: self.name().into(), from });
                join(&mut rewriter, graph, group)?;
            } else if !members.contains(&id) {
                rewriter.copy(graph.node(id))?;
            }
        }
        let graph = rewriter.finish()?;
        Ok(Changed::replace(model, graph))
    }
}

/// How many operands of a scan are coefficients, and how many are inputs.
fn arity(op: &Op) -> Option<(usize, usize)> {
    match op {
        Op::Scan(_) => Some((1, 1)),
        Op::ComplexScan(_) => Some((2, 2)),
        _ => None,
    }
}

/// What scans of one group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    op: String,
    coefs: Vec<Option<ValueId>>,
    has_initial: Vec<bool>,
    ty: String,
}

/// The key of a scan over one sequence without positions in it.
fn key(graph: &Graph, node: &Node) -> Option<Key> {
    let (n_coefs, n_inputs) = arity(&node.op)?;
    let (coefs, rest) = node.operands.split_at_checked(n_coefs)?;
    let (inputs, rest) = rest.split_at_checked(n_inputs)?;
    let (initial, others) = rest.split_at(rest.len().min(n_inputs));
    let is_single = |v: &ValueId| graph.ty(*v).shape[0].is(1);
    let fits = others.iter().all(Option::is_none)
        && coefs.iter().chain(inputs).all(|v| v.as_ref().is_some_and(is_single));
    fits.then(|| Key {
        op: format!("{:?}", node.op),
        coefs: coefs.to_vec(),
        has_initial: initial.iter().map(Option::is_some).collect(),
        ty: inputs.iter().flatten().map(|v| graph.ty(*v).to_string()).collect(),
    })
}

/// Groups of at least two scans, by their first members.
fn groups(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut by_key: BTreeMap<Key, Vec<NodeId>> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        if let Some(key) = key(graph, node) {
            by_key.entry(key).or_default().push(id);
        }
    }
    let mut groups: Vec<Vec<NodeId>> = by_key.into_values().filter(|ids| ids.len() > 1).collect();
    groups.sort();
    groups
}

fn join(r: &mut Rewriter<'_>, graph: &Graph, group: &[NodeId]) -> Result<(), EditError> {
    let first = graph.node(group[0]);
    let (n_coefs, _) = arity(&first.op).expect("groups hold scans");
    let mut operands = r.operands(first)?;
    for (i, operand) in operands.iter_mut().enumerate().skip(n_coefs) {
        if operand.is_some() {
            let parts = group.iter().filter_map(|id| graph.node(*id).operands[i]);
            let parts = parts.map(|v| r.get(v)).collect::<Result<Vec<_>, _>>()?;
            *operand = Some(r.builder().op(Concat { axis: 0 }, &parts)?);
        }
    }
    let results = r.builder().node(first.op.clone(), &operands, Vec::new())?;
    for (i, id) in group.iter().enumerate() {
        for (old, new) in graph.node(*id).results.iter().zip(&results) {
            let part = r.builder().slice(*new, 0, i, 1)?;
            r.replace(*old, part)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::Phase;
    use crate::testing::{ops, optimized};
    use ssmc_ir::Stage;

    const MERGED: Phase = Phase { stage: Stage::Raised, passes: &[&MergeScans] };

    fn merged(second: &str) -> usize {
        let text = format!(
            "func @f(%a: f32[1, seq_len, 3], %x: f32[1, seq_len, 3], %y: f32[1, seq_len, 3], %h0: f32[1, 3]) {{
               %h, %last = ssm.scan %a, %x, %h0 : f32[1, seq_len, 3], f32[1, 3]
               %1 = neg %h : f32[1, seq_len, 3]
               %2 = neg %y : f32[1, seq_len, 3]
               {second} : f32[1, seq_len, 3], f32[1, 3]
               %3 = add %1, %g : f32[1, seq_len, 3]
               return %3 \"z\", %last \"p\", %end \"q\"
             }}"
        );
        let found = ops(&optimized(&text, &[MERGED]).0.graph);
        found.iter().filter(|op| *op == "ssm.scan").count()
    }

    #[test]
    fn scans_with_the_same_decay_are_a_batch() {
        assert_eq!(merged("%g, %end = ssm.scan %a, %2, %h0"), 1);
    }

    #[test]
    fn scans_that_differ_or_depend_on_each_other_stay() {
        for second in [
            "%g, %end = ssm.scan %2, %2, %h0",
            "%g, %end = ssm.scan %a, %1, %h0",
            "%g, %end = ssm.scan %a, %2, %h0 {reverse=true}",
            "%g, %end = ssm.scan %a, %2",
            "%g, %end = ssm.scan %a, %2, %last",
        ] {
            assert_eq!(merged(second), 2, "{second}");
        }
    }
}
