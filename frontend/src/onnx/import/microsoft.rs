//! Operators of `com.microsoft` that optimizers leave in graphs.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, OVERFLOW};
use super::{convolution, elementwise, norm, product};
use ssmc_ir::Dim;
use ssmc_ir::ops::{BinaryFn, UnaryFn};

/// The axis before the last one taken from the front, where the batch is transposed; then the last two exchanged.
fn transposed(c: &mut Ctx<'_, '_>, x: Val, batch: bool, matrix: bool) -> Result<Val, Fault> {
    let rank = c.rank(x);
    let mut perm: Vec<usize> = (0..rank).collect();
    if batch && rank > 2 {
        perm[..rank - 1].rotate_left(1);
    }
    if matrix && rank > 1 {
        perm.swap(rank - 2, rank - 1);
    }
    c.transpose(x, &perm)
}

/// `FusedMatMul` and `TransposeMatMul`: alpha * A' B'.
pub(crate) fn fused_matmul(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    let a = transposed(c, a, c.attrs.flag("transBatchA", false)?, c.attrs.flag("transA", false)?)?;
    let b = transposed(c, b, c.attrs.flag("transBatchB", false)?, c.attrs.flag("transB", false)?)?;
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
    let (x, w, bias) = (c.input(0)?, c.input(1)?, c.opt(2));
    let results = convolution::conv_of(c, x, w, bias)?;
    let mut y = *results.first().ok_or_else(|| Fault::Ir("no result".into()))?;
    if let Some(z) = c.opt(3) {
        y = c.binary(BinaryFn::Add, y, z)?;
    }
    let name = c.attrs.string_or("activation", "")?;
    let params: Vec<f64> =
        c.attrs.floats("activation_params")?.unwrap_or_default().iter().map(|x| (*x).into()).collect();
    one(activation(c, name, &params, y)?)
}

/// `FusedGemm`: `Gemm` and an activation.
pub(crate) fn fused_gemm(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let y = product::gemm(c)?.remove(0);
    let name = c.attrs.string_or("activation", "")?;
    let mut params = Vec::new();
    for param in ["activation_alpha", "activation_beta", "activation_gamma"] {
        params.extend(c.attrs.float(param)?.map(f64::from));
    }
    one(activation(c, name, &params, y)?)
}

/// A function that an optimizer has drawn into the node before it.
fn activation(c: &mut Ctx<'_, '_>, name: &str, params: &[f64], y: Val) -> Result<Val, Fault> {
    match (name, params) {
        ("", _) => Ok(y),
        ("Relu", _) => c.unary(UnaryFn::Relu, y),
        ("Sigmoid", _) => c.unary(UnaryFn::Sigmoid, y),
        ("Softplus", _) => c.unary(UnaryFn::Softplus, y),
        ("Tanh", _) => c.unary(UnaryFn::Tanh, y),
        ("LeakyRelu", [alpha]) => {
            let below = c.binary_scalar(BinaryFn::Min, y, 0.0)?;
            let (above, below) = (c.unary(UnaryFn::Relu, y)?, c.binary_scalar(BinaryFn::Mul, below, *alpha)?);
            c.binary(BinaryFn::Add, above, below)
        }
        ("Clip", [low, high]) => c.clamp(y, *low, *high),
        ("HardSigmoid", [alpha, beta]) => {
            let scaled = c.binary_scalar(BinaryFn::Mul, y, *alpha)?;
            let shifted = c.binary_scalar(BinaryFn::Add, scaled, *beta)?;
            c.clamp(shifted, 0.0, 1.0)
        }
        _ => Err(Fault::Unsupported(format!("the activation {name:?} with {} parameters", params.len()))),
    }
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

/// `MatMulNBits`: A times a matrix of 2, 4 or 8 bit numbers, quantized by blocks along the summed axis, plus a bias.
pub(crate) fn matmul_n_bits(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["accuracy_level"]);
    c.at_most_inputs(6)?;
    if c.opt(4).is_some() {
        return Err(Fault::Unsupported("a matrix whose rows are in an order of their own".into()).into());
    }
    match c.attrs.int_or("weight_prepacked", 0)? {
        0 => {}
        n => return Err(Fault::Unsupported(format!("a matrix packed for one machine, in form {n}")).into()),
    }
    let (a, b, scales) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let required = |c: &Ctx<'_, '_>, name| {
        let n = c.attrs.int(name)?.filter(|n| (1..=shape::MAX_DIM).contains(n));
        n.ok_or(Fault::MissingAttribute { name })
    };
    let (k, n, block) = (required(c, "K")?, required(c, "N")?, required(c, "block_size")?);
    let bits = c.attrs.int_or("bits", 4)?;
    if ![2, 4, 8].contains(&bits) {
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
    let mut y = product::matmul_of(c, a, weights)?;
    if let Some(bias) = c.opt(5) {
        y = c.binary(BinaryFn::Add, y, bias)?;
    }
    one(y)
}

/// Numbers of `bits` packed into bytes, low bits first, in a shape.
fn unpacked(c: &mut Ctx<'_, '_>, bytes: Val, dims: &[i64; 3], bits: i64) -> Result<Val, Fault> {
    let to = dims.map(Dim::from);
    if bits == 8 {
        return c.reshape(bytes, &to);
    }
    let per_byte = 8 / bits;
    let n_bytes = to[2].div_exact(&Dim::from(per_byte)).ok_or(OVERFLOW)?;
    let mut bytes = c.reshape(bytes, &[to[0].clone(), to[1].clone(), n_bytes, Dim::from(1)])?;
    let base = f64::from(1u32 << bits);
    let mut parts = Vec::new();
    for _ in 1..per_byte {
        parts.push(c.binary_scalar(BinaryFn::Rem, bytes, base)?);
        bytes = c.binary_scalar(BinaryFn::Div, bytes, base)?;
    }
    parts.push(bytes);
    let all = c.concat(&parts, 3)?;
    c.reshape(all, &to)
}
