//! Loops that are no recurrence of a known kind, as one kernel.
//!
//! The groups of the body stand one behind the other as they are lowered anywhere, each in a loop over its blocks, and
//! the iterations around them. What changes from iteration to iteration lies in slots of the arena. One variant: one
//! block of one thread, because an iteration may need all of the one before it.

use super::access::Cx;
use super::elementwise::{for_lanes, rows_and_last};
use super::index::Idx;
use super::{Launch, LowerError, Lowering, root};
use crate::kernel::{Elem, For, KernelBuilder, ParamId, Reg, RegTy, Stmt};
use ssmc_ir::ops::Loop;
use ssmc_ir::{Dim, Graph, Group, Place, Region, ValueId};
use std::collections::BTreeMap;

/// Reads or writes one element, or a vector of them.
type At<'f, 'a> = dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, &[Idx]) -> Result<(), LowerError> + 'f;

/// A loop with the memory of its body.
struct Body<'a> {
    op: &'a Loop,
    region: &'a Region,
    graph: &'a Graph,
    /// The node's operands and results.
    operands: Vec<ValueId>,
    results: &'a [ValueId],
    /// Where the values of the body lie.
    bound: BTreeMap<ValueId, ParamId>,
    lanes: u16,
}

pub(super) fn lower<'a>(l: &mut Lowering<'a>, op: &'a Loop) -> Result<Launch, LowerError> {
    let group = l.group;
    let Some(region) = &group.region else { return l.unsupported("its body has no memory") };
    let graph = &region.plan.graph;
    let operands = (0..l.node.operands.len()).map(|i| l.operand(i)).collect::<Result<Vec<_>, _>>()?;
    let results = &l.node.results[..];
    let lanes = l.cx.lanes;
    let bound = bind(l, op, region, &operands)?;
    let body = Body { op, region, graph, operands, results, bound, lanes };
    let (b, cx, _) = l.parts();
    for i in 0..op.n_carried {
        let (from, to) = (body.operands[i], body.graph.inputs()[1 + i].value);
        body.each(cx, b, to, &mut |cx, b, idx| {
            let x = cx.get(b, from, idx)?;
            body.store(cx, b, to, idx, x)
        })?;
    }
    let mut stacks = Vec::new();
    for result in &results[op.n_carried..] {
        let wanted = group.outputs.contains(result);
        stacks.push(if wanted { Some(cx.write_param(b, *result)?) } else { None });
    }
    let trips = cx.dim(b, &op.trip_count);
    let mut work = Ok(Dim::from(0));
    b.for_("iteration", 0, trips, 1, |b, i| work = cx.scope(|cx| body.iteration(cx, b, i, trips, &stacks)));
    let work = work?;
    for (i, result) in results[..op.n_carried].iter().enumerate().filter(|(_, v)| group.outputs.contains(v)) {
        let from = body.graph.inputs()[1 + i].value;
        let param = cx.write_param(b, *result)?;
        body.each(cx, b, from, &mut |cx, b, idx| {
            let x = body.load(cx, b, from, idx)?;
            cx.store(b, param, &body.graph.ty(from).shape, idx, x);
            Ok(())
        })?;
    }
    Ok(Launch { grid: Dim::from(1), flops: op.trip_count.clone() * &work })
}

/// A parameter for every value of the body that lies in memory.
fn bind<'a>(
    l: &mut Lowering<'a>,
    op: &Loop,
    region: &'a Region,
    operands: &[ValueId],
) -> Result<BTreeMap<ValueId, ParamId>, LowerError> {
    let graph = &region.plan.graph;
    let n_changing = 1 + op.n_carried + op.scan_axes.len();
    let mut bound = BTreeMap::new();
    for (i, (port, slot)) in graph.inputs().iter().zip(&region.inputs).enumerate() {
        let (b, cx, _) = l.parts();
        let param = match slot {
            Some(slot) => cx.slot_param(b, *slot, graph.ty(port.value).dtype)?,
            None if i >= n_changing => cx.read_param(b, operands[i - 1])?,
            None => continue,
        };
        bound.insert(port.value, param);
    }
    for (value, place) in &region.plan.places {
        let slot = match place {
            Place::Input(_) => continue,
            Place::Output(i) => region.outputs[*i],
            Place::Slot(i) => region.slots[*i],
            Place::Weight => return l.unsupported("a literal of its body has no place"),
        };
        let (b, cx, _) = l.parts();
        bound.insert(*value, cx.slot_param(b, slot, graph.ty(*value).dtype)?);
    }
    Ok(bound)
}

