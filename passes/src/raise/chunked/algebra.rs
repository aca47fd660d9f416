//! Sums of forms, and functions of them.

use super::form::{
    Axis, Body, Cells, Entry, Form, Gap, MAX_ENTRIES, MAX_LEAVES, Term, collect, n_cells, strides,
};
use super::grid::{Cell, Grid};
use super::names::{Exponent, Exponents, Labels, List, Substitution};
use std::collections::BTreeMap;

/// exp of this and less is 0 in every floating-point type.
pub(super) const LOG_ZERO: f64 = -746.0;

/// x + coef * y.
pub(super) fn add_logs(
    x: Option<Exponent>,
    y: Option<Exponent>,
    coef: f64,
    exponents: &mut Exponents,
) -> Result<Option<Exponent>, Gap> {
    if coef.fract() != 0.0 || coef.abs() > 1e6 {
        return Err(Gap::Scale { coef });
    }
    match (x, y) {
        (_, None) if coef <= 0.0 => Err(Gap::Infinite),
        (None, _) | (_, None) => Ok(None),
        (Some(x), Some(y)) => Ok(Some(exponents.add(x, y, coef as i64))),
    }
}

/// The log decay that a number stands for: 0, or so little that exp of it is 0.
pub(super) fn number_as_log(x: f64) -> Result<Option<Exponent>, Gap> {
    if x == 0.0 {
        Ok(Some(Exponent::ZERO))
    } else if x <= LOG_ZERO {
        Ok(None)
    } else {
        Err(Gap::Op { op: "sum with a number" })
    }
}

/// Two forms of one shape with the same labels.
pub(super) fn aligned<B: Cells>(
    x: &Form<B>,
    y: &Form<B>,
    labels: &mut Labels,
) -> Result<(Form<B>, Form<B>), Gap> {
    let (mut x, mut y) = (x.fresh(labels), y.fresh(labels));
    let mut with = Substitution::new();
    for (p, q) in x.axes.iter().zip(&y.axes) {
        match (p, q) {
            (Axis::Time(n), Axis::Time(m)) if n == m => {}
            (Axis::Free(p), Axis::Free(q)) => labels.unify(&mut with, p, q).ok_or(Gap::Labels)?,
            _ => return Err(Gap::Mixed { op: "sum" }),
        }
    }
    x.substitute(&with);
    y.substitute(&with);
    Ok((x, y))
}

/// x + sign * y.
pub(super) fn sum(
    x: &Form,
    y: &Form,
    sign: f64,
    labels: &mut Labels,
    exponents: &mut Exponents,
) -> Result<Form, Gap> {
    let (x, y) = aligned(x, y, labels)?;
    let axes = x.axes.clone();
    let body = match (x.body, y.body) {
        (Body::Log { decay, cells }, Body::Log { decay: other, cells: others }) => {
            if decay != other {
                return Err(Gap::Decays);
            }
            let cells = cells.iter().zip(&others).map(|(x, y)| add_logs(*x, *y, sign, exponents));
            Body::Log { decay, cells: cells.collect::<Result<_, _>>()? }
        }
        (Body::Log { decay, cells }, body @ Body::Sum(_)) => {
            let numbers = Form { axes: y.axes, body }.numbers().ok_or(Gap::Op { op: "sum" })?;
            let add = |(x, n): (&Option<Exponent>, &f64)| {
                let n = number_as_log(sign * n)?;
                Ok(if n.is_none() { None } else { *x })
            };
            Body::Log { decay, cells: cells.iter().zip(&numbers).map(add).collect::<Result<_, _>>()? }
        }
        (body @ Body::Sum(_), Body::Log { decay, cells }) => {
            let numbers = Form { axes: x.axes, body }.numbers().ok_or(Gap::Op { op: "sum" })?;
            let mut out = Vec::new();
            for (n, y) in numbers.iter().zip(&cells) {
                out.push(match number_as_log(*n)? {
                    None if y.is_some() => None,
                    n => add_logs(n, *y, sign, exponents)?,
                });
            }
            Body::Log { decay, cells: out }
        }
        (Body::Sum(mut terms), Body::Sum(others)) => {
            for mut term in others {
                if sign != 1.0 {
                    let scaled = |e: &Entry| Entry { coef: e.coef * sign, ..*e };
                    let cells = |cell: &[Entry]| cell.iter().map(scaled).collect::<Vec<_>>();
                    term.cells = term.cells.changed(|cell| Cell::from(&cells(cell)[..]));
                }
                add_term(&mut terms, term, &axes);
            }
            Body::Sum(terms)
        }
    };
    Ok(Form { axes, body })
}

