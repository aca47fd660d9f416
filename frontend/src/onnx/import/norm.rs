//! Normalizations, spelled out in primitives.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use ssmc_ir::ops::{BinaryFn, ReduceFn, UnaryFn};
use ssmc_ir::{DType, Dim};

/// The axes of a softmax: one from version 13 on, all from `axis` before.
fn softmax_axes(c: &Ctx<'_, '_>, x: Val) -> Result<Vec<usize>, Fault> {
    let rank = c.rank(x);
    if c.version >= 13 {
        return Ok(vec![c.axis(-1, rank)?]);
    }
    let axis = c.attrs.int_or("axis", 1)?;
    if axis == rank as i64 {
        return Ok(Vec::new());
    }
    Ok((c.axis(1, rank)?..rank).collect())
}

/// x - max(x) and the sum of its exponentials.
fn shifted(c: &mut Ctx<'_, '_>) -> Result<(Val, Val, Val), Fault> {
    let x = c.input(0)?;
    let axes = softmax_axes(c, x)?;
    let max = c.reduce(ReduceFn::Max, x, &axes, true)?;
    let shifted = c.binary(BinaryFn::Sub, x, max)?;
    let exp = c.unary(UnaryFn::Exp, shifted)?;
    let sum = c.reduce(ReduceFn::Sum, exp, &axes, true)?;
    Ok((shifted, exp, sum))
}

/// `Softmax`.
pub(crate) fn softmax(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (_, exp, sum) = shifted(c)?;
    one(c.binary(BinaryFn::Div, exp, sum)?)
}

/// `LogSoftmax`.
pub(crate) fn log_softmax(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (shifted, _, sum) = shifted(c)?;
    let log = c.unary(UnaryFn::Log, sum)?;
    one(c.binary(BinaryFn::Sub, shifted, log)?)
}

/// The operand, in the type that the statistics are computed in, and the axes from `axis` on.
fn statistics(c: &mut Ctx<'_, '_>) -> Result<(Val, Vec<usize>, f64), Fault> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let axes = (c.axis(-1, rank)?..rank).collect();
    let epsilon = c.attrs.float_or("epsilon", 1e-5)?;
    let wide = match c.attrs.int_or("stash_type", 1)? {
        0 => c.dtype(x),
        1 if c.dtype(x) == DType::F64 => DType::F64,
        1 => DType::F32,
        16 => DType::BF16,
        other => return Err(c.attrs.wrong("stash_type", "0, 1 or 16", other)),
    };
    Ok((c.cast(x, wide)?, axes, epsilon.into()))
}

/// x * (mean(x^2) + epsilon)^(-1/2), and that factor.
fn scaled_by_rms(c: &mut Ctx<'_, '_>, x: Val, axes: &[usize], epsilon: f64) -> Result<(Val, Val), Fault> {
    let square = c.binary(BinaryFn::Mul, x, x)?;
    let mean = c.reduce(ReduceFn::Mean, square, axes, true)?;
    let shifted = c.binary_scalar(BinaryFn::Add, mean, epsilon)?;
    let factor = c.unary(UnaryFn::Rsqrt, shifted)?;
    Ok((c.binary(BinaryFn::Mul, x, factor)?, factor))
}

/// Casts back to the type of input 0, then times input 1 and plus input 2.
fn affine(c: &mut Ctx<'_, '_>, normalized: Val) -> Result<Val, Fault> {
    let (x, scale) = (c.input(0)?, c.input(1)?);
    let dims = c.dims(x);
    let mut y = c.cast(normalized, c.dtype(x))?;
    let scale = c.broadcast_to(scale, &dims)?;
    y = c.binary(BinaryFn::Mul, y, scale)?;
    if let Some(bias) = c.opt(2) {
        let bias = c.broadcast_to(bias, &dims)?;
        y = c.binary(BinaryFn::Add, y, bias)?;
    }
    Ok(y)
}

/// `LayerNormalization`: (x - mean) / sqrt(var + epsilon) * scale + bias; also the mean and the inverse deviation.
pub(crate) fn layer_norm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(3)?;
    let (x, axes, epsilon) = statistics(c)?;
    let mean = c.reduce(ReduceFn::Mean, x, &axes, true)?;
    let centered = c.binary(BinaryFn::Sub, x, mean)?;
    let (normalized, factor) = scaled_by_rms(c, centered, &axes, epsilon)?;
    Ok(vec![affine(c, normalized)?, mean, factor])
}

/// `RMSNormalization`: x / sqrt(mean(x^2) + epsilon) * scale.
pub(crate) fn rms_norm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(2)?;
    let (x, axes, epsilon) = statistics(c)?;
    let (normalized, _) = scaled_by_rms(c, x, &axes, epsilon)?;
    one(affine(c, normalized)?)
}

/// `InstanceNormalization`: each channel of each sample by its own mean and variance.
pub(crate) fn instance_norm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["consumed_inputs"]);
    let (x, scale, bias) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let dims = c.dims(x);
    if dims.len() < 2 {
        let (expected, found) = ("at least 2 axes".into(), c.ty(x).to_string());
        return Err(Fault::Input { idx: 0, expected, found }.into());
    }
    let axes: Vec<usize> = (2..dims.len()).collect();
    let epsilon = c.attrs.float_or("epsilon", 1e-5)?;
    let mean = c.reduce(ReduceFn::Mean, x, &axes, true)?;
    let centered = c.binary(BinaryFn::Sub, x, mean)?;
    let (normalized, _) = scaled_by_rms(c, centered, &axes, epsilon.into())?;
    let mut per_channel = vec![Dim::from(1); dims.len() - 1];
    per_channel[0] = dims[1].clone();
    let scale = c.reshape(scale, &per_channel)?;
    let bias = c.reshape(bias, &per_channel)?;
    let scaled = c.binary(BinaryFn::Mul, normalized, scale)?;
    one(c.binary(BinaryFn::Add, scaled, bias)?)
}
