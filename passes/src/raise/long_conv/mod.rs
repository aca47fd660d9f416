//! Convolutions along the sequence become `ssm.long_conv`.
//!
//! - `spectrum`: a signal is transformed, multiplied by the spectrum of a kernel, transformed back and cut. The spectrum
//!   is either a constant, whose inverse transform is taken here, or that of a tensor of the graph.
//! - `direct`: depthwise convolutions with more taps than registers hold.
//!
//! Both end in a [`Plan`], which [`Plan::emit`] turns into nodes.

mod direct;
mod emit;
mod fourier;
mod lags;
mod spectrum;

#[cfg(test)]
mod tests;

use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use crate::view::{Label, View};
use lags::Lags;
use ssmc_ir::edit::Rewriter;
use ssmc_ir::{Dim, Graph, Loc, Model, Node, NodeId, PrimaryMap, ValueId, Weights};
use std::collections::BTreeMap;

/// Replaces convolutions along one axis that are linear (not circular) by `ssm.long_conv`: causal ones, and two-sided
/// ones that were computed by Fourier transforms. What stays a transform gets a remark that says why.
pub struct LongConvs;

impl Pass for LongConvs {
    fn name(&self) -> &'static str {
        "long-conv"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let found = Finder { graph, weights: &model.weights, users: graph.users() }.find();
        if found.is_empty() {
            return Ok(Changed::No);
        }
        let mut rewriter = Rewriter::new(graph);
        for (id, node) in graph.nodes() {
            let Some(found) = found.get(&id) else {
                rewriter.copy(node)?;
                continue;
            };
            let kind = match found {
                Ok(plan) => {
                    rewriter.builder().set_loc(Loc::Derived { by: self.name().into(), from: vec![node.loc] });
                    let new = plan.emit(&mut rewriter, node, &mut model.weights)?;
                    rewriter.replace(node.results[0], new)?;
                    RemarkKind::Raised { evidence: plan.evidence, scans: 1 }
                }
                Err(obstacle) => {
                    rewriter.copy(node)?;
                    RemarkKind::Kept { reason: obstacle.to_string() }
                }
            };
            ctx.remarks.push(Remark { pass: self.name(), place: graph.locs().describe(node.loc), kind });
        }
        model.graph = rewriter.finish()?;
        Ok(Changed::Yes)
    }
}

/// Why a product of spectra stays one.
#[derive(Debug, PartialEq, thiserror::Error)]
enum Obstacle {
    #[error("the spectrum is not that of one signal times that of one kernel")]
    NoProduct,
    #[error(
        "the convolution is circular: with {length} elements, what leaves one end comes back at the other"
    )]
    Circular { length: Dim },
    #[error("nothing of the kernel reaches the part that is kept")]
    Empty,
    #[error("the number of channels, {channels}, is not known")]
    Channels { channels: Dim },
    #[error("the lengths {signal}, {kernel} and {length} of signal, kernel and transform cannot be compared")]
    Unproven { signal: Dim, kernel: Dim, length: Dim },
    #[error("a constant of the spectrum has no value: {0}")]
    Constant(String),
}

/// A kernel: taps along the sequence for each index of some labels.
enum Kernel {
    /// Row-major: taps, then the axes with these labels.
    Constant { taps: Vec<f64>, width: usize, labels: Vec<Label>, lead: i64 },
    /// A tensor of the graph, one axis of which bears the label of the sequence.
    Value { view: View, lags: Lags, scale: f64 },
}

/// A convolution to be emitted. Labels are the axes of the value that the root cuts or is.
struct Plan {
    /// The input of the convolution without padding.
    signal: View,
    /// The label of the sequence.
    sequence: Label,
    /// Extents by label; that of the sequence is not used.
    dims: Vec<Dim>,
    /// Steps of the signal and of the result.
    lengths: [Dim; 2],
    kernel: Kernel,
    /// Added along the axis with this label.
    bias: Option<(ValueId, Label)>,
    evidence: Evidence,
}

/// What is known of the graph while plans are made.
struct Finder<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    users: PrimaryMap<ValueId, Vec<(NodeId, usize)>>,
}

impl<'a> Finder<'a> {
    /// The nodes that are convolutions, or look like ones and are not.
    fn find(&self) -> BTreeMap<NodeId, Result<Plan, Obstacle>> {
        let mut found = BTreeMap::new();
        self.cut_transforms(&mut found);
        self.depthwise(&mut found);
        for result in found.values_mut() {
            if let Ok(plan) = result
                && plan.channels().as_const().is_none()
            {
                *result = Err(Obstacle::Channels { channels: plan.channels() });
            }
        }
        found
    }

    fn is_output(&self, value: ValueId) -> bool {
        self.graph.outputs().iter().any(|port| port.value == value)
    }

    /// The one node that uses a value.
    fn only_user(&self, value: ValueId) -> Option<(NodeId, &'a Node)> {
        match self.users[value][..] {
            [(user, _)] if !self.is_output(value) => Some((user, self.graph.node(user))),
            _ => None,
        }
    }
}
