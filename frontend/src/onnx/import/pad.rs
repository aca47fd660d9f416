//! `Pad`.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, OVERFLOW};
use ssmc_ir::Dim;
use ssmc_ir::ops::{self, Concat, Reverse};

/// What stands in the padding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

/// `Pad`, with pads as attribute before version 11 and as input from there on. Negative pads crop.
pub(crate) fn pad(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut x = c.input(0)?;
    let rank = c.rank(x);
    let mode = match c.attrs.string_or("mode", "constant")? {
        "constant" => Mode::Constant,
        "reflect" => Mode::Reflect,
        "edge" => Mode::Edge,
        "wrap" => Mode::Wrap,
        other => {
            return Err(c
                .attrs
                .wrong("mode", "constant, reflect, edge or wrap", format!("{other:?}"))
                .into());
        }
    };
    let (pads, value) = if c.version < 11 {
        let pads = c.attrs.ints("pads")?.ok_or(Fault::MissingAttribute { name: "pads" })?;
        let value = c.attrs.float_or("value", 0.0)?;
        (pads.iter().map(|p| Dim::from(*p)).collect(), c.scalar(c.dtype(x), value.into())?)
    } else {
        let value = match c.opt(2) {
            Some(v) => c.reshape(v, &[])?,
            None => c.scalar(c.dtype(x), 0.0)?,
        };
        (c.dims_input(1, "pads")?, value)
    };
    let axes: Vec<usize> = match c.opt(3) {
        Some(_) => {
            let axes = c.ints_input(3, "axes")?;
            axes.iter().map(|a| shape::axis(*a, rank)).collect::<Result<_, _>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        let (expected, found) = (format!("{} pads", 2 * axes.len()), pads.len().to_string());
        return Err(Fault::Input { idx: 1, expected, found }.into());
    }
    for (i, axis) in axes.iter().enumerate() {
        let (low, high) = (&pads[i], &pads[axes.len() + i]);
        let mut sides = [Dim::from(0), Dim::from(0)];
        for (side, amount) in [low, high].into_iter().enumerate() {
            if shape::is_non_negative(amount) {
                sides[side] = amount.clone();
            } else if shape::is_at_most(amount, &Dim::from(0)) {
                x = crop(c, x, *axis, amount, side == 0)?;
            } else {
                return Err(Fault::Unproven(format!("the pad {amount} has one sign")).into());
            }
        }
        shape::check_shape(&sides)?;
        let [low, high] = sides;
        x = match mode {
            _ if low.is(0) && high.is(0) => x,
            Mode::Constant => c.emit(ops::Pad { axis: *axis, low, high }, &[x, value])?,
            Mode::Reflect | Mode::Edge | Mode::Wrap => extend(c, x, *axis, &low, &high, mode)?,
        };
    }
    one(x)
}

/// Drops `-amount` elements at one side of an axis.
fn crop(c: &mut Ctx<'_, '_>, x: Val, axis: usize, amount: &Dim, at_start: bool) -> Result<Val, Fault> {
    let len = shape::add(&c.ty(x).shape[axis].clone(), amount).ok_or(OVERFLOW)?;
    let start = if at_start { shape::sub(&Dim::from(0), amount).ok_or(OVERFLOW)? } else { Dim::from(0) };
    shape::check_shape(std::slice::from_ref(&len))?;
    c.slice(x, axis, start, len, 1)
}

/// Pads with elements of the tensor itself.
fn extend(c: &mut Ctx<'_, '_>, x: Val, axis: usize, low: &Dim, high: &Dim, mode: Mode) -> Result<Val, Fault> {
    let n = c.ty(x).shape[axis].clone();
    // The most elements that one side can take from the tensor.
    let available = match mode {
        Mode::Reflect => shape::sub(&n, &Dim::from(1)).ok_or(OVERFLOW)?,
        Mode::Wrap => n.clone(),
        Mode::Edge | Mode::Constant => Dim::from(shape::MAX_DIM),
    };
    let mut parts = Vec::new();
    for (amount, at_start) in [(low, true), (high, false)] {
        if !at_start {
            parts.push(x);
        }
        if amount.is(0) {
            continue;
        }
        if !shape::is_at_most(amount, &available) {
            return Err(Fault::Unproven(format!("the pad {amount} is at most {available}")));
        }
        let from_end = |back: i64| shape::sub(&n, &Dim::from(back)).ok_or(OVERFLOW);
        parts.push(match mode {
            Mode::Edge | Mode::Constant => {
                let start = if at_start { Dim::from(0) } else { from_end(1)? };
                let edge = c.slice(x, axis, start, Dim::from(1), 1)?;
                let mut dims = c.dims(x);
                dims[axis] = amount.clone();
                c.broadcast_to(edge, &dims)?
            }
            Mode::Wrap => {
                let start = if at_start { shape::sub(&n, amount).ok_or(OVERFLOW)? } else { Dim::from(0) };
                c.slice(x, axis, start, amount.clone(), 1)?
            }
            Mode::Reflect => {
                let back = shape::sub(&from_end(1)?, amount).ok_or(OVERFLOW)?;
                let start = if at_start { Dim::from(1) } else { back };
                let mirror = c.slice(x, axis, start, amount.clone(), 1)?;
                c.emit(Reverse { axis }, &[mirror])?
            }
        });
    }
    c.emit(Concat { axis }, &parts)
}