impl<'a> Body<'a> {
    /// One iteration; its arithmetic.
    fn iteration(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        i: Reg,
        trips: Reg,
        stacks: &[Option<ParamId>],
    ) -> Result<Dim, LowerError> {
        let inputs = self.graph.inputs();
        let outputs = self.graph.outputs();
        if let Some(param) = self.bound.get(&inputs[0].value) {
            b.store(*param, 0, i);
        }
        let last = b.sub(trips, 1);
        let from_end = b.sub(last, i);
        let place = |reverse: bool| Idx::Uniform(if reverse { from_end } else { i });
        for (k, (axis, reverse)) in self.op.scan_axes.iter().zip(&self.op.scan_reverse).enumerate() {
            let (from, to) = (self.operands[self.op.n_carried + k], inputs[1 + self.op.n_carried + k].value);
            if !self.bound.contains_key(&to) {
                continue;
            }
            let at = place(*reverse);
            self.each(cx, b, to, &mut |cx, b, idx| {
                let x = cx.get(b, from, &with(idx, *axis, at))?;
                self.store(cx, b, to, idx, x)
            })?;
        }
        let mut work = Dim::from(0);
        for group in &self.region.plan.groups {
            work = work + self.group(cx, b, group)?;
        }
        for (k, (axis, reverse)) in self.op.stack_axes.iter().zip(&self.op.stack_reverse).enumerate() {
            let (Some(param), from) = (stacks[k], outputs[self.op.n_carried + k].value) else { continue };
            let (shape, at) = (&cx.graph.ty(self.results[self.op.n_carried + k]).shape, place(*reverse));
            self.each(cx, b, from, &mut |cx, b, idx| {
                let x = self.load(cx, b, from, idx)?;
                cx.store(b, param, shape, &with(idx, *axis, at), x);
                Ok(())
            })?;
        }
        for k in 0..self.op.n_carried {
            let (from, to) = (outputs[k].value, inputs[1 + k].value);
            self.each(cx, b, to, &mut |cx, b, idx| {
                let x = self.load(cx, b, from, idx)?;
                self.store(cx, b, to, idx, x)
            })?;
        }
        Ok(work)
    }

    /// The blocks of one group; their arithmetic.
    fn group(&self, cx: &mut Cx<'a>, b: &mut KernelBuilder, group: &'a Group) -> Result<Dim, LowerError> {
        let builder = std::mem::replace(b, KernelBuilder::cpu("inside"));
        let mut l = Lowering::inside(self.graph, group, builder, self.lanes);
        l.cx.continue_with(cx.take_args());
        l.cx.bind_body(self.bound.clone(), self.region.slots.iter().map(|slot| cx.slot(*slot)).collect());
        l.b.open_list();
        let block = l.b.var(RegTy::scalar(Elem::I64));
        let outer = l.b.set_block(Some(block));
        let launch = root(&mut l);
        l.b.set_block(outer);
        let stmts = l.b.close_list();
        let launch = launch?;
        let (lo, hi) = (l.b.index(0), l.cx.dim(&mut l.b, &launch.grid));
        l.b.push_stmt(Stmt::For(For { var: block, lo, hi, step: 1, body: stmts }));
        cx.continue_with(l.cx.take_args());
        *b = l.b;
        Ok(launch.flops)
    }

    /// Runs `f` for every element of a value of the body, in vectors along the last axis.
    fn each(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        value: ValueId,
        f: &mut At<'_, 'a>,
    ) -> Result<(), LowerError> {
        let (rows, last) = rows_and_last(&self.graph.ty(value).shape);
        cx.lanes = if last.is_some() { self.lanes } else { 1 };
        let result = each(cx, b, (rows, last), &mut Vec::new(), f);
        cx.lanes = self.lanes;
        result
    }

    fn load(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        value: ValueId,
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        Ok(cx.load(b, self.param(value)?, &self.graph.ty(value).shape, idx))
    }

    fn store(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        value: ValueId,
        idx: &[Idx],
        x: Reg,
    ) -> Result<(), LowerError> {
        cx.store(b, self.param(value)?, &self.graph.ty(value).shape, idx, x);
        Ok(())
    }

    fn param(&self, value: ValueId) -> Result<ParamId, LowerError> {
        let missing = || LowerError::Unsupported { op: "loop", reason: format!("{value} has no place") };
        self.bound.get(&value).copied().ok_or_else(missing)
    }
}

/// Runs `f` for every index of these axes, behind those in `idx`.
fn each<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    (rows, last): (&[Dim], Option<&Dim>),
    idx: &mut Vec<Idx>,
    f: &mut At<'_, 'a>,
) -> Result<(), LowerError> {
    match (rows.split_first(), last) {
        (Some((first, rows)), _) => {
            let n = cx.dim(b, first);
            let mut result = Ok(());
            b.for_("row", 0, n, 1, |b, i| {
                idx.push(Idx::Uniform(i));
                result = cx.scope(|cx| each(cx, b, (rows, last), idx, f));
                idx.pop();
            });
            result
        }
        (None, Some(last)) => {
            for_lanes(cx, b, last, &mut |cx, b, at| f(cx, b, &[idx.as_slice(), &[at]].concat()))
        }
        (None, None) => cx.scope(|cx| f(cx, b, idx)),
    }
}

/// The index with one more axis.
fn with(idx: &[Idx], axis: usize, at: Idx) -> Vec<Idx> {
    let mut all = idx.to_vec();
    all.insert(axis, at);
    all
}
