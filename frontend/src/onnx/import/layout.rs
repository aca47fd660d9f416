//! Operators that move elements.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Special, Val};
use super::super::shape::{self, Known, OVERFLOW};
use ssmc_ir::ops::{self, BinaryFn, Cmp, Compare, Iota, Reverse, Select};
use ssmc_ir::{DType, Dim, DimFn, Shape};
use std::collections::BTreeSet;

/// `Transpose`.
pub(crate) fn transpose(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let perm: Vec<usize> = match c.attrs.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) => {
            let axes: Vec<usize> = perm.iter().filter_map(|p| usize::try_from(*p).ok()).collect();
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            if axes.len() != perm.len() || !sorted.into_iter().eq(0..rank) {
                let expected = format!("a permutation of 0..{rank}");
                return Err(c.attrs.wrong("perm", expected, format!("{perm:?}")).into());
            }
            axes
        }
    };
    one(c.transpose(x, &perm)?)
}

/// `Reshape`: 0 copies an extent, -1 takes what is left.
pub(crate) fn reshape(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let allow_zero = c.attrs.flag("allowzero", false)?;
    let from = c.dims(x);
    let mut to = c.dims_input(1, "shape")?;
    let mut open = None;
    for (i, d) in to.iter_mut().enumerate() {
        if d.is(0) && !allow_zero {
            *d = from.get(i).cloned().ok_or_else(|| Fault::Input {
                idx: 1,
                expected: format!("0 only below rank {}", from.len()),
                found: format!("0 at {i}"),
            })?;
        } else if d.is(-1) && open.replace(i).is_some() {
            return Err(
                Fault::Input { idx: 1, expected: "at most one -1".into(), found: "two".into() }.into()
            );
        }
    }
    if let Some(open) = open {
        to[open] = what_is_left(&from, &to, open)?;
    }
    one(c.reshape(x, &to)?)
}

/// The extent at `open` that makes `to` hold as many elements as `from`.
fn what_is_left(from: &[Dim], to: &[Dim], open: usize) -> Result<Dim, Fault> {
    let mut over = from.to_vec();
    let mut under = Vec::new();
    for (i, d) in to.iter().enumerate().filter(|(i, _)| *i != open) {
        match over.iter().position(|o| o == d && !d.is(0)) {
            Some(same) => {
                over.remove(same);
            }
            None => under.push(to[i].clone()),
        }
    }
    let (n, m) = (shape::product(&over)?, shape::product(&under)?);
    if m.is(0) {
        return Err(Fault::Input { idx: 1, expected: "extents that determine -1".into(), found: "0".into() });
    }
    n.div_exact(&m).ok_or_else(|| match (n.as_const(), m.as_const()) {
        (Some(_), Some(_)) => {
            Fault::Input { idx: 1, expected: format!("a divisor of {n} elements"), found: m.to_string() }
        }
        _ => Fault::Unproven(format!("{m} divides {n}")),
    })
}

/// `Flatten`.
pub(crate) fn flatten(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let dims = c.dims(x);
    let axis = c.attrs.int_or("axis", 1)?;
    let at = if axis < 0 { axis.saturating_add(dims.len() as i64) } else { axis };
    let at = usize::try_from(at).ok().filter(|a| *a <= dims.len());
    let at = at.ok_or_else(|| c.attrs.wrong("axis", format!("at most {}", dims.len()), axis))?;
    let to = [shape::product(&dims[..at])?, shape::product(&dims[at..])?];
    one(c.reshape(x, &to)?)
}

/// `Expand`: broadcasting in both directions.
pub(crate) fn expand(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let to = c.dims_input(1, "shape")?;
    let from = c.dims(x);
    let common = shape::broadcast(&from, &to)
        .ok_or_else(|| Fault::Broadcast { a: c.ty(x).clone(), b: c.ty(x).with_shape(to.as_slice()) })?;
    if let Some(k) = c.known(x)
        && let Some(consts) = Shape::from(common.as_slice()).as_const()
    {
        let shape: Vec<usize> = consts.iter().filter_map(|d| usize::try_from(*d).ok()).collect();
        let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= shape::MAX_KNOWN);
        if let Some(n) = n.filter(|_| shape.len() == consts.len()) {
            let frame = Known { dtype: k.dtype, shape, elems: vec![Dim::from(0); n] };
            if let Some(known) = k.zip(&frame, k.dtype, |x, _| Some(x.clone())) {
                return one(c.make_known(known));
            }
        }
    }
    one(c.broadcast_to(x, &common)?)
}

