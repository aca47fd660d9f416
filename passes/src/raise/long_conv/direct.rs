//! Depthwise causal convolutions with many taps.

use super::lags::{Lags, Piece};
use super::{Finder, Kernel, Obstacle, Plan};
use crate::pass::Evidence;
use crate::view::{self, View};
use ssmc_ir::ops::{Conv, Op};
use ssmc_ir::{Dim, Node, NodeId, ValueId};
use std::collections::BTreeMap;

/// Convolutions with at most this many taps keep them in registers: `ssm.causal_conv1d`.
const SHORT: i64 = 8;

impl Finder<'_> {
    pub(super) fn depthwise(&self, found: &mut BTreeMap<NodeId, Result<Plan, Obstacle>>) {
        for (id, node) in self.graph.nodes() {
            if let Some((root, plan)) = self.long(id, node) {
                found.insert(root, Ok(plan));
            }
        }
    }

    /// The convolution, or the cut of its result to the first steps, as a long causal convolution.
    fn long(&self, id: NodeId, node: &Node) -> Option<(NodeId, Plan)> {
        let graph = self.graph;
        let Op::Conv(Conv { dilations, groups, pads, strides }) = &node.op else { return None };
        let (x, w) = (node.operands[0]?, node.operands[1]?);
        let (x_shape, w_shape) = (&graph.ty(x).shape, &graph.ty(w).shape);
        let ([_, channels, _], [n_kernels, _, width]) = (&x_shape[..], &w_shape[..]) else { return None };
        let width = width.as_const().filter(|k| *k > SHORT)?;
        let is_depthwise = *channels == Dim::from(*groups) && n_kernels == channels;
        let &[low, _] = &pads[..] else { return None };
        if !is_depthwise || dilations[..] != [1] || strides[..] != [1] || !graph.ty(x).dtype.is_float() {
            return None;
        }
        let y = node.results[0];
        let y_shape = graph.ty(y).shape.to_vec();
        let sequence = 2;
        let (signal, low) =
            self.unpadded(View { value: x, labels: labels(&x_shape[..], &[0, 1, 2]) }, Dim::from(low));
        let axis = signal.labels.iter().position(|l| *l == Some(sequence))?;
        if low != Dim::from(width - 1) {
            return None;
        }
        let extent = graph.ty(signal.value).shape[axis].clone();
        let (root, kept) = match self.only_user(y) {
            Some((user, cut)) => match &cut.op {
                Op::Slice(s) if s.axis == 2 && s.start.is(0) && s.stride == 1 => (user, s.len.clone()),
                _ => (id, y_shape[2].clone()),
            },
            None => (id, y_shape[2].clone()),
        };
        let kernel = View { value: w, labels: labels(&w_shape[..], &[1, 3, 2]) };
        let pieces = vec![Piece::Taps { start: 0, len: width as usize, reversed: true }];
        let bias = node.operands.get(2).copied().flatten().map(|bias| (bias, 1));
        let plan = Plan {
            signal,
            sequence,
            dims: y_shape,
            lengths: [extent, kept],
            kernel: Kernel::Value { view: kernel, lags: Lags::Pieces { pieces, lead: 0 }, scale: 1.0 },
            bias,
            evidence: Evidence::Structural,
        };
        Some((root, plan))
    }

    /// Takes zeros in front of the sequence off a value, and the number of all zeros in front.
    fn unpadded(&self, mut view: View, mut low: Dim) -> (View, Dim) {
        let graph = self.graph;
        loop {
            view = view.base(graph);
            let Some(node) = graph.def_node(view.value) else { return (view, low) };
            let fill = node.operands.get(1).copied().flatten();
            let is_zero = |v: ValueId| view::splat(graph, v) == Some(0.0);
            match (&node.op, node.operands.first().copied().flatten()) {
                (Op::Pad(op), Some(x)) if view.labels[op.axis] == Some(2) && fill.is_some_and(is_zero) => {
                    low = low + &op.low;
                    view.value = x;
                }
                _ => return (view, low),
            }
        }
    }
}

/// Labels for axes that are longer than 1.
fn labels(shape: &[Dim], all: &[view::Label]) -> view::Labels {
    shape.iter().zip(all).map(|(d, l)| (!d.is(1)).then_some(*l)).collect()
}
