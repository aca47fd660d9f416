//! Operators that write into a tensor, or read from it, at one index per element or row.
//!
//! Constant indices that count along axes are slices and are imported as such; only what depends on data, or follows
//! no rule, becomes a `scatter`.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, Known, OVERFLOW};
use super::super::tensor::Literal;
use super::span::{Counted, Span, counted, write};
use ssmc_ir::ops::{self, BinaryFn, Cmp, Compare, Iota, Reverse, ScatterFn, Select};
use ssmc_ir::{DType, Dim, Shape};

/// The constants of an integer tensor of any size.
pub(crate) fn constants(c: &Ctx<'_, '_>, v: Val) -> Option<Vec<i64>> {
    c.known(v).and_then(Known::as_consts).or_else(|| c.literal(v).and_then(Literal::ints))
}

/// How an update meets the element that it falls on.
fn reduction(c: &Ctx<'_, '_>) -> Result<ScatterFn, Fault> {
    Ok(match c.attrs.string_or("reduction", "none")? {
        "none" => ScatterFn::Set,
        "add" => ScatterFn::Add,
        "mul" => ScatterFn::Mul,
        "max" => ScatterFn::Max,
        "min" => ScatterFn::Min,
        other => {
            let expected = "none, add, mul, max or min";
            return Err(c.attrs.wrong("reduction", expected, format!("{other:?}")));
        }
    })
}

/// The function that combines an element with its update; none if the update replaces it.
fn combine(f: ScatterFn) -> Option<BinaryFn> {
    match f {
        ScatterFn::Set => None,
        ScatterFn::Add => Some(BinaryFn::Add),
        ScatterFn::Mul => Some(BinaryFn::Mul),
        ScatterFn::Max => Some(BinaryFn::Max),
        ScatterFn::Min => Some(BinaryFn::Min),
    }
}

fn integers(c: &Ctx<'_, '_>, idx: usize) -> Result<Val, Fault> {
    let v = c.input(idx)?;
    if !c.dtype(v).is_int() {
        return Err(Fault::Input { idx, expected: "integers".into(), found: c.ty(v).to_string() });
    }
    Ok(v)
}

/// An `i64` scalar that holds a dim, repeated to a shape.
fn extent_like(c: &mut Ctx<'_, '_>, d: &Dim, dims: &[Dim]) -> Result<Val, Fault> {
    let scalar = c.make_known(Known::scalar(d.clone()));
    c.broadcast_to(scalar, dims)
}

/// Indices as `i64`, those that count from the end brought to the front.
fn from_start(c: &mut Ctx<'_, '_>, indices: Val, extent: &Dim) -> Result<Val, Fault> {
    let is_plain = constants(c, indices).is_some_and(|all| all.iter().all(|i| *i >= 0));
    let indices = c.cast(indices, DType::I64)?;
    if is_plain {
        return Ok(indices);
    }
    let dims = c.dims(indices);
    let extent = extent_like(c, extent, &dims)?;
    let wrapped = c.binary(BinaryFn::Add, indices, extent)?;
    let zero = c.splat(0.0, indices)?;
    let is_negative = c.emit(Compare { cmp: Cmp::Lt }, &[indices, zero])?;
    c.emit(Select, &[is_negative, wrapped, indices])
}

/// `acc + indices * step`; nothing to add to at first.
fn accumulate(c: &mut Ctx<'_, '_>, acc: Option<Val>, indices: Val, step: &Dim) -> Result<Val, Fault> {
    let dims = c.dims(indices);
    let scaled = if step.is(1) {
        indices
    } else {
        let step = extent_like(c, step, &dims)?;
        c.binary(BinaryFn::Mul, indices, step)?
    };
    match acc {
        Some(acc) => c.binary(BinaryFn::Add, acc, scaled),
        None => Ok(scaled),
    }
}

/// The position, in a tensor of extents `dims` flattened, of the element that each of `indices` points at: index
/// along `axis`, place of the index along the others.
fn positions_along(c: &mut Ctx<'_, '_>, indices: Val, axis: usize, dims: &[Dim]) -> Result<Val, Fault> {
    let shape = Shape::from(c.dims(indices));
    let mut acc = None;
    for j in 0..dims.len() {
        let step = shape::product(&dims[j + 1..])?;
        let along = if j == axis {
            from_start(c, indices, &dims[j])?
        } else if shape[j].is(1) {
            continue;
        } else {
            c.emit(Iota { axis: j, dtype: DType::I64, shape: shape.clone() }, &[])?
        };
        acc = Some(accumulate(c, acc, along, &step)?);
    }
    acc.ok_or(Fault::MissingInput { idx: 1 })
}

