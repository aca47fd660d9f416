//! Ops that move elements: of other axes they are what they were, along time they are delays and padding.

use super::StreamError;
use super::flow::{Flow, Reason, Stream};
use super::walk::{Walker, with_dim};
use crate::view::splat;
use ssmc_ir::ops::{Broadcast, Concat, Gather, Pad, Reshape, Reverse, Slice, Transpose};
use ssmc_ir::{Dim, Node, Shape, ValueId};

impl Walker<'_> {
    pub(super) fn broadcast(&mut self, node: &Node, op: &Broadcast) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        let result = stream.moved(op.axes[stream.axis]);
        let shape = with_dim(&op.shape, result.axis, &result.extent(&self.piece));
        self.layout(node, Broadcast { axes: op.axes.clone(), shape }, result)
    }

    pub(super) fn transpose(&mut self, node: &Node, op: &Transpose) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        let axis = op.perm.iter().position(|p| *p == stream.axis).expect("a permutation has every axis");
        self.layout(node, op.clone(), stream.moved(axis))
    }

    pub(super) fn reshape(&mut self, node: &Node, op: &Reshape) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        let x = first(node);
        let from = &self.old.ty(x).shape;
        let steps = self.len.clone() + self.surplus(x, &stream)?;
        let Some(result) = remap(from, &stream, &steps, &op.shape) else {
            return self.refuse(Reason::Mixed);
        };
        let shape = with_dim(&op.shape, result.axis, &result.extent(&self.piece));
        self.layout(node, Reshape { shape }, result)
    }

    fn layout(
        &mut self,
        node: &Node,
        op: impl Into<ssmc_ir::ops::Op>,
        result: Stream,
    ) -> Result<(), StreamError> {
        let x = self.new_of(first(node))?;
        let new = self.rewriter.builder().op(op, &[x])?;
        self.set(node.results[0], new, Flow::Stream(result));
        Ok(())
    }

    /// Along time: a slice up to the end is a stream that begins later; the last elements alone are the latest ones.
    pub(super) fn slice(&mut self, node: &Node, op: &Slice) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        if op.axis != stream.axis {
            return self.map(node, stream);
        }
        if op.stride != 1 || !stream.is_pure() {
            return self.refuse(Reason::Mixed);
        }
        // The slice ends this many elements after that of the last step.
        let end = op.start.clone() + &op.len - stream.lead - &self.len;
        if let Some(n) = op.len.as_const()
            && self.len.as_const().is_none_or(|len| n * 2 <= len)
        {
            return match end.as_const() {
                Some(0) if n > 0 => self.latest(node, &stream, n),
                _ => self.refuse(Reason::FixedStep),
            };
        }
        let Some(start) = op.start.as_const() else { return self.refuse(Reason::FixedStep) };
        let result = stream.led(-start, self.at);
        let zeros_before = stream.zeros_before || result.lead <= 0;
        let new = self.new_of(first(node))?;
        self.set(node.results[0], new, Flow::Stream(Stream { zeros_before, ..result }));
        Ok(())
    }

    /// The last `n` elements so far.
    fn latest(&mut self, node: &Node, stream: &Stream, n: i64) -> Result<(), StreamError> {
        let x = self.new_of(first(node))?;
        let all = if n > 1 { self.with_history("window", x, stream, n - 1)? } else { x };
        let start = self.piece.clone() - 1i64;
        let new = self.rewriter.builder().slice(all, stream.axis, start, n)?;
        self.set(node.results[0], new, Flow::Latest { padded: None });
        Ok(())
    }

    pub(super) fn reverse(&mut self, node: &Node, op: &Reverse) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        if op.axis == stream.axis {
            self.set_temporal();
            return self.refuse(Reason::Reverse);
        }
        self.map(node, stream)
    }

    pub(super) fn pad(&mut self, node: &Node, op: &Pad) -> Result<(), StreamError> {
        let stream = self.only_stream(node)?;
        if op.axis != stream.axis {
            let value = node.operands[1].expect("the operand is required");
            let zero = splat(self.old, value) == Some(0.0);
            let zeros_before = stream.zeros_before && zero;
            return self.map(node, Stream { zeros_before, ..stream });
        }
        let Some(low) = op.low.as_const() else { return self.refuse(Reason::TotalLength) };
        let value = node.operands[1].expect("the operand is required");
        let value = splat(self.old, value);
        self.led_by(node, first(node), &stream, low, value)
    }

    /// The stream `x` with `n` elements of `value` before it.
    fn led_by(
        &mut self,
        node: &Node,
        x: ValueId,
        stream: &Stream,
        n: i64,
        value: Option<f64>,
    ) -> Result<(), StreamError> {
        if !stream.is_pure() {
            return self.refuse(Reason::Mixed);
        }
        let mut new = self.new_of(x)?;
        if n > 0 && stream.lead < 0 {
            let Some(value) = value else { return self.refuse(Reason::PaddedBefore) };
            new = self.masked(new, stream, value)?;
        }
        // Before a stream without a lead there is nothing yet.
        let zeros_before = (stream.zeros_before || stream.lead <= 0) && (n == 0 || value == Some(0.0));
        let result = Stream { zeros_before, ..stream.led(n, self.at) };
        self.set(node.results[0], new, Flow::Stream(result));
        Ok(())
    }

    pub(super) fn concat(&mut self, node: &Node, op: &Concat) -> Result<(), StreamError> {
        let operands: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let streams = self.streams(node);
        let with = self.meet(&streams)?;
        if streams.iter().any(|s| s.axis != with.axis) {
            return self.refuse(Reason::AllPairs);
        }
        if op.axis == with.axis {
            return self.concat_time(node, &operands);
        }
        let fixed_zero = |v: &ValueId| splat(self.old, *v) == Some(0.0);
        let zeros_before = operands.iter().all(|v| match self.flow(*v) {
            Flow::Stream(s) => s.zeros_before,
            _ => fixed_zero(v),
        });
        let mut new = Vec::new();
        for operand in operands {
            new.push(self.aligned(operand, with.axis, &with)?);
        }
        let new = self.rewriter.builder().op(op.clone(), &new)?;
        self.set(node.results[0], new, Flow::Stream(Stream { zeros_before, ..with }));
        Ok(())
    }

    /// Fixed elements before a stream, and after it.
    fn concat_time(&mut self, node: &Node, operands: &[ValueId]) -> Result<(), StreamError> {
        let at = operands.iter().position(|v| self.stream(*v).is_some()).expect("there is a stream");
        if operands[at + 1..].iter().any(|v| self.stream(*v).is_some()) {
            return self.refuse(Reason::FixedStep);
        }
        let stream = self.stream(operands[at]).expect("it was found above").clone();
        let extent = |v: &ValueId| self.old.ty(*v).shape[stream.axis].as_const();
        let Some(n) = operands[..at].iter().map(extent).sum::<Option<i64>>() else {
            return self.refuse(Reason::TotalLength);
        };
        let zeros = operands[..at].iter().all(|v| splat(self.old, *v) == Some(0.0));
        self.led_by(node, operands[at], &stream, n, zeros.then_some(0.0))
    }

    pub(super) fn gather(&mut self, node: &Node, op: &Gather) -> Result<(), StreamError> {
        let (x, indices) = (first(node), node.operands[1].expect("the operand is required"));
        match (self.stream(x).cloned(), self.stream(indices).cloned()) {
            (None, Some(stream)) => {
                let axis = op.axis + stream.axis;
                self.map(node, Stream { zeros_before: stream.lead <= 0, ..stream.moved(axis) })
            }
            (Some(stream), None) if op.axis != stream.axis => {
                let more = self.old.ty(indices).rank();
                let axis = if stream.axis > op.axis { stream.axis + more - 1 } else { stream.axis };
                self.map(node, stream.moved(axis))
            }
            (Some(_), None) => self.refuse(Reason::FixedStep),
            _ => self.refuse(Reason::NoForm),
        }
    }
}

fn first(node: &Node) -> ValueId {
    node.operands[0].expect("the operand is required")
}

/// Where the time axis of `from`, with its number of steps, lies in `to`, a reshape of it.
pub(super) fn remap(from: &Shape, stream: &Stream, steps: &Dim, to: &Shape) -> Option<Stream> {
    let product = |dims: &[Dim]| dims.iter().fold(Dim::from(1), |n, d| n * d);
    let before = product(&from[..stream.axis]) * &stream.outer;
    let after = product(&from[stream.axis + 1..]) * &stream.inner;
    let mut merged = None;
    for axis in 0..to.rank() {
        let outer = before.div_exact(&product(&to[..axis]));
        let inner = after.div_exact(&product(&to[axis + 1..]));
        let (Some(outer), Some(inner)) = (outer, inner) else { continue };
        if outer.clone() * steps * &inner != to[axis] {
            continue;
        }
        let result = Stream { outer, inner, ..stream.moved(axis) };
        if result.is_pure() {
            return Some(result);
        }
        merged = merged.or(Some(result));
    }
    merged
}
