//! `RoiAlign` and `DeformConv`: elements between those of a picture.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use super::convolution::sizes;
use super::sample::{Axis, Padding, combine};
use ssmc_ir::ops::{BinaryFn, Cmp, Gather, ReduceFn, UnaryFn};
use ssmc_ir::{DType, Dim};

/// The largest number of bins, or of samples in one.
const MAX_BINS: i64 = 1 << 16;

/// Where the samples of all regions lie along one axis: `[regions, bins * samples]`.
struct Samples {
    /// The element before and that behind.
    places: [Val; 2],
    /// Their weights, 0 for a sample outside.
    weights: [Val; 2],
}

/// A number of an attribute from 0 on.
fn bins(c: &Ctx<'_, '_>, name: &'static str, default: i64) -> Result<i64, Fault> {
    let n = c.attrs.int_or(name, default)?;
    if (0..=MAX_BINS).contains(&n) { Ok(n) } else { Err(c.attrs.wrong(name, "a number from 0", n)) }
}

/// `RoiAlign` with a fixed number of samples in each bin.
pub(crate) fn roi_align(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, rois, batch) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (dims, roi_dims) = (c.dims(x), c.dims(rois));
    if dims.len() != 4 {
        return Err(c.expected(0, "4 axes").into());
    }
    if roi_dims.len() != 2 || !roi_dims[1].is(4) || c.dims(batch) != roi_dims[..1] {
        return Err(c.expected(1, "4 numbers for each region").into());
    }
    let mode = c.attrs.string_or("mode", "avg")?;
    if !matches!(mode, "avg" | "max") {
        return Err(c.attrs.wrong("mode", "avg or max", format!("{mode:?}")).into());
    }
    let default = if c.version < 16 { "output_half_pixel" } else { "half_pixel" };
    let half = match c.attrs.string_or("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => {
            let (name, expected) = ("coordinate_transformation_mode", "half_pixel or output_half_pixel");
            return Err(c.attrs.wrong(name, expected, format!("{other:?}")).into());
        }
    };
    let scale = f64::from(c.attrs.float_or("spatial_scale", 1.0)?);
    let n_bins = [bins(c, "output_height", 1)?, bins(c, "output_width", 1)?];
    let n_samples = bins(c, "sampling_ratio", 0)?;
    if n_samples == 0 {
        let what = "a number of samples that depends on the size of a region (sampling_ratio 0)";
        return Err(Fault::Unsupported(what.into()).into());
    }
    let dtype = c.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let rois = c.cast(rois, wide)?;
    let mut axes = Vec::new();
    for i in 0..2 {
        let extent = dims[i + 2].as_const().filter(|n| *n > 0);
        let extent = extent.ok_or(Fault::NotKnown { idx: 0, what: "the extents of the picture" })?;
        let corner = |c: &mut Ctx<'_, '_>, column: usize| -> Result<Val, Fault> {
            let v = c.slice(rois, 1, Dim::from(column), Dim::from(1), 1)?;
            let v = c.binary_scalar(BinaryFn::Mul, v, scale)?;
            if half { c.binary_scalar(BinaryFn::Sub, v, 0.5) } else { Ok(v) }
        };
        let (start, end) = (corner(c, 1 - i)?, corner(c, 3 - i)?);
        let mut size = c.binary(BinaryFn::Sub, end, start)?;
        if !half {
            size = c.binary_scalar(BinaryFn::Max, size, 1.0)?;
        }
        axes.push(samples(c, (start, size), extent, (n_bins[i], n_samples))?);
    }
    let [rows, columns] = <[Samples; 2]>::try_from(axes).map_err(|_| Fault::Ir("two axes".into()))?;
    let channels = dims[1].clone();
    let picture = c.transpose(x, &[0, 2, 3, 1])?;
    let n_pixels = shape::product(dims[..1].iter().chain(&dims[2..]))?;
    let picture = c.reshape(picture, &[n_pixels, channels.clone()])?;
    let picture = c.cast(picture, wide)?;
    let batch = c.cast(batch, DType::I64)?;
    let batch = c.reshape(batch, &[roi_dims[0].clone(), Dim::from(1)])?;
    let mut corners = Vec::new();
    for i in 0..2 {
        for j in 0..2 {
            let at = scaled_sum(c, batch, &dims[2], rows.places[i])?;
            let at = column(c, at)?;
            let beside = row(c, columns.places[j])?;
            let at = scaled_sum(c, at, &dims[3], beside)?;
            let pixels = c.emit(Gather { axis: 0 }, &[picture, at])?;
            let (a, b) = (column(c, rows.weights[i])?, row(c, columns.weights[j])?);
            let weight = c.binary(BinaryFn::Mul, a, b)?;
            let spread = [c.dims(weight), vec![Dim::from(1)]].concat();
            let weight = c.reshape(weight, &spread)?;
            corners.push(c.binary(BinaryFn::Mul, pixels, weight)?);
        }
    }
    // The largest of all weighted elements, as the operator is defined, not of the interpolated ones.
    let f = if mode == "avg" { BinaryFn::Add } else { BinaryFn::Max };
    let mut value = corners[0];
    for corner in &corners[1..] {
        value = c.binary(f, value, *corner)?;
    }
    let (h, w, s) = (Dim::from(n_bins[0]), Dim::from(n_bins[1]), Dim::from(n_samples));
    let value = c.reshape(value, &[roi_dims[0].clone(), h, s.clone(), w, s, channels])?;
    let f = if mode == "avg" { ReduceFn::Mean } else { ReduceFn::Max };
    let y = c.reduce(f, value, &[2, 4], false)?;
    let y = c.transpose(y, &[0, 3, 1, 2])?;
    one(c.cast(y, dtype)?)
}

