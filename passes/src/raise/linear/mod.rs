//! Parallel scans whose decays are constants become scans.
//!
//! Where the decay is a weight (LRU, S5, S4D, moving averages), an exporter folds its powers, and what is left of a
//! parallel scan are sums of shifted copies, scaled by constants that no structure relates. All of it is linear in the
//! inputs, complex numbers as pairs of real tensors included: from the first combination on this pass follows what is
//! linear, and compares the whole with the recurrence on random inputs. Two linear functions that agree there are
//! equal, but for rounding; the evidence is numeric.
//!
//! - `seed`: sums of a tensor and a scaled shifted copy of it.
//! - `region`: what is linear in the inputs.
//! - `probe`: which of it are the states.

mod probe;
mod region;
mod seed;

#[cfg(test)]
mod tests;

use super::trace::Tracer;
use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use crate::view;
use probe::{Decay, Proof};
use region::Region;
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{ComplexScan, Op, Scan};
use ssmc_ir::{
    BuildError, Dim, GraphBuilder, Loc, Model, Shape, Tensor, TensorType, ValueId, Weight, Weights,
};
use std::collections::{BTreeMap, BTreeSet};

/// Replaces the states of first-order recurrences with constant decays that are computed by associative combinations.
/// The number of steps must be a constant.
pub struct LinearScan;

impl Pass for LinearScan {
    fn name(&self) -> &'static str {
        "linear-scan"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let fixed = region::fixed(graph);
        // All attempts together visit a number of nodes that is linear in that of the graph.
        let mut budget = 16 * graph.nodes().len();
        let mut proofs: Vec<Proof> = Vec::new();
        let mut claimed: BTreeSet<ValueId> = BTreeSet::new();
        let seeds = seed::seeds(graph, &fixed);
        let users = if seeds.is_empty() { return Ok(Changed::No) } else { graph.users() };
        for bases in seeds {
            if bases.iter().any(|b| claimed.contains(b)) {
                continue;
            }
            let Some(region) = Region::grow(graph, &users, &fixed, &bases, &mut budget) else { continue };
            let Some(proof) = probe::prove(graph, &model.weights, &region) else { continue };
            claimed.extend(&region.linear);
            proofs.push(proof);
        }
        if proofs.is_empty() {
            return Ok(Changed::No);
        }
        let graph = self.replace(model, &proofs, ctx)?;
        Ok(Changed::replace(model, graph))
    }
}

impl LinearScan {
    /// Copies the graph with the states that were found replaced.
    fn replace(
        &self,
        model: &mut Model,
        proofs: &[Proof],
        ctx: &mut PassCtx,
    ) -> Result<ssmc_ir::Graph, PassError> {
        let graph = &model.graph;
        let of: BTreeMap<ValueId, (usize, usize)> = (proofs.iter().enumerate())
            .flat_map(|(i, proof)| proof.states.iter().map(move |(value, part)| (*value, (i, *part))))
            .collect();
        let mut scans: BTreeMap<usize, Vec<ValueId>> = BTreeMap::new();
        let mut r = Rewriter::new(graph);
        let mut tracer = Tracer::default();
        for (_, node) in graph.nodes() {
            let found = node.results.first().and_then(|value| of.get(value));
            let Some((i, part)) = found else {
                r.copy(node)?;
                continue;
            };
            r.builder().set_loc(Loc::Derived { by: self.name().into(), from: vec![node.loc] });
            let states = match scans.get(i) {
                Some(states) => states.clone(),
                None => {
                    let states = scan(&mut r, &mut tracer, &mut model.weights, &proofs[*i])?;
                    let place = graph.locs().describe(node.loc);
                    let kind = RemarkKind::Raised { evidence: Evidence::Numeric, scans: 1 };
                    ctx.remarks.push(Remark { pass: self.name(), place, kind });
                    scans.insert(*i, states.clone());
                    states
                }
            };
            r.replace(node.results[0], states[*part])?;
        }
        Ok(r.finish()?)
    }
}

/// The states of a recurrence: one tensor, or its real and imaginary parts.
fn scan(
    r: &mut Rewriter<'_>,
    tracer: &mut Tracer,
    weights: &mut Weights,
    proof: &Proof,
) -> Result<Vec<ValueId>, EditError> {
    let inputs = proof.bases.iter().map(|b| r.get(*b)).collect::<Result<Vec<_>, _>>()?;
    let g = r.builder();
    let shape = g.shape(inputs[0]).clone();
    let Decay { parts, dims } = &proof.decay;
    let is_batch = |axis: &usize| {
        *axis != proof.axis
            && dims[*axis] == 1
            && inputs.iter().all(|x| !tracer.reaches_weight(g.graph(), *x, *axis))
    };
    let batch = (0..shape.rank()).find(is_batch);
    let front = batch.into_iter().chain([proof.axis]);
    let rest = (0..shape.rank()).filter(|axis| *axis != proof.axis && Some(*axis) != batch);
    let perm: Vec<usize> = front.chain(rest).collect();
    let mut operands = Vec::new();
    for part in parts {
        let dtype = g.ty(inputs[0]).dtype;
        let tensor =
            Tensor::floats(dtype, dims.clone(), part.clone()).expect("as many numbers as the dims have");
        let ty = TensorType::new(dtype, dims.iter().map(|n| Dim::from(*n as i64)).collect::<Shape>());
        let name = fresh(weights);
        let a = g.weight(&name, &ty)?;
        weights.insert(name, Weight { ty, bytes: tensor.rounded().to_bytes().into() });
        // Decays are spread over sequences; one step stands for all.
        let mut spread: Vec<Dim> = g.shape(a).to_vec();
        if let Some(axis) = batch {
            spread[axis] = shape[axis].clone();
        }
        let axes: Vec<usize> = (0..spread.len()).collect();
        let a = g.broadcast(a, &axes, spread)?;
        operands.push(Some(laid_out(g, a, &perm, batch)?));
    }
    for x in inputs {
        operands.push(Some(laid_out(g, x, &perm, batch)?));
    }
    let op: Op = match parts.len() {
        1 => Scan { reverse: proof.reverse }.into(),
        _ => ComplexScan { reverse: proof.reverse }.into(),
    };
    let results = g.node(op, &operands, Vec::new())?;
    let mut inverse = vec![0; perm.len()];
    for (to, from) in perm.iter().enumerate() {
        inverse[*from] = to;
    }
    let mut states = Vec::new();
    for h in &results[..parts.len()] {
        let h = if batch.is_none() { g.reshape(*h, Shape::from(&g.shape(*h)[1..]))? } else { *h };
        states.push(view::permute(g, h, &inverse)?);
    }
    Ok(states)
}

/// The tensor with its axes in the order of a scan: sequences first, of which there may be just one.
fn laid_out(
    g: &mut GraphBuilder,
    x: ValueId,
    perm: &[usize],
    batch: Option<usize>,
) -> Result<ValueId, BuildError> {
    let x = view::permute(g, x, perm)?;
    if batch.is_some() {
        return Ok(x);
    }
    let dims: Vec<Dim> = std::iter::once(&Dim::from(1)).chain(g.shape(x).iter()).cloned().collect();
    g.reshape(x, dims)
}

/// A name that no weight has.
fn fresh(weights: &Weights) -> String {
    let names = (0..).map(|i| format!("decay.{i}"));
    names.into_iter().find(|name| weights.get(name).is_none()).expect("there are more names than weights")
}
