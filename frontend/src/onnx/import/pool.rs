//! Pooling: windows are taken apart into strided slices, one per place in the window and axis.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, OVERFLOW};
use super::convolution;
use ssmc_ir::ops::{ArgMax, BinaryFn, ReduceFn, UnaryFn};
use ssmc_ir::{DType, Dim, DimFn};

/// The window along one axis.
#[derive(Clone, Debug)]
struct Window {
    axis: usize,
    /// Extent of the operand.
    extent: Dim,
    size: i64,
    stride: i64,
    dilation: i64,
    low: i64,
    high: i64,
    /// Number of windows.
    places: Dim,
}

/// The windows that a node states, one per spatial axis.
fn windows(c: &Ctx<'_, '_>) -> Result<Vec<Window>, Fault> {
    let x = c.input(0)?;
    let dims = c.dims(x);
    let n = dims.len().checked_sub(2).filter(|n| *n > 0).ok_or_else(|| c.expected(0, "at least 3 axes"))?;
    if !c.attrs.has("kernel_shape") {
        return Err(Fault::MissingAttribute { name: "kernel_shape" });
    }
    let sizes = convolution::sizes(c, "kernel_shape", n, 1, 1)?;
    let strides = convolution::sizes(c, "strides", n, 1, 1)?;
    let dilations = convolution::sizes(c, "dilations", n, 1, 1)?;
    let pads = convolution::sizes(c, "pads", 2 * n, 0, 0)?;
    let ceil = c.attrs.flag("ceil_mode", false)?;
    let mode = c.attrs.string_or("auto_pad", "NOTSET")?;
    let mut windows = Vec::new();
    for i in 0..n {
        let (size, stride, dilation) = (sizes[i] as i64, strides[i] as i64, dilations[i] as i64);
        let reach = (size - 1).checked_mul(dilation).ok_or(OVERFLOW)?;
        let extent = dims[i + 2].clone();
        let (low, high) = match mode {
            "" | "NOTSET" => (pads[i] as i64, pads[n + i] as i64),
            "VALID" => (0, 0),
            "SAME_UPPER" | "SAME_LOWER" => {
                let total = convolution::same(&extent, &Dim::from(size), strides[i], dilations[i])? as i64;
                let (small, large) = (total / 2, total - total / 2);
                if mode == "SAME_UPPER" { (small, large) } else { (large, small) }
            }
            other => {
                let expected = "NOTSET, VALID, SAME_UPPER or SAME_LOWER";
                return Err(c.attrs.wrong("auto_pad", expected, format!("{other:?}")));
            }
        };
        let room = c.dim_add(&extent, low + high - reach - 1)?;
        let f = if ceil { DimFn::CeilDiv } else { DimFn::FloorDiv };
        let steps = shape::apply(f, &room, &Dim::from(stride)).ok_or(OVERFLOW)?;
        let mut places = c.dim_add(&steps, 1)?;
        // The last window must begin inside the tensor or its low padding.
        if let (true, Some(count), Some(extent)) = (ceil, places.as_const(), extent.as_const())
            && (count - 1) * stride >= extent + low
        {
            places = Dim::from(count - 1);
        }
        shape::check_shape(std::slice::from_ref(&places))?;
        windows.push(Window { axis: i + 2, extent, size, stride, dilation, low, high, places });
    }
    Ok(windows)
}

impl Window {
    /// The operand with `fill` around it, as far as windows reach.
    fn padded(&self, c: &mut Ctx<'_, '_>, x: Val, fill: Val) -> Result<Val, Fault> {
        let last = shape::mul(&c.dim_add(&self.places, -1)?, &Dim::from(self.stride)).ok_or(OVERFLOW)?;
        let end = c.dim_add(&last, (self.size - 1) * self.dilation + 1 - self.low)?;
        let missing = shape::sub(&end, &self.extent).ok_or(OVERFLOW)?;
        let high = shape::apply(DimFn::Max, &missing, &Dim::from(0)).ok_or(OVERFLOW)?;
        c.pad(x, self.axis, Dim::from(self.low), high, fill)
    }

    /// Element `tap` of every window of a padded operand.
    fn taps(&self, c: &mut Ctx<'_, '_>, padded: Val, tap: i64) -> Result<Val, Fault> {
        let start = Dim::from(tap * self.dilation);
        c.slice(padded, self.axis, start, self.places.clone(), self.stride)
    }

    /// All windows combined.
    fn combine(&self, c: &mut Ctx<'_, '_>, x: Val, fill: Val, f: BinaryFn) -> Result<Val, Fault> {
        let padded = self.padded(c, x, fill)?;
        let mut acc = self.taps(c, padded, 0)?;
        for tap in 1..self.size {
            let next = self.taps(c, padded, tap)?;
            acc = c.binary(f, acc, next)?;
        }
        Ok(acc)
    }