/// a * n + b
fn scaled_sum(c: &mut Ctx<'_, '_>, a: Val, n: &Dim, b: Val) -> Result<Val, Fault> {
    let n = c.extent(n, DType::I64)?;
    let a = c.binary(BinaryFn::Mul, a, n)?;
    c.binary(BinaryFn::Add, a, b)
}

/// `[regions, n]` as `[regions, n, 1]`.
fn column(c: &mut Ctx<'_, '_>, v: Val) -> Result<Val, Fault> {
    let dims = c.dims(v);
    c.reshape(v, &[dims[0].clone(), dims[1].clone(), Dim::from(1)])
}

/// `[regions, n]` as `[regions, 1, n]`.
fn row(c: &mut Ctx<'_, '_>, v: Val) -> Result<Val, Fault> {
    let dims = c.dims(v);
    c.reshape(v, &[dims[0].clone(), Dim::from(1), dims[1].clone()])
}

/// The samples of all bins along one axis, whose regions have these starts and sizes.
fn samples(
    c: &mut Ctx<'_, '_>,
    (start, size): (Val, Val),
    extent: i64,
    (n_bins, n_samples): (i64, i64),
) -> Result<Samples, Fault> {
    let dtype = c.dtype(start);
    // Sample s of bin b lies at b + (s + 1/2) / samples bins from the start.
    let offsets: Vec<f64> = (0..n_bins * n_samples)
        .map(|i| ((i / n_samples) as f64 + ((i % n_samples) as f64 + 0.5) / n_samples as f64) / n_bins as f64)
        .collect();
    let offsets = c.floats(dtype, &[1, offsets.len()], &offsets)?;
    let at = c.binary(BinaryFn::Mul, size, offsets)?;
    let at = c.binary(BinaryFn::Add, at, start)?;
    let last = (extent - 1) as f64;
    let (from, to) = (c.compare_scalar(Cmp::Ge, at, -1.0)?, c.compare_scalar(Cmp::Le, at, extent as f64)?);
    let inside = c.binary(BinaryFn::And, from, to)?;
    let inside = c.cast(inside, dtype)?;
    let at = c.clamp(at, 0.0, last)?;
    let below = c.unary(UnaryFn::Floor, at)?;
    let above = c.binary_scalar(BinaryFn::Add, below, 1.0)?;
    let above = c.binary_scalar(BinaryFn::Min, above, last)?;
    let high = c.binary(BinaryFn::Sub, at, below)?;
    let low = c.unary(UnaryFn::Neg, high)?;
    let low = c.binary_scalar(BinaryFn::Add, low, 1.0)?;
    let weights = [c.binary(BinaryFn::Mul, low, inside)?, c.binary(BinaryFn::Mul, high, inside)?];
    Ok(Samples { places: [c.cast(below, DType::I64)?, c.cast(above, DType::I64)?], weights })
}