/// The position of the row of a tensor of extents `dims` that each tuple in the last axis of `indices` points at;
/// the first `batch` axes are those of the indices.
fn positions_of_tuples(
    c: &mut Ctx<'_, '_>,
    indices: Val,
    width: usize,
    batch: usize,
    dims: &[Dim],
) -> Result<Val, Fault> {
    let mut outer = c.dims(indices);
    let last = outer.len() - 1;
    outer.pop();
    let mut acc = None;
    for j in 0..batch + width {
        let step = shape::product(&dims[j + 1..batch + width])?;
        let along = if j < batch {
            c.emit(Iota { axis: j, dtype: DType::I64, shape: Shape::from(outer.as_slice()) }, &[])?
        } else {
            let column = c.slice(indices, last, Dim::from((j - batch) as i64), Dim::from(1), 1)?;
            let column = c.reshape(column, &outer)?;
            from_start(c, column, &dims[j])?
        };
        acc = Some(accumulate(c, acc, along, &step)?);
    }
    match acc {
        Some(acc) => Ok(acc),
        None => extent_like(c, &Dim::from(0), &outer),
    }
}

/// Rows of `x`, seen as `[rows, inner..]`, written at `positions`.
fn scatter_rows(
    c: &mut Ctx<'_, '_>,
    f: ScatterFn,
    x: Val,
    positions: Val,
    updates: Val,
    outer: usize,
) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let inner = &dims[outer..];
    let flat = [&[shape::product(&dims[..outer])?], inner].concat();
    let n = shape::product(&c.dims(positions))?;
    let flat_updates = [std::slice::from_ref(&n), inner].concat();
    let rows = c.reshape(x, &flat)?;
    let positions = c.reshape(positions, &[n])?;
    let updates = c.reshape(updates, &flat_updates)?;
    let y = c.emit(ops::Scatter { f }, &[rows, positions, updates])?;
    c.reshape(y, &dims)
}

/// `ScatterElements`, and `Scatter` before version 11.
pub(crate) fn scatter_elements(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, indices, updates) = (c.input(0)?, integers(c, 1)?, c.input(2)?);
    let f = reduction(c)?;
    let dims = c.dims(x);
    let axis = c.axis(0, dims.len())?;
    let at = c.dims(indices);
    if at.len() != dims.len() || c.dims(updates) != at {
        let (expected, found) = (c.ty(indices).to_string(), c.ty(updates).to_string());
        return Err(Fault::Mismatch { what: "updates".into(), expected, found }.into());
    }
    if let Some(spans) = spans_along(c, indices, axis, &dims) {
        let (spans, reverse) = spans;
        let mut updates = updates;
        if reverse {
            updates = c.emit(Reverse { axis }, &[updates])?;
        }
        return one(write(c, x, &spans, updates, combine(f))?);
    }
    let positions = positions_along(c, indices, axis, &dims)?;
    one(scatter_rows(c, f, x, positions, updates, dims.len())?)
}

/// The slice that `indices` along `axis` describe, and whether it runs backwards.
fn spans_along(c: &Ctx<'_, '_>, indices: Val, axis: usize, dims: &[Dim]) -> Option<(Vec<Span>, bool)> {
    let all = constants(c, indices)?;
    let at = c.ty(indices).shape.as_const()?;
    let n = usize::try_from(at[axis]).ok()?;
    let inner = usize::try_from(at[axis + 1..].iter().product::<i64>()).ok()?;
    if all.is_empty() {
        return None;
    }
    let along: Vec<i64> = (0..n).map(|i| all[i * inner]).collect();
    if all.iter().enumerate().any(|(flat, v)| *v != along[flat / inner % n]) {
        return None;
    }
    let Counted { start, step, len, reverse } = counted(&along, &dims[axis])?;
    let span = |axis: usize, len: i64| Span { axis, start: 0, len, step: 1 };
    let mut spans = Vec::new();
    for (j, (len_j, extent)) in at.iter().zip(dims).enumerate() {
        if j == axis {
            spans.push(Span { axis, start, len, step });
        } else if *extent != Dim::from(*len_j) {
            spans.push(span(j, *len_j));
        }
    }
    spans.iter().all(|s| s.fits(&dims[s.axis])).then_some((spans, reverse))
}