/// Adds a term, to one in the same tensors if there is one.
pub(super) fn add_term(terms: &mut Vec<Term>, term: Term, axes: &[Axis]) {
    if term.cells.is_zero() {
        return;
    }
    let fixed: Vec<u32> = axes
        .iter()
        .flat_map(|axis| match axis {
            Axis::Free(list) => list.clone(),
            Axis::Time(_) => Vec::new(),
        })
        .collect();
    for known in terms.iter_mut() {
        let Some(order) = correspondence(known, &term, &fixed) else { continue };
        let ordered = |entry: &Entry| {
            let mut at = [0; MAX_LEAVES];
            for (to, from) in order.iter().enumerate() {
                at[to] = entry.at[*from];
            }
            Entry { at, ..*entry }
        };
        let mut term = term;
        if !order.iter().copied().eq(0..order.len()) {
            term.cells = term.cells.changed(|cell| {
                let mut cell: Vec<Entry> = cell.iter().map(ordered).collect();
                collect(&mut cell);
                Cell::from(&cell[..])
            });
        }
        known.cells = known.cells.merged(&term.cells, |cell, more| {
            let mut all = [cell, more].concat();
            collect(&mut all);
            Cell::from(&all[..])
        });
        return;
    }
    terms.push(term);
}

/// The leaf of `y` for every leaf of `x`, if both multiply the same tensors, whatever labels that are summed over are
/// called.
fn correspondence(x: &Term, y: &Term, fixed: &[u32]) -> Option<Vec<usize>> {
    if x.leaves.len() != y.leaves.len() || x.decay.is_some() != y.decay.is_some() {
        return None;
    }
    let mut names: BTreeMap<u32, u32> = fixed.iter().map(|l| (*l, *l)).collect();
    let mut order = Vec::new();
    let same_list = |names: &mut BTreeMap<u32, u32>, p: &List, q: &List| {
        p.len() == q.len()
            && p.iter().zip(q).all(|(p, q)| {
                (fixed.contains(p) == fixed.contains(q)) && *names.entry(*q).or_insert(*p) == *p
            })
    };
    for leaf in &x.leaves {
        let found = (0..y.leaves.len()).find_map(|i| {
            let other = &y.leaves[i];
            if order.contains(&i) || other.value != leaf.value || other.axes.len() != leaf.axes.len() {
                return None;
            }
            let mut tried = names.clone();
            let same = leaf.axes.iter().zip(&other.axes).all(|pair| match pair {
                (Axis::Time(n), Axis::Time(m)) => n == m,
                (Axis::Free(p), Axis::Free(q)) => same_list(&mut tried, p, q),
                _ => false,
            });
            same.then_some((i, tried))
        });
        let (i, tried) = found?;
        order.push(i);
        names = tried;
    }
    let lists = x.decay.iter().flatten().zip(y.decay.iter().flatten());
    for (p, q) in lists {
        if !same_list(&mut names, p, q) {
            return None;
        }
    }
    Some(order)
}

/// The running sum along an axis of steps.
pub(super) fn running_sum(
    x: &Form,
    axis: usize,
    exclusive: bool,
    reverse: bool,
    exponents: &mut Exponents,
) -> Result<Form, Gap> {
    let Axis::Time(extent) = x.axes[axis] else { return Err(Gap::Mixed { op: "cumsum" }) };
    let stride = strides(&x.times())[x.time_of(axis)] as usize;
    let n = n_cells(&x.axes);
    // The cells of one line, in the order of summation.
    let line = |start: usize| -> Vec<usize> {
        let cells = (0..extent).map(|i| start + i * stride);
        if reverse { cells.rev().collect() } else { cells.collect() }
    };
    let starts: Vec<usize> = (0..n).filter(|i| (i / stride).is_multiple_of(extent)).collect();
    let mut out = x.clone();
    match &mut out.body {
        Body::Log { cells, .. } => {
            for start in starts {
                let mut sum = Some(Exponent::ZERO);
                for i in line(start) {
                    let next = add_logs(sum, cells[i], 1.0, exponents)?;
                    cells[i] = if exclusive { sum } else { next };
                    sum = next;
                }
            }
        }
        Body::Sum(terms) => {
            let total: usize = terms.iter().map(|t| t.cells.n_entries()).sum();
            if total * extent > MAX_ENTRIES {
                return Err(Gap::TooLarge);
            }
            for term in terms {
                let cells = term.cells.cells();
                let mut sums = vec![Cell::default(); n];
                for start in &starts {
                    let mut sum: Vec<Entry> = Vec::new();
                    for i in line(*start) {
                        let before = exclusive.then(|| Cell::from(&sum[..]));
                        sum.extend_from_slice(cells[i]);
                        collect(&mut sum);
                        sums[i] = before.unwrap_or_else(|| Cell::from(&sum[..]));
                    }
                }
                term.cells = sums.into_iter().collect();
            }
        }
    }
    Ok(out)
}

