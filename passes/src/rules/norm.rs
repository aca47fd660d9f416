//! Normalizations over one axis.
//!
//! rms_norm(x) = x * rsqrt(mean(x^2) + eps); layer_norm(x) = rms_norm(x - mean(x)); weight, bias and gate are operands.

use super::algebra::{apply2, binary, both_orders, splat, unary};
use super::gate::{replaced, silus};
use super::{Direction, Equation, Exactness, Rule};
use crate::egraph::{Expr, Factor, Graph, Label, Labels, Product, readings, readings_of};
use egg::Id;
use ssmc_ir::ops::{BinaryFn, F64, GatedRmsNorm, LayerNorm, Op, ReduceFn, RmsNorm, UnaryFn};

pub(super) static RULES: &[Rule] = &[
    Rule {
        name: "rms-norm",
        family: "norm",
        equation: "x * rsqrt(mean over d of x^2 + eps) * rest.. = rms_norm(x) * rest..",
        reason: "definition of rms_norm",
        source: "Zhang & Sennrich 2019",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: rms_norm,
    },
    Rule {
        name: "rms-norm-weight",
        family: "norm",
        equation: "rms_norm(x) * w[d] * rest.. = rms_norm(x, w) * rest..",
        reason: "definition of the operand weight",
        source: "Zhang & Sennrich 2019",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: rms_norm_weight,
    },
    Rule {
        name: "layer-norm",
        family: "norm",
        equation: "rms_norm(x - mean(x), w) = layer_norm(x, w)",
        reason: "the variance is the mean square of the deviation",
        source: "Ba et al. 2016",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: layer_norm,
    },
    Rule {
        name: "layer-norm-bias",
        family: "norm",
        equation: "layer_norm(x, w) + bias[d] = layer_norm(x, w, bias)",
        reason: "definition of the operand bias",
        source: "Ba et al. 2016",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: layer_norm_bias,
    },
    Rule {
        name: "gate-then-norm",
        family: "norm",
        equation: "rms_norm(y * silu(z), w) = gated_rms_norm{norm_before_gate = false}(y, z, w)",
        reason: "definition of gated_rms_norm",
        source: "upstream RMSNormGated",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: gate_then_norm,
    },
    Rule {
        name: "norm-then-gate",
        family: "norm",
        equation: "rms_norm(y, w) * silu(z) = gated_rms_norm{norm_before_gate = true}(y, z, w)",
        reason: "definition of gated_rms_norm",
        source: "upstream RMSNormGated",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: norm_then_gate,
    },
];

/// The label of the axis that a mean removes; greater than any axis number.
const REMOVED: Label = Label::MAX / 2;

/// What the factor is a mean of, along one axis, labelled `REMOVED`.
fn means(egraph: &Graph, factor: &Factor) -> Vec<Factor> {
    let mut found = Vec::new();
    for base in factor.bases(egraph) {
        for term in &egraph[base.id].nodes {
            if let Some(Op::Reduce(r)) = term.op()
                && r.f == ReduceFn::Mean
                && let [axis] = r.axes[..]
            {
                let mut labels = base.labels.clone();
                labels.insert(axis, Some(REMOVED));
                found.push(Factor { id: egraph.find(term.children[0]), labels });
            }
        }
    }
    found
}

/// The x for which the factor is the mean of x^2 along one axis, labelled `REMOVED`.
fn mean_squares(egraph: &Graph, factor: &Factor) -> Vec<Factor> {
    let mut found = Vec::new();
    for squares in means(egraph, factor) {
        for product in readings_of(egraph, &squares) {
            if let [x, y] = &product.factors[..]
                && x == y
                && x.has(REMOVED)
            {
                found.push(x.clone());
            }
        }
    }
    for base in factor.bases(egraph) {
        let quotients =
            binary(egraph, base.id, BinaryFn::Div).filter_map(|[sum, n]| Some((sum, splat(egraph, n)?)));
        let products = binary(egraph, base.id, BinaryFn::Mul)
            .flat_map(both_orders)
            .filter_map(|[sum, n]| Some((sum, 1.0 / splat(egraph, n)?)));
        let scaled: Vec<_> = quotients.chain(products).collect();
        for (sum, n) in scaled {
            found.extend(sums_of_squares(egraph, &Factor { id: sum, labels: base.labels.clone() }, n));
        }
    }
    found
}

