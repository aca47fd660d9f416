//! Writes at positions that depend on data, and the order of elements.

use super::problem::{Case, Fill};
use ssmc_ir::DType::{self, BF16, F16, F32, I8, I32, I64, U8};
use ssmc_ir::Dim;
use ssmc_ir::ops::{Scatter, ScatterFn, TopK, UnaryFn};

const PLACES: Fill = Fill::Values(&[0.0, 1.0, -1.0, 0.0, -2.0, 1.0]);

#[test]
fn updates_in_order() {
    for f in ScatterFn::ALL.iter().copied() {
        for dtype in [F32, F16, BF16, I8, U8, I64] {
            for (x, updates) in [("b", "l"), ("b,5", "l,5"), ("b,3,17", "l,3,17")] {
                let mut case = Case::new(format!("scatter {f:?} {dtype} {x}"));
                let low = if dtype.is_float() || dtype.is_signed_int() { -2.0 } else { 0.0 };
                let data = case.input(dtype, x, Fill::Range(low, 3.0));
                let places = case.input(if dtype == F32 { I32 } else { I64 }, "l", PLACES);
                let new = case.input(dtype, updates, Fill::Range(low, 3.0));
                let y = case.op(Scatter { f }, &[data, places, new]);
                case.finish(&[y]).check(&[(2, 0), (2, 1), (5, 7)]);
            }
        }
    }
}

#[test]
fn a_scatter_between_other_ops() {
    for salt in [f64::NAN, f64::INFINITY] {
        for f in ScatterFn::ALL.iter().copied() {
            let mut case = Case::new(format!("scatter {f:?} of {salt}"));
            let data = case.input(F32, "b,9", Fill::Salted(salt));
            let data = case.b.unary(UnaryFn::Neg, data).unwrap();
            let places = case.input(I64, "l", PLACES);
            let new = case.input(F32, "l,9", Fill::Noise(1.0));
            let new = case.b.unary(UnaryFn::Abs, new).unwrap();
            let y = case.op(Scatter { f }, &[data, places, new]);
            let y = case.b.unary(UnaryFn::Neg, y).unwrap();
            case.finish(&[y]).check(&[(3, 4)]);
        }
    }
}

#[test]
fn the_best_elements_in_order() {
    for dtype in [F32, F16, I8, U8, I64, DType::Bool] {
        for (dims, axis, k) in
            [("l", 0, Dim::from(1)), ("b,l", 1, Dim::symbol("l")), ("b,l,3", 0, Dim::from(1))]
        {
            for largest in [false, true] {
                let fills = if dtype.is_float() {
                    vec![Fill::Noise(2.0), Fill::Salted(f64::NAN), Fill::Salted(f64::NEG_INFINITY)]
                } else {
                    vec![Fill::Range(if dtype.is_signed_int() { -3.0 } else { 0.0 }, 3.0)]
                };
                for fill in fills {
                    let mut case = Case::new(format!("top_k {dtype} {dims} {axis} {largest} {fill:?}"));
                    let x = case.input(dtype, dims, fill);
                    let op = TopK { axis, k: k.clone(), largest };
                    let results = case.b.node(op, &[Some(x)], Vec::new()).unwrap();
                    case.finish(&results).check(&[(1, 1), (3, 9)]);
                }
            }
        }
    }
}
