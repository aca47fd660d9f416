//! Activations that are not one function.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use ssmc_ir::ops::{ArgMax, BinaryFn, Cmp, UnaryFn};
use ssmc_ir::{DType, Dim};

/// `Selu`: gamma * x where x is positive, gamma * alpha * (e^x - 1) elsewhere.
pub(crate) fn selu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["consumed_inputs"]);
    let x = c.input(0)?;
    let alpha = c.attrs.float_or("alpha", 1.673_263_2)?;
    let gamma = c.attrs.float_or("gamma", 1.050_701)?;
    let y = scaled_elu(c, x, 1.0, alpha.into())?;
    one(c.binary_scalar(BinaryFn::Mul, y, gamma.into())?)
}

/// max(x, 0) + alpha * (e^(min(x, 0) / slope) - 1).
fn scaled_elu(c: &mut Ctx<'_, '_>, x: Val, slope: f64, alpha: f64) -> Result<Val, Fault> {
    let positive = c.unary(UnaryFn::Relu, x)?;
    let negative = c.binary_scalar(BinaryFn::Min, x, 0.0)?;
    let scaled = if slope == 1.0 { negative } else { c.binary_scalar(BinaryFn::Div, negative, slope)? };
    let image = c.unary(UnaryFn::Expm1, scaled)?;
    let image = c.binary_scalar(BinaryFn::Mul, image, alpha)?;
    c.binary(BinaryFn::Add, positive, image)
}

/// `Celu`: max(x, 0) + min(0, alpha * (e^(x / alpha) - 1)).
pub(crate) fn celu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, alpha) = (c.input(0)?, f64::from(c.attrs.float_or("alpha", 1.0)?));
    one(scaled_elu(c, x, alpha, alpha)?)
}

/// `ThresholdedRelu`: x above alpha, else 0.
pub(crate) fn thresholded_relu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, alpha) = (c.input(0)?, c.attrs.float_or("alpha", 1.0)?);
    let above = c.compare_scalar(Cmp::Gt, x, alpha.into())?;
    let zero = c.splat(0.0, x)?;
    one(c.select(above, x, zero)?)
}

/// `Shrink`: x + bias below -lambd, x - bias above lambd, 0 between.
pub(crate) fn shrink(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let (bias, lambd) =
        (f64::from(c.attrs.float_or("bias", 0.0)?), f64::from(c.attrs.float_or("lambd", 0.5)?));
    let (below, above) = (c.compare_scalar(Cmp::Lt, x, -lambd)?, c.compare_scalar(Cmp::Gt, x, lambd)?);
    let (up, down) = (c.binary_scalar(BinaryFn::Add, x, bias)?, c.binary_scalar(BinaryFn::Sub, x, bias)?);
    let zero = c.splat(0.0, x)?;
    let rest = c.select(above, down, zero)?;
    one(c.select(below, up, rest)?)
}

/// `Hardmax`: 1 at the first largest element, 0 elsewhere; over all axes from `axis` on before version 13.
pub(crate) fn hardmax(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let dims = c.dims(x);
    let (axis, seen) = if c.version >= 13 {
        (c.axis(-1, dims.len())?, dims.clone())
    } else {
        let axis = c.axis(1, dims.len())?;
        let flat = super::super::shape::product(&dims[axis..])?;
        (axis, [&dims[..axis], &[flat]].concat())
    };
    let flat = c.reshape(x, &seen)?;
    let place = c.emit(ArgMax { axis }, &[flat])?;
    let mut kept = seen.clone();
    kept[axis] = Dim::from(1);
    let place = c.reshape(place, &kept)?;
    let count = c.count(&seen[axis], DType::I64)?;
    let count = c.along(count, axis, seen.len())?;
    let is_place = c.compare(Cmp::Eq, place, count)?;
    let y = c.cast(is_place, c.dtype(x))?;
    one(c.reshape(y, &dims)?)
}

/// `IsInf`, of either sign or of one.
pub(crate) fn is_inf(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let (negative, positive) =
        (c.attrs.flag("detect_negative", true)?, c.attrs.flag("detect_positive", true)?);
    let x = match (negative, positive) {
        (true, true) => c.unary(UnaryFn::Abs, x)?,
        (true, false) => c.unary(UnaryFn::Neg, x)?,
        (false, true) => x,
        (false, false) => {
            let never = c.int_scalar(DType::Bool, 0)?;
            let dims = c.dims(x);
            return one(c.broadcast_to(never, &dims)?);
        }
    };
    one(c.compare_scalar(Cmp::Eq, x, f64::INFINITY)?)
}
