//! State: what a program carries from piece to piece.

use super::StreamError;
use super::flow::{Reason, Stream};
use super::walk::{Walker, with_dim};
use ssmc_ir::ops::{BinaryFn, Broadcast, Cmp, Compare, Concat, Constant, DimValue, Iota, Select};
use ssmc_ir::{DType, Dim, Shape, TensorType, ValueId};

/// A state of the program: an input, and an output of the same name.
pub(super) struct State {
    pub(super) name: String,
    /// Its value after the piece.
    pub(super) after: ValueId,
    /// The node that looks back.
    pub(super) place: String,
}

const POSITION: &str = "position";

impl Walker<'_> {
    /// A new state and its value before the piece. States start as zeros; with `initial` they start as that.
    pub(super) fn state(
        &mut self,
        kind: &str,
        ty: TensorType,
        initial: Option<ValueId>,
    ) -> Result<ValueId, StreamError> {
        let name = format!("{kind}.{}", self.states.len());
        let before = self.rewriter.builder().input(&name, ty.clone());
        let place = self.old.locs().describe(self.old.node(self.at).loc);
        self.states.push(State { name, after: before, place });
        let Some(initial) = initial else { return Ok(before) };
        let position = self.position()?;
        let b = self.rewriter.builder();
        let position = b.reshape(position, Shape::scalar())?;
        let zero = b.scalar(DType::I64, 0.0)?;
        let first = b.op(Compare { cmp: Cmp::Eq }, &[position, zero])?;
        let first = b.broadcast(first, &[], ty.shape)?;
        Ok(b.op(Select, &[first, initial, before])?)
    }

    /// The last state that was made has this value after the piece.
    pub(super) fn state_becomes(&mut self, after: ValueId) {
        self.states.last_mut().expect("a state was made before").after = after;
    }

    /// The number of steps before the piece: `i64[1]`.
    pub(super) fn position(&mut self) -> Result<ValueId, StreamError> {
        if let Some(position) = self.position {
            return Ok(position);
        }
        let ty = TensorType::new(DType::I64, [1]);
        let position = self.rewriter.builder().input(POSITION, ty);
        self.position = Some(position);
        Ok(position)
    }

    /// Ends the program with the position after the piece, if it is used.
    pub(super) fn advance_position(&mut self) -> Result<(), StreamError> {
        let Some(position) = self.position else { return Ok(()) };
        let b = self.rewriter.builder();
        let steps = b.op(DimValue { value: self.piece.clone() }, &[])?;
        let steps = b.reshape(steps, [1])?;
        let after = b.binary(BinaryFn::Add, position, steps)?;
        let place = "the number of steps so far".to_owned();
        self.states.push(State { name: POSITION.to_owned(), after, place });
        Ok(())
    }

    /// The index of every step of the piece in the sequence, plus `more`: `i64[piece]`.
    pub(super) fn steps(&mut self, more: i64) -> Result<ValueId, StreamError> {
        let position = self.position()?;
        let shape = Shape::from(vec![self.piece.clone()]);
        let b = self.rewriter.builder();
        let index = b.op(Iota { axis: 0, dtype: DType::I64, shape: shape.clone() }, &[])?;
        let before = b.op(Broadcast { axes: vec![0], shape }, &[position])?;
        let index = b.binary(BinaryFn::Add, index, before)?;
        let more = b.splat(more as f64, index)?;
        Ok(b.binary(BinaryFn::Add, index, more)?)
    }

    /// The last `n` elements before a piece of a stream and the piece: extent `n` plus that of a piece.
    ///
    /// What comes before the sequence is zeros; padding there is refused unless it is zero too.
    pub(super) fn with_history(
        &mut self,
        kind: &str,
        new: ValueId,
        stream: &Stream,
        n: i64,
    ) -> Result<ValueId, StreamError> {
        if stream.lead > 0 && !stream.zeros_before {
            return self.refuse(Reason::PaddedBefore);
        }
        if !stream.is_pure() {
            return self.refuse(Reason::Mixed);
        }
        let axis = stream.axis;
        let ty = self.rewriter.builder().ty(new).clone();
        let before = self.state(kind, ty.with_shape(with_dim(&ty.shape, axis, &Dim::from(n))), None)?;
        let piece = self.piece.clone();
        let b = self.rewriter.builder();
        let all = b.op(Concat { axis }, &[before, new])?;
        let after = b.slice(all, axis, piece, n)?;
        self.state_becomes(after);
        Ok(all)
    }

    /// The elements of a stream `n` steps later than they are known.
    pub(super) fn delayed(&mut self, new: ValueId, stream: &Stream, n: i64) -> Result<ValueId, StreamError> {
        if n == 0 {
            return Ok(new);
        }
        let all = self.with_history("delay", new, stream, n)?;
        let piece = self.piece.clone();
        Ok(self.rewriter.builder().slice(all, stream.axis, 0, piece)?)
    }

    /// A stream with `value` for what it has before its first element: where `lead` is negative, the first steps of the
    /// sequence complete no element.
    pub(super) fn masked(
        &mut self,
        new: ValueId,
        stream: &Stream,
        value: f64,
    ) -> Result<ValueId, StreamError> {
        if stream.lead >= 0 {
            return Ok(new);
        }
        if !stream.is_pure() {
            return self.refuse(Reason::Mixed);
        }
        let steps = self.steps(0)?;
        let b = self.rewriter.builder();
        let ty = b.ty(new).clone();
        let bound = b.op(Constant::scalar(DType::I64, -stream.lead as f64), &[])?;
        let bound = b.broadcast(bound, &[], [self.piece.clone()])?;
        let early = b.op(Compare { cmp: Cmp::Lt }, &[steps, bound])?;
        let early = b.op(Broadcast { axes: vec![stream.axis], shape: ty.shape }, &[early])?;
        let value = b.splat(value, new)?;
        Ok(b.op(Select, &[early, value, new])?)
    }
}