/// What is added to a divisor so that it is not 0.
const MAX_GUARD: f64 = 1e-6;

/// 1 / x, if x is one exponential of log decays in each cell. A small number that is added to keep it from 0 is left
/// out: what it changes are quotients of decays that are as small, which are wrong for that very reason.
pub(super) fn inverse(x: &Form, exponents: &mut Exponents) -> Result<Form, Gap> {
    let unknown = Gap::Op { op: "reciprocal" };
    let Body::Sum(terms) = &x.body else { return Err(unknown) };
    let is_small = |e: &Entry| e.exponent == Exponent::ZERO && e.coef > 0.0 && e.coef <= MAX_GUARD;
    let is_guard = |term: &&Term| {
        term.leaves.is_empty() && term.decay.is_none() && term.cells.entries().all(|(_, e)| is_small(e))
    };
    let mut rest = terms.iter().filter(|term| !is_guard(term));
    let (Some(term), None) = (rest.next(), rest.next()) else { return Err(unknown) };
    if !term.leaves.is_empty() || term.decay.is_none() {
        return Err(unknown);
    }
    let mut term = term.clone();
    let mut inverse = |cell: &[Entry]| {
        let [entry] = cell[..] else { return Err(unknown) };
        let exponent = exponents.add(Exponent::ZERO, entry.exponent, -1);
        Ok(Cell::from(Entry { exponent, coef: entry.coef.recip(), ..entry }))
    };
    term.cells = term.cells.cells().into_iter().map(&mut inverse).collect::<Result<Grid, Gap>>()?;
    Ok(Form { axes: x.axes.clone(), body: Body::Sum(vec![term]) })
}

/// exp of sums of log decays.
pub(super) fn exp(x: &Form) -> Result<Form, Gap> {
    let Body::Log { decay, cells } = &x.body else { return Err(Gap::Op { op: "exp" }) };
    let cells = cells
        .iter()
        .map(|e| e.map(|exponent| Cell::from(Entry { exponent, ..Entry::ONE })).unwrap_or_default())
        .collect();
    let term = Term { leaves: Vec::new(), decay: Some(decay.clone()), cells };
    Ok(Form { axes: x.axes.clone(), body: Body::Sum(vec![term]) })
}

/// Takes the cells of `x` where `cond` holds and those of `y` elsewhere.
pub(super) fn select(cond: &[bool], x: &Form, y: &Form, labels: &mut Labels) -> Result<Form, Gap> {
    let (x, y) = aligned(x, y, labels)?;
    let axes = x.axes.clone();
    let log_of = |form: Form| match form.body {
        Body::Log { cells, .. } => Ok(cells),
        Body::Sum(_) => {
            let numbers = form.numbers().ok_or(Gap::Op { op: "select" })?;
            numbers.into_iter().map(number_as_log).collect::<Result<Vec<_>, Gap>>()
        }
    };
    let body = match (&x.body, &y.body) {
        (Body::Sum(terms), Body::Sum(others)) => {
            let mut out = Vec::new();
            for (terms, side) in [(terms, true), (others, false)] {
                for term in terms {
                    let mut term = term.clone();
                    term.cells.retain(|i| cond[i] == side);
                    add_term(&mut out, term, &axes);
                }
            }
            Body::Sum(out)
        }
        (Body::Log { decay, .. }, Body::Log { decay: other, .. }) if decay != other => {
            return Err(Gap::Decays);
        }
        (Body::Log { decay, .. }, _) | (_, Body::Log { decay, .. }) => {
            let decay = decay.clone();
            // A number that is not taken anywhere may be anything.
            let masked = |form: Form, side: bool| match form.body {
                Body::Log { .. } => log_of(form),
                Body::Sum(_) => {
                    let numbers = form.numbers().ok_or(Gap::Op { op: "select" })?;
                    let taken = numbers.into_iter().zip(cond);
                    taken.map(|(n, c)| if *c == side { number_as_log(n) } else { Ok(None) }).collect()
                }
            };
            let (xs, ys) = (masked(x, true)?, masked(y, false)?);
            let cells = cond.iter().zip(xs.iter().zip(&ys)).map(|(c, (x, y))| if *c { *x } else { *y });
            Body::Log { decay, cells: cells.collect() }
        }
    };
    Ok(Form { axes, body })
}