    /// How many elements of each window count: those of the tensor, or those of the padded tensor.
    fn counts(&self, with_pads: bool) -> Result<Option<Vec<f64>>, Fault> {
        let never_outside = self.low == 0 && self.high == 0;
        let (Some(places), Some(extent)) = (self.places.as_const(), self.extent.as_const()) else {
            return if never_outside || with_pads {
                Ok(None)
            } else {
                Err(Fault::Unproven(format!("the extent {} of a padded pool is constant", self.extent)))
            };
        };
        let (from, to) = if with_pads { (-self.low, extent + self.high) } else { (0, extent) };
        let count = |place: i64| {
            let taps = (0..self.size).map(|tap| place * self.stride - self.low + tap * self.dilation);
            taps.filter(|at| (from..to).contains(at)).count() as f64
        };
        Ok(Some((0..places).map(count).collect()))
    }
}

/// The lowest number of a type.
fn lowest(c: &mut Ctx<'_, '_>, dtype: DType) -> Result<Val, Fault> {
    if dtype.is_float() {
        return c.scalar(dtype, f64::NEG_INFINITY);
    }
    let low = if dtype.is_signed_int() { i64::MIN >> (64 - dtype.bits()) } else { 0 };
    c.int_scalar(dtype, low)
}

/// `MaxPool`, with the places of the largest elements if they are asked for.
pub(crate) fn max_pool(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let column_major = c.attrs.flag("storage_order", false)?;
    let windows = windows(c)?;
    let x = c.input(0)?;
    let fill = lowest(c, c.dtype(x))?;
    let mut y = x;
    for window in &windows {
        y = window.combine(c, y, fill, BinaryFn::Max)?;
    }
    if c.n_outputs() < 2 {
        return one(y);
    }
    let places = places(c, x, fill, &windows, column_major)?;
    Ok(vec![y, places])
}

/// Indices, into the whole tensor flattened, of the largest elements of the windows.
fn places(
    c: &mut Ctx<'_, '_>,
    x: Val,
    fill: Val,
    windows: &[Window],
    column_major: bool,
) -> Result<Val, Fault> {
    let n_taps = windows.iter().try_fold(1i64, |n, w| n.checked_mul(w.size)).filter(|n| *n <= 4096);
    let n_taps = n_taps.ok_or(Fault::Limit { what: "elements of a window", limit: 4096 })?;
    let mut padded = x;
    for window in windows {
        padded = window.padded(c, padded, fill)?;
    }
    let mut parts = Vec::new();
    for flat in 0..n_taps {
        let (mut rest, mut part) = (flat, padded);
        for window in windows.iter().rev() {
            part = window.taps(c, part, rest % window.size)?;
            rest /= window.size;
        }
        let dims = [c.dims(part), vec![Dim::from(1)]].concat();
        parts.push(c.reshape(part, &dims)?);
    }
    let rank = c.rank(x);
    let stacked = c.concat(&parts, rank)?;
    let best = c.emit(ArgMax { axis: rank }, &[stacked])?;
    let dims = c.dims(x);
    // The position inside one plane, axis by axis.
    let mut position: Option<Val> = None;
    let mut inside = n_taps;
    for (i, window) in windows.iter().enumerate() {
        inside /= window.size;
        let tap = c.binary_scalar(BinaryFn::Div, best, inside as f64)?;
        let tap = c.binary_scalar(BinaryFn::Rem, tap, window.size as f64)?;
        let tap = c.binary_scalar(BinaryFn::Mul, tap, window.dilation as f64)?;
        let start = c.count(&window.places, DType::I64)?;
        let start = c.binary_scalar(BinaryFn::Mul, start, window.stride as f64)?;
        let start = c.binary_scalar(BinaryFn::Sub, start, window.low as f64)?;
        let start = c.along(start, window.axis, rank)?;
        let at = c.binary(BinaryFn::Add, tap, start)?;
        let others = if column_major { &dims[2..2 + i] } else { &dims[3 + i..] };
        let step = shape::product(others)?;
        let step = c.extent(&step, DType::I64)?;
        let scaled = c.binary(BinaryFn::Mul, at, step)?;
        position = Some(match position {
            Some(sum) => c.binary(BinaryFn::Add, sum, scaled)?,
            None => scaled,
        });
    }
    let position = position.ok_or_else(|| c.expected(0, "a spatial axis"))?;
    let plane = shape::product(&dims[2..])?;
    let (samples, channels) = (c.count(&dims[0], DType::I64)?, c.count(&dims[1], DType::I64)?);
    let (samples, channels) = (c.along(samples, 0, rank)?, c.along(channels, 1, rank)?);
    let n_channels = c.extent(&dims[1], DType::I64)?;
    let first = c.binary(BinaryFn::Mul, samples, n_channels)?;
    let first = c.binary(BinaryFn::Add, first, channels)?;
    let plane = c.extent(&plane, DType::I64)?;
    let first = c.binary(BinaryFn::Mul, first, plane)?;
    c.binary(BinaryFn::Add, position, first)
}

