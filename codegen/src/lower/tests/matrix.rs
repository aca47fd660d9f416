//! The matrix-state scan, with the layout ops that surround it in models, and the weighted mean.

use super::problem::{Case, Fill, Problem};
use ssmc_ir::DType::{self, BF16, F16, F32, F64};
use ssmc_ir::ops::{LinearAttention, ReadOut, UnaryFn, Wkv};

const LENGTHS: [(i64, i64); 5] = [(1, 0), (3, 1), (1, 2), (2, 9), (1, 33)];

/// What takes the old state to the new one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Transition {
    Diagonal,
    Delta,
    RankOne,
}
use Transition::{Delta, Diagonal, RankOne};

#[derive(Clone, Copy)]
struct Options {
    dtype: DType,
    /// Heads, queries per head, keys, values.
    extents: [i64; 4],
    transition: Transition,
    /// Batch, steps, heads and keys of the decay; nothing if there is none.
    decay: &'static str,
    h0: bool,
    seq_idx: bool,
    /// Rows of the state pool.
    slots: &'static [f64],
    op: fn() -> LinearAttention,
    v: Fill,
    decays: Fill,
}

const PLAIN: Options = Options {
    dtype: F32,
    extents: [2, 1, 4, 16],
    transition: Diagonal,
    decay: "",
    h0: false,
    seq_idx: false,
    slots: &[],
    op: LinearAttention::default,
    v: Fill::Noise(1.0),
    decays: Fill::Range(-2.0, 0.0),
};

fn problem(o: Options) -> Problem {
    let Options { dtype, extents: [heads, per_head, keys, values], .. } = o;
    let op = (o.op)();
    let name = format!(
        "linear_attention {dtype} {:?} {:?} decay={} h0={} seq={} slots={:?} {op:?}",
        o.extents, o.transition, o.decay, o.h0, o.seq_idx, o.slots
    );
    let mut case = Case::new(name);
    // The queries come in a wider projection, the values transposed.
    let wide = case.input(dtype, &format!("b,l,{}", heads * per_head * keys + 3), Fill::Noise(1.0));
    let part = case.b.slice(wide, 2, 3, heads * per_head * keys).unwrap();
    let q = super::problem::shape(&format!("b,l,{heads},{per_head},{keys}"));
    let q = case.b.reshape(part, q).unwrap();
    let key = format!("b,l,{heads},{keys}");
    let unit = Fill::Range(-0.5, 0.5);
    let k = case.input(dtype, &key, unit);
    let v = case.input(dtype, &format!("b,{heads},l,{values}"), o.v);
    let v = case.b.transpose(v, &[0, 2, 1, 3]).unwrap();
    let decay = (!o.decay.is_empty()).then(|| case.input(dtype, o.decay, o.decays));
    let beta = (o.transition == Delta).then(|| {
        let beta = case.input(dtype, &format!("b,l,{heads}"), Fill::Noise(1.0));
        case.b.unary(UnaryFn::Sigmoid, beta).unwrap()
    });
    let mut rank_one = || (o.transition == RankOne).then(|| case.input(dtype, &key, unit));
    let (erase, write) = (rank_one(), rank_one());
    let rows = if o.slots.is_empty() { "b".to_owned() } else { "7".to_owned() };
    let has_h0 = o.h0 || !o.slots.is_empty();
    let h0 = has_h0.then(|| case.input(dtype, &format!("{rows},{heads},{keys},{values}"), Fill::Noise(1.0)));
    let seq = o.seq_idx.then(|| case.input(DType::I32, "b,l", Fill::Sequences));
    let slots = (!o.slots.is_empty()).then(|| case.input(DType::I32, "b", Fill::Values(o.slots)));
    let operands = [Some(q), Some(k), Some(v), decay, beta, erase, write, h0, seq, slots];
    let results = case.node(op, &operands);
    let flat = super::problem::shape(&format!("b,l,{}", heads * per_head * values));
    let y = case.b.reshape(results[0], flat).unwrap();
    case.finish(&[y, results[1]])
}

fn before() -> LinearAttention {
    LinearAttention { read_out: ReadOut::Before, ..LinearAttention::default() }
}

fn reversed() -> LinearAttention {
    LinearAttention { reverse: true, scale: 0.25.into(), ..LinearAttention::default() }
}

#[test]
fn linear_attention_of_every_shape() {
    let shapes = [[1, 1, 1, 1], [2, 1, 3, 17], [1, 4, 16, 8], [3, 2, 33, 5], [1, 1, 40, 32]];
    let decays = ["", "b,l,H,1", "b,l,H,K", "1,1,H,1", "1,1,1,K"];
    for (i, extents) in shapes.into_iter().enumerate() {
        for (j, transition) in [Diagonal, Delta, RankOne].into_iter().enumerate() {
            let decay = decays[(i + 2 * j) % decays.len()];
            let decay = decay.replace('H', &extents[0].to_string()).replace('K', &extents[2].to_string());
            let o = Options {
                extents,
                transition,
                decay: Box::leak(decay.into_boxed_str()),
                h0: (i + j) % 2 == 0,
                seq_idx: i % 3 == 1,
                op: [LinearAttention::default, before, reversed][(i + j) % 3],
                ..PLAIN
            };
            problem(o).check(&LENGTHS);
        }
    }
}

