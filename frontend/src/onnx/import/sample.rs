//! `GridSample` and `AffineGrid`.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use ssmc_ir::ops::{self, BinaryFn, Cmp, UnaryFn};
use ssmc_ir::{DType, Dim};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// One spatial axis: coordinates per place of the result, in `f32` or wider, and the extent.
pub(super) struct Axis {
    pub(super) at: Val,
    pub(super) extent: f64,
    /// Where reflection turns around.
    pub(super) low: f64,
    pub(super) high: f64,
}

/// x mirrored at both ends of low..=high until it is inside.
fn reflect(c: &mut Ctx<'_, '_>, x: Val, low: f64, high: f64) -> Result<Val, Fault> {
    let range = high - low;
    if range <= 0.0 {
        return c.splat(low, x);
    }
    let t = c.binary_scalar(BinaryFn::Sub, x, low)?;
    let t = c.binary_scalar(BinaryFn::Rem, t, 2.0 * range)?;
    let back = c.unary(UnaryFn::Neg, t)?;
    let back = c.binary_scalar(BinaryFn::Add, back, 2.0 * range)?;
    let is_back = c.compare_scalar(Cmp::Gt, t, range)?;
    let t = c.select(is_back, back, t)?;
    c.binary_scalar(BinaryFn::Add, t, low)
}

/// An element index along an axis: what is outside is brought inside; with zeros also whether it was inside.
fn element(c: &mut Ctx<'_, '_>, x: Val, a: &Axis, padding: Padding) -> Result<(Val, Option<Val>), Fault> {
    let last = a.extent - 1.0;
    let mut x = x;
    let mut inside = None;
    match padding {
        Padding::Zeros => {
            let (from, to) = (c.compare_scalar(Cmp::Ge, x, 0.0)?, c.compare_scalar(Cmp::Le, x, last)?);
            inside = Some(c.binary(BinaryFn::And, from, to)?);
        }
        Padding::Border => {}
        Padding::Reflection => {
            let turned = reflect(c, x, a.low, a.high)?;
            // Elements are whole numbers; what reflects between two of them belongs to the lower one.
            x = c.unary(UnaryFn::Floor, turned)?;
        }
    }
    let x = c.clamp(x, 0.0, last)?;
    Ok((c.cast(x, DType::I64)?, inside))
}

/// Offsets of the elements around a coordinate, from the one below it, and their weights.
fn taps(c: &mut Ctx<'_, '_>, mode: &str, a: &Axis) -> Result<Vec<(Val, Option<Val>)>, Fault> {
    if mode == "nearest" {
        return Ok(vec![(c.unary(UnaryFn::Round, a.at)?, None)]);
    }
    let below = c.unary(UnaryFn::Floor, a.at)?;
    let ratio = c.binary(BinaryFn::Sub, a.at, below)?;
    let minus = c.unary(UnaryFn::Neg, ratio)?;
    let rest = c.binary_scalar(BinaryFn::Add, minus, 1.0)?;
    let shifted = |c: &mut Ctx<'_, '_>, by: f64| c.binary_scalar(BinaryFn::Add, below, by);
    if mode == "linear" {
        let above = shifted(c, 1.0)?;
        return Ok(vec![(below, Some(rest)), (above, Some(ratio))]);
    }
    let (far, near) =
        (c.binary_scalar(BinaryFn::Add, ratio, 1.0)?, c.binary_scalar(BinaryFn::Add, rest, 1.0)?);
    let (w0, w1) = (outer_weight(c, far)?, inner_weight(c, ratio)?);
    let (w2, w3) = (inner_weight(c, rest)?, outer_weight(c, near)?);
    let mut taps = Vec::new();
    for (by, w) in [(-1.0, w0), (0.0, w1), (1.0, w2), (2.0, w3)] {
        taps.push((shifted(c, by)?, Some(w)));
    }
    Ok(taps)
}

/// The coefficient of cubic convolution.
const A: f64 = -0.75;

