//! Ops that look back along time: their memory becomes state.

use super::StreamError;
use super::flow::{Flow, Reason, Stream};
use super::walk::Walker;
use ssmc_ir::ops::{Activation, BinaryFn, CausalConv1d, Conv, CumSum, Scan};
use ssmc_ir::{Node, ValueId};

impl Walker<'_> {
    /// The state that an optional operand starts with.
    pub(super) fn initial(&self, operand: Option<ValueId>) -> Result<Option<ValueId>, StreamError> {
        match operand.map(|v| (v, self.flow(v))) {
            None => Ok(None),
            Some((v, Flow::Fixed)) if crate::view::splat(self.old, v) == Some(0.0) => Ok(None),
            Some((v, Flow::Fixed)) => self.new_of(v).map(Some),
            Some(_) => self.refuse(Reason::NeedsEnd),
        }
    }

    /// What an op along time says about the end of the sequence.
    pub(super) fn last(&self, old: ValueId, stream: &Stream) -> Result<Flow, StreamError> {
        let overhang = self.surplus(old, stream)? - stream.lead;
        Ok(Flow::Latest { padded: (overhang != 0).then_some(self.at) })
    }

    /// The streams of the operands meet on this axis, which is time alone.
    pub(super) fn along(&mut self, node: &Node, axis: usize) -> Result<Stream, StreamError> {
        let streams = self.streams(node);
        let with = self.meet(&streams)?;
        if streams.iter().any(|s| s.axis != axis) {
            return self.refuse(Reason::OtherAxis);
        }
        if !with.is_pure() {
            return self.refuse(Reason::Mixed);
        }
        self.set_temporal();
        Ok(with)
    }

    pub(super) fn scan(&mut self, node: &Node, op: &Scan) -> Result<(), StreamError> {
        let with = self.along(node, 1)?;
        if op.reverse {
            return self.refuse(Reason::Reverse);
        }
        if node.operands[3..].iter().any(Option::is_some) {
            return self.refuse(Reason::NoForm);
        }
        let (a, b) = (first(node), node.operands[1].expect("the operand is required"));
        let initial = self.initial(node.operands[2])?;
        let zeros_before = self.stream(b).is_some_and(|s| s.zeros_before) && initial.is_none();
        if with.lead > 0 && !zeros_before {
            return self.refuse(Reason::PaddedBefore);
        }
        let constant = self.stream(a).is_none() && self.old.ty(a).shape[1].is(1);
        let new_a = if constant { self.new_of(a)? } else { self.aligned(a, 1, &with)? };
        let new_b = self.aligned(b, 1, &with)?;
        let new_a = if constant { new_a } else { self.masked(new_a, &with, 1.0)? };
        let new_b = self.masked(new_b, &with, 0.0)?;
        let ty = self.old.ty(node.results[1]).clone();
        let before = self.state("scan", ty, initial)?;
        let results = self.rewriter.builder().node(
            op.clone(),
            &[Some(new_a), Some(new_b), Some(before)],
            Vec::new(),
        )?;
        self.state_becomes(results[1]);
        let last = self.last(node.results[0], &with)?;
        self.set(node.results[0], results[0], Flow::Stream(Stream { zeros_before, ..with }));
        self.set(node.results[1], results[1], last);
        Ok(())
    }

    /// A recurrence over axis 1 of the operands in `over`, whose other operands are states (operand, result, and what
    /// an absent one stands for) or the same at every step.
    pub(super) fn recurrent(
        &mut self,
        node: &Node,
        reverse: bool,
        over: std::ops::Range<usize>,
        states: &[(usize, usize, f64)],
    ) -> Result<(), StreamError> {
        let with = self.along(node, 1)?;
        if reverse {
            return self.refuse(Reason::Reverse);
        }
        if with.lead != 0 {
            return self.refuse(if with.lead > 0 {
                Reason::PaddedBefore
            } else {
                Reason::Lookahead(-with.lead)
            });
        }
        let mut operands = Vec::new();
        for (i, operand) in node.operands.iter().enumerate() {
            let is_state = states.iter().any(|s| s.0 == i);
            operands.push(match operand.filter(|_| !is_state) {
                None => None,
                Some(v)
                    if over.contains(&i) && !(self.stream(v).is_none() && self.old.ty(v).shape[1].is(1)) =>
                {
                    Some(self.aligned(v, 1, &with)?)
                }
                // Packed sequences and slots are neither.
                Some(_) if matches!(node.op.operands()[i].name, "seq_idx" | "slots") => {
                    return self.refuse(Reason::NoForm);
                }
                Some(v) if matches!(self.flow(v), Flow::Fixed) => Some(self.new_of(v)?),
                Some(_) => return self.refuse(Reason::NeedsEnd),
            });
        }
        let mut made = Vec::new();
        for (operand, result, absent) in states {
            let ty = self.old.ty(node.results[*result]).clone();
            let initial = match node.operands[*operand] {
                None if *absent == 0.0 => None,
                None => {
                    let b = self.rewriter.builder();
                    let scalar = b.scalar(ty.dtype, *absent)?;
                    Some(b.broadcast(scalar, &[], ty.shape.clone())?)
                }
                some => self.initial(some)?,
            };
            operands[*operand] = Some(self.state("state", ty, initial)?);
            made.push((self.states.len() - 1, *result));
        }
        let results = self.rewriter.builder().node(node.op.clone(), &operands, Vec::new())?;
        let last = self.last(node.results[0], &with)?;
        for (state, result) in made {
            self.states[state].after = results[result];
            self.set(node.results[result], results[result], last.clone());
        }
        let stream = Flow::Stream(Stream { zeros_before: false, ..with });
        for (i, (old, new)) in node.results.iter().zip(results).enumerate() {
            if states.iter().all(|state| state.1 != i) {
                self.set(*old, new, stream.clone());
            }
        }
        Ok(())
    }

    pub(super) fn causal_conv(&mut self, node: &Node, op: &CausalConv1d) -> Result<(), StreamError> {
        let with = self.along(node, 1)?;
        let (x, w) = (first(node), node.operands[1].expect("the operand is required"));
        if node.operands[4].is_some() || self.stream(x).is_none() || self.stream(w).is_some() {
            return self.refuse(Reason::NoForm);
        }
        let initial = self.initial(node.operands[3])?;
        if with.lead > 0 && !(with.zeros_before && initial.is_none()) {
            return self.refuse(Reason::PaddedBefore);
        }
        let new = self.new_of(x)?;
        let new = self.masked(new, &with, 0.0)?;
        let w = self.new_of(w)?;
        let bias = node.operands[2].map(|v| self.new_of(v)).transpose()?;
        let tail = self.old.ty(node.results[1]).clone();
        let before = if tail.shape[1].is(0) { None } else { Some(self.state("conv", tail, initial)?) };
        let results =
            self.rewriter.builder().node(op.clone(), &[Some(new), Some(w), bias, before], Vec::new())?;
        if before.is_some() {
            self.state_becomes(results[1]);
        }
        let last = self.last(node.results[0], &with)?;
        let zeros_before = with.zeros_before && bias.is_none();
        self.set(node.results[0], results[0], Flow::Stream(Stream { zeros_before, ..with }));
        self.set(node.results[1], results[1], last);
        Ok(())
    }

    /// A convolution one of whose spatial axes is time: the taps that reach back read the history.
    pub(super) fn conv(&mut self, node: &Node, op: &Conv) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        let Some(axis) = stream.axis.checked_sub(2) else {
            return if stream.axis == 0 { self.map(node, stream) } else { self.refuse(Reason::OverTime) };
        };
        if op.strides[axis] != 1 {
            return self.refuse(Reason::Length(format!("every {} steps one element", op.strides[axis])));
        }
        let (x, w) = (first(node), node.operands[1].expect("the operand is required"));
        let Some(taps) = self.old.ty(w).shape[stream.axis].as_const() else {
            return self.refuse(Reason::NoForm);
        };
        let (low, reach) = (op.pads[axis] as i64, (taps - 1) * op.dilations[axis] as i64);
        let mut pads = op.pads.clone();
        (pads[axis], pads[axis + op.strides.len()]) = (0, 0);
        let conv = Conv { pads, ..op.clone() };
        if reach == 0 && low == 0 && op.pads[axis + op.strides.len()] == 0 {
            return self.map(node, stream);
        }
        self.set_temporal();
        let new = self.new_of(x)?;
        let new = if low > 0 { self.masked(new, &stream, 0.0)? } else { new };
        let result = stream.led(low - reach, self.at);
        let result = Stream { zeros_before: result.lead <= 0, ..result };
        if reach > 0 && self.is_depthwise(node, op) {
            return self.depthwise(node, new, &stream, result);
        }
        let new = if reach > 0 { self.with_history("conv", new, &stream, reach)? } else { new };
        let mut operands = vec![Some(new)];
        for operand in &node.operands[1..] {
            operands.push(operand.map(|v| self.new_of(v)).transpose()?);
        }
        let new = self.rewriter.builder().node(conv, &operands, Vec::new())?[0];
        self.set(node.results[0], new, Flow::Stream(result));
        Ok(())
    }

    /// Whether a convolution has time for its only spatial axis and one filter of adjacent taps per channel.
    fn is_depthwise(&self, node: &Node, op: &Conv) -> bool {
        let (x, y) = (&self.old.ty(first(node)).shape, &self.old.ty(node.results[0]).shape);
        let groups = op.groups as i64;
        x.rank() == 3 && op.dilations == [1] && x[1].is(groups) && y[1].is(groups)
    }

    /// A convolution with one filter per channel is the op that carries its tail.
    fn depthwise(
        &mut self,
        node: &Node,
        x: ValueId,
        stream: &Stream,
        result: Stream,
    ) -> Result<(), StreamError> {
        if stream.lead > 0 && !stream.zeros_before {
            return self.refuse(Reason::PaddedBefore);
        }
        let w = self.new_of(node.operands[1].expect("the operand is required"))?;
        let bias = node.operands[2].map(|v| self.new_of(v)).transpose()?;
        let b = self.rewriter.builder();
        let (x, shape) = (b.transpose(x, &[0, 2, 1])?, b.shape(w).clone());
        let w = b.reshape(w, [shape[0].clone(), shape[2].clone()])?;
        let ty = b.ty(x).clone();
        let tail = [ty.shape[0].clone(), shape[2].clone() - 1i64, ty.shape[2].clone()];
        let before = self.state("conv", ty.with_shape(tail), None)?;
        let op = CausalConv1d { activation: Activation::None };
        let b = self.rewriter.builder();
        let results = b.node(op, &[Some(x), Some(w), bias, Some(before)], Vec::new())?;
        let y = b.transpose(results[0], &[0, 2, 1])?;
        self.state_becomes(results[1]);
        self.set(node.results[0], y, Flow::Stream(result));
        Ok(())
    }

    pub(super) fn cumsum(&mut self, node: &Node, op: &CumSum) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        if op.axis != stream.axis {
            return self.map(node, stream);
        }
        let with = self.along(node, op.axis)?;
        if op.reverse {
            return self.refuse(Reason::Reverse);
        }
        if with.lead > 0 && !with.zeros_before {
            return self.refuse(Reason::PaddedBefore);
        }
        let new = self.new_of(first(node))?;
        let new = self.masked(new, &with, 0.0)?;
        let ty = self.rewriter.builder().ty(new).clone();
        let mut dims = ty.shape.to_vec();
        dims[op.axis] = 1.into();
        let before = self.state("sum", ty.with_shape(dims.clone()), None)?;
        let end = self.piece.clone() - 1i64;
        let b = self.rewriter.builder();
        let axes: Vec<usize> = (0..ty.rank()).collect();
        let offset = b.broadcast(before, &axes, ty.shape)?;
        let piece = b.op(op.clone(), &[new])?;
        let sums = b.binary(BinaryFn::Add, piece, offset)?;
        let mut after = b.slice(sums, op.axis, end.clone(), 1)?;
        if op.exclusive {
            let x = b.slice(new, op.axis, end, 1)?;
            after = b.binary(BinaryFn::Add, after, x)?;
        }
        self.state_becomes(after);
        self.set(node.results[0], sums, Flow::Stream(with));
        Ok(())
    }
}

fn first(node: &Node) -> ValueId {
    node.operands[0].expect("the operand is required")
}
