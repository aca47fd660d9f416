//! `Resize` and `Upsample`: separable, with weights computed when compiling.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use ssmc_ir::Dim;
use ssmc_ir::ops::{self, BinaryFn, Contract, Spec};

/// The largest extent that is resized by a table of weights.
const MAX_EXTENT: f64 = 65536.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// How every axis is resized.
struct Plan<'m> {
    mode: Mode,
    /// Where a place of the result lies in the operand.
    coordinates: &'m str,
    nearest: &'m str,
    cubic: f64,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f64,
}

/// One axis of a plan.
struct Axis {
    axis: usize,
    from: usize,
    to: usize,
    scale: f64,
    roi: (f64, f64),
}

/// A weight per element of the operand for each place of the result; `None` for places outside the region of interest.
type Rows = Vec<Option<Vec<(usize, f64)>>>;

impl Plan<'_> {
    fn coordinate(&self, a: &Axis, x: f64) -> Option<f64> {
        let (n, len) = (a.from as f64, a.scale * a.from as f64);
        let half = (x + 0.5) / a.scale - 0.5;
        Some(match self.coordinates {
            "align_corners" if len == 1.0 => 0.0,
            "align_corners" => x * (n - 1.0) / (len - 1.0),
            "asymmetric" => x / a.scale,
            "pytorch_half_pixel" if len == 1.0 => -0.5,
            "half_pixel_symmetric" => n / 2.0 * (1.0 - a.to as f64 / len) + half,
            "tf_crop_and_resize" => {
                let size = a.roi.1 - a.roi.0;
                let step =
                    if len == 1.0 { size * (n - 1.0) / 2.0 } else { x * size * (n - 1.0) / (len - 1.0) };
                let at = step + a.roi.0 * (n - 1.0);
                return (0.0..=n - 1.0).contains(&at).then_some(at);
            }
            _ => half,
        })
    }

    /// Offsets from the element below `at` and their weights.
    fn taps(&self, ratio: f64, scale: f64) -> Vec<(i64, f64)> {
        let scale = if self.antialias { scale.min(1.0) } else { 1.0 };
        match self.mode {
            Mode::Nearest => {
                let upper = match self.nearest {
                    "round_prefer_ceil" => ratio >= 0.5,
                    "floor" => false,
                    "ceil" => ratio > 0.0,
                    _ => ratio > 0.5,
                };
                vec![(i64::from(upper), 1.0)]
            }
            Mode::Linear => {
                let start = (-1.0 / scale).floor() as i64 + 1;
                let tap = |i: i64| (i, (1.0 - ((i as f64 - ratio) * scale).abs()).max(0.0));
                normalized((start..2 - start).map(tap).collect())
            }
            Mode::Cubic => {
                let start = (-2.0 / scale).floor() as i64 + 1;
                let tap = |i: i64| (i, self.cubic_weight((i as f64 - ratio) * scale));
                normalized((start..2 - start).map(tap).collect())
            }
        }
    }

    fn cubic_weight(&self, x: f64) -> f64 {
        let (a, x) = (self.cubic, x.abs());
        if x <= 1.0 {
            ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        } else if x < 2.0 {
            ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
        } else {
            0.0
        }
    }

    fn rows(&self, a: &Axis) -> Rows {
        let last = a.from as i64 - 1;
        let row = |place: usize| {
            let at = self.coordinate(a, place as f64)?;
            let below = at.floor();
            let mut taps = self.taps(at - below, a.scale);
            if self.exclude_outside && self.mode != Mode::Nearest {
                taps.retain(|(i, _)| (0..=last).contains(&(below as i64 + i)));
                taps = normalized(taps);
            }
            let clamped = |(i, w): (i64, f64)| ((below as i64 + i).clamp(0, last) as usize, w);
            Some(taps.into_iter().map(clamped).collect())
        };
        (0..a.to).map(row).collect()
    }

    fn apply(&self, c: &mut Ctx<'_, '_>, x: Val, a: &Axis) -> Result<Val, Fault> {
        let rows = self.rows(a);
        if self.mode == Mode::Nearest && rows.iter().all(Option::is_some) {
            let places: Vec<i64> = rows.iter().flatten().map(|taps| taps[0].0 as i64).collect();
            let places = c.integers(&[a.to], &places);
            return c.emit(ops::Gather { axis: a.axis }, &[x, places]);
        }
        let mut table = vec![0.0; a.to * a.from];
        for (place, taps) in rows.iter().enumerate() {
            for (i, w) in taps.iter().flatten() {
                table[place * a.from + i] += w;
            }
        }
        let dtype = c.dtype(x);
        if !dtype.is_float() {
            return Err(c.expected(0, "a floating-point tensor for an interpolation"));
        }
        let table = c.floats(dtype, &[a.to, a.from], &table)?;
        let rank = c.rank(x);
        let labels: Vec<u8> = (0..rank as u8).map(|i| b'a' + i).collect();
        let mut output = labels.clone();
        output[a.axis] = b'Z';
        let spec = Spec { inputs: vec![labels.clone(), vec![b'Z', labels[a.axis]]], output };
        let mut y = c.emit(Contract { spec: spec.renamed() }, &[x, table])?;
        if rows.iter().any(Option::is_none) {
            let outside: Vec<f64> =
                rows.iter().map(|r| if r.is_none() { self.extrapolation } else { 0.0 }).collect();
            let outside = c.floats(dtype, &[a.to], &outside)?;
            let outside = c.along(outside, a.axis, rank)?;
            y = c.binary(BinaryFn::Add, y, outside)?;
        }
        Ok(y)
    }
}

