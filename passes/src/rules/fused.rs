//! What `ssm.selective_scan` and `ssm.ssd` have in common: the same operands in the same order.

use crate::egraph::{Chain, Expr, Graph, Head, views};
use egg::Id;
use ssmc_ir::ops::{Mode, Op};

pub(super) const X: usize = 0;
pub(super) const DT: usize = 1;
pub(super) const D: usize = 5;
pub(super) const Z: usize = 6;
pub(super) const DT_BIAS: usize = 7;

/// The step-size attributes of a fused scan: dt' = clamp(softplus?(dt + dt_bias), min, max).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dt {
    pub(super) softplus: bool,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// A term that applies a fused scan.
#[derive(Clone)]
pub(super) struct Fused {
    op: Op,
    operands: Vec<Expr>,
    classes: Vec<Id>,
}

impl Fused {
    /// The operand of this index.
    pub(super) fn operand(&self, i: usize) -> &Expr {
        &self.operands[i]
    }

    /// The class of the operand of this index.
    pub(super) fn class(&self, i: usize) -> Id {
        self.classes[i]
    }

    /// Whether an optional operand is present.
    pub(super) fn has(&self, i: usize) -> bool {
        !self.operands[i].types().is_empty()
    }

    /// Whether this is `ssm.ssd`.
    pub(super) fn is_ssd(&self) -> bool {
        matches!(self.op, Op::Ssd(_))
    }

    /// The step-size attributes.
    pub(super) fn dt(&self) -> Dt {
        match &self.op {
            Op::Ssd(s) => Dt { softplus: s.dt_softplus, min: s.dt_min.get(), max: s.dt_max.get() },
            Op::SelectiveScan(s) => Dt { softplus: s.dt_softplus, min: s.dt_min.get(), max: s.dt_max.get() },
            _ => unreachable!("only fused scans are collected"),
        }
    }

    /// The term with another operand.
    pub(super) fn with(mut self, i: usize, operand: Expr) -> Self {
        self.operands[i] = operand;
        self
    }

    /// The term with other step-size attributes.
    pub(super) fn with_dt(mut self, dt: Dt) -> Self {
        let (softplus, min, max) = match &mut self.op {
            Op::Ssd(s) => (&mut s.dt_softplus, &mut s.dt_min, &mut s.dt_max),
            Op::SelectiveScan(s) => (&mut s.dt_softplus, &mut s.dt_min, &mut s.dt_max),
            _ => unreachable!("only fused scans are collected"),
        };
        *softplus = dt.softplus;
        *min = dt.min.into();
        *max = dt.max.into();
        self
    }

    /// The tuple of its results.
    pub(super) fn tuple(self) -> Option<Expr> {
        Expr::op(self.op, self.operands)
    }
}

/// The fused scans in a class of tuples. Chunked forms are left out: they follow from the recurrent ones.
pub(super) fn in_tuple(egraph: &Graph, tuple: Id) -> Vec<Fused> {
    let mut found = Vec::new();
    for term in &egraph[tuple].nodes {
        let Some(op) = term.op() else { continue };
        match op {
            Op::SelectiveScan(_) => {}
            Op::Ssd(s) if s.mode == Mode::Recurrent => {}
            _ => continue,
        }
        let operands = term.children.iter().map(|c| Expr::class(egraph, *c)).collect();
        found.push(Fused { op: op.clone(), operands, classes: term.children.clone() });
    }
    found
}

/// The tuples of which the class is the first result.
pub(super) fn tuples(egraph: &Graph, id: Id) -> impl Iterator<Item = Id> + '_ {
    let firsts = egraph[id].nodes.iter().filter(|t| t.head == Head::Proj(0));
    firsts.map(|t| egraph.find(t.children[0]))
}

/// The fused scans whose `y` the class is a view of, and the chain from `y` to the class.
pub(super) fn behind(egraph: &Graph, id: Id) -> Vec<(Fused, Chain)> {
    let mut found = Vec::new();
    for (inner, chain) in views(egraph, id) {
        for tuple in tuples(egraph, inner) {
            found.extend(in_tuple(egraph, tuple).into_iter().map(|f| (f, chain.clone())));
        }
    }
    found
}
