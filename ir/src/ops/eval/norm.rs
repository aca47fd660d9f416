//! Normalizations over the last axis.

use super::elementwise::silu;
use super::{Args, EvalError, arg, optional_floats};
use crate::ops::{GatedRmsNorm, LayerNorm, RmsNorm};
use crate::tensor::Tensor;

/// Applies `f` to each row along the last axis.
fn rows(x: &Tensor, mut f: impl FnMut(usize, &[f64]) -> Vec<f64>) -> Result<Vec<Tensor>, EvalError> {
    let width = x.shape().last().copied().unwrap_or(1);
    let mut y = Vec::with_capacity(x.len());
    if width > 0 {
        for (i, row) in x.as_floats()?.chunks_exact(width).enumerate() {
            y.extend(f(i, row));
        }
    }
    Ok(vec![Tensor::floats(x.dtype(), x.shape(), y)?])
}

fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = x.len() as f64;
    x.sum::<f64>() / n
}

fn rms_row(row: &[f64], eps: f64, weight: Option<&[f64]>) -> Vec<f64> {
    let scale = 1.0 / (mean(row.iter().map(|x| x * x)) + eps).sqrt();
    row.iter().enumerate().map(|(i, x)| x * scale * weight.map_or(1.0, |w| w[i])).collect()
}

pub(in crate::ops) fn rms_norm(op: &RmsNorm, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let weight = optional_floats(x, 1)?;
    rows(arg(x, 0)?, |_, row| rms_row(row, op.eps.get(), weight))
}

pub(in crate::ops) fn layer_norm(op: &LayerNorm, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (weight, bias) = (optional_floats(x, 1)?, optional_floats(x, 2)?);
    rows(arg(x, 0)?, |_, row| {
        let center = mean(row.iter().copied());
        let variance = mean(row.iter().map(|x| (x - center) * (x - center)));
        let scale = 1.0 / (variance + op.eps.get()).sqrt();
        let one = |(i, x): (usize, &f64)| {
            (x - center) * scale * weight.map_or(1.0, |w| w[i]) + bias.map_or(0.0, |b| b[i])
        };
        row.iter().enumerate().map(one).collect()
    })
}

pub(in crate::ops) fn gated_rms_norm(op: &GatedRmsNorm, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (z, weight) = (arg(x, 1)?.as_floats()?, optional_floats(x, 2)?);
    rows(arg(x, 0)?, |i, row| {
        let gate = z[i * row.len()..(i + 1) * row.len()].iter().map(|z| silu(*z));
        if op.norm_before_gate {
            rms_row(row, op.eps.get(), weight).into_iter().zip(gate).map(|(y, g)| y * g).collect()
        } else {
            let gated: Vec<_> = row.iter().zip(gate).map(|(x, g)| x * g).collect();
            rms_row(&gated, op.eps.get(), weight)
        }
    })
}
