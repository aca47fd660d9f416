//! Trigonometric and hyperbolic functions, put together from the few that are primitive.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use ssmc_ir::ops::{BinaryFn, Cmp, UnaryFn};
use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};

/// `Tan`: sin x / cos x.
pub(crate) fn tan(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let (sin, cos) = (c.unary(UnaryFn::Sin, x)?, c.unary(UnaryFn::Cos, x)?);
    one(c.binary(BinaryFn::Div, sin, cos)?)
}

/// `Sinh`: (m + m / (m + 1)) / 2 with m = e^|x| - 1, and the sign of x.
pub(crate) fn sinh(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let (size, sign) = (c.unary(UnaryFn::Abs, x)?, c.unary(UnaryFn::Sign, x)?);
    let grown = c.unary(UnaryFn::Expm1, size)?;
    let below = c.binary_scalar(BinaryFn::Add, grown, 1.0)?;
    let below = c.unary(UnaryFn::Reciprocal, below)?;
    // m / (m + 1) = 1 - 1 / (m + 1) stays finite where m does not, but is exact near 0 only as a product.
    let shrunk = c.binary(BinaryFn::Mul, grown, below)?;
    let one_less = c.unary(UnaryFn::Neg, below)?;
    let one_less = c.binary_scalar(BinaryFn::Add, one_less, 1.0)?;
    let is_small = c.compare_scalar(Cmp::Lt, size, 1.0)?;
    let second = c.select(is_small, shrunk, one_less)?;
    let sum = c.binary(BinaryFn::Add, grown, second)?;
    let half = c.binary_scalar(BinaryFn::Mul, sum, 0.5)?;
    one(c.binary(BinaryFn::Mul, half, sign)?)
}

/// `Cosh`: (e^x + e^-x) / 2.
pub(crate) fn cosh(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let grown = c.unary(UnaryFn::Exp, x)?;
    let minus = c.unary(UnaryFn::Neg, x)?;
    let shrunk = c.unary(UnaryFn::Exp, minus)?;
    let sum = c.binary(BinaryFn::Add, grown, shrunk)?;
    one(c.binary_scalar(BinaryFn::Mul, sum, 0.5)?)
}

/// `Asinh`: log1p(|x| + x^2 / (1 + sqrt(x^2 + 1))), and the sign of x.
pub(crate) fn asinh(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let (size, sign) = (c.unary(UnaryFn::Abs, x)?, c.unary(UnaryFn::Sign, x)?);
    let square = c.binary(BinaryFn::Mul, x, x)?;
    let above = c.binary_scalar(BinaryFn::Add, square, 1.0)?;
    let root = c.unary(UnaryFn::Sqrt, above)?;
    let below = c.binary_scalar(BinaryFn::Add, root, 1.0)?;
    let part = c.binary(BinaryFn::Div, square, below)?;
    let sum = c.binary(BinaryFn::Add, size, part)?;
    let log = c.unary(UnaryFn::Log1p, sum)?;
    one(c.binary(BinaryFn::Mul, log, sign)?)
}

/// `Acosh`: log1p(t + sqrt(2t + t^2)) with t = x - 1.
pub(crate) fn acosh(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let t = c.binary_scalar(BinaryFn::Sub, x, 1.0)?;
    let plus = c.binary_scalar(BinaryFn::Add, t, 2.0)?;
    let product = c.binary(BinaryFn::Mul, t, plus)?;
    let root = c.unary(UnaryFn::Sqrt, product)?;
    let sum = c.binary(BinaryFn::Add, t, root)?;
    one(c.unary(UnaryFn::Log1p, sum)?)
}

/// `Atanh`: (log1p(x) - log1p(-x)) / 2.
pub(crate) fn atanh(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let minus = c.unary(UnaryFn::Neg, x)?;
    let (up, down) = (c.unary(UnaryFn::Log1p, x)?, c.unary(UnaryFn::Log1p, minus)?);
    let difference = c.binary(BinaryFn::Sub, up, down)?;
    one(c.binary_scalar(BinaryFn::Mul, difference, 0.5)?)
}

