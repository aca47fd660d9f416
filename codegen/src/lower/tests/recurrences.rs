//! Scans whose every state is a result, running sums and the short convolution.

use super::problem::{Case, Fill};
use ssmc_ir::DType::{self, BF16, F16, F32, F64, I8, I64};
use ssmc_ir::ops::{
    Activation, CausalConv1d, CumSum, Discretization, DiscretizedScan, Reverse, Scan, UnaryFn,
};

const LENGTHS: [(i64, i64); 4] = [(1, 0), (3, 1), (2, 8), (1, 33)];

fn scan(dtype: DType, a: &str, b: &str, (has_h0, has_seq, reverse): (bool, bool, bool)) {
    let mut case = Case::new(format!("scan {dtype} {a} {b} h0={has_h0} seq={has_seq} reverse={reverse}"));
    let a = case.input(dtype, a, Fill::Range(-0.9, 0.99));
    let b = case.input(dtype, b, Fill::Noise(1.0));
    // The coefficients come out of an elementwise prologue and a reversed axis.
    let a = case.b.unary(UnaryFn::Abs, a).unwrap();
    let reversed = case.op(Reverse { axis: 1 }, &[b]);
    let state: Vec<_> =
        case.b.shape(b).iter().enumerate().filter(|(i, _)| *i != 1).map(|x| x.1.to_string()).collect();
    let h0 = has_h0.then(|| case.input(dtype, &state.join(","), Fill::Noise(1.0)));
    let seq = has_seq.then(|| case.input(DType::I32, "b,l", Fill::Sequences));
    let results = case.node(Scan { reverse }, &[Some(a), Some(reversed), h0, seq]);
    let y = case.b.unary(UnaryFn::Neg, results[0]).unwrap();
    case.finish(&[y, results[1]]).check(&LENGTHS);
}

#[test]
fn scans() {
    let shapes = [
        ("b,l", "b,l"),
        ("b,l,17", "b,l,17"),
        ("b,l,3,16", "b,l,3,16"),
        ("1,1,1,5", "b,l,2,5"),
        ("b,l,3,1", "b,l,3,9"),
        ("b,1,1,1", "b,l,1,4"),
    ];
    for (i, (a, b)) in shapes.into_iter().enumerate() {
        scan(F32, a, b, (false, false, i % 2 == 0));
        scan(F32, a, b, (true, i % 2 == 1, i % 2 == 1));
    }
    for dtype in [F64, F16, BF16] {
        scan(dtype, "b,l,2,5", "b,l,2,5", (true, true, false));
    }
}

/// Rows of a pool, some named by none, one by two.
#[test]
fn scans_on_a_state_pool() {
    for slots in [&[6.0, 2.0, 0.0][..], &[3.0, 3.0, 5.0]] {
        for dims in ["", ",3,5"] {
            let mut case = Case::new(format!("scan{dims} with slots {slots:?}"));
            let a = case.input(F32, &format!("b,l{dims}"), Fill::Range(-0.9, 0.99));
            let b = case.input(F32, &format!("b,l{dims}"), Fill::Noise(1.0));
            let h0 = case.input(F32, &format!("7{dims}"), Fill::Noise(1.0));
            let slots = case.input(DType::I32, "b", Fill::Values(slots));
            let op = Scan { reverse: false };
            let results = case.node(op, &[Some(a), Some(b), Some(h0), None, Some(slots)]);
            case.finish(&results).check(&[(3, 1), (3, 0), (3, 5), (0, 1)]);
        }
    }
    let mut case = Case::new("discretized scan with slots");
    let x = case.input(F32, "b,l,2,3", Fill::Noise(1.0));
    let dt = case.input(F32, "b,l,2,3", Fill::Range(0.01, 1.0));
    let a = case.weight(F32, "2,3,9", Fill::Range(-1.0, 0.1));
    let b = case.input(F32, "b,l,2,9", Fill::Noise(1.0));
    let h0 = case.input(F32, "7,2,3,9", Fill::Noise(1.0));
    let slots = case.input(DType::I32, "b", Fill::Values(&[4.0, 1.0, 4.0]));
    let op = DiscretizedScan { discretization: Discretization::ExpEuler, reverse: false };
    let results = case.node(op, &[Some(x), Some(dt), Some(a), Some(b), Some(h0), None, Some(slots)]);
    case.finish(&results).check(&[(3, 1), (3, 5)]);
}

