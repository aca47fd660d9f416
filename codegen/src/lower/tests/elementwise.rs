//! Elementwise and layout ops as roots of their own kernels, in every type.

use super::problem::{Case, Fill, shape};
use ssmc_ir::DType::{self, BF16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
use ssmc_ir::ops::{
    Binary, BinaryFn, Bitcast, Broadcast, Cast, Cmp, Compare, Concat, Constant, DimValue, Gather, Iota, Pad,
    Reshape, Reverse, Select, Slice, Transpose, Unary, UnaryFn,
};
use ssmc_ir::{Dim, ValueId};

const FLOATS: [DType; 4] = [F32, F64, F16, BF16];
const INTS: [DType; 8] = [I8, I16, I32, I64, U8, U16, U32, U64];

const NUMBERS: &[f64] = &[
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    0.1,
    3.0,
    -7.25,
    20.0,
    -20.0,
    88.0,
    -100.0,
    1e4,
    1e-8,
    1e-40,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

/// A second series whose length has no factor in common with the first.
const OTHERS: &[f64] = &[
    2.0,
    -3.0,
    0.5,
    0.1,
    -1.0,
    1.0,
    7.0,
    0.3,
    -2.0,
    5.0,
    1e-3,
    4.0,
    f64::INFINITY,
    f64::NAN,
    3.0,
    -0.25,
    6.0,
];

const WHOLE: &[f64] = &[0.0, 1.0, -1.0, 2.0, -2.0, 3.0, 7.0, -7.0, 100.0, 127.0, -128.0];
const DIVISORS: &[f64] = &[1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 127.0];
const COUNTING: &[f64] = &[0.0, 1.0, 2.0, 3.0, 7.0, 100.0, 127.0, 255.0];
const POSITIVE: &[f64] = &[1.0, 2.0, 3.0, 5.0, 127.0];

fn whole(dtype: DType) -> (Fill, Fill) {
    if dtype.is_signed_int() {
        (Fill::Values(WHOLE), Fill::Values(DIVISORS))
    } else {
        (Fill::Values(COUNTING), Fill::Values(POSITIVE))
    }
}

#[test]
fn functions_of_one_element() {
    for f in UnaryFn::ALL.iter().copied() {
        let dtypes: Vec<DType> = match f {
            UnaryFn::Not => vec![Bool],
            UnaryFn::Neg | UnaryFn::Abs | UnaryFn::Sign | UnaryFn::Relu => [&FLOATS[..], &INTS].concat(),
            _ => FLOATS.to_vec(),
        };
        for dtype in dtypes {
            let mut case = Case::new(format!("{f:?} {dtype}"));
            let fill = if dtype.is_int() { whole(dtype).0 } else { Fill::Values(NUMBERS) };
            let x = case.input(dtype, "3,l", fill);
            let y = case.op(Unary { f }, &[x]);
            case.finish(&[y]).check(&[(1, 0), (1, 23)]);
        }
    }
}

#[test]
fn functions_of_two_elements() {
    for f in BinaryFn::ALL.iter().copied() {
        let is_bitwise = matches!(f, BinaryFn::And | BinaryFn::Or | BinaryFn::Xor);
        let mut dtypes = Vec::new();
        if !is_bitwise {
            dtypes.extend(FLOATS);
        } else {
            dtypes.push(Bool);
        }
        dtypes.extend(INTS);
        for dtype in dtypes {
            let mut case = Case::new(format!("{f:?} {dtype}"));
            let (x, y) = match dtype {
                Bool => (Fill::Noise(1.0), Fill::Noise(1.0)),
                _ if dtype.is_float() => (Fill::Values(NUMBERS), Fill::Values(OTHERS)),
                // A negative power of 0 has no value.
                _ if f == BinaryFn::Pow => (Fill::Values(DIVISORS), whole(dtype).0),
                _ => whole(dtype),
            };
            let x = case.input(dtype, "17,l", x);
            let y = case.input(dtype, "17,l", y);
            let z = case.op(Binary { f }, &[x, y]);
            case.finish(&[z]).check(&[(1, 23)]);
        }
    }
}

#[test]
fn comparisons_and_choices() {
    for cmp in Cmp::ALL.iter().copied() {
        for dtype in [&FLOATS[..], &INTS, &[Bool]].concat() {
            let mut case = Case::new(format!("{cmp:?} {dtype}"));
            let (x, y) = match dtype {
                Bool => (Fill::Noise(1.0), Fill::Noise(1.0)),
                _ if dtype.is_float() => (Fill::Values(NUMBERS), Fill::Values(OTHERS)),
                _ => whole(dtype),
            };
            let x = case.input(dtype, "11,l", x);
            let y = case.input(dtype, "11,l", y);
            let holds = case.op(Compare { cmp }, &[x, y]);
            let pick = case.op(Select {}, &[holds, x, y]);
            case.finish(&[holds, pick]).check(&[(1, 19)]);
        }
    }
}

#[test]
fn conversions() {
    let all = [&FLOATS[..], &INTS, &[Bool]].concat();
    for from in &all {
        let mut case = Case::new(format!("cast from {from}"));
        let fill = match *from {
            Bool => Fill::Noise(1.0),
            from if from.is_float() => {
                Fill::Values(&[0.0, 1.0, -1.9, 0.5, 2.5, -7.25, 100.0, f64::NAN, 300.0, -1e9])
            }
            from => whole(from).0,
        };
        let x = case.input(*from, "2,l", fill);
        let casts: Vec<ValueId> =
            all.iter().filter(|to| *to != from).map(|to| case.op(Cast { to: *to }, &[x])).collect();
        case.finish(&casts).check(&[(1, 13)]);
    }
}

#[test]
fn bits_of_every_width() {
    for (from, to) in [(F32, I32), (F32, U32), (F64, I64), (F16, I16), (BF16, U16)] {
        let mut case = Case::new(format!("bits of {from} as {to}"));
        let x = case.input(from, "2,l", Fill::Noise(100.0));
        let bits = case.op(Bitcast { to }, &[x]);
        let back = case.op(Bitcast { to: from }, &[bits]);
        case.finish(&[bits, back]).check(&[(1, 0), (1, 1), (1, 13)]);
    }
}

fn layout(name: &str, dtype: DType, dims: &[&str], build: impl Fn(&mut Case, &[ValueId]) -> ValueId) {
    let mut case = Case::new(format!("{name} {dtype}"));
    let scale = if dtype.is_float() { 1.0 } else { 99.0 };
    let xs: Vec<ValueId> = dims.iter().map(|d| case.input(dtype, d, Fill::Noise(scale))).collect();
    let y = build(&mut case, &xs);
    case.finish(&[y]).check(&[(1, 1), (2, 3), (3, 8), (2, 17)]);
}

#[test]
fn layouts() {
    let (b, l) = (|| Dim::symbol("b"), || Dim::symbol("l"));
    for dtype in [F32, I64, BF16, Bool, I8] {
        layout("transpose", dtype, &["b,3,l"], |c, x| c.op(Transpose { perm: vec![2, 0, 1] }, x));
        layout("reverse rows", dtype, &["b,l"], |c, x| c.op(Reverse { axis: 0 }, x));
        layout("reverse", dtype, &["b,l"], |c, x| c.op(Reverse { axis: 1 }, x));
        layout("slice", dtype, &["b,20"], |c, x| {
            c.op(Slice { axis: 1, start: 1.into(), len: 17.into(), stride: 1 }, x)
        });
        layout("strided slice", dtype, &["b,20"], |c, x| {
            c.op(Slice { axis: 1, start: 18.into(), len: 6.into(), stride: -3 }, x)
        });
        layout("last steps", dtype, &["b,l,3"], |c, x| {
            c.op(Slice { axis: 1, start: l() - 1i64, len: 1.into(), stride: 1 }, x)
        });
        layout("merge", dtype, &["b,l,6"], |c, x| c.op(Reshape { shape: shape("b,l,2,3") }, x));
        layout("mixed", dtype, &["b,l,6"], |c, x| {
            let perm = c.op(Transpose { perm: vec![1, 2, 0] }, x);
            c.op(Reshape { shape: [l() * Dim::from(2), Dim::from(3), b()].into_iter().collect() }, &[perm])
        });
        layout("flat", dtype, &["b,l"], |c, x| c.op(Reshape { shape: [b() * l()].into_iter().collect() }, x));
        layout("broadcast", dtype, &["b,1"], |c, x| {
            c.op(Broadcast { axes: vec![0, 2], shape: shape("b,5,l") }, x)
        });
        layout("concat", dtype, &["b,l", "b,5", "b,1"], |c, x| c.op(Concat { axis: 1 }, x));
        layout("concat rows", dtype, &["b,l", "2,l", "0,l"], |c, x| c.op(Concat { axis: 0 }, x));
        layout("gather rows", dtype, &["9,l"], |c, x| {
            let at = c.input(I64, "b,2", Fill::Range(-9.0, 8.0));
            c.op(Gather { axis: 0 }, &[x[0], at])
        });
        layout("gather columns", dtype, &["b,9"], |c, x| {
            let at = c.input(I32, "l", Fill::Range(-9.0, 8.0));
            c.op(Gather { axis: 1 }, &[x[0], at])
        });
        layout("gather one", dtype, &["b,9,l"], |c, x| {
            let at = c.op(Constant::scalar(I64, -2.0), &[]);
            c.op(Gather { axis: 1 }, &[x[0], at])
        });
    }
    for (axis, name) in [(0, "pad rows"), (1, "pad")] {
        layout(name, F32, &["b,l"], |c, x| {
            let fill = c.op(Constant::scalar(F32, 7.5), &[]);
            c.op(Pad { axis, low: 2.into(), high: l() }, &[x[0], fill])
        });
    }
}

/// Parts of extent 0 that were reshaped: nothing may be divided by their extents.
#[test]
fn empty_parts() {
    for axis in [0, 1] {
        let mut case = Case::new(format!("concat of an empty part on axis {axis}"));
        let x = case.input(F32, "b,l,2", Fill::Noise(1.0));
        let y = case.input(F32, if axis == 0 { "3,l" } else { "b,5" }, Fill::Noise(1.0));
        let perm = case.op(Transpose { perm: vec![0, 2, 1] }, &[x]);
        let (b, l) = (Dim::symbol("b"), Dim::symbol("l"));
        let merged = if axis == 0 { [b * Dim::from(2), l] } else { [b, l * Dim::from(2)] };
        let flat = case.op(Reshape { shape: merged.into_iter().collect() }, &[perm]);
        let joined = case.op(Concat { axis }, &[flat, y]);
        case.finish(&[joined]).check(&[(0, 3), (3, 0), (2, 9)]);
    }
}

#[test]
fn sources() {
    for dtype in [F32, F64, F16, I64, I32, I8, U8] {
        for axis in [0, 1] {
            let mut case = Case::new(format!("iota {dtype} {axis}"));
            let x = case.input(dtype, "b,l", Fill::Range(1.0, 3.0));
            let n = case.op(Iota { axis, dtype, shape: shape("b,l") }, &[]);
            let y = case.b.binary(BinaryFn::Add, x, n).unwrap();
            case.finish(&[n, y]).check(&[(2, 17)]);
        }
    }
    let mut case = Case::new("dim");
    let x = case.input(I64, "l", Fill::Range(1.0, 3.0));
    let n = case.op(DimValue { value: Dim::symbol("l") * Dim::from(2) }, &[]);
    let wide = case.b.broadcast(n, &[], shape("l")).unwrap();
    let y = case.b.binary(BinaryFn::Mul, x, wide).unwrap();
    case.finish(&[n, y]).check(&[(1, 9)]);
    let mut case = Case::new("literal");
    let x = case.input(F32, "b,3", Fill::Noise(1.0));
    let data = [1.0f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let literal = case.op(Constant { data, dtype: F32, shape: shape("3") }, &[]);
    let wide = case.b.broadcast(literal, &[1], shape("b,3")).unwrap();
    let y = case.b.binary(BinaryFn::Add, x, wide).unwrap();
    case.finish(&[y]).check(&[(2, 1)]);
}
