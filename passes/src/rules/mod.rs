//! The rewrite rules: small true equations, one file for each family.
//!
//! A rule is data (name, equation, reason, source, exactness) with a function that finds the places where it holds.
//! Large fusions are chains of these.

mod algebra;
mod conv1d;
mod discretize;
mod gate;
mod modes;
mod norm;
mod scan;
mod ssd;
mod fused;

#[cfg(test)]
mod tests;

use crate::egraph::{Expr, Graph};
use egg::Id;

/// How the two sides of a rule compare in floating-point arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exactness {
    /// The same bits.
    Bitwise,
    /// The same real function; sums and products are rounded in another order.
    Reassociates,
    /// The same real function within the stated error of an approximation.
    Approximates,
}

impl Exactness {
    /// The word in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bitwise => "bitwise",
            Self::Reassociates => "reassociates",
            Self::Approximates => "approximates",
        }
    }
}

/// Which side of a rule is found and which is added. Both stay in the e-graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The left side is found, the right side added; the right side is never worse.
    Forward,
    /// The left side is found, the right side added; the cost model decides which is better.
    Expand,
}

impl Direction {
    /// The word in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Expand => "expand",
        }
    }
}

/// A rewrite rule.
pub struct Rule {
    /// Unique, in kebab case.
    pub name: &'static str,
    /// The family, which is the name of its file.
    pub family: &'static str,
    /// Left side = right side.
    pub equation: &'static str,
    /// Why it holds.
    pub reason: &'static str,
    /// Where it is from.
    pub source: &'static str,
    /// How the sides compare in floating-point arithmetic.
    pub exactness: Exactness,
    /// Which side is found.
    pub direction: Direction,
    pub(crate) find: fn(&Graph, Id) -> Vec<Equation>,
}

/// An instance of a rule: two equal terms.
pub(crate) struct Equation {
    pub(crate) left: Expr,
    pub(crate) right: Expr,
}

impl Equation {
    /// The class equals the term.
    fn of(egraph: &Graph, left: Id, right: Expr) -> Self {
        Self { left: Expr::class(egraph, left), right }
    }
}

/// All rules, by family and in the order of their files.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let families = [
        algebra::RULES,
        gate::RULES,
        norm::RULES,
        conv1d::RULES,
        discretize::RULES,
        scan::RULES,
        ssd::RULES,
        modes::RULES,
    ];
    families.into_iter().flatten()
}
