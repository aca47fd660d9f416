//! Loops that carry a matrix: linear attention with a diagonal or delta-rule transition, read out by queries.
//!
//! ```text
//! S' = D*S + k (beta * (v - (D*S)^T k))^T, or S' = D*S + k v^T; y = S'^T q
//! ```
//!
//! Views are looked through: axes bear labels, so that neither the order of axes nor the way products are written
//! matters.

mod build;

use super::axes::{Axes, Label, Labels, transpose};
use super::lift::{Lifted, Lifter, Obstacle};
use crate::view;
use ssmc_ir::ops::{Binary, BinaryFn, Contract, Op};
use ssmc_ir::{Dim, Entity, Graph, Node, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// A value of the body that does not depend on the state, and its axes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    value: ValueId,
    axes: Axes,
}

impl Known {
    fn labels(&self) -> BTreeSet<Label> {
        self.axes.iter().flatten().copied().collect()
    }
}

/// scale * (plus - key^T S), or scale * key^T S if nothing is taken from.
#[derive(Clone, Debug)]
struct Read {
    axes: Axes,
    key: Vec<Known>,
    /// The labels that are summed over.
    along: Vec<Label>,
    from: Option<Known>,
    scale: Vec<Known>,
}

/// What a value of the body is in terms of the state.
#[derive(Clone, Debug)]
enum Form {
    /// decay * S
    State {
        axes: Axes,
        decay: Vec<Known>,
    },
    Read(Read),
    /// key read^T
    Written {
        axes: Axes,
        key: Vec<Known>,
        read: Read,
    },
    /// The new state.
    Next {
        decay: Vec<Known>,
        key: Vec<Known>,
        value: Value,
    },
}

/// What is written into the state along the key.
#[derive(Clone, Debug)]
enum Value {
    Known(Vec<Known>),
    Corrected(Read),
}

/// A matrix-state scan in place of a loop's carried value.
pub(super) struct Raised {
    /// The node of the body that reads the state out, and what stands for it.
    pub(super) read_out: (ValueId, ValueId),
    pub(super) h_last: ValueId,
}

/// One carried value of a loop.
pub(super) struct Reader<'a, 'b> {
    pub(super) body: &'a Graph,
    /// What is known of every value of the body.
    pub(super) known: &'a [Option<Lifted>],
    pub(super) carried: usize,
    pub(super) state: ValueId,
    pub(super) next: ValueId,
    pub(super) lifter: &'a mut Lifter<'b>,
    pub(super) reverse: bool,
    labels: Labels,
    /// Forms of the values that were read, in terms of one base.
    memo: BTreeMap<ValueId, Form>,
}

impl<'a, 'b> Reader<'a, 'b> {
    pub(super) fn new(
        (body, known): (&'a Graph, &'a [Option<Lifted>]),
        (carried, state, next): (usize, ValueId, ValueId),
        lifter: &'a mut Lifter<'b>,
        reverse: bool,
    ) -> Self {
        Self {
            body,
            known,
            carried,
            state,
            next,
            lifter,
            reverse,
            labels: Labels::default(),
            memo: BTreeMap::new(),
        }
    }

    /// The scan op that the carried value is.
    ///
    /// # Errors
    /// The value is no such recurrence, or read in another way than by one product with queries.
    pub(super) fn raise(mut self, initial: Option<ValueId>) -> Result<Raised, Obstacle> {
        let shape = self.body.ty(self.state).shape.to_vec();
        let axes = self.labels.of(&shape);
        let start = Form::State { axes: axes.clone(), decay: Vec::new() };
        let Form::Next { decay, key, value } = self.read(self.next, self.state, &start)? else {
            return Err(self.other("the end of the body"));
        };
        self.memo.clear();
        let read_out = self.read_out(&start)?;
        self.build((&axes, &shape), (decay, key, value), read_out, initial)
    }

    fn other(&self, op: &'static str) -> Obstacle {
        Obstacle::NotAffine { carried: self.carried, op }
    }

