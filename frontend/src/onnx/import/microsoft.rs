//! Operators of `com.microsoft` that optimizers leave in graphs.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, OVERFLOW};
use super::{convolution, elementwise, norm, product};
use ssmc_ir::Dim;
use ssmc_ir::ops::{BinaryFn, UnaryFn};

/// The last two axes exchanged.
fn transposed(c: &mut Ctx<'_, '_>, x: Val, yes: bool) -> Result<Val, Fault> {
    let rank = c.rank(x);
    if !yes || rank < 2 {
        return Ok(x);
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    c.transpose(x, &perm)
}

/// `FusedMatMul`: alpha * A' B'.
pub(crate) fn fused_matmul(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    for name in ["transBatchA", "transBatchB"] {
        if c.attrs.flag(name, false)? {
            return Err(Fault::Unsupported(format!("the attribute {name}")).into());
        }
    }
    let a = transposed(c, a, c.attrs.flag("transA", false)?)?;
    let b = transposed(c, b, c.attrs.flag("transB", false)?)?;
    let alpha = c.attrs.float_or("alpha", 1.0)?;
    let y = product::matmul_of(c, a, b)?;
    one(if alpha == 1.0 { y } else { c.binary_scalar(BinaryFn::Mul, y, alpha.into())? })
}

/// x plus an optional bias.
fn biased(c: &mut Ctx<'_, '_>, idx: usize) -> Result<Val, Fault> {
    let x = c.input(0)?;
    match c.opt(idx) {
        Some(bias) => c.binary(BinaryFn::Add, x, bias),
        None => Ok(x),
    }
}

/// `BiasGelu` and `Gelu`.
pub(crate) fn bias_gelu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = biased(c, 1)?;
    one(elementwise::gelu_of(c, x, false)?)
}

/// `FastGelu`.
pub(crate) fn fast_gelu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = biased(c, 1)?;
    one(elementwise::gelu_of(c, x, true)?)
}

/// `QuickGelu`: x * sigmoid(alpha * x).
pub(crate) fn quick_gelu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, alpha) = (c.input(0)?, c.attrs.float_or("alpha", 1.702)?);
    let scaled = c.binary_scalar(BinaryFn::Mul, x, alpha.into())?;
    let gate = c.unary(UnaryFn::Sigmoid, scaled)?;
    one(c.binary(BinaryFn::Mul, x, gate)?)
}

/// `FusedConv`: a convolution, an optional summand and an activation.
pub(crate) fn fused_conv(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["activation_params"]);
    let (x, w, bias) = (c.input(0)?, c.input(1)?, c.opt(2));
    let results = convolution::conv_of(c, x, w, bias)?;
    let mut y = *results.first().ok_or_else(|| Fault::Ir("no result".into()))?;
    if let Some(z) = c.opt(3) {
        y = c.binary(BinaryFn::Add, y, z)?;
    }
    one(match c.attrs.string_or("activation", "")? {
        "" => y,
        "Relu" => c.unary(UnaryFn::Relu, y)?,
        "Sigmoid" => c.unary(UnaryFn::Sigmoid, y)?,
        "Tanh" => c.unary(UnaryFn::Tanh, y)?,
        other => return Err(Fault::Unsupported(format!("the activation {other} of a convolution")).into()),
    })
}

/// `SkipLayerNormalization` and, without mean, `SkipSimplifiedLayerNormalization`: the norm of a sum, which is the
/// last result.
pub(crate) fn skip_norm(c: &mut Ctx<'_, '_>, simplified: bool) -> Imported<Vec<Val>> {
    let (x, skip, scale) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let epsilon = c.attrs.float_or("epsilon", 1e-12)?;
    let (beta, bias) = if simplified { (None, c.opt(3)) } else { (c.opt(3), c.opt(4)) };
    let mut sum = c.binary(BinaryFn::Add, x, skip)?;
    if let Some(bias) = bias {
        sum = c.binary(BinaryFn::Add, sum, bias)?;
    }
    let (y, mean, factor) = norm::last_axis(c, sum, (scale, beta), epsilon.into(), simplified)?;
    Ok(vec![y, mean, factor, sum])
}

/// `MatMulNBits`: A times a matrix of 4 or 8 bit numbers, quantized by blocks along the summed axis.
pub(crate) fn matmul_n_bits(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["accuracy_level", "weight_prepacked"]);
    c.at_most_inputs(4)?;
    let (a, b, scales) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let required = |c: &Ctx<'_, '_>, name| {
        let n = c.attrs.int(name)?.filter(|n| (1..=shape::MAX_DIM).contains(n));
        n.ok_or(Fault::MissingAttribute { name })
    };
    let (k, n, block) = (required(c, "K")?, required(c, "N")?, required(c, "block_size")?);
    let bits = c.attrs.int_or("bits", 4)?;
    if bits != 4 && bits != 8 {
        return Err(Fault::Unsupported(format!("a matrix of {bits} bit numbers")).into());
    }
    let n_blocks = (k + block - 1) / block;
    let dtype = c.dtype(a);
    let numbers = unpacked(c, b, &[n, n_blocks, block], bits)?;
    let zero = match c.opt(3) {
        Some(zero) if c.dtype(zero) == dtype => c.reshape(zero, &[n, n_blocks, 1].map(Dim::from))?,
        Some(zero) => {
            let per_byte = 8 / bits;
            let padded = (n_blocks + per_byte - 1) / per_byte * per_byte;
            let all = unpacked(c, zero, &[n, 1, padded], bits)?;
            let all = c.slice(all, 2, Dim::from(0), Dim::from(n_blocks), 1)?;
            let all = c.reshape(all, &[n, n_blocks, 1].map(Dim::from))?;
            c.cast(all, dtype)?
        }
        None => c.scalar(dtype, f64::from(1u32 << (bits - 1)))?,
    };
    let numbers = c.cast(numbers, dtype)?;
    let scales = c.reshape(scales, &[n, n_blocks, 1].map(Dim::from))?;
    let centered = c.binary(BinaryFn::Sub, numbers, zero)?;
    let weights = c.binary(BinaryFn::Mul, centered, scales)?;
    let weights = c.reshape(weights, &[Dim::from(n), Dim::from(n_blocks * block)])?;
    let weights = c.slice(weights, 1, Dim::from(0), Dim::from(k), 1)?;
    let weights = c.transpose(weights, &[1, 0])?;
    one(product::matmul_of(c, a, weights)?)
}

/// Numbers of `bits` packed into bytes, low bits first, in a shape.
fn unpacked(c: &mut Ctx<'_, '_>, bytes: Val, dims: &[i64; 3], bits: i64) -> Result<Val, Fault> {
    let to = dims.map(Dim::from);
    if bits == 8 {
        return c.reshape(bytes, &to);
    }
    let half = to[2].div_exact(&Dim::from(2)).ok_or(OVERFLOW)?;
    let pairs = [to[0].clone(), to[1].clone(), half, Dim::from(1)];
    let bytes = c.reshape(bytes, &pairs)?;
    let (low, high) =
        (c.binary_scalar(BinaryFn::Rem, bytes, 16.0)?, c.binary_scalar(BinaryFn::Div, bytes, 16.0)?);
    let both = c.concat(&[low, high], 3)?;
    c.reshape(both, &to)
}
