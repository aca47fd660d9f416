//! The diagonal scan over complex numbers that are stored as two real tensors.

use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, opt, req,
};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};

/// Complex diagonal scan: a first-order recurrence along the sequence whose decay rotates a plane.
///
/// # Equation
/// ```text
/// h_re[t] = a_re[t]*h_re[t-1] - a_im[t]*h_im[t-1] + b_re[t];
/// h_im[t] = a_re[t]*h_im[t-1] + a_im[t]*h_re[t-1] + b_im[t];
/// h[-1] = h0 (zeros if absent); `reverse` runs from the last step to the first; where `seq_idx` differs from that of
/// the step before, h[t-1] counts as zeros
/// ```
///
/// # Shapes
/// ```text
/// a_re, a_im, b_re, b_im: T[B,L,s..], h0_re, h0_im: T[B,s..] (both or none), seq_idx: i32[B,L]
/// -> h_re, h_im: T[B,L,s..], h_last_re, h_last_im: T[B,s..]; an axis of a may be 1 where that of b is not
/// ```
///
/// # Numerics
/// the carried state is f32 or wider; h_last is h0 if L = 0
///
/// # Source
/// Orvieto et al. 2023 (LRU), Gu et al. 2022 (S4D); zoo "complex as real pairs"
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct ComplexScan {
    pub reverse: bool,
}

impl OpDef for ComplexScan {
    const OPERANDS: &'static [Operand] =
        &[req("a_re"), req("a_im"), req("b_re"), req("b_im"), opt("h0_re"), opt("h0_im"), opt("seq_idx")];
    const RESULTS: &'static [&'static str] = &["h_re", "h_im", "h_last_re", "h_last_im"];

    fn name(&self) -> &'static str {
        "ssm.complex_scan"
    }

    fn templates() -> Vec<Op> {
        vec![ComplexScan { reverse: false }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("reverse", AttrMut::Bool(&mut self.reverse));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let optional = |i: usize| x.get(i).copied().flatten();
        let b = arg(x, 2);
        if !b.dtype.is_float() {
            return Err(OpError::dtype("b_re", "a floating-point one", b.dtype));
        }
        if b.rank() < 2 {
            return Err(OpError::Rank { operand: "b_re", expected: 2, found: b.rank() });
        }
        let state: Shape =
            b.shape.iter().enumerate().filter(|(axis, _)| *axis != 1).map(|(_, d)| d.clone()).collect();
        let like = |i: usize, expected: &Shape, broadcasts: bool| -> Result<(), OpError> {
            let (operand, Some(ty)) = (Self::OPERANDS[i].name, optional(i)) else { return Ok(()) };
            if ty.dtype != b.dtype {
                return Err(OpError::dtype(operand, b.dtype, ty.dtype));
            }
            let fits = ty.rank() == expected.rank()
                && ty.shape.iter().zip(expected.iter()).all(|(d, e)| d == e || (broadcasts && d.is(1)));
            if fits { Ok(()) } else { Err(OpError::shape(operand, expected, &ty.shape)) }
        };
        like(0, &b.shape, true)?;
        like(1, &arg(x, 0).shape, false)?;
        like(3, &b.shape, false)?;
        like(4, &state, false)?;
        like(5, &state, false)?;
        if optional(4).is_some() != optional(5).is_some() {
            return Err(OpError::Missing { operand: if optional(4).is_none() { "h0_re" } else { "h0_im" } });
        }
        if let Some(seq_idx) = optional(6) {
            if seq_idx.dtype != DType::I32 {
                return Err(OpError::dtype("seq_idx", DType::I32, seq_idx.dtype));
            }
            if seq_idx.shape[..] != b.shape[..2] {
                return Err(OpError::shape("seq_idx", Shape::from(&b.shape[..2]), &seq_idx.shape));
            }
        }
        let last = b.with_shape(state);
        Ok(vec![b.clone(), b.clone(), last.clone(), last])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::complex_scan(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}
