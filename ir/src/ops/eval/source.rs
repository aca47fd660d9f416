//! Ops without operands.

use super::{EvalCtx, EvalError};
use crate::ops::{Constant, DimValue, Iota, WeightRef};
use crate::tensor::Tensor;

pub(in crate::ops) fn constant(op: &Constant, ctx: &EvalCtx<'_>) -> Result<Vec<Tensor>, EvalError> {
    Ok(vec![Tensor::from_bytes(op.dtype, ctx.shape(&op.shape)?, &op.data)?])
}

pub(in crate::ops) fn weight(op: &WeightRef, ctx: &EvalCtx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let name = op.name.clone();
    let Some(weight) = ctx.weights.get(&name) else { return Err(EvalError::WeightMissing { name }) };
    let expected = &ctx.results[0];
    if weight.ty != *expected {
        return Err(EvalError::WeightType { name, expected: expected.clone(), found: weight.ty.clone() });
    }
    Ok(vec![Tensor::from_bytes(op.dtype, ctx.shape(&op.shape)?, weight.bytes.as_slice())?])
}

pub(in crate::ops) fn dim_value(op: &DimValue, ctx: &EvalCtx<'_>) -> Result<Vec<Tensor>, EvalError> {
    Ok(vec![Tensor::int_scalar(op.value.eval(ctx.bindings)?)])
}

pub(in crate::ops) fn iota(op: &Iota, ctx: &EvalCtx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let shape = ctx.shape(&op.shape)?;
    let (outer, n, inner) = super::around(&shape, op.axis);
    let index = || (0..outer * n * inner).map(|i| i / inner % n);
    Ok(vec![if op.dtype.is_float() {
        Tensor::floats(op.dtype, shape, index().map(|i| i as f64).collect())?
    } else {
        Tensor::ints(op.dtype, shape, index().map(|i| i as i64).collect())?
    }])
}