    /// The one product that reads the new state: the value of the body, what it reads, and the number it is scaled by.
    fn read_out(&mut self, start: &Form) -> Result<(ValueId, Read, f64), Obstacle> {
        let users = self.body.users();
        let is_output = |v: ValueId| self.body.outputs().iter().filter(|port| port.value == v).count();
        let mut states = BTreeSet::from([self.next]);
        let mut found = None;
        for (_, node) in self.body.nodes() {
            let [result] = node.results[..] else { continue };
            if !node.operands.iter().flatten().any(|v| states.contains(v)) {
                continue;
            }
            match self.read(result, self.next, start)? {
                Form::State { .. } => {
                    states.insert(result);
                }
                Form::Read(read) if found.is_none() && read.from.is_none() => found = Some((result, read)),
                _ => return Err(self.other(node.op.name())),
            }
        }
        let kept: usize = states.iter().map(|v| is_output(*v)).sum();
        let Some((mut value, mut read)) = found.filter(|_| kept == 1) else {
            return Err(self.other("the end of the body"));
        };
        // Views and a scale that follow.
        let mut scale = 1.0;
        while let ([(user, _)], 0) = (&users[value][..], is_output(value)) {
            let [result] = self.body.node(*user).results[..] else { break };
            let Ok(Form::Read(outer)) = self.read(result, self.next, start) else { break };
            // A cast is left to what follows: the output has the type of the state.
            if outer.from.is_some() || self.body.ty(result).dtype != self.body.ty(value).dtype {
                break;
            }
            let number = |factor: &Known| {
                let lifted = self.known[factor.value.idx()]?;
                view::splat(self.lifter.b.graph(), super::lift::value(lifted))
            };
            let Some(product) = outer.scale.iter().map(number).product::<Option<f64>>() else { break };
            (value, read, scale) = (result, outer, product);
        }
        Ok((value, read, scale))
    }

    /// The form of a value in terms of `base`.
    fn read(&mut self, value: ValueId, base: ValueId, start: &Form) -> Result<Form, Obstacle> {
        if value == base {
            return Ok(start.clone());
        }
        if let Some(form) = self.memo.get(&value) {
            return Ok(form.clone());
        }
        let form = self.read_node(value, base, start)?;
        self.memo.insert(value, form.clone());
        Ok(form)
    }

    fn read_node(&mut self, value: ValueId, base: ValueId, start: &Form) -> Result<Form, Obstacle> {
        let node = self.body.def_node(value).ok_or(Obstacle::Coupled { carried: self.carried })?;
        let operands: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let is_known = |v: &ValueId| self.known[v.idx()].is_some();
        let unknown: Vec<usize> = (0..operands.len()).filter(|i| !is_known(&operands[*i])).collect();
        match (&node.op, &unknown[..]) {
            (Op::Binary(Binary { f: BinaryFn::Add }), [0, 1]) => {
                let (x, y) = (self.read(operands[0], base, start)?, self.read(operands[1], base, start)?);
                self.sum(x, y).ok_or(self.other("add"))
            }
            (op, [i]) => {
                let form = self.read(operands[*i], base, start)?;
                let others = operands.iter().enumerate().filter(|(j, _)| j != i).map(|(_, v)| *v).collect();
                let name = op.name();
                self.apply(node, (form, *i), others).ok_or(self.other(name))
            }
            (op, _) => Err(self.other(op.name())),
        }
    }