/// The x with `n` elements for which the factor is the sum of x^2 along one axis, labelled `REMOVED`.
fn sums_of_squares(egraph: &Graph, sum: &Factor, n: f64) -> Vec<Factor> {
    let mut found = Vec::new();
    for product in readings_of(egraph, sum) {
        let [x, y] = &product.factors[..] else { continue };
        let summed: Vec<Label> = x.label_set().into_iter().filter(|l| product.is_summed(*l)).collect();
        let [label] = summed[..] else { continue };
        let Some(axis) = x.labels.iter().position(|l| *l == Some(label)) else { continue };
        let extent = egraph[x.id].data.types[0].shape[axis].as_const();
        // A literal such as 1/768 is rounded to its element type.
        let is_extent = extent.is_some_and(|extent| (extent as f64 / n - 1.0).abs() < 1e-6);
        if x == y && is_extent {
            found.push(with_label(x, label, REMOVED));
        }
    }
    found
}

fn with_label(factor: &Factor, from: Label, to: Label) -> Factor {
    let labels = factor.labels.iter().map(|l| if *l == Some(from) { Some(to) } else { *l }).collect();
    Factor { id: factor.id, labels }
}

/// The tensor with this axis last, and its labels.
fn with_last(egraph: &Graph, x: &Factor, last: Label) -> Option<(Expr, Labels)> {
    let (expr, labels) = x.expr(egraph);
    if labels.last() == Some(&Some(last)) {
        return Some((expr, labels));
    }
    let others = labels.iter().copied().filter(|l| l.is_some_and(|l| l != last));
    let target: Labels = others.chain([Some(last)]).collect();
    Some((expr.place(&labels, &target)?, target))
}

fn rms_norm(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for product in readings(egraph, id).into_iter().filter(Product::is_plain) {
        for (i, factor) in product.factors.iter().enumerate() {
            for (x, eps) in scales(egraph, factor) {
                for (j, other) in product.factors.iter().enumerate() {
                    let extra: Vec<Label> =
                        other.label_set().difference(&factor.label_set()).copied().collect();
                    let [last] = extra[..] else { continue };
                    if i == j || !with_label(&x, REMOVED, last).is_same_view(other, egraph) {
                        continue;
                    }
                    let right = || {
                        let (x, labels) = with_last(egraph, other, last)?;
                        let norm = Expr::op(RmsNorm { eps }, vec![x, Expr::absent()])?;
                        replaced(egraph, vec![(norm, labels)], &product, &[i, j], id)
                    };
                    let left = Expr::term(egraph, &product.top);
                    found.extend(right().map(|right| Equation::between(left, right)));
                }
            }
        }
    }
    found
}

/// The x and eps for which the factor is rsqrt(mean(x^2) + eps).
fn scales(egraph: &Graph, factor: &Factor) -> Vec<(Factor, F64)> {
    let mut found = Vec::new();
    for base in factor.bases(egraph) {
        for v in unary(egraph, base.id, UnaryFn::Rsqrt) {
            for view in (Factor { id: v, labels: base.labels.clone() }).bases(egraph) {
                for [m, eps] in binary(egraph, view.id, BinaryFn::Add).flat_map(both_orders) {
                    let Some(eps) = egraph[eps].data.splat else { continue };
                    let mean = Factor { id: m, labels: view.labels.clone() };
                    found.extend(mean_squares(egraph, &mean).into_iter().map(|x| (x, eps)));
                }
            }
        }
    }
    found
}

/// The norms in a class: eps, operand and weight.
fn norms(egraph: &Graph, id: Id) -> impl Iterator<Item = (F64, Id, Id)> + '_ {
    egraph[id].nodes.iter().filter_map(|t| match t.op() {
        Some(Op::RmsNorm(n)) => Some((n.eps, egraph.find(t.children[0]), egraph.find(t.children[1]))),
        _ => None,
    })
}

fn is_absent(egraph: &Graph, id: Id) -> bool {
    egraph[id].data.types.is_empty()
}

fn rms_norm_weight(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for product in readings(egraph, id).into_iter().filter(Product::is_plain) {
        for (i, factor) in product.factors.iter().enumerate() {
            for base in factor.bases(egraph) {
                for (eps, x, weight) in norms(egraph, base.id) {
                    let Some(Some(last)) = base.labels.last().copied() else { continue };
                    if !is_absent(egraph, weight) {
                        continue;
                    }
                    for (j, w) in product.factors.iter().enumerate() {
                        if i == j || w.label_set() != [last].into() {
                            continue;
                        }
                        let right = || {
                            let w = Expr::class(egraph, w.id).place(&w.labels, &[Some(last)])?;
                            let norm = |w| {
                                let norm = Expr::op(RmsNorm { eps }, vec![Expr::class(egraph, x), w])?;
                                Some(vec![(norm, base.labels.clone())])
                            };
                            let left = replaced(egraph, norm(Expr::absent())?, &product, &[i], id)?;
                            let right = replaced(egraph, norm(w)?, &product, &[i, j], id)?;
                            let seen = vec![(Expr::class(egraph, base.id), base.labels.clone())];
                            let seen = replaced(egraph, seen, &product, &[i], id)?;
                            Some(Equation::reading(Expr::term(egraph, &product.top), seen, left, right))
                        };
                        found.extend(right());
                    }
                }
            }
        }
    }
    found
}