/// `DeformConv` over two spatial axes: each tap of the kernel reads at an offset of its own.
pub(crate) fn deform_conv(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, w, offset) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (dims, w_dims, offset_dims) = (c.dims(x), c.dims(w), c.dims(offset));
    if dims.len() != 4 || w_dims.len() != 4 || offset_dims.len() != 4 {
        return Err(Fault::Unsupported("a deformed convolution over other than two axes".into()).into());
    }
    if let Some(kernel) = c.attrs.ints("kernel_shape")?
        && (kernel.len() != 2 || kernel.iter().zip(&w_dims[2..]).any(|(k, d)| !d.is(*k)))
    {
        return Err(c.attrs.wrong("kernel_shape", c.ty(w), format!("{kernel:?}")).into());
    }
    let (strides, dilations) = (sizes(c, "strides", 2, 1, 1)?, sizes(c, "dilations", 2, 1, 1)?);
    let pads = sizes(c, "pads", 4, 0, 0)?;
    let (groups, offset_groups) = (c.attrs.int_or("group", 1)?, c.attrs.int_or("offset_group", 1)?);
    let constant = |d: &Dim, what| d.as_const().filter(|n| *n > 0).ok_or(Fault::NotKnown { idx: 1, what });
    let kernel = [constant(&w_dims[2], "the kernel")?, constant(&w_dims[3], "the kernel")?];
    let extents = [constant(&dims[2], "the picture")?, constant(&dims[3], "the picture")?];
    let (n_channels, n_out) = (constant(&dims[1], "the channels")?, constant(&w_dims[0], "the channels")?);
    let taps = kernel[0].checked_mul(kernel[1]).filter(|n| *n <= MAX_BINS);
    let taps = taps.ok_or(Fault::Limit { what: "taps of a kernel", limit: MAX_BINS as u64 })?;
    let divides = |n: i64, of: i64| (1..=of).contains(&n) && of % n == 0;
    if !divides(groups, n_channels) || !divides(groups, n_out) || !w_dims[1].is(n_channels / groups) {
        return Err(c.attrs.wrong("group", format!("a divisor of {n_channels} and {n_out}"), groups).into());
    }
    if !divides(offset_groups, n_channels) || !offset_dims[1].is(2 * taps * offset_groups) {
        let expected = format!("offsets of {taps} taps for a divisor of {n_channels}");
        return Err(c.attrs.wrong("offset_group", expected, offset_groups).into());
    }
    let (n, og, out) = (dims[0].clone(), Dim::from(offset_groups), [&offset_dims[2], &offset_dims[3]]);
    let dtype = c.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let offset = c.cast(offset, wide)?;
    let places = [n.clone(), og.clone(), Dim::from(taps), out[0].clone(), out[1].clone()];
    let both = [&places[..3], &[Dim::from(2)], &places[3..]].concat();
    let offset = c.reshape(offset, &both)?;
    let mut axes = Vec::new();
    for i in 0..2 {
        let shift = c.slice(offset, 3, Dim::from(i), Dim::from(1), 1)?;
        let shift = c.reshape(shift, &places)?;
        let first = c.count(out[i], wide)?;
        let first = c.binary_scalar(BinaryFn::Mul, first, strides[i] as f64)?;
        let first = c.binary_scalar(BinaryFn::Sub, first, pads[i] as f64)?;
        let first = c.along(first, 3 + i, 5)?;
        let tap = |t: i64| if i == 0 { t / kernel[1] } else { t % kernel[1] };
        let reach: Vec<f64> = (0..taps).map(|t| (tap(t) * dilations[i] as i64) as f64).collect();
        let reach = c.floats(wide, &[reach.len()], &reach)?;
        let reach = c.along(reach, 2, 5)?;
        let at = c.binary(BinaryFn::Add, shift, first)?;
        let at = c.binary(BinaryFn::Add, at, reach)?;
        axes.push(Axis { at, extent: extents[i] as f64, low: 0.0, high: (extents[i] - 1) as f64 });
    }
    // A row for each pixel of each group of channels that move together.
    let of_group = Dim::from(n_channels / offset_groups);
    let grouped = [n.clone(), og.clone(), of_group.clone(), dims[2].clone(), dims[3].clone()];
    let picture = c.reshape(x, &grouped)?;
    let picture = c.transpose(picture, &[0, 1, 3, 4, 2])?;
    let n_rows = shape::product([&n, &og, &dims[2], &dims[3]])?;
    let picture = c.reshape(picture, &[n_rows, of_group])?;
    let picture = c.cast(picture, wide)?;
    let n_pictures = shape::product([&n, &og])?;
    let which = c.count(&n_pictures, DType::I64)?;
    let which = c.reshape(which, &[n.clone(), og, Dim::from(1), Dim::from(1), Dim::from(1)])?;
    let mut read = combine(c, ("linear", Padding::Zeros), &axes, picture, (which, None))?;
    if let Some(mask) = c.opt(4) {
        let mask = c.cast(mask, wide)?;
        let mask = c.reshape(mask, &[&places[..], &[Dim::from(1)]].concat())?;
        read = c.binary(BinaryFn::Mul, read, mask)?;
    }
    let read = c.transpose(read, &[0, 1, 5, 2, 3, 4])?;
    let (g, per_group) = (Dim::from(groups), Dim::from(n_channels / groups));
    let tail = [Dim::from(taps), out[0].clone(), out[1].clone()];
    let read = c.reshape(read, &[&[n.clone(), g.clone(), per_group.clone()], &tail[..]].concat())?;
    let w = c.cast(w, wide)?;
    let w = c.reshape(w, &[g, Dim::from(n_out / groups), per_group, Dim::from(taps)])?;
    let y = c.product("ngckhw,gock->ngohw", &[read, w])?;
    let mut y = c.reshape(y, &[n, Dim::from(n_out), out[0].clone(), out[1].clone()])?;
    if let Some(bias) = c.opt(3) {
        let bias = c.cast(bias, wide)?;
        let bias = c.along(bias, 1, 4)?;
        y = c.binary(BinaryFn::Add, y, bias)?;
    }
    one(c.cast(y, dtype)?)
}
