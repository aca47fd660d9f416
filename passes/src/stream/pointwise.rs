//! Ops that compute each step from the same step: elementwise functions, products, reductions over other axes.

use super::StreamError;
use super::flow::{Flow, Reason, Stream};
use super::walk::Walker;
use ssmc_ir::ops::{ArgMax, BinaryFn, Contract, Op, Reduce, ReduceFn, TopK, UnaryFn};
use ssmc_ir::{Node, ValueId};

impl Walker<'_> {
    /// The stream on which all streams among the operands agree once the early ones wait for the late ones.
    ///
    /// `axes` gives the time axis that each operand must have, as far as it is a stream.
    pub(super) fn meet(&self, streams: &[Stream]) -> Result<Stream, StreamError> {
        let Some(latest) = streams.iter().min_by_key(|s| s.lead) else { return self.refuse(Reason::NoForm) };
        let same = |s: &Stream| s.outer == latest.outer && s.inner == latest.inner;
        if !streams.iter().all(same) {
            return self.refuse(Reason::Mixed);
        }
        Ok(latest.clone())
    }

    /// The operand as a piece that meets `with` on `axis`.
    pub(super) fn aligned(
        &mut self,
        old: ValueId,
        axis: usize,
        with: &Stream,
    ) -> Result<ValueId, StreamError> {
        match self.flow(old).clone() {
            Flow::Stream(stream) => {
                let new = self.new_of(old)?;
                self.delayed(new, &stream, stream.lead - with.lead)
            }
            Flow::Fixed => self.restricted(old, axis, with),
            Flow::Latest { .. } => self.refuse(Reason::NeedsEnd),
            Flow::Pairs(_) => self.refuse(Reason::AllPairs),
        }
    }

    pub(super) fn streams(&self, node: &Node) -> Vec<Stream> {
        node.operands.iter().flatten().filter_map(|v| self.stream(*v)).cloned().collect()
    }

    pub(super) fn pointwise(&mut self, node: &Node) -> Result<(), StreamError> {
        if let Some(axes) = self.pair_axes(node)? {
            return self.pairs_pointwise(node, axes);
        }
        let streams = self.streams(node);
        let with = self.meet(&streams)?;
        let zero = |v: &ValueId| match self.stream(*v) {
            Some(stream) => stream.zeros_before,
            None => crate::view::splat(self.old, *v) == Some(0.0),
        };
        let mut operands = node.operands.iter().flatten();
        let zeros_before = match &node.op {
            Op::Unary(op) => keeps_zero(op.f) && operands.all(zero),
            Op::Cast(_) => operands.all(zero),
            Op::Binary(op) => match op.f {
                BinaryFn::Mul => operands.any(zero),
                BinaryFn::Add | BinaryFn::Sub => operands.all(zero),
                _ => false,
            },
            _ => false,
        };
        let mut operands = Vec::new();
        for operand in node.operands.iter().flatten() {
            operands.push(self.aligned(*operand, with.axis, &with)?);
        }
        let new = self.rewriter.builder().op(node.op.clone(), &operands)?;
        self.set(node.results[0], new, Flow::Stream(Stream { zeros_before, ..with }));
        Ok(())
    }

    pub(super) fn contract(&mut self, node: &Node, op: &Contract) -> Result<(), StreamError> {
        let operands: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let labels = operands
            .iter()
            .zip(&op.spec.inputs)
            .filter_map(|(v, labels)| self.stream(*v).map(|s| (labels[s.axis], s.clone())));
        let (labels, streams): (Vec<u8>, Vec<Stream>) = labels.unzip();
        if labels.iter().any(|l| *l != labels[0]) {
            return self.pairs_contract(node, op);
        }
        let label = labels[0];
        let Some(axis) = op.spec.output.iter().position(|l| *l == label) else {
            return self.refuse(Reason::OverTime);
        };
        let with = self.meet(&streams)?;
        let zeros_before = streams.iter().any(|s| s.zeros_before);
        let mut new = Vec::new();
        for (v, labels) in operands.iter().zip(&op.spec.inputs) {
            new.push(match labels.iter().position(|l| *l == label) {
                Some(axis) => self.aligned(*v, axis, &with)?,
                None if matches!(self.flow(*v), Flow::Latest { .. }) => {
                    return self.refuse(Reason::NeedsEnd);
                }
                None => self.new_of(*v)?,
            });
        }
        let new = self.rewriter.builder().op(op.clone(), &new)?;
        self.set(node.results[0], new, Flow::Stream(Stream { zeros_before, ..with.moved(axis) }));
        Ok(())
    }

    pub(super) fn reduce(&mut self, node: &Node, op: &Reduce) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        if op.axes.contains(&stream.axis) {
            return self.refuse(Reason::OverTime);
        }
        let axis = stream.axis - op.axes.iter().filter(|a| **a < stream.axis).count();
        let zeros_before = stream.zeros_before && op.f != ReduceFn::Prod;
        self.map(node, Stream { zeros_before, ..stream.moved(axis) })
    }

    pub(super) fn argmax(&mut self, node: &Node, op: &ArgMax) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        if op.axis == stream.axis {
            return self.refuse(Reason::OverTime);
        }
        self.map(node, stream.moved(stream.axis - usize::from(op.axis < stream.axis)))
    }

    pub(super) fn top_k(&mut self, node: &Node, op: &TopK) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        if op.axis == stream.axis {
            return self.refuse(Reason::OverTime);
        }
        let operands = self.rewriter.operands(node)?;
        let new = self.rewriter.builder().node(op.clone(), &operands, Vec::new())?;
        let zeros_before = [stream.zeros_before, false];
        for ((old, new), zeros_before) in node.results.iter().zip(new).zip(zeros_before) {
            self.set(*old, new, Flow::Stream(Stream { zeros_before, ..stream.clone() }));
        }
        Ok(())
    }

    /// The stream of the first operand; the others are none.
    pub(super) fn only_stream(&self, node: &Node) -> Result<Stream, StreamError> {
        let first = node.operands.first().copied().flatten();
        let streams = node.operands.iter().flatten().filter(|v| self.stream(**v).is_some()).count();
        match first.and_then(|v| self.stream(v)) {
            Some(stream) if streams == 1 => Ok(stream.clone()),
            _ => self.refuse(Reason::NoForm),
        }
    }

    /// Copies a node whose result is one element per step like its operand.
    pub(super) fn map(&mut self, node: &Node, result: Stream) -> Result<(), StreamError> {
        let latest = |v: &ValueId| matches!(self.flow(*v), Flow::Latest { .. });
        if node.operands.iter().flatten().any(latest) {
            return self.refuse(Reason::NeedsEnd);
        }
        let operands = self.rewriter.operands(node)?;
        let new = self.rewriter.builder().node(node.op.clone(), &operands, Vec::new())?[0];
        self.set(node.results[0], new, Flow::Stream(result));
        Ok(())
    }
}

/// Whether f(0) = 0.
fn keeps_zero(f: UnaryFn) -> bool {
    use UnaryFn::{Abs, Ceil, Erf, Expm1, Floor, Log1p, Neg, Relu, Round, Sign, Silu, Sin, Sqrt, Tanh};
    matches!(
        f,
        Abs | Ceil | Erf | Expm1 | Floor | Log1p | Neg | Relu | Round | Sign | Silu | Sin | Sqrt | Tanh
    )
}
