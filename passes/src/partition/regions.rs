//! Bodies of loops: what they take from outside, and their memory.

use super::{PartitionError, bytes, is_literal, partition};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Loop, Op};
use ssmc_ir::{Dim, Graph, Node, Region, ValueId};

/// The graph with the weights and literals of loop bodies outside of them, captured like any other value.
pub(super) fn without_literals(graph: &Graph) -> Result<Graph, EditError> {
    let mut r = Rewriter::new(graph);
    for (_, node) in graph.nodes() {
        let (Op::Loop(_), [body]) = (&node.op, &node.regions[..]) else {
            r.copy(node)?;
            continue;
        };
        let (body, literals) = captured(&without_literals(body)?)?;
        let mut operands = r.operands(node)?;
        r.builder().set_loc_id(node.loc);
        for op in literals {
            operands.push(Some(r.builder().op(op, &[])?));
        }
        let results = r.builder().node(node.op.clone(), &operands, vec![body])?;
        for (old, new) in node.results.iter().zip(results) {
            r.set(*old, new);
        }
    }
    r.finish()
}

/// The body with a further input for each of its literals, and these.
fn captured(body: &Graph) -> Result<(Graph, Vec<Op>), EditError> {
    let mut r = Rewriter::new(body);
    let mut literals = Vec::new();
    for (_, node) in body.nodes() {
        if !is_literal(&node.op) {
            r.copy(node)?;
            continue;
        }
        let value = node.results[0];
        let name = format!("literal_{}", body.inputs().len() + literals.len());
        let input = r.builder().input(name, body.ty(value).clone());
        r.set(value, input);
        literals.push(node.op.clone());
    }
    Ok((r.finish()?, literals))
}

/// The partitioned body of a loop, without slots yet.
pub(super) fn of(node: &Node) -> Result<Option<Box<Region>>, PartitionError> {
    let (Op::Loop(_), [body]) = (&node.op, &node.regions[..]) else { return Ok(None) };
    let plan = partition(body)?;
    Ok(Some(Box::new(Region { plan, inputs: Vec::new(), outputs: Vec::new(), slots: Vec::new() })))
}

/// Chooses slots for what changes from iteration to iteration. Returns them.
pub(super) fn place(region: &mut Region, op: &Loop, choose: &mut dyn FnMut(&Dim) -> usize) -> Vec<usize> {
    let graph = &region.plan.graph;
    let users = graph.users();
    let n_changing = 1 + op.n_carried + op.scan_axes.len();
    let mut slot = |value: ValueId| choose(&bytes(graph.ty(value)));
    region.inputs = (graph.inputs().iter().enumerate())
        .map(|(i, port)| {
            let is_carried = (1..=op.n_carried).contains(&i);
            let is_kept = is_carried || (i < n_changing && !users[port.value].is_empty());
            is_kept.then(|| slot(port.value))
        })
        .collect();
    region.outputs = graph.outputs().iter().map(|port| slot(port.value)).collect();
    region.slots = region.plan.slots.iter().map(choose).collect();
    let inputs = region.inputs.iter().flatten();
    inputs.chain(&region.outputs).chain(&region.slots).copied().collect()
}