/// `Unsqueeze`.
pub(crate) fn unsqueeze(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let n_axes = if c.version >= 13 {
        c.ints_input(1, "axes")?.len()
    } else {
        c.attrs.ints("axes")?.map_or(0, <[i64]>::len)
    };
    let rank = c.rank(x) + n_axes;
    let axes = c.axes(13, 1, rank)?.ok_or(Fault::MissingAttribute { name: "axes" })?;
    let mut from = c.dims(x).into_iter();
    let to: Vec<Dim> =
        (0..rank).filter_map(|i| if axes.contains(&i) { Some(Dim::from(1)) } else { from.next() }).collect();
    one(c.reshape(x, &to)?)
}

/// `Squeeze`.
pub(crate) fn squeeze(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let dims = c.dims(x);
    let axes = match c.axes(13, 1, dims.len())? {
        Some(axes) => axes,
        None => (0..dims.len()).filter(|i| dims[*i].is(1)).collect(),
    };
    if let Some(axis) = axes.iter().find(|a| !dims[**a].is(1) && !is_one_unless_empty(&dims[**a])) {
        return Err(Fault::Input {
            idx: 0,
            expected: format!("extent 1 on axis {axis}"),
            found: c.ty(x).to_string(),
        }
        .into());
    }
    // A slice that holds an element if the axis does: as with Gather of its index, there is one.
    let mut x = x;
    let mut uncertain: Vec<usize> = axes.iter().copied().filter(|axis| !dims[*axis].is(1)).collect();
    uncertain.sort_unstable();
    for axis in uncertain.into_iter().rev() {
        let first = Known { dtype: DType::I64, shape: Vec::new(), elems: vec![Dim::from(0)] };
        let first = c.make_known(first);
        x = c.emit(ops::Gather { axis }, &[x, first])?;
    }
    let to: Vec<Dim> = (0..dims.len()).filter(|i| !axes.contains(i)).map(|i| dims[i].clone()).collect();
    one(c.reshape(x, &to)?)
}

/// Whether an extent is that of the first or the last element of a symbolic axis: 1 unless the axis is empty.
fn is_one_unless_empty(extent: &Dim) -> bool {
    let mut symbols = BTreeSet::new();
    extent.collect_symbols(&mut symbols);
    let ends = [(0, 1), (-1, TO_THE_END)].map(|(start, end)| (Dim::from(start), Dim::from(end)));
    symbols.iter().map(|symbol| Dim::symbol(symbol.name())).any(|n| {
        ends.iter().any(|(start, end)| clamp(start, end, 1, &n).is_ok_and(|(_, len)| len == *extent))
    })
}

/// `Concat`.
pub(crate) fn concat(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let inputs = c.all_inputs()?;
    if let ([_, x], Some(Special::Open(all))) = (&inputs[..], c.imp.special(inputs[0])) {
        // A loop that joins one more part in each iteration takes care of the axis.
        c.attrs.ignore(&["axis"]);
        let all = [all.as_slice(), &[*x]].concat();
        return one(c.imp.special_value(Special::Open(all)));
    }
    let rank = c.rank(inputs[0]);
    if !c.attrs.has("axis") {
        return Err(Fault::MissingAttribute { name: "axis" }.into());
    }
    let axis = c.axis(0, rank)?;
    let dtype = c.dtype(inputs[0]);
    let known: Option<Vec<Dim>> = inputs.iter().try_fold(Vec::new(), |mut all, v| {
        let k = c.known(*v).filter(|k| k.shape.len() == 1 && k.dtype == dtype)?;
        all.extend(k.elems.iter().cloned());
        (all.len() <= shape::MAX_KNOWN).then_some(all)
    });
    if let Some(elems) = known {
        return one(c.make_known(Known { dtype, ..Known::vector(elems) }));
    }
    if let [only] = inputs.as_slice() {
        return one(*only);
    }
    one(c.emit(ops::Concat { axis }, &inputs)?)
}

/// `Gather`. Of a known tensor at known places: a known tensor.
pub(crate) fn gather(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, indices) = (c.input(0)?, c.input(1)?);
    let axis = c.axis(0, c.rank(x))?;
    let extent = c.ty(x).shape[axis].clone();
    let places = c.known(indices).and_then(Known::as_consts);
    if let (Some(n), Some(places)) = (extent.as_const(), &places)
        && let Some(bad) = places.iter().find(|i| !(-n..n).contains(*i))
    {
        let (expected, found) = (format!("indices in {}..{n}", -n), bad.to_string());
        return Err(Fault::Input { idx: 1, expected, found }.into());
    }
    if let (Some(k), Some(places), Some(i_shape)) =
        (c.known(x), &places, c.known(indices).map(|k| k.shape.clone()))
    {
        let n = k.shape[axis] as i64;
        let shape = [&k.shape[..axis], &i_shape, &k.shape[axis + 1..]].concat();
        let picked = k.pick(shape, |idx| {
            let (before, rest) = idx.split_at(axis);
            let (middle, after) = rest.split_at(i_shape.len());
            let flat = middle.iter().zip(&i_shape).fold(0, |flat, (i, d)| flat * d + i);
            let place = *places.get(flat)?;
            let place = usize::try_from(if place < 0 { place + n } else { place }).ok()?;
            Some([before, &[place], after].concat())
        });
        if let Some(known) = picked {
            return one(c.make_known(known));
        }
    }
    one(c.emit(ops::Gather { axis }, &[x, indices])?)
}

