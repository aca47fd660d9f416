//! Layout ops on forms: cells move, labels divide and join.

use super::form::{Axis, Cells, Form, Gap, affine, n_cells, strides, times};
use super::names::{Labels, resolve};
use ssmc_ir::Dim;

pub(super) fn transpose<B: Cells>(x: &Form<B>, perm: &[usize]) -> Result<Form<B>, Gap> {
    let axes: Vec<Axis> = perm.iter().map(|axis| x.axes[*axis].clone()).collect();
    let old = strides(&x.times());
    let steps: Vec<isize> =
        perm.iter().filter(|axis| x.axes[**axis].is_time()).map(|axis| old[x.time_of(*axis)]).collect();
    x.moved(axes.clone(), &affine(&times(&axes), &steps, 0))
}

/// Operand axis i becomes result axis `to[i]`; new axes are labels that nothing varies along.
pub(super) fn broadcast<B: Cells>(
    x: &Form<B>,
    to: &[usize],
    shape: &[Dim],
    labels: &mut Labels,
) -> Result<Form<B>, Gap> {
    let mut axes: Vec<Option<Axis>> = vec![None; shape.len()];
    for (axis, to) in x.axes.iter().zip(to) {
        let is_repeated = match axis {
            Axis::Free(list) => list.is_empty() && !shape[*to].is(1),
            Axis::Time(n) => *n == 1 && !shape[*to].is(1),
        };
        axes[*to] = (!is_repeated).then(|| axis.clone());
    }
    let ascending = to.is_sorted();
    let axes: Vec<Axis> = axes
        .into_iter()
        .zip(shape)
        .map(|(axis, dim)| axis.unwrap_or_else(|| repeated(dim, labels)))
        .collect();
    if !ascending {
        return Err(Gap::Mixed { op: "broadcast" });
    }
    let cells: Vec<Option<usize>> = (0..n_cells(&x.axes)).map(Some).collect();
    x.moved(axes, &cells)
}

fn repeated(dim: &Dim, labels: &mut Labels) -> Axis {
    Axis::Free(if dim.is(1) { Vec::new() } else { vec![labels.fresh(dim.clone())] })
}

/// The groups of axes of two shapes that hold the same elements, without unit axes.
pub(in crate::raise) fn groups(from: &[Dim], to: &[Dim]) -> Option<Vec<(Vec<usize>, Vec<usize>)>> {
    let mut left = (0..from.len()).filter(|i| !from[*i].is(1));
    let mut right = (0..to.len()).filter(|i| !to[*i].is(1));
    let mut groups = Vec::new();
    loop {
        let (i, j) = match (left.next(), right.next()) {
            (None, None) => return Some(groups),
            (Some(i), Some(j)) => (i, j),
            _ => return None,
        };
        let (mut xs, mut ys) = (vec![i], vec![j]);
        let (mut n, mut m) = (from[i].clone(), to[j].clone());
        while n != m {
            // The side that divides the other one goes on.
            if m.div_exact(&n).is_some() {
                let i = left.next()?;
                n = n * &from[i];
                xs.push(i);
            } else if n.div_exact(&m).is_some() {
                let j = right.next()?;
                m = m * &to[j];
                ys.push(j);
            } else {
                let (p, q) = (n.as_const()?, m.as_const()?);
                if p < q {
                    let i = left.next()?;
                    n = n * &from[i];
                    xs.push(i);
                } else {
                    let j = right.next()?;
                    m = m * &to[j];
                    ys.push(j);
                }
            }
        }
        groups.push((xs, ys));
    }
}

