//! The scan op in place of means that were read.

use super::{Along, Decay, Found};
use crate::view::{self, same_dense};
use ssmc_ir::ops::{Broadcast, Op, Wkv};
use ssmc_ir::{BuildError, Dim, Graph, GraphBuilder, Shape, ValueId};
use std::collections::BTreeMap;

impl Found {
    /// Whether the steps are all elements of the tensors, and the sizes those of the op.
    pub(super) fn fits(&self, graph: &Graph, whole: &Shape) -> bool {
        let without = |shape: &Shape, axis: usize| -> Shape {
            shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| d.clone()).collect()
        };
        let is_along = |(x, axis): Along| {
            let shape = &graph.ty(x).shape;
            shape[axis].is(self.n) && same_dense(&without(shape, axis), &self.state)
        };
        let along = match self.w {
            Decay::Same(_) => true,
            Decay::Along(x, axis) => is_along((x, axis)),
        };
        along
            && is_along(self.k)
            && is_along(self.v)
            && self.state.rank() > 0
            && whole[self.axis].is(self.n)
            && same_dense(&without(whole, self.axis), &self.state)
            && self.u.is_none_or(|u| shared(graph, u).is_some())
    }

    /// Batch and channels of a state.
    fn extents(&self) -> [Dim; 2] {
        let batch = if self.state.rank() > 1 { self.state[0].clone() } else { Dim::from(1) };
        let channels =
            self.state[usize::from(self.state.rank() > 1)..].iter().fold(Dim::from(1), |n, d| n * d);
        [batch, channels]
    }

    /// The means as the concatenation has them, from the new values of old ones.
    pub(super) fn build(
        &self,
        b: &mut GraphBuilder,
        new: &BTreeMap<ValueId, ValueId>,
        whole: &Shape,
    ) -> Result<ValueId, BuildError> {
        let [batch, channels] = self.extents();
        let n = Dim::from(self.n);
        let k = self.steps(b, new[&self.k.0], self.k.1)?;
        let v = self.steps(b, new[&self.v.0], self.v.1)?;
        let w = match self.w {
            Decay::Along(w, axis) => self.steps(b, new[&w], axis)?,
            Decay::Same(w) => match self.per_channel(b, new[&w])? {
                Some(w) => b.reshape(w, [Dim::from(1), Dim::from(1), channels.clone()])?,
                None => b.reshape(new[&w], [batch.clone(), Dim::from(1), channels.clone()])?,
            },
        };
        let u = match self.u {
            Some(u) => self.per_channel(b, new[&u])?,
            None if self.is_bonus => {
                let zero = b.scalar(b.ty(k).dtype, 0.0)?;
                Some(b.broadcast(zero, &[], [channels.clone()])?)
            }
            None => None,
        };
        let operands = [Some(w), Some(k), Some(v), u];
        let y = b.node(Wkv::default(), &operands, Vec::new())?[0];
        let y = view::permute(b, y, &[1, 0, 2])?;
        let others = (0..whole.rank()).filter(|axis| *axis != self.axis);
        let dims: Vec<Dim> = std::iter::once(n).chain(others.map(|axis| whole[axis].clone())).collect();
        let y = view::reshape(b, y, &dims)?;
        let perm: Vec<usize> = (1..=self.axis).chain([0]).chain(self.axis + 1..whole.rank()).collect();
        let y = view::permute(b, y, &perm)?;
        view::reshape(b, y, whole)
    }

    /// A tensor as batch, steps and channels.
    fn steps(&self, b: &mut GraphBuilder, x: ValueId, axis: usize) -> Result<ValueId, BuildError> {
        let [batch, channels] = self.extents();
        let others = (0..b.ty(x).rank()).filter(|other| *other != axis);
        let perm: Vec<usize> = std::iter::once(axis).chain(others).collect();
        let x = view::permute(b, x, &perm)?;
        let x = view::reshape(b, x, &[Dim::from(self.n), batch, channels])?;
        view::permute(b, x, &[1, 0, 2])
    }

    /// A value that the whole batch shares, by channels.
    fn per_channel(&self, b: &mut GraphBuilder, v: ValueId) -> Result<Option<ValueId>, BuildError> {
        let [_, channels] = self.extents();
        if self.state.rank() < 2 {
            return b.reshape(v, [channels]).map(Some);
        }
        let Some((x, axes)) = shared(b.graph(), v) else { return Ok(None) };
        let shape = Shape::from(&self.state[1..]);
        let x =
            if axes.is_empty() || *b.shape(x) != shape { b.op(Broadcast { axes, shape }, &[x])? } else { x };
        b.reshape(x, [channels]).map(Some)
    }
}

/// What is repeated along the first axis of a value, and its axes among the others.
fn shared(graph: &Graph, v: ValueId) -> Option<(ValueId, Vec<usize>)> {
    let node = graph.def_node(v)?;
    match (&node.op, node.operands.first().copied().flatten()) {
        (Op::Broadcast(op), Some(x)) => {
            let axes = op.axes.iter().map(|axis| axis.checked_sub(1)).collect::<Option<_>>()?;
            Some((x, axes))
        }
        _ => None,
    }
}
