//! Graphs of one step: a state that comes in, is updated once and read, and goes out.
//!
//! h' = a*h + b with h from an input and h' in an output becomes a scan over one step. What a and b are made of does
//! not matter; whether anything but the output reads h' does: what nothing reads is no state.

use super::NAME;
use super::chain::{self, Route};
use super::key::Keys;
use super::pack::Packer;
use super::roll::{Leaves, Need, Rolled, needs};
use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use crate::raise::lift::Obstacle;
use crate::raise::trace::Tracer;
use ssmc_ir::edit::Rewriter;
use ssmc_ir::ops::Op;
use ssmc_ir::{Entity, Graph, Loc, Model, Node, NodeId, Port, PrimaryMap, ValueId};
use std::collections::BTreeMap;

/// Raises state updates of graphs that compute one step; see the [module](self).
pub struct OneStep;

/// An update of a state.
struct Update {
    state: ValueId,
    route: Route,
    /// Names of the input that the state comes from and of the output that it goes to.
    ports: (String, String),
}

impl Pass for OneStep {
    fn name(&self) -> &'static str {
        "one-step"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let goes_out = goes_out(graph);
        let updates = find(graph, &goes_out);
        if updates.is_empty() {
            return Ok(Changed::No);
        }
        let keys = Keys::new(graph, |_| None);
        let states = vec![None; graph.values().len()];
        let mut tracer = Tracer::default();
        let mut rewriter = Rewriter::new(graph);
        // The states after the step as the last ones of a scan; others read them as the only ones.
        let mut done: BTreeMap<ValueId, (ValueId, ValueId)> = BTreeMap::new();
        for (id, node) in graph.nodes() {
            let update = node.results.first().and_then(|v| updates.get(v));
            if let Some(update) = update {
                let next = node.results[0];
                let mut packer = Packer::along(graph, &keys, &states, &update.route);
                packer.carried(vec![update.state]);
                let id = packer.pack(vec![next]);
                let packs = packer.finish();
                let mut leaves = Leaves::default();
                for need in needs(&packs, id).into_iter().chain([Need::Value(update.state)]) {
                    if let Need::Value(v) = need {
                        leaves.values.insert(v, rewriter.get(v)?);
                    }
                }
                let b = rewriter.builder();
                let loc = b.set_loc(Loc::Derived { by: NAME.into(), from: vec![node.loc] });
                let rolled = Rolled::build(b, &packs, id, Some(update.state), &leaves, loc)?;
                let place = graph.locs().describe(node.loc);
                match rolled.raise(b, &model.weights, &mut tracer) {
                    Ok((last, all)) => {
                        let only = b.reshape(all, graph.ty(next).shape.clone())?;
                        rewriter.replace(next, only)?;
                        done.insert(next, (last, only));
                        let (input, output) = update.ports.clone();
                        let kind = RemarkKind::Raised { evidence: Evidence::Structural, scans: 1 };
                        ctx.remarks.push(Remark { pass: self.name(), place: place.clone(), kind });
                        let kind = RemarkKind::State { input, output };
                        ctx.remarks.push(Remark { pass: self.name(), place, kind });
                    }
                    Err(Obstacle::Build(e)) => return Err(e.into()),
                    Err(obstacle) => {
                        rewriter.copy(node)?;
                        let kind = RemarkKind::Kept { reason: obstacle.to_string() };
                        ctx.remarks.push(Remark { pass: self.name(), place, kind });
                    }
                }
                continue;
            }
            let is_out = goes_out[id.idx()];
            let read: Vec<ValueId> =
                node.operands.iter().flatten().copied().filter(|v| is_out && done.contains_key(v)).collect();
            for v in &read {
                rewriter.replace(*v, done[v].0)?;
            }
            rewriter.copy(node)?;
            for v in &read {
                rewriter.replace(*v, done[v].1)?;
            }
        }
        for (v, (last, _)) in &done {
            rewriter.replace(*v, *last)?;
        }
        let graph = rewriter.finish()?;
        Ok(Changed::replace(model, graph))
    }
}

fn is_layout(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Cast(_) | Op::Concat(_))
}

/// Whether each node only brings values to outputs.
fn goes_out(graph: &Graph) -> Vec<bool> {
    let mut is_out = vec![false; graph.values().len()];
    let mut is_read = vec![false; graph.values().len()];
    for port in graph.outputs() {
        is_out[port.value.idx()] = true;
    }
    let mut nodes = vec![false; graph.nodes().len()];
    for (id, node) in graph.nodes().rev() {
        let goes_out =
            is_layout(&node.op) && is_out[node.results[0].idx()] && !is_read[node.results[0].idx()];
        nodes[id.idx()] = goes_out;
        for v in node.operands.iter().flatten() {
            if goes_out { is_out[v.idx()] = true } else { is_read[v.idx()] = true }
        }
    }
    nodes
}

/// The input of which each value is a view.
fn comes_in(graph: &Graph) -> Vec<Option<usize>> {
    let mut from = vec![None; graph.values().len()];
    for (i, port) in graph.inputs().iter().enumerate() {
        from[port.value.idx()] = Some(i);
    }
    for (_, node) in graph.nodes().filter(|(_, n)| is_layout(&n.op) && n.operands.len() == 1) {
        from[node.results[0].idx()] = node.operands[0].and_then(|x| from[x.idx()]);
    }
    from
}

