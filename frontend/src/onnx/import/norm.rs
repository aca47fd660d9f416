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

/// The norm over the last axis with scale and bias, the mean and the inverse deviation; without mean if `simplified`.
pub(crate) fn last_axis(
    c: &mut Ctx<'_, '_>,
    x: Val,
    (scale, bias): (Val, Option<Val>),
    epsilon: f64,
    simplified: bool,
) -> Result<(Val, Val, Val), Fault> {
    let (dtype, axes) = (c.dtype(x), [c.rank(x).saturating_sub(1)]);
    let wide = c.cast(x, if dtype == DType::F64 { DType::F64 } else { DType::F32 })?;
    let mean = c.reduce(ReduceFn::Mean, wide, &axes, true)?;
    let centered = if simplified { wide } else { c.binary(BinaryFn::Sub, wide, mean)? };
    let (normalized, factor) = scaled_by_rms(c, centered, &axes, epsilon)?;
    let mut y = c.cast(normalized, dtype)?;
    y = c.binary(BinaryFn::Mul, y, scale)?;
    if let Some(bias) = bias {
        y = c.binary(BinaryFn::Add, y, bias)?;
    }
    Ok((y, mean, factor))
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

/// A vector with one element per channel of `like`.
fn per_channel(c: &mut Ctx<'_, '_>, v: Val, like: Val) -> Result<Val, Fault> {
    let (rank, dtype) = (c.rank(like), c.dtype(like));
    let v = c.cast(v, dtype)?;
    c.along(v, 1, rank)
}

/// `BatchNormalization` as in inference: (x - mean) / sqrt(var + epsilon) * scale + bias.
pub(crate) fn batch_norm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["momentum", "spatial", "is_test", "consumed_inputs"]);
    if c.attrs.flag("training_mode", false)? {
        return Err(Fault::Unsupported("batch normalization in training mode".into()).into());
    }
    let x = c.input(0)?;
    if c.rank(x) < 2 {
        return Err(c.expected(0, "at least 2 axes").into());
    }
    let epsilon = c.attrs.float_or("epsilon", 1e-5)?;
    let dtype = c.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let y = c.cast(x, wide)?;
    let mut vectors = Vec::new();
    for idx in 1..5 {
        let v = c.input(idx)?;
        vectors.push(per_channel(c, v, y)?);
    }
    let shifted = c.binary_scalar(BinaryFn::Add, vectors[3], epsilon.into())?;
    let factor = c.unary(UnaryFn::Rsqrt, shifted)?;
    let factor = c.binary(BinaryFn::Mul, factor, vectors[0])?;
    let y = c.binary(BinaryFn::Sub, y, vectors[2])?;
    let y = c.binary(BinaryFn::Mul, y, factor)?;
    let y = c.binary(BinaryFn::Add, y, vectors[1])?;
    one(c.cast(y, dtype)?)
}

/// `GroupNormalization`: groups of channels by their own mean and variance; one scale per group before version 21.
pub(crate) fn group_norm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["stash_type"]);
    let (x, scale, bias) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let groups = c.attrs.int("num_groups")?.ok_or(Fault::MissingAttribute { name: "num_groups" })?;
    let epsilon = c.attrs.float_or("epsilon", 1e-5)?;
    let dims = c.dims(x);
    let width = dims.get(1).and_then(|d| d.div_exact(&Dim::from(groups.max(1))));
    let width = width.ok_or_else(|| c.expected(0, format!("a multiple of {groups} channels")))?;
    let split = [&[dims[0].clone(), Dim::from(groups), width], &dims[2..]].concat();
    let dtype = c.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let y = c.cast(x, wide)?;
    let y = c.reshape(y, &split)?;
    let axes: Vec<usize> = (2..split.len()).collect();
    let mean = c.reduce(ReduceFn::Mean, y, &axes, true)?;
    let centered = c.binary(BinaryFn::Sub, y, mean)?;
    let (mut y, _) = scaled_by_rms(c, centered, &axes, epsilon.into())?;
    let of_groups = c.version < 21;
    if !of_groups {
        y = c.reshape(y, &dims)?;
    }
    let (scale, bias) = (per_channel(c, scale, y)?, per_channel(c, bias, y)?);
    let y = c.binary(BinaryFn::Mul, y, scale)?;
    let y = c.binary(BinaryFn::Add, y, bias)?;
    let y = c.reshape(y, &dims)?;
    one(c.cast(y, dtype)?)
}

/// `LRN`: x / (bias + alpha / size * the sum of squares of neighbouring channels)^beta.
pub(crate) fn local_response_norm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let size = c.attrs.int("size")?.ok_or(Fault::MissingAttribute { name: "size" })?;
    if !(1..=4096).contains(&size) || c.rank(x) < 2 {
        return Err(c.attrs.wrong("size", "1 to 4096", size).into());
    }
    let (alpha, beta, bias) =
        (c.attrs.float_or("alpha", 1e-4)?, c.attrs.float_or("beta", 0.75)?, c.attrs.float_or("bias", 1.0)?);
    let square = c.binary(BinaryFn::Mul, x, x)?;
    let zero = c.scalar(c.dtype(x), 0.0)?;
    let padded = c.pad(square, 1, Dim::from((size - 1) / 2), Dim::from(size / 2), zero)?;
    let channels = c.dims(x)[1].clone();
    let mut sum = c.slice(padded, 1, Dim::from(0), channels.clone(), 1)?;
    for i in 1..size {
        let next = c.slice(padded, 1, Dim::from(i), channels.clone(), 1)?;
        sum = c.binary(BinaryFn::Add, sum, next)?;
    }
    let scaled = c.binary_scalar(BinaryFn::Mul, sum, f64::from(alpha) / size as f64)?;
    let below = c.binary_scalar(BinaryFn::Add, scaled, bias.into())?;
    let below = c.binary_scalar(BinaryFn::Pow, below, beta.into())?;
    one(c.binary(BinaryFn::Div, x, below)?)
}

/// `MeanVarianceNormalization`: (x - mean) / (sqrt(var) + 1e-9).
pub(crate) fn mean_variance_norm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let mut axes: Vec<usize> = match c.attrs.ints("axes")? {
        Some(axes) => axes.iter().map(|a| super::super::shape::axis(*a, rank)).collect::<Result<_, _>>()?,
        None => [0, 2, 3].into_iter().filter(|a| *a < rank).collect(),
    };
    axes.sort_unstable();
    let mean = c.reduce(ReduceFn::Mean, x, &axes, true)?;
    let centered = c.binary(BinaryFn::Sub, x, mean)?;
    let square = c.binary(BinaryFn::Mul, centered, centered)?;
    let variance = c.reduce(ReduceFn::Mean, square, &axes, true)?;
    let deviation = c.unary(UnaryFn::Sqrt, variance)?;
    let deviation = c.binary_scalar(BinaryFn::Add, deviation, 1e-9)?;
    one(c.binary(BinaryFn::Div, centered, deviation)?)
}
