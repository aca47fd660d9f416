//! `DFT` and `STFT`; the transforms and complex products of `com.microsoft`.
//!
//! ONNX stores complex numbers along a last axis of extent 2; in the graph they are two tensors. The parts are joined
//! and taken apart again where operators that know nothing of this lie between, and meet when the graph is simplified.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use ssmc_ir::ops::{BinaryFn, Concat, Dft, Gather, UnaryFn};
use ssmc_ir::{DType, Dim, DimFn};

/// `DFT`, with the axis as attribute before version 20 and as input from there on. The inverse of a onesided spectrum is
/// a real signal.
pub(crate) fn dft(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut x = c.input(0)?;
    let rank = c.rank(x);
    let inverse = c.attrs.flag("inverse", false)?;
    let onesided = c.attrs.flag("onesided", false)?;
    let axis = if c.version < 20 {
        c.axis(1, rank)?
    } else {
        match c.opt(2) {
            Some(_) => shape::axis(c.int_input(2, "the axis")?, rank)?,
            None => shape::axis(-2, rank)?,
        }
    };
    let parts = c.dims(x).last().and_then(Dim::as_const);
    let (Some(n_parts @ (1 | 2)), true) = (parts, axis + 1 < rank) else {
        let expected = format!("real or complex elements along an axis behind axis {axis}");
        return Err(Fault::Input { idx: 0, expected, found: c.ty(x).to_string() }.into());
    };
    if !c.dtype(x).is_float() {
        let found = c.ty(x).to_string();
        return Err(Fault::Input { idx: 0, expected: "floating-point elements".into(), found }.into());
    }
    let extent = c.ty(x).shape[axis].clone();
    let length = match c.opt(1) {
        Some(v) => match c.known(v).filter(|k| k.dtype != DType::Bool).map(|k| k.elems.clone()).as_deref() {
            Some([length]) => length.clone(),
            Some(_) => {
                let found = c.ty(v).to_string();
                return Err(Fault::Input { idx: 1, expected: "one number".into(), found }.into());
            }
            None => return Err(Fault::NotKnown { idx: 1, what: "the length" }.into()),
        },
        None if inverse && onesided => (extent - 1i64) * Dim::from(2),
        None => extent,
    };
    shape::check_shape(std::slice::from_ref(&length))?;
    if n_parts == 2 && onesided && !inverse {
        // The spectrum is that of the real part.
        x = c.slice(x, rank - 1, 0.into(), 1.into(), 1)?;
    }
    one(transform(c, x, Dft { axis, inverse, length, onesided })?)
}

/// One part of complex elements along the last axis.
fn part(c: &mut Ctx<'_, '_>, x: Val, i: i64) -> Result<Val, Fault> {
    let (dims, last) = (c.dims(x), c.rank(x) - 1);
    let part = c.slice(x, last, i.into(), 1.into(), 1)?;
    c.reshape(part, &dims[..last])
}

/// The transform of real or complex elements along the last axis; complex ones unless it is a onesided inverse.
fn transform(c: &mut Ctx<'_, '_>, x: Val, op: Dft) -> Result<Val, Fault> {
    let last = c.rank(x) - 1;
    let is_real = op.inverse && op.onesided;
    let re = part(c, x, 0)?;
    let im = if c.ty(x).shape[last].is(2) { Some(part(c, x, 1)?) } else { None };
    let results = c.emit_all(op, &[Some(re), im], Vec::new())?;
    let mut dims = c.dims(results[0]);
    dims.push(1.into());
    let re = c.reshape(results[0], &dims)?;
    if is_real {
        return Ok(re);
    }
    let im = c.reshape(results[1], &dims)?;
    c.emit(Concat { axis: last }, &[re, im])
}

/// `STFT`: the transforms of frames that lie a step apart, each weighted by a window.
pub(crate) fn stft(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let onesided = c.attrs.flag("onesided", true)?;
    let dims = c.dims(x);
    let parts = dims.last().and_then(Dim::as_const);
    let (3, Some(n_parts @ (1 | 2)), true) = (dims.len(), parts, c.dtype(x).is_float()) else {
        return Err(c.expected(0, "a batch of signals of real or complex floats").into());
    };
    let step = c.int_input(1, "the step from frame to frame")?;
    let window = c.opt(2);
    let length = match (c.opt(3), window) {
        (Some(_), _) => Dim::from(c.int_input(3, "the length of frames")?),
        (None, Some(window)) if c.rank(window) == 1 => c.dims(window)[0].clone(),
        (None, _) => dims[1].clone(),
    };
    if step < 1 || length.as_const().is_some_and(|n| n < 1) {
        return Err(c.expected(1, "a positive step and length").into());
    }
    let room = shape::sub(&dims[1], &length).ok_or(shape::OVERFLOW)?;
    if !shape::is_non_negative(&room) {
        return Err(Fault::Unproven(format!("a frame of {length} fits into a signal of {}", dims[1])).into());
    }
    let n_frames = shape::apply(DimFn::FloorDiv, &room, &Dim::from(step))
        .and_then(|n| shape::add(&n, &Dim::from(1)))
        .ok_or(shape::OVERFLOW)?;
    // [frames, length]: where each element of each frame comes from.
    let first = c.count(&n_frames, DType::I64)?;
    let first = c.binary_scalar(BinaryFn::Mul, first, step as f64)?;
    let first = c.along(first, 0, 2)?;
    let within = c.count(&length, DType::I64)?;
    let within = c.along(within, 1, 2)?;
    let places = c.binary(BinaryFn::Add, first, within)?;
    let mut frames = c.emit(Gather { axis: 1 }, &[x, places])?;
    if let Some(window) = window {
        if c.rank(window) != 1 || c.dims(window)[0] != length {
            return Err(c.expected(2, format!("a window of {length}")).into());
        }
        let window = c.along(window, 2, 4)?;
        frames = c.binary(BinaryFn::Mul, frames, window)?;
    }
    if n_parts == 2 && onesided {
        // The spectrum is that of the real part.
        frames = c.slice(frames, 3, 0.into(), 1.into(), 1)?;
    }
    one(transform(c, frames, Dft { axis: 2, inverse: false, length, onesided })?)
}