/// The updates by the state after them.
fn find(graph: &Graph, goes_out: &[bool]) -> BTreeMap<ValueId, Update> {
    let from = comes_in(graph);
    let users = graph.users();
    let mut ports: Vec<Option<&Port>> = vec![None; graph.values().len()];
    for port in graph.outputs().iter().rev() {
        ports[port.value.idx()] = Some(port);
    }
    let is_view = |node: &Node| node.results.iter().any(|v| from[v.idx()].is_some());
    // An input that anything but its update reads is more than a state.
    let mut found: BTreeMap<ValueId, Update> = BTreeMap::new();
    for (_, node) in graph.nodes().filter(|(_, n)| chain::is_sum(&n.op)) {
        let next = node.results[0];
        let Some(output) = output_of(graph, next, goes_out, &users, &ports) else { continue };
        let is_read = users[next].iter().any(|(id, _)| !goes_out[id.idx()]);
        if !is_read {
            continue;
        }
        for route in chain::routes(graph, node) {
            let state = route.from;
            let Some(input) = from[state.idx()].map(|i| &graph.inputs()[i]) else { continue };
            let is_own = users[state].iter().all(|(id, _)| {
                let node = graph.node(*id);
                is_view(node) || node.results.iter().any(|v| route.values.contains(v))
            });
            if is_own && graph.ty(input.value) == graph.ty(output.value) {
                let ports = (input.name.clone(), output.name.clone());
                found.insert(next, Update { state, route, ports });
                break;
            }
        }
    }
    found
}

/// The output that the value is, or is brought to.
fn output_of<'a>(
    graph: &'a Graph,
    value: ValueId,
    goes_out: &[bool],
    users: &PrimaryMap<ValueId, Vec<(NodeId, usize)>>,
    ports: &[Option<&'a Port>],
) -> Option<&'a Port> {
    let mut value = value;
    loop {
        if let Some(port) = ports[value.idx()] {
            return Some(port);
        }
        let (id, _) = users[value].iter().find(|(id, _)| goes_out[id.idx()])?;
        value = graph.node(*id).results[0];
    }
}

#[cfg(test)]
mod tests {
    use crate::pass::RemarkKind;
    use crate::pipeline::{CANONICAL, RAISED};
    use crate::testing::{ops, optimized};

    /// A step with `update` for the next state %n; %y is read from `read`.
    fn step(update: &str, read: &str) -> String {
        format!(
            "func @f(%u: f32[batch, 3], %c: f32[batch, 2], %h: f32[batch, 3, 2]) {{
               %w = weight {{name=\"w\", shape=[3, 2]}} : f32[3, 2]
               %a = broadcast %w {{axes=[1, 2], shape=[batch, 3, 2]}} : f32[batch, 3, 2]
               %b = broadcast %u {{axes=[0, 1], shape=[batch, 3, 2]}} : f32[batch, 3, 2]
               {update}
               %y = contract[bdn,bn->bd] %{read}, %c : f32[batch, 3]
               return %y \"y\", %n \"next\"
             }}"
        )
    }

    const LINEAR: &str = "%p = mul %a, %h : f32[batch, 3, 2]\n%n = add %p, %b : f32[batch, 3, 2]";

    /// The number of scans, and the names of states.
    fn raised(text: &str) -> (usize, Vec<(String, String)>) {
        let (model, report) = optimized(text, &[CANONICAL, RAISED]);
        let scans = ops(&model.graph).iter().filter(|op| *op == "ssm.scan").count();
        let states = report.remarks.into_iter().filter_map(|remark| match remark.kind {
            RemarkKind::State { input, output } => Some((input, output)),
            _ => None,
        });
        (scans, states.collect())
    }

    #[test]
    fn an_update_that_is_read_is_a_scan_over_one_step() {
        let state = ("h".to_owned(), "next".to_owned());
        assert_eq!(raised(&step(LINEAR, "n")), (1, vec![state.clone()]));
        let swapped = "%p = mul %h, %a : f32[batch, 3, 2]\n%n = add %b, %p : f32[batch, 3, 2]";
        assert_eq!(raised(&step(swapped, "n")), (1, vec![state]));
    }

    #[test]
    fn what_nothing_reads_or_what_is_read_before_the_update_is_no_state() {
        assert_eq!(raised(&step(LINEAR, "b")), (0, Vec::new()));
        assert_eq!(raised(&step(LINEAR, "h")), (0, Vec::new()));
    }

    #[test]
    fn updates_that_are_not_linear_stay() {
        let squared = "%p = mul %h, %h : f32[batch, 3, 2]\n%n = add %p, %b : f32[batch, 3, 2]";
        assert_eq!(raised(&step(squared, "n")).0, 0);
        let shown = "%t = tanh %h : f32[batch, 3, 2]\n%p = mul %a, %t : f32[batch, 3, 2]\n\
                     %n = add %p, %b : f32[batch, 3, 2]";
        assert_eq!(raised(&step(shown, "n")).0, 0);
    }
}
