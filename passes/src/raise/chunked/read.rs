//! Reads values of a graph as forms: forward from the log decays, backward to what they weigh.

mod derive;

use super::algebra;
use super::form::{Axis, Body, Entry, Form, Gap, Leaf, Term, n_cells};
use super::grid::{Cell, Grid};
use super::layout::extent;
use super::names::{Exponents, Labels};
use ssmc_ir::ops::{Binary, BinaryFn, Op};
use ssmc_ir::{Dim, Graph, Node, ValueId, Weights};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// Axes of a value.
pub(super) type Axes = BTreeSet<usize>;

/// Factors are followed through this many nodes.
const MAX_DEPTH: usize = 64;
/// Constants with more elements than this are not looked into.
const MAX_CONSTANT: usize = 1 << 20;

/// The log decays of a sequence: what they are made of and how many steps there are.
#[derive(Debug)]
pub(super) struct Seed {
    /// The value whose form is given.
    pub(super) value: ValueId,
    /// A product of tensors at one step.
    pub(super) factors: Vec<Leaf>,
    pub(super) coef: f64,
    /// The labels that the lists of decays stand for, in order.
    pub(super) labels: Vec<u32>,
    pub(super) n_steps: usize,
    /// Whether the factors make the logarithms of the decays, not the decays.
    pub(super) is_log: bool,
}

pub(super) struct Reader<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    pub(super) labels: Labels,
    pub(super) exponents: Exponents,
    /// Values that depend on the log decays.
    known: BTreeMap<ValueId, Rc<Form>>,
    asked: BTreeMap<(ValueId, Axes), Result<Rc<Form>, Gap>>,
    n_steps: Option<usize>,
    /// What the log decays are made of, step by step.
    steps: BTreeSet<ValueId>,
    /// Nothing but numbers is read.
    is_numeric: bool,
    depth: usize,
}

fn operand(node: &Node, i: usize) -> Result<ValueId, Gap> {
    node.operands.get(i).copied().flatten().ok_or(Gap::Op { op: node.op.name() })
}

impl<'a> Reader<'a> {
    pub(super) fn new(graph: &'a Graph, weights: &'a Weights) -> Self {
        Self {
            graph,
            weights,
            labels: Labels::default(),
            exponents: Exponents::default(),
            known: BTreeMap::new(),
            asked: BTreeMap::new(),
            n_steps: None,
            steps: BTreeSet::new(),
            is_numeric: false,
            depth: 0,
        }
    }

    /// A reader of values that are numbers all over; it follows no others.
    pub(super) fn of_numbers(graph: &'a Graph, weights: &'a Weights) -> Self {
        Self { is_numeric: true, ..Self::new(graph, weights) }
    }

