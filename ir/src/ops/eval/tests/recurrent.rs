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
            for (c, bonus) in u.iter().enumerate() {
                let at = |t: usize| t * channels + c;
                let weight = |s: usize| {
                    let own = if has_u { *bonus } else { 0.0 };
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

/// Operands of a mixer core: x, dt, a, b, c and the shape of one row of the states.
struct Mixer {
    op: &'static str,
    operands: Vec<Tensor>,
    state: Vec<usize>,
}

const BATCH: usize = 2;
const LEN: usize = 4;
const STATES: usize = 3;

fn mixers() -> Vec<Mixer> {
    let operands = |x: &[usize], a: &[usize]| {
        let dt: Vec<f64> = noise(2, BATCH * LEN * 4).iter().map(|dt| dt.abs()).collect();
        vec![
            noisy(1, x),
            f32s(&[BATCH, LEN, 2, 2], &dt),
            noisy(3, a),
            noisy(4, &[BATCH, LEN, 2, STATES]),
            noisy(5, &[BATCH, LEN, 2, STATES]),
        ]
    };
    vec![
        Mixer {
            op: "ssm.selective_scan",
            operands: operands(&[BATCH, LEN, 2, 2], &[2, 2, STATES]),
            state: vec![2, 2, STATES],
        },
        Mixer {
            op: "ssm.ssd",
            operands: operands(&[BATCH, LEN, 2, 2, 3], &[2, 2]),
            state: vec![2, 2, 3, STATES],
        },
    ]
}

fn with_rows(rows: usize, rest: &[usize]) -> Vec<usize> {
    [&[rows], rest].concat()
}

impl Mixer {
    fn run(&self, attrs: &str, h0: &Tensor, slots: Option<Tensor>) -> Vec<Tensor> {
        let mut args: Vec<_> = self.operands.iter().cloned().map(Some).collect();
        args.extend([None, None, None, Some(h0.clone()), None, slots]);
        let x = self.operands[0].shape().to_vec();
        let results = [(DType::F32, x), (DType::F32, h0.shape().to_vec())];
        apply(&format!("{} {attrs}", self.op), &args, &results, "").unwrap()
    }

    /// Every state, the initial one first: batch, step, then the rest.
    fn states(&self, rule: &str, h0: &Tensor) -> Vec<f64> {
        let mut args: Vec<_> = self.operands[..4].iter().cloned().map(Some).collect();
        args.push(Some(h0.clone()));
        let history = [&[BATCH, LEN], &self.state[..]].concat();
        let results = [(DType::F32, history), (DType::F32, h0.shape().to_vec())];
        let op = format!("ssm.discretized_scan {{discretization={rule}}}");
        let h = apply(&op, &args, &results, "").unwrap().remove(0).to_f64();
        let n: usize = self.state.iter().product();
        let rows = |i: usize| [&h0.to_f64()[i * n..(i + 1) * n], &h[i * LEN * n..(i + 1) * LEN * n]].concat();
        (0..BATCH).flat_map(rows).collect()
    }
}

/// Each discretization and read-out against the states of the discretized scan.
#[test]
fn mixers_read_the_states_of_the_discretized_scan() {
    for mixer in mixers() {
        let h0 = noisy(7, &with_rows(BATCH, &mixer.state));
        let n: usize = mixer.state.iter().product();
        let c = mixer.operands[4].to_f64();
        for rule in ["exp_euler", "zoh", "bilinear"] {
            let h = mixer.states(rule, &h0);
            for (read_out, shift) in [("after", 1), ("before", 0)] {
                let attrs = format!("{{discretization={rule}, read_out={read_out}}}");
                let found = mixer.run(&attrs, &h0, None).remove(0);
                let mut y = Vec::new();
                for row in 0..BATCH * LEN {
                    let (batch, t) = (row / LEN, row % LEN);
                    let h = &h[(batch * (LEN + 1) + t + shift) * n..][..n];
                    for (channel, h) in h.chunks(STATES).enumerate() {
                        let group = channel / (n / STATES / 2);
                        let c = &c[(row * 2 + group) * STATES..][..STATES];
                        y.push(h.iter().zip(c).map(|(h, c)| h * c).sum());
                    }
                }
                let expected = f32s(found.shape(), &y);
                assert_close(&found, &expected, 1e-12, &format!("{} {attrs}", mixer.op));
            }
        }
    }
}

/// With slots: the rows taken out of the pool, and put back.
#[test]
fn slots_take_rows_of_the_pool_and_put_them_back() {
    let slots: [usize; BATCH] = [4, 1];
    for mixer in mixers() {
        let pool = noisy(7, &with_rows(5, &mixer.state));
        let n: usize = mixer.state.iter().product();
        let mut rows = pool.to_f64();
        let h0: Vec<f64> = slots.iter().flat_map(|s| rows[s * n..(s + 1) * n].to_vec()).collect();
        let h0 = f32s(&with_rows(BATCH, &mixer.state), &h0);
        let expected = mixer.run("", &h0, None);
        for (i, slot) in slots.iter().enumerate() {
            rows[slot * n..(slot + 1) * n].copy_from_slice(&expected[1].to_f64()[i * n..(i + 1) * n]);
        }
        let found = mixer.run("", &pool, Some(i32s(&[BATCH], &[4, 1])));
        assert_close(&found[0], &expected[0], 0.0, mixer.op);
        assert_close(&found[1], &f32s(pool.shape(), &rows), 0.0, mixer.op);
    }
}

#[test]
fn a_slot_outside_of_the_pool_is_an_error() {
    let mixer = &mixers()[0];
    let pool = noisy(7, &with_rows(5, &mixer.state));
    for slot in [-1, 5] {
        let mut args: Vec<_> = mixer.operands.iter().cloned().map(Some).collect();
        args.extend([None, None, None, Some(pool.clone()), None, Some(i32s(&[BATCH], &[0, slot]))]);
        let results = [(DType::F32, mixer.operands[0].shape().to_vec()), (DType::F32, pool.shape().to_vec())];
        let error = apply(mixer.op, &args, &results, "").unwrap_err().to_string();
        assert!(error.contains(&format!("index {slot} is outside an extent of 5")), "{error}");
    }
}
