//! Transposes move towards producers.
//!
//! Every user of a value votes for an order of its axes: a transpose votes for its own, an elementwise node for that
//! which its users want of it, a product with a weight matrix for [.., summed axes], an op with a fixed layout for the
//! present one. Where all votes agree, and the producer can give any order, it gives that one.

use super::products::is_weight;
use crate::pass::{Changed, Pass, PassCtx, PassError};
use crate::view;
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Broadcast, Contract, Op, Spec};
use ssmc_ir::{Entity, Graph, Model, Node, Shape, ValueId};

/// Moves transposes through elementwise nodes, broadcasts and reshapes of unit axes, into contractions. Regions are
/// left alone.
pub struct Layout;

impl Pass for Layout {
    fn name(&self) -> &'static str {
        "layout"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = layout(&model.graph)?;
        Ok(Changed::replace(model, graph))
    }
}

type Perm = Vec<usize>;

/// What the users of a value want.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Vote {
    /// Any order will do.
    Any,
    /// All that care want this order.
    For(Perm),
    /// The present order, or no agreement.
    Present,
}

impl Vote {
    fn add(&mut self, other: Vote) {
        *self = match (std::mem::replace(self, Vote::Any), other) {
            (Vote::Any, vote) | (vote, Vote::Any) => vote,
            (Vote::For(p), Vote::For(q)) if p == q => Vote::For(p),
            _ => Vote::Present,
        };
    }

    fn perm(&self) -> Option<&Perm> {
        match self {
            Vote::For(perm) => Some(perm),
            Vote::Any | Vote::Present => None,
        }
    }

    fn of(perm: Perm) -> Self {
        if perm.is_sorted() { Vote::Present } else { Vote::For(perm) }
    }
}

fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_))
}

/// The order in which the operand of a broadcast or of a reshape of unit axes must stand if its result stands in order
/// `perm`: `to[i]` is the result axis of operand axis `i`.
fn pull(to: &[usize], perm: &[usize]) -> Perm {
    let position = |axis: usize| perm.iter().position(|p| *p == axis);
    let mut order: Perm = (0..to.len()).collect();
    order.sort_by_key(|i| position(to[*i]));
    order
}

/// The result axis of every operand axis of a reshape that only moves unit axes; unit axes are sent past the end.
fn unit_axes(graph: &Graph, x: ValueId, shape: &Shape) -> Option<Vec<usize>> {
    let from = &graph.ty(x).shape;
    if !view::same_dense(from, shape) {
        return None;
    }
    let mut dense = (0..shape.rank()).filter(|i| !shape[*i].is(1));
    let mut unit = shape.rank()..;
    from.iter().map(|d| if d.is(1) { unit.next() } else { dense.next() }).collect()
}

/// Orders of unit axes mean nothing: an order that moves only those is the present one.
fn vote(graph: &Graph, value: ValueId, perm: Perm) -> Vote {
    let shape = &graph.ty(value).shape;
    let dense: Vec<usize> = perm.iter().copied().filter(|axis| !shape[*axis].is(1)).collect();
    if dense.is_sorted() { Vote::Present } else { Vote::of(perm) }
}

/// What a node wants of operand `i`, given what is wanted of its first result.
fn ballot(graph: &Graph, node: &Node, i: usize, wanted: Option<&Perm>) -> Vote {
    let Some(x) = node.operands[i] else { return Vote::Any };
    match &node.op {
        Op::Transpose(t) => match wanted {
            None => vote(graph, x, t.perm.clone()),
            Some(p) => vote(graph, x, p.iter().map(|axis| t.perm[*axis]).collect()),
        },
        op if is_elementwise(op) => wanted.map_or(Vote::Present, |p| Vote::For(p.clone())),
        Op::Broadcast(b) => match wanted {
            None => Vote::Present,
            Some(p) => vote(graph, x, pull(&b.axes, p)),
        },
        Op::Reshape(r) => match (wanted, unit_axes(graph, x, &r.shape)) {
            (Some(p), Some(to)) => vote(graph, x, pull(&to, p)),
            _ => Vote::Present,
        },
        Op::Contract(c) => {
            let has_weight = node.operands.iter().flatten().any(|v| is_weight(graph, *v));
            let labels = &c.spec.inputs[i];
            if !has_weight || c.spec.summed().is_empty() || is_weight(graph, x) {
                return Vote::Any;
            }
            let output: Vec<u8> = match wanted {
                None => c.spec.output.clone(),
                Some(p) => p.iter().map(|axis| c.spec.output[*axis]).collect(),
            };
            let mut order: Perm = (0..labels.len()).collect();
            order.sort_by_key(|axis| output.iter().position(|l| *l == labels[*axis]).unwrap_or(output.len()));
            vote(graph, x, order)
        }
        _ => Vote::Present,
    }
}

/// Whether the node can give its result in any order of axes.
fn is_free(graph: &Graph, node: &Node) -> bool {
    match &node.op {
        Op::Transpose(_) | Op::Broadcast(_) | Op::Contract(_) => true,
        Op::Reshape(r) => node.operands[0].is_some_and(|x| unit_axes(graph, x, &r.shape).is_some()),
        op => is_elementwise(op),
    }
}