/// ((a + 2) x - (a + 3)) x^2 + 1, for distances up to 1.
fn inner_weight(c: &mut Ctx<'_, '_>, x: Val) -> Result<Val, Fault> {
    let y = c.binary_scalar(BinaryFn::Mul, x, A + 2.0)?;
    let y = c.binary_scalar(BinaryFn::Sub, y, A + 3.0)?;
    let y = c.binary(BinaryFn::Mul, y, x)?;
    let y = c.binary(BinaryFn::Mul, y, x)?;
    c.binary_scalar(BinaryFn::Add, y, 1.0)
}

/// ((a x - 5a) x + 8a) x - 4a, for distances from 1 to 2.
fn outer_weight(c: &mut Ctx<'_, '_>, x: Val) -> Result<Val, Fault> {
    let y = c.binary_scalar(BinaryFn::Mul, x, A)?;
    let y = c.binary_scalar(BinaryFn::Sub, y, 5.0 * A)?;
    let y = c.binary(BinaryFn::Mul, y, x)?;
    let y = c.binary_scalar(BinaryFn::Add, y, 8.0 * A)?;
    let y = c.binary(BinaryFn::Mul, y, x)?;
    c.binary_scalar(BinaryFn::Sub, y, 4.0 * A)
}

/// `GridSample`: the operand at normalized coordinates.
pub(crate) fn grid_sample(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, grid) = (c.input(0)?, c.input(1)?);
    let align = c.attrs.flag("align_corners", false)?;
    let mode = match c.attrs.string_or("mode", "linear")? {
        "bilinear" | "linear" => "linear",
        "bicubic" | "cubic" => "cubic",
        "nearest" => "nearest",
        other => return Err(c.attrs.wrong("mode", "linear, nearest or cubic", format!("{other:?}")).into()),
    };
    let padding = match c.attrs.string_or("padding_mode", "zeros")? {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => {
            let expected = "zeros, border or reflection";
            return Err(c.attrs.wrong("padding_mode", expected, format!("{other:?}")).into());
        }
    };
    let (dims, grid_dims) = (c.dims(x), c.dims(grid));
    let n = dims.len().saturating_sub(2);
    if n == 0 || grid_dims.len() != n + 2 || !grid_dims[n + 1].is(n as i64) || grid_dims[0] != dims[0] {
        return Err(c.expected(1, format!("{n} coordinates per place")).into());
    }
    let places = &grid_dims[..n + 1];
    let float = if c.dtype(grid) == DType::F64 { DType::F64 } else { DType::F32 };
    let mut axes = Vec::new();
    for i in 0..n {
        let extent = dims[i + 2].as_const().filter(|n| *n > 0);
        let extent =
            extent.ok_or(Fault::NotKnown { idx: 0, what: "the extents of a sampled tensor" })? as f64;
        let last = Dim::from((n - 1 - i) as i64);
        let g = c.slice(grid, n + 1, last, Dim::from(1), 1)?;
        let g = c.reshape(g, places)?;
        let g = c.cast(g, float)?;
        let g = c.binary_scalar(BinaryFn::Add, g, 1.0)?;
        let (low, high) = if align { (0.0, extent - 1.0) } else { (-0.5, extent - 0.5) };
        let at = c.binary_scalar(BinaryFn::Mul, g, (high - low) / 2.0)?;
        let at = c.binary_scalar(BinaryFn::Add, at, low)?;
        let at = match padding {
            _ if mode == "cubic" => at,
            Padding::Zeros => at,
            Padding::Border => c.clamp(at, 0.0, extent - 1.0)?,
            Padding::Reflection => {
                let turned = reflect(c, at, low, high)?;
                c.clamp(turned, 0.0, extent - 1.0)?
            }
        };
        axes.push(Axis { at, extent, low, high });
    }
    // [N * places, C], a row per element.
    let perm: Vec<usize> = std::iter::once(0).chain(2..n + 2).chain([1]).collect();
    let rows = c.transpose(x, &perm)?;
    let n_rows = shape::product(dims[..1].iter().chain(&dims[2..]))?;
    let rows = c.reshape(rows, &[n_rows, dims[1].clone()])?;
    let sample = c.count(&dims[0], DType::I64)?;
    let sample = c.along(sample, 0, n + 1)?;
    let sum = combine(c, (mode, padding), &axes, rows, (sample, None))?;
    // [N, places.., C] to [N, C, places..].
    let back: Vec<usize> = [0, n + 1].into_iter().chain(1..n + 1).collect();
    one(c.transpose(sum, &back)?)
}

