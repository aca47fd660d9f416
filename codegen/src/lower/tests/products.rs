//! Contractions, with and without a weight matrix, and general convolutions.

use super::problem::{Case, Fill, shape};
use ssmc_ir::DType::{self, BF16, F16, F32, F64, I8, I32};
use ssmc_ir::ops::{BinaryFn, Contract, Conv, Dequantize, Gather, UnaryFn};

/// `x` times a weight, then bias and an activation, the way a linear layer stands in a model.
fn linear(spec: &str, x: &str, w: &str, (dtype, stored): (DType, DType)) {
    let mut case = Case::new(format!("{spec} {x} {w} {dtype} {stored}"));
    let x = case.input(dtype, x, Fill::Noise(1.0));
    let w = case.weight(stored, w, Fill::Noise(1.0));
    let w = case.b.cast(w, dtype).unwrap();
    let product = case.op(Contract::new(spec), &[x, w]);
    let dims = case.b.shape(product).clone();
    let outputs = match dims.last().and_then(|d| d.as_const()) {
        Some(n) => {
            let bias = case.weight(dtype, &n.to_string(), Fill::Noise(1.0));
            let bias = case.b.broadcast(bias, &[dims.len() - 1], dims.clone()).unwrap();
            let sum = case.b.binary(BinaryFn::Add, product, bias).unwrap();
            let flat: ssmc_ir::Shape = [dims.n_elems()].into_iter().collect();
            let sum = case.b.reshape(sum, flat).unwrap();
            [case.b.unary(UnaryFn::Softplus, sum).unwrap()]
        }
        None => [case.b.unary(UnaryFn::Silu, product).unwrap()],
    };
    case.finish(&outputs).check(&[(1, 0), (1, 1), (2, 7), (3, 9)]);
}

#[test]
fn products_with_weights() {
    for n in [1, 2, 3, 8, 12, 16, 17, 24, 31, 32, 33, 48, 80] {
        let k = 1 + n * 7 % 19;
        linear("bld,ed->ble", &format!("b,l,{k}"), &format!("{n},{k}"), (F32, F32));
    }
    for (spec, x, w) in [
        ("bld,de->ble", "b,l,5", "5,40"),
        ("bl,el->be", "b,6", "40,6"),
        ("d,ed->e", "6", "33,6"),
        ("lbd,ed->ebl", "l,b,6", "33,6"),
        ("lbd,ed->bel", "l,b,6", "7,6"),
        ("blhp,ehp->ble", "b,l,3,4", "9,3,4"),
        ("blhp,hep->ble", "b,l,3,4", "3,37,4"),
        ("blhp,pe->blhe", "b,l,3,4", "4,9"),
        ("bld,ed->ble", "b,l,0", "9,0"),
        ("bld,ed->ble", "b,l,3", "0,3"),
    ] {
        linear(spec, x, w, (F32, F32));
    }
    for types in [(F32, BF16), (F32, F16), (BF16, BF16), (F16, F16), (F64, F64), (F64, F32), (F32, I8)] {
        linear("bld,ed->ble", "b,l,9", "37,9", types);
        linear("bld,ed->ble", "b,l,9", "3,9", types);
    }
}

/// Weights in `bf16` in pairs: widened row by row, or rows of a full tile rounded to `bf16` on levels with dot products.
#[test]
fn products_with_halves() {
    for (k, n) in [(2, 3), (6, 16), (18, 33), (2, 600)] {
        linear("bld,ed->ble", &format!("b,l,{k}"), &format!("{n},{k}"), (F32, BF16));
    }
    linear("bld,de->ble", "b,l,6", "6,40", (F32, BF16));
    linear("blhp,ehp->ble", "b,l,3,4", "9,3,4", (F32, BF16));
}

/// Blocks of no rows, one, some, and more than a block: rows are brought into matrix tiles where there are any.
const BLOCKS: [(i64, i64); 6] = [(1, 0), (1, 1), (1, 16), (1, 17), (3, 11), (5, 10)];

#[test]
fn products_with_halves_in_blocks() {
    for (k, n) in [(32, 3), (64, 33), (96, 320)] {
        let mut case = Case::new(format!("blocks of halves {k} {n}"));
        let x = case.input(F32, &format!("b,l,{k}"), Fill::Noise(1.0));
        let x = case.b.unary(UnaryFn::Neg, x).unwrap();
        let w = case.weight(BF16, &format!("{n},{k}"), Fill::Noise(1.0));
        let w = case.b.cast(w, F32).unwrap();
        let y = case.b.contract("bld,ed->ble", &[x, w]).unwrap();
        let y = case.b.unary(UnaryFn::Silu, y).unwrap();
        case.finish(&[y]).check(&BLOCKS);
    }
}

