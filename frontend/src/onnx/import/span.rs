//! Slices that are written: the tensor put together again from the parts around them.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::Val;
use super::super::shape::{self, OVERFLOW};
use ssmc_ir::Dim;
use ssmc_ir::ops::{BinaryFn, Concat};

/// Elements `start, start + step, ..` of one axis, `len` of them; `step` is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) axis: usize,
    pub(crate) start: i64,
    pub(crate) len: i64,
    pub(crate) step: i64,
}

impl Span {
    /// Whether all its elements are certainly inside an axis of this extent, and it can be written.
    pub(crate) fn fits(&self, extent: &Dim) -> bool {
        let last = (self.len - 1).checked_mul(self.step).and_then(|s| s.checked_add(self.start));
        let inside =
            last.and_then(|l| l.checked_add(1)).is_some_and(|n| shape::is_at_most(&Dim::from(n), extent));
        self.start >= 0 && self.len > 0 && inside && (self.step == 1 || extent.as_const().is_some())
    }
}

/// Indices that count by a constant step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) start: i64,
    pub(crate) len: i64,
    pub(crate) step: i64,
    /// Whether they count downwards; `start` is the least of them all the same.
    pub(crate) reverse: bool,
}

impl Counted {
    pub(crate) fn span(&self, axis: usize) -> Span {
        Span { axis, start: self.start, len: self.len, step: self.step }
    }
}

/// The counted range that indices into an axis form; negative ones count from its end.
pub(crate) fn counted(indices: &[i64], extent: &Dim) -> Option<Counted> {
    let from_start = |i: i64| match extent.as_const() {
        _ if i >= 0 => Some(i),
        Some(n) => i.checked_add(n).filter(|i| *i >= 0),
        None => None,
    };
    let all = indices.iter().map(|i| from_start(*i)).collect::<Option<Vec<i64>>>()?;
    let (first, last) = (*all.first()?, *all.last()?);
    let step = all.get(1).map_or(Some(1), |second| second.checked_sub(first))?;
    let is_counted = step != 0 && all.windows(2).all(|w| w[1].checked_sub(w[0]) == Some(step));
    is_counted.then(|| Counted {
        start: first.min(last),
        len: all.len() as i64,
        step: step.abs(),
        reverse: step < 0,
    })
}

/// `x` with `updates` in the box that `spans` cut out of it, one span per axis at most. `f` combines the elements that
/// are there with the updates; without it the updates replace them.
pub(crate) fn write(
    c: &mut Ctx<'_, '_>,
    x: Val,
    spans: &[Span],
    updates: Val,
    f: Option<BinaryFn>,
) -> Result<Val, Fault> {
    let Some((span, rest)) = spans.split_first() else {
        return match f {
            Some(f) => c.binary(f, x, updates),
            None => Ok(updates),
        };
    };
    let extent = c.ty(x).shape[span.axis].clone();
    if span.start == 0 && span.step == 1 && extent.is(span.len) {
        return write(c, x, rest, updates, f);
    }
    let new = if rest.is_empty() && f.is_none() {
        updates
    } else {
        let old = c.slice(x, span.axis, Dim::from(span.start), Dim::from(span.len), span.step)?;
        write(c, old, rest, updates, f)?
    };
    place(c, x, span, new, &extent)
}

/// `x` with `new` in place of the elements of one span.
fn place(c: &mut Ctx<'_, '_>, x: Val, span: &Span, new: Val, extent: &Dim) -> Result<Val, Fault> {
    let &Span { axis, start, len, step } = span;
    let mut parts = Vec::new();
    if start > 0 {
        parts.push(c.slice(x, axis, Dim::from(0), Dim::from(start), 1)?);
    }
    let mut done = start;
    if step == 1 {
        parts.push(new);
        done += len;
    } else {
        // Whole periods of the step first; the last one may be cut off by the end of the axis.
        let n = extent.as_const().ok_or_else(|| Fault::Unproven(format!("{extent} is constant")))?;
        let whole = if start + len * step <= n { len } else { len - 1 };
        if whole > 0 {
            parts.push(interleave(c, x, span, new, whole)?);
            done += whole * step;
        }
        if whole < len {
            parts.push(c.slice(new, axis, Dim::from(whole), Dim::from(1), 1)?);
            done += 1;
        }
    }
    let left = shape::sub(extent, &Dim::from(done)).ok_or(OVERFLOW)?;
    if !left.is(0) {
        parts.push(c.slice(x, axis, Dim::from(done), left, 1)?);
    }
    match parts.as_slice() {
        [only] => Ok(*only),
        _ => c.emit(Concat { axis }, &parts),
    }
}

/// The first `periods` periods of a span: one element of `new`, then `step - 1` of `x`.
fn interleave(c: &mut Ctx<'_, '_>, x: Val, span: &Span, new: Val, periods: i64) -> Result<Val, Fault> {
    let &Span { axis, start, step, .. } = span;
    let region = c.slice(x, axis, Dim::from(start), Dim::from(periods * step), 1)?;
    let dims = c.dims(region);
    let split = |width: i64| {
        let (before, after) = (&dims[..axis], &dims[axis + 1..]);
        [before, &[Dim::from(periods), Dim::from(width)], after].concat()
    };
    let region = c.reshape(region, &split(step))?;
    let kept = c.slice(region, axis + 1, Dim::from(1), Dim::from(step - 1), 1)?;
    let new = c.slice(new, axis, Dim::from(0), Dim::from(periods), 1)?;
    let new = c.reshape(new, &split(1))?;
    let joined = c.emit(Concat { axis: axis + 1 }, &[new, kept])?;
    c.reshape(joined, &dims)
}
