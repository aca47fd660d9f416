//! Normalizations over the last axis, built by rewrites.

use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, F64, Op, OpDef, OpError, Operand, Tolerance,
    arg, eval, opt, req,
};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};

/// An operand, if present, has the operand `x`'s element type and this shape.
fn like(
    operand: &'static str,
    ty: Option<&TensorType>,
    x: &TensorType,
    shape: &[Dim],
) -> Result<(), OpError> {
    match ty {
        Some(ty) if ty.dtype != x.dtype => Err(OpError::dtype(operand, x.dtype, ty.dtype)),
        Some(ty) if ty.shape[..] != *shape => Err(OpError::shape(operand, Shape::from(shape), &ty.shape)),
        _ => Ok(()),
    }
}

/// The extent of the last axis of a floating-point tensor.
fn last_axis(x: &TensorType) -> Result<&Dim, OpError> {
    if !x.dtype.is_float() {
        return Err(OpError::dtype("x", "a floating-point one", x.dtype));
    }
    x.shape.last().ok_or(OpError::Rank { operand: "x", expected: 1, found: 0 })
}

/// Root mean square normalization over the last axis.
///
/// # Equation
/// ```text
/// y = x / sqrt(mean(x^2) + eps) * weight
/// ```
///
/// # Shapes
/// ```text
/// x: T[.., D], weight: T[D] -> T[.., D]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct RmsNorm {
    pub eps: F64,
}

impl OpDef for RmsNorm {
    const OPERANDS: &'static [Operand] = &[req("x"), opt("weight")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn templates() -> Vec<Op> {
        vec![RmsNorm { eps: 0.0.into() }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("eps", AttrMut::Float(&mut self.eps));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let (ty, weight) = (arg(x, 0), x.get(1).copied().flatten());
        like("weight", weight, ty, &[last_axis(ty)?.clone()])?;
        Ok(vec![ty.clone()])
    }

    fn fused(&self) -> bool {
        true
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::rms_norm(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}

/// Layer normalization over the last axis.
///
/// # Equation
/// ```text
/// y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias
/// ```
///
/// # Shapes
/// ```text
/// x: T[.., D], weight, bias: T[D] -> T[.., D]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct LayerNorm {
    pub eps: F64,
}

impl OpDef for LayerNorm {
    const OPERANDS: &'static [Operand] = &[req("x"), opt("weight"), opt("bias")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn templates() -> Vec<Op> {
        vec![LayerNorm { eps: 0.0.into() }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("eps", AttrMut::Float(&mut self.eps));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let ty = arg(x, 0);
        let d = last_axis(ty)?.clone();
        for (i, operand) in [(1, "weight"), (2, "bias")] {
            like(operand, x.get(i).copied().flatten(), ty, std::slice::from_ref(&d))?;
        }
        Ok(vec![ty.clone()])
    }

    fn fused(&self) -> bool {
        true
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::layer_norm(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}

/// Root mean square normalization over the last axis with a SiLU gate.
///
/// # Equation
/// ```text
/// norm_before_gate: y = rms_norm(x)*weight * silu(z); else: y = rms_norm(x * silu(z))*weight
/// ```
///
/// # Shapes
/// ```text
/// x, z: T[.., D], weight: T[D] -> T[.., D]
/// ```
///
/// # Source
/// upstream RMSNormGated; groups are an axis of their own before D
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct GatedRmsNorm {
    pub eps: F64,
    pub norm_before_gate: bool,
}

impl OpDef for GatedRmsNorm {
    const OPERANDS: &'static [Operand] = &[req("x"), req("z"), opt("weight")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "gated_rms_norm"
    }

    fn templates() -> Vec<Op> {
        vec![GatedRmsNorm { eps: 0.0.into(), norm_before_gate: false }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("eps", AttrMut::Float(&mut self.eps));
        v.attr("norm_before_gate", AttrMut::Bool(&mut self.norm_before_gate));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let (ty, z, weight) = (arg(x, 0), arg(x, 1), x.get(2).copied().flatten());
        like("z", Some(z), ty, &ty.shape)?;
        like("weight", weight, ty, &[last_axis(ty)?.clone()])?;
        Ok(vec![ty.clone()])
    }

    fn fused(&self) -> bool {
        true
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::gated_rms_norm(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}