fn layer_norm(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for (eps, centered, weight) in norms(egraph, id) {
        for [x, mean] in binary(egraph, centered, BinaryFn::Sub) {
            let whole = Factor::numbered(egraph, x);
            let Some(Some(last)) = whole.labels.last().copied() else { continue };
            let is_mean = means(egraph, &Factor { id: mean, labels: whole.labels.clone() })
                .iter()
                .any(|m| with_label(m, REMOVED, last).is_same_view(&whole, egraph));
            if is_mean {
                let equation = || {
                    let weight = Expr::class(egraph, weight);
                    let centered = apply2(egraph, BinaryFn::Sub, [x, mean])?;
                    let left = Expr::op(RmsNorm { eps }, vec![centered, weight.clone()])?;
                    let operands = vec![Expr::class(egraph, x), weight, Expr::absent()];
                    Some(Equation::between(left, Expr::op(LayerNorm { eps }, operands)?))
                };
                found.extend(equation());
            }
        }
    }
    found
}

fn layer_norm_bias(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    let pairs = binary(egraph, id, BinaryFn::Add).flat_map(|pair| both_orders(pair).map(|o| (pair, o)));
    for (pair, [y, bias]) in pairs {
        let layer_norms = egraph[y].nodes.iter().filter_map(|t| match t.op() {
            Some(Op::LayerNorm(n)) if is_absent(egraph, t.children[2]) => Some((n.eps, &t.children)),
            _ => None,
        });
        for (eps, operands) in layer_norms {
            let whole = Factor::numbered(egraph, bias);
            for base in whole.bases(egraph) {
                let right = || {
                    let last = (*whole.labels.last()?)?;
                    let bias = Expr::class(egraph, base.id).place(&base.labels, &[Some(last)])?;
                    let operands =
                        vec![Expr::class(egraph, operands[0]), Expr::class(egraph, operands[1]), bias];
                    Expr::op(LayerNorm { eps }, operands)
                };
                let left = apply2(egraph, BinaryFn::Add, pair);
                found.extend(left.zip(right()).map(|(left, right)| Equation::between(left, right)));
            }
        }
    }
    found
}

fn gate_then_norm(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for (eps, gated, weight) in norms(egraph, id) {
        for product in readings(egraph, gated) {
            for (j, z) in silus(egraph, &product) {
                let right = || {
                    let z = Expr::class(egraph, z.id).place(&z.labels, &product.output)?;
                    let shape = &egraph[gated].data.types[0].shape;
                    let rest = product.rest(&[j]).iter().map(|f| f.expr(egraph)).collect();
                    let y = Expr::product(rest, &product.output, shape)?;
                    let op = GatedRmsNorm { eps, norm_before_gate: false };
                    Expr::op(op, vec![y, z, Expr::class(egraph, weight)])
                };
                let operands = vec![Expr::class(egraph, gated), Expr::class(egraph, weight)];
                let left = Expr::op(RmsNorm { eps }, operands);
                found.extend(left.zip(right()).map(|(left, right)| Equation::between(left, right)));
            }
        }
    }
    found
}

fn norm_then_gate(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for product in readings(egraph, id).into_iter().filter(Product::is_plain) {
        for (j, z) in silus(egraph, &product) {
            for (i, factor) in product.factors.iter().enumerate().filter(|(i, _)| *i != j) {
                for base in factor.bases(egraph) {
                    for (eps, x, weight) in norms(egraph, base.id) {
                        let right = || {
                            let z = Expr::class(egraph, z.id).place(&z.labels, &base.labels)?;
                            let op = GatedRmsNorm { eps, norm_before_gate: true };
                            let operands = vec![Expr::class(egraph, x), z, Expr::class(egraph, weight)];
                            let gated = (Expr::op(op, operands)?, base.labels.clone());
                            replaced(egraph, vec![gated], &product, &[i, j], id)
                        };
                        let left = Expr::term(egraph, &product.top);
                        found.extend(right().map(|right| Equation::between(left, right)));
                    }
                }
            }
        }
    }
    found
}
