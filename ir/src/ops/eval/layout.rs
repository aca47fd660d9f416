//! Ops that move elements without changing them.

use super::{Args, EvalCtx, EvalError, arg, around, strides};
use crate::ops::{Broadcast, Concat, Gather, Pad, Reverse, Slice, Transpose};
use crate::tensor::{Data, Tensor};

/// Elements of `x` read through an affine map: result index `i` reads at `start + sum of steps[k] * i[k]`.
fn strided(x: &Tensor, shape: &[usize], start: usize, steps: &[isize]) -> Result<Tensor, EvalError> {
    let mut positions = Vec::with_capacity(shape.iter().product());
    super::for_each_index(shape, |index| {
        let offset: isize = index.iter().zip(steps).map(|(i, s)| *i as isize * s).sum();
        positions.push(start.wrapping_add_signed(offset));
    });
    Ok(Tensor::new(x.dtype(), shape, x.data().take(positions.into_iter()))?)
}

fn steps(x: &Tensor) -> Vec<isize> {
    strides(x.shape()).into_iter().map(|s| s as isize).collect()
}

pub(in crate::ops) fn broadcast(
    op: &Broadcast,
    ctx: &EvalCtx<'_>,
    x: &Args<'_>,
) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let shape = ctx.shape(&op.shape)?;
    let mut map = vec![0; shape.len()];
    for ((axis, step), extent) in op.axes.iter().zip(steps(x)).zip(x.shape()) {
        if *extent != 1 {
            map[*axis] = step;
        }
    }
    Ok(vec![strided(x, &shape, 0, &map)?])
}

pub(in crate::ops) fn reshape(ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    Ok(vec![arg(x, 0)?.clone().reshaped(ctx.result_shape(0)?)?])
}

pub(in crate::ops) fn transpose(op: &Transpose, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let from = steps(x);
    let shape: Vec<_> = op.perm.iter().map(|i| x.shape()[*i]).collect();
    let map: Vec<_> = op.perm.iter().map(|i| from[*i]).collect();
    Ok(vec![strided(x, &shape, 0, &map)?])
}

pub(in crate::ops) fn slice(op: &Slice, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let (start, len) = (op.start.eval(ctx.bindings)?, ctx.extent(&op.len)?);
    let extent = x.shape()[op.axis];
    let (mut shape, mut map) = (x.shape().to_vec(), steps(x));
    shape[op.axis] = len;
    if len == 0 {
        return Ok(vec![Tensor::zeros(x.dtype(), shape)?]);
    }
    let last = i128::from(start) + (len as i128 - 1) * i128::from(op.stride);
    for index in [i128::from(start), last] {
        if !(0..extent as i128).contains(&index) {
            return Err(EvalError::Index { operand: "x", index: index as i64, extent });
        }
    }
    let first = start as usize * map[op.axis] as usize;
    // With one element the stride is not used and need not fit.
    map[op.axis] = if len == 1 { 0 } else { map[op.axis] * op.stride as isize };
    Ok(vec![strided(x, &shape, first, &map)?])
}

pub(in crate::ops) fn reverse(op: &Reverse, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let mut map = steps(x);
    let first = x.shape()[op.axis].saturating_sub(1) * map[op.axis] as usize;
    map[op.axis] = -map[op.axis];
    Ok(vec![strided(x, x.shape(), first, &map)?])
}

/// Joins parts of which each is (elements, extent along the axis); all other extents are equal.
fn join(like: &Tensor, axis: usize, parts: &[(&Data, usize)]) -> Result<Vec<Tensor>, EvalError> {
    let (outer, _, inner) = around(like.shape(), axis);
    let mut data = like.data().take(std::iter::empty());
    for o in 0..outer {
        for (part, extent) in parts {
            let n = extent * inner;
            if !data.append(part, o * n..(o + 1) * n) {
                return Err(EvalError::NoSuchFunction { op: "join", dtype: like.dtype() });
            }
        }
    }
    let mut shape = like.shape().to_vec();
    shape[axis] = parts.iter().map(|p| p.1).sum();
    Ok(vec![Tensor::new(like.dtype(), shape, data)?])
}

pub(in crate::ops) fn concat(op: &Concat, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let xs = (0..x.len()).map(|i| arg(x, i)).collect::<Result<Vec<_>, _>>()?;
    let parts: Vec<_> = xs.iter().map(|x| (x.data(), x.shape()[op.axis])).collect();
    join(arg(x, 0)?, op.axis, &parts)
}

pub(in crate::ops) fn pad(op: &Pad, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (x, value) = (arg(x, 0)?, arg(x, 1)?);
    ctx.result_shape(0)?;
    let (low, high) = (ctx.extent(&op.low)?, ctx.extent(&op.high)?);
    let (outer, extent, inner) = around(x.shape(), op.axis);
    let fill = value.data().take(std::iter::repeat_n(0, outer * inner * low.max(high)));
    join(x, op.axis, &[(&fill, low), (x.data(), extent), (&fill, high)])
}

pub(in crate::ops) fn gather(op: &Gather, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (x, indices) = (arg(x, 0)?, arg(x, 1)?);
    let (outer, extent, inner) = around(x.shape(), op.axis);
    let mut rows = Vec::with_capacity(indices.len());
    for index in indices.as_ints()? {
        let index = *index;
        let row = if index < 0 { index.checked_add_unsigned(extent as u64) } else { Some(index) };
        match row.and_then(|r| usize::try_from(r).ok()) {
            Some(row) if row < extent => rows.push(row),
            _ => return Err(EvalError::Index { operand: "indices", index, extent }),
        }
    }
    let mut positions = Vec::with_capacity(outer * rows.len() * inner);
    for o in 0..outer {
        for row in &rows {
            let first = (o * extent + row) * inner;
            positions.extend(first..first + inner);
        }
    }
    let data = x.data().take(positions.into_iter());
    Ok(vec![Tensor::new(x.dtype(), ctx.result_shape(0)?, data)?])
}
