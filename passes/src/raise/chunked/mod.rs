//! Recurrences that are written out over chunks become scans.
//!
//! State space duality computes `h[t] = exp(la[t]) * h[t-1] + b[t]` and its read-out without a loop: masked exponentials of
//! segment sums weigh the steps of a chunk, chunk states are carried by the exponentials of sums over chunks. However
//! it is spelled, every element of the result is a sum of products of tensors at fixed steps and of exponentials of
//! sums of la over fixed steps. This pass writes these sums out, with the steps as numbers and all other axes as
//! labels, and compares them with those of the recurrence, one by one. Masks, padding, offsets and chunk sizes are
//! proved by that; nothing is guessed. The quotient form `exp(P) * cumsum(b / exp(P))` with `P = cumsum(la)`, which
//! under- and overflows as it is written, is one of these spellings.
//!
//! - `form`, `grid`, `names`: the sums; their cells; names of their exponents and axes.
//! - `algebra`, `product`, `layout`: sums and products of them; what layout ops do to them.
//! - `read`: from nodes to sums.
//! - `find`: which sums a recurrence has.
//! - `build`: the scan in place of them.
//! - `parallel`: the same for associative combinations, whose decays are given as they are.

mod algebra;
mod build;
mod find;
mod form;
mod grid;
mod layout;
mod names;
mod parallel;
mod product;
mod read;
mod seed;

#[cfg(test)]
mod tests;

pub(super) use layout::groups;
pub use parallel::ParallelScan;
pub(super) use parallel::views;

use super::trace::Tracer;
use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use build::Builder;
use find::Found;
use form::{Body, Form, Gap};
use names::Labels;
use read::{Reader, Seed};
use ssmc_ir::edit::Rewriter;
use ssmc_ir::ops::{Binary, BinaryFn, Op};
use ssmc_ir::{Entity, Graph, Loc, Model, Node, NodeId, PrimaryMap, ValueId, Weights};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Replaces read-outs and last states of recurrences that are written out over chunks of steps.
pub struct ChunkedScan;

impl Pass for ChunkedScan {
    fn name(&self) -> &'static str {
        "chunked-scan"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let users = graph.users();
        let mut raises = Vec::new();
        let mut claimed: BTreeSet<ValueId> = BTreeSet::new();
        for (value, axes) in seed::seeds(graph) {
            if claimed.contains(&value) {
                continue;
            }
            let mut search = Search::new(graph, &model.weights, &users);
            let Ok(seed) = search.reader.plant(value, &axes) else { continue };
            search.run(&seed);
            if search.found.values().any(|(_, found)| !found.is_last) {
                claimed.extend(search.found.keys());
                claimed.insert(value);
                let Search { reader, found, .. } = search;
                raises.push(Proof { seed, labels: reader.labels, found });
            } else if let Some((node, gap)) = search.gap {
                let place = graph.locs().describe(graph.node(node).loc);
                let kind = RemarkKind::Kept { reason: gap.to_string() };
                ctx.remarks.push(Remark { pass: self.name(), place, kind });
            }
        }
        if raises.is_empty() {
            return Ok(Changed::No);
        }
        let graph = replace(self.name(), graph, &raises, ctx)?;
        Ok(Changed::replace(model, graph))
    }
}

/// Values that are known to be what a recurrence computes.
struct Proof {
    seed: Seed,
    labels: Labels,
    found: BTreeMap<ValueId, (Rc<Form>, Found)>,
}

/// Copies the graph with the values that were found replaced.
fn replace(
    pass: &'static str,
    graph: &Graph,
    raises: &[Proof],
    ctx: &mut PassCtx,
) -> Result<Graph, PassError> {
    let mut of: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (i, proof) in raises.iter().enumerate() {
        for value in proof.found.keys() {
            of.entry(*value).or_insert(i);
        }
    }
    let needed = needed(graph, raises, &of);
    let is_needed = |value: &ValueId| needed[value.idx()];
    let mut builders: Vec<Builder<'_>> = (raises.iter())
        .map(|proof| {
            let keeps_states = proof.found.iter().any(|(v, (_, found))| found.is_last && is_needed(v));
            Builder::new(&proof.seed, &proof.labels, keeps_states)
        })
        .collect();
    let mut rewriter = Rewriter::new(graph);
    let mut tracer = Tracer::default();
    for (_, node) in graph.nodes() {
        if !node.results.iter().any(is_needed) {
            continue;
        }
        let Some((value, i)) = node.results.first().and_then(|v| Some((*v, *of.get(v)?))) else {
            rewriter.copy(node)?;
            continue;
        };
        let (form, found) = &raises[i].found[&value];
        rewriter.builder().set_loc(Loc::Derived { by: pass.into(), from: vec![node.loc] });
        let before = builders[i].n_scans();
        let new = builders[i].build(&mut rewriter, &mut tracer, value, form, found)?;
        rewriter.replace(value, new)?;
        let scans = builders[i].n_scans() - before;
        if scans > 0 {
            let place = graph.locs().describe(node.loc);
            let kind = RemarkKind::Raised { evidence: Evidence::Structural, scans };
            ctx.remarks.push(Remark { pass, place, kind });
        }
    }
    Ok(rewriter.finish()?)
}

