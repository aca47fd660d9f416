//! Convolutions.

use super::attr::keyword;
use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, opt, req,
};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};

/// Convolution over any number of spatial axes, as ONNX `Conv` defines it.
///
/// # Equation
/// ```text
/// y[b,o,p] = bias[o] + sum over c,k of x[b, g*C/groups + c, p*stride + k*dilation - pad_low] * w[o,c,k],
/// g = o / (O/groups); x outside its extent is 0
/// ```
///
/// # Shapes
/// ```text
/// x: T[B,C,s..], w: T[O,C/groups,k..], bias: T[O] -> T[B,O,p..],
/// p = floor((s + pad_low + pad_high - dilation*(k-1) - 1) / stride) + 1
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Conv {
    pub dilations: Vec<usize>,
    pub groups: usize,
    /// Low pads of all spatial axes, then high pads.
    pub pads: Vec<usize>,
    pub strides: Vec<usize>,
}

impl OpDef for Conv {
    const OPERANDS: &'static [Operand] = &[req("x"), req("w"), opt("bias")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "conv"
    }

    fn templates() -> Vec<Op> {
        vec![Conv { dilations: vec![1], groups: 1, pads: vec![0, 0], strides: vec![1] }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("dilations", AttrMut::Usizes(&mut self.dilations));
        v.attr("groups", AttrMut::Usize(&mut self.groups));
        v.attr("pads", AttrMut::Usizes(&mut self.pads));
        v.attr("strides", AttrMut::Usizes(&mut self.strides));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let bias = x.get(2).copied().flatten();
        let (x, w) = (arg(x, 0), arg(x, 1));
        let n =
            x.rank().checked_sub(2).ok_or(OpError::Rank { operand: "x", expected: 3, found: x.rank() })?;
        if w.rank() != x.rank() {
            return Err(OpError::Rank { operand: "w", expected: x.rank(), found: w.rank() });
        }
        if x.dtype == DType::Bool {
            return Err(OpError::dtype("x", "a number", x.dtype));
        }
        for (operand, other) in [("w", Some(w)), ("bias", bias)] {
            if let Some(other) = other
                && other.dtype != x.dtype
            {
                return Err(OpError::dtype(operand, x.dtype, other.dtype));
            }
        }
        if self.strides.len() != n || self.dilations.len() != n || self.pads.len() != 2 * n {
            return Err(OpError::attr("pads", format!("strides, dilations or pads are not for {n} axes")));
        }
        if self.groups == 0 || self.strides.contains(&0) || self.dilations.contains(&0) {
            return Err(OpError::attr("groups", "groups, strides and dilations are positive"));
        }
        let groups = Dim::from(self.groups);
        if w.shape[1].clone() * &groups != x.shape[1] {
            return Err(OpError::shape("w", format!("{}/{groups} channels on axis 1", x.shape[1]), &w.shape));
        }
        if w.shape[0].div_exact(&groups).is_none() {
            return Err(OpError::shape("w", format!("a multiple of {groups} on axis 0"), &w.shape[0]));
        }
        if let Some(bias) = bias
            && bias.shape[..] != w.shape[..1]
        {
            return Err(OpError::shape("bias", format!("[{}]", w.shape[0]), &bias.shape));
        }
        let mut dims = vec![x.shape[0].clone(), w.shape[0].clone()];
        for i in 0..n {
            let reach = (w.shape[i + 2].clone() - 1i64) * Dim::from(self.dilations[i]) + 1i64;
            let padded = x.shape[i + 2].clone() + Dim::from(self.pads[i]) + Dim::from(self.pads[n + i]);
            let places = (padded - reach).floordiv(&Dim::from(self.strides[i])) + 1i64;
            dims.push(places.at_least(&Dim::from(0)));
        }
        Ok(vec![x.with_shape(dims)])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::conv(self, ctx, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}

/// A function applied at the end of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activation {
    /// x
    None,
    /// x * sigmoid(x)
    Silu,
}

keyword!(Activation { None = "none", Silu = "silu" });

/// Short depthwise causal convolution along the sequence.
///
/// # Equation
/// ```text
/// y[b,t,c] = act(bias[c] + sum over j < K of w[c,j] * u[b, t - (K-1) + j, c]), where u is x preceded by
/// the K-1 columns of `state` (zeros if absent); a tap that lies in another sequence of `seq_idx` is 0
/// ```
///
/// # Shapes
/// ```text
/// x: T[B,L,C], w: T[C,K], bias: T[C], state: T[B,K-1,C], seq_idx: i32[B,L]
/// -> y: T[B,L,C], state_out: T[B,K-1,C], the last K-1 columns of u
/// ```
///
/// # Numerics
/// `state` counts as the sequence of the first step
///
/// # Source
/// Gu & Dao 2023; zoo "short causal convolution"
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct CausalConv1d {
    pub activation: Activation,
}

impl OpDef for CausalConv1d {
    const OPERANDS: &'static [Operand] = &[req("x"), req("w"), opt("bias"), opt("state"), opt("seq_idx")];
    const RESULTS: &'static [&'static str] = &["y", "state_out"];

    fn name(&self) -> &'static str {
        "ssm.causal_conv1d"
    }

    fn templates() -> Vec<Op> {
        vec![CausalConv1d { activation: Activation::None }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("activation", AttrMut::Word(&mut self.activation));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let optional = |i: usize| x.get(i).copied().flatten();
        let (bias, state, seq_idx) = (optional(2), optional(3), optional(4));
        let (x, w) = (arg(x, 0), arg(x, 1));
        if x.rank() != 3 {
            return Err(OpError::Rank { operand: "x", expected: 3, found: x.rank() });
        }
        if !x.dtype.is_float() {
            return Err(OpError::dtype("x", "a floating-point one", x.dtype));
        }
        if w.rank() != 2 || w.shape[0] != x.shape[2] || w.shape[1].is(0) {
            return Err(OpError::shape("w", format!("[{}, K] with K > 0", x.shape[2]), &w.shape));
        }
        let tail =
            TensorType::new(x.dtype, [x.shape[0].clone(), w.shape[1].clone() - 1i64, x.shape[2].clone()]);
        let expect = |operand, ty: Option<&TensorType>, expected: &TensorType| match ty {
            Some(ty) if ty.dtype != expected.dtype => Err(OpError::dtype(operand, expected.dtype, ty.dtype)),
            Some(ty) if ty.shape != expected.shape => {
                Err(OpError::shape(operand, &expected.shape, &ty.shape))
            }
            _ => Ok(()),
        };
        expect("w", Some(w), &w.with_dtype(x.dtype))?;
        expect("bias", bias, &x.with_shape([x.shape[2].clone()]))?;
        expect("state", state, &tail)?;
        expect("seq_idx", seq_idx, &TensorType::new(DType::I32, &x.shape[..2]))?;
        Ok(vec![x.clone(), tail])
    }

    fn fused(&self) -> bool {
        self.activation != Activation::None
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::causal_conv1d(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}
