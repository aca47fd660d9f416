//! The scan op in place of a recurrence that was read.

use super::super::axes::{Axes, Label, Labels};
use super::super::lift::{self, Lifted, Obstacle};
use super::{Known, Raised, Read, Reader, Value};
use crate::view;
use ssmc_ir::ops::{BinaryFn, Broadcast, Contract, LinearAttention, Op, Spec, Unary, UnaryFn};
use ssmc_ir::{BuildError, Dim, Entity, Graph, ValueId};
use std::collections::BTreeSet;

impl Reader<'_, '_> {
    pub(super) fn build(
        &mut self,
        (axes, shape): (&Axes, &[Dim]),
        (decay, key, value): (Vec<Known>, Vec<Known>, Value),
        (node, read, scale): (ValueId, Read, f64),
        initial: Option<ValueId>,
    ) -> Result<Raised, Obstacle> {
        let carried = self.carried;
        let other = || Obstacle::NotAffine { carried, op: "the matrix" };
        if self.body.ty(node).dtype != self.body.ty(self.state).dtype {
            return Err(other());
        }
        let state: Vec<Label> = axes.iter().flatten().copied().collect();
        let [k] = read.along[..] else { return Err(other()) };
        let (input, beta) = match value {
            Value::Known(factors) => (factors, None),
            Value::Corrected(Read { key: known, along, from: Some(from), scale, .. }) => {
                // The correction reads the decayed state along the key itself.
                let expected = [decay.clone(), key.clone()].concat();
                let is_same = known.len() == expected.len() && expected.iter().all(|f| known.contains(f));
                if along != [k] || !is_same {
                    return Err(other());
                }
                (vec![from], Some(scale))
            }
            Value::Corrected(_) => return Err(other()),
        };
        // A key and a value may come in either order.
        let (key, input) = match (&key[..], &input[..]) {
            ([x], [y]) if !x.labels().contains(&k) && y.labels().contains(&k) => (input, key),
            _ => (key, input),
        };
        let of = |factors: &[Known]| -> BTreeSet<Label> { factors.iter().flat_map(Known::labels).collect() };
        let (of_key, of_input) = (of(&key), of(&input));
        let values: Vec<Label> = state.iter().copied().filter(|l| !of_key.contains(l) && *l != k).collect();
        let v = match values[..] {
            [v] if of_input.contains(&v) && !of_input.contains(&k) && !of(&decay).contains(&v) => v,
            _ => return Err(other()),
        };
        let outer: Vec<Option<Label>> = axes
            .iter()
            .filter(|labels| !labels.contains(&k) && !labels.contains(&v))
            .map(|labels| labels.first().copied())
            .collect();
        let (batch, head) = match outer[..] {
            [] => (None, None),
            [batch] => (batch, None),
            [batch, head] => (batch, head),
            _ => return Err(other()),
        };
        let of_read: Vec<Label> = read.axes.iter().flatten().copied().collect();
        let of_query = of(&read.key);
        let group: Vec<Label> = of_read.iter().copied().filter(|l| !state.contains(l)).collect();
        let group = match group[..] {
            [] => None,
            [group] => Some(group),
            _ => return Err(other()),
        };
        let complete: BTreeSet<Label> = outer.iter().copied().flatten().chain(group).chain([v]).collect();
        if of_query.contains(&v)
            || of_read.iter().copied().collect::<BTreeSet<_>>() != complete
            || beta.as_ref().is_some_and(|beta| of(beta).iter().any(|l| [k, v].contains(l)))
        {
            return Err(other());
        }
        let outer = [batch, None, head];
        let decay = self.logarithm(&decay)?;
        let step = |axes: &[Option<Label>]| [&outer[..], axes].concat();
        let q = self.operand(&read.key, &step(&[group, Some(k)]), true)?;
        let keys = self.operand(&key, &step(&[Some(k)]), true)?;
        let input = self.operand(&input, &step(&[Some(v)]), true)?;
        let decay = match decay {
            Some(decay) => Some(self.operand(&[decay], &step(&[Some(k)]), false)?),
            None => None,
        };
        let beta = match beta {
            Some(beta) => Some(self.operand(&beta, &step(&[]), true)?),
            None => None,
        };
        let order: Vec<Label> = [batch, head, Some(k), Some(v)].into_iter().flatten().collect();
        let at = |label: &Label| state.iter().position(|l| l == label);
        let perm: Vec<usize> = order.iter().filter_map(at).collect();
        let b = &mut *self.lifter.b;
        let dims = |labels: &Labels, axes: &[Option<Label>]| -> Vec<Dim> {
            axes.iter().map(|l| l.map_or_else(|| Dim::from(1), |l| labels.extent(l).clone())).collect()
        };
        let rows = dims(&self.labels, &[batch, head, Some(k), Some(v)]);
        let h0 = match initial {
            None => None,
            Some(h0) => {
                let h0 = view::reshape(b, h0, &self.labels.dims(&state))?;
                let h0 = view::permute(b, h0, &perm)?;
                Some(view::reshape(b, h0, &rows)?)
            }
        };
        let op = LinearAttention { reverse: self.reverse, scale: scale.into(), ..LinearAttention::default() };
        let operands = [Some(q), Some(keys), Some(input), decay, beta, None, None, h0, None, None];
        let results = b.node(op, &operands, Vec::new())?;
        // The output in the order of the body's, step by step; joined axes stay joined.
        let of_y: Vec<Label> = [batch, head, group, Some(v)].into_iter().flatten().collect();
        let place = |labels: &Vec<Label>| of_y.iter().position(|l| labels.first() == Some(l));
        let present: Vec<&Vec<Label>> = read.axes.iter().filter(|labels| !labels.is_empty()).collect();
        let mut sorted = present.clone();
        sorted.sort_by_key(|labels| place(labels));
        if !sorted.iter().copied().flatten().eq(&of_y) {
            return Err(other());
        }
        let steps_at = usize::from(batch.is_some());
        let mut y_dims: Vec<Dim> = sorted.iter().map(|labels| self.labels.product(labels)).collect();
        y_dims.insert(steps_at, self.lifter.trips.clone());
        let y = view::reshape(b, results[0], &y_dims)?;
        let after_steps = |labels: &&Vec<Label>| {
            let at = sorted.iter().position(|other| other == labels).unwrap_or_default();
            at + usize::from(at >= steps_at)
        };
        let y_perm: Vec<usize> = std::iter::once(steps_at).chain(present.iter().map(after_steps)).collect();
        let y = view::permute(b, y, &y_perm)?;
        let dims: Vec<Dim> =
            std::iter::once(&self.lifter.trips).chain(self.body.ty(node).shape.iter()).cloned().collect();
        let y = view::reshape(b, y, &dims)?;
        let last = view::reshape(b, results[1], &self.labels.dims(&order))?;
        let mut back = vec![0; perm.len()];
        for (to, from) in perm.iter().enumerate() {
            back[*from] = to;
        }
        let last = view::permute(b, last, &back)?;
        let h_last = view::reshape(b, last, shape)?;
        Ok(Raised { read_out: (node, y), h_last })
    }

