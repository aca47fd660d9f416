//! Recurrences that exporters wrote out step by step become scans again.
//!
//! A chain of values that are made from each other in the same way ([`chain`]) is compared step by step: what the steps
//! take must be elements of common tensors at consecutive indices, the same value, literals, or the same op on such
//! values ([`pack`]). The chain is then a loop whose body is one step ([`roll`]), which is raised like any other.
//! Concatenations of values that are computed from the states are computed for all steps at once.
//!
//! All of it takes linear time in the number of nodes. A chain that is no first-order recurrence stays as it is.

mod chain;
mod key;
mod pack;
mod roll;
mod start;
mod step;

pub use step::OneStep;

use super::lift::Obstacle;
use super::scan_loop::{Raise, Raised};
use super::trace::Tracer;
use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use chain::Chain;
use key::Keys;
use pack::{Form, PackId, Packer, Packs};
use roll::{Done, Leaves, Need, Rolled};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::Concat;
use ssmc_ir::{
    BuildError, Def, Dim, Entity, Graph, GraphBuilder, Loc, LocId, Model, NodeId, Shape, ValueId, Weights,
};
use std::collections::{BTreeMap, BTreeSet};

/// Raises unrolled first-order recurrences; see the [module](self). Regions are left alone.
pub struct Unrolled;

impl Pass for Unrolled {
    fn name(&self) -> &'static str {
        "unrolled"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        // Types do not tell everything: what fails on the values themselves is left out the next time.
        let mut refused = Refused::new();
        loop {
            let mut remarks = Vec::new();
            let built = Plan::new(graph, &model.weights, &refused, &mut remarks)
                .map(|plan| Emitter::new(graph, &plan, &model.weights).run());
            match built {
                Some(Err(Fault::Refused { node, reason })) => {
                    refused.insert(node, reason);
                }
                Some(Err(Fault::Edit(error))) => return Err(error.into()),
                Some(Ok(graph)) => {
                    ctx.remarks.append(&mut remarks);
                    return Ok(Changed::replace(model, graph));
                }
                None => {
                    ctx.remarks.append(&mut remarks);
                    return Ok(Changed::No);
                }
            }
        }
    }
}

/// Why a graph was not built.
#[derive(Debug)]
enum Fault {
    Edit(EditError),
    /// What the node computes, a chain from its first state on or a concatenation, cannot be computed at once.
    Refused {
        node: NodeId,
        reason: String,
    },
}

impl Fault {
    fn refused(node: NodeId) -> impl FnOnce(Obstacle) -> Self {
        move |obstacle| Self::Refused { node, reason: obstacle.to_string() }
    }
}

impl From<EditError> for Fault {
    fn from(error: EditError) -> Self {
        Self::Edit(error)
    }
}

impl From<BuildError> for Fault {
    fn from(error: BuildError) -> Self {
        Self::Edit(error.into())
    }
}

/// First nodes of chains and concatenations that are left as they are, with the reason.
type Refused = BTreeMap<NodeId, String>;

const NAME: &str = "unrolled";

/// A chain that is a scan.
struct Recurrence<'a> {
    /// The state before the first one, if it is not zero.
    initial: Option<ValueId>,
    states: Vec<ValueId>,
    packs: Packs<'a>,
    next: PackId,
    needs: Vec<Need>,
    loc: LocId,
}

/// A concatenation of what is computed from states.
struct Sunk<'a> {
    op: Concat,
    packs: Packs<'a>,
    parts: PackId,
    needs: Vec<Need>,
}

struct Plan<'a> {
    recurrences: Vec<Recurrence<'a>>,
    states: Vec<Option<(usize, usize)>>,
    sunk: BTreeMap<NodeId, Sunk<'a>>,
}

impl<'a> Plan<'a> {
    /// What can be raised; `None` if there is nothing.
    fn new(
        graph: &'a Graph,
        weights: &Weights,
        refused: &Refused,
        remarks: &mut Vec<Remark>,
    ) -> Option<Self> {
        let chains = chain::find(graph, &Keys::new(graph, |_| None));
        let states = chain::states(graph, &chains);
        // The first step is like the others if the state before it counts as one.
        let mut alike: Vec<Option<usize>> = states.iter().map(|s| s.map(|(chain, _)| chain)).collect();
        for (i, chain) in chains.iter().enumerate() {
            alike[chain.initial.idx()].get_or_insert(i);
        }
        let keys = Keys::new(graph, |v| alike[v.idx()].map(|chain| key::hash(("state", chain))));
        let mut plan =
            Self { recurrences: Vec::new(), states: vec![None; graph.values().len()], sunk: BTreeMap::new() };
        for chain in chains {
            let first = first_node(graph, &chain.states);
            let place = graph.locs().describe(graph.node(first).loc);
            let kind = match refused.get(&first) {
                Some(reason) => RemarkKind::Kept { reason: reason.clone() },
                None => match plan.recurrence(graph, weights, &keys, chain) {
                    Ok(true) => RemarkKind::Raised { evidence: Evidence::Structural, scans: 1 },
                    Ok(false) => continue,
                    Err(obstacle) => RemarkKind::Kept { reason: obstacle.to_string() },
                },
            };
            remarks.push(Remark { pass: NAME, place, kind });
        }
        if plan.recurrences.is_empty() {
            return None;
        }
        // A chain that starts from zeros has one state more than it seemed to have.
        let keys = Keys::new(graph, |v| {
            let of_raised = plan.states[v.idx()].map(|(at, _)| key::hash(("raised", at)));
            of_raised.or_else(|| alike[v.idx()].map(|chain| key::hash(("state", chain))))
        });
        plan.sink(graph, &keys, refused);
        Some(plan)
    }