/// The values that outputs depend on once those in `of` are computed from tensors at the ends of their sums.
fn needed(graph: &Graph, raises: &[Proof], of: &BTreeMap<ValueId, usize>) -> Vec<bool> {
    let mut needed = vec![false; graph.values().len()];
    for port in graph.outputs() {
        needed[port.value.idx()] = true;
    }
    for (_, node) in graph.nodes().rev() {
        if !node.results.iter().any(|v| needed[v.idx()]) {
            continue;
        }
        let raised = node.results.first().and_then(|v| Some((*v, *of.get(v)?)));
        let Some((value, i)) = raised else {
            for value in node.operands.iter().flatten() {
                needed[value.idx()] = true;
            }
            continue;
        };
        let Proof { seed, found, .. } = &raises[i];
        let leaves = found[&value].0.terms().iter().flat_map(|term| &term.leaves);
        for leaf in leaves.chain(&seed.factors) {
            needed[leaf.value.idx()] = true;
        }
    }
    needed
}

/// The operands that each value is.
type Users = PrimaryMap<ValueId, Vec<(NodeId, usize)>>;

/// What follows from one sequence of log decays.
struct Search<'a> {
    graph: &'a Graph,
    users: &'a Users,
    reader: Reader<'a>,
    found: BTreeMap<ValueId, (Rc<Form>, Found)>,
    /// The first node behind an exponential of decays that could not be followed.
    gap: Option<(NodeId, Gap)>,
    /// How often the readers of a value have read it, those whose own result is known.
    reads: BTreeMap<ValueId, usize>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph, weights: &'a Weights, users: &'a Users) -> Self {
        let reader = Reader::new(graph, weights);
        Self { graph, users, reader, found: BTreeMap::new(), gap: None, reads: BTreeMap::new() }
    }

    /// Follows the log decays forward as far as that goes.
    fn run(&mut self, seed: &Seed) {
        let mut queue: BTreeSet<NodeId> = self.users[seed.value].iter().map(|(user, _)| *user).collect();
        while let Some(id) = queue.pop_first() {
            let node = self.graph.node(id);
            if !self.is_worth_following(node) {
                continue;
            }
            if let Err(gap) = self.reader.advance(node) {
                if self.has_weights(node) {
                    self.gap.get_or_insert((id, gap));
                }
                continue;
            }
            let result = node.results[0];
            if let Some(form) = self.reader.known(result).cloned() {
                self.note(node, &form, seed);
            }
            queue.extend(self.users[result].iter().map(|(user, _)| *user));
            self.release(node);
        }
    }

    /// Drops the operands of a followed node that all their readers have followed: proofs are large.
    fn release(&mut self, node: &Node) {
        for value in node.operands.iter().flatten() {
            let reads = self.reads.entry(*value).or_default();
            *reads += 1;
            if *reads == self.users[*value].len() {
                self.reader.forget(*value);
            }
        }
    }

    /// Behind a read-out, only what completes it is of interest: sums of parts that all come from the decays.
    fn is_worth_following(&self, node: &Node) -> bool {
        let is_output = |v: &ValueId| self.found.get(v).is_some_and(|(_, found)| !found.is_last);
        let mut operands = node.operands.iter().flatten();
        if !operands.clone().any(is_output) {
            return true;
        }
        matches!(node.op, Op::Binary(Binary { f: BinaryFn::Add | BinaryFn::Sub }))
            && operands.all(|v| self.reader.known(*v).is_some())
    }

    /// Whether an operand is made of exponentials of decays.
    fn has_weights(&self, node: &Node) -> bool {
        let is_sum = |v: &ValueId| self.reader.known(*v).is_some_and(|f| matches!(f.body, Body::Sum(_)));
        node.operands.iter().flatten().any(is_sum)
    }

    fn note(&mut self, node: &Node, form: &Form, seed: &Seed) {
        let value = node.results[0];
        let Some(found) = find::find(form, seed.n_steps, &mut self.reader.exponents) else { return };
        self.found.insert(value, (Rc::new(form.frame()), found));
    }
}
