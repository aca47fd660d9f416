//! Reductions, norms and argmax.

use super::problem::{Case, Fill, shape};
use ssmc_ir::DType::{self, BF16, F16, F32, F64, I8, I16, I32, I64, U8, U64};
use ssmc_ir::ops::{ArgMax, BinaryFn, GatedRmsNorm, LayerNorm, Op, Reduce, ReduceFn, RmsNorm, UnaryFn};

const EXTENTS: [(i64, i64); 4] = [(0, 3), (1, 1), (3, 8), (2, 17)];

#[test]
fn reductions_over_any_axes() {
    for f in ReduceFn::ALL.iter().copied() {
        for (dims, axes) in [
            ("l", vec![0]),
            ("b,l", vec![]),
            ("b,l", vec![0]),
            ("b,l", vec![1]),
            ("b,5,l", vec![0, 2]),
            ("b,5,l,3", vec![1]),
            ("b,l,1,9", vec![0, 1, 2, 3]),
            ("2,17", vec![0]),
        ] {
            let mut case = Case::new(format!("reduce {f:?} {dims} {axes:?}"));
            let x = case.input(F32, dims, Fill::Noise(1.0));
            let x = case.b.unary(UnaryFn::Exp, x).unwrap();
            let y = case.op(Reduce { axes, f }, &[x]);
            let y = case.b.unary(UnaryFn::Neg, y).unwrap();
            case.finish(&[y]).check(&EXTENTS);
        }
    }
}

#[test]
fn reductions_of_any_type() {
    for f in ReduceFn::ALL.iter().copied() {
        for dtype in [F64, F16, BF16, I8, U8, I16, I32, I64, U64] {
            for axes in [vec![0], vec![1]] {
                // An integer mean of nothing has no value.
                let extents: &[_] = if f == ReduceFn::Mean { &[(3, 17)] } else { &[(3, 17), (0, 2), (2, 0)] };
                let mut case = Case::new(format!("reduce {f:?} {dtype} {axes:?}"));
                let scale = if dtype.is_float() { 1.0 } else { 120.0 };
                let low = if dtype.is_float() || dtype.is_signed_int() { -scale } else { 0.0 };
                let x = case.input(dtype, "b,l", Fill::Range(low, scale));
                let y = case.op(Reduce { axes, f }, &[x]);
                case.finish(&[y]).check(extents);
            }
        }
        for salt in [f64::NAN, f64::INFINITY] {
            let mut case = Case::new(format!("reduce {f:?} of {salt}"));
            let x = case.input(F32, "b,l", Fill::Salted(salt));
            let y = case.op(Reduce { axes: vec![1], f }, &[x]);
            case.finish(&[y]).check(&[(9, 5)]);
        }
    }
}

#[test]
fn places_of_the_largest() {
    for dtype in [F32, F64, F16, I8, U8, I64, U64, DType::Bool] {
        for (dims, axis) in [("l", 0), ("b,l", 0), ("b,l,3", 1)] {
            let fills = if dtype.is_float() {
                vec![
                    Fill::Noise(2.0),
                    Fill::Salted(f64::NAN),
                    Fill::Range(f64::NEG_INFINITY, f64::NEG_INFINITY),
                ]
            } else {
                vec![Fill::Noise(if dtype.is_signed_int() || dtype == DType::Bool { 3.0 } else { 0.0 })]
            };
            for fill in fills {
                let mut case = Case::new(format!("argmax {dtype} {dims} {axis} {fill:?}"));
                let x = case.input(dtype, dims, fill);
                let y = case.op(ArgMax { axis }, &[x]);
                case.finish(&[y]).check(&[(1, 1), (3, 9)]);
            }
        }
    }
}

/// A norm of the sum of two inputs, the way residual streams have it, with its weight stored in bf16.
fn norm(op: impl Into<Op>, dtype: DType, width: &str, has_weight: bool, fill: Fill) {
    let op = op.into();
    let mut case = Case::new(format!("{op:?} {dtype} {width} weight={has_weight} {fill:?}"));
    let x = case.input(dtype, &format!("b,l,{width}"), fill);
    let y = case.input(dtype, &format!("b,l,{width}"), Fill::Noise(1.0));
    let sum = case.b.binary(BinaryFn::Add, x, y).unwrap();
    let mut operands = vec![Some(sum)];
    if matches!(op, Op::GatedRmsNorm(_)) {
        operands.push(Some(y));
    }
    if has_weight {
        for _ in operands.len()..op.operands().len() {
            let w = case.weight(if dtype == F16 { F16 } else { BF16 }, width, Fill::Noise(1.0));
            let w = case.b.cast(w, dtype).unwrap();
            operands.push(Some(w));
        }
    }
    let result = case.node(op, &operands)[0];
    let flat = case.b.reshape(result, shape(&format!("b,l,1,{width}"))).unwrap();
    case.finish(&[flat, sum]).check(&[(0, 2), (1, 1), (2, 5)]);
}

#[test]
fn norms() {
    for width in ["1", "3", "16", "17", "40"] {
        for has_weight in [false, true] {
            let noise = Fill::Noise(1.0);
            norm(RmsNorm { eps: 1e-5.into() }, F32, width, has_weight, noise);
            norm(LayerNorm { eps: 1e-5.into() }, F32, width, has_weight, Fill::Range(2.0, 3.0));
            for norm_before_gate in [false, true] {
                let op = GatedRmsNorm { eps: 1e-5.into(), norm_before_gate };
                norm(op, F32, width, has_weight, noise);
            }
        }
    }
    for dtype in [F64, F16, BF16] {
        norm(RmsNorm { eps: 1e-3.into() }, dtype, "17", true, Fill::Noise(1.0));
        norm(LayerNorm { eps: 1e-3.into() }, dtype, "17", true, Fill::Noise(1.0));
        let op = GatedRmsNorm { eps: 1e-3.into(), norm_before_gate: true };
        norm(op, dtype, "17", true, Fill::Noise(1.0));
    }
    for salt in [f64::NAN, f64::INFINITY] {
        norm(RmsNorm { eps: 1e-5.into() }, F32, "3", true, Fill::Salted(salt));
        norm(LayerNorm { eps: 1e-5.into() }, F32, "3", true, Fill::Salted(salt));
    }
}

/// The row's extent may be an argument of the kernel.
#[test]
fn norms_of_rows_of_any_length() {
    let mut case = Case::new("rms_norm of symbolic rows");
    let x = case.input(F32, "3,l", Fill::Noise(1.0));
    let rms = case.op(RmsNorm { eps: 1e-5.into() }, &[x]);
    let layer = case.op(LayerNorm { eps: 1e-5.into() }, &[x]);
    case.finish(&[rms, layer]).check(&[(1, 0), (1, 1), (1, 8), (1, 33)]);
}
