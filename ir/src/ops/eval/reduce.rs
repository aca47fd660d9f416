//! Reductions along axes.

use super::num::{Num, unwrapped, wrapping};
use super::{Args, EvalError, arg, around, strides};
use crate::ops::{ArgMax, CumSum, Reduce, ReduceFn};
use crate::tensor::{Complex, Data, Tensor, widen, wrap};
use crate::types::DType;
use std::num::Wrapping;

/// Combines elements that fall onto the same index once the axes are gone.
fn fold<T: Copy>(x: &[T], shape: &[usize], axes: &[usize], start: T, f: impl Fn(T, T) -> T) -> Vec<T> {
    let kept: Vec<_> = (0..shape.len()).filter(|i| !axes.contains(i)).collect();
    let kept_shape: Vec<_> = kept.iter().map(|i| shape[*i]).collect();
    let kept_strides = strides(&kept_shape);
    let mut out = vec![start; kept_shape.iter().product()];
    let mut elems = x.iter();
    super::for_each_index(shape, |index| {
        let to: usize = kept.iter().zip(&kept_strides).map(|(i, s)| index[*i] * s).sum();
        if let Some(x) = elems.next() {
            out[to] = f(out[to], *x);
        }
    });
    out
}

fn reduce_floats(x: &[f64], shape: &[usize], op: &Reduce) -> Vec<f64> {
    let propagate = |pick: fn(f64, f64) -> f64| {
        move |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { pick(a, b) }
    };
    match op.f {
        ReduceFn::Sum => fold(x, shape, &op.axes, 0.0, |a, b| a + b),
        ReduceFn::Prod => fold(x, shape, &op.axes, 1.0, |a, b| a * b),
        ReduceFn::Max => fold(x, shape, &op.axes, f64::NEG_INFINITY, propagate(f64::max)),
        ReduceFn::Min => fold(x, shape, &op.axes, f64::INFINITY, propagate(f64::min)),
        ReduceFn::Mean => {
            let n: usize = op.axes.iter().map(|i| shape[*i]).product();
            fold(x, shape, &op.axes, 0.0, |a, b| a + b).into_iter().map(|s| s / n as f64).collect()
        }
    }
}

fn reduce_complex(x: &[Complex], shape: &[usize], op: &Reduce) -> Option<Vec<Complex>> {
    let n: usize = op.axes.iter().map(|i| shape[*i]).product();
    let zero = Complex::ZERO;
    Some(match op.f {
        ReduceFn::Sum => fold(x, shape, &op.axes, zero, |a, b| a + b),
        ReduceFn::Prod => fold(x, shape, &op.axes, Complex::ONE, |a, b| a * b),
        ReduceFn::Mean => {
            let n = n as f64;
            let sum = fold(x, shape, &op.axes, zero, |a, b| a + b);
            sum.into_iter().map(|s| Complex::new(s.re / n, s.im / n)).collect()
        }
        ReduceFn::Max | ReduceFn::Min => return None,
    })
}

/// The lowest and highest number of an integer type.
fn range(dtype: DType) -> (i128, i128) {
    let bits = dtype.bits();
    if dtype.is_signed_int() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn reduce_ints(x: &[i64], shape: &[usize], op: &Reduce, dtype: DType) -> Result<Vec<i64>, EvalError> {
    let wide: Vec<_> = x.iter().map(|x| widen(dtype, *x)).collect();
    let (low, high) = range(dtype);
    let out = match op.f {
        ReduceFn::Sum => fold(&wide, shape, &op.axes, 0, |a, b| a + b),
        ReduceFn::Max => fold(&wide, shape, &op.axes, low, i128::max),
        ReduceFn::Min => fold(&wide, shape, &op.axes, high, i128::min),
        ReduceFn::Prod => {
            let product = fold(&wrapping(x), shape, &op.axes, Wrapping(1), |a, b| a * b);
            product.into_iter().map(|x| i128::from(x.0)).collect()
        }
        ReduceFn::Mean => {
            let n: usize = op.axes.iter().map(|i| shape[*i]).product();
            let sum = fold(&wide, shape, &op.axes, 0, |a, b| a + b);
            if n == 0 && !sum.is_empty() {
                return Err(EvalError::DivisionByZero);
            }
            sum.into_iter().map(|s| s / n as i128).collect()
        }
    };
    Ok(out.into_iter().map(|x| wrap(dtype, x as i64)).collect())
}

pub(in crate::ops) fn reduce(op: &Reduce, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let (shape, dtype) = (x.shape(), x.dtype());
    let missing = || EvalError::NoSuchFunction { op: op.f.name(), dtype };
    let data = match x.data() {
        Data::Float(v) => Data::Float(reduce_floats(v, shape, op)),
        Data::Int(v) => Data::Int(reduce_ints(v, shape, op, dtype)?),
        Data::Complex(v) => Data::Complex(reduce_complex(v, shape, op).ok_or_else(missing)?),
        Data::Bool(_) => return Err(missing()),
    };
    let kept: Vec<_> = (0..shape.len()).filter(|i| !op.axes.contains(i)).map(|i| shape[i]).collect();
    Ok(vec![Tensor::new(dtype, kept, data)?])
}

fn running<T: Num>(x: &[T], shape: &[usize], op: &CumSum) -> Vec<T> {
    let (outer, n, inner) = around(shape, op.axis);
    let mut out = x.to_vec();
    for o in 0..outer {
        for i in 0..inner {
            let mut sum = T::ZERO;
            for step in 0..n {
                let t = if op.reverse { n - 1 - step } else { step };
                let at = (o * n + t) * inner + i;
                let next = sum + x[at];
                out[at] = if op.exclusive { sum } else { next };
                sum = next;
            }
        }
    }
    out
}

pub(in crate::ops) fn cumsum(op: &CumSum, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let (shape, dtype) = (x.shape(), x.dtype());
    let data = match x.data() {
        Data::Float(v) => Data::Float(running(v, shape, op)),
        Data::Int(v) => unwrapped(dtype, running(&wrapping(v), shape, op)),
        Data::Complex(v) => Data::Complex(running(v, shape, op)),
        Data::Bool(_) => return Err(EvalError::NoSuchFunction { op: "cumsum", dtype }),
    };
    Ok(vec![Tensor::new(dtype, shape, data)?])
}

pub(in crate::ops) fn argmax(op: &ArgMax, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let (outer, n, inner) = around(x.shape(), op.axis);
    if n == 0 && outer * inner > 0 {
        return Err(EvalError::EmptyAxis { op: "argmax" });
    }
    let above = |i: usize, j: usize| match x.data() {
        Data::Float(v) => v[i] > v[j] || (v[i].is_nan() && !v[j].is_nan()),
        Data::Int(v) => widen(x.dtype(), v[i]) > widen(x.dtype(), v[j]),
        Data::Bool(v) => v[i] & !v[j],
        Data::Complex(_) => false,
    };
    if matches!(x.data(), Data::Complex(_)) {
        return Err(EvalError::NoSuchFunction { op: "argmax", dtype: x.dtype() });
    }
    let mut out = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            let at = |t: usize| (o * n + t) * inner + i;
            let best = (1..n).fold(0, |best, t| if above(at(t), at(best)) { t } else { best });
            out.push(best as i64);
        }
    }
    let mut shape = x.shape().to_vec();
    shape.remove(op.axis);
    Ok(vec![Tensor::ints(DType::I64, shape, out)?])
}
