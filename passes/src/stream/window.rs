//! The window of past steps: what pairs of steps are made of, with the extents of a piece and of the window.

use super::StreamError;
use super::flow::{Flow, Reason, Stream};
use super::layout::remap;
use super::walk::{Walker, with_dim};
use ssmc_ir::ops::{BinaryFn, Broadcast, Cmp, Compare, Constant, Gather, Iota, Op, Reshape, Select};
use ssmc_ir::{DType, Dim, Node, Shape, ValueId};

/// How deep a repeated value may be computed.
pub(super) const DEPTH: usize = 64;

/// The axes of queries and keys, as far as a value has them.
type Axes = [Option<usize>; 2];

impl Walker<'_> {
    /// The number of steps before a piece that the window holds.
    pub(super) fn past(&self) -> Result<i64, StreamError> {
        self.past.map_or_else(|| self.refuse(Reason::NeedsWindow), Ok)
    }

    fn window_len(&self) -> Result<Dim, StreamError> {
        Ok(self.piece.clone() + self.past()?)
    }

    /// Where a time axis lies after a reshape that leaves it alone.
    pub(super) fn moved(from: &Shape, axis: usize, to: &Shape) -> Option<usize> {
        remap(from, &Stream::on(axis), &from[axis], to).filter(Stream::is_pure).map(|stream| stream.axis)
    }

    /// An op that moves elements, with the extents of piece and window on these axes of its result.
    pub(super) fn resized(&self, node: &Node, [query, keys]: Axes) -> Result<Op, StreamError> {
        let mut shape = self.old.ty(node.results[0]).shape.clone();
        if let Some(axis) = query {
            shape = with_dim(&shape, axis, &self.piece);
        }
        if let Some(axis) = keys {
            shape = with_dim(&shape, axis, &self.window_len()?);
        }
        Ok(match &node.op {
            Op::Broadcast(op) => Broadcast { axes: op.axes.clone(), shape }.into(),
            Op::Reshape(_) => Reshape { shape }.into(),
            op => op.clone(),
        })
    }

    /// A value for pairs with `neutral` where the key is later than the query or before the sequence.
    pub(super) fn visible(
        &mut self,
        new: ValueId,
        (query, keys): (usize, usize),
        neutral: f64,
    ) -> Result<ValueId, StreamError> {
        let valid = match self.visible {
            Some(valid) => valid,
            None => {
                let shape: Shape = [self.piece.clone(), self.window_len()?].into();
                let (at, seen) = (self.steps(0)?, self.window_steps()?);
                let b = self.rewriter.builder();
                let at = b.op(Broadcast { axes: vec![0], shape: shape.clone() }, &[at])?;
                let seen = b.op(Broadcast { axes: vec![1], shape: shape.clone() }, &[seen])?;
                let zero = b.scalar(DType::I64, 0.0)?;
                let zero = b.op(Broadcast { axes: Vec::new(), shape }, &[zero])?;
                let begun = b.op(Compare { cmp: Cmp::Ge }, &[seen, zero])?;
                let past = b.op(Compare { cmp: Cmp::Le }, &[seen, at])?;
                *self.visible.insert(b.binary(BinaryFn::And, begun, past)?)
            }
        };
        let b = self.rewriter.builder();
        let shape = b.shape(new).clone();
        let valid = if query < keys { valid } else { b.transpose(valid, &[1, 0])? };
        let axes = vec![query.min(keys), query.max(keys)];
        let valid = b.op(Broadcast { axes, shape }, &[valid])?;
        let neutral = b.splat(neutral, new)?;
        Ok(b.op(Select, &[valid, new, neutral])?)
    }

    /// The index of every step of the window in the sequence, negative before it begins.
    fn window_steps(&mut self) -> Result<ValueId, StreamError> {
        if let Some(steps) = self.window_steps {
            return Ok(steps);
        }
        let (past, len) = (self.past()?, self.window_len()?);
        let position = self.position()?;
        let b = self.rewriter.builder();
        let iota = b.op(Iota { axis: 0, dtype: DType::I64, shape: [len.clone()].into() }, &[])?;
        let start = b.op(Constant::scalar(DType::I64, -past as f64), &[])?;
        let start = b.reshape(start, [1])?;
        let start = b.binary(BinaryFn::Add, position, start)?;
        let start = b.broadcast(start, &[0], [len])?;
        Ok(*self.window_steps.insert(b.binary(BinaryFn::Add, iota, start)?))
    }

    /// The value with the extent of a piece on the axis of queries and that of the window on the axis of keys.
    pub(super) fn spread(&mut self, old: ValueId, axes: Axes, depth: usize) -> Result<ValueId, StreamError> {
        let [query, keys] = axes;
        match self.flow(old).clone() {
            Flow::Pairs(p) if axes == [Some(p.query), Some(p.keys)] => return self.new_of(old),
            Flow::Pairs(_) => return self.refuse(Reason::AllPairs),
            Flow::Latest { .. } => return self.refuse(Reason::NeedsEnd),
            Flow::Fixed if axes == [None, None] => return self.new_of(old),
            Flow::Fixed => {}
            Flow::Stream(stream) => {
                // What is padded behind the sequence is later than any step of it.
                let is_plain = stream.is_pure() && stream.lead == 0 && self.surplus(old, &stream)? >= 0;
                if !is_plain || ![query, keys].contains(&Some(stream.axis)) {
                    return self.refuse(Reason::AllPairs);
                }
                if keys.is_none() {
                    return self.new_of(old);
                }
                if query.is_none() {
                    return self.window(old, &stream, depth);
                }
            }
        }
        match self.old.def_node(old).filter(|_| depth > 0) {
            Some(node) => self.spread_node(node, old, axes, depth - 1),
            None => self.refuse(Reason::AllPairs),
        }
    }

    fn spread_node(
        &mut self,
        node: &Node,
        old: ValueId,
        [query, keys]: Axes,
        depth: usize,
    ) -> Result<ValueId, StreamError> {
        let operand = |i: usize| node.operands[i].expect("the operand is required");
        let inner = match &node.op {
            Op::Broadcast(op) => {
                let shape = &self.old.ty(operand(0)).shape;
                let of = |axis: Option<usize>| {
                    let at = op.axes.iter().position(|to| Some(*to) == axis)?;
                    (!shape[at].is(1)).then_some(at)
                };
                Some([of(query), of(keys)])
            }
            Op::Transpose(op) => Some([query.map(|axis| op.perm[axis]), keys.map(|axis| op.perm[axis])]),
            Op::Reshape(_) => {
                let (from, to) = (&self.old.ty(old).shape, &self.old.ty(operand(0)).shape);
                let of = |axis: Option<usize>| axis.map(|axis| Self::moved(from, axis, to));
                match (of(query), of(keys)) {
                    (Some(None), _) | (_, Some(None)) => None,
                    (query, keys) => Some([query.flatten(), keys.flatten()]),
                }
            }
            _ => None,
        };
        if let Some(inner) = inner {
            let x = self.spread(operand(0), inner, depth)?;
            let op = self.resized(node, [query, keys])?;
            return Ok(self.rewriter.builder().op(op, &[x])?);
        }
        match &node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_) => {
                let mut operands = Vec::new();
                for v in node.operands.iter().flatten() {
                    operands.push(self.spread(*v, [query, keys], depth)?);
                }
                Ok(self.rewriter.builder().op(node.op.clone(), &operands)?)
            }
            _ if matches!(self.flow(old), Flow::Fixed) => self.spread_fixed(node, old, [query, keys]),
            _ => self.refuse(Reason::AllPairs),
        }
    }

    /// A value that does not depend on the sequence: its elements at the steps of the piece and of the window.
    fn spread_fixed(
        &mut self,
        node: &Node,
        old: ValueId,
        [query, keys]: Axes,
    ) -> Result<ValueId, StreamError> {
        if let Op::Iota(op) = &node.op {
            let mut shape = op.shape.clone();
            if let Some(axis) = query {
                shape = with_dim(&shape, axis, &self.piece);
            }
            if let Some(axis) = keys {
                shape = with_dim(&shape, axis, &self.window_len()?);
            }
            let steps = match [query, keys].iter().position(|axis| *axis == Some(op.axis)) {
                Some(0) => self.steps(0)?,
                Some(_) => self.window_steps()?,
                None => {
                    let iota = Iota { axis: op.axis, dtype: op.dtype, shape };
                    return Ok(self.rewriter.builder().op(iota, &[])?);
                }
            };
            let b = self.rewriter.builder();
            let steps = b.cast(steps, op.dtype)?;
            return Ok(b.op(Broadcast { axes: vec![op.axis], shape }, &[steps])?);
        }
        let mut x = self.new_of(old)?;
        if let Some(axis) = query {
            let steps = self.steps(0)?;
            x = self.at_steps(old, x, axis, steps)?;
        }
        if let Some(axis) = keys {
            let steps = self.window_steps()?;
            x = self.at_steps(old, x, axis, steps)?;
        }
        Ok(x)
    }

    /// The elements of a fixed value at some steps: it must have one for each step of the longest sequence.
    pub(super) fn at_steps(
        &mut self,
        old: ValueId,
        x: ValueId,
        axis: usize,
        steps: ValueId,
    ) -> Result<ValueId, StreamError> {
        let extent = self.old.ty(old).shape[axis].as_const();
        let (Some(past), Some(extent)) = (self.past, extent) else { return self.refuse(Reason::Varies) };
        if past >= extent {
            return self.refuse(Reason::Short { steps: extent, wanted: past + 1 });
        }
        self.is_bounded = true;
        // Steps that do not exist, such as those before the sequence, read some element or other.
        let b = self.rewriter.builder();
        let (low, high) = (b.splat(0.0, steps)?, b.splat((extent - 1) as f64, steps)?);
        let steps = b.binary(BinaryFn::Max, steps, low)?;
        let steps = b.binary(BinaryFn::Min, steps, high)?;
        Ok(b.op(Gather { axis }, &[x, steps])?)
    }

    /// The steps of a stream that the window holds, and those of the piece. What is only laid out anew is kept as it
    /// was before.
    fn window(&mut self, old: ValueId, stream: &Stream, depth: usize) -> Result<ValueId, StreamError> {
        if let Some(window) = self.windows.get(&old) {
            return Ok(*window);
        }
        let before = self.old.def_node(old).filter(|node| {
            matches!(node.op, Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_)) && depth > 0
        });
        let window =
            match before.map(|node| self.spread_node(node, old, [None, Some(stream.axis)], depth - 1)) {
                Some(Ok(window)) => window,
                _ => {
                    self.is_bounded = true;
                    let (x, past) = (self.new_of(old)?, self.past()?);
                    if past == 0 { x } else { self.with_history("window", x, stream, past)? }
                }
            };
        self.windows.insert(old, window);
        Ok(window)
    }
}
