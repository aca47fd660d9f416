//! The building blocks that the mixers share, as primitive ops in f32.

use ssmc_ir::ops::{BinaryFn, Reduce, ReduceFn, UnaryFn};
use ssmc_ir::{BuildError, DType, Dim, GraphBuilder, Loc, Shape, ValueId, Weights};

use crate::safetensors::checkpoint::Checkpoint;

/// A graph under construction, with the weights that its nodes name.
pub(super) struct Net<'a> {
    pub(super) g: GraphBuilder,
    pub(super) weights: Weights,
    checkpoint: &'a Checkpoint,
}

pub(super) type Built<T> = Result<T, BuildError>;

impl<'a> Net<'a> {
    pub(super) fn new(name: &str, checkpoint: &'a Checkpoint) -> Self {
        Self { g: GraphBuilder::new(name), weights: Weights::new(), checkpoint }
    }

    /// Nodes added from now on belong to this module.
    pub(super) fn at(&mut self, module: impl Into<String>) {
        self.g.set_loc(Loc::Module(module.into()));
    }

    /// The tensor of this name, with the element type that it is stored in.
    pub(super) fn stored(&mut self, name: &str) -> Built<ValueId> {
        let tensor = self.checkpoint.tensors.get(name).expect("the schema was checked");
        let weight = tensor.weight();
        let value = self.g.weight(name, &weight.ty)?;
        self.weights.insert(name, weight);
        Ok(value)
    }

    /// The tensor of this name as f32.
    pub(super) fn weight(&mut self, name: &str) -> Built<ValueId> {
        let stored = self.stored(name)?;
        self.g.cast(stored, DType::F32)
    }

    /// `x w^T`, plus a bias if the checkpoint's module has one. x: [..,D], w: `[E,D]` -> [..,E].
    pub(super) fn linear(&mut self, x: ValueId, module: &str, has_bias: bool) -> Built<ValueId> {
        self.at(module);
        let w = self.weight(&format!("{module}.weight"))?;
        let y = self.project(x, w)?;
        if has_bias { self.add_bias(y, &format!("{module}.bias")) } else { Ok(y) }
    }

    /// `x w^T`. x: [..,D], w: `[E,D]` -> [..,E].
    pub(super) fn project(&mut self, x: ValueId, w: ValueId) -> Built<ValueId> {
        let spec = if self.g.ty(x).rank() == 2 { "bd,ed->be" } else { "bld,ed->ble" };
        self.g.contract(spec, &[x, w])
    }

    /// Adds a vector along the last axis.
    pub(super) fn add_bias(&mut self, x: ValueId, name: &str) -> Built<ValueId> {
        let bias = self.weight(name)?;
        let bias = self.along_last(bias, x)?;
        self.g.binary(BinaryFn::Add, x, bias)
    }

    /// Multiplies by a vector along the last axis.
    pub(super) fn scale_by(&mut self, x: ValueId, name: &str) -> Built<ValueId> {
        let w = self.weight(name)?;
        let w = self.along_last(w, x)?;
        self.g.binary(BinaryFn::Mul, x, w)
    }

    /// A vector repeated to the shape of `like`, whose last axis it fits.
    pub(super) fn along_last(&mut self, vector: ValueId, like: ValueId) -> Built<ValueId> {
        let shape = self.g.shape(like).clone();
        self.g.broadcast(vector, &[shape.rank() - 1], shape)
    }

    /// x * rsqrt(mean(x^2) + eps), the mean over the last axis.
    pub(super) fn rms(&mut self, x: ValueId, eps: f64) -> Built<ValueId> {
        let square = self.g.binary(BinaryFn::Mul, x, x)?;
        let mean = self.mean_last(square)?;
        let eps = self.g.splat(eps, mean)?;
        let sum = self.g.binary(BinaryFn::Add, mean, eps)?;
        let scale = self.g.unary(UnaryFn::Rsqrt, sum)?;
        let scale = self.repeat_last(scale, x)?;
        self.g.binary(BinaryFn::Mul, x, scale)
    }

    /// rms(x) * weight.
    pub(super) fn rms_norm(&mut self, x: ValueId, module: &str, eps: f64) -> Built<ValueId> {
        self.at(module);
        let y = self.rms(x, eps)?;
        self.scale_by(y, &format!("{module}.weight"))
    }

    /// rms(x - mean(x)) * weight + bias.
    pub(super) fn layer_norm(&mut self, x: ValueId, module: &str, eps: f64) -> Built<ValueId> {
        self.at(module);
        let mean = self.mean_last(x)?;
        let mean = self.repeat_last(mean, x)?;
        let centered = self.g.binary(BinaryFn::Sub, x, mean)?;
        let y = self.rms(centered, eps)?;
        let y = self.scale_by(y, &format!("{module}.weight"))?;
        self.add_bias(y, &format!("{module}.bias"))
    }

    /// x * sigmoid(x).
    pub(super) fn silu(&mut self, x: ValueId) -> Built<ValueId> {
        let gate = self.g.unary(UnaryFn::Sigmoid, x)?;
        self.g.binary(BinaryFn::Mul, x, gate)
    }

    /// The parts of the last axis with these widths.
    pub(super) fn split_last<const N: usize>(
        &mut self,
        x: ValueId,
        widths: [usize; N],
    ) -> Built<[ValueId; N]> {
        let axis = self.g.ty(x).rank() - 1;
        let mut parts = [x; N];
        let mut start = 0;
        for (part, width) in parts.iter_mut().zip(widths) {
            *part = self.g.slice(x, axis, start, width)?;
            start += width;
        }
        Ok(parts)
    }

    /// Replaces the last axes of a shape: the first `n_kept` stay.
    pub(super) fn reshape_tail(&mut self, x: ValueId, n_kept: usize, tail: &[usize]) -> Built<ValueId> {
        let mut dims = self.g.shape(x)[..n_kept].to_vec();
        dims.extend(tail.iter().map(|d| Dim::from(*d)));
        self.g.reshape(x, dims)
    }

    fn mean_last(&mut self, x: ValueId) -> Built<ValueId> {
        let axes = vec![self.g.ty(x).rank() - 1];
        self.g.op(Reduce { axes, f: ReduceFn::Mean }, &[x])
    }

    /// A tensor without the last axis of `like`, repeated along it.
    fn repeat_last(&mut self, x: ValueId, like: ValueId) -> Built<ValueId> {
        let shape: Shape = self.g.shape(like).clone();
        let axes: Vec<usize> = (0..shape.rank() - 1).collect();
        self.g.broadcast(x, &axes, shape)
    }
}