    /// Takes in a chain that is a first-order recurrence over elements of tensors; `false` if it takes no elements, so
    /// that it is no loop over a sequence.
    fn recurrence(
        &mut self,
        graph: &'a Graph,
        weights: &Weights,
        keys: &Keys,
        chain: Chain,
    ) -> Result<bool, Obstacle> {
        let n = chain.states.len();
        let before = std::iter::once(chain.initial).chain(chain.states[..n - 1].iter().copied()).collect();
        let mut packer = Packer::new(graph, keys, &self.states);
        packer.carried(before);
        let next = packer.pack(chain.states.clone());
        let packs = packer.finish();
        if !roll::is_indexed(&packs, next) {
            return Ok(false);
        }
        let longer = start::from_zeros(graph, weights, &chain, (&packs, next), || {
            Packer::new(graph, keys, &self.states)
        });
        if let Some((packs, next)) = longer.filter(|_| self.states[chain.initial.idx()].is_none()) {
            let states = std::iter::once(chain.initial).chain(chain.states.iter().copied()).collect();
            if self.take(graph, weights, None, states, (packs, next)).is_ok() {
                return Ok(true);
            }
        }
        self.take(graph, weights, Some(chain.initial), chain.states, (packs, next))?;
        Ok(true)
    }

    /// Takes in a recurrence over packs, if it can be raised.
    fn take(
        &mut self,
        graph: &'a Graph,
        weights: &Weights,
        initial: Option<ValueId>,
        states: Vec<ValueId>,
        (packs, next): (Packs<'a>, PackId),
    ) -> Result<(), Obstacle> {
        let mut needs = roll::needs(&packs, next);
        needs.extend(initial.map(Need::Value));
        if self.depends(graph, &needs, &states) {
            return Err(Obstacle::Coupled { carried: 0 });
        }
        let loc = graph.node(first_node(graph, &states)).loc;
        let mut b = GraphBuilder::with_locs("trial", graph.locs().clone());
        let leaves = stubs(graph, &mut b, &needs, &self.recurrences);
        let rolled = Rolled::build(&mut b, &packs, next, initial, &leaves, loc)?;
        rolled.raise(&mut b, weights, &mut Tracer::default())?;
        let at = self.recurrences.len();
        for (i, v) in states.iter().enumerate() {
            self.states[v.idx()] = Some((at, i));
        }
        self.recurrences.push(Recurrence { initial, states, packs, next, needs, loc });
        Ok(())
    }

    /// Whether what is needed depends on a state of the chain, if all states of a recurrence depend on all that its
    /// steps need.
    fn depends(&self, graph: &Graph, needs: &[Need], states: &[ValueId]) -> bool {
        let own: BTreeMap<ValueId, ()> = states.iter().map(|v| (*v, ())).collect();
        let first = node_of(graph, states[0]);
        // A value that is older than the chain depends on it only through a recurrence that needs younger ones.
        let is_younger = |need: &Need| match need {
            Need::Value(v) => node_of(graph, *v) > first,
            Need::Chain(_) => false,
        };
        let has_younger: Vec<bool> =
            self.recurrences.iter().map(|r| r.needs.iter().any(is_younger)).collect();
        let prune = !has_younger.iter().any(|x| *x);
        let mut seen_values = BTreeSet::new();
        let mut seen_chains = vec![false; self.recurrences.len()];
        let mut stack = needs.to_vec();
        while let Some(need) = stack.pop() {
            let need = match need {
                Need::Value(v) => match self.states[v.idx()] {
                    Some((chain, _)) => Need::Chain(chain),
                    None => need,
                },
                need => need,
            };
            match need {
                Need::Value(v) if prune && !is_younger(&need) && !own.contains_key(&v) => {}
                Need::Value(v) => {
                    if own.contains_key(&v) {
                        return true;
                    }
                    if seen_values.insert(v)
                        && let Some(node) = graph.def_node(v)
                    {
                        stack.extend(node.operands.iter().flatten().map(|v| Need::Value(*v)));
                    }
                }
                Need::Chain(c) => {
                    if (has_younger[c] || !prune) && !std::mem::replace(&mut seen_chains[c], true) {
                        stack.extend(&self.recurrences[c].needs);
                    }
                }
            }
        }
        false
    }

    /// Finds the concatenations that can be computed for all steps at once.
    fn sink(&mut self, graph: &'a Graph, keys: &Keys, refused: &Refused) {
        let mut reads = vec![false; graph.values().len()];
        for (id, node) in graph.nodes() {
            let operands = || node.operands.iter().flatten();
            let of_state = operands().any(|v| reads[v.idx()]);
            for v in &node.results {
                reads[v.idx()] = of_state || self.states[v.idx()].is_some();
            }
            let Some(op) = roll::joins(node).filter(|_| !refused.contains_key(&id)) else { continue };
            let first = node.operands[0].map(|v| (keys.of(v), graph.ty(v)));
            let is_one = |v: &ValueId| Some((keys.of(*v), graph.ty(*v))) == first && reads[v.idx()];
            if !operands().all(is_one) {
                continue;
            }
            let mut packer = Packer::new(graph, keys, &self.states);
            let parts = packer.pack(operands().copied().collect());
            let packs = packer.finish();
            let used = packs.reachable(parts);
            let is_apart = used.iter().any(|id| matches!(packs.forms[*id], Form::Apart));
            let has_states = used.iter().any(|id| matches!(packs.forms[*id], Form::States { .. }));
            if is_apart || !has_states {
                continue;
            }
            let needs = roll::needs(&packs, parts);
            let mut b = GraphBuilder::with_locs("trial", graph.locs().clone());
            let leaves = stubs(graph, &mut b, &needs, &self.recurrences);
            if roll::lift(&mut b, &packs, parts, &leaves).is_ok() {
                self.sunk.insert(id, Sunk { op: op.clone(), packs, parts, needs });
            }
        }
    }

    /// What must be there before the value can be computed.
    fn needs(&self, graph: &Graph, need: Need) -> Vec<Need> {
        let v = match need {
            Need::Chain(c) => return self.recurrences[c].needs.clone(),
            Need::Value(v) => v,
        };
        if let Some((chain, _)) = self.states[v.idx()] {
            return vec![Need::Chain(chain)];
        }
        let Def::Result(id, _) = graph.def(v) else { return Vec::new() };
        match self.sunk.get(&id) {
            Some(sunk) => sunk.needs.clone(),
            None => graph.node(id).operands.iter().flatten().map(|v| Need::Value(*v)).collect(),
        }
    }
}

/// The position of the node that defines a value; inputs come first.
fn node_of(graph: &Graph, v: ValueId) -> Option<NodeId> {
    match graph.def(v) {
        Def::Input(_) => None,
        Def::Result(id, _) => Some(id),
    }
}

fn first_node(graph: &Graph, states: &[ValueId]) -> NodeId {
    node_of(graph, states[0]).expect("a state is the result of a node")
}

/// Leaves that are inputs of a graph, which is built to see whether it can be.
fn stubs(graph: &Graph, b: &mut GraphBuilder, needs: &[Need], recurrences: &[Recurrence<'_>]) -> Leaves {
    let mut leaves = Leaves::default();
    for need in needs {
        match need {
            Need::Value(v) => {
                let input = b.input(v.to_string(), graph.ty(*v).clone());
                leaves.values.insert(*v, input);
            }
            Need::Chain(c) => {
                let states = &recurrences[*c].states;
                let (ty, n) = (graph.ty(states[0]), states.len() as i64);
                let rows: Shape = std::iter::once(&Dim::from(n)).chain(ty.shape.iter()).collect();
                let all = b.input(format!("chain{c}"), ty.with_shape(rows));
                leaves.chains.insert(*c, Done { last: all, all, n, reverse: false });
            }
        }
    }
    leaves
}

impl Rolled {
    /// The last state, and all states stacked along axis 0 in the order of the tensors.
    fn raise(
        &self,
        b: &mut GraphBuilder,
        weights: &Weights,
        tracer: &mut Tracer,
    ) -> Result<(ValueId, ValueId), Obstacle> {
        let raised = Raise::new(b, &self.node, &self.op, weights, tracer, &self.operands)?;
        let Raised { results, rest: None, .. } = raised.run(false)? else {
            return Err(Obstacle::Coupled { carried: 0 });
        };
        Ok((results[0], results[self.op.n_carried]))
    }
}

/// Builds the new graph, each node when it is first needed.
struct Emitter<'a, 'b> {
    rewriter: Rewriter<'a>,
    plan: &'b Plan<'a>,
    weights: &'b Weights,
    tracer: Tracer,
    done: Vec<Option<Done>>,
}

impl<'a, 'b> Emitter<'a, 'b> {
    fn new(graph: &'a Graph, plan: &'b Plan<'a>, weights: &'b Weights) -> Self {
        let done = vec![None; plan.recurrences.len()];
        Self { rewriter: Rewriter::new(graph), plan, weights, tracer: Tracer::default(), done }
    }

    fn run(mut self) -> Result<Graph, Fault> {
        let graph = self.rewriter.old();
        let mut is_needed = vec![false; graph.values().len()];
        let mut is_chain_needed = vec![false; self.done.len()];
        let mut stack: Vec<Need> = graph.outputs().iter().map(|p| Need::Value(p.value)).collect();
        while let Some(need) = stack.pop() {
            let seen = match need {
                Need::Value(v) => &mut is_needed[v.idx()],
                Need::Chain(c) => &mut is_chain_needed[c],
            };
            if !std::mem::replace(seen, true) {
                stack.extend(self.plan.needs(graph, need));
            }
        }
        for (_, node) in graph.nodes() {
            for v in node.results.iter().filter(|v| is_needed[v.idx()]) {
                self.ensure(*v)?;
            }
        }
        Ok(self.rewriter.finish()?)
    }

    fn is_there(&self, need: Need) -> bool {
        match need {
            Need::Value(v) => self.rewriter.get(v).is_ok(),
            Need::Chain(c) => self.done[c].is_some(),
        }
    }

    fn ensure(&mut self, value: ValueId) -> Result<(), Fault> {
        let mut stack = vec![Need::Value(value)];
        while let Some(&need) = stack.last() {
            if self.is_there(need) {
                stack.pop();
                continue;
            }
            let needs = self.plan.needs(self.rewriter.old(), need);
            let mut missing: Vec<Need> = needs.into_iter().filter(|n| !self.is_there(*n)).collect();
            if missing.is_empty() {
                self.build(need)?;
                stack.pop();
            } else {
                stack.append(&mut missing);
            }
        }
        Ok(())
    }

    /// The new values of what is needed, all of which are there.
    fn leaves(&self, needs: &[Need]) -> Result<Leaves, EditError> {
        let mut leaves = Leaves::default();
        for need in needs {
            match need {
                Need::Value(v) => {
                    leaves.values.insert(*v, self.rewriter.get(*v)?);
                }
                Need::Chain(c) => {
                    leaves.chains.extend(self.done[*c].map(|done| (*c, done)));
                }
            }
        }
        Ok(leaves)
    }

    fn build(&mut self, need: Need) -> Result<(), Fault> {
        let graph = self.rewriter.old();
        let v = match need {
            Need::Chain(c) => return self.scan(c),
            Need::Value(v) => v,
        };
        if let Some((c, i)) = self.plan.states[v.idx()] {
            let done = self.done[c].expect("the recurrence is needed first");
            let i = i as i64;
            let state = if i + 1 == done.n {
                done.last
            } else {
                let b = self.rewriter.builder();
                let state = done.states(b, (i, 1), 1)?;
                b.reshape(state, graph.ty(v).shape.clone())?
            };
            return Ok(self.rewriter.replace(v, state)?);
        }
        let Def::Result(id, _) = graph.def(v) else { return Ok(()) };
        let node = graph.node(id);
        let Some(sunk) = self.plan.sunk.get(&id) else { return Ok(self.rewriter.copy(node)?) };
        let leaves = self.leaves(&sunk.needs)?;
        let b = self.rewriter.builder();
        b.set_loc(Loc::Derived { by: NAME.into(), from: vec![node.loc] });
        let parts = roll::lift(b, &sunk.packs, sunk.parts, &leaves).map_err(Fault::refused(id))?;
        let whole = roll::concatenated(b, parts, sunk.op.axis, &graph.ty(v).shape)?;
        Ok(self.rewriter.replace(v, whole)?)
    }

    fn scan(&mut self, c: usize) -> Result<(), Fault> {
        let r = &self.plan.recurrences[c];
        let leaves = self.leaves(&r.needs)?;
        let b = self.rewriter.builder();
        let loc = b.set_loc(Loc::Derived { by: NAME.into(), from: vec![r.loc] });
        let rolled = Rolled::build(b, &r.packs, r.next, r.initial, &leaves, loc)?;
        let raised = rolled.raise(b, self.weights, &mut self.tracer);
        let (last, all) = raised.map_err(Fault::refused(first_node(self.rewriter.old(), &r.states)))?;
        let n = r.states.len() as i64;
        self.done[c] = Some(Done { last, all, n, reverse: rolled.reverse });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