/// `a[0] * z^n + a[1] * z^(n-1) + ..`
fn polynomial(c: &mut Ctx<'_, '_>, z: Val, coefficients: &[f64]) -> Result<Val, Fault> {
    let mut acc = c.splat(coefficients[0], z)?;
    for a in &coefficients[1..] {
        acc = c.binary(BinaryFn::Mul, acc, z)?;
        acc = c.binary_scalar(BinaryFn::Add, acc, *a)?;
    }
    Ok(acc)
}

/// Arc tangent: reduced to |x| < 0.66, then the rational function of the Cephes library.
fn arc_tangent(c: &mut Ctx<'_, '_>, x: Val) -> Result<Val, Fault> {
    const P: [f64; 5] = [
        -0.875_060_860_003_190_4,
        -16.157_537_187_333_652,
        -75.008_557_923_147_05,
        -122.886_666_844_901_36,
        -64.850_219_049_420_25,
    ];
    const Q: [f64; 6] = [
        1.0,
        24.858_464_901_423_062,
        165.027_009_831_698_85,
        432.881_060_491_290_27,
        485.390_399_635_913_7,
        194.550_657_148_261_4,
    ];
    let (size, sign) = (c.unary(UnaryFn::Abs, x)?, c.unary(UnaryFn::Sign, x)?);
    let (is_large, is_middle) =
        (c.compare_scalar(Cmp::Gt, size, 2.414_213_562_373_095)?, c.compare_scalar(Cmp::Gt, size, 0.66)?);
    let inverse = c.unary(UnaryFn::Reciprocal, size)?;
    let inverse = c.unary(UnaryFn::Neg, inverse)?;
    let (above, below) =
        (c.binary_scalar(BinaryFn::Sub, size, 1.0)?, c.binary_scalar(BinaryFn::Add, size, 1.0)?);
    let quotient = c.binary(BinaryFn::Div, above, below)?;
    let t = c.select(is_middle, quotient, size)?;
    let t = c.select(is_large, inverse, t)?;
    let (quarter, half, zero) = (c.splat(FRAC_PI_4, x)?, c.splat(FRAC_PI_2, x)?, c.splat(0.0, x)?);
    let base = c.select(is_middle, quarter, zero)?;
    let base = c.select(is_large, half, base)?;
    let z = c.binary(BinaryFn::Mul, t, t)?;
    let (p, q) = (polynomial(c, z, &P)?, polynomial(c, z, &Q)?);
    let r = c.binary(BinaryFn::Div, p, q)?;
    let r = c.binary(BinaryFn::Mul, r, z)?;
    let r = c.binary(BinaryFn::Mul, r, t)?;
    let r = c.binary(BinaryFn::Add, r, t)?;
    let y = c.binary(BinaryFn::Add, base, r)?;
    c.binary(BinaryFn::Mul, y, sign)
}

/// `Atan`.
pub(crate) fn atan(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    one(arc_tangent(c, x)?)
}

/// `Asin`: 2 atan(x / (1 + sqrt(1 - x^2))).
pub(crate) fn asin(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let minus = c.unary(UnaryFn::Neg, x)?;
    let (up, down) = (c.binary_scalar(BinaryFn::Add, x, 1.0)?, c.binary_scalar(BinaryFn::Add, minus, 1.0)?);
    let product = c.binary(BinaryFn::Mul, up, down)?;
    let root = c.unary(UnaryFn::Sqrt, product)?;
    let below = c.binary_scalar(BinaryFn::Add, root, 1.0)?;
    let t = c.binary(BinaryFn::Div, x, below)?;
    let half = arc_tangent(c, t)?;
    one(c.binary_scalar(BinaryFn::Mul, half, 2.0)?)
}

/// `Acos`: 2 atan(sqrt((1 - x) / (1 + x))).
pub(crate) fn acos(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let minus = c.unary(UnaryFn::Neg, x)?;
    let (up, down) = (c.binary_scalar(BinaryFn::Add, minus, 1.0)?, c.binary_scalar(BinaryFn::Add, x, 1.0)?);
    let quotient = c.binary(BinaryFn::Div, up, down)?;
    let root = c.unary(UnaryFn::Sqrt, quotient)?;
    let half = arc_tangent(c, root)?;
    one(c.binary_scalar(BinaryFn::Mul, half, 2.0)?)
}
