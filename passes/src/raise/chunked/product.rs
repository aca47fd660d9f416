//! Products of forms, and sums of products.

use super::algebra::add_logs;
use super::form::{
    Axis, Body, Entry, Form, Gap, MAX_ENTRIES, MAX_LEAVES, Term, affine, collect, strides, times,
};
use super::grid::{Cell, Grid};
use super::names::{Exponent, Exponents, Labels, List, Substitution, resolve};
use std::collections::BTreeMap;

/// The axis of an operand that bears a letter.
type Letter = usize;

/// A contraction of forms: axes that bear one letter are one axis. The caller has made sure that axes of one letter
/// count steps in all operands or in none.
pub(super) struct Product<'a> {
    pub(super) inputs: &'a [Vec<Letter>],
    pub(super) output: &'a [Letter],
}

/// The index space of a product: the letters of steps, those of the result first.
struct Space {
    letters: Vec<Letter>,
    dims: Vec<usize>,
    n_out: usize,
}

impl Space {
    /// The cell of an operand for every point.
    fn cells(&self, letters: &[Letter], axes: &[Axis]) -> Vec<usize> {
        let own: Vec<Letter> =
            letters.iter().zip(axes).filter(|(_, axis)| axis.is_time()).map(|(l, _)| *l).collect();
        let steps = strides(&times(axes));
        let stride = |l: &Letter| own.iter().position(|o| o == l).map_or(0, |i| steps[i]);
        let strides: Vec<isize> = self.letters.iter().map(stride).collect();
        affine(&self.dims, &strides, 0).into_iter().flatten().collect()
    }
}

impl Product<'_> {
    pub(super) fn of(
        &self,
        forms: &[Form],
        labels: &mut Labels,
        exponents: &mut Exponents,
    ) -> Result<Form, Gap> {
        let mut forms: Vec<Form> = forms.iter().map(|form| form.fresh(labels)).collect();
        let axis_of = self.unified(&mut forms, labels)?;
        let axes: Vec<Axis> = self.output.iter().map(|l| axis_of[l].clone()).collect();
        let mut letters: Vec<Letter> = self.output.iter().copied().filter(|l| axis_of[l].is_time()).collect();
        let n_out = letters.len();
        letters.extend(
            axis_of.iter().filter(|(l, axis)| axis.is_time() && !self.output.contains(l)).map(|(l, _)| *l),
        );
        let dims = letters
            .iter()
            .map(|l| match &axis_of[l] {
                Axis::Time(n) => *n,
                Axis::Free(_) => 1,
            })
            .collect();
        let space = Space { letters, dims, n_out };
        if space.dims.iter().product::<usize>() > MAX_ENTRIES {
            return Err(Gap::TooLarge);
        }
        let cells: Vec<Vec<usize>> =
            self.inputs.iter().zip(&forms).map(|(letters, form)| space.cells(letters, &form.axes)).collect();
        let n_logs = forms.iter().filter(|f| matches!(f.body, Body::Log { .. })).count();
        let summed: Vec<List> = (axis_of.iter())
            .filter(|(l, _)| !self.output.contains(l))
            .filter_map(|(_, axis)| match axis {
                Axis::Free(list) => Some(list.clone()),
                Axis::Time(_) => None,
            })
            .collect();
        let body = match n_logs {
            0 => Body::Sum(sums(&forms, &cells, &space, &summed, exponents)?),
            1 if summed.iter().all(Vec::is_empty) => logs(&forms, &cells, &space, exponents)?,
            _ => return Err(Gap::Op { op: "product" }),
        };
        Ok(Form { axes, body })
    }

    /// Gives axes of one letter the same labels.
    fn unified(&self, forms: &mut [Form], labels: &mut Labels) -> Result<BTreeMap<Letter, Axis>, Gap> {
        let mut with = Substitution::new();
        let mut axis_of: BTreeMap<Letter, Axis> = BTreeMap::new();
        for (letters, form) in self.inputs.iter().zip(forms.iter()) {
            for (letter, axis) in letters.iter().zip(&form.axes) {
                match (axis_of.get(letter), axis) {
                    (None, _) => {
                        axis_of.insert(*letter, axis.clone());
                    }
                    (Some(Axis::Time(n)), Axis::Time(m)) if n == m => {}
                    (Some(Axis::Free(x)), Axis::Free(y)) => {
                        labels.unify(&mut with, x, y).ok_or(Gap::Labels)?
                    }
                    _ => return Err(Gap::Mixed { op: "product" }),
                }
            }
        }
        for form in forms {
            form.substitute(&with);
        }
        for axis in axis_of.values_mut() {
            if let Axis::Free(list) = axis {
                *list = resolve(&with, list);
            }
        }
        Ok(axis_of)
    }
}

