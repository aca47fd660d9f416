//! Matrix-state scans and weighted means.

use super::{Case, case, partial};
use crate::tensor::Tensor;
use crate::testing::{apply, assert_close, f32s, i32s, noise, noisy};
use crate::types::DType;

/// One number for one head.
fn one(rank: usize, x: &[f64]) -> Tensor {
    let mut shape = vec![1; rank];
    shape[1] = x.len();
    f32s(&shape, x)
}

pub(super) fn cases() -> Vec<Case> {
    let ln = f64::ln;
    vec![
        // S = 6, then 0.5*6 + 5.
        partial(
            "ssm.linear_attention",
            vec![
                Some(one(5, &[1.0, 2.0])),
                Some(one(4, &[3.0, 1.0])),
                Some(one(4, &[2.0, 5.0])),
                Some(f32s(&[1, 1, 1, 1], &[0.5f64.ln()])),
            ],
            vec![one(5, &[6.0, 16.0]), f32s(&[1, 1, 1, 1], &[8.0])],
        ),
        // The state decays to 5 and answers 10 for the key 2; half of what is missing to 4 is written.
        partial(
            "ssm.linear_attention {scale=2.0}",
            vec![
                Some(one(5, &[3.0])),
                Some(one(4, &[2.0])),
                Some(one(4, &[4.0])),
                Some(one(4, &[0.5f64.ln()])),
                Some(one(3, &[0.5])),
                None,
                None,
                Some(f32s(&[1, 1, 1, 1], &[10.0])),
            ],
            vec![one(5, &[-6.0]), f32s(&[1, 1, 1, 1], &[-1.0])],
        ),
        // 10 + 2*(0.1*10) + 1; the output sees the 10.
        partial(
            "ssm.linear_attention {read_out=before}",
            vec![
                Some(one(5, &[3.0])),
                Some(one(4, &[1.0])),
                Some(one(4, &[1.0])),
                None,
                None,
                Some(one(4, &[0.1])),
                Some(one(4, &[2.0])),
                Some(f32s(&[1, 1, 1, 1], &[10.0])),
            ],
            vec![one(5, &[30.0]), f32s(&[1, 1, 1, 1], &[13.0])],
        ),
        // Two queries on one state of two keys and one value; from the last step to the first.
        partial(
            "ssm.linear_attention {reverse=true}",
            vec![
                Some(f32s(&[1, 2, 1, 2, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 0.0])),
                Some(f32s(&[1, 2, 1, 2], &[1.0, 2.0, 3.0, 4.0])),
                Some(f32s(&[1, 2, 1, 1], &[10.0, 1.0])),
            ],
            vec![f32s(&[1, 2, 1, 2, 1], &[13.0, 24.0, 7.0, 6.0]), f32s(&[1, 1, 2, 1], &[13.0, 24.0])],
        ),
        // Rows 2 and 0 of a pool of three.
        partial(
            "ssm.linear_attention",
            vec![
                Some(f32s(&[2, 1, 1, 1, 1], &[1.0, 1.0])),
                Some(f32s(&[2, 1, 1, 1], &[1.0, 1.0])),
                Some(f32s(&[2, 1, 1, 1], &[10.0, 20.0])),
                None,
                None,
                None,
                None,
                Some(f32s(&[3, 1, 1, 1], &[1.0, 2.0, 3.0])),
                None,
                Some(i32s(&[2], &[2, 0])),
            ],
            vec![f32s(&[2, 1, 1, 1, 1], &[13.0, 21.0]), f32s(&[3, 1, 1, 1], &[21.0, 2.0, 13.0])],
        ),
        // Weights 1, then 3 beside 1/2.
        case(
            "ssm.wkv",
            vec![f32s(&[1, 1, 1], &[ln(0.5)]), one(3, &[0.0, ln(3.0)]), one(3, &[7.0, 0.0])],
            vec![
                one(3, &[7.0, 1.0]),
                f32s(&[1, 1], &[3.5 / 3.0]),
                f32s(&[1, 1], &[3.5 / 3.0]),
                f32s(&[1, 1], &[ln(3.0)]),
            ],
        ),
        // The present step has weight 2*3 beside the 1 of the state; the state is of another sequence in step 2.
        partial(
            "ssm.wkv",
            vec![
                Some(f32s(&[1, 1, 1], &[ln(0.5)])),
                Some(one(3, &[ln(3.0), 1000.0])),
                Some(one(3, &[0.0, 5.0])),
                Some(f32s(&[1], &[ln(2.0)])),
                Some(f32s(&[1, 1], &[7.0])),
                Some(f32s(&[1, 1], &[1.0])),
                Some(f32s(&[1, 1], &[0.0])),
                Some(i32s(&[1, 2], &[0, 1])),
            ],
            vec![one(3, &[1.0, 5.0]), f32s(&[1, 1], &[5.0]), f32s(&[1, 1], &[1.0]), f32s(&[1, 1], &[1000.0])],
        ),
    ]
}