/// The weighted sum over the taps of all axes; `at` is the index so far and its weight.
pub(super) fn combine(
    c: &mut Ctx<'_, '_>,
    how: (&str, Padding),
    axes: &[Axis],
    rows: Val,
    at: (Val, Option<Val>),
) -> Result<Val, Fault> {
    let Some((axis, rest)) = axes.split_first() else {
        let y = c.emit(ops::Gather { axis: 0 }, &[rows, at.0])?;
        let Some(weight) = at.1 else { return Ok(y) };
        let dims = [c.dims(weight), vec![Dim::from(1)]].concat();
        let weight = c.cast(weight, c.dtype(y))?;
        let weight = c.reshape(weight, &dims)?;
        return c.binary(BinaryFn::Mul, y, weight);
    };
    let mut sum: Option<Val> = None;
    for (place, weight) in taps(c, how.0, axis)? {
        let (index, inside) = element(c, place, axis, how.1)?;
        let scaled = c.binary_scalar(BinaryFn::Mul, at.0, axis.extent)?;
        let index = c.binary(BinaryFn::Add, scaled, index)?;
        let mut total = match (at.1, weight) {
            (Some(a), Some(b)) => Some(c.binary(BinaryFn::Mul, a, b)?),
            (a, b) => a.or(b),
        };
        if let Some(inside) = inside {
            let mask = c.cast(inside, c.dtype(place))?;
            total = Some(match total {
                Some(total) => c.binary(BinaryFn::Mul, total, mask)?,
                None => mask,
            });
        }
        let part = combine(c, how, rest, rows, (index, total))?;
        sum = Some(match sum {
            Some(sum) => c.binary(BinaryFn::Add, sum, part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| c.expected(0, "a spatial axis"))
}

/// `AffineGrid`: theta times the homogeneous coordinates of every place.
pub(crate) fn affine_grid(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let theta = c.input(0)?;
    let size = c.ints_input(1, "size")?;
    let align = c.attrs.flag("align_corners", false)?;
    let n = size.len().saturating_sub(2);
    if !(2..=3).contains(&n) || size.iter().any(|s| !(1..=65536).contains(s)) {
        return Err(c.expected(1, "the sizes of 4 or 5 axes").into());
    }
    let dtype = c.dtype(theta);
    let mut places: Vec<Dim> = size[2..].iter().map(|s| Dim::from(*s)).collect();
    places.push(Dim::from(1));
    let mut parts = Vec::new();
    for i in (0..n).rev() {
        let extent = size[i + 2] as f64;
        let at = |k: i64| match align {
            true if extent == 1.0 => 0.0,
            true => -1.0 + 2.0 * k as f64 / (extent - 1.0),
            false => -1.0 + (2 * k + 1) as f64 / extent,
        };
        let values: Vec<f64> = (0..size[i + 2]).map(at).collect();
        let v = c.floats(dtype, &[values.len()], &values)?;
        let v = c.along(v, i, n + 1)?;
        parts.push(c.broadcast_to(v, &places)?);
    }
    let ones = c.scalar(dtype, 1.0)?;
    parts.push(c.broadcast_to(ones, &places)?);
    let homogeneous = c.concat(&parts, n)?;
    let spec = if n == 2 { "bij,hwj->bhwi" } else { "bij,dhwj->bdhwi" };
    one(c.product(spec, &[theta, homogeneous])?)
}