/// The same taps with a sum of 1.
fn normalized(taps: Vec<(i64, f64)>) -> Vec<(i64, f64)> {
    let sum: f64 = taps.iter().map(|t| t.1).sum();
    taps.into_iter().map(|(i, w)| (i, w / sum)).collect()
}

fn mode(c: &Ctx<'_, '_>) -> Result<Mode, Fault> {
    match c.attrs.string_or("mode", "nearest")? {
        "nearest" => Ok(Mode::Nearest),
        "linear" | "bilinear" => Ok(Mode::Linear),
        "cubic" => Ok(Mode::Cubic),
        other => Err(c.attrs.wrong("mode", "nearest, linear or cubic", format!("{other:?}"))),
    }
}

/// The numbers in an input that may be absent or empty.
fn numbers(c: &Ctx<'_, '_>, idx: usize, what: &'static str) -> Result<Option<Vec<f64>>, Fault> {
    let Some(v) = c.opt(idx) else { return Ok(None) };
    let numbers = c.known_floats(v).ok_or(Fault::NotKnown { idx, what })?;
    Ok(if numbers.is_empty() { None } else { Some(numbers) })
}

/// `Resize`.
pub(crate) fn resize(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let old = c.version < 11;
    let (scales_at, roi_at) = if old { (1, usize::MAX) } else { (2, 1) };
    let plan = Plan {
        mode: mode(c)?,
        coordinates: c
            .attrs
            .string_or("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })?,
        nearest: c.attrs.string_or("nearest_mode", if old { "floor" } else { "round_prefer_floor" })?,
        cubic: c.attrs.float_or("cubic_coeff_a", -0.75)?.into(),
        antialias: c.attrs.flag("antialias", false)?,
        exclude_outside: c.attrs.flag("exclude_outside", false)?,
        extrapolation: c.attrs.float_or("extrapolation_value", 0.0)?.into(),
    };
    let policy = c.attrs.string_or("keep_aspect_ratio_policy", "stretch")?;
    let axes: Vec<usize> = match c.attrs.ints("axes")? {
        Some(axes) => axes.iter().map(|a| shape::axis(*a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let roi = if plan.coordinates == "tf_crop_and_resize" { numbers(c, roi_at, "roi")? } else { None };
    let (scales, sizes) = (numbers(c, scales_at, "scales")?, numbers(c, 3, "sizes")?);
    one(resized(c, x, &plan, &axes, (scales, sizes, roi), policy)?)
}

type Sizes = (Option<Vec<f64>>, Option<Vec<f64>>, Option<Vec<f64>>);

fn resized(
    c: &mut Ctx<'_, '_>,
    x: Val,
    plan: &Plan<'_>,
    axes: &[usize],
    (scales, sizes, roi): Sizes,
    policy: &str,
) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let n = axes.len();
    let given = [&scales, &sizes].into_iter().flatten().all(|list| list.len() == n);
    if !given || roi.as_ref().is_some_and(|roi| roi.len() != 2 * n) || scales.is_none() && sizes.is_none() {
        return Err(c.expected(2, format!("scales or sizes of {n} axes")));
    }
    let extent = |axis: usize| -> Option<f64> { dims[axis].as_const().map(|n| n as f64) };
    // One factor for all axes, if the aspect ratio stays.
    let common = match (&sizes, policy) {
        (Some(sizes), "not_larger" | "not_smaller") => {
            let ratios: Option<Vec<f64>> =
                axes.iter().zip(sizes).map(|(axis, size)| Some(size / extent(*axis)?)).collect();
            let ratios = ratios.ok_or(Fault::NotKnown { idx: 0, what: "the extents of a resized tensor" })?;
            let pick = if policy == "not_larger" { f64::min } else { f64::max };
            ratios.into_iter().reduce(pick)
        }
        _ => None,
    };
    let mut y = x;
    for (i, axis) in axes.iter().copied().enumerate() {
        let stays = match (&scales, &sizes) {
            (_, Some(sizes)) => extent(axis) == Some(sizes[i]),
            (Some(scales), None) => scales[i] == 1.0,
            (None, None) => true,
        };
        if stays && roi.is_none() && common.is_none() {
            continue;
        }
        let from = extent(axis).ok_or(Fault::NotKnown { idx: 0, what: "the extent of a resized axis" })?;
        let (to, scale) = match (&sizes, &scales, common) {
            (Some(_), _, Some(factor)) => ((factor * from + 0.5).floor(), factor),
            (Some(sizes), _, None) => (sizes[i], sizes[i] / from),
            (None, Some(scales), _) => ((from * scales[i]).floor(), scales[i]),
            (None, None, _) => (from, 1.0),
        };
        if !(0.0..=MAX_EXTENT).contains(&to) || !(1.0..=MAX_EXTENT).contains(&from) || scale <= 0.0 {
            return Err(Fault::Limit { what: "extent of a resized axis", limit: MAX_EXTENT as u64 });
        }
        let roi = roi.as_ref().map_or((0.0, 1.0), |roi| (roi[i], roi[n + i]));
        let a = Axis { axis, from: from as usize, to: to as usize, scale, roi };
        y = plan.apply(c, y, &a)?;
    }
    Ok(y)
}

/// `Upsample`: scales as an attribute before version 9, an input from there on.
pub(crate) fn upsample(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let scales = if c.version < 9 {
        let scales = c.attrs.floats("scales")?.ok_or(Fault::MissingAttribute { name: "scales" })?;
        Some(scales.iter().map(|s| f64::from(*s)).collect())
    } else {
        numbers(c, 1, "scales")?
    };
    let plan = Plan {
        mode: mode(c)?,
        coordinates: "asymmetric",
        nearest: "floor",
        cubic: 0.0,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    let axes: Vec<usize> = (0..c.rank(x)).collect();
    one(resized(c, x, &plan, &axes, (scales, None, None), "stretch")?)
}

/// `CenterCropPad`: the middle of an axis, or zeros around it.
pub(crate) fn center_crop_pad(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut x = c.input(0)?;
    let rank = c.rank(x);
    let axes: Vec<usize> = match c.attrs.ints("axes")? {
        Some(axes) => axes.iter().map(|a| shape::axis(*a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let sizes = c.ints_input(1, "shape")?;
    if sizes.len() != axes.len() {
        return Err(c.expected(1, format!("{} sizes", axes.len())).into());
    }
    let zero = c.scalar(c.dtype(x), 0.0)?;
    for (axis, to) in axes.into_iter().zip(sizes) {
        let dim = c.ty(x).shape[axis].clone();
        let from = dim.as_const().ok_or(Fault::NotKnown { idx: 0, what: "the extent of a cropped axis" })?;
        if to < from {
            let start = (from - to) / 2;
            x = c.slice(x, axis, Dim::from(start), Dim::from(to), 1)?;
        } else {
            let low = (to - from) / 2;
            x = c.pad(x, axis, Dim::from(low), Dim::from(to - from - low), zero)?;
        }
    }
    one(x)
}
