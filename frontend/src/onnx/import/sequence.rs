//! Sequences and optional values. They are resolved here: graphs hold tensors only.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Special, Val};
use super::super::shape::{self, Known, OVERFLOW};
use ssmc_ir::{DType, Dim};

/// The most tensors of a sequence.
const MAX_LENGTH: usize = 1 << 16;

fn unsupported(what: &str) -> Fault {
    Fault::Unsupported(what.into())
}

/// The tensors of a sequence of known length.
fn list(c: &Ctx<'_, '_>, idx: usize) -> Result<Vec<Val>, Fault> {
    match c.imp.special(c.input(idx)?) {
        Some(Special::List(list)) => Ok(list.clone()),
        Some(Special::Open(_)) => Err(unsupported("reading a sequence that a loop appends to")),
        Some(Special::Stacked(_)) => Err(unsupported("a single tensor of a sequence that a loop made")),
        Some(Special::Absent) | None => Err(c.expected(idx, "a sequence")),
    }
}

/// The place in an input: an element of a sequence of `n`, or its end if that is allowed.
fn place(c: &Ctx<'_, '_>, idx: usize, n: usize, or_end: bool) -> Result<usize, Fault> {
    let at = c.int_input(idx, "the place in a sequence")?;
    let from_start = if at < 0 { at.checked_add(n as i64) } else { Some(at) };
    let at = from_start.and_then(|at| usize::try_from(at).ok()).filter(|at| *at < n + usize::from(or_end));
    at.ok_or_else(|| c.expected(idx, format!("a place in a sequence of {n}")))
}

/// `SequenceConstruct` and `SequenceEmpty`.
pub(crate) fn construct(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["dtype"]);
    let all = (0..c.n_inputs()).map(|i| c.input(i)).collect::<Result<Vec<_>, _>>()?;
    one(c.imp.special_value(Special::List(all)))
}

/// `SequenceAt`.
pub(crate) fn at(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let all = list(c, 0)?;
    let at = place(c, 1, all.len(), false)?;
    one(all[at])
}

/// `SequenceLength`.
pub(crate) fn length(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let n = match c.imp.special(c.input(0)?) {
        Some(Special::Stacked(all)) => c.ty(*all).shape[0].clone(),
        _ => Dim::from(list(c, 0)?.len()),
    };
    one(c.make_known(Known::scalar(n)))
}

/// `SequenceInsert`; inside a loop only at the end.
pub(crate) fn insert(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(1)?;
    if let Some(Special::Open(all)) = c.imp.special(c.input(0)?) {
        if c.opt(2).is_some() {
            return Err(unsupported("an insertion at a place of a sequence that a loop appends to").into());
        }
        let all = [all.as_slice(), &[x]].concat();
        return one(c.imp.special_value(Special::Open(all)));
    }
    let mut all = list(c, 0)?;
    let at = if c.opt(2).is_some() { place(c, 2, all.len(), true)? } else { all.len() };
    if all.len() >= MAX_LENGTH {
        return Err(Fault::Limit { what: "tensors of a sequence", limit: MAX_LENGTH as u64 }.into());
    }
    all.insert(at, x);
    one(c.imp.special_value(Special::List(all)))
}

/// `SequenceErase`.
pub(crate) fn erase(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut all = list(c, 0)?;
    let at = if c.opt(1).is_some() { place(c, 1, all.len(), false)? } else { all.len().saturating_sub(1) };
    if all.is_empty() {
        return Err(c.expected(0, "a sequence with a tensor").into());
    }
    all.remove(at);
    one(c.imp.special_value(Special::List(all)))
}

/// `ConcatFromSequence`, along an axis that is there or along a new one.
pub(crate) fn concat(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let new_axis = c.attrs.flag("new_axis", false)?;
    if !c.attrs.has("axis") {
        return Err(Fault::MissingAttribute { name: "axis" }.into());
    }
    if let Some(Special::Stacked(all)) = c.imp.special(c.input(0)?) {
        let all = *all;
        return one(concat_stacked(c, all, new_axis)?);
    }
    let all = list(c, 0)?;
    let first = *all.first().ok_or_else(|| unsupported("joining no tensors"))?;
    let rank = c.rank(first) + usize::from(new_axis);
    let axis = c.axis(0, rank)?;
    let mut parts = Vec::new();
    for x in all {
        let mut dims = c.dims(x);
        if new_axis {
            dims.insert(axis.min(dims.len()), Dim::from(1));
        }
        parts.push(c.reshape(x, &dims)?);
    }
    one(c.concat(&parts, axis)?)
}

