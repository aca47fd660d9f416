//! Gates and norms of linear attention that `com.microsoft` has operators for. All arithmetic is in f32.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::norm;
use ssmc_ir::DType;
use ssmc_ir::ops::{BinaryFn, UnaryFn};

/// `LinearAttentionGate`: decay = decay_scale * softplus(a + dt_bias) and, where b is given, beta = sigmoid(b).
pub(crate) fn linear_attention_gate(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(4)?;
    let (a, bias, scale) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let narrow = c.dtype(a);
    let decay = log_decay(c, a, bias, scale)?;
    let mut results = vec![c.cast(decay, narrow)?];
    if let Some(b) = c.opt(3) {
        let b = c.cast(b, DType::F32)?;
        let beta = c.unary(UnaryFn::Sigmoid, b)?;
        results.push(c.cast(beta, narrow)?);
    }
    Ok(results)
}

/// scale * softplus(a + bias) in f32, with bias and scale per head, which is the last axis.
pub(super) fn log_decay(c: &mut Ctx<'_, '_>, a: Val, bias: Val, scale: Val) -> Result<Val, Fault> {
    let a = c.cast(a, DType::F32)?;
    let sum = c.binary(BinaryFn::Add, a, bias)?;
    let soft = c.unary(UnaryFn::Softplus, sum)?;
    c.binary(BinaryFn::Mul, soft, scale)
}

/// `GatedRMSNorm`: x / sqrt(mean(x^2) + epsilon) * scale * act(gate), where the mean is over groups as long as scale.
pub(crate) fn gated_rms_norm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(3)?;
    let (x, scale, gate) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let epsilon = c.attrs.float_or("epsilon", 1e-5)?;
    let (narrow, dims) = (c.dtype(x), c.dims(x));
    if c.dims(gate) != dims {
        return Err(c.expected(2, "the extents of input 0").into());
    }
    let [group] = &c.dims(scale)[..] else { return Err(c.expected(1, "1 axis").into()) };
    let n_groups = dims.last().and_then(|last| last.div_exact(group));
    let n_groups =
        n_groups.ok_or_else(|| c.expected(0, format!("a multiple of {group} on the last axis")))?;
    let mut grouped = dims[..dims.len() - 1].to_vec();
    grouped.extend([n_groups, group.clone()]);
    let x = c.cast(x, DType::F32)?;
    let x = c.reshape(x, &grouped)?;
    let scale = c.cast(scale, DType::F32)?;
    let (y, ..) = norm::last_axis(c, x, (scale, None), epsilon.into(), true)?;
    let y = c.reshape(y, &dims)?;
    let gate = c.cast(gate, DType::F32)?;
    let sigmoid = c.unary(UnaryFn::Sigmoid, gate)?;
    let gate = match c.attrs.string_or("activation", "silu")? {
        "silu" | "swish" => c.binary(BinaryFn::Mul, gate, sigmoid)?,
        "sigmoid" => sigmoid,
        other => {
            return Err(c.attrs.wrong("activation", "silu, swish or sigmoid", format!("{other:?}")).into());
        }
    };
    let y = c.binary(BinaryFn::Mul, y, gate)?;
    one(c.cast(y, narrow)?)
}