    fn shape(&self, value: ValueId) -> &'a [Dim] {
        &self.graph.ty(value).shape
    }

    /// What is known of a value that depends on the log decays.
    pub(super) fn known(&self, value: ValueId) -> Option<&Rc<Form>> {
        self.known.get(&value)
    }

    /// Drops what is known of a value that nothing will ask for again.
    pub(super) fn forget(&mut self, value: ValueId) {
        self.known.remove(&value);
    }

    /// Takes the value for log decays if each of its elements is a product of tensors at one step of its own, or zero.
    pub(super) fn plant(&mut self, value: ValueId, times: &Axes) -> Result<Seed, Gap> {
        let none = Gap::Op { op: "product" };
        let form = self.get(value, times)?;
        let Body::Sum(terms) = &form.body else { return Err(none) };
        let [term] = &terms[..] else { return Err(none) };
        let timed: Vec<usize> = (0..term.leaves.len()).filter(|i| term.leaves[*i].has_steps()).collect();
        let Some(&first) = timed.first() else { return Err(none) };
        let (mut steps, mut coef) = (BTreeSet::new(), None);
        for cell in term.cells.cells() {
            match cell[..] {
                [] => {}
                [entry] => {
                    let at = entry.at[first];
                    let is_one_step = timed.iter().all(|i| entry.at[*i] == at);
                    if !is_one_step || *coef.get_or_insert(entry.coef) != entry.coef || !steps.insert(at) {
                        return Err(none);
                    }
                }
                _ => return Err(none),
            }
        }
        let n_steps = steps.len();
        if n_steps < 2 || !steps.iter().copied().eq(0..n_steps as u32) || term.decay.is_some() {
            return Err(none);
        }
        let labels: Vec<u32> = (form.axes.iter())
            .filter_map(|axis| match axis {
                Axis::Free(list) => Some(list.clone()),
                Axis::Time(_) => None,
            })
            .flatten()
            .collect();
        if !labels.iter().all(|l| term.bears(*l))
            || !term.leaves.iter().all(|f| f.labels().all(|l| labels.contains(&l)))
        {
            return Err(none);
        }
        let exponents = &mut self.exponents;
        let log = |cell: &[Entry]| {
            let step = |entry: &Entry| exponents.between(entry.at[first], entry.at[first] + 1);
            Some(cell.first().map_or(super::names::Exponent::ZERO, step))
        };
        let cells = term.cells.cells().into_iter().map(log).collect();
        let decay = labels.iter().map(|l| vec![*l]).collect();
        let seed = Seed {
            value,
            factors: term.leaves.clone(),
            coef: coef.unwrap_or(1.0),
            labels,
            n_steps,
            is_log: true,
        };
        self.known.insert(value, Rc::new(Form { axes: form.axes.clone(), body: Body::Log { decay, cells } }));
        self.steps = timed.iter().map(|i| term.leaves[*i].value).collect();
        self.n_steps = Some(n_steps);
        self.asked.clear();
        Ok(seed)
    }

    /// Reads the result of a node of which an operand depends on the log decays.
    pub(super) fn advance(&mut self, node: &Node) -> Result<(), Gap> {
        let [result] = node.results[..] else { return Err(Gap::Op { op: node.op.name() }) };
        let form = self.derive(node, &Axes::new())?;
        self.known.insert(result, Rc::new(form));
        Ok(())
    }

    /// The form of a value in which these axes, and perhaps others, count steps.
    pub(super) fn get(&mut self, value: ValueId, times: &Axes) -> Result<Rc<Form>, Gap> {
        let shape = self.shape(value);
        let times: Axes = times.iter().copied().filter(|axis| !shape[*axis].is(1)).collect();
        if let Some(form) = self.known.get(&value) {
            let form = form.clone();
            return self.timed(form, value, &times);
        }
        let key = (value, times);
        if let Some(found) = self.asked.get(&key) {
            return found.clone();
        }
        self.depth += 1;
        let found = if self.depth > MAX_DEPTH { Err(Gap::Deep) } else { self.look(value, &key.1) };
        self.depth -= 1;
        let found = match found {
            Ok(form) => self.timed(Rc::new(form), value, &key.1),
            Err(gap) => Err(gap),
        };
        self.asked.insert(key, found.clone());
        found
    }

    fn timed(&self, form: Rc<Form>, value: ValueId, times: &Axes) -> Result<Rc<Form>, Gap> {
        let mut form = form;
        for axis in times {
            if !form.axes[*axis].is_time() {
                form = Rc::new(form.with_time(*axis, extent(&self.shape(value)[*axis])?)?);
            }
        }
        Ok(form)
    }

    /// A value that does not depend on the log decays.
    fn look(&mut self, value: ValueId, times: &Axes) -> Result<Form, Gap> {
        let Some(node) = self.graph.def_node(value) else { return self.leaf(value, times) };
        match &node.op {
            Op::Constant(_) | Op::WeightRef(_) => match self.constant(value, times) {
                Some(form) => Ok(form),
                None => self.leaf(value, times),
            },
            Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Broadcast(_)
            | Op::Slice(_)
            | Op::Pad(_)
            | Op::Concat(_)
            | Op::Reverse(_) => match self.derive(node, times) {
                // One tensor in another layout stays as it is here.
                Ok(form) if !(self.is_sequence(value, times) && self.is_whole(&form)) => Ok(form),
                _ => self.leaf(value, times),
            },
            Op::Contract(_) | Op::Binary(Binary { f: BinaryFn::Mul }) if !times.is_empty() => {
                let form = self.derive(node, times);
                // A product that does not share a factor with the decays stays one tensor.
                let opens = |form: &Form| match self.n_steps {
                    None => is_plain(form),
                    Some(_) => !self.is_sequence(value, times) || is_plain(form) && self.shares_steps(form),
                };
                match form {
                    Ok(form) if opens(&form) => Ok(form),
                    _ => self.leaf(value, times),
                }
            }
            _ => self.leaf(value, times),
        }
    }

    /// Whether there is one axis of steps, as long as the sequence.
    fn is_sequence(&self, value: ValueId, times: &Axes) -> bool {
        let is_all = |axis: &usize| self.n_steps.is_some_and(|n| self.shape(value)[*axis].is(n as i64));
        times.len() == 1 && times.iter().all(is_all)
    }

    /// Whether the form is one tensor, step by step, that is not repeated along any axis.
    fn is_whole(&self, form: &Form) -> bool {
        let Body::Sum(terms) = &form.body else { return false };
        let [Term { leaves, decay: None, cells }] = &terms[..] else { return false };
        let [leaf] = &leaves[..] else { return false };
        let is_here = |(i, cell): (usize, &[Entry])| matches!(cell[..], [e] if e.at[0] as usize == i);
        let is_in_order = cells.cells().into_iter().enumerate().all(is_here);
        is_in_order
            && form.axes.iter().all(|axis| match axis {
                Axis::Time(_) => true,
                Axis::Free(list) => list.iter().all(|l| leaf.labels().any(|k| k == *l)),
            })
    }

    fn shares_steps(&self, form: &Form) -> bool {
        let Body::Sum(terms) = &form.body else { return false };
        terms.iter().flat_map(|t| &t.leaves).any(|leaf| self.steps.contains(&leaf.value))
    }

    /// A tensor that is not looked into.
    fn leaf(&mut self, value: ValueId, times: &Axes) -> Result<Form, Gap> {
        if self.is_numeric {
            return Err(Gap::NoNumber);
        }
        let shape = self.shape(value);
        let mut axes = Vec::new();
        for (i, dim) in shape.iter().enumerate() {
            axes.push(if times.contains(&i) {
                Axis::Time(extent(dim)?)
            } else if dim.is(1) {
                Axis::Free(Vec::new())
            } else {
                Axis::Free(vec![self.labels.fresh(dim.clone())])
            });
        }
        let n = n_cells(&axes);
        if n > MAX_CONSTANT {
            return Err(Gap::TooLarge);
        }
        if !times.is_empty() && self.n_steps.is_some_and(|steps| n < steps) {
            return Err(Gap::Short);
        }
        let leaf = Leaf { value, axes: axes.clone() };
        let cell = |i: usize| {
            let mut entry = Entry::ONE;
            entry.at[0] = i as u32;
            Cell::from(entry)
        };
        let term = Term { leaves: vec![leaf], decay: None, cells: (0..n).map(cell).collect() };
        Ok(Form { axes, body: Body::Sum(vec![term]) })
    }

    /// A constant that varies along axes of steps alone. All axes of a mask count steps if one does.
    fn constant(&mut self, value: ValueId, times: &Axes) -> Option<Form> {
        let node = self.graph.def_node(value)?;
        let (dtype, bytes): (_, &[u8]) = match &node.op {
            Op::Constant(c) => (c.dtype, &c.data),
            Op::WeightRef(w) => (w.dtype, self.weights.get(&w.name)?.bytes.as_slice()),
            _ => return None,
        };
        let shape = self.graph.ty(value).shape.as_const()?;
        let dims: Vec<usize> = shape.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
        let size = dtype.bits() / 8;
        let n: usize = dims.iter().product();
        if n == 0 || n > MAX_CONSTANT || size == 0 {
            return None;
        }
        let numbers: Vec<f64> =
            bytes.chunks_exact(size).map(|x| ssmc_ir::scalar::decode(dtype, x)).collect::<Option<_>>()?;
        if let Some(form) = self.varying(&dims, &numbers, times) {
            return Some(form);
        }
        let is_mask = numbers.iter().all(|x| *x == 0.0 || *x == 1.0 || *x <= algebra::LOG_ZERO);
        let all = (0..dims.len()).filter(|i| dims[*i] != 1).collect();
        if is_mask && !times.is_empty() { self.varying(&dims, &numbers, &all) } else { None }
    }

    /// The form of numbers that vary along these axes alone.
    fn varying(&mut self, dims: &[usize], numbers: &[f64], times: &Axes) -> Option<Form> {
        let axes: Vec<Axis> = (dims.iter().enumerate())
            .map(|(i, dim)| match (times.contains(&i), dim) {
                (true, dim) => Axis::Time(*dim),
                (false, 1) => Axis::Free(Vec::new()),
                (false, dim) => Axis::Free(vec![self.labels.fresh(Dim::from(*dim))]),
            })
            .collect();
        let mut found: Vec<Option<f64>> = vec![None; n_cells(&axes)];
        for (i, x) in numbers.iter().enumerate() {
            let (mut rest, mut cell, mut stride) = (i, 0, 1);
            for (axis, dim) in dims.iter().enumerate().rev() {
                if times.contains(&axis) {
                    cell += rest % dim * stride;
                    stride *= dim;
                }
                rest /= dim;
            }
            if found[cell].get_or_insert(*x).to_bits() != x.to_bits() {
                return None;
            }
        }
        let entry =
            |coef: f64| if coef == 0.0 { Cell::default() } else { Entry { coef, ..Entry::ONE }.into() };
        // Equal numbers are one cell.
        let mut shared: HashMap<u64, Cell> = HashMap::new();
        let cells = found.iter().flatten();
        let cell = |x: &f64| shared.entry(x.to_bits()).or_insert_with(|| entry(*x)).clone();
        let cells: Grid = cells.map(cell).collect();
        Some(Form { axes, body: Body::Sum(vec![Term { leaves: Vec::new(), decay: None, cells }]) })
    }
}

/// Whether nothing is summed over.
fn is_plain(form: &Form) -> bool {
    let Body::Sum(terms) = &form.body else { return false };
    let holds = |axis: &Axis, label: u32| match axis {
        Axis::Time(_) => false,
        Axis::Free(list) => list.contains(&label),
    };
    let has_all =
        |t: &Term| t.leaves.iter().flat_map(Leaf::labels).all(|l| form.axes.iter().any(|a| holds(a, l)));
    terms.iter().all(has_all)
}
