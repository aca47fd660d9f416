//! Chains of reshapes and transposes: element orders between a tensor and a view of it.

use super::expr::Expr;
use super::lang::Graph;
use egg::Id;
use ssmc_ir::Dim;
use ssmc_ir::ops::{Op, Reshape, Transpose};

/// A reshape or transpose, with the shapes on both sides.
#[derive(Clone, Debug)]
struct Step {
    op: Op,
    from: Vec<Dim>,
    to: Vec<Dim>,
}

impl Step {
    fn inverse(&self) -> Self {
        let op = match &self.op {
            Op::Transpose(t) => {
                let mut perm = vec![0; t.perm.len()];
                for (i, p) in t.perm.iter().enumerate() {
                    perm[*p] = i;
                }
                Transpose { perm }.into()
            }
            _ => Reshape { shape: self.from.as_slice().into() }.into(),
        };
        Self { op, from: self.to.clone(), to: self.from.clone() }
    }

    fn apply(&self, x: Expr) -> Option<Expr> {
        match &self.op {
            Op::Transpose(t) => x.transpose(&t.perm),
            _ => x.reshape(&self.to),
        }
    }

    /// Where the axes end, for a tensor that varies only along these (ascending) and is stored with their extents.
    fn push(&self, axes: &[usize], x: Expr) -> Option<(Vec<usize>, Expr)> {
        match &self.op {
            Op::Transpose(t) => {
                let mut moved: Vec<(usize, usize)> = Vec::new();
                for (i, axis) in axes.iter().enumerate() {
                    moved.push((t.perm.iter().position(|p| p == axis)?, i));
                }
                moved.sort_unstable();
                let perm: Vec<usize> = moved.iter().map(|(_, i)| *i).collect();
                Some((moved.iter().map(|(axis, _)| *axis).collect(), x.transpose(&perm)?))
            }
            _ => {
                let (mut out, mut taken) = (Vec::new(), 0);
                for (left, right) in align(&self.from, &self.to)? {
                    let inside = left.iter().filter(|a| axes.contains(a)).count();
                    let relevant = left.iter().filter(|a| !self.from[**a].is(1)).count();
                    if inside > 0 && inside < relevant {
                        return None;
                    }
                    if inside > 0 {
                        taken += inside;
                        out.extend(right);
                    }
                }
                if taken < axes.len() {
                    return None;
                }
                let dims: Vec<Dim> = out.iter().map(|axis| self.to[*axis].clone()).collect();
                Some((out, x.reshape(&dims)?))
            }
        }
    }
}

/// Groups of axes of two shapes with equal numbers of elements, in order; unit axes outside groups are left out.
fn align(left: &[Dim], right: &[Dim]) -> Option<Vec<(Vec<usize>, Vec<usize>)>> {
    let mut groups = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        if left.get(i).is_some_and(|d| d.is(1)) {
            i += 1;
            continue;
        }
        if right.get(j).is_some_and(|d| d.is(1)) {
            j += 1;
            continue;
        }
        let (mut l, mut r) = (left.get(i)?.clone(), right.get(j)?.clone());
        let (mut ls, mut rs) = (vec![i], vec![j]);
        i += 1;
        j += 1;
        while l != r {
            let left_is_smaller = match (l.as_const(), r.as_const()) {
                (Some(l), Some(r)) => l < r,
                _ => r.div_exact(&l).is_some(),
            };
            if left_is_smaller {
                l = l * left.get(i)?;
                ls.push(i);
                i += 1;
            } else {
                r = r * right.get(j)?;
                rs.push(j);
                j += 1;
            }
        }
        groups.push((ls, rs));
    }
    Some(groups)
}

/// From an inner tensor to an outer one with the same elements.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain(Vec<Step>);

impl Chain {
    /// The chain from the outer tensor to the inner one.
    pub(crate) fn inverse(&self) -> Self {
        Self(self.0.iter().rev().map(Step::inverse).collect())
    }

    /// The outer tensor for an inner one.
    pub(crate) fn apply(&self, x: Expr) -> Option<Expr> {
        self.0.iter().try_fold(x, |x, step| step.apply(x))
    }

    /// Takes a tensor that varies only along `axes` of the inner frame (and has just these axes) to the outer frame:
    /// the axes there, and the tensor with just these axes. `None` if the chain splits or merges them with others.
    pub(crate) fn push(&self, axes: Vec<usize>, x: Expr) -> Option<(Vec<usize>, Expr)> {
        self.0.iter().try_fold((axes, x), |(axes, x), step| step.push(&axes, x))
    }
}

/// How many reshapes and transposes are looked through.
const MAX_STEPS: usize = 6;

/// The classes from which this one is made by reshapes and transposes, itself first.
pub(crate) fn inner(egraph: &Graph, id: Id) -> Vec<(Id, Chain)> {
    let mut found = vec![(egraph.find(id), Chain::default())];
    let mut next = 0;
    while next < found.len() {
        let (outer, chain) = found[next].clone();
        next += 1;
        if chain.0.len() == MAX_STEPS {
            continue;
        }
        for term in &egraph[outer].nodes {
            let Some(op @ (Op::Reshape(_) | Op::Transpose(_))) = term.op() else { continue };
            let child = egraph.find(term.children[0]);
            if found.iter().any(|(id, _)| *id == child) {
                continue;
            }
            let shape = |id: Id| egraph[id].data.types[0].shape.to_vec();
            let step = Step { op: op.clone(), from: shape(child), to: shape(outer) };
            found.push((child, Chain([vec![step], chain.0.clone()].concat())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(ns: &[i64]) -> Vec<Dim> {
        ns.iter().map(|n| Dim::from(*n)).collect()
    }

    #[test]
    fn align_groups_axes_with_equal_products() {
        let groups = align(&dims(&[2, 1, 3, 4]), &dims(&[2, 12, 1])).unwrap();
        assert_eq!(groups, [(vec![0], vec![0]), (vec![2, 3], vec![1])]);
        assert_eq!(align(&dims(&[2, 3]), &dims(&[3, 2])).unwrap(), [(vec![0, 1], vec![0, 1])]);
    }

    #[test]
    fn align_takes_symbols() {
        let (b, l) = (Dim::symbol("batch"), Dim::symbol("seq_len"));
        let merged = b.clone() * &l;
        let groups = align(&[b, l, Dim::from(6)], &[merged, Dim::from(2), Dim::from(3)]).unwrap();
        assert_eq!(groups, [(vec![0, 1], vec![0]), (vec![2], vec![1, 2])]);
    }
}