/// The number of axes of the signal of `Rfft` and `Irfft`, which are the last ones of `rank` axes.
fn signal_axes(c: &Ctx<'_, '_>, default: Option<i64>, rank: usize) -> Result<usize, Fault> {
    for (name, only) in [("onesided", 1), ("normalized", 0)] {
        let found = c.attrs.int_or(name, only)?;
        if found != only {
            return Err(c.attrs.wrong(name, only, found));
        }
    }
    let name = "signal_ndim";
    let n = c.attrs.int(name)?.or(default).ok_or(Fault::MissingAttribute { name })?;
    usize::try_from(n)
        .ok()
        .filter(|n| (1..=rank).contains(n))
        .ok_or_else(|| c.attrs.wrong(name, format!("1 to {rank} axes"), n))
}

/// `Rfft`: the onesided spectrum of real numbers over the last axes.
pub(crate) fn rfft(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(1)?;
    let x = c.input(0)?;
    let rank = c.rank(x);
    let n = signal_axes(c, Some(1), rank)?;
    let mut dims = c.dims(x);
    let length = dims[rank - 1].clone();
    dims.push(1.into());
    let x = c.reshape(x, &dims)?;
    let mut y = transform(c, x, Dft { axis: rank - 1, inverse: false, length, onesided: true })?;
    for axis in (rank - n..rank - 1).rev() {
        let length = dims[axis].clone();
        y = transform(c, y, Dft { axis, inverse: false, length, onesided: false })?;
    }
    one(y)
}

/// `Irfft`: the real numbers, an even number of them, that `Rfft` makes this spectrum of.
pub(crate) fn irfft(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(1)?;
    let mut x = c.input(0)?;
    let rank = pairs(c, 0)? - 1;
    let n = signal_axes(c, None, rank)?;
    let mut dims = c.dims(x);
    for (axis, length) in dims.iter().enumerate().take(rank - 1).skip(rank - n) {
        x = transform(c, x, Dft { axis, inverse: true, length: length.clone(), onesided: false })?;
    }
    let length = (dims[rank - 1].clone() - 1i64) * Dim::from(2);
    if length.as_const().is_some_and(|n| n < 2) {
        return Err(c.expected(0, "at least 2 frequencies").into());
    }
    shape::check_shape(std::slice::from_ref(&length))?;
    let y = transform(c, x, Dft { axis: rank - 1, inverse: true, length: length.clone(), onesided: true })?;
    dims.truncate(rank - 1);
    dims.push(length);
    one(c.reshape(y, &dims)?)
}

/// The rank of an input of complex numbers.
fn pairs(c: &Ctx<'_, '_>, idx: usize) -> Result<usize, Fault> {
    let v = c.input(idx)?;
    let is_complex = c.dtype(v).is_float() && c.rank(v) > 1 && c.dims(v).last().is_some_and(|d| d.is(2));
    if is_complex {
        Ok(c.rank(v))
    } else {
        Err(c.expected(idx, "complex floats along the last of several axes"))
    }
}

/// `ComplexMul` and, with the conjugate of the second factor, `ComplexMulConj`.
pub(crate) fn complex_mul(c: &mut Ctx<'_, '_>, conjugate: bool) -> Imported<Vec<Val>> {
    c.at_most_inputs(2)?;
    let (a, b) = (c.input(0)?, c.input(1)?);
    pairs(c, 0)?;
    pairs(c, 1)?;
    let (p, q) = (part(c, a, 0)?, part(c, a, 1)?);
    let (r, s) = (part(c, b, 0)?, part(c, b, 1)?);
    let s = if conjugate { c.unary(UnaryFn::Neg, s)? } else { s };
    let (pr, qs) = (c.binary(BinaryFn::Mul, p, r)?, c.binary(BinaryFn::Mul, q, s)?);
    let (ps, qr) = (c.binary(BinaryFn::Mul, p, s)?, c.binary(BinaryFn::Mul, q, r)?);
    let (re, im) = (c.binary(BinaryFn::Sub, pr, qs)?, c.binary(BinaryFn::Add, ps, qr)?);
    let mut dims = c.dims(re);
    let axis = dims.len();
    dims.push(1.into());
    let (re, im) = (c.reshape(re, &dims)?, c.reshape(im, &dims)?);
    one(c.emit(Concat { axis }, &[re, im])?)
}
