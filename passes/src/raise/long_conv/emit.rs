//! Plans to nodes.

use super::lags::{Lags, Piece};
use super::{Kernel, Plan};
use crate::view::{self, Label, Labels};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Binary, BinaryFn, Broadcast, Concat, LongConv, Pad, Reverse, Slice, WeightRef};
use ssmc_ir::{
    BuildError, DType, Dim, GraphBuilder, Node, Shape, Tensor, TensorType, ValueId, Weight, Weights,
};

impl Plan {
    /// The labels along which the kernel differs.
    fn kernel_labels(&self) -> Vec<Label> {
        match &self.kernel {
            Kernel::Constant { labels, .. } => labels.clone(),
            Kernel::Value { view, .. } => {
                view.labels.iter().flatten().copied().filter(|l| *l != self.sequence).collect()
            }
        }
    }

    /// The label of the batch, if there is one, and those of the channels. The first axis is the batch, unless kernels
    /// that do not depend on the input differ along it.
    fn axes(&self) -> (Option<Label>, Vec<Label>) {
        let is_axis = |l: &Label| *l != self.sequence && !self.dims[*l as usize].is(1);
        let mut all: Vec<Label> = (0..self.dims.len() as Label).filter(is_axis).collect();
        let first = Label::from(self.sequence == 0);
        let is_constant = matches!(self.kernel, Kernel::Constant { .. });
        if all.first() != Some(&first) || (is_constant && self.kernel_labels().contains(&first)) {
            return (None, all);
        }
        (Some(all.remove(0)), all)
    }

    /// The number of channels.
    pub(super) fn channels(&self) -> Dim {
        self.axes().1.iter().fold(Dim::from(1), |n, l| n * &self.dims[*l as usize])
    }

    /// The value of the root, built from long convolution and layout.
    pub(super) fn emit(
        &self,
        r: &mut Rewriter<'_>,
        root: &Node,
        weights: &mut Weights,
    ) -> Result<ValueId, EditError> {
        let signal = r.get(self.signal.value)?;
        let kernel_value = match &self.kernel {
            Kernel::Value { view, .. } => Some(r.get(view.value)?),
            Kernel::Constant { .. } => None,
        };
        let bias = self.bias.map(|(bias, label)| r.get(bias).map(|bias| (bias, label))).transpose()?;
        let shape = r.old().ty(root.results[0]).shape.clone();
        let b = r.builder();
        let dtype = b.ty(signal).dtype;
        let (batch, channels) = self.axes();
        let extent = |l: &Label| self.dims[*l as usize].clone();
        let n_channels = self.channels();
        let n_batch = batch.as_ref().map_or(Dim::from(1), extent);
        let [from, to] = &self.lengths;
        let columns = |len: &Dim| [n_batch.clone(), len.clone(), n_channels.clone()];

        let order: Labels =
            batch.into_iter().chain([self.sequence]).chain(channels.iter().copied()).map(Some).collect();
        let dims: Vec<Dim> = order
            .iter()
            .flatten()
            .map(|l| if *l == self.sequence { from.clone() } else { extent(l) })
            .collect();
        let x = view::spread(b, signal, &self.signal.labels, &order, &dims)?;
        let mut x = view::reshape(b, x, &columns(from))?;
        let (k, lead) =
            self.kernel(b, kernel_value, (batch, &channels, n_channels.clone()), weights, dtype)?;
        let longer = to.clone() - from;
        if from.at_most(to) == *from && from != to {
            let zero = b.scalar(dtype, 0.0)?;
            x = b.op(Pad { axis: 1, low: Dim::from(0), high: longer }, &[x, zero])?;
        } else if lead.is(0) && from != to {
            x = b.op(Slice { axis: 1, start: Dim::from(0), len: to.clone(), stride: 1 }, &[x])?;
        }
        let y = b.node(LongConv { lead }, &[Some(x), Some(k), None], Vec::new())?[0];
        let mut y = y;
        if b.shape(y)[1] != *to {
            y = b.op(Slice { axis: 1, start: Dim::from(0), len: to.clone(), stride: 1 }, &[y])?;
        }
        let dims: Vec<Dim> = order
            .iter()
            .flatten()
            .map(|l| if *l == self.sequence { to.clone() } else { extent(l) })
            .collect();
        let y = view::reshape(b, y, &dims)?;
        let target: Labels =
            (0..self.dims.len() as Label).map(|l| order.contains(&Some(l)).then_some(l)).collect();
        let mut y = view::spread(b, y, &order, &target, &shape)?;
        if let Kernel::Value { scale, .. } = self.kernel
            && scale != 1.0
        {
            let scale = b.splat(scale, y)?;
            y = b.op(Binary { f: BinaryFn::Mul }, &[y, scale])?;
        }
        if let Some((bias, label)) = bias {
            let bias = b.op(Broadcast { axes: vec![label as usize], shape }, &[bias])?;
            y = b.op(Binary { f: BinaryFn::Add }, &[y, bias])?;
        }
        Ok(y)
    }

