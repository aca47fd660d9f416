//! Builds the recurrence and its read-out where a form was found to be one.

mod named;

use super::find::Found;
use super::form::{Axis, Form, Leaf};
use super::names::{Label, Labels, List, Substitution};
use super::read::Seed;
use crate::raise::trace::Tracer;
use crate::view;
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{BinaryFn, LinearAttention, Scan, UnaryFn};
use ssmc_ir::{BuildError, DType, Dim, GraphBuilder, ValueId};
use std::collections::BTreeMap;

/// An axis of a tensor: the step, or a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Step,
    Label(Label),
}

/// A tensor whose axes bear marks.
#[derive(Clone, Debug)]
struct Tensor {
    value: ValueId,
    marks: Vec<Mark>,
}

/// What makes two recurrences the same: direction, inputs, decay and initial state.
type Key = (bool, Vec<Leaf>, Vec<List>, Vec<Leaf>);

/// The states of a recurrence.
#[derive(Clone, Debug)]
struct States {
    all: Tensor,
    last: Tensor,
}

/// Builds the recurrences of one sequence of log decays, each once.
pub(super) struct Builder<'a> {
    seed: &'a Seed,
    labels: &'a Labels,
    /// Whether the last state is needed as well.
    keeps_states: bool,
    scans: BTreeMap<Key, States>,
    n_attentions: usize,
}