const SHAPE: [usize; 4] = [2, 5, 3, 4];

fn attention(attrs: &str, operands: [Option<Tensor>; 6]) -> Vec<Tensor> {
    let [k, v, decay, beta, erase, write] = operands;
    let [batch, len, heads, keys] = SHAPE;
    let args = [
        Some(noisy(1, &[batch, len, heads, 2, keys])),
        k,
        v,
        decay,
        beta,
        erase,
        write,
        Some(noisy(2, &[batch, heads, keys, 2])),
    ];
    let results = [(DType::F32, vec![batch, len, heads, 2, 2]), (DType::F32, vec![batch, heads, keys, 2])];
    apply(&format!("ssm.linear_attention {attrs}"), &args, &results, "").unwrap()
}

/// The delta rule is a transition of rank one: it erases along the decayed key and writes along the scaled one.
#[test]
fn the_delta_rule_is_a_rank_one_transition() {
    let [batch, len, heads, keys] = SHAPE;
    let (k, v) = (noise(3, 120), noise(4, 60));
    let (decay, beta) = (noise(5, 120), noise(6, 30));
    let map = |n: usize, f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<_>>();
    let key = |x: Vec<f64>| Some(f32s(&SHAPE, &x));
    let value = |x: Vec<f64>| Some(f32s(&[batch, len, heads, 2], &x));
    let erase = map(120, &|i| -decay[i].exp() * k[i]);
    let write = map(120, &|i| beta[i / keys] * k[i]);
    let input = map(60, &|i| beta[i / 2] * v[i]);
    for attrs in ["", "{read_out=before, reverse=true, scale=0.5}"] {
        let delta = attention(
            attrs,
            [
                key(k.clone()),
                value(v.clone()),
                key(decay.clone()),
                Some(f32s(&[batch, len, heads], &beta)),
                None,
                None,
            ],
        );
        let rank_one = attention(
            attrs,
            [
                key(k.clone()),
                value(input.clone()),
                key(decay.clone()),
                None,
                key(erase.clone()),
                key(write.clone()),
            ],
        );
        for (delta, rank_one) in delta.iter().zip(&rank_one) {
            assert_close(delta, rank_one, 1e-12, attrs);
        }
    }
}

/// The mean by its definition: every pair of steps, no maximum.
#[test]
fn the_stabilized_mean_is_the_mean() {
    let (len, channels) = (9, 3);
    let n = len * channels;
    let (w, k, v, u) = (noise(1, n), noise(2, n), noise(3, n), noise(4, channels));
    for (scale, has_u) in [(1.0, false), (1.0, true), (20.0, true), (20.0, false)] {
        let k: Vec<f64> = k.iter().map(|k| k * scale).collect();
        let shape = [1, len, channels];
        let args = [
            Some(f32s(&shape, &w)),
            Some(f32s(&shape, &k)),
            Some(f32s(&shape, &v)),
            has_u.then(|| f32s(&[channels], &u)),
        ];
        let state = (DType::F32, vec![1, channels]);
        let results = [(DType::F32, shape.to_vec()), state.clone(), state.clone(), state];
        let found = apply("ssm.wkv", &args, &results, "").unwrap();
        let mut y = Vec::new();
        for t in 0..len {
            for c in 0..channels {
                let at = |t: usize| t * channels + c;
                let weight = |s: usize| {
                    let own = if has_u { u[c] } else { 0.0 };
                    // With u the state before the step counts, which has not decayed by it.
                    let decays = if has_u { s + 1..t } else { s + 1..t + 1 };
                    let decay: f64 = if s < t { decays.map(|i| w[at(i)]).sum() } else { own };
                    (decay + k[at(s)]).exp()
                };
                let sum: f64 = (0..=t).map(weight).sum();
                y.push((0..=t).map(|s| weight(s) * v[at(s)]).sum::<f64>() / sum);
            }
        }
        assert_close(&found[0], &f32s(&shape, &y), 1e-12, "mean");
    }
}

/// A step without weight changes nothing, even before the first one with any.
#[test]
fn steps_without_weight_leave_the_mean() {
    let none = f64::NEG_INFINITY;
    let args =
        [Some(f32s(&[1, 1, 1], &[-0.5])), Some(one(3, &[none, 2.0, none])), Some(one(3, &[3.0, 4.0, 5.0]))];
    let state = (DType::F32, vec![1, 1]);
    let results = [(DType::F32, vec![1, 3, 1]), state.clone(), state.clone(), state];
    let found = apply("ssm.wkv", &args, &results, "").unwrap();
    assert_close(&found[0], &one(3, &[f64::NAN, 4.0, 4.0]), 1e-12, "mean");
    assert_close(&found[3], &f32s(&[1, 1], &[1.5]), 1e-12, "maximum");
}