    /// An op of one form and known values.
    fn apply(&mut self, node: &Node, (form, at): (Form, usize), others: Vec<ValueId>) -> Option<Form> {
        match &node.op {
            Op::Cast(op) if op.to.is_float() => Some(form),
            Op::Broadcast(op) => {
                let labels = &mut self.labels;
                map(form, |axes| Some(labels.broadcast(op, axes)))
            }
            Op::Reshape(op) => map(form, |axes| self.labels.reshape(axes, &op.shape)),
            Op::Transpose(op) => map(form, |axes| Some(transpose(op, axes))),
            Op::Binary(Binary { f: BinaryFn::Mul }) => {
                let factor = self.known(others[0], form.axes()?.clone());
                scaled(form, factor)
            }
            Op::Binary(Binary { f: BinaryFn::Sub }) if at == 1 => match form {
                Form::Read(read) if read.from.is_none() && read.scale.is_empty() => {
                    let from = self.known(others[0], read.axes.clone());
                    Some(Form::Read(Read { from: Some(from), ..read }))
                }
                _ => None,
            },
            Op::Binary(Binary { f: BinaryFn::Add }) => match form {
                Form::State { axes, decay } => {
                    let (key, value) = self.outer(others[0], &axes)?;
                    Some(Form::Next { decay, key: vec![key], value: Value::Known(vec![value]) })
                }
                _ => None,
            },
            Op::Contract(op) => self.contract(op, (form, at), &others),
            _ => None,
        }
    }

    /// A known value by what it is a view of, with the axes `axes`.
    fn known(&self, value: ValueId, axes: Axes) -> Known {
        let Some(node) = self.body.def_node(value) else { return Known { value, axes } };
        let Some(inner) = node.operands.first().copied().flatten() else { return Known { value, axes } };
        let shape = &self.body.ty(inner).shape;
        if self.known[inner.idx()].is_none() {
            return Known { value, axes };
        }
        let inner_axes = match &node.op {
            Op::Broadcast(op) => op
                .axes
                .iter()
                .zip(shape.iter())
                .map(|(to, d)| if d.is(1) { Vec::new() } else { axes[*to].clone() })
                .collect(),
            Op::Transpose(op) => {
                let mut from = vec![Vec::new(); axes.len()];
                for (to, axis) in op.perm.iter().enumerate() {
                    from[*axis] = axes[to].clone();
                }
                from
            }
            Op::Reshape(_) => match self.labels.reshape(&axes, shape) {
                Some(axes) => axes,
                None => return Known { value, axes },
            },
            _ => return Known { value, axes },
        };
        self.known(inner, inner_axes)
    }

    /// A known matrix as a product of two vectors.
    fn outer(&self, value: ValueId, axes: &Axes) -> Option<(Known, Known)> {
        let Known { value, axes } = self.known(value, axes.clone());
        let node = self.body.def_node(value)?;
        let operands: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let [x, y] = operands[..] else { return None };
        let factors = match &node.op {
            Op::Binary(Binary { f: BinaryFn::Mul }) => [self.known(x, axes.clone()), self.known(y, axes)],
            Op::Contract(op) => {
                let [p, q] = &op.spec.inputs[..] else { return None };
                let of = |labels: &Vec<u8>, v: ValueId| -> Option<Known> {
                    let dims = &self.body.ty(v).shape;
                    let axis = |(l, d): (&u8, &Dim)| match op.spec.output.iter().position(|o| o == l) {
                        Some(at) => Some(if d.is(1) { Vec::new() } else { axes[at].clone() }),
                        None => d.is(1).then(Vec::new),
                    };
                    let axes = labels.iter().zip(dims.iter()).map(axis).collect::<Option<_>>()?;
                    Some(self.known(v, axes))
                };
                [of(p, x)?, of(q, y)?]
            }
            _ => return None,
        };
        let [x, y] = factors;
        Some((x, y))
    }