#[test]
fn linear_attention_with_every_decay() {
    for transition in [Diagonal, Delta, RankOne] {
        for decay in ["", "b,l,2,1", "b,l,2,4", "b,l,1,1", "1,1,2,1", "1,1,1,4", "b,1,2,4", "1,l,1,1"] {
            for (seq_idx, op) in [(false, before as fn() -> LinearAttention), (true, reversed)] {
                let o = Options { transition, decay, seq_idx, op, h0: true, ..PLAIN };
                problem(o).check(&[(2, 7)]);
            }
        }
    }
}

#[test]
fn linear_attention_in_every_type() {
    for dtype in [F64, F16, BF16] {
        for transition in [Diagonal, Delta, RankOne] {
            let o = Options { dtype, transition, decay: "b,l,2,5", h0: true, ..PLAIN };
            problem(Options { extents: [2, 2, 5, 17], ..o }).check(&[(2, 9)]);
            problem(Options { extents: [2, 1, 35, 3], decay: "b,l,2,1", ..o }).check(&[(2, 9)]);
        }
    }
}

/// Rows of a pool, some named by none, one by two, in any order.
#[test]
fn linear_attention_on_a_state_pool() {
    for slots in [&[6.0, 2.0, 0.0][..], &[3.0, 3.0, 5.0]] {
        for op in [LinearAttention::default, before, reversed] {
            let o = Options { slots, op, decay: "b,l,2,1", transition: Delta, ..PLAIN };
            problem(o).check(&[(3, 1), (3, 0), (3, 5), (1, 2), (0, 1)]);
        }
    }
}

/// Decays from nothing to all, whose products would not be numbers.
#[test]
fn decays_of_any_size() {
    const DECAYS: &[f64] = &[-0.1, 0.0, -1e4, -1e-8, -80.0, -1e30, -3.0, f64::NEG_INFINITY, -0.5];
    for transition in [Diagonal, Delta] {
        for decay in ["b,l,2,1", "b,l,2,4"] {
            let o = Options { decays: Fill::Values(DECAYS), decay, transition, h0: true, ..PLAIN };
            problem(o).check(&[(1, 33)]);
        }
    }
}

/// A NaN or infinity reaches exactly the outputs that it reaches in the reference.
#[test]
fn what_is_not_finite_spreads_as_in_the_reference() {
    for salt in [f64::NAN, f64::INFINITY] {
        for transition in [Diagonal, Delta] {
            let o = Options { v: Fill::Salted(salt), transition, seq_idx: true, ..PLAIN };
            problem(Options { decay: "b,l,2,4", ..o }).check(&[(2, 9)]);
        }
        let o = Options { decays: Fill::Salted(salt), decay: "b,l,2,1", ..PLAIN };
        problem(o).check(&[(2, 9)]);
    }
}

/// A weighted mean: decay, bonus, states, packed sequences, slots.
fn wkv(dtype: DType, w: &str, channels: i64, present: u32, k: Fill) -> Problem {
    let has = |bit: u32| present & bit != 0;
    let mut case = Case::new(format!("wkv {dtype} w={w} c={channels} present={present:#b} {k:?}"));
    let all = format!("b,l,{channels}");
    let w = case.input(dtype, w, Fill::Range(-3.0, 0.0));
    let k = case.input(dtype, &all, k);
    let v = case.input(dtype, &all, Fill::Noise(1.0));
    let u = has(1).then(|| case.input(dtype, &channels.to_string(), Fill::Noise(1.0)));
    let rows = if has(8) { "7" } else { "b" };
    let state = format!("{rows},{channels}");
    let mut states = |fill| (has(2) || has(8)).then(|| case.input(dtype, &state, fill));
    let (num, den) = (states(Fill::Noise(2.0)), states(Fill::Range(0.5, 2.0)));
    let max = states(Fill::Noise(3.0));
    let seq = has(4).then(|| case.input(DType::I32, "b,l", Fill::Sequences));
    let slots = has(8).then(|| case.input(DType::I32, "b", Fill::Values(&[5.0, 0.0, 5.0])));
    let op = Wkv { reverse: has(16) };
    let results = case.node(op, &[Some(w), Some(k), Some(v), u, num, den, max, seq, slots]);
    let y = case.b.unary(UnaryFn::Neg, results[0]).unwrap();
    case.finish(&[y, results[1], results[2], results[3]])
}

#[test]
fn weighted_means() {
    for present in 0..32 {
        let w = ["1,1,19", "b,l,19", "1,l,1", "1,1,1"][present as usize % 4];
        wkv(F32, w, 19, present, Fill::Noise(2.0)).check(&[(3, 0), (3, 1), (1, 7)]);
    }
    for channels in [1, 16, 33] {
        let w = format!("1,1,{channels}");
        wkv(F32, &w, channels, 3, Fill::Noise(2.0)).check(&[(2, 9)]);
    }
    for dtype in [F64, F16, BF16] {
        wkv(dtype, "1,1,5", 5, 3, Fill::Noise(2.0)).check(&[(2, 9)]);
    }
}

/// Exponents whose exponentials are no numbers, weights of nothing, and what is not finite.
#[test]
fn weights_of_any_size() {
    const EXPONENTS: &[f64] = &[80.0, -80.0, 0.5, 3e4, f64::NEG_INFINITY, -3e4, 1.0];
    for present in [0, 1, 4, 5] {
        wkv(F32, "1,1,5", 5, present, Fill::Values(EXPONENTS)).check(&[(1, 33)]);
        wkv(F32, "1,1,5", 5, present, Fill::Values(&[f64::NEG_INFINITY])).check(&[(1, 3)]);
        wkv(F32, "1,1,5", 5, present, Fill::Salted(f64::NAN)).check(&[(2, 9)]);
    }
}