/// A form whose labels are numbered, those of the recurrence first, so that equal recurrences look the same.
struct Named<'a> {
    form: Form,
    found: &'a Found,
    extents: Vec<Dim>,
    dtype: DType,
    /// The number of steps.
    n: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(seed: &'a Seed, labels: &'a Labels, keeps_states: bool) -> Self {
        Self { seed, labels, keeps_states, scans: BTreeMap::new(), n_attentions: 0 }
    }

    /// How many recurrences were built.
    pub(super) fn n_scans(&self) -> usize {
        self.scans.len() + self.n_attentions
    }

    /// The value in terms of a scan.
    pub(super) fn build(
        &mut self,
        r: &mut Rewriter<'_>,
        tracer: &mut Tracer,
        value: ValueId,
        form: &Form,
        found: &Found,
    ) -> Result<ValueId, EditError> {
        let named = self.named(form, found, r.old().ty(self.seed.value).dtype);
        let target = named.target();
        let key = named.key();
        let attention = if self.keeps_states { None } else { self.attention(r, tracer, &named, &key)? };
        let mut y = match attention {
            Some(y) => y,
            None => {
                let states = self.states(r, tracer, &named, key)?;
                let mut factors = vec![if found.is_last { states.last } else { states.all }];
                factors.extend(named.tensors(r, &found.states, &found.states.readers)?);
                named.product(r.builder(), &factors, &target, found.states.coef)?
            }
        };
        for skip in &found.skips {
            let factors = named.tensors(r, skip, &skip.readers)?;
            let skip = named.product(r.builder(), &factors, &target, skip.coef)?;
            y.value = r.builder().binary(BinaryFn::Add, y.value, skip.value)?;
        }
        let ty = r.old().ty(value).clone();
        let y = named.arranged(r.builder(), y, &ty.shape)?;
        Ok(if ty.dtype == named.dtype { y } else { r.builder().cast(y, ty.dtype)? })
    }

    fn named<'b>(&self, form: &Form, found: &'b Found, dtype: DType) -> Named<'b> {
        let mut form = form.clone();
        let terms = form.terms();
        let states = &terms[found.states.term];
        if let Some(initial) = &found.initial {
            // What is summed over has the same name in both.
            let pairs = initial.readers.iter().zip(&found.states.readers);
            let with: Substitution = pairs
                .flat_map(|(p, q)| terms[initial.term].leaves[*p].labels().zip(states.leaves[*q].labels()))
                .map(|(p, q)| (p, vec![q]))
                .collect();
            form.substitute(&with);
        }
        let terms = form.terms();
        let states = &terms[found.states.term];
        let mut inputs: Vec<&Leaf> = found.states.inputs.iter().map(|k| &states.leaves[*k]).collect();
        inputs.sort_by_key(|leaf| leaf.value);
        let of_decay = states.decay.iter().flatten().flatten().copied();
        let of_inputs = inputs.into_iter().flat_map(Leaf::labels);
        let of_axes = form.axes.iter().flat_map(Axis::labels);
        let others = terms.iter().flat_map(|t| t.leaves.iter().flat_map(Leaf::labels));
        let mut names: BTreeMap<Label, Label> = BTreeMap::new();
        let mut extents = Vec::new();
        for label in of_decay.chain(of_inputs).chain(of_axes).chain(others) {
            names.entry(label).or_insert_with(|| {
                extents.push(self.labels.extent(label).clone());
                (extents.len() - 1) as Label
            });
        }
        form.substitute(&names.into_iter().map(|(from, to)| (from, vec![to])).collect());
        Named { form, found, extents, dtype, n: self.seed.n_steps }
    }

    fn states(
        &mut self,
        r: &mut Rewriter<'_>,
        tracer: &mut Tracer,
        named: &Named<'_>,
        key: Key,
    ) -> Result<States, EditError> {
        if let Some(states) = self.scans.get(&key) {
            return Ok(states.clone());
        }
        let states = self.scan(r, tracer, named, &key)?;
        self.scans.insert(key, states.clone());
        Ok(states)
    }

    /// The log decays as factors, and the labels of the states: those of the decays first.
    fn frame(&self, (_, inputs, decay, _): &Key) -> (Vec<Leaf>, Vec<Label>) {
        let with: Substitution = self.seed.labels.iter().copied().zip(decay.iter().cloned()).collect();
        let factors = self.seed.factors.iter().map(|leaf| leaf.resolved(&with)).collect();
        let mut order: Vec<Label> = Vec::new();
        for label in decay.iter().flatten().copied().chain(inputs.iter().flat_map(Leaf::labels)) {
            if !order.contains(&label) {
                order.push(label);
            }
        }
        (factors, order)
    }

    /// The axis of the batch: one that no weight varies along.
    fn batch(
        &self,
        r: &mut Rewriter<'_>,
        tracer: &mut Tracer,
        named: &Named<'_>,
        factors: &[Leaf],
        order: &[Label],
        inputs: &[Tensor],
    ) -> Result<Option<Label>, EditError> {
        let marks: Vec<Mark> = std::iter::once(Mark::Step)
            .chain(order.iter().map(|l| Mark::Label(*l)))
            .filter(|m| inputs.iter().any(|t| t.marks.contains(m)))
            .collect();
        let b = named.product(r.builder(), inputs, &marks, 1.0)?;
        let fixed: Vec<Label> = factors.iter().filter(|f| !f.has_steps()).flat_map(Leaf::labels).collect();
        let is_batch = |label: &&Label| {
            let axis = marks.iter().position(|m| *m == Mark::Label(**label));
            !fixed.contains(label)
                && axis.is_some_and(|axis| !tracer.reaches_weight(r.builder().graph(), b.value, axis))
        };
        Ok(order.iter().find(is_batch).copied())
    }

    fn scan(
        &self,
        r: &mut Rewriter<'_>,
        tracer: &mut Tracer,
        named: &Named<'_>,
        key: &Key,
    ) -> Result<States, EditError> {
        let (reverse, inputs, decay, initial) = key;
        let (factors, order) = self.frame(key);
        let log_factors = named.leaves(r, &factors)?;
        let input_factors = named.leaves(r, inputs)?;
        let batch = self.batch(r, tracer, named, &factors, &order, &input_factors)?;
        let others = order.iter().filter(|l| Some(**l) != batch).map(|l| Mark::Label(*l));
        let state: Vec<Mark> = batch.map(Mark::Label).into_iter().chain(others).collect();
        let mut all = state.clone();
        all.insert(usize::from(batch.is_some()), Mark::Step);

        let in_decay = |m: &Mark| *m == Mark::Step || decay.iter().flatten().any(|l| *m == Mark::Label(*l));
        let log_marks: Vec<Mark> = all.iter().copied().filter(in_decay).collect();
        let g = r.builder();
        let log = named.product(g, &log_factors, &log_marks, self.seed.coef)?;
        let a = if self.seed.is_log { g.unary(UnaryFn::Exp, log.value)? } else { log.value };
        let unit = batch.is_none().then(|| Dim::from(1));
        let dims = all.iter().map(|m| if in_decay(m) { named.extent(*m) } else { Dim::from(1) });
        let a = view::reshape(g, a, &unit.iter().cloned().chain(dims).collect::<Vec<_>>())?;
        let b = named.product(g, &input_factors, &all, 1.0)?;
        let with_unit = |g: &mut GraphBuilder, x: ValueId| -> Result<ValueId, BuildError> {
            let dims: Vec<Dim> = unit.iter().chain(g.shape(x).iter()).cloned().collect();
            view::reshape(g, x, &dims)
        };
        let b = with_unit(g, b.value)?;
        let h0 = if initial.is_empty() {
            None
        } else {
            let factors = named.leaves(r, initial)?;
            let h0 = named.product(r.builder(), &factors, &state, 1.0)?;
            Some(with_unit(r.builder(), h0.value)?)
        };
        let g = r.builder();
        let results = g.node(Scan { reverse: *reverse }, &[Some(a), Some(b), h0, None], Vec::new())?;
        let without_unit = |g: &mut GraphBuilder, x: ValueId| {
            let dims = g.shape(x)[usize::from(unit.is_some())..].to_vec();
            view::reshape(g, x, &dims)
        };
        Ok(States {
            all: Tensor { value: without_unit(g, results[0])?, marks: all },
            last: Tensor { value: without_unit(g, results[1])?, marks: state },
        })
    }

    /// Inputs that no factor of the decays scales make linear attention, if they are products of keys and values that
    /// one query reads.
    fn attention(
        &mut self,
        r: &mut Rewriter<'_>,
        tracer: &mut Tracer,
        named: &Named<'_>,
        key: &Key,
    ) -> Result<Option<Tensor>, EditError> {
        let (reverse, inputs, decay, initial) = key;
        let scales = |leaf: &Leaf| self.seed.factors.iter().any(|f| f.has_steps() && f.value == leaf.value);
        if !self.seed.is_log || named.found.is_last || inputs.iter().any(scales) {
            return Ok(None);
        }
        let (factors, order) = self.frame(key);
        let input_factors = named.leaves(r, inputs)?;
        let batch = self.batch(r, tracer, named, &factors, &order, &input_factors)?;
        let queries = named.tensors(r, &named.found.states, &named.found.states.readers)?;
        let target = named.target();
        let read = |m: &Mark| queries.iter().any(|q| q.marks.contains(m));
        let (mut heads, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for mark in order.iter().filter(|l| Some(**l) != batch).map(|l| Mark::Label(*l)) {
            let in_decay = decay.iter().flatten().any(|l| mark == Mark::Label(*l));
            let list = match (in_decay || read(&mark), target.contains(&mark)) {
                (true, true) => &mut heads,
                (false, true) => &mut values,
                (_, false) => &mut keys,
            };
            list.push(mark);
        }
        let outer: Vec<Mark> = batch.map(Mark::Label).into_iter().chain([Mark::Step]).collect();
        let is_known = |m: &Mark| [&outer, &heads, &keys, &values].iter().any(|list| list.contains(m));
        let per_head: Vec<Mark> = target.iter().copied().filter(|m| !is_known(m)).collect();
        let has = |t: &Tensor, list: &[Mark]| t.marks.iter().any(|m| list.contains(m));
        let (ks, vs): (Vec<Tensor>, Vec<Tensor>) = input_factors.into_iter().partition(|t| has(t, &keys));
        let in_decay = |m: &Mark| decay.iter().flatten().any(|l| *m == Mark::Label(*l));
        let is_split = !ks.iter().any(|t| has(t, &values)) && !vs.is_empty() && !keys.iter().any(in_decay);
        if keys.is_empty() || ks.is_empty() || !is_split {
            return Ok(None);
        }
        let unit: Vec<Dim> = if batch.is_none() { vec![Dim::from(1)] } else { Vec::new() };
        let operand =
            |g: &mut GraphBuilder, factors: &[Tensor], groups: &[&[Mark]], coef: f64, last: bool| {
                let marks: Vec<Mark> = groups.concat();
                let x = named.product(g, factors, &marks, coef)?;
                let size = |list: &&[Mark]| list.iter().fold(Dim::from(1), |n, m| n * named.extent(*m));
                let outer = groups[0].iter().map(|m| named.extent(*m));
                let dims = unit.iter().cloned().chain(outer).chain(groups[1..].iter().map(size));
                view::reshape(g, x.value, &dims.chain(last.then(|| Dim::from(1))).collect::<Vec<_>>())
            };
        let logs = named.leaves(r, &factors)?;
        let first = named.leaves(r, initial)?;
        let g = r.builder();
        let q = operand(g, &queries, &[&outer, &heads, &per_head, &keys], 1.0, false)?;
        let k = operand(g, &ks, &[&outer, &heads, &keys], 1.0, false)?;
        let v = operand(g, &vs, &[&outer, &heads, &values], 1.0, false)?;
        let log = operand(g, &logs, &[&outer, &heads], self.seed.coef, true)?;
        let h0 = match (&first[..], &outer[..outer.len() - 1]) {
            ([], _) => None,
            (first, rows) => Some(operand(g, first, &[rows, &heads, &keys, &values], 1.0, false)?),
        };
        let op = LinearAttention { reverse: *reverse, ..LinearAttention::default() };
        let operands = [Some(q), Some(k), Some(v), Some(log), None, None, None, h0];
        let y = g.node(op, &operands, Vec::new())?[0];
        let marks: Vec<Mark> = [outer, heads, per_head, values].concat();
        let dims: Vec<Dim> = marks.iter().map(|m| named.extent(*m)).collect();
        let y = Tensor { value: view::reshape(g, y, &dims)?, marks };
        self.n_attentions += 1;
        Ok(Some(named.product(g, &[y], &target, named.found.states.coef)?))
    }
}
