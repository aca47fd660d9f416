//! Quantization and arithmetic on quantized tensors.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::narrow::{self, Conversion, Narrow, PowerRounding};
use super::super::shape;
use super::super::types;
use super::{convolution, product};
use ssmc_ir::ops::{BinaryFn, ReduceFn, UnaryFn};
use ssmc_ir::{DType, Dim};

/// Lowest and highest number of a quantized type.
fn range(dtype: DType) -> Result<(f64, f64), Fault> {
    Ok(match dtype {
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        other => {
            return Err(Fault::Unsupported(format!("quantization to {other}")));
        }
    })
}

/// Scale or zero point brought to the shape of `x`: one number, one per element of an axis, or one per block of it.
fn spread(c: &mut Ctx<'_, '_>, v: Val, x: Val) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let own = c.dims(v);
    if own.iter().all(|d| d.is(1)) {
        let v = c.reshape(v, &[])?;
        return c.broadcast_to(v, &dims);
    }
    let axis = shape::axis(c.attrs.int_or("axis", 1)?, dims.len())?;
    if own.len() == 1 {
        let v = c.along(v, axis, dims.len())?;
        return c.broadcast_to(v, &dims);
    }
    let block = c.attrs.int_or("block_size", 0)?;
    if block < 1 || own.len() != dims.len() {
        return Err(c.expected(1, "one scale, one per element of an axis, or one per block"));
    }
    let (mut split, mut wide) = (own.clone(), own.clone());
    split.insert(axis + 1, Dim::from(1));
    wide.insert(axis + 1, Dim::from(block));
    let v = c.reshape(v, &split)?;
    let v = c.broadcast_to(v, &wide)?;
    let mut merged = own;
    merged[axis] = shape::mul(&merged[axis], &Dim::from(block)).ok_or(shape::OVERFLOW)?;
    let v = c.reshape(v, &merged)?;
    c.slice(v, axis, Dim::from(0), dims[axis].clone(), 1)
}

/// round(x) + zero point, saturated.
fn saturate(c: &mut Ctx<'_, '_>, x: Val, zero: Option<Val>, to: DType) -> Result<Val, Fault> {
    let (low, high) = range(to)?;
    let mut y = c.unary(UnaryFn::Round, x)?;
    if let Some(zero) = zero {
        let zero = c.cast(zero, c.dtype(x))?;
        y = c.binary(BinaryFn::Add, y, zero)?;
    }
    let y = c.clamp(y, low, high)?;
    c.cast(y, to)
}

/// An attribute that names an element type; 0 and absence mean none.
fn dtype_attribute(c: &Ctx<'_, '_>, name: &'static str) -> Result<Option<(DType, Option<Narrow>)>, Fault> {
    match c.attrs.int_or(name, 0)? {
        0 => Ok(None),
        number => types::element(number as i32).map(Some),
    }
}

/// The type in which halves are computed.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// `QuantizeLinear`: saturate(round(x / scale) + zero point).
pub(crate) fn quantize_linear(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["precision", "block_size", "axis"]);
    let (x, scale) = (c.input(0)?, c.input(1)?);
    let saturates = c.attrs.flag("saturate", true)?;
    let (to, narrow) = match (c.opt(2), dtype_attribute(c, "output_dtype")?) {
        (Some(zero), _) => (c.dtype(zero), c.imp.narrow(zero)),
        (None, Some(element)) => element,
        (None, None) => (DType::U8, None),
    };
    if narrow.is_none() {
        range(to)?;
    }
    let scale = spread(c, scale, x)?;
    let zero = match c.opt(2) {
        Some(zero) => {
            let zero = numbers(c, zero, DType::F32)?;
            Some(spread(c, zero, x)?)
        }
        None => None,
    };
    let (x, scale) = (c.cast(x, DType::F32)?, c.cast(scale, DType::F32)?);
    let scaled = c.binary(BinaryFn::Div, x, scale)?;
    let Some(narrow) = narrow else { return one(saturate(c, scaled, zero, to)?) };
    let how = Conversion { saturate: saturates, powers: PowerRounding::Up };
    let mut y = scaled;
    if let Some((low, high)) = narrow.range() {
        y = c.unary(UnaryFn::Round, y)?;
        if let Some(zero) = zero {
            y = c.binary(BinaryFn::Add, y, zero)?;
        }
        y = c.clamp(y, low as f64, high as f64)?;
    } else if let Some(zero) = zero {
        y = c.binary(BinaryFn::Add, y, zero)?;
    }
    let y = narrow::encode(c, y, narrow, how)?;
    one(c.imp.as_narrow(y, narrow))
}