pub(super) fn reshape<B: Cells>(
    x: &Form<B>,
    from: &[Dim],
    to: &[Dim],
    labels: &mut Labels,
) -> Result<Form<B>, Gap> {
    let mut form = x.clone();
    let mut axes: Vec<Axis> = vec![Axis::Free(Vec::new()); to.len()];
    for (left, right) in groups(from, to).ok_or(Gap::Mixed { op: "reshape" })? {
        let n_time = left.iter().filter(|i| form.axes[**i].is_time()).count();
        if n_time > 0 {
            for i in &left {
                let extent = extent(&from[*i])?;
                form = form.with_time(*i, extent).map_err(|_| Gap::Mixed { op: "reshape" })?;
            }
            for j in right {
                axes[j] = Axis::Time(extent(&to[j])?);
            }
            continue;
        }
        let list: Vec<u32> = left
            .iter()
            .flat_map(|i| match &form.axes[*i] {
                Axis::Free(list) => list.clone(),
                Axis::Time(_) => Vec::new(),
            })
            .collect();
        let dims: Vec<Dim> = right.iter().map(|j| to[*j].clone()).collect();
        if let [j] = right[..] {
            axes[j] = Axis::Free(list);
            continue;
        }
        let (parts, with) = labels.divide(&list, &dims).ok_or(Gap::Labels)?;
        form.substitute(&with);
        for axis in axes.iter_mut() {
            if let Axis::Free(list) = axis {
                *list = resolve(&with, list);
            }
        }
        for (j, part) in right.into_iter().zip(parts) {
            axes[j] = Axis::Free(part);
        }
    }
    // A unit axis of steps vanishes: it does not change the order of the cells.
    Ok(Form { axes, body: form.body })
}

/// A fixed extent of an axis of steps.
pub(super) fn extent(dim: &Dim) -> Result<usize, Gap> {
    dim.as_const().and_then(|n| usize::try_from(n).ok()).ok_or(Gap::Symbolic)
}

/// Cell `i` along an axis of steps comes from `from[i]`, or is zero.
pub(super) fn along<B: Cells>(x: &Form<B>, axis: usize, from: &[Option<usize>]) -> Result<Form<B>, Gap> {
    let Axis::Time(_) = x.axes[axis] else { return Err(Gap::Mixed { op: "slice" }) };
    let (slot, old) = (x.time_of(axis), strides(&x.times()));
    let mut axes = x.axes.clone();
    axes[axis] = Axis::Time(from.len());
    let dims = times(&axes);
    let inner: usize = dims[slot + 1..].iter().product();
    let mut steps = old.clone();
    steps[slot] = 0;
    let mut cells = affine(&dims, &steps, 0);
    for (i, cell) in cells.iter_mut().enumerate() {
        let source = from[i / inner.max(1) % from.len().max(1)];
        *cell = cell.zip(source).map(|(base, source)| base + source * old[slot] as usize);
    }
    x.moved(axes, &cells)
}

/// Joins forms along an axis of steps: halves first, so that n forms are moved about log n times.
pub(super) fn concat<B: Cells>(
    xs: &[Form<B>],
    axis: usize,
    labels: &mut Labels,
    add: &mut Adder<'_, B>,
) -> Result<Form<B>, Gap> {
    let (left, right) = match xs {
        [] => return Err(Gap::Op { op: "concat" }),
        [x] => return Ok(x.clone()),
        _ => xs.split_at(xs.len() / 2),
    };
    let (left, right) = (concat(left, axis, labels, add)?, concat(right, axis, labels, add)?);
    let (Axis::Time(n), Axis::Time(m)) = (&left.axes[axis], &right.axes[axis]) else {
        return Err(Gap::Mixed { op: "concat" });
    };
    let first: Vec<Option<usize>> = (0..n + m).map(|i| (i < *n).then_some(i)).collect();
    let second: Vec<Option<usize>> = (0..n + m).map(|i| i.checked_sub(*n)).collect();
    add(&along(&left, axis, &first)?, &along(&right, axis, &second)?, labels)
}

/// Adds two forms.
pub(super) type Adder<'a, B> = dyn FnMut(&Form<B>, &Form<B>, &mut Labels) -> Result<Form<B>, Gap> + 'a;
