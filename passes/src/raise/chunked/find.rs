//! Forms that are what a first-order recurrence computes.
//!
//! With `h[t] = exp(la[t]) * h[t-1] + b[t]` the states are `h[t] = sum over s <= t of exp(la[s+1] + .. + la[t]) * b[s]`, plus
//! `exp(la[0] + .. + la[t]) * h0`; a form that has exactly these monomials is a read-out of these states.

use super::form::{Body, Entry, Form, Leaf, Term, n_cells};
use super::names::{Exponent, Exponents};

/// A sum over earlier steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One monomial for every step up to the present one.
    States,
    /// One monomial, decayed since the beginning.
    Initial,
    /// One monomial of the present step.
    Step,
}

/// A term as a part of a recurrence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// The index of the term.
    pub(super) term: usize,
    /// The leaves at the present step, or without steps.
    pub(super) readers: Vec<usize>,
    /// The leaves at the steps that are summed over; those of the initial state.
    pub(super) inputs: Vec<usize>,
    pub(super) coef: f64,
}

/// A form read as what a recurrence computes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) reverse: bool,
    /// The last state instead of a read-out of all.
    pub(super) is_last: bool,
    pub(super) states: Part,
    pub(super) initial: Option<Part>,
    /// What is added to the read-out step by step.
    pub(super) skips: Vec<Part>,
}

/// The order in which steps run.
#[derive(Clone, Copy)]
struct Order {
    n: u32,
    reverse: bool,
    /// The one cell is that of the last state.
    is_last: bool,
}

impl Order {
    /// The step of a cell.
    fn step(self, cell: u32) -> u32 {
        match (self.is_last, self.reverse) {
            (false, _) => cell,
            (true, false) => self.n - 1,
            (true, true) => 0,
        }
    }

    /// The steps that the state after step `t` depends on.
    fn past(self, t: u32) -> std::ops::Range<u32> {
        if self.reverse { t..self.n } else { 0..t + 1 }
    }

    /// How far what entered at step `s` has decayed by step `t`.
    fn since(self, s: u32, t: u32, exponents: &mut Exponents) -> Exponent {
        if self.reverse { exponents.between(t, s) } else { exponents.between(s + 1, t + 1) }
    }

    /// How far the initial state has decayed by step `t`.
    fn since_start(self, t: u32, exponents: &mut Exponents) -> Exponent {
        if self.reverse { exponents.between(t, self.n) } else { exponents.between(0, t + 1) }
    }
}

/// Reads the form as the read-out of a recurrence of `n_steps` steps, or as its last state.
pub(super) fn find(form: &Form, n_steps: usize, exponents: &mut Exponents) -> Option<Found> {
    let Body::Sum(terms) = &form.body else { return None };
    let cells = n_cells(&form.axes);
    if cells != n_steps && cells != 1 {
        return None;
    }
    [false, true].into_iter().find_map(|reverse| {
        let order = Order { n: n_steps as u32, reverse, is_last: cells == 1 };
        read(terms, order, exponents)
    })
}

fn read(terms: &[Term], order: Order, exponents: &mut Exponents) -> Option<Found> {
    let (mut states, mut initial, mut skips) = (None, None, Vec::new());
    for (i, term) in terms.iter().enumerate() {
        if term.cells.is_zero() {
            continue;
        }
        let (kind, part) = part(i, term, order, exponents)?;
        match kind {
            Kind::States if states.is_none() => states = Some(part),
            Kind::Initial if initial.is_none() => initial = Some(part),
            Kind::Step if !order.is_last => skips.push(part),
            _ => return None,
        }
    }
    let states: Part = states?;
    if let Some(initial) = &initial {
        let same = |p: &Leaf, q: &Leaf| p.value == q.value && p.labels().count() == q.labels().count();
        let readers = initial.readers.iter().zip(&states.readers);
        let leaf = |part: &Part, k: usize| terms[part.term].leaves[k].clone();
        let agree = readers.clone().all(|(p, q)| same(&leaf(initial, *p), &leaf(&states, *q)));
        if initial.coef != states.coef || initial.readers.len() != states.readers.len() || !agree {
            return None;
        }
    }
    Some(Found { reverse: order.reverse, is_last: order.is_last, states, initial, skips })
}

fn part(index: usize, term: &Term, order: Order, exponents: &mut Exponents) -> Option<(Kind, Part)> {
    let timed: Vec<usize> = (0..term.leaves.len()).filter(|k| term.leaves[*k].has_steps()).collect();
    let untimed: Vec<usize> = (0..term.leaves.len()).filter(|k| !term.leaves[*k].has_steps()).collect();
    let is_here =
        |k: &usize| !order.is_last && term.cells.entries().all(|(t, entry)| entry.at[*k] as usize == t);
    let (readers, inputs): (Vec<usize>, Vec<usize>) = timed.into_iter().partition(is_here);
    let coef = term.cells.entries().next()?.1.coef;
    let mut is_state = !inputs.is_empty();
    let (mut is_initial, mut is_step) = (inputs.is_empty(), inputs.is_empty());
    for (cell, entries) in term.cells.cells().into_iter().enumerate() {
        let t = order.step(cell as u32);
        if entries.iter().any(|e| e.coef != coef) {
            return None;
        }
        is_state = is_state && is_sum(entries, &inputs, t, order, exponents);
        let single = match entries[..] {
            [entry] => Some(entry.exponent),
            _ => None,
        };
        is_initial = is_initial && single == Some(order.since_start(t, exponents));
        is_step = is_step && single == Some(Exponent::ZERO);
    }
    let part = |readers, inputs| Part { term: index, readers, inputs, coef };
    if is_state {
        // Tensors without steps are the same wherever they are multiplied.
        return Some((Kind::States, part([readers, untimed].concat(), inputs)));
    }
    if is_step {
        return Some((Kind::Step, part([readers, untimed].concat(), Vec::new())));
    }
    (is_initial && !untimed.is_empty()).then(|| (Kind::Initial, part(readers, untimed)))
}

/// Whether the cell holds one monomial for each step up to `t`, decayed since.
fn is_sum(entries: &[Entry], inputs: &[usize], t: u32, order: Order, exponents: &mut Exponents) -> bool {
    let mut steps: Vec<(u32, Exponent)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let at = entry.at[inputs[0]];
        if inputs.iter().any(|k| entry.at[*k] != at) {
            return false;
        }
        steps.push((at, entry.exponent));
    }
    steps.sort_unstable();
    let past = order.past(t);
    steps.len() == past.len()
        && steps
            .iter()
            .zip(past)
            .all(|((at, exponent), s)| *at == s && *exponent == order.since(s, t, exponents))
}
