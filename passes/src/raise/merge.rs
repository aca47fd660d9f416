//! Scans that differ only in their inputs become one scan over a batch.
//!
//! Exporters write a loop over the batch out as well: each sequence then has a scan of its own, with the same decay.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Concat, Op};
use ssmc_ir::{Graph, Model, Node, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Joins scans of one sequence each that have the same attributes and coefficients and do not depend on each other.
pub struct MergeScans;

impl Pass for MergeScans {
    fn name(&self) -> &'static str {
        "merge-scans"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let groups = groups(graph);
        if groups.is_empty() {
            return Ok(Changed::No);
        }
        model.graph = merge(graph, &groups)?;
        Ok(Changed::Yes)
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
    op: Op,
    coefs: Vec<Option<ValueId>>,
    has_initial: bool,
    shape: String,
}

fn key(graph: &Graph, node: &Node) -> Option<Key> {
    let (n_coefs, n_inputs) = arity(&node.op)?;
    let initial = &node.operands[n_coefs + n_inputs..node.operands.len().min(n_coefs + 2 * n_inputs)];
    let seq_idx = node.operands.get(n_coefs + 2 * n_inputs).copied().flatten();
    let first = node.operands[n_coefs]?;
    let is_single = |v: ValueId| graph.ty(v).shape[0].is(1);
    let fits = seq_idx.is_none()
        && is_single(first)
        && node.operands[..n_coefs].iter().flatten().all(|v| is_single(*v));
    fits.then(|| Key {
        op: node.op.clone(),
        coefs: node.operands[..n_coefs].to_vec(),
        has_initial: initial.iter().any(Option::is_some),
        shape: graph.ty(first).to_string(),
    })
}

/// Groups of at least two scans. No member depends on a member of any group that is not complete before it.
fn groups(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut by_key: BTreeMap<Key, Vec<NodeId>> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        if let Some(key) = key(graph, node) {
            by_key.entry(key).or_default().push(id);
        }
    }
    let mut groups: Vec<Vec<NodeId>> = by_key.into_values().filter(|ids| ids.len() > 1).collect();
    groups.sort();
    groups.retain(|group| !depends(graph, group));
    // Groups that overlap could wait for each other.
    let mut end = None;
    groups.retain(|group| {
        let is_free = end.is_none_or(|end| group[0] > end);
        if is_free {
            end = group.last().copied();
        }
        is_free
    });
    groups
}

/// Whether a member of the group depends on another one.
fn depends(graph: &Graph, group: &[NodeId]) -> bool {
    let mut reached: BTreeSet<ValueId> = BTreeSet::new();
    let last = group[group.len() - 1];
    for (id, node) in graph.nodes().skip_while(|(id, _)| *id < group[0]).take_while(|(id, _)| *id <= last) {
        let is_reached = node.operands.iter().flatten().any(|v| reached.contains(v));
        let is_member = group.binary_search(&id).is_ok();
        if is_member && is_reached {
            return true;
        }
        if is_member || is_reached {
            reached.extend(&node.results);
        }
    }
    false
}

/// The graph with each group joined where its last member stood; what needs results of its members comes after.
fn merge(graph: &Graph, groups: &[Vec<NodeId>]) -> Result<Graph, EditError> {
    let group_of: BTreeMap<NodeId, &[NodeId]> =
        groups.iter().flat_map(|group| group.iter().map(move |id| (*id, &group[..]))).collect();
    let mut rewriter = Rewriter::new(graph);
    let mut waits: BTreeSet<ValueId> = BTreeSet::new();
    let mut held: Vec<&Node> = Vec::new();
    for (id, node) in graph.nodes() {
        let Some(group) = group_of.get(&id) else {
            if node.operands.iter().flatten().any(|v| waits.contains(v)) {
                waits.extend(&node.results);
                held.push(node);
            } else {
                rewriter.copy(node)?;
            }
            continue;
        };
        waits.extend(&node.results);
        if group.last() != Some(&id) {
            continue;
        }
        rewriter.builder().set_loc_id(node.loc);
        join(&mut rewriter, graph, group)?;
        for node in held.drain(..) {
            rewriter.copy(node)?;
        }
        waits.clear();
    }
    rewriter.finish()
}

fn join(r: &mut Rewriter<'_>, graph: &Graph, group: &[NodeId]) -> Result<(), EditError> {
    let first = graph.node(group[0]);
    let (n_coefs, _) = arity(&first.op).unwrap_or((0, 0));
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

    fn merged(second: &str) -> Vec<String> {
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
        ops(&optimized(&text, &[MERGED]).0.graph)
    }

    #[test]
    fn scans_with_the_same_decay_are_a_batch() {
        let found = merged("%g, %end = ssm.scan %a, %2, %h0");
        assert_eq!(found.iter().filter(|op| *op == "ssm.scan").count(), 1, "{found:?}");
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
            let found = merged(second);
            assert_eq!(found.iter().filter(|op| *op == "ssm.scan").count(), 2, "{second}: {found:?}");
        }
    }
}