fn layout(graph: &Graph) -> Result<Graph, EditError> {
    let mut votes = vec![Vote::Any; graph.values().len()];
    for port in graph.outputs() {
        votes[port.value.idx()] = Vote::Present;
    }
    for port in graph.inputs() {
        votes[port.value.idx()] = Vote::Present;
    }
    for (_, node) in graph.nodes().rev() {
        if !is_free(graph, node) {
            for value in &node.results {
                votes[value.idx()] = Vote::Present;
            }
        }
        let wanted = node.results.first().and_then(|v| votes[v.idx()].perm().cloned());
        for (i, value) in node.operands.iter().enumerate() {
            if let Some(value) = value {
                votes[value.idx()].add(ballot(graph, node, i, wanted.as_ref()));
            }
        }
    }
    let mut mover = Mover { rewriter: Rewriter::new(graph), stored: votes };
    for (_, node) in graph.nodes() {
        mover.rewriter.builder().set_loc_id(node.loc);
        mover.node(node)?;
    }
    mover.rewriter.finish()
}

struct Mover<'a> {
    rewriter: Rewriter<'a>,
    /// The order in which every value of the new graph stands.
    stored: Vec<Vote>,
}

impl<'a> Mover<'a> {
    /// The new value with its axes in the order `perm` of the old one.
    fn get(&mut self, value: ValueId, perm: Option<&Perm>) -> Result<ValueId, EditError> {
        let new = self.rewriter.get(value)?;
        let rank = self.rewriter.old().ty(value).rank();
        let has: Perm = self.stored[value.idx()].perm().cloned().unwrap_or_else(|| (0..rank).collect());
        let wants: Perm = perm.cloned().unwrap_or_else(|| (0..rank).collect());
        let order: Perm = wants
            .iter()
            .map(|axis| has.iter().position(|h| h == axis).expect("both are permutations of the axes"))
            .collect();
        Ok(view::permute(self.rewriter.builder(), new, &order)?)
    }

    fn node(&mut self, node: &'a Node) -> Result<(), EditError> {
        let graph = self.rewriter.old();
        let wanted = node.results.first().and_then(|v| self.stored[v.idx()].perm().cloned());
        let Some(wanted) = wanted else { return self.present(node) };
        let (result, x) = (node.results[0], node.operands[0]);
        let shape: Shape = wanted.iter().map(|axis| graph.ty(result).shape[*axis].clone()).collect();
        let first = |found: Option<ValueId>| found.expect("the first operand is required");
        let new = match &node.op {
            Op::Transpose(t) => {
                let order = wanted.iter().map(|axis| t.perm[*axis]).collect();
                self.get(first(x), Some(&order))?
            }
            Op::Broadcast(b) => {
                let order = pull(&b.axes, &wanted);
                let x = self.get(first(x), Some(&order))?;
                let position = |axis: usize| wanted.iter().position(|p| *p == axis);
                let axes = order.iter().filter_map(|i| position(b.axes[*i])).collect();
                self.rewriter.builder().op(Broadcast { axes, shape }, &[x])?
            }
            Op::Reshape(r) => {
                let to = unit_axes(graph, first(x), &r.shape).expect("only such reshapes are free");
                let x = self.get(first(x), Some(&pull(&to, &wanted)))?;
                view::reshape(self.rewriter.builder(), x, &shape)?
            }
            Op::Contract(c) => {
                let operands = self.operands(node, None)?;
                let output = wanted.iter().map(|axis| c.spec.output[*axis]).collect();
                let spec = Spec { inputs: c.spec.inputs.clone(), output }.renamed();
                self.rewriter.builder().node(Contract { spec }, &operands, Vec::new())?[0]
            }
            op => {
                let operands = self.operands(node, Some(&wanted))?;
                self.rewriter.builder().node(op.clone(), &operands, Vec::new())?[0]
            }
        };
        self.rewriter.set(result, new);
        Ok(())
    }

    /// The operands of a node, all in one order. Those of a contraction stand as they are, with their labels moved.
    fn operands(&mut self, node: &Node, perm: Option<&Perm>) -> Result<Vec<Option<ValueId>>, EditError> {
        node.operands.iter().map(|v| v.map(|v| self.get(v, perm)).transpose()).collect()
    }

    /// Copies a node whose results keep their order.
    fn present(&mut self, node: &Node) -> Result<(), EditError> {
        let operands = self.operands(node, None)?;
        let results = match &node.op {
            Op::Transpose(t) => {
                let x = operands[0].expect("the operand is required");
                vec![view::permute(self.rewriter.builder(), x, &t.perm)?]
            }
            op => self.rewriter.builder().node(op.clone(), &operands, node.regions.clone())?,
        };
        for (old, new) in node.results.iter().zip(results) {
            self.rewriter.set(*old, new);
        }
        Ok(())
    }
}
