//! Layout algebra and other spellings of functions.
//!
//! Reshapes compose, transposes compose, and a function that exporters spell out in parts is the function.

use super::{Direction, Equation, Exactness, Rule};
use crate::egraph::{Expr, Factor, Graph, Term};
use egg::Id;
use ssmc_ir::ops::{BinaryFn, Op, Unary, UnaryFn};

pub(super) static RULES: &[Rule] = &[
    Rule {
        name: "reshape-reshape",
        family: "algebra",
        equation: "reshape(reshape(x)) = reshape(x), and x if the shape is that of x",
        reason: "a reshape keeps the row-major order of the elements",
        source: "definition",
        exactness: Exactness::Bitwise,
        direction: Direction::Forward,
        find: reshape_reshape,
    },
    Rule {
        name: "transpose-transpose",
        family: "algebra",
        equation: "transpose[p](transpose[q](x)) = transpose[q after p](x), and x if that is the identity",
        reason: "permutations compose",
        source: "definition",
        exactness: Exactness::Bitwise,
        direction: Direction::Forward,
        find: transpose_transpose,
    },
    Rule {
        name: "reciprocal-sqrt",
        family: "algebra",
        equation: "1/sqrt(x) = rsqrt(x), with the quotient written as reciprocal, division of 1, or power",
        reason: "definition of rsqrt",
        source: "ONNX exporters of RMSNorm",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: reciprocal_sqrt,
    },
    Rule {
        name: "divide-by-sqrt",
        family: "algebra",
        equation: "x / sqrt(y) = x * rsqrt(y)",
        reason: "definition of rsqrt",
        source: "ONNX exporters of LayerNorm",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: divide_by_sqrt,
    },
    Rule {
        name: "sigmoid-from-exp",
        family: "algebra",
        equation: "1 / (1 + exp(-x)) = sigmoid(x)",
        reason: "definition of sigmoid",
        source: "definition",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: sigmoid_from_exp,
    },
    Rule {
        name: "softplus-from-exp",
        family: "algebra",
        equation: "log(1 + exp(x)) = log1p(exp(x)) = softplus(x)",
        reason: "definition of softplus; the right side does not overflow",
        source: "zoo: shared pieces, softplus",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: softplus_from_exp,
    },
];

/// The terms of a class that apply this function of one tensor, by their operand.
pub(super) fn unary(egraph: &Graph, id: Id, f: UnaryFn) -> impl Iterator<Item = Id> + '_ {
    egraph[id].nodes.iter().filter_map(move |t| match t.op() {
        Some(Op::Unary(u)) if u.f == f => Some(egraph.find(t.children[0])),
        _ => None,
    })
}

/// The terms of a class that apply this function of two tensors, by their operands.
pub(super) fn binary(egraph: &Graph, id: Id, f: BinaryFn) -> impl Iterator<Item = [Id; 2]> + '_ {
    egraph[id].nodes.iter().filter_map(move |t| match t.op() {
        Some(Op::Binary(b)) if b.f == f => Some([egraph.find(t.children[0]), egraph.find(t.children[1])]),
        _ => None,
    })
}

/// Both orders of a pair.
pub(super) fn both_orders([x, y]: [Id; 2]) -> [[Id; 2]; 2] {
    [[x, y], [y, x]]
}

/// The number that every element of the class equals.
pub(super) fn splat(egraph: &Graph, id: Id) -> Option<f64> {
    egraph[id].data.splat.map(|x| x.get())
}

fn function(egraph: &Graph, id: Id, f: UnaryFn, x: Id) -> Option<Equation> {
    Some(Equation::of(egraph, id, Expr::op(Unary { f }, vec![Expr::class(egraph, x)])?))
}

fn nested<'a>(egraph: &'a Graph, outer: &'a Term) -> impl Iterator<Item = &'a Term> {
    outer.children.first().into_iter().flat_map(|c| &egraph[*c].nodes)
}

fn reshape_reshape(egraph: &Graph, id: Id) -> Vec<Equation> {
    let shape = &egraph[id].data.types[0].shape;
    let mut found = Vec::new();
    for outer in egraph[id].nodes.iter().filter(|t| matches!(t.op(), Some(Op::Reshape(_)))) {
        let inner = nested(egraph, outer).filter(|t| matches!(t.op(), Some(Op::Reshape(_))));
        for x in std::iter::once(outer).chain(inner).map(|t| t.children[0]) {
            found.extend(Expr::class(egraph, x).reshape(shape).map(|right| Equation::of(egraph, id, right)));
        }
    }
    found
}