/// As `concat`, of equally shaped tensors that lie along axis 0.
fn concat_stacked(c: &mut Ctx<'_, '_>, all: Val, new_axis: bool) -> Result<Val, Fault> {
    let rank = c.rank(all) - usize::from(!new_axis);
    let axis = c.axis(0, rank)?;
    joined(c, all, axis, new_axis)
}

/// Tensors that lie along axis 0, joined along an axis of theirs or along a new one.
pub(super) fn joined(c: &mut Ctx<'_, '_>, all: Val, axis: usize, new_axis: bool) -> Result<Val, Fault> {
    let dims = c.dims(all);
    let mut perm: Vec<usize> = (1..dims.len()).collect();
    perm.insert(axis, 0);
    let x = c.transpose(all, &perm)?;
    if new_axis {
        return Ok(x);
    }
    let mut merged = dims[1..].to_vec();
    merged[axis] = shape::mul(&dims[0], &merged[axis]).ok_or(OVERFLOW)?;
    c.reshape(x, &merged)
}

/// `SplitToSequence` into parts of known number.
pub(crate) fn split(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let dims = c.dims(x);
    let axis = c.axis(0, dims.len())?;
    let keep = c.attrs.flag("keepdims", true)?;
    let whole = dims[axis].as_const();
    let sizes: Vec<Dim> = match c.opt(1) {
        Some(v) if c.rank(v) == 1 => c.dims_input(1, "split")?,
        given => {
            let n = whole.ok_or(Fault::NotKnown { idx: 0, what: "the extent of a split axis" })?;
            let part = if given.is_some() { c.int_input(1, "split")? } else { 1 };
            if part < 1 || n / part > MAX_LENGTH as i64 {
                return Err(c.expected(1, "a positive size of parts").into());
            }
            (0..(n + part - 1) / part).map(|i| Dim::from(part.min(n - i * part))).collect()
        }
    };
    let total = sizes.iter().try_fold(Dim::from(0), |sum, n| shape::add(&sum, n)).ok_or(OVERFLOW)?;
    if total != dims[axis] {
        return Err(c.expected(1, format!("parts of together {}", dims[axis])).into());
    }
    let (mut start, mut parts) = (Dim::from(0), Vec::new());
    for len in sizes {
        let mut part = c.slice(x, axis, start.clone(), len.clone(), 1)?;
        if !keep && c.opt(1).is_none() {
            let mut dims = dims.clone();
            dims.remove(axis);
            part = c.reshape(part, &dims)?;
        }
        parts.push(part);
        start = shape::add(&start, &len).ok_or(OVERFLOW)?;
    }
    one(c.imp.special_value(Special::List(parts)))
}

/// `SequenceMap`: the body once per tensor.
pub(crate) fn map(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let body = c.attrs.graph("body")?;
    let n = list(c, 0)?.len();
    if body.input.len() != c.n_inputs() {
        let expected = format!("{} body inputs", c.n_inputs());
        return Err(
            Fault::Mismatch { what: "body".into(), expected, found: body.input.len().to_string() }.into()
        );
    }
    let mut results: Vec<Vec<Val>> = vec![Vec::new(); body.output.len()];
    for i in 0..n {
        let mut bound = Vec::new();
        for (idx, input) in body.input.iter().enumerate() {
            let given = c.input(idx)?;
            let value = match c.imp.special(given) {
                Some(Special::List(list)) => {
                    *list.get(i).ok_or_else(|| c.expected(idx, format!("{n} tensors")))?
                }
                _ => given,
            };
            bound.push((input.name(), value));
        }
        c.imp.open_scope();
        for (name, value) in bound {
            c.imp.bind(name, Some(value));
        }
        c.imp.initializers(body);
        let outputs = c.imp.nodes(&body.node).and_then(|()| c.imp.outputs(body));
        c.imp.close_scope();
        for (all, value) in results.iter_mut().zip(outputs?) {
            all.push(value);
        }
    }
    Ok(results.into_iter().map(|all| c.imp.special_value(Special::List(all))).collect())
}

/// `Optional`.
pub(crate) fn optional(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["type"]);
    match c.opt(0) {
        Some(x) => one(x),
        None => one(c.imp.special_value(Special::Absent)),
    }
}

/// `OptionalHasElement`.
pub(crate) fn has_element(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let has = c.opt(0).is_some_and(|x| !matches!(c.imp.special(x), Some(Special::Absent)));
    one(c.make_known(Known { dtype: DType::Bool, shape: Vec::new(), elems: vec![Dim::from(i64::from(has))] }))
}

/// `OptionalGetElement`.
pub(crate) fn get_element(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    match c.imp.special(x) {
        Some(Special::Absent) => Err(c.expected(0, "an optional value that is there").into()),
        _ => one(x),
    }
}
