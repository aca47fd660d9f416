//! Where parallel scans with constant decays may begin: at `y + c * x` with x and y at different steps of one tensor,
//! or of the two parts of a complex one.

use super::super::chunked::views;
use ssmc_ir::ops::{Binary, BinaryFn, Op, Unary, UnaryFn};
use ssmc_ir::{Entity, Graph, ValueId};
use std::collections::BTreeSet;

/// A sum has at most so many terms.
const MAX_TERMS: usize = 4;
/// How many tensors are tried for one sum.
const MAX_TRIED: usize = 4;

/// What sums are made of.
struct Term {
    /// The value and what it is a view of.
    views: Vec<ValueId>,
    is_scaled: bool,
}

/// Inputs: one tensor, or the two parts of a complex one.
pub(super) fn seeds(graph: &Graph, fixed: &[bool]) -> Vec<Vec<ValueId>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (_, node) in graph.nodes() {
        let is_sum = matches!(node.op, Op::Binary(Binary { f: BinaryFn::Add | BinaryFn::Sub }));
        if !is_sum || !graph.ty(node.results[0]).dtype.is_float() {
            continue;
        }
        let mut terms = Vec::new();
        if !open(graph, fixed, node.results[0], &mut terms) {
            continue;
        }
        for bases in bases(graph, &terms).into_iter().take(MAX_TRIED) {
            if seen.insert(bases.clone()) {
                found.push(bases);
            }
        }
    }
    found
}

/// Divides a sum into its terms; `false` if there are too many.
fn open(graph: &Graph, fixed: &[bool], value: ValueId, out: &mut Vec<Term>) -> bool {
    let Some(node) = graph.def_node(value) else {
        out.push(Term { views: vec![value], is_scaled: false });
        return out.len() <= MAX_TERMS;
    };
    match (&node.op, &node.operands[..]) {
        (Op::Binary(Binary { f: BinaryFn::Add | BinaryFn::Sub }), [Some(x), Some(y)]) => {
            open(graph, fixed, *x, out) && open(graph, fixed, *y, out)
        }
        (Op::Unary(Unary { f: UnaryFn::Neg }), [Some(x)]) => open(graph, fixed, *x, out),
        _ => {
            let (inner, is_scaled) = unscaled(graph, fixed, value);
            out.push(Term { views: views(graph, inner), is_scaled });
            out.len() <= MAX_TERMS
        }
    }
}

/// What a product by constants scales, through views.
fn unscaled(graph: &Graph, fixed: &[bool], value: ValueId) -> (ValueId, bool) {
    let mut at = value;
    while let Some(node) = graph.def_node(at) {
        match &node.op {
            Op::Reshape(_) | Op::Transpose(_) | Op::Cast(_) => match node.operands[0] {
                Some(x) => at = x,
                None => break,
            },
            Op::Binary(Binary { f: BinaryFn::Mul }) => return varying(fixed, &node.operands, value),
            Op::Contract(op) if op.spec.summed().is_empty() => return varying(fixed, &node.operands, value),
            _ => break,
        }
    }
    (value, false)
}

fn varying(fixed: &[bool], operands: &[Option<ValueId>], value: ValueId) -> (ValueId, bool) {
    let mut varying = operands.iter().flatten().filter(|v| !fixed[v.idx()]);
    match (varying.next(), varying.next()) {
        (Some(x), None) => (*x, true),
        _ => (value, false),
    }
}

/// The tensors that the terms are views of, at different steps, the last ones first.
fn bases(graph: &Graph, terms: &[Term]) -> Vec<Vec<ValueId>> {
    let Some(plain) = terms.iter().find(|t| !t.is_scaled) else { return Vec::new() };
    let scaled: Vec<&Term> = terms.iter().filter(|t| t.is_scaled).collect();
    let mut found = Vec::new();
    for base in plain.views.iter().rev() {
        let is_shifted = |t: &&&Term| t.views.contains(base) && t.views[0] != plain.views[0];
        if !scaled.iter().any(|t| is_shifted(&t))
            || terms.iter().any(|t| !t.is_scaled && !t.views.contains(base))
        {
            continue;
        }
        let mut others: BTreeSet<ValueId> = BTreeSet::new();
        let mut is_complete = true;
        for term in scaled.iter().filter(|t| !t.views.contains(base)) {
            match term.views.iter().rev().find(|v| graph.ty(**v) == graph.ty(*base)) {
                Some(other) => {
                    others.insert(*other);
                }
                None => is_complete = false,
            }
        }
        if is_complete && others.len() <= 1 {
            found.push(std::iter::once(*base).chain(others).collect());
        }
    }
    found
}
