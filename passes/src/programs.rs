//! The programs of a language model, derived from its one imported graph.
//!
//! A graph with recurrent state as inputs and outputs serves four purposes: the whole sequence at once (`forward`),
//! a piece of it that continues a state (`prefill`), one token (`step`), and several sequences in one row
//! (`forward_packed`). Each keeps the outputs that it needs; a state that starts at zero is not an operand at all. A fifth
//! one, `choose`, takes logits to the next tokens, so that greedy decoding stays where the kernels run.

use ssmc_ir::edit::{EditError, Rewriter, drop_unused_inputs, select_outputs, substitute};
use ssmc_ir::ops::{ArgMax, Broadcast, Constant, Op, Reshape};
use ssmc_ir::{Dim, Graph, GraphBuilder, Node, Shape, Symbol, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// One entry point of the artefact.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Program {
    pub name: &'static str,
    pub graph: Graph,
    /// Inputs and outputs of these names are the recurrent state.
    pub states: Vec<String>,
}

/// Input with the sequence number of every token of a packed row.
pub(crate) const SEQ_IDX: &str = "seq_idx";

/// Names that are inputs and outputs at once: the recurrent state.
pub fn state_names(graph: &Graph) -> Vec<String> {
    graph.inputs().iter().map(|p| p.name.clone()).filter(|name| graph.output(name).is_some()).collect()
}

/// The programs of an imported graph: those of a language model if it has state and logits, else `forward` alone.
///
/// # Errors
/// An op does not fit a sequence length of 1.
pub fn derive(graph: &Graph) -> Result<Vec<Program>, EditError> {
    let states = state_names(graph);
    if graph.output("logits").is_none() || graph.output("logits_last").is_none() {
        return Ok(vec![Program { name: "forward", graph: graph.clone(), states: Vec::new() }]);
    }
    let all_states: Vec<&str> = states.iter().map(String::as_str).collect();
    let absent: Vec<&str> = all_states.iter().copied().chain([SEQ_IDX]).collect();
    let with_state: Vec<&str> = ["logits_last"].into_iter().chain(all_states.iter().copied()).collect();
    let forward = start_from_zero(&select_outputs(graph, &["logits"])?, &absent)?;
    let packed = start_from_zero(&select_outputs(graph, &["logits"])?, &all_states)?;
    let prefill = start_from_zero(&select_outputs(graph, &with_state)?, &[SEQ_IDX])?;
    let one = BTreeMap::from([(Symbol::new("seq_len"), Dim::from(1))]);
    let step = substitute(&prefill, &one)?;
    let program = |name, graph: Graph, states: &[String]| Program { name, graph, states: states.to_vec() };
    let mut programs = vec![
        program("forward", forward, &[]),
        program("prefill", prefill, &states),
        program("step", step, &states),
    ];
    if packed.input(SEQ_IDX).is_some() {
        programs.push(program("forward_packed", packed, &[]));
    }
    programs.extend(choose(graph)?.map(|graph| program("choose", graph, &[])));
    Ok(programs)
}

/// The most likely token of each sequence, of equal ones the first, as `step` takes it; none if logits or tokens have
/// other axes than batch and one more.
fn choose(graph: &Graph) -> Result<Option<Graph>, EditError> {
    let ids = graph.inputs().iter().find(|port| port.name == "input_ids").map(|port| graph.ty(port.value));
    let logits = graph.output("logits_last").map(|value| graph.ty(value));
    let (Some(ids), Some(logits)) = (ids, logits) else { return Ok(None) };
    if ids.rank() != 2 || logits.rank() != 2 || !logits.dtype.is_float() || ids.shape[0] != logits.shape[0] {
        return Ok(None);
    }
    let mut b = GraphBuilder::new(graph.name());
    let x = b.input("logits", logits.clone());
    let best = b.op(ArgMax { axis: 1 }, &[x])?;
    let best = b.cast(best, ids.dtype)?;
    let shape = Shape::from(vec![ids.shape[0].clone(), Dim::from(1)]);
    let next = b.op(Reshape { shape }, &[best])?;
    b.output("input_ids", next);
    Ok(Some(b.finish()))
}

/// The graph with these inputs zero: absent where an op takes an absent operand for zeros, else a constant.
pub(crate) fn start_from_zero(graph: &Graph, names: &[&str]) -> Result<Graph, EditError> {
    let mut zero: BTreeSet<ValueId> =
        graph.inputs().iter().filter(|p| names.contains(&p.name.as_str())).map(|p| p.value).collect();
    let mut rewriter = Rewriter::new(graph);
    for (_, node) in graph.nodes() {
        let first = node.operands.first().copied().flatten();
        if matches!(node.op, Op::Reshape(_) | Op::Transpose(_) | Op::Broadcast(_) | Op::Cast(_))
            && first.is_some_and(|v| zero.contains(&v))
        {
            zero.extend(&node.results);
        }
        for i in 0..node.operands.len() {
            if let Some(operand) = node.operands[i]
                && zero.contains(&operand)
                && !may_be_absent(node, i)
            {
                let ty = graph.ty(operand).clone();
                let b = rewriter.builder();
                let scalar = b.op(Constant::scalar(ty.dtype, 0.0), &[])?;
                let zeros = b.op(Broadcast { axes: Vec::new(), shape: ty.shape }, &[scalar])?;
                rewriter.set(operand, zeros);
            }
        }
        let operands: Vec<Option<ValueId>> = (0..node.operands.len())
            .map(|i| node.operands[i].filter(|v| !(zero.contains(v) && may_be_absent(node, i))))
            .map(|v| v.map(|v| rewriter.get(v)).transpose())
            .collect::<Result<_, _>>()?;
        let b = rewriter.builder();
        b.set_loc_id(node.loc);
        let results = b.node(node.op.clone(), &operands, node.regions.clone())?;
        for (old, new) in node.results.iter().zip(results) {
            rewriter.set(*old, new);
        }
    }
    let graph = rewriter.finish()?;
    drop_unused_inputs(&ssmc_ir::edit::dce(&graph)?)
}

/// Whether an absent operand means zeros, or one sequence.
fn may_be_absent(node: &Node, i: usize) -> bool {
    let operands = node.op.operands();
    // Rows of a pool of states are as many as it has.
    let has_slots = operands.iter().zip(&node.operands).any(|(o, v)| o.name == "slots" && v.is_some());
    operands.get(i).is_some_and(|o| match o.name {
        "h0" => !has_slots,
        name => matches!(name, "h0_re" | "h0_im" | "state" | "history" | "seq_idx"),
    })
}

#[cfg(test)]
mod tests;
