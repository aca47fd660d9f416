//! Long convolutions and Fourier transforms, as the sums that define them.

use super::{Args, EvalCtx, EvalError, arg, around, optional, optional_floats};
use crate::ops::{Dft, LongConv};
use crate::tensor::{Complex, Tensor};

pub(in crate::ops) fn long_conv(
    op: &LongConv,
    ctx: &EvalCtx<'_>,
    x: &Args<'_>,
) -> Result<Vec<Tensor>, EvalError> {
    let history = optional_floats(x, 2)?;
    let (x, k) = (arg(x, 0)?, arg(x, 1)?);
    let [batch, len, channels] = *x.shape() else { return Err(EvalError::Missing { operand: 0 }) };
    let width = k.shape()[k.shape().len() - 2];
    let is_batched = k.shape().len() == 3;
    let tail = width.saturating_sub(1);
    let lead = op.lead.eval(ctx.bindings)?;
    let (elems, taps) = (x.as_floats()?, k.as_floats()?);
    let column = |b: usize, t: i64, c: usize| match usize::try_from(t) {
        Ok(t) if t < len => elems[(b * len + t) * channels + c],
        Ok(_) => 0.0,
        Err(_) => match (history, usize::try_from(t + tail as i64)) {
            (Some(history), Ok(t)) => history[(b * tail + t) * channels + c],
            _ => 0.0,
        },
    };
    let mut y = Vec::with_capacity(elems.len());
    for b in 0..batch {
        let taps = if is_batched { &taps[b * width * channels..] } else { taps };
        for t in 0..len {
            for c in 0..channels {
                let product = |j: usize| taps[j * channels + c] * column(b, t as i64 + lead - j as i64, c);
                y.push((0..width).map(product).sum());
            }
        }
    }
    let mut history_out = Vec::with_capacity(batch * tail * channels);
    for b in 0..batch {
        for t in 0..tail {
            history_out.extend((0..channels).map(|c| column(b, len as i64 - (tail - t) as i64, c)));
        }
    }
    Ok(vec![
        Tensor::floats(x.dtype(), x.shape(), y)?,
        Tensor::floats(x.dtype(), [batch, tail, channels], history_out)?,
    ])
}

/// exp(i * angle) for `angle` = 2 pi k / n.
fn root(k: usize, n: usize) -> Complex {
    let angle = std::f64::consts::TAU * (k % n) as f64 / n as f64;
    Complex::new(angle.cos(), angle.sin())
}

fn conj(x: Complex) -> Complex {
    Complex::new(x.re, -x.im)
}

/// All elements of the spectrum of a real signal from the stored ones.
fn mirrored(stored: &[Complex], n: usize) -> Vec<Complex> {
    let at = |k: usize| stored.get(k).copied().unwrap_or_default();
    let element = |k: usize| match k.cmp(&((n - k) % n)) {
        std::cmp::Ordering::Less => at(k),
        std::cmp::Ordering::Equal => Complex::new(at(k).re, 0.0),
        std::cmp::Ordering::Greater if k == 0 => Complex::new(at(0).re, 0.0),
        std::cmp::Ordering::Greater => conj(at(n - k)),
    };
    (0..n).map(element).collect()
}

pub(in crate::ops) fn dft(op: &Dft, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let n = ctx.extent(&op.length)?;
    if n == 0 {
        return Err(EvalError::EmptyAxis { op: "dft" });
    }
    let shape = ctx.result_shape(0)?;
    let (re, im) = (arg(x, 0)?, optional(x, 1));
    let im = im.map(Tensor::as_floats).transpose()?;
    let (outer, extent, inner) = around(re.shape(), op.axis);
    let n_out = shape[op.axis];
    let elems = re.as_floats()?;
    let mut results = [vec![0.0; outer * n_out * inner], vec![0.0; outer * n_out * inner]];
    for o in 0..outer {
        for i in 0..inner {
            let element = |t: usize| {
                let at = (o * extent + t) * inner + i;
                Complex::new(elems[at], im.map_or(0.0, |im| im[at]))
            };
            let mut signal: Vec<Complex> = (0..extent.min(n)).map(element).collect();
            if op.inverse && op.onesided {
                signal = mirrored(&signal, n);
            }
            for k in 0..n_out {
                let mut sum = Complex::default();
                for (t, x) in signal.iter().enumerate() {
                    let root = root(t * k, n);
                    sum = sum + *x * if op.inverse { root } else { conj(root) };
                }
                let scale = if op.inverse { n as f64 } else { 1.0 };
                let at = (o * n_out + k) * inner + i;
                results[0][at] = sum.re / scale;
                results[1][at] = if op.inverse && op.onesided { 0.0 } else { sum.im / scale };
            }
        }
    }
    let [re_out, im_out] = results;
    Ok(vec![Tensor::floats(re.dtype(), shape.clone(), re_out)?, Tensor::floats(re.dtype(), shape, im_out)?])
}
