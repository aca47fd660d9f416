//! Numbers stored as small integers with a scale.

use super::{Args, EvalError, arg, around};
use crate::ops::Dequantize;
use crate::tensor::Tensor;
use crate::types::DType;

pub(in crate::ops) fn dequantize(op: &Dequantize, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (q, scale) = (arg(x, 0)?, arg(x, 1)?);
    let (outer, n, inner) = around(q.shape(), op.axis);
    let groups = n / op.group;
    let (ints, scales) = (q.as_ints()?, scale.as_floats()?);
    let mut y = Vec::with_capacity(ints.len());
    for o in 0..outer {
        for i in 0..n {
            for k in 0..inner {
                let scale = scales[(o * groups + i / op.group) * inner + k];
                y.push(ints[(o * n + i) * inner + k] as f64 * scale);
            }
        }
    }
    Ok(vec![Tensor::floats(DType::F32, q.shape(), y)?])
}
