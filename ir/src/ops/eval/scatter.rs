//! Writes at positions that depend on data, and the order of elements.

use super::num::wrapping;
use super::{Args, EvalCtx, EvalError, arg, around};
use crate::ops::{Scatter, ScatterFn, TopK};
use crate::tensor::{Data, Tensor, widen, wrap};
use crate::types::DType;

/// The rows that updates fall on.
fn rows(indices: &[i64], extent: usize) -> Result<Vec<usize>, EvalError> {
    let row = |index: i64| {
        let at = if index < 0 { index.checked_add_unsigned(extent as u64) } else { Some(index) };
        at.and_then(|at| usize::try_from(at).ok()).filter(|at| *at < extent)
    };
    let fault = |index: i64| EvalError::Index { operand: "indices", index, extent };
    indices.iter().map(|index| row(*index).ok_or_else(|| fault(*index))).collect()
}

fn apply<T: Copy>(x: &[T], updates: &[T], rows: &[usize], inner: usize, f: impl Fn(T, T) -> T) -> Vec<T> {
    let mut y = x.to_vec();
    for (m, row) in rows.iter().enumerate() {
        for i in 0..inner {
            let at = row * inner + i;
            y[at] = f(y[at], updates[m * inner + i]);
        }
    }
    y
}

fn float(f: ScatterFn, old: f64, new: f64) -> f64 {
    let is_nan = old.is_nan() || new.is_nan();
    match f {
        ScatterFn::Set => new,
        ScatterFn::Add => old + new,
        ScatterFn::Mul => old * new,
        ScatterFn::Min | ScatterFn::Max if is_nan => f64::NAN,
        ScatterFn::Min => old.min(new),
        ScatterFn::Max => old.max(new),
    }
}

fn int(f: ScatterFn, dtype: DType, old: i64, new: i64) -> i64 {
    let is_less = widen(dtype, new) < widen(dtype, old);
    match f {
        ScatterFn::Set => new,
        ScatterFn::Add => wrap(dtype, (wrapping(&[old])[0] + wrapping(&[new])[0]).0),
        ScatterFn::Mul => wrap(dtype, (wrapping(&[old])[0] * wrapping(&[new])[0]).0),
        ScatterFn::Min => {
            if is_less {
                new
            } else {
                old
            }
        }
        ScatterFn::Max => {
            if is_less {
                old
            } else {
                new
            }
        }
    }
}

pub(in crate::ops) fn scatter(op: &Scatter, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (x, indices, updates) = (arg(x, 0)?, arg(x, 1)?, arg(x, 2)?);
    let (extent, dtype) = (x.shape()[0], x.dtype());
    let inner: usize = x.shape()[1..].iter().product();
    let rows = rows(indices.as_ints()?, extent)?;
    let data = match (x.data(), updates.data()) {
        (Data::Float(x), Data::Float(u)) => Data::Float(apply(x, u, &rows, inner, |a, b| float(op.f, a, b))),
        (Data::Int(x), Data::Int(u)) => Data::Int(apply(x, u, &rows, inner, |a, b| int(op.f, dtype, a, b))),
        (Data::Bool(x), Data::Bool(u)) if op.f == ScatterFn::Set => {
            Data::Bool(apply(x, u, &rows, inner, |_, b| b))
        }
        (Data::Complex(x), Data::Complex(u)) if op.f == ScatterFn::Set => {
            Data::Complex(apply(x, u, &rows, inner, |_, b| b))
        }
        _ => return Err(EvalError::NoSuchFunction { op: op.f.name(), dtype }),
    };
    Ok(vec![Tensor::new(dtype, x.shape(), data)?])
}

pub(in crate::ops) fn top_k(op: &TopK, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let (outer, n, inner) = around(x.shape(), op.axis);
    let k = ctx.extent(&op.k)?;
    if k > n {
        return Err(EvalError::Index { operand: "k", index: k as i64, extent: n });
    }
    let order = |i: usize, j: usize| match x.data() {
        Data::Float(v) => v[i].partial_cmp(&v[j]).unwrap_or_else(|| v[i].is_nan().cmp(&v[j].is_nan())),
        Data::Int(v) => widen(x.dtype(), v[i]).cmp(&widen(x.dtype(), v[j])),
        Data::Bool(v) => v[i].cmp(&v[j]),
        Data::Complex(_) => std::cmp::Ordering::Equal,
    };
    if matches!(x.data(), Data::Complex(_)) {
        return Err(EvalError::NoSuchFunction { op: "top_k", dtype: x.dtype() });
    }
    let mut shape = x.shape().to_vec();
    shape[op.axis] = k;
    let mut positions = vec![0; outer * k * inner];
    let mut indices = vec![0; outer * k * inner];
    for o in 0..outer {
        for i in 0..inner {
            let at = |t: usize| (o * n + t) * inner + i;
            let mut places: Vec<usize> = (0..n).collect();
            places.sort_by(|a, b| {
                let ascending = order(at(*a), at(*b));
                if op.largest { ascending.reverse() } else { ascending }
            });
            for (rank, place) in places.into_iter().take(k).enumerate() {
                let to = (o * k + rank) * inner + i;
                positions[to] = at(place);
                indices[to] = place as i64;
            }
        }
    }
    let values = Tensor::new(x.dtype(), shape.clone(), x.data().take(positions.into_iter()))?;
    Ok(vec![values, Tensor::ints(DType::I64, shape, indices)?])
}