    /// A product of a form with known values.
    fn contract(&mut self, op: &Contract, (form, at): (Form, usize), others: &[ValueId]) -> Option<Form> {
        let axes = form.axes()?.clone();
        let mut by_letter: Vec<(u8, Vec<Label>)> =
            op.spec.inputs[at].iter().copied().zip(axes.iter().cloned()).collect();
        let mut factors = Vec::new();
        let letters = op.spec.inputs.iter().enumerate().filter(|(i, _)| *i != at);
        for ((_, letters), value) in letters.zip(others) {
            let dims = self.body.ty(*value).shape.to_vec();
            let mut axes = Axes::new();
            for (letter, d) in letters.iter().zip(&dims) {
                let labels = match by_letter.iter().find(|(l, _)| l == letter) {
                    Some((_, labels)) => labels.clone(),
                    None => {
                        let fresh = self.labels.fresh(d);
                        by_letter.push((*letter, fresh.clone()));
                        fresh
                    }
                };
                axes.push(labels);
            }
            factors.push(self.known(*value, axes));
        }
        let labels_of = |letter: &u8| by_letter.iter().find(|(l, _)| l == letter).map(|(_, l)| l.clone());
        let output: Axes = op.spec.output.iter().map(labels_of).collect::<Option<_>>()?;
        let summed: Vec<Label> = op.spec.summed().iter().filter_map(labels_of).flatten().collect();
        let of_form: BTreeSet<Label> = axes.iter().flatten().copied().collect();
        let of_output: BTreeSet<Label> = output.iter().flatten().copied().collect();
        let added = of_output.difference(&of_form).count();
        match form {
            Form::State { decay, .. } if !summed.is_empty() && added == 0 => {
                let key = [decay, factors].concat();
                Some(Form::Read(Read { axes: output, key, along: summed, from: None, scale: Vec::new() }))
            }
            Form::State { mut decay, .. } if summed.is_empty() && added == 0 => {
                decay.extend(factors);
                Some(Form::State { axes: output, decay })
            }
            Form::Read(mut read) if summed.is_empty() => {
                if added == 0 {
                    read.scale.extend(factors);
                    read.axes = output;
                    return Some(Form::Read(read));
                }
                Some(Form::Written { axes: output, key: factors, read })
            }
            _ => None,
        }
    }

    /// decay * S + key read^T
    fn sum(&self, x: Form, y: Form) -> Option<Form> {
        match (x, y) {
            (Form::State { axes, decay }, Form::Written { axes: by, key, read })
            | (Form::Written { axes: by, key, read }, Form::State { axes, decay }) => {
                // Axes at the same place are the same: labels of the written matrix become those of the state.
                let same = |label: &Label| {
                    let place = by.iter().position(|labels| labels.as_slice() == [*label])?;
                    match axes[place][..] {
                        [label] => Some(label),
                        _ => None,
                    }
                };
                let renamed = |known: &Known| {
                    let axis = |labels: &Vec<Label>| labels.iter().map(same).collect::<Option<Vec<_>>>();
                    let axes = known.axes.iter().map(axis).collect::<Option<Axes>>()?;
                    Some(Known { value: known.value, axes })
                };
                let key = key.iter().map(renamed).collect::<Option<Vec<_>>>()?;
                let value = Value::Corrected(read);
                Some(Form::Next { decay, key, value })
            }
            _ => None,
        }
    }
}

impl Form {
    fn axes(&self) -> Option<&Axes> {
        match self {
            Form::State { axes, .. } | Form::Written { axes, .. } => Some(axes),
            Form::Read(read) => Some(&read.axes),
            Form::Next { .. } => None,
        }
    }
}

/// A form under other axes.
fn map(form: Form, f: impl FnOnce(&Axes) -> Option<Axes>) -> Option<Form> {
    let axes = f(form.axes()?)?;
    Some(match form {
        Form::State { decay, .. } => Form::State { axes, decay },
        Form::Written { key, read, .. } => Form::Written { axes, key, read },
        Form::Read(read) => Form::Read(Read { axes, ..read }),
        Form::Next { .. } => return None,
    })
}

/// A form times a known value.
fn scaled(form: Form, factor: Known) -> Option<Form> {
    Some(match form {
        Form::State { axes, mut decay } => {
            decay.push(factor);
            Form::State { axes, decay }
        }
        Form::Read(mut read) => {
            read.scale.push(factor);
            Form::Read(read)
        }
        Form::Written { .. } | Form::Next { .. } => return None,
    })
}
