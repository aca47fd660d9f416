//! The matrix-state scan, step by step.

use super::scan::{Slots, seq_idx, steps};
use super::{Args, EvalError, arg, optional, optional_floats};
use crate::ops::{LinearAttention, ReadOut};
use crate::tensor::Tensor;

/// The state of one head: a row per key, a column per value.
type State = Vec<Vec<f64>>;

/// S^T x
fn read(state: &State, x: &[f64], values: usize) -> Vec<f64> {
    (0..values).map(|v| state.iter().zip(x).map(|(row, x)| row[v] * x).sum()).collect()
}

/// S + x y^T
fn add_outer(state: &mut State, x: &[f64], y: &[f64]) {
    for (row, x) in state.iter_mut().zip(x) {
        for (s, y) in row.iter_mut().zip(y) {
            *s += x * y;
        }
    }
}

pub(in crate::ops) fn linear_attention(op: &LinearAttention, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (q, k, v) = (arg(x, 0)?, arg(x, 1)?, arg(x, 2)?);
    let [batch, len, heads, per_head, keys] = *q.shape() else {
        return Err(EvalError::Missing { operand: 0 });
    };
    let values = v.shape().last().copied().unwrap_or(0);
    let dtype = q.dtype();
    let (q, k, v) = (q.as_floats()?, k.as_floats()?, v.as_floats()?);
    let (beta, h0) = (optional_floats(x, 4)?, optional_floats(x, 7)?);
    let (erase, write) = (optional_floats(x, 5)?, optional_floats(x, 6)?);
    let decay = optional(x, 3);
    let decay_of = |index: [usize; 4]| -> Result<f64, EvalError> {
        let Some(decay) = decay else { return Ok(1.0) };
        let at = index.iter().zip(decay.shape()).fold(0, |at, (i, n)| at * n + if *n == 1 { 0 } else { *i });
        Ok(decay.as_floats()?[at].exp())
    };
    let seq_idx = seq_idx(x, 8)?;
    let slots = Slots::of(optional(x, 9), optional(x, 7), batch)?;
    let n = keys * values;
    let mut last = slots.initial(h0, heads * n);
    let mut y = vec![0.0; batch * len * heads * per_head * values];
    for i in 0..batch {
        let row = slots.row(i);
        for head in 0..heads {
            let start = (row * heads + head) * n;
            let mut state: State = match h0 {
                Some(h0) => (0..keys).map(|k| h0[start + k * values..][..values].to_vec()).collect(),
                None => vec![vec![0.0; values]; keys],
            };
            for (t, restart) in steps(i, len, op.reverse, seq_idx) {
                if restart {
                    state = vec![vec![0.0; values]; keys];
                }
                let at = (i * len + t) * heads + head;
                let key = |x: &[f64]| x[at * keys..(at + 1) * keys].to_vec();
                let value = &v[at * values..(at + 1) * values];
                let before = state.clone();
                for (k, row) in state.iter_mut().enumerate() {
                    let decay = decay_of([i, t, head, k])?;
                    row.iter_mut().for_each(|s| *s *= decay);
                }
                let mut input = value.to_vec();
                if let Some(beta) = beta {
                    let known = read(&state, &key(k), values);
                    input = value.iter().zip(known).map(|(v, known)| beta[at] * (v - known)).collect();
                }
                if let (Some(erase), Some(write)) = (erase, write) {
                    let erased = read(&before, &key(erase), values);
                    add_outer(&mut state, &key(write), &erased);
                }
                add_outer(&mut state, &key(k), &input);
                let seen = match op.read_out {
                    ReadOut::After => &state,
                    ReadOut::Before if restart => &vec![vec![0.0; values]; keys],
                    ReadOut::Before => &before,
                };
                for r in 0..per_head {
                    let at = at * per_head + r;
                    let out = read(seen, &q[at * keys..(at + 1) * keys], values);
                    for (y, out) in y[at * values..].iter_mut().zip(out) {
                        *y = op.scale.get() * out;
                    }
                }
            }
            last[start..start + n].copy_from_slice(&state.concat());
        }
    }
    let h_last = [slots.rows(), heads, keys, values];
    Ok(vec![
        Tensor::floats(dtype, [batch, len, heads, per_head, values], y)?,
        Tensor::floats(dtype, h_last, last)?,
    ])
}