/// `x` times integers of so many bits in groups, then a bias.
fn quantized(spec: &str, x: &str, w: [i64; 2], (axis, group, bits): (usize, usize, usize), fill: Fill) {
    let mut case = Case::new(format!("{spec} {x} {w:?} {axis} {group} {bits}"));
    let x = case.input(F32, x, fill);
    let x = case.b.unary(UnaryFn::Neg, x).unwrap();
    let extents = if w.contains(&600) { &BLOCKS[..4] } else { &BLOCKS[..] };
    let mut scales = w;
    scales[axis] /= group as i64;
    let text = |dims: [i64; 2]| format!("{},{}", dims[0], dims[1]);
    let q = case.weight(I8, &text(w), Fill::Noise(if bits == 4 { 7.4 } else { 127.0 }));
    let scale = case.weight(if bits == 4 { F16 } else { F32 }, &text(scales), Fill::Range(0.001, 0.01));
    let w = case.op(Dequantize { axis, group, bits }, &[q, scale]);
    let y = case.op(Contract::new(spec), &[x, w]);
    let y = case.b.unary(UnaryFn::Neg, y).unwrap();
    // Rows are rounded to 8 bits.
    case.finish(&[y]).within(0.01, 0.03).check(extents);
}

#[test]
fn products_with_integers() {
    for (k, n) in [(70, 33), (33, 64), (1, 3), (5, 600), (128, 40)] {
        let x = format!("b,l,{k}");
        quantized("bld,ed->ble", &x, [n, k], (1, k as usize, 8), Fill::Noise(1.0));
        quantized("bld,de->ble", &x, [k, n], (0, k as usize, 8), Fill::Noise(100.0));
    }
    for (k, n, group) in [(64, 40, 32), (128, 33, 64), (128, 5, 128)] {
        let x = format!("b,l,{k}");
        quantized("bld,ed->ble", &x, [n, k], (1, group, 4), Fill::Noise(1.0));
        quantized("bld,de->ble", &x, [k, n], (0, group, 4), Fill::Noise(0.01));
    }
    for fill in [Fill::Values(&[0.0]), Fill::Salted(f64::NAN), Fill::Values(&[0.0, 1e-30])] {
        quantized("bld,ed->ble", "b,l,64", [40, 64], (1, 64, 8), fill);
        quantized("bld,ed->ble", "b,l,64", [40, 64], (1, 32, 4), fill);
    }
}

/// Rows of a table of integers, and a product with groups that no kernel of its own takes.
#[test]
fn integers_elsewhere() {
    let mut case = Case::new("lookup");
    let ids = case.input(I32, "b,l", Fill::Range(0.0, 4.0));
    let q = case.weight(I8, "5,8", Fill::Noise(127.0));
    let scale = case.weight(F16, "5,2", Fill::Range(0.001, 0.01));
    let w = case.op(Dequantize { axis: 1, group: 4, bits: 8 }, &[q, scale]);
    let y = case.op(Gather { axis: 0 }, &[w, ids]);
    case.finish(&[y]).check(&[(1, 0), (2, 3)]);
    quantized("bld,ed->ble", "b,l,8", [5, 8], (1, 4, 4), Fill::Noise(1.0));
}

/// The weight comes first, and the rows are a slice of something wider.
#[test]
fn products_of_views() {
    let mut case = Case::new("weight first");
    let wide = case.input(F32, "b,l,20", Fill::Noise(1.0));
    let x = case.b.slice(wide, 2, 7, 9).unwrap();
    let x = case.b.transpose(x, &[1, 2, 0]).unwrap();
    let w = case.weight(BF16, "9,18", Fill::Noise(1.0));
    let w = case.b.cast(w, F32).unwrap();
    let y = case.b.contract("de,ldb->ble", &[w, x]).unwrap();
    let y = case.b.reshape(y, shape("b,l,2,9")).unwrap();
    case.finish(&[y]).check(&[(1, 1), (3, 13)]);
}

fn contract(spec: &str, operands: &[&str], dtype: DType) {
    let mut case = Case::new(format!("{spec} {operands:?} {dtype}"));
    let scale = if dtype.is_int() { 9.0 } else { 1.0 };
    let operands: Vec<_> = operands.iter().map(|dims| case.input(dtype, dims, Fill::Noise(scale))).collect();
    let y = case.op(Contract::new(spec), &operands);
    let y = case.b.unary(UnaryFn::Abs, y).unwrap();
    case.finish(&[y]).check(&[(1, 0), (0, 3), (1, 1), (2, 9), (3, 17)]);
}

