//! `DFT`.
//!
//! ONNX stores complex numbers along a last axis of extent 2; in the graph they are two tensors. The parts are joined
//! and taken apart again where operators that know nothing of this lie between, and meet when the graph is simplified.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use ssmc_ir::ops::{Concat, Dft};
use ssmc_ir::{DType, Dim};

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
    let part = |c: &mut Ctx<'_, '_>, x: Val, i: i64| -> Result<Val, Fault> {
        let dims = c.dims(x);
        let part = c.slice(x, rank - 1, i.into(), 1.into(), 1)?;
        c.reshape(part, &dims[..rank - 1])
    };
    if n_parts == 2 && onesided && !inverse {
        // The spectrum is that of the real part.
        x = c.slice(x, rank - 1, 0.into(), 1.into(), 1)?;
    }
    let re = part(c, x, 0)?;
    let im = if c.ty(x).shape[rank - 1].is(2) { Some(part(c, x, 1)?) } else { None };
    let results = c.emit_all(Dft { axis, inverse, length, onesided }, &[Some(re), im], Vec::new())?;
    let mut dims = c.dims(results[0]);
    dims.push(1.into());
    let re = c.reshape(results[0], &dims)?;
    if inverse && onesided {
        return one(re);
    }
    let im = c.reshape(results[1], &dims)?;
    one(c.emit(Concat { axis: rank - 1 }, &[re, im])?)
}
