//! State space duality in chunks, written independently of the recurrence in [`scan`](super::scan).
//!
//! The matrix form of Dao & Gu 2024, listing 1, for one sequence and one head: within a chunk the outputs are
//! `(L o (C B^T)) X` with `L = exp(segsum(dt*a))`; between chunks the state is passed on.

use crate::tensor::Tensor;
use crate::testing::{apply, assert_close, f32s, noise, noisy};
use crate::types::DType;

type Matrix = Vec<Vec<f64>>;

/// `s[i][j]` = sum of a over `j+1..=i`; minus infinity above the diagonal.
fn segsum(a: &[f64]) -> Matrix {
    let entry = |i: usize, j: usize| if j > i { f64::NEG_INFINITY } else { a[j + 1..=i].iter().sum() };
    (0..a.len()).map(|i| (0..a.len()).map(|j| entry(i, j)).collect()).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// One head of one sequence. `x`: L rows of P (already times dt), `decay`: dt*a of each step, `b`, `c`: L rows of N,
/// `state`: P rows of N, the initial one before and the last one after the call. Returns L rows of P.
fn chunked(
    x: &Matrix,
    decay: &[f64],
    b: &Matrix,
    c: &Matrix,
    state: &mut Matrix,
    chunk_size: usize,
) -> Matrix {
    let mut y = Matrix::new();
    for start in (0..x.len()).step_by(chunk_size) {
        let end = (start + chunk_size).min(x.len());
        let (x, decay, b, c) = (&x[start..end], &decay[start..end], &b[start..end], &c[start..end]);
        let between = segsum(decay);
        let from_start: Vec<f64> = (0..x.len()).map(|i| decay[..=i].iter().sum::<f64>().exp()).collect();
        for i in 0..x.len() {
            let weights: Vec<f64> = (0..x.len()).map(|j| between[i][j].exp() * dot(&c[i], &b[j])).collect();
            let row = |p: usize| {
                let inside: f64 = weights.iter().zip(x).map(|(w, x)| w * x[p]).sum();
                inside + from_start[i] * dot(&c[i], &state[p])
            };
            y.push((0..state.len()).map(row).collect());
        }
        let last = x.len() - 1;
        for (p, row) in state.iter_mut().enumerate() {
            for (n, s) in row.iter_mut().enumerate() {
                let added: f64 = (0..x.len()).map(|j| between[last][j].exp() * x[j][p] * b[j][n]).sum();
                *s = from_start[last] * *s + added;
            }
        }
    }
    y
}

const BATCH: usize = 2;
const GROUPS: usize = 2;
const HEADS: usize = 2;
const CHANNELS: usize = 3;
const STATE: usize = 4;

fn compare(len: usize, chunk_size: usize) {
    let seed = (len * 100 + chunk_size) as u64;
    let x = noisy(seed, &[BATCH, len, GROUPS, HEADS, CHANNELS]);
    let dt: Vec<f64> = noise(seed + 1, BATCH * len * GROUPS * HEADS).iter().map(|v| v.abs()).collect();
    let dt = f32s(&[BATCH, len, GROUPS, HEADS], &dt);
    let a: Vec<f64> = noise(seed + 2, GROUPS * HEADS).iter().map(|v| -v.abs() - 0.1).collect();
    let a = f32s(&[GROUPS, HEADS], &a);
    let b = noisy(seed + 3, &[BATCH, len, GROUPS, STATE]);
    let c = noisy(seed + 4, &[BATCH, len, GROUPS, STATE]);
    let h0 = noisy(seed + 5, &[BATCH, GROUPS, HEADS, CHANNELS, STATE]);
    let all = [&x, &dt, &a, &b, &c].map(|t| Some(t.clone()));
    let args = [&all[..], &[None, None, None, Some(h0.clone())]].concat();
    let types = [(DType::F32, x.shape().to_vec()), (DType::F32, h0.shape().to_vec())];
    let op = format!("ssm.ssd {{chunk_size={chunk_size}, mode=chunked}}");
    let found = apply(&op, &args, &types, "").unwrap();

    let read = |t: &Tensor, at: usize, n: usize| t.as_floats().unwrap()[at * n..(at + 1) * n].to_vec();
    let mut y = vec![0.0; x.len()];
    let mut last = Vec::new();
    for batch in 0..BATCH {
        for head in 0..GROUPS * HEADS {
            let row = |t: usize| (batch * len + t) * GROUPS * HEADS + head;
            let group_row = |t: usize| (batch * len + t) * GROUPS + head / HEADS;
            let step = |t: usize| dt.as_floats().unwrap()[row(t)];
            let decay: Vec<f64> = (0..len).map(|t| step(t) * a.as_floats().unwrap()[head]).collect();
            let scaled = |t: usize| read(&x, row(t), CHANNELS).iter().map(|x| x * step(t)).collect();
            let xs: Matrix = (0..len).map(scaled).collect();
            let bs: Matrix = (0..len).map(|t| read(&b, group_row(t), STATE)).collect();
            let cs: Matrix = (0..len).map(|t| read(&c, group_row(t), STATE)).collect();
            let first = (batch * GROUPS * HEADS + head) * CHANNELS;
            let mut state: Matrix = (0..CHANNELS).map(|p| read(&h0, first + p, STATE)).collect();
            for (t, out) in chunked(&xs, &decay, &bs, &cs, &mut state, chunk_size).into_iter().enumerate() {
                y[row(t) * CHANNELS..(row(t) + 1) * CHANNELS].copy_from_slice(&out);
            }
            last.extend(state.into_iter().flatten());
        }
    }
    let what = format!("length {len}, chunk {chunk_size}");
    assert_close(&found[0], &f32s(x.shape(), &y), 1e-12, &what);
    assert_close(&found[1], &f32s(h0.shape(), &last), 1e-12, &what);
}

#[test]
fn chunks_equal_the_recurrence_for_any_size() {
    for len in [0, 1, 2, 7, 13, 16] {
        for chunk_size in [1, 2, 3, 4, 8, 16, 64] {
            compare(len, chunk_size);
        }
    }
}

#[test]
fn a_wrong_carry_is_seen() {
    let x: Matrix = vec![vec![1.0]; 4];
    let (b, c) = (x.clone(), x.clone());
    let run = |chunk_size| chunked(&x, &[-0.1; 4], &b, &c, &mut vec![vec![5.0]], chunk_size);
    let whole = run(4);
    assert!((whole[3][0] - run(2)[3][0]).abs() < 1e-12);
    // Without the state that the first chunk passes on, the third output differs.
    let cut = chunked(&x[2..].to_vec(), &[-0.1; 2], &b, &c, &mut vec![vec![0.0]], 2);
    assert!((whole[2][0] - cut[0][0]).abs() > 0.1);
}
