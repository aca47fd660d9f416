//! The e-graph language: ops of the graph IR over class ids, with their types.

use egg::{Analysis, DidMerge, EGraph, Id, Language};
use ssmc_ir::TensorType;
use ssmc_ir::ops::{F64, Op};
use std::fmt;

/// What an e-node applies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Head {
    /// A value that comes into the segment from outside: an input, a weight, a result of an op that never enters an
    /// e-graph.
    Leaf(usize),
    /// An optional operand that is absent.
    Absent,
    /// An op; with more than one result it stands for the tuple of them.
    Op(Op),
    /// One result of a tuple.
    Proj(usize),
}

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// What it applies.
    pub head: Head,
    /// To what.
    pub children: Vec<Id>,
}

impl Term {
    /// An e-node without children.
    pub fn leaf(head: Head) -> Self {
        Self { head, children: Vec::new() }
    }

    /// The op, if it applies one.
    pub fn op(&self) -> Option<&Op> {
        match &self.head {
            Head::Op(op) => Some(op),
            Head::Leaf(_) | Head::Absent | Head::Proj(_) => None,
        }
    }
}

impl Language for Term {
    type Discriminant = &'static str;

    fn discriminant(&self) -> Self::Discriminant {
        match &self.head {
            Head::Leaf(_) => "leaf",
            Head::Absent => "absent",
            Head::Proj(_) => "proj",
            Head::Op(op) => op.name(),
        }
    }

    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.head {
            Head::Leaf(i) => write!(f, "leaf{i}"),
            Head::Absent => f.write_str("_"),
            Head::Proj(i) => write!(f, "proj{i}"),
            Head::Op(Op::Contract(c)) => write!(f, "contract[{}]", c.spec),
            Head::Op(op) => f.write_str(op.name()),
        }
    }
}

/// What is known of an e-class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The types of the results: none for an absent operand, several for a tuple.
    pub types: Vec<TensorType>,
    /// The number that every element equals, if known.
    pub splat: Option<F64>,
}

/// Types and constants of every e-class.
#[derive(Clone, Debug, Default)]
pub struct Typing {
    /// The types of the leaves.
    pub leaves: Vec<TensorType>,
}

/// The e-graph of one segment.
pub type Graph = EGraph<Term, Typing>;

/// The result types of `head` applied to operands with these types (the first results count, none where absent).
pub(crate) fn infer(
    head: &Head,
    operands: &[&[TensorType]],
    leaves: &[TensorType],
) -> Option<Vec<TensorType>> {
    match head {
        Head::Leaf(i) => Some(vec![leaves.get(*i)?.clone()]),
        Head::Absent => Some(Vec::new()),
        Head::Proj(i) => Some(vec![operands.first()?.get(*i)?.clone()]),
        Head::Op(op) => {
            let types: Vec<_> = operands.iter().map(|types| types.first()).collect();
            op.infer(&types, &[]).ok()
        }
    }
}

/// The number that all elements of a literal equal.
fn literal_splat(c: &ssmc_ir::ops::Constant) -> Option<F64> {
    let size = c.dtype.bits().div_ceil(8);
    if c.dtype.bits() < 8 {
        return c.as_scalar().map(F64::from);
    }
    let mut elems = c.data.chunks_exact(size);
    let first = elems.next()?;
    if elems.any(|e| e != first) {
        return None;
    }
    ssmc_ir::scalar::decode(c.dtype, first).map(F64::from)
}

impl Analysis<Term> for Typing {
    type Data = Facts;

    fn make(egraph: &mut Graph, term: &Term, _: Id) -> Facts {
        let operands: Vec<_> = term.children.iter().map(|c| egraph[*c].data.types.as_slice()).collect();
        let types = infer(&term.head, &operands, &egraph.analysis.leaves)
            .expect("terms are added only after their types are inferred");
        let child = |i: usize| term.children.get(i).and_then(|c| egraph[*c].data.splat);
        let splat = match term.op() {
            Some(Op::Constant(c)) => literal_splat(c),
            Some(Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_)) => child(0),
            Some(Op::Cast(c)) if c.to.is_float() => {
                child(0).map(|x| F64::from(ssmc_ir::scalar::round(c.to, x.get())))
            }
            _ => None,
        };
        Facts { types, splat }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        assert_eq!(a.types, b.types, "rules equate only terms of equal type");
        let learned_from_b = a.splat.is_none() && b.splat.is_some();
        let learned_from_a = b.splat.is_none() && a.splat.is_some();
        a.splat = a.splat.or(b.splat);
        DidMerge(learned_from_b, learned_from_a)
    }
}
