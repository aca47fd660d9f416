//! Axes of values of a loop body, traced back to the axes of its carried matrix.

use ssmc_ir::Dim;
use ssmc_ir::ops::{Broadcast, Transpose};

/// An axis of its own: one of the state, or one that came later.
pub(super) type Label = usize;

/// What every axis of a value is made of: several labels where axes were joined, none where it has one element.
pub(super) type Axes = Vec<Vec<Label>>;

/// The extents of all labels.
#[derive(Debug, Default)]
pub(super) struct Labels {
    extents: Vec<Dim>,
}

impl Labels {
    pub(super) fn fresh(&mut self, extent: &Dim) -> Vec<Label> {
        if extent.is(1) {
            return Vec::new();
        }
        self.extents.push(extent.clone());
        vec![self.extents.len() - 1]
    }

    /// Labels for axes of which nothing is known.
    pub(super) fn of(&mut self, shape: &[Dim]) -> Axes {
        shape.iter().map(|d| self.fresh(d)).collect()
    }

    pub(super) fn extent(&self, label: Label) -> &Dim {
        &self.extents[label]
    }

    /// The extent of an axis that joins these labels.
    pub(super) fn product(&self, labels: &[Label]) -> Dim {
        labels.iter().fold(Dim::from(1), |n, l| n * self.extent(*l))
    }

    /// The axes of a broadcast of a value.
    pub(super) fn broadcast(&mut self, op: &Broadcast, axes: &Axes) -> Axes {
        let mut out: Axes = vec![Vec::new(); op.shape.len()];
        for (to, d) in op.shape.iter().enumerate() {
            let from = op.axes.iter().position(|axis| *axis == to).map(|i| &axes[i]);
            out[to] = match from {
                Some(labels) if !labels.is_empty() => labels.clone(),
                _ => self.fresh(d),
            };
        }
        out
    }

    /// The axes of a reshape to `shape`: labels keep their order, and no axis takes a part of one.
    pub(super) fn reshape(&self, axes: &Axes, shape: &[Dim]) -> Option<Axes> {
        let mut rest = axes.iter().flatten().copied().peekable();
        let mut out = Axes::new();
        for d in shape {
            let mut labels = Vec::new();
            while !d.is(1) && self.product(&labels) != *d {
                labels.push(rest.next()?);
            }
            out.push(labels);
        }
        rest.peek().is_none().then_some(out)
    }

    /// The shape of a value whose axes are these labels.
    pub(super) fn dims(&self, labels: &[Label]) -> Vec<Dim> {
        labels.iter().map(|l| self.extent(*l).clone()).collect()
    }
}

/// The axes of a transpose.
pub(super) fn transpose(op: &Transpose, axes: &Axes) -> Axes {
    op.perm.iter().map(|from| axes[*from].clone()).collect()
}
