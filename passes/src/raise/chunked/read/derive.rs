//! Reads nodes by the meaning of their ops.

use super::super::algebra;
use super::super::form::{Form, Gap};
use super::super::layout::{self, extent};
use super::super::product::Product;
use super::{Axes, Reader, operand};
use crate::view;
use ssmc_ir::ops::{Binary, BinaryFn, Op, ReduceFn, Unary, UnaryFn};
use ssmc_ir::{Node, ValueId};
use std::collections::BTreeSet;

impl Reader<'_> {
    /// Reads a node by the meaning of its op. The axes of steps of its result are at least `times`.
    pub(super) fn derive(&mut self, node: &Node, times: &Axes) -> Result<Form, Gap> {
        let unknown = Gap::Op { op: node.op.name() };
        let result = node.results[0];
        match &node.op {
            Op::Transpose(op) => {
                let from = times.iter().map(|axis| op.perm[*axis]).collect();
                layout::transpose(&*self.get(operand(node, 0)?, &from)?, &op.perm)
            }
            Op::Broadcast(op) => {
                let x = operand(node, 0)?;
                let shape = self.shape(x);
                let is_kept = |i: &usize| times.contains(&op.axes[*i]) && shape[*i] == op.shape[op.axes[*i]];
                let from = (0..shape.len()).filter(is_kept).collect();
                let x = self.get(x, &from)?;
                layout::broadcast(&x, &op.axes, &op.shape, &mut self.labels)
            }
            Op::Reshape(op) => {
                let x = operand(node, 0)?;
                let groups = layout::groups(self.shape(x), &op.shape).ok_or(Gap::Mixed { op: "reshape" })?;
                let is_timed = |axes: &[usize]| axes.iter().any(|axis| times.contains(axis));
                let from =
                    groups.into_iter().filter(|(_, to)| is_timed(to)).flat_map(|(from, _)| from).collect();
                let form = self.get(x, &from)?;
                layout::reshape(&form, self.shape(x), &op.shape, &mut self.labels)
            }
            Op::Slice(op) => {
                let form = self.along(node, op.axis, times)?;
                let (start, n) = (extent(&op.start)?, extent(&op.len)?);
                let from: Vec<_> =
                    (0..n).map(|i| usize::try_from(start as i64 + i as i64 * op.stride).ok()).collect();
                layout::along(&form, op.axis, &from)
            }
            Op::Reverse(op) => {
                let form = self.along(node, op.axis, times)?;
                let n = extent(&self.shape(result)[op.axis])?;
                layout::along(&form, op.axis, &(0..n).rev().map(Some).collect::<Vec<_>>())
            }
            Op::Pad(op) => {
                let fill = view::splat(self.graph, operand(node, 1)?);
                if fill != Some(0.0) {
                    return Err(unknown);
                }
                let form = self.along(node, op.axis, times)?;
                let (low, n) =
                    (op.low.as_const().ok_or(Gap::Symbolic)?, extent(&self.shape(result)[op.axis])?);
                let inner = extent(&self.shape(operand(node, 0)?)[op.axis])?;
                let source = |i: usize| usize::try_from(i as i64 - low).ok().filter(|i| *i < inner);
                layout::along(&form, op.axis, &(0..n).map(source).collect::<Vec<_>>())
            }
            Op::Concat(op) => self.concat(node, op.axis, times),
            Op::Cast(op) if op.to.is_float() && self.graph.ty(operand(node, 0)?).dtype.is_float() => {
                Ok((*self.get(operand(node, 0)?, times)?).clone())
            }
            Op::Contract(op) => {
                let inputs: Vec<Vec<usize>> =
                    op.spec.inputs.iter().map(|l| l.iter().map(|l| usize::from(*l)).collect()).collect();
                let output: Vec<usize> = op.spec.output.iter().map(|l| usize::from(*l)).collect();
                let forms = self.operands(node, &inputs, times.iter().map(|axis| output[*axis]).collect())?;
                Product { inputs: &inputs, output: &output }.of(&forms, &mut self.labels, &mut self.exponents)
            }
            Op::Reduce(op) if op.f == ReduceFn::Sum => {
                let rank = self.shape(operand(node, 0)?).len();
                let inputs = [(0..rank).collect::<Vec<_>>()];
                let output: Vec<usize> = (0..rank).filter(|axis| !op.axes.contains(axis)).collect();
                let forms = self.operands(node, &inputs, times.iter().map(|axis| output[*axis]).collect())?;
                Product { inputs: &inputs, output: &output }.of(&forms, &mut self.labels, &mut self.exponents)
            }
            Op::CumSum(op) => {
                let mut from = times.clone();
                from.insert(op.axis);
                let form = self.get(operand(node, 0)?, &from)?;
                if !form.axes[op.axis].is_time() {
                    return if op.exclusive { Err(unknown) } else { Ok((*form).clone()) };
                }
                algebra::running_sum(&form, op.axis, op.exclusive, op.reverse, &mut self.exponents)
            }
            Op::Unary(Unary { f: UnaryFn::Exp }) => algebra::exp(&*self.get(operand(node, 0)?, times)?),
            Op::Unary(Unary { f: UnaryFn::Neg }) => {
                let x = self.get(operand(node, 0)?, times)?;
                let zero = Form::splat(x.axes.clone(), 0.0);
                algebra::sum(&zero, &x, -1.0, &mut self.labels, &mut self.exponents)
            }
            Op::Unary(Unary { f: UnaryFn::Reciprocal }) => {
                algebra::inverse(&*self.get(operand(node, 0)?, times)?, &mut self.exponents)
            }
            Op::Binary(Binary { f: f @ (BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul | BinaryFn::Div) }) => {
                let axes: Vec<usize> = (0..self.shape(result).len()).collect();
                let inputs = [axes.clone(), axes.clone()];
                let mut forms = self.operands(node, &inputs, times.clone())?;
                if *f == BinaryFn::Div {
                    forms[1] = algebra::inverse(&forms[1], &mut self.exponents)?;
                }
                match f {
                    BinaryFn::Add => {
                        algebra::sum(&forms[0], &forms[1], 1.0, &mut self.labels, &mut self.exponents)
                    }
                    BinaryFn::Sub => {
                        algebra::sum(&forms[0], &forms[1], -1.0, &mut self.labels, &mut self.exponents)
                    }
                    _ => Product { inputs: &inputs, output: &axes }.of(
                        &forms,
                        &mut self.labels,
                        &mut self.exponents,
                    ),
                }
            }
            Op::Select(_) => {
                let axes: Vec<usize> = (0..self.shape(result).len()).collect();
                let inputs = [axes.clone(), axes.clone(), axes.clone()];
                let forms = self.operands(node, &inputs, times.clone())?;
                let cond = forms[0].numbers().ok_or(unknown)?;
                let cond: Vec<bool> = cond.into_iter().map(|c| c != 0.0).collect();
                algebra::select(&cond, &forms[1], &forms[2], &mut self.labels)
            }
            _ => Err(unknown),
        }
    }

    /// The first operand, of which this axis counts steps if it is not of extent 1.
    fn along(&mut self, node: &Node, axis: usize, times: &Axes) -> Result<Form, Gap> {
        let x = operand(node, 0)?;
        let form = self.get(x, times)?;
        let is_unit = self.shape(x)[axis].is(1);
        if is_unit && !form.axes[axis].is_time() { form.with_time(axis, 1) } else { Ok((*form).clone()) }
    }

    fn concat(&mut self, node: &Node, axis: usize, times: &Axes) -> Result<Form, Gap> {
        let rank = self.shape(node.results[0]).len();
        let axes: Vec<usize> = (0..rank).collect();
        // Extents differ along the axis, so that it has a letter of its own in every operand.
        let own = |i: usize| axes.iter().map(|a| if *a == axis { rank + i } else { *a }).collect();
        let n = node.operands.iter().flatten().count();
        let inputs: Vec<Vec<usize>> = (0..n).map(own).collect();
        let timed = times.iter().copied().filter(|a| *a != axis).chain(rank..rank + n).collect();
        let mut forms = self.operands(node, &inputs, timed)?;
        for (form, x) in forms.iter_mut().zip(node.operands.iter().flatten()) {
            if !form.axes[axis].is_time() {
                let n = extent(&self.graph.ty(*x).shape[axis])?;
                *form = form.with_time(axis, n)?;
            }
        }
        let exponents = &mut self.exponents;
        layout::concat(&forms, axis, &mut self.labels, &mut |x, y, labels| {
            algebra::sum(x, y, 1.0, labels, exponents)
        })
    }

    /// The operands, whose axes bear letters: a letter that counts steps in one of them does so in all.
    fn operands(
        &mut self,
        node: &Node,
        inputs: &[Vec<usize>],
        mut timed: BTreeSet<usize>,
    ) -> Result<Vec<Form>, Gap> {
        let values: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let axes_of = |letters: &[usize], timed: &BTreeSet<usize>| -> Axes {
            (0..letters.len()).filter(|i| timed.contains(&letters[*i])).collect()
        };
        loop {
            let n = timed.len();
            for (value, letters) in values.iter().zip(inputs) {
                let wanted = axes_of(letters, &timed);
                if wanted.is_empty() && !self.known.contains_key(value) {
                    continue;
                }
                let form = match self.known.get(value) {
                    Some(form) => form.clone(),
                    None => self.get(*value, &wanted)?,
                };
                timed.extend(letters.iter().zip(&form.axes).filter(|(_, a)| a.is_time()).map(|(l, _)| *l));
            }
            if timed.len() == n {
                break;
            }
        }
        let mut forms = Vec::new();
        for (value, letters) in values.iter().zip(inputs) {
            let wanted = axes_of(letters, &timed);
            let form = self.get(*value, &wanted)?;
            // Axes of steps of extent 1 are axes of steps as well.
            let mut form = (*form).clone();
            for axis in wanted {
                if !form.axes[axis].is_time() {
                    form = form.with_time(axis, extent(&self.shape(*value)[axis])?)?;
                }
            }
            forms.push(form);
        }
        Ok(forms)
    }
}
