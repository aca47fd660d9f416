//! The stabilized scan of a weighted mean, step by step.

use super::scan::{Slots, seq_idx, steps};
use super::{Args, EvalError, arg, optional, optional_floats};
use crate::ops::Wkv;
use crate::tensor::Tensor;

/// Sums of weights and of weighted values, both times exp(-max).
#[derive(Clone, Copy)]
struct State {
    num: f64,
    den: f64,
    max: f64,
}

const EMPTY: State = State { num: 0.0, den: 0.0, max: f64::NEG_INFINITY };

impl State {
    /// The sums after their weights grew by exp(decay) and `value` joined them with weight exp(exponent).
    fn with(self, decay: f64, exponent: f64, value: f64) -> Self {
        let old = self.max + decay;
        let max = if old.is_nan() || old > exponent { old } else { exponent };
        let base = if max == f64::NEG_INFINITY { 0.0 } else { max };
        let (kept, added) = ((old - base).exp(), (exponent - base).exp());
        Self { num: kept * self.num + added * value, den: kept * self.den + added, max }
    }
}

pub(in crate::ops) fn wkv(op: &Wkv, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (w, k) = (arg(x, 0)?, arg(x, 1)?);
    let [batch, len, channels] = *k.shape() else { return Err(EvalError::Missing { operand: 1 }) };
    let dtype = k.dtype();
    let (v, u) = (arg(x, 2)?.as_floats()?, optional_floats(x, 3)?);
    let initial = [optional_floats(x, 4)?, optional_floats(x, 5)?, optional_floats(x, 6)?];
    let seq_idx = seq_idx(x, 7)?;
    let slots = Slots::of(optional(x, 8), optional(x, 4), batch)?;
    let (weights, decays) = (k.as_floats()?, w.as_floats()?);
    let decay_of = |index: [usize; 3]| {
        let at = index.iter().zip(w.shape()).fold(0, |at, (i, n)| at * n + if *n == 1 { 0 } else { *i });
        decays[at]
    };
    let [mut num, mut den, mut max] = initial.map(|x| slots.initial(x, channels));
    if initial[2].is_none() {
        max.fill(f64::NEG_INFINITY);
    }
    let mut y = vec![0.0; weights.len()];
    for i in 0..batch {
        for c in 0..channels {
            let at = slots.row(i) * channels + c;
            let mut state = match initial {
                [Some(num), Some(den), Some(max)] => State { num: num[at], den: den[at], max: max[at] },
                _ => EMPTY,
            };
            for (t, restart) in steps(i, len, op.reverse, seq_idx) {
                if restart {
                    state = EMPTY;
                }
                let here = (i * len + t) * channels + c;
                let next = state.with(decay_of([i, t, c]), weights[here], v[here]);
                let seen = match u {
                    Some(u) => state.with(0.0, u[c] + weights[here], v[here]),
                    None => next,
                };
                y[here] = seen.num / seen.den;
                state = next;
            }
            (num[at], den[at], max[at]) = (state.num, state.den, state.max);
        }
    }
    let rows = [slots.rows(), channels];
    Ok(vec![
        Tensor::floats(dtype, k.shape(), y)?,
        Tensor::floats(dtype, rows, num)?,
        Tensor::floats(dtype, rows, den)?,
        Tensor::floats(dtype, rows, max)?,
    ])
}