#[test]
fn products_of_activations() {
    for (spec, operands) in [
        ("ab,b->a", &["b,l", "l"][..]),
        ("ab->", &["b,l"]),
        ("ab->b", &["b,l"]),
        ("ab->ba", &["b,l"]),
        ("ab,ab->", &["b,l", "b,l"]),
        ("a,b->ab", &["b", "l"]),
        ("ab,b,a->a", &["b,l", "l", "b"]),
        ("bld,bmd->blm", &["b,l,3", "b,l,3"]),
        ("blgn,blgen->blge", &["b,l,2,4", "b,l,2,3,4"]),
        ("blge,blgn,blge->blgen", &["b,l,2,3", "b,l,2,5", "b,l,2,3"]),
        ("ab,c->a", &["b,l", "5"]),
        ("ab,bc,cd->ad", &["b,3", "3,l", "l,5"]),
    ] {
        for dtype in [F32, F64, BF16, I32, I8] {
            contract(spec, operands, dtype);
        }
    }
}

/// Extents of x and w, then strides, pads, dilations and groups.
type ConvCase<'a> = (&'a str, &'a str, &'a [usize], &'a [usize], &'a [usize], usize);

#[test]
fn convolutions() {
    let cases: [ConvCase<'_>; 9] = [
        ("b,4,l", "4,1,3", &[1], &[2, 1], &[1], 4),
        ("b,4,l", "4,1,4", &[1], &[1, 2], &[1], 4),
        ("b,3,l", "5,3,3", &[1], &[1, 1], &[1], 1),
        ("b,4,l", "6,2,3", &[2], &[0, 3], &[2], 2),
        ("b,1,l", "1,1,1", &[3], &[0, 0], &[1], 1),
        ("b,2,5,l", "2,2,3,2", &[1, 1], &[1, 1, 1, 0], &[1, 1], 1),
        ("b,4,6,l", "4,2,3,3", &[2, 2], &[1, 0, 2, 3], &[1, 2], 2),
        ("b,2,3,4,l", "2,1,2,2,2", &[1, 2, 1], &[0, 1, 1, 1, 0, 1], &[1, 1, 2], 2),
        ("b,3,4,4", "17,3,4,4", &[4, 4], &[0, 0, 0, 0], &[1, 1], 1),
    ];
    for (i, (x, w, strides, pads, dilations, groups)) in cases.into_iter().enumerate() {
        for dtype in [F32, F64, F16, I32] {
            let mut case =
                Case::new(format!("conv {x} {w} {strides:?} {pads:?} {dilations:?} {groups} {dtype}"));
            let scale = if dtype.is_int() { 9.0 } else { 1.0 };
            let x = case.input(dtype, x, Fill::Noise(scale));
            let x = case.b.unary(UnaryFn::Neg, x).unwrap();
            let out = w.split(',').next().unwrap();
            let bias = (i % 2 == 0).then(|| case.weight(dtype, out, Fill::Noise(scale)));
            let w = case.weight(dtype, w, Fill::Noise(scale));
            let op = Conv { strides: strides.into(), pads: pads.into(), dilations: dilations.into(), groups };
            let y = case.node(op, &[Some(x), Some(w), bias])[0];
            let y = case.b.unary(UnaryFn::Abs, y).unwrap();
            case.finish(&[y]).check(&[(0, 5), (1, 1), (2, 7), (1, 19)]);
        }
    }
}

/// A table that is looked up and multiplied with is one argument of both kernels.
#[test]
fn tied_tables() {
    for (stored, k, n) in [(F32, 20, 37), (BF16, 6, 40), (BF16, 32, 40), (BF16, 7, 40)] {
        let mut case = Case::new(format!("tied {stored} {k} {n}"));
        let ids = case.input(I32, "b,l", Fill::Range(-3.0, n as f64));
        let table = case.weight(stored, &format!("{n},{k}"), Fill::Noise(1.0));
        let table = case.b.cast(table, F32).unwrap();
        let x = case.op(Gather { axis: 0 }, &[table, ids]);
        let x = case.b.unary(UnaryFn::Neg, x).unwrap();
        let y = case.op(Contract::new("bld,vd->blv"), &[x, table]);
        case.finish(&[x, y]).check(&[(1, 0), (1, 1), (2, 7)]);
    }
    let mut case = Case::new("tied bytes");
    let ids = case.input(I32, "b,l", Fill::Range(0.0, 36.0));
    let q = case.weight(I8, "37,18", Fill::Noise(127.0));
    let scale = case.weight(F32, "37,1", Fill::Range(0.001, 0.01));
    let table = case.op(Dequantize { axis: 1, group: 18, bits: 8 }, &[q, scale]);
    let x = case.op(Gather { axis: 0 }, &[table, ids]);
    let x = case.b.unary(UnaryFn::Neg, x).unwrap();
    let y = case.op(Contract::new("bld,vd->blv"), &[x, table]);
    case.finish(&[x, y]).within(0.01, 0.03).check(&[(1, 1), (2, 7)]);
}
