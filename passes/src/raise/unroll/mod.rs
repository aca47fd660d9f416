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
mod step;

pub use step::OneStep;

use super::lift::Obstacle;
use super::scan_loop::Raise;
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
        let Some(plan) = Plan::new(graph, &model.weights, ctx) else { return Ok(Changed::No) };
        let graph = Emitter::new(graph, &plan, &model.weights).run()?;
        Ok(Changed::replace(model, graph))
    }
}

const NAME: &str = "unrolled";

/// A chain that is a scan.
struct Recurrence<'a> {
    chain: Chain,
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
    fn new(graph: &'a Graph, weights: &Weights, ctx: &mut PassCtx) -> Option<Self> {
        let chains = chain::find(graph, &Keys::new(graph, |_| None));
        let states = chain::states(graph, &chains);
        let keys = Keys::new(graph, |v| states[v.idx()].map(|(chain, _)| key::hash(("state", chain))));
        let mut plan =
            Self { recurrences: Vec::new(), states: vec![None; graph.values().len()], sunk: BTreeMap::new() };
        for chain in chains {
            let place = graph.locs().describe(loc_of(graph, chain.states[0]));
            let kind = match plan.recurrence(graph, weights, &keys, chain) {
                Ok(true) => RemarkKind::Raised { evidence: Evidence::Structural, scans: 1 },
                Ok(false) => continue,
                Err(obstacle) => RemarkKind::Kept { reason: obstacle.to_string() },
            };
            ctx.remarks.push(Remark { pass: NAME, place, kind });
        }
        if plan.recurrences.is_empty() {
            return None;
        }
        plan.sink(graph, &keys);
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
        let mut needs = roll::needs(&packs, next);
        needs.push(Need::Value(chain.initial));
        if self.depends(graph, &needs, &chain) {
            return Err(Obstacle::Coupled { carried: 0 });
        }
        let loc = loc_of(graph, chain.states[0]);
        let mut b = GraphBuilder::with_locs("trial", graph.locs().clone());
        let leaves = stubs(graph, &mut b, &needs, &self.recurrences);
        let rolled = Rolled::build(&mut b, &packs, next, chain.initial, &leaves, loc)?;
        rolled.raise(&mut b, weights, &mut Tracer::default())?;
        let at = self.recurrences.len();
        for (i, v) in chain.states.iter().enumerate() {
            self.states[v.idx()] = Some((at, i));
        }
        self.recurrences.push(Recurrence { chain, packs, next, needs, loc });
        Ok(true)
    }

    /// Whether what is needed depends on a state of the chain, if all states of a recurrence depend on all that its
    /// steps need.
    fn depends(&self, graph: &Graph, needs: &[Need], chain: &Chain) -> bool {
        let own: BTreeMap<ValueId, ()> = chain.states.iter().map(|v| (*v, ())).collect();
        let first = node_of(graph, chain.states[0]);
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
    fn sink(&mut self, graph: &'a Graph, keys: &Keys) {
        let mut reads = vec![false; graph.values().len()];
        for (id, node) in graph.nodes() {
            let operands = || node.operands.iter().flatten();
            let of_state = operands().any(|v| reads[v.idx()]);
            for v in &node.results {
                reads[v.idx()] = of_state || self.states[v.idx()].is_some();
            }
            let Some(op) = roll::joins(node) else { continue };
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

fn loc_of(graph: &Graph, v: ValueId) -> LocId {
    graph.def_node(v).expect("a state is the result of a node").loc
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
                let states = &recurrences[*c].chain.states;
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
        let (results, _) = raised.run(false)?;
        Ok((results[0], results[1]))
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

    fn run(mut self) -> Result<Graph, PassError> {
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

    fn ensure(&mut self, value: ValueId) -> Result<(), PassError> {
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

    fn build(&mut self, need: Need) -> Result<(), PassError> {
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
        let parts = tried(roll::lift(b, &sunk.packs, sunk.parts, &leaves))?;
        let whole = roll::concatenated(b, parts, sunk.op.axis, &graph.ty(v).shape)?;
        Ok(self.rewriter.replace(v, whole)?)
    }

    fn scan(&mut self, c: usize) -> Result<(), PassError> {
        let r = &self.plan.recurrences[c];
        let leaves = self.leaves(&r.needs)?;
        let b = self.rewriter.builder();
        let loc = b.set_loc(Loc::Derived { by: NAME.into(), from: vec![r.loc] });
        let rolled = Rolled::build(b, &r.packs, r.next, r.chain.initial, &leaves, loc)?;
        let (last, all) = tried(rolled.raise(b, self.weights, &mut self.tracer))?;
        let n = r.chain.states.len() as i64;
        self.done[c] = Some(Done { last, all, n, reverse: rolled.reverse });
        Ok(())
    }
}

/// The result of what has succeeded on the same types before.
fn tried<T>(result: Result<T, Obstacle>) -> Result<T, BuildError> {
    result.map_err(|obstacle| match obstacle {
        Obstacle::Build(e) => e,
        other => unreachable!("it was tried before: {other}"),
    })
}

#[cfg(test)]
mod tests;