/// The numbers of a tensor, narrow or not, as floats.
fn numbers(c: &mut Ctx<'_, '_>, x: Val, to: DType) -> Result<Val, Fault> {
    let x = match c.imp.narrow(x) {
        Some(from) => narrow::decode(c, x, from)?,
        None => x,
    };
    c.cast(x, to)
}

/// `DequantizeLinear`: (x - zero point) * scale.
pub(crate) fn dequantize_linear(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["block_size", "axis"]);
    let (x, scale) = (c.input(0)?, c.input(1)?);
    let to = dtype_attribute(c, "output_dtype")?.map_or(c.dtype(scale), |(dtype, _)| dtype);
    let inner = wide(c.dtype(scale));
    let scale = spread(c, scale, x)?;
    let mut y = numbers(c, x, inner)?;
    if let Some(zero) = c.opt(2) {
        let zero = numbers(c, zero, inner)?;
        let zero = spread(c, zero, x)?;
        y = c.binary(BinaryFn::Sub, y, zero)?;
    }
    let scale = c.cast(scale, inner)?;
    let y = c.binary(BinaryFn::Mul, y, scale)?;
    one(c.cast(y, to)?)
}

/// `DynamicQuantizeLinear`: scale and zero point from the range of x, widened to hold 0.
pub(crate) fn dynamic_quantize_linear(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let all: Vec<usize> = (0..c.rank(x)).collect();
    let (high, low) = (c.reduce(ReduceFn::Max, x, &all, false)?, c.reduce(ReduceFn::Min, x, &all, false)?);
    let (high, low) = (c.binary_scalar(BinaryFn::Max, high, 0.0)?, c.binary_scalar(BinaryFn::Min, low, 0.0)?);
    let width = c.binary(BinaryFn::Sub, high, low)?;
    let scale = c.binary_scalar(BinaryFn::Div, width, 255.0)?;
    let minus = c.unary(UnaryFn::Neg, low)?;
    let zero = c.binary(BinaryFn::Div, minus, scale)?;
    let zero = c.clamp(zero, 0.0, 255.0)?;
    let zero = c.unary(UnaryFn::Round, zero)?;
    let scaled = c.binary(BinaryFn::Div, x, scale)?;
    let y = saturate(c, scaled, Some(zero), DType::U8)?;
    let zero = c.cast(zero, DType::U8)?;
    Ok(vec![y, scale, zero])
}

/// x - zero point as `dtype`; a vector of zero points goes along `axis`.
fn shifted(c: &mut Ctx<'_, '_>, x: Val, zero: Option<Val>, axis: usize, dtype: DType) -> Result<Val, Fault> {
    let x = c.cast(x, dtype)?;
    let Some(zero) = zero else { return Ok(x) };
    let zero = c.cast(zero, dtype)?;
    let zero = if c.rank(zero) == 1 && !c.dims(zero)[0].is(1) {
        let rank = c.rank(x);
        c.along(zero, axis.min(rank - 1), rank)?
    } else if c.dims(zero).iter().all(|d| d.is(1)) {
        c.reshape(zero, &[])?
    } else {
        zero
    };
    c.binary(BinaryFn::Sub, x, zero)
}

/// `MatMulInteger`.
pub(crate) fn matmul_integer(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    let (row, column) = (c.rank(a).saturating_sub(2), c.rank(b).saturating_sub(1));
    let (a_zero, b_zero) = (c.opt(2), c.opt(3));
    let a = shifted(c, a, a_zero, row, DType::I32)?;
    let b = shifted(c, b, b_zero, column, DType::I32)?;
    one(product::matmul_of(c, a, b)?)
}

