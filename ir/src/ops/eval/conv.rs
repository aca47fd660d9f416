//! Convolutions.

use super::elementwise::silu;
use super::num::{Num, unwrapped, wrapping};
use super::{Args, EvalCtx, EvalError, arg, for_each_index, optional, optional_floats, strides};
use crate::ops::{Activation, CausalConv1d, Conv};
use crate::tensor::{Data, Tensor};

/// The index that output place `p` and tap `k` read on one spatial axis, unless it lies in the padding.
fn source(p: usize, k: usize, stride: usize, dilation: usize, pad: usize, extent: usize) -> Option<usize> {
    let at = (p * stride + k * dilation).checked_sub(pad)?;
    (at < extent).then_some(at)
}

fn conv_elems<T: Num>(
    op: &Conv,
    (x, x_shape): (&[T], &[usize]),
    (w, w_shape): (&[T], &[usize]),
    bias: Option<&[T]>,
    out_shape: &[usize],
) -> Vec<T> {
    let (x_strides, w_strides) = (strides(x_shape), strides(w_shape));
    let per_group = w_shape[0] / op.groups;
    let mut out = Vec::with_capacity(out_shape.iter().product());
    for_each_index(out_shape, |y| {
        let (batch, o) = (y[0], y[1]);
        let first_channel = o / per_group * w_shape[1];
        let mut sum = bias.map_or(T::ZERO, |b| b[o]);
        for_each_index(&w_shape[1..], |tap| {
            let mut at = batch * x_strides[0] + (first_channel + tap[0]) * x_strides[1];
            let mut weight = o * w_strides[0] + tap[0] * w_strides[1];
            for (i, k) in tap[1..].iter().enumerate() {
                let from = source(y[i + 2], *k, op.strides[i], op.dilations[i], op.pads[i], x_shape[i + 2]);
                let Some(from) = from else { return };
                at += from * x_strides[i + 2];
                weight += k * w_strides[i + 2];
            }
            sum = sum + x[at] * w[weight];
        });
        out.push(sum);
    });
    out
}

pub(in crate::ops) fn conv(op: &Conv, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let bias = optional(x, 2);
    let (x, w) = (arg(x, 0)?, arg(x, 1)?);
    let shape = ctx.result_shape(0)?;
    let dtype = x.dtype();
    let data = match x.data() {
        Data::Float(v) => {
            let bias = bias.map(Tensor::as_floats).transpose()?;
            Data::Float(conv_elems(op, (v, x.shape()), (w.as_floats()?, w.shape()), bias, &shape))
        }
        Data::Complex(v) => {
            let bias = bias.map(Tensor::as_complex).transpose()?;
            Data::Complex(conv_elems(op, (v, x.shape()), (w.as_complex()?, w.shape()), bias, &shape))
        }
        Data::Int(v) => {
            let bias = bias.map(|b| b.as_ints().map(wrapping)).transpose()?;
            let (v, taps) = (wrapping(v), wrapping(w.as_ints()?));
            let out = conv_elems(op, (&v, x.shape()), (&taps, w.shape()), bias.as_deref(), &shape);
            unwrapped(dtype, out)
        }
        Data::Bool(_) => return Err(EvalError::NoSuchFunction { op: "conv", dtype }),
    };
    Ok(vec![Tensor::new(dtype, shape, data)?])
}

pub(in crate::ops) fn causal_conv1d(op: &CausalConv1d, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (bias, state) = (optional_floats(x, 2)?, optional_floats(x, 3)?);
    let seq_idx = optional(x, 4).map(Tensor::as_ints).transpose()?;
    let (x, w) = (arg(x, 0)?, arg(x, 1)?);
    let (dtype, taps) = (x.dtype(), w.as_floats()?);
    let [batch, len, channels] = *x.shape() else { return Err(EvalError::Missing { operand: 0 }) };
    let width = w.shape()[1];
    let Some(tail) = width.checked_sub(1) else {
        return Err(EvalError::EmptyAxis { op: "ssm.causal_conv1d" });
    };
    let elems = x.as_floats()?;
    // Column `t` of x preceded by the state: columns 0..tail are the state.
    let column = |b: usize, t: usize, c: usize| match t.checked_sub(tail) {
        Some(t) => elems[(b * len + t) * channels + c],
        None => state.map_or(0.0, |s| s[(b * tail + t) * channels + c]),
    };
    // The state belongs to the sequence of the first step.
    let sequence = |b: usize, t: usize| seq_idx.map(|s| s[b * len + t.saturating_sub(tail)]);
    let mut y = Vec::with_capacity(elems.len());
    for b in 0..batch {
        for t in 0..len {
            for c in 0..channels {
                let mut sum = bias.map_or(0.0, |bias| bias[c]);
                for j in 0..width {
                    if sequence(b, t + j) == sequence(b, t + tail) {
                        sum += taps[c * width + j] * column(b, t + j, c);
                    }
                }
                y.push(match op.activation {
                    Activation::None => sum,
                    Activation::Silu => silu(sum),
                });
            }
        }
    }
    let mut state_out = Vec::with_capacity(batch * tail * channels);
    for b in 0..batch {
        for t in len..len + tail {
            state_out.extend((0..channels).map(|c| column(b, t, c)));
        }
    }
    Ok(vec![Tensor::floats(dtype, x.shape(), y)?, Tensor::floats(dtype, [batch, tail, channels], state_out)?])
}