/// Sizes from here on mean "to the end" in ONNX files.
const TO_THE_END: i64 = i32::MAX as i64;

/// One axis of a `Slice`: first element and number of elements, both in the direction of the step.
fn clamp(start: &Dim, end: &Dim, step: i64, n: &Dim) -> Result<(Dim, Dim), Fault> {
    let zero = Dim::from(0);
    // From the end if negative; then into low..=high, where an end may lie one before the first element.
    let place = |d: &Dim, low: i64, high: &Dim| -> Result<Dim, Fault> {
        if let Some(v) = d.as_const() {
            if v >= TO_THE_END {
                return Ok(high.clone());
            }
            if v <= -TO_THE_END {
                return Ok(Dim::from(low));
            }
        }
        let from_start = if shape::is_non_negative(d) {
            d.clone()
        } else if shape::is_at_most(d, &Dim::from(-1)) {
            shape::add(d, n).ok_or(OVERFLOW)?
        } else {
            return Err(Fault::Unproven(format!("the bound {d} has one sign")));
        };
        let below = shape::apply(DimFn::Min, &from_start, high).ok_or(OVERFLOW)?;
        shape::apply(DimFn::Max, &below, &Dim::from(low)).ok_or(OVERFLOW)
    };
    let last = shape::sub(n, &Dim::from(1)).ok_or(OVERFLOW)?;
    let (first, span) = if step > 0 {
        let (first, end) = (place(start, 0, n)?, place(end, 0, n)?);
        let span = shape::sub(&end, &first).ok_or(OVERFLOW)?;
        (first, span)
    } else {
        let (first, end) = (place(start, 0, &last)?, place(end, -1, &last)?);
        let span = shape::sub(&first, &end).ok_or(OVERFLOW)?;
        (first, span)
    };
    let len = shape::apply(DimFn::CeilDiv, &span, &Dim::from(step.abs())).ok_or(OVERFLOW)?;
    Ok((first, shape::apply(DimFn::Max, &len, &zero).ok_or(OVERFLOW)?))
}

/// `Slice`, with bounds as attributes before version 10 and as inputs from there on.
pub(crate) fn slice(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut x = c.input(0)?;
    let dims_attr = |c: &Ctx<'_, '_>, name| -> Result<Vec<Dim>, Fault> {
        let ints = c.attrs.ints(name)?.ok_or(Fault::MissingAttribute { name })?;
        Ok(ints.iter().map(|i| Dim::from(*i)).collect())
    };
    let (starts, ends, axes, steps) = if c.version < 10 {
        let axes = c.attrs.ints("axes")?.map(<[i64]>::to_vec);
        (dims_attr(c, "starts")?, dims_attr(c, "ends")?, axes, None)
    } else {
        let optional = |c: &Ctx<'_, '_>, idx, what| c.opt(idx).map(|_| c.ints_input(idx, what)).transpose();
        let (axes, steps) = (optional(c, 3, "axes")?, optional(c, 4, "steps")?);
        (c.dims_input(1, "starts")?, c.dims_input(2, "ends")?, axes, steps)
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        let found = format!(
            "{} starts, {} ends, {} axes, {} steps",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        );
        let what = "slice bounds".to_owned();
        return Err(Fault::Mismatch { what, expected: "equally many".into(), found }.into());
    }
    for i in 0..starts.len() {
        let axis = shape::axis(axes[i], c.rank(x))?;
        if axes[..i].iter().any(|a| shape::axis(*a, c.rank(x)) == Ok(axis)) {
            return Err(Fault::Input {
                idx: 3,
                expected: "different axes".into(),
                found: format!("{axes:?}"),
            }
            .into());
        }
        let step = steps[i];
        if step == 0 || step.checked_abs().is_none_or(|s| s > shape::MAX_DIM) {
            let expected = "a step other than 0".to_owned();
            return Err(Fault::Input { idx: 4, expected, found: step.to_string() }.into());
        }
        x = slice_axis(c, x, axis, &starts[i], &ends[i], step)?;
    }
    one(x)
}

