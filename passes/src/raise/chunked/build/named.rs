//! The tensors and products of a form whose labels are numbered.

use super::super::find::Part;
use super::super::form::{Axis, Leaf, n_cells};
use super::{Key, Mark, Named, Tensor};
use crate::view;
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{BinaryFn, Broadcast, Contract, Op, Spec};
use ssmc_ir::{BuildError, Dim, GraphBuilder, Shape, ValueId};

impl Named<'_> {
    pub(super) fn key(&self) -> Key {
        let leaves = |part: &Part| -> Vec<Leaf> {
            let leaves = &self.form.terms()[part.term].leaves;
            let mut leaves: Vec<Leaf> = part.inputs.iter().map(|k| leaves[*k].clone()).collect();
            leaves.sort();
            leaves
        };
        let initial = self.found.initial.as_ref().map(leaves).unwrap_or_default();
        let decay = self.form.terms()[self.found.states.term].decay.clone().unwrap_or_default();
        (self.found.reverse, leaves(&self.found.states), decay, initial)
    }

    pub(super) fn extent(&self, mark: Mark) -> Dim {
        match mark {
            Mark::Step => Dim::from(self.n),
            Mark::Label(l) => self.extents[l as usize].clone(),
        }
    }

    /// The axes of the form, the step in place of the first axis that counts steps.
    pub(super) fn target(&self) -> Vec<Mark> {
        let mut target = Vec::new();
        for axis in &self.form.axes {
            match axis {
                Axis::Time(_) if self.found.is_last || target.contains(&Mark::Step) => {}
                Axis::Time(_) => target.push(Mark::Step),
                Axis::Free(list) => target.extend(list.iter().map(|l| Mark::Label(*l))),
            }
        }
        target
    }

    pub(super) fn tensors(
        &self,
        r: &mut Rewriter<'_>,
        part: &Part,
        of: &[usize],
    ) -> Result<Vec<Tensor>, EditError> {
        let leaves: Vec<Leaf> = of.iter().map(|k| self.form.terms()[part.term].leaves[*k].clone()).collect();
        self.leaves(r, &leaves)
    }

    pub(super) fn leaves(&self, r: &mut Rewriter<'_>, leaves: &[Leaf]) -> Result<Vec<Tensor>, EditError> {
        leaves.iter().map(|leaf| self.leaf(r, leaf)).collect()
    }

    /// A leaf with one axis for each label and one for the steps of the sequence.
    pub(super) fn leaf(&self, r: &mut Rewriter<'_>, leaf: &Leaf) -> Result<Tensor, EditError> {
        let x = r.get(leaf.value)?;
        let g = r.builder();
        let x = if g.ty(x).dtype == self.dtype { x } else { g.cast(x, self.dtype)? };
        let times: Vec<usize> = (0..leaf.axes.len()).filter(|i| leaf.axes[*i].is_time()).collect();
        let free = (0..leaf.axes.len()).filter(|i| !leaf.axes[*i].is_time());
        let perm: Vec<usize> = if times.len() > 1 {
            times.iter().copied().chain(free).collect()
        } else {
            (0..leaf.axes.len()).collect()
        };
        let x = view::permute(g, x, &perm)?;
        let (mut marks, mut dims) = (Vec::new(), Vec::new());
        let n: usize = n_cells(&leaf.axes);
        for axis in perm {
            match &leaf.axes[axis] {
                Axis::Time(_) if marks.contains(&Mark::Step) => {}
                Axis::Time(_) => {
                    marks.push(Mark::Step);
                    dims.push(Dim::from(n));
                }
                Axis::Free(list) => {
                    marks.extend(list.iter().map(|l| Mark::Label(*l)));
                    dims.extend(list.iter().map(|l| self.extent(Mark::Label(*l))));
                }
            }
        }
        let mut x = view::reshape(g, x, &dims)?;
        if let Some(axis) = marks.iter().position(|m| *m == Mark::Step)
            && n > self.n
        {
            x = g.slice(x, axis, Dim::from(0), Dim::from(self.n))?;
        }
        Ok(Tensor { value: x, marks })
    }

    /// The product of tensors, summed over marks that the target lacks and repeated along those that none has.
    pub(super) fn product(
        &self,
        g: &mut GraphBuilder,
        factors: &[Tensor],
        target: &[Mark],
        coef: f64,
    ) -> Result<Tensor, BuildError> {
        let letter = |mark: &Mark| match mark {
            Mark::Step => b'a',
            Mark::Label(l) if *l < 25 => b'b' + *l as u8,
            Mark::Label(l) => b'A' + (*l - 25) as u8,
        };
        let borne: Vec<Mark> =
            target.iter().copied().filter(|m| factors.iter().any(|f| f.marks.contains(m))).collect();
        let inputs = factors.iter().map(|f| f.marks.iter().map(letter).collect()).collect();
        let spec = Spec { inputs, output: borne.iter().map(letter).collect() }.renamed();
        let operands: Vec<ValueId> = factors.iter().map(|f| f.value).collect();
        let is_same = matches!(factors, [one] if one.marks == borne);
        let mut y = if is_same { operands[0] } else { g.op(Contract { spec }, &operands)? };
        if coef != 1.0 {
            let k = g.splat(coef, y)?;
            y = g.binary(BinaryFn::Mul, y, k)?;
        }
        if borne.len() < target.len() {
            let axes = (0..target.len()).filter(|i| borne.contains(&target[*i])).collect();
            let shape: Shape = target.iter().map(|m| self.extent(*m)).collect();
            y = g.op(Op::from(Broadcast { axes, shape }), &[y])?;
        }
        Ok(Tensor { value: y, marks: target.to_vec() })
    }

    /// The tensor in the shape of the form.
    pub(super) fn arranged(
        &self,
        g: &mut GraphBuilder,
        x: Tensor,
        shape: &Shape,
    ) -> Result<ValueId, BuildError> {
        let is_dense = |i: &usize| !matches!(&self.form.axes[*i], Axis::Free(list) if list.is_empty());
        let dense: Vec<usize> = (0..self.form.axes.len()).filter(is_dense).collect();
        let times: Vec<usize> = (0..dense.len()).filter(|i| self.form.axes[dense[*i]].is_time()).collect();
        let is_joined = times.windows(2).all(|pair| pair[1] == pair[0] + 1);
        if is_joined || self.found.is_last {
            return view::reshape(g, x.value, shape);
        }
        // The axes of steps stand apart: they are divided in place of the first and then moved.
        let mut axes: Vec<usize> = Vec::new();
        for (i, axis) in dense.iter().enumerate() {
            if self.form.axes[*axis].is_time() {
                if i == times[0] {
                    axes.extend(&times);
                }
            } else {
                axes.push(i);
            }
        }
        let dims: Vec<Dim> = axes.iter().map(|i| shape[dense[*i]].clone()).collect();
        let x = view::reshape(g, x.value, &dims)?;
        let perm: Vec<usize> = (0..dense.len())
            .map(|i| axes.iter().position(|axis| *axis == i).expect("both list the dense axes"))
            .collect();
        let x = view::permute(g, x, &perm)?;
        view::reshape(g, x, shape)
    }
}