/// `ScatterND`.
pub(crate) fn scatter_nd(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, indices, updates) = (c.input(0)?, integers(c, 1)?, c.input(2)?);
    let f = reduction(c)?;
    let dims = c.dims(x);
    let (outer, width) = tuple_width(c, indices, 0, dims.len())?;
    let expected = [outer.as_slice(), &dims[width..]].concat();
    if c.dims(updates) != expected {
        let (expected, found) = (Shape::from(expected).to_string(), c.ty(updates).to_string());
        return Err(Fault::Mismatch { what: "updates".into(), expected, found }.into());
    }
    if let Some((spans, order)) = spans_of_tuples(c, indices, width, &dims) {
        let updates = in_order(c, updates, &spans, &order, &dims[width..])?;
        let spans: Vec<Span> = spans.iter().enumerate().map(|(axis, s)| s.span(axis)).collect();
        return one(write(c, x, &spans, updates, combine(f))?);
    }
    let positions = positions_of_tuples(c, indices, width, 0, &dims)?;
    one(scatter_rows(c, f, x, positions, updates, width)?)
}

/// Extents of an index tensor before its last axis, and the extent of that: the number of axes that it indexes.
fn tuple_width(c: &Ctx<'_, '_>, indices: Val, batch: usize, rank: usize) -> Result<(Vec<Dim>, usize), Fault> {
    let mut outer = c.dims(indices);
    let last = outer.pop().and_then(|d| d.as_const()).and_then(|n| usize::try_from(n).ok());
    match last.filter(|n| n.checked_add(batch).is_some_and(|n| n <= rank) && batch <= outer.len()) {
        Some(width) => Ok((outer, width)),
        None => {
            let expected = format!("tuples of at most {} indices in the last axis", rank - batch.min(rank));
            Err(Fault::Input { idx: 1, expected, found: c.ty(indices).to_string() })
        }
    }
}

/// The box that tuples of indices describe: a counted range per axis, and the axes in the order in which the tuples
/// run through them, slowest first.
fn spans_of_tuples(
    c: &Ctx<'_, '_>,
    indices: Val,
    width: usize,
    dims: &[Dim],
) -> Option<(Vec<Counted>, Vec<usize>)> {
    let all = constants(c, indices)?;
    if width == 0 || all.is_empty() {
        return None;
    }
    let tuples: Vec<&[i64]> = all.chunks_exact(width).collect();
    let mut ranges = Vec::new();
    let mut values: Vec<Vec<i64>> = Vec::new();
    for axis in 0..width {
        let mut seen = std::collections::BTreeSet::new();
        let along: Vec<i64> = tuples.iter().map(|t| t[axis]).filter(|i| seen.insert(*i)).collect();
        let range = counted(&along, &dims[axis])?;
        if !range.span(axis).fits(&dims[axis]) {
            return None;
        }
        ranges.push(range);
        values.push(along);
    }
    let n = values.iter().try_fold(1usize, |n, v| n.checked_mul(v.len()))?;
    if n != tuples.len() {
        return None;
    }
    // An axis that changes with every k-th tuple has k tuples of faster axes inside it.
    let period = |axis: usize| tuples.iter().take_while(|t| t[axis] == values[axis][0]).count();
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by_key(|axis| {
        (std::cmp::Reverse(if values[*axis].len() == 1 { n } else { period(*axis) }), *axis)
    });
    let mut inside = n;
    let mut steps = vec![1; width];
    for axis in &order {
        inside /= values[*axis].len();
        steps[*axis] = inside;
    }
    let expected = |m: usize, axis: usize| values[axis][m / steps[axis] % values[axis].len()];
    let fits = tuples.iter().enumerate().all(|(m, t)| (0..width).all(|axis| t[axis] == expected(m, axis)));
    fits.then_some((ranges, order))
}

/// Updates with one axis per indexed axis, in the order of the tensor.
fn in_order(
    c: &mut Ctx<'_, '_>,
    updates: Val,
    ranges: &[Counted],
    order: &[usize],
    inner: &[Dim],
) -> Result<Val, Fault> {
    let walked: Vec<Dim> = order.iter().map(|axis| Dim::from(ranges[*axis].len)).collect();
    let mut updates = c.reshape(updates, &[walked.as_slice(), inner].concat())?;
    let place = |axis: usize| order.iter().position(|o| *o == axis).expect("the order is a permutation");
    let mut perm: Vec<usize> = (0..order.len()).map(place).collect();
    perm.extend(order.len()..order.len() + inner.len());
    updates = c.transpose(updates, &perm)?;
    for (axis, range) in ranges.iter().enumerate() {
        if range.reverse {
            updates = c.emit(Reverse { axis }, &[updates])?;
        }
    }
    Ok(updates)
}

