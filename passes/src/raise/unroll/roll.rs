//! From packs to a loop, or to an op on all steps at once.

use super::pack::{Form, PackId, Packs};
use crate::raise::lift::{Lifted, Lifter, Obstacle};
use crate::view;
use ssmc_ir::ops::{Concat, Loop, Op, Reverse, Slice};
use ssmc_ir::{BuildError, Dim, GraphBuilder, LocId, Node, Shape, ValueId};
use std::collections::BTreeMap;

/// The states of a recurrence in the graph that is being built.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) last: ValueId,
    /// All states along axis 0.
    pub(super) all: ValueId,
    pub(super) n: i64,
    /// The last state is row 0.
    pub(super) reverse: bool,
}

impl Done {
    /// The states `start, start + step, ..` along axis 0.
    pub(super) fn states(
        self,
        b: &mut GraphBuilder,
        (start, step): (i64, i64),
        n: i64,
    ) -> Result<ValueId, BuildError> {
        let (start, step) = if self.reverse { (self.n - 1 - start, -step) } else { (start, step) };
        let x = steps(b, self.all, 0, (start, step), n)?;
        if step < 0 { b.op(Reverse { axis: 0 }, &[x]) } else { Ok(x) }
    }
}

/// What packs are made of, in the graph that is being built: the new values of old ones, and recurrences.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaves {
    pub(super) values: BTreeMap<ValueId, ValueId>,
    pub(super) chains: BTreeMap<usize, Done>,
}

impl Leaves {
    fn value(&self, old: ValueId) -> ValueId {
        self.values[&old]
    }
}

/// A value of the old graph or all states of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    Value(ValueId),
    Chain(usize),
}