fn sums(
    forms: &[Form],
    cells: &[Vec<usize>],
    space: &Space,
    summed: &[List],
    exponents: &mut Exponents,
) -> Result<Vec<Term>, Gap> {
    let mut choices: Vec<Vec<&Term>> = vec![Vec::new()];
    for form in forms {
        let Body::Sum(terms) = &form.body else { return Err(Gap::Op { op: "product" }) };
        choices = choices
            .iter()
            .flat_map(|chosen| terms.iter().map(move |term| [&chosen[..], &[term]].concat()))
            .collect();
        if choices.len() > 16 {
            return Err(Gap::TooLarge);
        }
    }
    let mut products = Vec::new();
    for chosen in &choices {
        let product = product(chosen, cells, space, exponents)?;
        // A sum along a label that no factor bears is a multiplication by its extent.
        if !summed.iter().flatten().all(|l| product.bears(*l)) {
            return Err(Gap::Op { op: "sum" });
        }
        products.push(product);
    }
    Ok(products)
}

/// The product of one term of every operand.
fn product(
    terms: &[&Term],
    cells: &[Vec<usize>],
    space: &Space,
    exponents: &mut Exponents,
) -> Result<Term, Gap> {
    let leaves: Vec<_> = terms.iter().flat_map(|t| t.leaves.clone()).collect();
    if leaves.len() > MAX_LEAVES {
        return Err(Gap::TooMany);
    }
    let mut decay: Option<Vec<List>> = None;
    for lists in terms.iter().filter_map(|t| t.decay.as_ref()) {
        match &decay {
            Some(known) if known != lists => return Err(Gap::Decays),
            _ => decay = Some(lists.clone()),
        }
    }
    let timed: Vec<usize> = (0..leaves.len()).filter(|k| leaves[*k].has_steps()).collect();
    let n_out: usize = space.dims[..space.n_out].iter().product();
    let n_summed: usize = space.dims[space.n_out..].iter().product();
    let mut out = Grid::default();
    let (mut total, mut found, mut next) = (0, Vec::new(), Vec::new());
    let factors: Vec<Vec<&[Entry]>> = terms.iter().map(|term| term.cells.cells()).collect();
    let mut cell = Vec::new();
    for i in 0..n_out {
        cell.clear();
        for j in 0..n_summed {
            let point = i * n_summed + j;
            found.clear();
            found.push(Entry::ONE);
            let mut n_leaves = 0;
            for ((term, factor), cells) in terms.iter().zip(&factors).zip(cells) {
                let factor = factor[cells[point]];
                next.clear();
                for x in &found {
                    for y in factor {
                        next.push(times_entry(x, y, n_leaves, term.leaves.len(), exponents));
                    }
                }
                n_leaves += term.leaves.len();
                std::mem::swap(&mut found, &mut next);
                if found.is_empty() {
                    break;
                }
            }
            if found.iter().any(|entry| entry.is_apart(&timed)) {
                return Err(Gap::Apart);
            }
            cell.extend_from_slice(&found);
            if total + cell.len() > MAX_ENTRIES {
                return Err(Gap::TooLarge);
            }
        }
        collect(&mut cell);
        total += cell.len();
        out.push(Cell::from(&cell[..]));
    }
    Ok(Term { leaves, decay, cells: out })
}

fn times_entry(x: &Entry, y: &Entry, n_x: usize, n_y: usize, exponents: &mut Exponents) -> Entry {
    let mut entry = *x;
    entry.at[n_x..n_x + n_y].copy_from_slice(&y.at[..n_y]);
    entry.exponent = exponents.add(x.exponent, y.exponent, 1);
    entry.coef = x.coef * y.coef;
    entry
}

/// The product of log decays with numbers.
fn logs(forms: &[Form], cells: &[Vec<usize>], space: &Space, exponents: &mut Exponents) -> Result<Body, Gap> {
    let mut log = None;
    let mut factors = Vec::new();
    for (form, cells) in forms.iter().zip(cells) {
        match &form.body {
            Body::Log { decay, cells: logs } => log = Some((decay, logs, cells)),
            Body::Sum(_) => factors.push((form.numbers().ok_or(Gap::Op { op: "product" })?, cells)),
        }
    }
    let (decay, logs, at) = log.ok_or(Gap::Op { op: "product" })?;
    let n_out: usize = space.dims[..space.n_out].iter().product();
    let n_summed: usize = space.dims[space.n_out..].iter().product();
    let mut out = Vec::with_capacity(n_out);
    for i in 0..n_out {
        let mut sum = Some(Exponent::ZERO);
        for point in i * n_summed..(i + 1) * n_summed {
            let coef: f64 = factors.iter().map(|(numbers, cells)| numbers[cells[point]]).product();
            sum = add_logs(sum, logs[at[point]], coef, exponents)?;
        }
        out.push(sum);
    }
    Ok(Body::Log { decay: decay.clone(), cells: out })
}