    /// g of a decay exp(g), unless it is the product of a step size and a rate: such a scan is discretized, which the
    /// rules do.
    fn logarithm(&self, decay: &[Known]) -> Result<Option<Known>, Obstacle> {
        let other = || Obstacle::NotAffine { carried: self.carried, op: "the decay" };
        let Known { value, axes } = match decay {
            [] => return Ok(None),
            [decay] => decay.clone(),
            _ => return Err(other()),
        };
        let node = self.body.def_node(value).ok_or_else(other)?;
        let (Op::Unary(Unary { f: UnaryFn::Exp }), Some(log)) = (&node.op, node.operands[0]) else {
            return Err(other());
        };
        let log = self.known(log, axes);
        let lifted = self.known[log.value.idx()].ok_or_else(other)?;
        let outside = self.lifter.b.graph();
        if is_product(self.body, log.value) || is_product(outside, lift::value(lifted)) {
            return Err(other());
        }
        Ok(Some(log))
    }

    /// The product of known values with these axes, the second of which is that of the steps; an axis that no factor
    /// has is repeated, or has one element if not `full`.
    fn operand(
        &mut self,
        factors: &[Known],
        axes: &[Option<Label>],
        full: bool,
    ) -> Result<ValueId, Obstacle> {
        let letter = |label: Option<Label>| -> Result<u8, Obstacle> {
            let n = label.map_or(0, |l| l + 1);
            let letters = (b'a'..=b'z').chain(b'A'..=b'Z');
            letters.clone().nth(n).ok_or(Obstacle::Op { op: "contract" })
        };
        let mut inputs = Vec::new();
        let mut operands = Vec::new();
        let mut present = BTreeSet::new();
        for factor in factors {
            let flat: Vec<Label> = factor.axes.iter().flatten().copied().collect();
            let mut dims = self.labels.dims(&flat);
            let mut labels = flat.iter().map(|l| letter(Some(*l))).collect::<Result<Vec<u8>, _>>()?;
            let lifted = self.known[factor.value.idx()].ok_or(Obstacle::Coupled { carried: self.carried })?;
            let x = match lifted {
                Lifted::Same(x) => x,
                Lifted::Stacked(x) => {
                    dims.insert(0, self.lifter.trips.clone());
                    labels.insert(0, letter(None)?);
                    x
                }
            };
            present.extend(labels.iter().copied());
            operands.push(view::reshape(self.lifter.b, x, &dims)?);
            inputs.push(labels);
        }
        // The steps stand second, also where no axis of the state comes before.
        let all: Vec<(u8, Dim)> = axes
            .iter()
            .enumerate()
            .map(|(i, label)| match label {
                None if i == 1 => Ok((letter(None)?, self.lifter.trips.clone())),
                None => Ok((0, Dim::from(1))),
                Some(label) => Ok((letter(Some(*label))?, self.labels.extent(*label).clone())),
            })
            .collect::<Result<_, Obstacle>>()?;
        let output: Vec<u8> = all.iter().map(|(l, _)| *l).filter(|l| present.contains(l)).collect();
        let x = match (factors, &operands[..]) {
            ([], _) => self.lifter.b.scalar(self.body.ty(self.state).dtype, 1.0)?,
            ([factor], [x]) => match self.rearranged(factor, &output, &letter)? {
                Some(x) => x,
                None => self.product(Spec { inputs, output: output.clone() }, &[*x])?,
            },
            _ => self.product(Spec { inputs, output: output.clone() }, &operands)?,
        };
        let dims: Vec<Dim> =
            all.iter().map(|(l, d)| if present.contains(l) { d.clone() } else { Dim::from(1) }).collect();
        let (letters, target): (Vec<u8>, Vec<Dim>) = all.into_iter().unzip();
        if !full || dims == target {
            return Ok(view::reshape(self.lifter.b, x, &dims)?);
        }
        let axes = (0..target.len()).filter(|i| present.contains(&letters[*i])).collect();
        let shape = target.into_iter().collect();
        Ok(self.lifter.b.op(Broadcast { axes, shape }, &[x])?)
    }

