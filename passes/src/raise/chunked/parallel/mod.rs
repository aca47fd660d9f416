//! Parallel scans become scans.
//!
//! A parallel scan combines pairs `(a, b)` of runs of steps by `(a2 * a1, a2 * b1 + b2)`: at distances 1, 2, 4, ..
//! (Hillis and Steele), up and down a tree over strided views (Blelloch), or by halves (even and odd steps). Whatever
//! the order and however views are taken, padded, joined and written in place, every element that arises is the
//! product of the decays of a run of steps, or the state that a run leaves behind. This pass follows both from the
//! first combination on, with the steps as numbers; where the cells of a value are the states after each step, the
//! value is the scan.
//!
//! - `seed`: which tensors may be decays and inputs.
//! - `runs`: runs of steps, their products and sums.
//! - `read`: from nodes to runs.

mod read;
mod runs;
mod seed;

#[cfg(test)]
mod tests;

use super::find::{Found, Part};
use super::form::{Body, Entry, Form, Leaf, Term, n_cells};
use super::grid::Grid;
use super::read::Seed;
use super::{Proof, Users, replace};
use crate::pass::{Changed, Pass, PassCtx, PassError};
pub(in crate::raise) use seed::views;

use read::Follower;
use runs::{Run, Runs};
use ssmc_ir::{Graph, Model, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Replaces the states of first-order recurrences that are computed by associative combinations. The number of steps
/// must be a constant.
pub struct ParallelScan;

impl Pass for ParallelScan {
    fn name(&self) -> &'static str {
        "parallel-scan"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let seeds = seed::seeds(graph);
        if seeds.is_empty() {
            return Ok(Changed::No);
        }
        let users = graph.users();
        // All attempts together visit a number of nodes that is linear in that of the graph.
        let mut budget = 16 * graph.nodes().len();
        let mut proofs = Vec::new();
        let mut claimed: BTreeSet<ValueId> = BTreeSet::new();
        for seed in seeds {
            let ((a, _), (b, _)) = seed;
            if claimed.contains(&a) || claimed.contains(&b) {
                continue;
            }
            for reverse in [false, true] {
                let Ok(follower) = Follower::new(graph, &model.weights, seed, reverse) else { continue };
                let Some(proof) = follow(graph, follower, reverse, &users, &mut budget, &mut claimed) else {
                    continue;
                };
                proofs.push(proof);
                break;
            }
        }
        if proofs.is_empty() {
            return Ok(Changed::No);
        }
        let graph = replace(self.name(), graph, &proofs, ctx)?;
        Ok(Changed::replace(model, graph))
    }
}

/// Follows the combinations as far as that goes; all that is followed of a scan is claimed.
fn follow(
    graph: &Graph,
    mut follower: Follower<'_>,
    reverse: bool,
    users: &Users,
    budget: &mut usize,
    claimed: &mut BTreeSet<ValueId>,
) -> Option<Proof> {
    let mut queue: BTreeSet<NodeId> = BTreeSet::new();
    for leaf in [&follower.decays, &follower.inputs] {
        queue.extend(users[leaf.value].iter().map(|(user, _)| *user));
    }
    let mut found: BTreeMap<ValueId, (Rc<Form>, Found)> = BTreeMap::new();
    let mut followed = Vec::new();
    while let Some(id) = queue.pop_first() {
        *budget = budget.checked_sub(1)?;
        let node = graph.node(id);
        if follower.advance(node).is_err() {
            continue;
        }
        let value = node.results[0];
        let Some(form) = follower.known(value) else { continue };
        if form.body.cells.iter().all(|cell| *cell == Run::Other) {
            continue;
        }
        followed.push(value);
        if let Some(states) = states(form, &follower, reverse) {
            found.insert(value, states);
        }
        queue.extend(users[value].iter().map(|(user, _)| *user));
    }
    if found.values().all(|(_, found)| found.is_last) {
        return None;
    }
    claimed.extend(followed);
    let labels: Vec<u32> = follower.decays.labels().collect();
    let Follower { decays, labels: extents, n_steps, .. } = follower;
    let seed = Seed { value: decays.value, factors: vec![decays], coef: 1.0, labels, n_steps, is_log: false };
    Some(Proof { seed, labels: extents, found })
}

/// The form as that of the states after each step, or of the last one.
fn states(form: &Form<Runs>, follower: &Follower<'_>, reverse: bool) -> Option<(Rc<Form>, Found)> {
    let n = follower.n_steps as u32;
    let cells = n_cells(&form.axes);
    let is_last = cells == 1;
    if !is_last && cells != follower.n_steps {
        return None;
    }
    let is_state = |(i, run): (usize, &Run)| {
        let t = match (is_last, reverse) {
            (true, _) => n - 1,
            (false, false) => i as u32,
            (false, true) => n - 1 - i as u32,
        };
        *run == Run::State { from: 0, to: t + 1, until: t + 1 }
    };
    if !form.body.cells.iter().enumerate().all(is_state) {
        return None;
    }
    let decay = form.body.a.clone()?;
    let with = follower.inputs.labels().zip(form.body.b.clone()?).collect();
    let leaf: Leaf = follower.inputs.resolved(&with);
    let term =
        Term { leaves: vec![leaf], decay: Some(decay), cells: Grid::repeat(&Entry::ONE.into(), cells) };
    let states = Part { term: 0, readers: Vec::new(), inputs: vec![0], coef: 1.0 };
    let found = Found { reverse, is_last, states, initial: None, skips: Vec::new() };
    Some((Rc::new(Form { axes: form.axes.clone(), body: Body::Sum(vec![term]) }), found))
}