fn transpose_transpose(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for outer in &egraph[id].nodes {
        let Some(Op::Transpose(p)) = outer.op() else { continue };
        let x = Expr::class(egraph, outer.children[0]);
        found.extend(x.transpose(&p.perm).map(|right| Equation::of(egraph, id, right)));
        for inner in nested(egraph, outer) {
            let Some(Op::Transpose(q)) = inner.op() else { continue };
            let perm: Vec<usize> = p.perm.iter().map(|i| q.perm[*i]).collect();
            let x = Expr::class(egraph, inner.children[0]);
            found.extend(x.transpose(&perm).map(|right| Equation::of(egraph, id, right)));
        }
    }
    found
}

fn reciprocal_sqrt(egraph: &Graph, id: Id) -> Vec<Equation> {
    let roots = |y: Id| unary(egraph, y, UnaryFn::Sqrt);
    let one_over = binary(egraph, id, BinaryFn::Div).filter(|[one, _]| splat(egraph, *one) == Some(1.0));
    let quotients = unary(egraph, id, UnaryFn::Reciprocal).chain(one_over.map(|[_, y]| y)).flat_map(roots);
    let power = |y: f64| move |[_, e]: &[Id; 2]| splat(egraph, *e) == Some(y);
    let powers = binary(egraph, id, BinaryFn::Pow).filter(power(-0.5)).map(|[x, _]| x);
    let roots = binary(egraph, id, BinaryFn::Pow).filter(power(0.5)).map(|[x, _]| x);
    let mut found: Vec<_> =
        quotients.chain(powers).filter_map(|x| function(egraph, id, UnaryFn::Rsqrt, x)).collect();
    found.extend(roots.filter_map(|x| function(egraph, id, UnaryFn::Sqrt, x)));
    found
}

fn divide_by_sqrt(egraph: &Graph, id: Id) -> Vec<Equation> {
    let whole = Factor::numbered(egraph, id);
    let mut found = Vec::new();
    for [x, root] in binary(egraph, id, BinaryFn::Div) {
        for base in Factor::numbered(egraph, root).bases(egraph) {
            for y in unary(egraph, base.id, UnaryFn::Sqrt) {
                let right = || {
                    let rsqrt = Expr::op(Unary { f: UnaryFn::Rsqrt }, vec![Expr::class(egraph, y)])?;
                    let factors = vec![(Expr::class(egraph, x), whole.labels.clone()), (rsqrt, base.labels.clone())];
                    Expr::product(factors, &whole.labels, &egraph[id].data.types[0].shape)
                };
                found.extend(right().map(|right| Equation::of(egraph, id, right)));
            }
        }
    }
    found
}

fn one_plus_exp(egraph: &Graph, id: Id) -> impl Iterator<Item = Id> + '_ {
    binary(egraph, id, BinaryFn::Add)
        .flat_map(both_orders)
        .filter(|[one, _]| splat(egraph, *one) == Some(1.0))
        .flat_map(|[_, e]| unary(egraph, e, UnaryFn::Exp))
}

fn sigmoid_from_exp(egraph: &Graph, id: Id) -> Vec<Equation> {
    let one_over = binary(egraph, id, BinaryFn::Div).filter(|[one, _]| splat(egraph, *one) == Some(1.0));
    unary(egraph, id, UnaryFn::Reciprocal)
        .chain(one_over.map(|[_, y]| y))
        .flat_map(|y| one_plus_exp(egraph, y))
        .flat_map(|minus_x| unary(egraph, minus_x, UnaryFn::Neg))
        .filter_map(|x| function(egraph, id, UnaryFn::Sigmoid, x))
        .collect()
}

fn softplus_from_exp(egraph: &Graph, id: Id) -> Vec<Equation> {
    let log = unary(egraph, id, UnaryFn::Log).flat_map(|y| one_plus_exp(egraph, y));
    let log1p = unary(egraph, id, UnaryFn::Log1p).flat_map(|y| unary(egraph, y, UnaryFn::Exp));
    log.chain(log1p).filter_map(|x| function(egraph, id, UnaryFn::Softplus, x)).collect()
}