/// `GatherElements`.
pub(crate) fn gather_elements(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, indices) = (c.input(0)?, integers(c, 1)?);
    let dims = c.dims(x);
    let axis = c.axis(0, dims.len())?;
    if c.rank(indices) != dims.len() {
        let (expected, found) = (format!("{} axes", dims.len()), c.ty(indices).to_string());
        return Err(Fault::Input { idx: 1, expected, found }.into());
    }
    if let Some((spans, reverse)) = spans_along(c, indices, axis, &dims) {
        let mut y = x;
        for s in &spans {
            y = c.slice(y, s.axis, Dim::from(s.start), Dim::from(s.len), s.step)?;
        }
        return one(if reverse { c.emit(Reverse { axis }, &[y])? } else { y });
    }
    let positions = positions_along(c, indices, axis, &dims)?;
    let flat = c.reshape(x, &[shape::product(&dims)?])?;
    one(c.emit(ops::Gather { axis: 0 }, &[flat, positions])?)
}

/// `GatherND`.
pub(crate) fn gather_nd(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, indices) = (c.input(0)?, integers(c, 1)?);
    let dims = c.dims(x);
    let batch = c.attrs.int_or("batch_dims", 0)?;
    let batch = usize::try_from(batch).ok().filter(|b| *b < dims.len());
    let batch = batch.ok_or_else(|| c.attrs.wrong("batch_dims", "fewer than axes", c.rank(x)))?;
    let (outer, width) = tuple_width(c, indices, batch, dims.len())?;
    if outer[..batch] != dims[..batch] {
        let (expected, found) = (c.ty(x).to_string(), c.ty(indices).to_string());
        return Err(Fault::Mismatch { what: "batch axes".into(), expected, found }.into());
    }
    if batch == 0 && width == 1 {
        let indices = c.reshape(indices, &outer)?;
        return one(c.emit(ops::Gather { axis: 0 }, &[x, indices])?);
    }
    let positions = positions_of_tuples(c, indices, width, batch, &dims)?;
    let n = batch + width;
    let rows = c.reshape(x, &[&[shape::product(&dims[..n])?], &dims[n..]].concat())?;
    one(c.emit(ops::Gather { axis: 0 }, &[rows, positions])?)
}

/// `TopK`: the k largest or smallest along an axis, in order, and their indices.
pub(crate) fn top_k(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["sorted"]);
    let x = c.input(0)?;
    let axis = c.axis(-1, c.rank(x))?;
    let largest = c.attrs.flag("largest", true)?;
    let k = if c.version < 10 {
        Dim::from(c.attrs.int("k")?.ok_or(Fault::MissingAttribute { name: "k" })?)
    } else {
        match c.dims_input(1, "k")?.as_slice() {
            [k] => k.clone(),
            other => {
                let (expected, found) = ("one number".into(), other.len().to_string());
                return Err(Fault::Input { idx: 1, expected, found }.into());
            }
        }
    };
    let extent = c.ty(x).shape[axis].clone();
    if !shape::is_non_negative(&k) || !shape::is_at_most(&k, &extent) {
        return Err(match shape::sub(&extent, &k).ok_or(OVERFLOW)?.as_const() {
            Some(_) => {
                let expected = format!("0 to {extent}");
                Fault::Input { idx: 1, expected, found: k.to_string() }
            }
            None => Fault::Unproven(format!("{k} is at most {extent}")),
        }
        .into());
    }
    Ok(c.emit_all(ops::TopK { axis, k, largest }, &[Some(x)], Vec::new())?)
}

/// The elements of `x` at `indices` along an axis; the indices have its rank.
pub(crate) fn gather_along(c: &mut Ctx<'_, '_>, x: Val, indices: Val, axis: usize) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let positions = positions_along(c, indices, axis, &dims)?;
    let flat = c.reshape(x, &[shape::product(&dims)?])?;
    c.emit(ops::Gather { axis: 0 }, &[flat, positions])
}

/// `x` with `updates` at `indices` along an axis; both have its rank.
pub(crate) fn scatter_along(
    c: &mut Ctx<'_, '_>,
    x: Val,
    indices: Val,
    updates: Val,
    axis: usize,
) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let positions = positions_along(c, indices, axis, &dims)?;
    scatter_rows(c, ScatterFn::Set, x, positions, updates, dims.len())
}
