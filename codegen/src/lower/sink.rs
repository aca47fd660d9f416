//! Where results go: through the epilogue into memory.

use super::access::Cx;
use super::index::Idx;
use super::{LowerError, Lowering, elem_of};
use crate::kernel::{Elem, KernelBuilder, ParamId, Reg};
use ssmc_ir::ops::Op;
use ssmc_ir::{Graph, Group, NodeId, ValueId};

/// The outputs of a group.
pub(super) struct Sink<'a> {
    graph: &'a Graph,
    root: ValueId,
    epilogue: &'a [NodeId],
    outputs: &'a [ValueId],
    params: Vec<Option<ParamId>>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(graph: &'a Graph, group: &'a Group) -> Self {
        let root = graph.node(group.root).results[0];
        Self {
            graph,
            root,
            epilogue: &group.epilogue,
            outputs: &group.outputs,
            params: vec![None; group.outputs.len()],
        }
    }

    fn param(&mut self, cx: &mut Cx<'a>, b: &mut KernelBuilder, i: usize) -> Result<ParamId, LowerError> {
        if let Some(param) = self.params[i] {
            return Ok(param);
        }
        let param = cx.write_param(b, self.outputs[i])?;
        self.params[i] = Some(param);
        Ok(param)
    }

    /// Asks for what the epilogue of the element at `idx` reads besides, so that it is under way before [`Sink::put`], in the
    /// same scope, needs it.
    pub(super) fn fetch(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        idx: &[Idx],
    ) -> Result<(), LowerError> {
        let (mut value, mut idx) = (self.root, idx.to_vec());
        for id in self.epilogue {
            let node = self.graph.node(*id);
            if let Op::Reshape(op) = &node.op {
                idx = cx.map_reshape(b, &idx, &self.graph.ty(value).shape, &op.shape);
            } else if !matches!(node.op, Op::Contract(_)) {
                for operand in node.operands.iter().copied().flatten().filter(|operand| *operand != value) {
                    cx.get(b, operand, &idx)?;
                }
            }
            value = node.results[0];
        }
        Ok(())
    }

    /// Stores the element of the root's first result at `idx`, after the epilogue. Nothing if nobody wants it.
    pub(super) fn put(
        &mut self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        idx: &[Idx],
        x: Reg,
    ) -> Result<(), LowerError> {
        let last = self.epilogue.last().map_or(self.root, |id| self.graph.node(*id).results[0]);
        let Some(i) = self.outputs.iter().position(|v| *v == last) else { return Ok(()) };
        let (mut value, mut idx, mut x) = (self.root, idx.to_vec(), x);
        cx.bind(value, &idx, x);
        for id in self.epilogue {
            let node = self.graph.node(*id);
            let result = node.results[0];
            if let Op::Reshape(op) = &node.op {
                idx = cx.map_reshape(b, &idx, &self.graph.ty(value).shape, &op.shape);
                cx.bind(result, &idx, x);
            } else {
                x = cx.get(b, result, &idx)?;
            }
            value = result;
        }
        let param = self.param(cx, b, i)?;
        let shape = &self.graph.ty(value).shape;
        cx.store(b, param, shape, &idx, x);
        for i in 0..self.outputs.len() {
            if self.converts(i, last) {
                let param = self.param(cx, b, i)?;
                let copy = b.cast(x, elem_of(self.graph.ty(self.outputs[i]).dtype)?);
                cx.store(b, param, shape, &idx, copy);
            }
        }
        Ok(())
    }

    /// Whether an output is what a cast makes of a value.
    fn converts(&self, i: usize, value: ValueId) -> bool {
        let node = self.graph.def_node(self.outputs[i]);
        node.is_some_and(|node| matches!(node.op, Op::Cast(_)) && node.operands == [Some(value)])
    }

    /// Which output holds another result of the root, as it is or converted.
    fn extra(&self, value: ValueId) -> Option<usize> {
        (0..self.outputs.len()).find(|i| self.outputs[*i] == value || self.converts(*i, value))
    }

    /// Stores an element of another result of the root, converted if that is what is wanted. Nothing if nobody wants it.
    pub(super) fn put_extra(
        &mut self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        value: ValueId,
        idx: &[Idx],
        x: Reg,
    ) -> Result<(), LowerError> {
        let Some(i) = self.extra(value) else { return Ok(()) };
        let param = self.param(cx, b, i)?;
        let x = b.cast(x, elem_of(self.graph.ty(self.outputs[i]).dtype)?);
        cx.store(b, param, &self.graph.ty(value).shape, idx, x);
        Ok(())
    }

    /// The tensor that holds another result of the root, if its elements are of this type.
    pub(super) fn extra_param(
        &mut self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        value: ValueId,
        elem: Elem,
    ) -> Result<Option<ParamId>, LowerError> {
        let Some(i) = self.extra(value) else { return Ok(None) };
        match elem_of(self.graph.ty(self.outputs[i]).dtype)? == elem {
            true => self.param(cx, b, i).map(Some),
            false => Ok(None),
        }
    }

    /// Whether another result of the root is written at all.
    pub(super) fn wants(&self, value: ValueId) -> bool {
        self.extra(value).is_some()
    }
}

impl<'a> Lowering<'a> {
    /// Builder, context and sink apart, for loops whose bodies need all three.
    pub(super) fn parts(&mut self) -> (&mut KernelBuilder, &mut Cx<'a>, &mut Sink<'a>) {
        (&mut self.b, &mut self.cx, &mut self.sink)
    }
}
