//! What surrounds a product of one row: the norm of the row, and the step of a convolution that columns are the input of.

use crate::kernel::{Elem, KernelBuilder, Reg, RegTy};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::block::rows::mean_square_of;
use crate::lower::conv1d::{Conv, activate};
use crate::lower::index::Idx;
use crate::lower::norm::inverse_deviation;
use crate::lower::sink::Sink;
use ssmc_ir::ops::{BinaryFn, CausalConv1d, Op, UnaryFn};
use ssmc_ir::{Graph, Group, ValueId};

/// What a product of one row does besides.
#[derive(Default)]
pub(in crate::lower::block) struct Around<'a> {
    pub(in crate::lower::block) norm: Option<Norm>,
    pub(in crate::lower::block) tail: Option<Tail<'a>>,
}

/// An RMS norm of the row: as its scale is one number, columns are scaled instead.
pub(in crate::lower::block) struct Norm {
    x: ValueId,
    weight: Option<ValueId>,
    eps: f64,
    /// The value that the scale is, if what follows the sum multiplies by it.
    scale: Option<ValueId>,
}

impl Norm {
    /// The norm that a group computes, or of which it computes the scale.
    pub(in crate::lower::block) fn of(graph: &Graph, group: &Group) -> Option<Self> {
        let node = graph.node(group.root);
        if let Op::RmsNorm(op) = &node.op {
            let operand = |i: usize| node.operands.get(i).copied().flatten();
            return Some(Self { x: operand(0)?, weight: operand(1), eps: op.eps.get(), scale: None });
        }
        let x = mean_square_of(graph, node)?;
        let [add, root] = group.epilogue[..] else { return None };
        let (add, root) = (graph.node(add), graph.node(root));
        let is_sum = matches!(&add.op, Op::Binary(op) if op.f == BinaryFn::Add);
        let is_scale = matches!(&root.op, Op::Unary(op) if op.f == UnaryFn::Rsqrt);
        let eps = add.operands.iter().flatten().find(|value| **value != node.results[0])?;
        let eps = uniform(graph, *eps)?;
        (is_sum && is_scale).then_some(Self { x, weight: None, eps, scale: Some(root.results[0]) })
    }

    /// The scale, if the group stores that alone.
    pub(in crate::lower::block) fn stored_scale(&self) -> Option<ValueId> {
        self.scale
    }

    /// What the norm reads.
    pub(in crate::lower::block) fn x(&self) -> ValueId {
        self.x
    }

    /// Where the scale goes once it is known, if what follows the sum multiplies by it.
    pub(super) fn expect_scale(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder) -> Option<Reg> {
        let value = self.scale?;
        let zero = b.zero(RegTy::scalar(Elem::F32));
        let scale = b.var_init(zero);
        cx.bind_all(value, scale);
        Some(scale)
    }

    /// The elements of the row before normalization.
    pub(super) fn element(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        k_at: &[Idx],
    ) -> Result<Reg, LowerError> {
        let zero = Idx::Uniform(b.const_i64(0));
        let outer = cx.graph.ty(self.x).rank().saturating_sub(1);
        let at = [&vec![zero; outer], k_at].concat();
        cx.get_wide_as(b, (self.x, Elem::F32), &at)
    }

    /// The weight of the norm.
    pub(super) fn factor(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        k_at: &[Idx],
    ) -> Result<Option<Reg>, LowerError> {
        self.weight.map(|weight| cx.get_wide_as(b, (weight, Elem::F32), k_at)).transpose()
    }

    /// The scale of the row, from the sum of its squares and its length.
    pub(super) fn scale(&self, b: &mut KernelBuilder, squares: Reg, n: Reg) -> Reg {
        let n = b.cast(n, Elem::F32);
        inverse_deviation(b, squares, n, self.eps)
    }
}

/// The number that every element of a value is.
fn uniform(graph: &Graph, mut value: ValueId) -> Option<f64> {
    while let Some(Op::Broadcast(_)) = graph.def_op(value) {
        value = graph.def_node(value)?.operands.first().copied().flatten()?;
    }
    match graph.def_op(value)? {
        Op::Constant(op) => op.as_scalar(),
        _ => None,
    }
}

/// The step of a convolution: column `start + c` is the input of channel `c`.
pub(in crate::lower::block) struct Tail<'a> {
    pub(in crate::lower::block) op: &'a CausalConv1d,
    pub(in crate::lower::block) conv: Conv<'a>,
    pub(in crate::lower::block) start: i64,
    pub(in crate::lower::block) sink: Sink<'a>,
}

/// The channel of a column, or the nearest one, with its taps and bias.
pub(super) struct Channel {
    at: Reg,
    taps: Vec<Reg>,
    offset: Reg,
}

impl<'a> Tail<'a> {
    /// Asks for the taps of a column's channel.
    pub(super) fn channel(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        col: Reg,
    ) -> Result<Channel, LowerError> {
        let at = b.sub(col, self.start);
        let at = b.max(at, 0);
        let at = b.min(at, self.conv.channels - 1);
        let lanes = std::mem::replace(&mut cx.lanes, 1);
        let filter = self.conv.filter(cx, b, Idx::Uniform(at));
        cx.lanes = lanes;
        let (taps, offset) = filter?;
        Ok(Channel { at, taps, offset })
    }

    /// Asks for the columns before this one.
    pub(super) fn columns(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        channel: &Channel,
    ) -> Result<Vec<Reg>, LowerError> {
        let zero = Idx::Uniform(b.const_i64(0));
        let lanes = std::mem::replace(&mut cx.lanes, 1);
        let columns = (0..self.conv.width - 1).map(|j| match self.conv.state {
            Some(state) => {
                let j = Idx::Uniform(b.const_i64(j));
                cx.get(b, state, &[zero, j, Idx::Uniform(channel.at)])
            }
            None => Ok(b.zero(RegTy::scalar(self.conv.elem))),
        });
        let columns = columns.collect();
        cx.lanes = lanes;
        columns
    }

    /// Takes the value of column `col` into its channel, if it has one.
    pub(super) fn advance(
        &mut self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (col, value): (Reg, Reg),
        (channel, columns): (&Channel, &[Reg]),
    ) -> Result<(), LowerError> {
        let (first, end) = (self.start, self.start + self.conv.channels);
        let (is_late, is_early) = (b.ge(col, first), b.lt(col, end));
        let is_inside = b.and(is_late, is_early);
        let mut result = Ok(());
        b.if_(is_inside, |b| result = cx.scope(|cx| self.step(cx, b, value, (channel, columns))));
        result
    }

    fn step(
        &mut self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        value: Reg,
        (channel, columns): (&Channel, &[Reg]),
    ) -> Result<(), LowerError> {
        let zero = Idx::Uniform(b.const_i64(0));
        let at = Idx::Uniform(channel.at);
        let x = b.cast(value, self.conv.elem);
        let all = [columns, &[x]].concat();
        let mut sum = channel.offset;
        for (tap, column) in channel.taps.iter().zip(&all) {
            let column = b.cast(*column, self.conv.acc);
            sum = b.fma(*tap, column, sum);
        }
        let y = activate(b, self.op, sum);
        let y = b.cast(y, self.conv.elem);
        self.sink.put(cx, b, &[zero, zero, at], y)?;
        if !self.sink.wants(self.conv.state_out) {
            return Ok(());
        }
        for (j, column) in all.iter().skip(1).enumerate() {
            let j = Idx::Uniform(b.const_i64(j as i64));
            self.sink.put_extra(cx, b, self.conv.state_out, &[zero, j, at], *column)?;
        }
        Ok(())
    }
}