/// `QLinearMatMul`.
pub(crate) fn qlinear_matmul(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(3)?);
    let (a_scale, a_zero) = (c.input(1)?, c.input(2)?);
    let (b_scale, b_zero) = (c.input(4)?, c.input(5)?);
    let (y_scale, y_zero) = (c.input(6)?, c.input(7)?);
    let (row, column) = (c.rank(a).saturating_sub(2), c.rank(b).saturating_sub(1));
    let a = shifted(c, a, Some(a_zero), row, DType::I32)?;
    let b = shifted(c, b, Some(b_zero), column, DType::I32)?;
    let y = product::matmul_of(c, a, b)?;
    let rank = c.rank(y);
    let scales = [a_scale, b_scale, y_scale].map(|s| (s, c.dims(s)));
    let mut factors = Vec::new();
    for (i, (scale, dims)) in scales.into_iter().enumerate() {
        let scale = c.cast(scale, DType::F32)?;
        factors.push(if dims.iter().all(|d| d.is(1)) {
            c.reshape(scale, &[])?
        } else if dims.len() == 1 && rank > 0 {
            c.along(scale, if i == 0 { rank.saturating_sub(2) } else { rank - 1 }, rank)?
        } else {
            scale
        });
    }
    let y = c.cast(y, DType::F32)?;
    let factor = c.binary(BinaryFn::Mul, factors[0], factors[1])?;
    let factor = c.binary(BinaryFn::Div, factor, factors[2])?;
    let y = c.binary(BinaryFn::Mul, y, factor)?;
    let to = c.dtype(y_zero);
    one(saturate(c, y, Some(y_zero), to)?)
}

/// The convolution of shifted integers, exact in doubles.
fn convolved(
    c: &mut Ctx<'_, '_>,
    x: Val,
    w: Val,
    zeros: [Option<Val>; 2],
    bias: Option<Val>,
) -> Result<Val, Fault> {
    let x = shifted(c, x, zeros[0], 0, DType::F64)?;
    let w = shifted(c, w, zeros[1], 0, DType::F64)?;
    let bias = bias.map(|b| c.cast(b, DType::F64)).transpose()?;
    let results = convolution::conv_of(c, x, w, bias)?;
    results.first().copied().ok_or_else(|| Fault::Ir("no result".into()))
}

/// `ConvInteger`.
pub(crate) fn conv_integer(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, w, zeros) = (c.input(0)?, c.input(1)?, [c.opt(2), c.opt(3)]);
    let y = convolved(c, x, w, zeros, None)?;
    one(c.cast(y, DType::I32)?)
}

/// `QLinearConv`.
pub(crate) fn qlinear_conv(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, w, zeros) = (c.input(0)?, c.input(3)?, [c.opt(2), c.opt(5)]);
    let (x_scale, w_scale) = (c.input(1)?, c.input(4)?);
    let (y_scale, y_zero, bias) = (c.input(6)?, c.input(7)?, c.opt(8));
    let y = convolved(c, x, w, zeros, bias)?;
    let rank = c.rank(y);
    let w_scale = if c.dims(w_scale).iter().all(|d| d.is(1)) {
        c.reshape(w_scale, &[])?
    } else {
        c.along(w_scale, 1, rank)?
    };
    let x_scale = c.reshape(x_scale, &[])?;
    let y_scale = c.reshape(y_scale, &[])?;
    let factor = c.binary(BinaryFn::Mul, x_scale, w_scale)?;
    let factor = c.binary(BinaryFn::Div, factor, y_scale)?;
    let factor = c.cast(factor, DType::F64)?;
    let y = c.binary(BinaryFn::Mul, y, factor)?;
    let to = c.dtype(y_zero);
    let y_zero = c.reshape(y_zero, &[])?;
    one(saturate(c, y, Some(y_zero), to)?)
}