/// `AveragePool`.
pub(crate) fn average_pool(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let with_pads = c.attrs.flag("count_include_pad", false)?;
    let windows = windows(c)?;
    let x = c.input(0)?;
    let dtype = c.dtype(x);
    let fill = c.scalar(dtype, 0.0)?;
    let mut y = x;
    for window in &windows {
        y = window.combine(c, y, fill, BinaryFn::Add)?;
    }
    let rank = c.rank(x);
    for window in &windows {
        match window.counts(with_pads)? {
            Some(counts) if counts.iter().any(|n| *n != window.size as f64) => {
                let counts = c.floats(dtype, &[counts.len()], &counts)?;
                let counts = c.along(counts, window.axis, rank)?;
                y = c.binary(BinaryFn::Div, y, counts)?;
            }
            _ => y = c.binary_scalar(BinaryFn::Div, y, window.size as f64)?,
        }
    }
    one(y)
}

/// `LpPool`: (sum of |x|^p)^(1/p).
pub(crate) fn lp_pool(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let p = c.attrs.int_or("p", 2)? as f64;
    let windows = windows(c)?;
    let x = c.input(0)?;
    let fill = c.scalar(c.dtype(x), 0.0)?;
    let mut y = power(c, x, p)?;
    for window in &windows {
        y = window.combine(c, y, fill, BinaryFn::Add)?;
    }
    one(root(c, y, p)?)
}

/// |x|^p.
fn power(c: &mut Ctx<'_, '_>, x: Val, p: f64) -> Result<Val, Fault> {
    let size = c.unary(UnaryFn::Abs, x)?;
    if p == 1.0 {
        return Ok(size);
    }
    if p == 2.0 {
        return c.binary(BinaryFn::Mul, size, size);
    }
    c.binary_scalar(BinaryFn::Pow, size, p)
}

fn root(c: &mut Ctx<'_, '_>, x: Val, p: f64) -> Result<Val, Fault> {
    if p == 1.0 {
        return Ok(x);
    }
    if p == 2.0 {
        return c.unary(UnaryFn::Sqrt, x);
    }
    c.binary_scalar(BinaryFn::Pow, x, 1.0 / p)
}

fn spatial(c: &Ctx<'_, '_>) -> Result<(Val, Vec<usize>), Fault> {
    let x = c.input(0)?;
    if c.rank(x) < 2 {
        return Err(c.expected(0, "at least 2 axes"));
    }
    Ok((x, (2..c.rank(x)).collect()))
}

/// `GlobalMaxPool` and `GlobalAveragePool`.
pub(crate) fn global(c: &mut Ctx<'_, '_>, f: ReduceFn) -> Imported<Vec<Val>> {
    let (x, axes) = spatial(c)?;
    one(c.reduce(f, x, &axes, true)?)
}

/// `GlobalLpPool`.
pub(crate) fn global_lp(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, axes) = spatial(c)?;
    let p = c.attrs.int_or("p", 2)? as f64;
    let powers = power(c, x, p)?;
    let sum = c.reduce(ReduceFn::Sum, powers, &axes, true)?;
    one(root(c, sum, p)?)
}

/// `LpNormalization`: x divided by its norm along an axis; 0 where that is 0.
pub(crate) fn lp_normalization(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let axis = c.axis(-1, c.rank(x))?;
    let p = c.attrs.int_or("p", 2)?;
    if !(1..=2).contains(&p) {
        return Err(c.attrs.wrong("p", "1 or 2", p).into());
    }
    let powers = power(c, x, p as f64)?;
    let sum = c.reduce(ReduceFn::Sum, powers, &[axis], true)?;
    let norm = root(c, sum, p as f64)?;
    let is_zero = c.compare_scalar(ssmc_ir::ops::Cmp::Eq, norm, 0.0)?;
    let ones = c.splat(1.0, norm)?;
    let norm = c.select(is_zero, ones, norm)?;
    one(c.binary(BinaryFn::Div, x, norm)?)
}