    /// The kernel as `[K,E]` or `[B,K,E]`, and how many of its taps look ahead.
    fn kernel(
        &self,
        b: &mut GraphBuilder,
        value: Option<ValueId>,
        (batch, channels, n_channels): (Option<Label>, &[Label], Dim),
        weights: &mut Weights,
        dtype: DType,
    ) -> Result<(ValueId, Dim), EditError> {
        let own = self.kernel_labels();
        let batch = batch.filter(|l| own.contains(l));
        let (x, labels, width) = match (&self.kernel, value) {
            (Kernel::Constant { taps, width, labels, .. }, _) => {
                let x = literal(b, weights, dtype, (taps, *width, &self.extents(labels)))?;
                let labels: Labels = [self.sequence].iter().chain(labels).copied().map(Some).collect();
                (x, labels, Dim::from(*width))
            }
            (Kernel::Value { view, .. }, Some(x)) => {
                let axis = view.labels.iter().position(|l| *l == Some(self.sequence));
                let width = axis.map_or(Dim::from(1), |axis| b.shape(x)[axis].clone());
                (x, view.labels.clone(), width)
            }
            (Kernel::Value { view, .. }, None) => return Err(EditError::Dropped { value: view.value }),
        };
        let order: Labels =
            batch.into_iter().chain([self.sequence]).chain(channels.iter().copied()).map(Some).collect();
        let extent =
            |l: &Label| if *l == self.sequence { width.clone() } else { self.dims[*l as usize].clone() };
        let dims: Vec<Dim> = order.iter().flatten().map(extent).collect();
        let x = view::spread(b, x, &labels, &order, &dims)?;
        let front = batch.map(|l| self.dims[l as usize].clone());
        let dims: Vec<Dim> = front.into_iter().chain([width.clone(), n_channels]).collect();
        let k = view::reshape(b, x, &dims)?;
        Ok(match &self.kernel {
            Kernel::Constant { lead, .. } => (k, Dim::from(*lead)),
            Kernel::Value { lags: Lags::InOrder, .. } => (k, Dim::from(0)),
            Kernel::Value { lags: Lags::Pieces { pieces, lead }, .. } => {
                (assemble(b, k, dims.len() - 2, pieces)?, Dim::from(*lead))
            }
        })
    }

    fn extents(&self, labels: &[Label]) -> Vec<Dim> {
        labels.iter().map(|l| self.dims[*l as usize].clone()).collect()
    }
}

/// The pieces of a kernel along an axis, joined.
fn assemble(b: &mut GraphBuilder, k: ValueId, axis: usize, pieces: &[Piece]) -> Result<ValueId, BuildError> {
    let mut parts = Vec::new();
    for piece in pieces {
        parts.push(match piece {
            Piece::Zeros(n) => {
                let mut dims = b.shape(k).to_vec();
                dims[axis] = Dim::from(*n);
                let zero = b.scalar(b.ty(k).dtype, 0.0)?;
                b.broadcast(zero, &[], Shape::from(&dims[..]))?
            }
            Piece::Taps { start, len, reversed } => {
                let x = b.slice(k, axis, Dim::from(*start), Dim::from(*len))?;
                if *reversed { b.op(Reverse { axis }, &[x])? } else { x }
            }
        });
    }
    if let [one] = parts[..] { Ok(one) } else { b.op(Concat { axis }, &parts) }
}

/// A weight with these taps.
fn literal(
    b: &mut GraphBuilder,
    weights: &mut Weights,
    dtype: DType,
    (taps, width, dims): (&[f64], usize, &[Dim]),
) -> Result<ValueId, EditError> {
    let shape: Shape = std::iter::once(Dim::from(width)).chain(dims.iter().cloned()).collect();
    let extents: Vec<usize> =
        shape.iter().filter_map(|d| d.as_const().and_then(|n| usize::try_from(n).ok())).collect();
    let tensor = Tensor::floats(dtype, extents, taps.to_vec()).expect("there is a tap for every index");
    let ty = TensorType::new(dtype, shape);
    let name = (weights.len()..).map(|i| format!("kernel.{i}")).find(|name| weights.get(name).is_none());
    let name = name.expect("there are more numbers than weights");
    weights.insert(name.clone(), Weight { ty: ty.clone(), bytes: tensor.to_bytes().into() });
    Ok(b.op(WeightRef { dtype, name, shape: ty.shape }, &[])?)
}