    /// A known value with its axes permuted to this order, where joined axes may stay joined until then.
    fn rearranged(
        &mut self,
        factor: &Known,
        output: &[u8],
        letter: &dyn Fn(Option<Label>) -> Result<u8, Obstacle>,
    ) -> Result<Option<ValueId>, Obstacle> {
        let lifted = self.known[factor.value.idx()].ok_or(Obstacle::Coupled { carried: self.carried })?;
        let of =
            |labels: &Vec<Label>| labels.iter().map(|l| letter(Some(*l))).collect::<Result<Vec<u8>, _>>();
        let mut axes = factor.axes.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let mut dims: Vec<Dim> =
            factor.axes.iter().flatten().map(|l| self.labels.extent(*l).clone()).collect();
        let x = match lifted {
            Lifted::Same(x) => x,
            Lifted::Stacked(x) => {
                axes.insert(0, vec![letter(None)?]);
                dims.insert(0, self.lifter.trips.clone());
                x
            }
        };
        let mut perm: Vec<usize> = (0..axes.len()).collect();
        let place = |axis: &usize| match axes[*axis].first() {
            Some(first) => output.iter().position(|l| l == first).unwrap_or(output.len()),
            None => output.len() + 1,
        };
        perm.sort_by_key(place);
        let sorted: Vec<u8> = perm.iter().flat_map(|axis| axes[*axis].iter().copied()).collect();
        if sorted != output {
            return Ok(None);
        }
        let flat: Vec<u8> = axes.concat();
        let x = view::permute(self.lifter.b, x, &perm)?;
        let at = |l: &u8| flat.iter().position(|other| other == l).expect("both hold the same labels");
        let dims: Vec<Dim> = output.iter().map(|l| dims[at(l)].clone()).collect();
        Ok(Some(view::reshape(self.lifter.b, x, &dims)?))
    }

    fn product(&mut self, spec: Spec, operands: &[ValueId]) -> Result<ValueId, BuildError> {
        self.lifter.b.op(Contract { spec: spec.renamed() }, operands)
    }
}

/// Whether a value is a view of a product of several values.
fn is_product(graph: &Graph, value: ValueId) -> bool {
    let Some(node) = graph.def_node(value) else { return false };
    match (&node.op, node.operands.first().copied().flatten()) {
        (Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Reverse(_) | Op::Cast(_), Some(x)) => {
            is_product(graph, x)
        }
        (Op::Binary(op), _) => op.f == BinaryFn::Mul,
        (Op::Contract(op), _) => op.spec.inputs.len() > 1,
        _ => false,
    }
}
