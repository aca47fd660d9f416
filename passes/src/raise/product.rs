//! Values as sums of products of other values, whatever ops spell them.

use crate::view::{Labels, View};
use ssmc_ir::Graph;
use ssmc_ir::ops::{Binary, BinaryFn, Op, Unary, UnaryFn};
use std::collections::BTreeMap;

/// Sums with more terms than this are not read.
const MAX_TERMS: usize = 8;
/// Products with more factors than this are not read.
const MAX_FACTORS: usize = 6;

/// A number times values with labelled axes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    pub(super) scale: f64,
    pub(super) factors: Vec<View>,
}

/// The terms of a value, with the factors of each in order of their ids; `None` if there are too many. Sums and
/// products without a factor that is `sought` stay whole: taking them apart would compute them several times.
pub(super) fn terms(graph: &Graph, view: View, sought: &dyn Fn(&View) -> bool) -> Option<Vec<Term>> {
    let mut terms = read(graph, view, sought, 0)?;
    for term in &mut terms {
        term.factors.sort_by(|x, y| (x.value, &x.labels).cmp(&(y.value, &y.labels)));
    }
    Some(terms)
}

/// How deep sums and products nest.
const MAX_DEPTH: usize = 16;

fn read(graph: &Graph, view: View, sought: &dyn Fn(&View) -> bool, depth: usize) -> Option<Vec<Term>> {
    if depth > MAX_DEPTH {
        return None;
    }
    if let Some(scale) = crate::view::splat(graph, view.value) {
        return Some(vec![Term { scale, factors: Vec::new() }]);
    }
    let view = view.base(graph);
    let atom = |view: View| Some(vec![Term { scale: 1.0, factors: vec![view] }]);
    let Some(node) = graph.def_node(view.value) else { return atom(view) };
    let whole = view.clone();
    let operand = |i: usize| node.operands.get(i).copied().flatten();
    let inner =
        |i: usize, labels: Labels| read(graph, View { value: operand(i)?, labels }, sought, depth + 1);
    let terms = match &node.op {
        Op::Unary(Unary { f: UnaryFn::Neg }) => scaled(inner(0, view.labels)?, -1.0),
        Op::Binary(Binary { f: BinaryFn::Add }) => {
            [inner(0, view.labels.clone())?, inner(1, view.labels)?].concat()
        }
        Op::Binary(Binary { f: BinaryFn::Sub }) => {
            [inner(0, view.labels.clone())?, scaled(inner(1, view.labels)?, -1.0)].concat()
        }
        Op::Binary(Binary { f: BinaryFn::Mul }) => {
            times(&inner(0, view.labels.clone())?, &inner(1, view.labels)?)?
        }
        Op::Binary(Binary { f: BinaryFn::Div }) => {
            match operand(1).and_then(|v| crate::view::splat(graph, v)) {
                Some(divisor) => scaled(inner(0, view.labels)?, 1.0 / divisor),
                None => return atom(view),
            }
        }
        Op::Contract(op) if op.spec.summed().is_empty() => {
            let names: BTreeMap<u8, _> =
                op.spec.output.iter().copied().zip(view.labels.iter().copied()).collect();
            let mut product = vec![Term { scale: 1.0, factors: Vec::new() }];
            for (i, letters) in op.spec.inputs.iter().enumerate() {
                let labels = letters.iter().map(|l| names[l]).collect();
                product = times(&product, &inner(i, labels)?)?;
            }
            product
        }
        _ => return atom(view),
    };
    let mut factors = terms.iter().flat_map(|term| &term.factors).peekable();
    if factors.peek().is_some() && !factors.any(sought) {
        return atom(whole);
    }
    (terms.len() <= MAX_TERMS).then_some(terms)
}

fn scaled(mut terms: Vec<Term>, by: f64) -> Vec<Term> {
    for term in &mut terms {
        term.scale *= by;
    }
    terms
}

fn times(x: &[Term], y: &[Term]) -> Option<Vec<Term>> {
    let mut product = Vec::new();
    for (p, q) in x.iter().flat_map(|p| y.iter().map(move |q| (p, q))) {
        let factors = [&p.factors[..], &q.factors[..]].concat();
        if factors.len() > MAX_FACTORS || product.len() == MAX_TERMS {
            return None;
        }
        product.push(Term { scale: p.scale * q.scale, factors });
    }
    Some(product)
}
