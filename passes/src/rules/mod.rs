//! The rewrite rules: small true equations, one file for each family.
//!
//! A rule is data (name, equation, reason, source, exactness) with a function that finds the places where it holds.
//! Large fusions are chains of these.

mod algebra;
mod conv1d;
mod discretize;
mod doc;
mod fused;
mod gate;
mod modes;
mod norm;
mod scan;
mod ssd;

#[cfg(test)]
mod tests;

pub use doc::markdown;

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
#[derive(Debug)]
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
    /// A term, and the term over the same classes as which it is read; the left side is the latter with its parts
    /// spelled out.
    pub(crate) read_from: Option<(Expr, Expr)>,
    pub(crate) left: Expr,
    pub(crate) right: Expr,
}

impl Equation {
    /// Two terms are equal, and `top` is read as `seen`, which is the left one but for the spelling of its parts.
    fn reading(top: Expr, seen: Expr, left: Expr, right: Expr) -> Self {
        Self { read_from: Some((top, seen)), left, right }
    }

    /// Two terms are equal.
    pub(crate) fn between(left: Expr, right: Expr) -> Self {
        Self { read_from: None, left, right }
    }
}

/// How the searcher reads products. Not a rule of its own: the left side of another rule is the class so read, and an
/// explanation shows this step where egg cannot see the equality by itself.
pub static READING: Rule = Rule {
    name: "rearrange-product",
    family: "algebra",
    equation: "a product = the same factors in another order, association and layout",
    reason: "products commute and associate; unit axes, broadcasts and transposes do not change elements",
    source: "definition of contract",
    exactness: Exactness::Reassociates,
    direction: Direction::Expand,
    find: |_, _| Vec::new(),
};

/// The rule of this name, [`READING`] included.
pub fn named(name: &str) -> Option<&'static Rule> {
    all().chain([&READING]).find(|rule| rule.name == name)
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
