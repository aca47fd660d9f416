//! Long convolutions, Fourier transforms and complex scans.

use super::problem::{Case, Fill};
use ssmc_ir::DType::{self, BF16, F16, F32, F64};
use ssmc_ir::Dim;
use ssmc_ir::ops::{ComplexScan, Dft, LongConv, UnaryFn};

/// Around the tile of steps.
const LENGTHS: [(i64, i64); 6] = [(2, 0), (1, 1), (2, 7), (1, 8), (2, 9), (1, 33)];

/// Options: 1 a kernel for each sequence, 2 a history, 4 final history wanted.
fn long_conv(dtype: DType, channels: i64, width: &str, lead: i64, options: u32) {
    let mut case =
        Case::new(format!("long_conv {dtype} e={channels} k={width} lead={lead} options={options:#b}"));
    let has = |bit: u32| options & bit != 0;
    let x = case.input(dtype, &format!("b,l,{channels}"), Fill::Noise(1.0));
    let k = if has(1) { format!("b,{width},{channels}") } else { format!("{width},{channels}") };
    let k = case.input(dtype, &k, Fill::Noise(1.0));
    let history = has(2).then(|| {
        let tail = width.parse::<i64>().unwrap() - 1;
        case.input(dtype, &format!("b,{tail},{channels}"), Fill::Noise(1.0))
    });
    let results = case.node(LongConv { lead: Dim::from(lead) }, &[Some(x), Some(k), history]);
    let y = case.b.unary(UnaryFn::Neg, results[0]).unwrap();
    let outputs = if has(4) { vec![y, results[1]] } else { vec![y] };
    case.finish(&outputs).check(&LENGTHS);
}

#[test]
fn long_convolutions() {
    for (i, width) in ["1", "3", "8", "9", "40", "l"].into_iter().enumerate() {
        for channels in [1, 17, 96] {
            let options = if width == "l" { i as u32 % 2 } else { (i as u32 + channels as u32) % 8 };
            long_conv(F32, channels, width, 0, options);
        }
    }
    for options in 0..8 {
        long_conv(F32, 5, "12", 0, options);
    }
    for dtype in [F64, F16, BF16] {
        long_conv(dtype, 17, "11", 0, 7);
    }
}

#[test]
fn convolutions_that_look_ahead() {
    for lead in [1, 2, 11, 40] {
        long_conv(F32, 9, "12", lead, (lead % 2) as u32);
        long_conv(F32, 9, "41", lead, 4);
    }
}

#[test]
fn infinities_and_nans_stay_in_their_channel() {
    for salt in [f64::INFINITY, f64::NAN] {
        let mut case = Case::new(format!("long_conv with {salt}"));
        let x = case.input(F32, "b,l,5", Fill::Salted(salt));
        let k = case.weight(F32, "6,5", Fill::Range(0.1, 1.0));
        let y = case.op(LongConv { lead: Dim::from(0) }, &[x, k]);
        case.finish(&[y]).check(&[(2, 9)]);
    }
}

fn dft(dtype: DType, dims: &str, op: Dft, is_complex: bool) {
    let mut case = Case::new(format!("{op:?} {dtype} {dims} complex={is_complex}"));
    let re = case.input(dtype, dims, Fill::Noise(1.0));
    let im = is_complex.then(|| case.input(dtype, dims, Fill::Noise(1.0)));
    let results = case.node(op, &[Some(re), im]);
    let y = case.b.unary(UnaryFn::Neg, results[0]).unwrap();
    case.finish(&[y, results[1]]).check(&[(2, 1), (1, 7), (2, 8)]);
}

#[test]
fn fourier_transforms() {
    let double = Dim::symbol("l") * Dim::from(2);
    for (dims, axis) in [("b,l", 1), ("l,b", 0), ("b,l,17", 1), ("b,3,l,1", 2)] {
        for length in [Dim::symbol("l"), double.clone(), Dim::from(5)] {
            for (inverse, onesided) in [(false, false), (false, true), (true, false), (true, true)] {
                let op = Dft { axis, inverse, length: length.clone(), onesided };
                dft(F32, dims, op.clone(), inverse);
                if !onesided {
                    dft(F32, dims, op, !inverse);
                }
            }
        }
    }
    for dtype in [F64, BF16] {
        dft(dtype, "b,l,3", Dft { axis: 1, inverse: false, length: double.clone(), onesided: true }, false);
    }
}

/// Angles of long transforms are exact.
#[test]
fn a_long_transform() {
    let mut case = Case::new("dft of 521");
    let x = case.input(F32, "l", Fill::Noise(1.0));
    let op = Dft { axis: 0, inverse: false, length: Dim::symbol("l"), onesided: true };
    let results = case.node(op, &[Some(x), None]);
    let y = case.b.slice(results[0], 0, 250, 9).unwrap();
    case.finish(&[y]).check(&[(1, 521)]);
}

fn complex_scan(dtype: DType, a: &str, b: &str, (has_h0, has_seq, reverse): (bool, bool, bool)) {
    let mut case =
        Case::new(format!("complex_scan {dtype} {a} {b} h0={has_h0} seq={has_seq} reverse={reverse}"));
    let mut input = |dims: &str, fill| case.input(dtype, dims, fill);
    let a_re = input(a, Fill::Range(-0.7, 0.7));
    let a_im = input(a, Fill::Range(-0.7, 0.7));
    let (b_re, b_im) = (input(b, Fill::Noise(1.0)), input(b, Fill::Noise(1.0)));
    let state: Vec<_> =
        b.split(',').enumerate().filter(|(axis, _)| *axis != 1).map(|(_, d)| d.to_owned()).collect();
    let h0 = has_h0
        .then(|| state.join(","))
        .map(|dims| (case.input(dtype, &dims, Fill::Noise(1.0)), case.input(dtype, &dims, Fill::Noise(1.0))));
    let seq = has_seq.then(|| case.input(DType::I32, "b,l", Fill::Sequences));
    let a_re = case.b.unary(UnaryFn::Abs, a_re).unwrap();
    let (h0_re, h0_im) = h0.unzip();
    let operands = [Some(a_re), Some(a_im), Some(b_re), Some(b_im), h0_re, h0_im, seq];
    let results = case.node(ComplexScan { reverse }, &operands);
    let y = case.b.unary(UnaryFn::Neg, results[0]).unwrap();
    case.finish(&[y, results[1], results[2], results[3]]).check(&[(1, 0), (3, 1), (2, 8), (1, 33)]);
}

#[test]
fn complex_scans() {
    let shapes = [
        ("b,l", "b,l"),
        ("b,l,17", "b,l,17"),
        ("b,l,3,16", "b,l,3,16"),
        ("1,1,1,5", "b,l,2,5"),
        ("b,1,3,1", "b,l,3,9"),
    ];
    for (i, (a, b)) in shapes.into_iter().enumerate() {
        complex_scan(F32, a, b, (false, false, i % 2 == 0));
        complex_scan(F32, a, b, (true, i % 2 == 1, i % 2 == 1));
    }
    for dtype in [F64, BF16] {
        complex_scan(dtype, "b,l,2,5", "b,l,2,5", (true, true, false));
    }
}