#[test]
fn discretized_scans() {
    use Discretization::{Bilinear, ExpEuler, Zoh};
    for (i, discretization) in [ExpEuler, Zoh, Bilinear].into_iter().enumerate() {
        for scalar_decay in [false, true] {
            for dtype in [F32, F64, BF16] {
                let reverse = i % 2 == 0;
                let mut case = Case::new(format!("{discretization:?} {dtype} scalar decay={scalar_decay}"));
                let (x, a) = if scalar_decay { ("b,l,2,3,5", "2,3") } else { ("b,l,2,3", "2,3,9") };
                let x = case.input(dtype, x, Fill::Noise(1.0));
                let dt = case.input(dtype, "b,l,2,3", Fill::Range(0.01, 1.0));
                let a = case.weight(dtype, a, Fill::Range(-1.0, 0.1));
                let b = case.input(dtype, "b,l,2,9", Fill::Noise(1.0));
                let h0 = if scalar_decay { "b,2,3,5,9" } else { "b,2,3,9" };
                let h0 = case.input(dtype, h0, Fill::Noise(1.0));
                let seq = (i > 0).then(|| case.input(DType::I32, "b,l", Fill::Sequences));
                let op = DiscretizedScan { discretization, reverse };
                let results = case.node(op, &[Some(x), Some(dt), Some(a), Some(b), Some(h0), seq]);
                case.finish(&results).check(&[(2, 0), (2, 7)]);
            }
        }
    }
}

/// exp(dt*a) - 1 over a has the limit dt where a is 0.
#[test]
fn zero_order_hold_without_decay() {
    let mut case = Case::new("zoh at a = 0");
    let x = case.input(F32, "b,l,1,3", Fill::Noise(1.0));
    let dt = case.input(F32, "b,l,1,3", Fill::Range(0.01, 1.0));
    let a = case.weight(F32, "1,3,4", Fill::Range(0.0, 0.0));
    let b = case.input(F32, "b,l,1,4", Fill::Noise(1.0));
    let op = DiscretizedScan { discretization: Discretization::Zoh, reverse: false };
    let results = case.node(op, &[Some(x), Some(dt), Some(a), Some(b)]);
    case.finish(&results).check(&[(2, 5)]);
}

#[test]
fn running_sums() {
    for (dims, axis) in [("l", 0), ("b,l", 1), ("b,l", 0), ("b,l,17", 1), ("b,3,l", 1), ("b,1,l,1", 2)] {
        for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
            for dtype in [F32, F64, I8, I64, BF16] {
                let mut case = Case::new(format!("cumsum {dtype} {dims} {axis} {exclusive} {reverse}"));
                let scale = if dtype.is_int() { 100.0 } else { 1.0 };
                let x = case.input(dtype, dims, Fill::Noise(scale));
                let y = case.op(CumSum { axis, exclusive, reverse }, &[x]);
                case.finish(&[y]).check(&[(2, 0), (3, 9)]);
            }
        }
    }
}

fn conv(dtype: DType, channels: i64, width: i64, options: u32) {
    let mut case = Case::new(format!("causal_conv1d {dtype} c={channels} k={width} options={options:#b}"));
    let has = |bit: u32| options & bit != 0;
    let wide = case.input(dtype, &format!("b,l,{}", channels + 5), Fill::Noise(1.0));
    let x = case.b.slice(wide, 2, 2, channels).unwrap();
    let stored = if dtype == F64 { F32 } else { dtype };
    let w = case.weight(stored, &format!("{channels},1,{width}"), Fill::Noise(1.0));
    let w = case.b.cast(w, dtype).unwrap();
    let w = case.b.reshape(w, super::problem::shape(&format!("{channels},{width}"))).unwrap();
    let bias = has(1).then(|| case.weight(dtype, &channels.to_string(), Fill::Noise(1.0)));
    let state = has(2).then(|| case.input(dtype, &format!("b,{},{channels}", width - 1), Fill::Noise(1.0)));
    let seq = has(4).then(|| case.input(DType::I32, "b,l", Fill::Sequences));
    let activation = if has(8) { Activation::Silu } else { Activation::None };
    let results = case.node(CausalConv1d { activation }, &[Some(x), Some(w), bias, state, seq]);
    case.finish(&results).check(&[(1, 0), (2, 1), (3, 2), (1, 9)]);
}

#[test]
fn short_convolutions() {
    for (i, channels) in [1, 3, 16, 17, 48, 96].into_iter().enumerate() {
        for width in [1, 2, 4] {
            conv(F32, channels, width, (i as u32 * 3 + width as u32 * 5) % 16);
        }
    }
    for options in 0..16 {
        conv(F32, 5, 3, options);
    }
    for dtype in [F64, F16, BF16] {
        conv(dtype, 17, 4, 15);
        conv(dtype, 17, 4, 0);
    }
}
