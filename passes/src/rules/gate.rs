//! Gates: a factor that is a function of one tensor, multiplied onto another.

use super::algebra::unary;
use super::{Direction, Equation, Exactness, Rule};
use crate::egraph::{Expr, Factor, Graph, Labels, Product, readings};
use egg::Id;
use ssmc_ir::ops::{Unary, UnaryFn};

pub(super) static RULES: &[Rule] = &[Rule {
    name: "silu-product",
    family: "gate",
    equation: "x * sigmoid(x) * rest.. = silu(x) * rest..",
    reason: "definition of silu; products commute",
    source: "definition",
    exactness: Exactness::Reassociates,
    direction: Direction::Forward,
    find: silu_product,
}];

fn silu_product(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for product in readings(egraph, id).into_iter().filter(Product::is_plain) {
        for (i, factor) in product.factors.iter().enumerate() {
            for base in factor.bases(egraph) {
                for x in unary(egraph, base.id, UnaryFn::Sigmoid) {
                    let inner = Factor { id: x, labels: base.labels.clone() };
                    let same = |f: &Factor| f.is_same_view(&inner, egraph);
                    let Some(j) = product.factors.iter().position(same) else { continue };
                    let right = || {
                        let silu = Expr::op(Unary { f: UnaryFn::Silu }, vec![Expr::class(egraph, x)])?;
                        replaced(egraph, vec![(silu, base.labels.clone())], &product, &[i, j], id)
                    };
                    let left = Expr::term(egraph, &product.top);
                    found.extend(right().map(|right| Equation::between(left, right)));
                }
            }
        }
    }
    found
}

/// The factors of the product that apply silu: position, operand, and labels of the operand.
pub(super) fn silus(egraph: &Graph, product: &Product) -> Vec<(usize, Factor)> {
    let mut found = Vec::new();
    for (i, factor) in product.factors.iter().enumerate() {
        for base in factor.bases(egraph) {
            for z in unary(egraph, base.id, UnaryFn::Silu) {
                found.push((i, Factor { id: z, labels: base.labels.clone() }));
            }
        }
    }
    found
}

/// The class `id`, read as `product`, with the factors at `positions` replaced by other terms, which come first.
pub(super) fn replaced(
    egraph: &Graph,
    by: Vec<(Expr, Labels)>,
    product: &Product,
    positions: &[usize],
    id: Id,
) -> Option<Expr> {
    let rest = product.rest(positions).into_iter().map(|f| f.expr(egraph));
    let factors = by.into_iter().chain(rest).collect();
    Expr::product(factors, &product.output, &egraph[id].data.types[0].shape)
}
