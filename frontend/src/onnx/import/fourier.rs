//! `DFT` and `STFT`.
//!
//! ONNX stores complex numbers along a last axis of extent 2; in the graph they are two tensors. The parts are joined
//! and taken apart again where operators that know nothing of this lie between, and meet when the graph is simplified.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use ssmc_ir::ops::{BinaryFn, Concat, Dft, Gather};
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
