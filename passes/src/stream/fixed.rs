//! Values that do not depend on the sequence but are as long as it.

use super::StreamError;
use super::flow::{Flow, Reason, Stream};
use super::layout::remap;
use super::walk::{Walker, with_dim};
use ssmc_ir::ops::{Broadcast, Contract, Iota, Op, Reshape, Slice};
use ssmc_ir::{Dim, Node, TensorType, ValueId};

/// How deep a constant may be computed.
const DEPTH: usize = 64;

impl Walker<'_> {
    /// The fixed value with the extent of a piece on one axis, to meet `like` there.
    pub(super) fn restricted(
        &mut self,
        old: ValueId,
        axis: usize,
        like: &Stream,
    ) -> Result<ValueId, StreamError> {
        let like = Stream { lead: like.lead.max(0), ..like.moved(axis) };
        self.restrict(old, &like, DEPTH)
    }

    fn restrict(&mut self, old: ValueId, to: &Stream, depth: usize) -> Result<ValueId, StreamError> {
        let key = (old, to.axis, to.lead);
        if let Some(value) = self.restricted.get(&key).filter(|_| to.is_pure()) {
            return Ok(*value);
        }
        if !matches!(self.flow(old), Flow::Fixed) {
            return self.refuse(Reason::NeedsEnd);
        }
        let Some(node) = self.old.def_node(old).filter(|_| depth > 0) else {
            return self.refuse(Reason::Varies);
        };
        let value = self.restrict_node(node, old, to, depth - 1)?;
        if to.is_pure() {
            self.restricted.insert(key, value);
        }
        Ok(value)
    }

    fn restrict_node(
        &mut self,
        node: &Node,
        old: ValueId,
        to: &Stream,
        depth: usize,
    ) -> Result<ValueId, StreamError> {
        let axis = to.axis;
        let target = to.extent(&self.piece);
        let shape = with_dim(&self.old.ty(old).shape, axis, &target);
        let operand = |i: usize| node.operands[i].expect("the operand is required");
        match &node.op {
            Op::Broadcast(b) => {
                let x = operand(0);
                let from = b.axes.iter().position(|a| *a == axis);
                let from = from.filter(|k| !self.old.ty(x).shape[*k].is(1));
                let x = match from {
                    Some(k) => self.restrict(x, &to.moved(k), depth)?,
                    None => self.new_of(x)?,
                };
                Ok(self.rewriter.builder().op(Broadcast { axes: b.axes.clone(), shape }, &[x])?)
            }
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_) => {
                let mut operands = Vec::new();
                for v in node.operands.iter().flatten() {
                    operands.push(self.restrict(*v, to, depth)?);
                }
                Ok(self.rewriter.builder().op(node.op.clone(), &operands)?)
            }
            Op::Transpose(t) => {
                let x = self.restrict(operand(0), &to.moved(t.perm[axis]), depth)?;
                Ok(self.rewriter.builder().op(t.clone(), &[x])?)
            }
            Op::Reshape(_) => {
                let x = operand(0);
                let from = self.old.ty(x).shape.clone();
                let extent = self.old.ty(old).shape[axis]
                    .div_exact(&(to.outer.clone() * &to.inner))
                    .and_then(|extent| remap(&self.old.ty(old).shape, to, &extent, &from));
                let Some(inner) = extent else { return self.refuse(Reason::Varies) };
                let x = self.restrict(x, &inner, depth)?;
                Ok(self.rewriter.builder().op(Reshape { shape }, &[x])?)
            }
            Op::Iota(iota) if iota.axis == axis && to.is_pure() => {
                let steps = self.steps(to.lead)?;
                let b = self.rewriter.builder();
                let steps = b.cast(steps, iota.dtype)?;
                Ok(b.op(Broadcast { axes: vec![axis], shape }, &[steps])?)
            }
            Op::Iota(iota) if iota.axis != axis => {
                Ok(self.rewriter.builder().op(Iota { shape, ..iota.clone() }, &[])?)
            }
            Op::Contract(c) => self.restrict_contract(node, c, to, depth),
            Op::Constant(_) | Op::WeightRef(_) if self.is_uniform(node, old, axis) => {
                let x = self.new_of(old)?;
                let b = self.rewriter.builder();
                let one = b.op(Slice { axis, start: Dim::from(0), len: Dim::from(1), stride: 1 }, &[x])?;
                let axes = (0..shape.rank()).collect();
                Ok(b.op(Broadcast { axes, shape }, &[one])?)
            }
            // Of a longer constant, the first elements.
            Op::Slice(s) if s.axis == axis && s.stride == 1 && s.start.is(0) && to.is_pure() => {
                let x = operand(0);
                let steps = self.steps(to.lead)?;
                let new = self.new_of(x)?;
                self.at_steps(x, new, axis, steps)
            }
            _ if to.is_pure() => {
                let (new, steps) = (self.new_of(old)?, self.steps(to.lead)?);
                self.at_steps(old, new, axis, steps)
            }
            _ => self.refuse(Reason::Varies),
        }
    }

    fn restrict_contract(
        &mut self,
        node: &Node,
        c: &Contract,
        to: &Stream,
        depth: usize,
    ) -> Result<ValueId, StreamError> {
        let label = c.spec.output[to.axis];
        let mut operands = Vec::new();
        for (labels, v) in c.spec.inputs.iter().zip(node.operands.iter().flatten()) {
            operands.push(match labels.iter().position(|l| *l == label) {
                Some(axis) => self.restrict(*v, &to.moved(axis), depth)?,
                None => self.new_of(*v)?,
            });
        }
        Ok(self.rewriter.builder().op(c.clone(), &operands)?)
    }

    /// Whether a stored tensor is the same at every index of one axis.
    fn is_uniform(&self, node: &Node, old: ValueId, axis: usize) -> bool {
        let TensorType { dtype, shape } = self.old.ty(old);
        let bytes = match &node.op {
            Op::Constant(c) => c.data.as_slice(),
            Op::WeightRef(w) => match self.weights.get(&w.name) {
                Some(weight) => weight.bytes.as_slice(),
                None => return false,
            },
            _ => return false,
        };
        let Some(dims) = shape.as_const().filter(|_| dtype.bits() >= 8) else { return false };
        let inner: i64 = dims[axis + 1..].iter().product();
        let inner = inner as usize * dtype.bits() / 8;
        let extent = dims[axis] as usize;
        inner > 0
            && extent > 0
            && bytes.chunks_exact(inner * extent).all(|block| {
                let mut rows = block.chunks_exact(inner);
                let first = rows.next();
                rows.all(|row| Some(row) == first)
            })
    }
}
