//! Layout algebra and other spellings of functions.
//!
//! Reshapes compose, transposes compose, and a function that exporters spell out in parts is the function.

use super::{Direction, Equation, Exactness, Rule};
use crate::egraph::{Expr, Factor, Graph, Term};
use egg::Id;
use ssmc_ir::ops::{Binary, BinaryFn, Cmp, Contract, Op, Reshape, Spec, Unary, UnaryFn};
use ssmc_ir::{DType, Dim};

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
        name: "reshape-units",
        family: "algebra",
        equation: "reshape[s](x) = reshape[s](reshape[s without unit axes](x)) where s divides or joins axes of x",
        reason: "unit axes do not change the order of elements; all views that divide x alike share the inner reshape",
        source: "definition",
        exactness: Exactness::Bitwise,
        direction: Direction::Expand,
        find: reshape_units,
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
        name: "transpose-contract",
        family: "algebra",
        equation: "transpose[p](contract[.. -> o](x..)) = contract[.. -> p(o)](x..)",
        reason: "the order of the labels of a result is free",
        source: "definition of contract",
        exactness: Exactness::Bitwise,
        direction: Direction::Forward,
        find: transpose_contract,
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
    Rule {
        name: "softplus-threshold",
        family: "algebra",
        equation: "select(x > t, x, softplus(x)) = softplus(x) for t >= 16, where softplus(x) = x but for rounding in f32",
        reason: "0 < softplus(x) - x = log1p(exp(-x)) < exp(-16) for x > 16, less than half a unit in the last place of x",
        source: "torch.nn.functional.softplus, threshold = 20",
        exactness: Exactness::Approximates,
        direction: Direction::Forward,
        find: softplus_threshold,
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

/// The term that applies this function of one tensor.
pub(super) fn apply1(egraph: &Graph, f: UnaryFn, x: Id) -> Option<Expr> {
    Expr::op(Unary { f }, vec![Expr::class(egraph, x)])
}

/// The term that applies this function of two tensors.
pub(super) fn apply2(egraph: &Graph, f: BinaryFn, [x, y]: [Id; 2]) -> Option<Expr> {
    Expr::op(Binary { f }, vec![Expr::class(egraph, x), Expr::class(egraph, y)])
}

/// The term equals f(x).
fn function(egraph: &Graph, left: Option<Expr>, f: UnaryFn, x: Id) -> Option<Equation> {
    Some(Equation::between(left?, apply1(egraph, f, x)?))
}

fn nested<'a>(egraph: &'a Graph, outer: &'a Term) -> impl Iterator<Item = &'a Term> {
    outer.children.first().into_iter().flat_map(|c| &egraph[*c].nodes)
}

fn reshape_reshape(egraph: &Graph, id: Id) -> Vec<Equation> {
    let shape = &egraph[id].data.types[0].shape;
    let mut found = Vec::new();
    for outer in egraph[id].nodes.iter().filter(|t| matches!(t.op(), Some(Op::Reshape(_)))) {
        let left = || Expr::term(egraph, outer);
        if egraph[outer.children[0]].data.types[0].shape == *shape {
            found.push(Equation::between(left(), Expr::class(egraph, outer.children[0])));
        }
        for inner in nested(egraph, outer).filter(|t| matches!(t.op(), Some(Op::Reshape(_)))) {
            let equation = || {
                let op = outer.op()?.clone();
                let left = Expr::op(op, vec![Expr::term(egraph, inner)])?;
                Some(Equation::between(left, Expr::class(egraph, inner.children[0]).reshape(shape)?))
            };
            found.extend(equation());
        }
    }
    found
}

fn reshape_units(egraph: &Graph, id: Id) -> Vec<Equation> {
    let shape = &egraph[id].data.types[0].shape;
    let dense = |shape: &[Dim]| shape.iter().filter(|d| !d.is(1)).cloned().collect::<Vec<_>>();
    let inner = dense(shape);
    let mut found = Vec::new();
    for term in egraph[id].nodes.iter().filter(|t| matches!(t.op(), Some(Op::Reshape(_)))) {
        let x = Expr::class(egraph, term.children[0]);
        if inner.len() == shape.rank() || inner == dense(x.shape()) {
            continue;
        }
        let outer = || Expr::op(Reshape { shape: shape.clone() }, vec![x.reshape(&inner)?]);
        found.extend(outer().map(|right| Equation::between(Expr::term(egraph, term), right)));
    }
    found
}

fn transpose_transpose(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for outer in &egraph[id].nodes {
        let Some(Op::Transpose(p)) = outer.op() else { continue };
        if p.perm.is_sorted() {
            let x = Expr::class(egraph, outer.children[0]);
            found.push(Equation::between(Expr::term(egraph, outer), x));
        }
        for inner in nested(egraph, outer) {
            let Some(Op::Transpose(q)) = inner.op() else { continue };
            let perm: Vec<usize> = p.perm.iter().map(|i| q.perm[*i]).collect();
            let equation = || {
                let left = Expr::op(p.clone(), vec![Expr::term(egraph, inner)])?;
                Some(Equation::between(left, Expr::class(egraph, inner.children[0]).transpose(&perm)?))
            };
            found.extend(equation());
        }
    }
    found
}

fn transpose_contract(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for outer in &egraph[id].nodes {
        let Some(Op::Transpose(t)) = outer.op() else { continue };
        for inner in nested(egraph, outer) {
            let Some(Op::Contract(c)) = inner.op() else { continue };
            let output = t.perm.iter().map(|i| c.spec.output[*i]).collect();
            let spec = Spec { inputs: c.spec.inputs.clone(), output };
            let operands = || inner.children.iter().map(|c| Expr::class(egraph, *c)).collect();
            let left = Expr::op(t.clone(), vec![Expr::term(egraph, inner)]);
            let right = Expr::op(Contract { spec }, operands());
            found.extend(left.zip(right).map(|(left, right)| Equation::between(left, right)));
        }
    }
    found
}

/// The quotients 1/y of a class: the term and y.
fn quotients(egraph: &Graph, id: Id) -> Vec<(Option<Expr>, Id)> {
    let one_over = binary(egraph, id, BinaryFn::Div).filter(|[one, _]| splat(egraph, *one) == Some(1.0));
    unary(egraph, id, UnaryFn::Reciprocal)
        .map(|y| (apply1(egraph, UnaryFn::Reciprocal, y), y))
        .chain(one_over.map(|pair| (apply2(egraph, BinaryFn::Div, pair), pair[1])))
        .collect()
}

fn reciprocal_sqrt(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for (left, y) in quotients(egraph, id) {
        let roots = unary(egraph, y, UnaryFn::Sqrt);
        found.extend(roots.filter_map(|x| function(egraph, left.clone(), UnaryFn::Rsqrt, x)));
    }
    for [x, exponent] in binary(egraph, id, BinaryFn::Pow) {
        let f = match splat(egraph, exponent) {
            Some(-0.5) => UnaryFn::Rsqrt,
            Some(0.5) => UnaryFn::Sqrt,
            _ => continue,
        };
        found.extend(function(egraph, apply2(egraph, BinaryFn::Pow, [x, exponent]), f, x));
    }
    found
}

fn divide_by_sqrt(egraph: &Graph, id: Id) -> Vec<Equation> {
    let whole = Factor::numbered(egraph, id);
    let mut found = Vec::new();
    for [x, root] in binary(egraph, id, BinaryFn::Div) {
        for base in Factor::numbered(egraph, root).bases(egraph) {
            for y in unary(egraph, base.id, UnaryFn::Sqrt) {
                let equation = || {
                    let x_factor = (Expr::class(egraph, x), whole.labels.clone());
                    let factors = vec![x_factor, (apply1(egraph, UnaryFn::Rsqrt, y)?, base.labels.clone())];
                    let right = Expr::product(factors, &whole.labels, &egraph[id].data.types[0].shape)?;
                    Some(Equation::between(apply2(egraph, BinaryFn::Div, [x, root])?, right))
                };
                found.extend(equation());
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
    let mut found = Vec::new();
    for (left, y) in quotients(egraph, id) {
        let xs = one_plus_exp(egraph, y).flat_map(|minus_x| unary(egraph, minus_x, UnaryFn::Neg));
        found.extend(xs.filter_map(|x| function(egraph, left.clone(), UnaryFn::Sigmoid, x)));
    }
    found
}

fn softplus_from_exp(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for y in unary(egraph, id, UnaryFn::Log) {
        let left = apply1(egraph, UnaryFn::Log, y);
        let xs = one_plus_exp(egraph, y);
        found.extend(xs.filter_map(|x| function(egraph, left.clone(), UnaryFn::Softplus, x)));
    }
    for y in unary(egraph, id, UnaryFn::Log1p) {
        let left = apply1(egraph, UnaryFn::Log1p, y);
        let xs = unary(egraph, y, UnaryFn::Exp);
        found.extend(xs.filter_map(|x| function(egraph, left.clone(), UnaryFn::Softplus, x)));
    }
    found
}

/// The least threshold above which x and softplus(x) round to the same f32: half a unit in the last place of 16 is
/// 9.5e-7, and exp(-16) is 1.1e-7.
const SOFTPLUS_THRESHOLD: f64 = 16.0;

fn softplus_threshold(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    if egraph[id].data.types[0].dtype == DType::F64 {
        return found;
    }
    for term in &egraph[id].nodes {
        let (Some(Op::Select(_)), [cond, then, otherwise]) = (term.op(), &term.children[..]) else {
            continue;
        };
        let x = egraph.find(*then);
        let is_above = |t: &Term| match t.op() {
            Some(Op::Compare(c)) => {
                let (x_at, bound_at) = match c.cmp {
                    Cmp::Gt | Cmp::Ge => (0, 1),
                    Cmp::Lt | Cmp::Le => (1, 0),
                    Cmp::Eq | Cmp::Ne => return false,
                };
                let bound = splat(egraph, t.children[bound_at]);
                egraph.find(t.children[x_at]) == x && bound.is_some_and(|t| t >= SOFTPLUS_THRESHOLD)
            }
            _ => false,
        };
        let of_x = unary(egraph, *otherwise, UnaryFn::Softplus).any(|y| y == x);
        if of_x && egraph[*cond].nodes.iter().any(is_above) {
            found.extend(function(egraph, Some(Expr::term(egraph, term)), UnaryFn::Softplus, x));
        }
    }
    found
}
