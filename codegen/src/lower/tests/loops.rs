//! Loops that are no recurrence of a known kind, of any length.

use super::problem::{Case, Fill, shape};
use ssmc_ir::DType::{self, F32, I64};
use ssmc_ir::ops::{Binary, BinaryFn, Cast, Loop, Reduce, ReduceFn, UnaryFn};
use ssmc_ir::{Dim, Graph, GraphBuilder, Shape, TensorType};

const EXTENTS: [(i64, i64); 5] = [(2, 0), (1, 1), (2, 5), (3, 2), (0, 3)];

fn ty(dtype: DType, dims: &str) -> TensorType {
    TensorType::new(dtype, shape(dims))
}

/// h' = tanh(x + W h) * z with the sum of h' over its last axis, and the iteration number as a number.
fn body(n: i64) -> Graph {
    let mut b = GraphBuilder::new("body");
    let i = b.input("i", TensorType::new(I64, Shape::scalar()));
    let h = b.input("h", ty(F32, &format!("b,{n}")));
    let x = b.input("x", ty(F32, &format!("b,{n}")));
    let w = b.input("w", ty(F32, &format!("{n},{n}")));
    let z = b.input("z", ty(F32, &format!("b,{n}")));
    let wh = b.contract("bm,nm->bn", &[h, w]).unwrap();
    let sum = b.binary(BinaryFn::Add, wh, x).unwrap();
    let t = b.unary(UnaryFn::Tanh, sum).unwrap();
    let next = b.binary(BinaryFn::Mul, t, z).unwrap();
    let total = b.op(Reduce { f: ReduceFn::Sum, axes: vec![1] }, &[next]).unwrap();
    let i = b.op(Cast { to: F32 }, &[i]).unwrap();
    b.output("h", next);
    b.output("y", next);
    b.output("total", total);
    b.output("i", i);
    b.finish()
}

fn looped(n: i64, (axis, reverse): (usize, bool), (stack, backwards): (usize, bool)) -> Case {
    let mut case = Case::new(format!("loop {n} {axis} {reverse} {stack} {backwards}"));
    let h = case.input(F32, &format!("b,{n}"), Fill::Noise(1.0));
    let x = case.input(F32, ["l,b", "b,l"][axis].to_owned().as_str(), Fill::Noise(1.0));
    let w = case.weight(F32, &format!("{n},{n}"), Fill::Noise(0.5));
    let z = case.input(F32, &format!("b,{n}"), Fill::Noise(1.0));
    // An operand that is not in memory, scanned along any axis, and a captured view.
    let dims = [["l", "b"][axis], ["b", "l"][axis]].map(Dim::symbol);
    let x = case.b.broadcast(x, &[0, 1], [&dims[..], &[Dim::from(n)]].concat()).unwrap();
    let z = case.b.op(ssmc_ir::ops::Reverse { axis: 1 }, &[z]).unwrap();
    let op = Loop {
        n_carried: 1,
        scan_axes: vec![axis],
        scan_reverse: vec![reverse],
        stack_axes: vec![stack, 0, 0],
        stack_reverse: vec![backwards, false, true],
        trip_count: Dim::symbol("l"),
    };
    let operands = [h, x, w, z].map(Some);
    let results = case.b.node(op, &operands, vec![body(n)]).unwrap();
    for (i, value) in results.into_iter().enumerate() {
        case.b.output(format!("y{i}"), value);
    }
    case
}

#[test]
fn loops_of_any_length() {
    for n in [1, 3, 17] {
        looped(n, (1, false), (1, false)).finish(&[]).check(&EXTENTS);
    }
    looped(4, (0, true), (2, false)).finish(&[]).check(&EXTENTS);
    looped(5, (1, true), (0, true)).finish(&[]).check(&EXTENTS);
}

/// A loop in a loop, whose sum goes on, with a literal of its own and an output that is only the input.
#[test]
fn loops_in_loops() {
    let mut inner = GraphBuilder::new("inner");
    inner.input("i", TensorType::new(I64, Shape::scalar()));
    let h = inner.input("h", ty(F32, "b,3"));
    let c = inner.input("c", ty(F32, "b,3"));
    let scale = ssmc_ir::ops::Constant {
        dtype: F32,
        shape: shape("3"),
        data: [0.5f32, -0.25, 0.125].iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let scale = inner.op(scale, &[]).unwrap();
    let scaled = inner.contract("bn,n->bn", &[h, scale]).unwrap();
    let next = inner.binary(BinaryFn::Add, scaled, c).unwrap();
    let next = inner.unary(UnaryFn::Sin, next).unwrap();
    inner.output("h", next);
    let inner = inner.finish();

    let mut outer = GraphBuilder::new("outer");
    let i = outer.input("i", TensorType::new(I64, Shape::scalar()));
    let h = outer.input("h", ty(F32, "b,3"));
    let n = outer.input("n", TensorType::new(I64, Shape::scalar()));
    let c = outer.input("c", ty(F32, "b,3"));
    let op = Loop {
        n_carried: 1,
        scan_axes: Vec::new(),
        scan_reverse: Vec::new(),
        stack_axes: Vec::new(),
        stack_reverse: Vec::new(),
        trip_count: Dim::from(2),
    };
    let next = outer.node(op.clone(), &[Some(h), Some(c)], vec![inner]).unwrap()[0];
    let n = outer.op(Binary { f: BinaryFn::Add }, &[n, i]).unwrap();
    outer.output("h", next);
    outer.output("n", n);
    outer.output("before", h);

    let mut case = Case::new("nested");
    let h = case.input(F32, "b,3", Fill::Noise(1.0));
    let n = case.input(I64, "", Fill::Range(-3.0, 3.0));
    let c = case.input(F32, "b,3", Fill::Noise(1.0));
    // The length of the sequence, which some input must have.
    let of = case.input(F32, "l", Fill::Noise(1.0));
    let op = Loop {
        n_carried: 2,
        stack_axes: vec![0],
        stack_reverse: vec![false],
        trip_count: Dim::symbol("l"),
        ..op
    };
    let results = case.b.node(op, &[Some(h), Some(n), Some(c)], vec![outer.finish()]).unwrap();
    case.finish(&[results[0], results[1], results[2], of]).check(&EXTENTS);
}