fn slice_axis(
    c: &mut Ctx<'_, '_>,
    x: Val,
    axis: usize,
    start: &Dim,
    end: &Dim,
    step: i64,
) -> Result<Val, Fault> {
    let extent = c.ty(x).shape[axis].clone();
    let (first, len) = clamp(start, end, step, &extent)?;
    if let Some(known) = c.known(x).and_then(|k| k.slice(axis, &first, &len, step)) {
        return Ok(c.make_known(known));
    }
    if step > 0 {
        return c.slice(x, axis, first, len, step);
    }
    // The same elements forwards from the last one, then reversed.
    if len.is(0) {
        return c.slice(x, axis, Dim::from(0), len, 1);
    }
    let steps = shape::sub(&len, &Dim::from(1)).ok_or(OVERFLOW)?;
    let span = shape::mul(&steps, &Dim::from(-step)).ok_or(OVERFLOW)?;
    let low = shape::sub(&first, &span).ok_or(OVERFLOW)?;
    let forwards = c.slice(x, axis, low, len, -step)?;
    c.emit(Reverse { axis }, &[forwards])
}

/// `Tile`: each axis becomes (repeats, extent), merged.
pub(crate) fn tile(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let repeats = c.dims_input(1, "repeats")?;
    let dims = c.dims(x);
    if repeats.len() != dims.len() {
        let (expected, found) = (format!("{} repeats", dims.len()), repeats.len().to_string());
        return Err(Fault::Input { idx: 1, expected, found }.into());
    }
    let (mut split, mut wide, mut merged) = (Vec::new(), Vec::new(), Vec::new());
    for (n, r) in dims.iter().zip(&repeats) {
        if !r.is(1) {
            split.push(Dim::from(1));
            wide.push(r.clone());
        }
        split.push(n.clone());
        wide.push(n.clone());
        merged.push(shape::mul(n, r).ok_or(OVERFLOW)?);
    }
    shape::check_shape(&merged)?;
    let x = c.reshape(x, &split)?;
    let x = c.broadcast_to(x, &wide)?;
    one(c.reshape(x, &merged)?)
}

/// `Trilu`: keeps one triangle of the last two axes, zero elsewhere.
pub(crate) fn trilu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let upper = c.attrs.flag("upper", true)?;
    let k = if c.opt(1).is_some() { c.int_input(1, "k")? } else { 0 };
    let dims = c.dims(x);
    let Some(first) = dims.len().checked_sub(2) else {
        let (expected, found) = ("at least 2 axes".into(), c.ty(x).to_string());
        return Err(Fault::Input { idx: 0, expected, found }.into());
    };
    if k.checked_abs().is_none_or(|k| k > shape::MAX_DIM) {
        return Err(Fault::Limit { what: "diagonal", limit: shape::MAX_DIM as u64 }.into());
    }
    let plane = Shape::from(&dims[first..]);
    let row = c.emit(Iota { axis: 0, dtype: DType::I64, shape: plane.clone() }, &[])?;
    let column = c.emit(Iota { axis: 1, dtype: DType::I64, shape: plane }, &[])?;
    let diagonal = c.binary_scalar(BinaryFn::Add, row, k as f64)?;
    let cmp = if upper { Cmp::Ge } else { Cmp::Le };
    let keep = c.emit(Compare { cmp }, &[column, diagonal])?;
    let keep = c.broadcast_to(keep, &dims)?;
    let zero = c.scalar(c.dtype(x), 0.0)?;
    let zeros = c.broadcast_to(zero, &dims)?;
    one(c.emit(Select, &[keep, x, zeros])?)
}

/// `DepthToSpace`: blocks of channels become blocks of pixels.
pub(crate) fn depth_to_space(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let size = c.attrs.int("blocksize")?.ok_or(Fault::MissingAttribute { name: "blocksize" })?;
    if !(1..=shape::MAX_DIM).contains(&size) {
        return Err(c.attrs.wrong("blocksize", "a positive number", size).into());
    }
    let dims = c.dims(x);
    let [n, channels, h, w] = dims.as_slice() else {
        let (expected, found) = ("4 axes".into(), c.ty(x).to_string());
        return Err(Fault::Input { idx: 0, expected, found }.into());
    };
    let block = Dim::from(size);
    let depth = shape::mul(&block, &block).and_then(|b| channels.div_exact(&b)).ok_or_else(|| {
        let what = "channels".to_owned();
        Fault::Mismatch {
            what,
            expected: format!("a multiple of {size} squared"),
            found: channels.to_string(),
        }
    })?;
    let (split, perm) = match c.attrs.string_or("mode", "DCR")? {
        "DCR" => ([n, &block, &block, &depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, &depth, &block, &block, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(c.attrs.wrong("mode", "DCR or CRD", format!("{other:?}")).into()),
    };
    let split: Vec<Dim> = split.into_iter().cloned().collect();
    let x = c.reshape(x, &split)?;
    let x = c.transpose(x, &perm)?;
    let tall = shape::mul(h, &block).ok_or(OVERFLOW)?;
    let wide = shape::mul(w, &block).ok_or(OVERFLOW)?;
    one(c.reshape(x, &[n.clone(), depth, tall, wide])?)
}