/// What the pack is computed from.
pub(super) fn needs(packs: &Packs<'_>, id: PackId) -> Vec<Need> {
    let mut found = Vec::new();
    for id in packs.reachable(id) {
        match &packs.forms[id] {
            Form::Same(x) | Form::Indexed { x, .. } | Form::Delayed { first: x, .. } => {
                found.push(Need::Value(*x));
            }
            Form::States { chain, .. } => found.push(Need::Chain(*chain)),
            Form::Apart => found.extend(packs.values[id].iter().map(|v| Need::Value(*v))),
            Form::Literal(_) | Form::Carried | Form::Node { .. } => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The slices `start, start + step, ..` of a tensor along axis 0, in the order of the tensor.
pub(super) fn steps(
    b: &mut GraphBuilder,
    x: ValueId,
    axis: usize,
    (start, step): (i64, i64),
    n: i64,
) -> Result<ValueId, BuildError> {
    let low = if step < 0 { start + step * (n - 1) } else { start };
    let whole = step.abs() == 1 && low == 0 && b.shape(x)[axis].is(n);
    let part = Slice { axis, start: low.into(), len: n.into(), stride: step.abs() };
    let x = if whole { x } else { b.op(part, &[x])? };
    let perm: Vec<usize> = std::iter::once(axis).chain((0..b.ty(x).rank()).filter(|i| *i != axis)).collect();
    view::permute(b, x, &perm)
}

/// A pack as a tensor with the steps along axis 0, and whether they come in reverse order.
fn stacked(
    b: &mut GraphBuilder,
    packs: &Packs<'_>,
    id: PackId,
    leaves: &Leaves,
) -> Result<(ValueId, bool), BuildError> {
    let n = packs.values[id].len() as i64;
    let shape = packs.graph.ty(packs.values[id][0]).shape.clone();
    let rows: Shape = std::iter::once(&Dim::from(n)).chain(shape.iter()).collect();
    match &packs.forms[id] {
        Form::Indexed { x, axis, start, step } => {
            let x = steps(b, leaves.value(*x), *axis, (*start, *step), n)?;
            Ok((b.reshape(x, rows)?, *step < 0))
        }
        Form::Literal(c) => Ok((b.op(c.clone(), &[])?, false)),
        Form::States { chain, start, step } => {
            Ok((leaves.chains[chain].states(b, (*start, *step), n)?, false))
        }
        Form::Apart => {
            let unit: Shape = std::iter::once(&Dim::from(1)).chain(shape.iter()).collect();
            let parts = packs.values[id].iter().map(|v| b.reshape(leaves.value(*v), unit.clone()));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            Ok((b.op(Concat { axis: 0 }, &parts)?, false))
        }
        Form::Same(_) | Form::Carried | Form::Delayed { .. } | Form::Node { .. } => {
            unreachable!("only leaves that differ between steps are stacked")
        }
    }
}

/// The loop whose iterations are the steps: its body, and the op that repeats it. `operands` are the initial state,
/// the stacked packs and the captured values.
pub(super) struct Rolled {
    pub(super) node: Node,
    pub(super) op: Loop,
    pub(super) operands: Vec<ValueId>,
    pub(super) reverse: bool,
}

impl Rolled {
    /// Builds the operands in `b`, and the body that makes pack `next` from the pack of carried states, of which the
    /// first one is `initial` or zeros.
    pub(super) fn build(
        b: &mut GraphBuilder,
        packs: &Packs<'_>,
        next: PackId,
        initial: Option<ValueId>,
        leaves: &Leaves,
        loc: LocId,
    ) -> Result<Self, BuildError> {
        let graph = packs.graph;
        let n = packs.values[next].len() as i64;
        let ids = packs.reachable(next);
        let mut scanned: Vec<(PackId, ValueId, bool)> = Vec::new();
        let mut captured: Vec<(PackId, ValueId)> = Vec::new();
        let mut delayed: Vec<(PackId, PackId, ValueId)> = Vec::new();
        for id in ids.iter().copied() {
            match &packs.forms[id] {
                Form::Carried | Form::Node { .. } => {}
                Form::Delayed { of, first } => delayed.push((id, *of, leaves.value(*first))),
                Form::Same(x) => captured.push((id, leaves.value(*x))),
                _ => {
                    let (x, reverse) = stacked(b, packs, id, leaves)?;
                    scanned.push((id, x, reverse));
                }
            }
        }
        // The direction of the loop is that of the tensors which are indexed.
        scanned.sort_by_key(|(id, ..)| !matches!(packs.forms[*id], Form::Indexed { .. }));
        let reverse = scanned.first().is_some_and(|(.., reverse)| *reverse);
        let mut body = GraphBuilder::with_locs("step", graph.locs().clone());
        body.set_loc_id(loc);
        body.input("i", ssmc_ir::TensorType::new(ssmc_ir::DType::I64, Shape::scalar()));
        let mut known: BTreeMap<PackId, ValueId> = BTreeMap::new();
        let state = body.input("h", graph.ty(packs.values[next][0]).clone());
        for (i, (id, ..)) in delayed.iter().enumerate() {
            let value = body.input(format!("d{i}"), graph.ty(packs.values[*id][0]).clone());
            known.insert(*id, value);
        }
        let ports = scanned.iter().map(|(id, ..)| *id).chain(captured.iter().map(|(id, _)| *id));
        for (i, id) in ports.enumerate() {
            let value = body.input(format!("x{i}"), graph.ty(packs.values[id][0]).clone());
            known.insert(id, value);
        }
        for id in ids {
            let value = match &packs.forms[id] {
                Form::Carried => state,
                Form::Node { op, operands, result, .. } => {
                    let operands: Vec<_> = operands.iter().map(|v| v.map(|v| known[&v])).collect();
                    body.node(op.clone(), &operands, Vec::new())?[*result]
                }
                _ => continue,
            };
            known.insert(id, value);
        }
        body.output("h", known[&next]);
        for (i, (_, of, _)) in delayed.iter().enumerate() {
            body.output(format!("d{i}"), known[of]);
        }
        body.output("all", known[&next]);
        let op = Loop {
            n_carried: 1 + delayed.len(),
            scan_axes: vec![0; scanned.len()],
            scan_reverse: scanned.iter().map(|(.., reverse)| *reverse).collect(),
            stack_axes: vec![0],
            stack_reverse: vec![reverse],
            trip_count: n.into(),
        };
        let start = match initial {
            Some(initial) => leaves.value(initial),
            None => {
                let ty = graph.ty(packs.values[next][0]);
                let zero = b.scalar(ty.dtype, 0.0)?;
                b.broadcast(zero, &[], ty.shape.clone())?
            }
        };
        let operands = std::iter::once(start)
            .chain(delayed.into_iter().map(|(.., first)| first))
            .chain(scanned.into_iter().map(|(_, x, _)| x))
            .chain(captured.into_iter().map(|(_, x)| x))
            .collect();
        let node = Node {
            op: op.clone().into(),
            operands: Vec::new(),
            results: Vec::new(),
            regions: vec![body.finish()],
            loc,
        };
        Ok(Self { node, op, operands, reverse })
    }
}

/// The pack computed for all steps at once.
pub(super) fn lift(
    b: &mut GraphBuilder,
    packs: &Packs<'_>,
    id: PackId,
    leaves: &Leaves,
) -> Result<ValueId, Obstacle> {
    let trips = Dim::from(packs.values[id].len() as i64);
    let mut lifter = Lifter { b, trips };
    let mut known: BTreeMap<PackId, Lifted> = BTreeMap::new();
    for id in packs.reachable(id) {
        if let Form::Delayed { .. } = &packs.forms[id] {
            return Err(Obstacle::Op { op: "delay" });
        }
        let lifted = match &packs.forms[id] {
            Form::Same(x) => Lifted::Same(leaves.value(*x)),
            Form::Node { op, operands, node, result } => {
                let node = Node { op: op.clone(), ..packs.graph.node(*node).clone() };
                let operands: Vec<_> = operands.iter().map(|v| v.map(|v| known[&v])).collect();
                lifter.node(packs.graph, &node, &operands)?[*result]
            }
            _ => {
                let (x, reverse) = stacked(lifter.b, packs, id, leaves)?;
                Lifted::Stacked(if reverse { lifter.b.op(Reverse { axis: 0 }, &[x])? } else { x })
            }
        };
        known.insert(id, lifted);
    }
    Ok(lifter.stacked(known[&id])?)
}

/// Whether an op of the pack reads what differs between the steps by position.
pub(super) fn is_indexed(packs: &Packs<'_>, id: PackId) -> bool {
    packs.reachable(id).iter().any(|id| matches!(packs.forms[*id], Form::Indexed { .. }))
}

/// Stacks of parts along a new first axis as the concatenation along `axis`.
pub(super) fn concatenated(
    b: &mut GraphBuilder,
    x: ValueId,
    axis: usize,
    shape: &Shape,
) -> Result<ValueId, BuildError> {
    let rank = b.ty(x).rank();
    let perm: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..rank).collect();
    let x = view::permute(b, x, &perm)?;
    b.reshape(x, shape.clone())
}

/// The op of a node, if it joins several tensors.
pub(super) fn joins(node: &Node) -> Option<&Concat> {
    match &node.op {
        Op::Concat(op) if node.operands.len() > 1 => Some(op),
        _ => None,
    }
}
