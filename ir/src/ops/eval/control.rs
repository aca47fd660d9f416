//! The two ops that own regions.

use super::{Args, EvalCtx, EvalError, arg, around};
use crate::interp::InterpError;
use crate::ops::Loop;
use crate::tensor::Tensor;

fn region(error: InterpError) -> EvalError {
    EvalError::Region(Box::new(error))
}

/// Slice `i` along an axis, which disappears.
fn slice(x: &Tensor, axis: usize, i: usize) -> Result<Tensor, EvalError> {
    let (outer, n, inner) = around(x.shape(), axis);
    let positions = (0..outer).flat_map(|o| (o * n + i) * inner..(o * n + i + 1) * inner);
    let mut shape = x.shape().to_vec();
    shape.remove(axis);
    Ok(Tensor::new(x.dtype(), shape, x.data().take(positions))?)
}

/// Joins slices along a new axis of the given result shape.
fn stack(slices: &[Tensor], like: &Tensor, axis: usize) -> Result<Tensor, EvalError> {
    let mut shape = like.shape().to_vec();
    shape.insert(axis, slices.len());
    let (outer, _, inner) = around(&shape, axis);
    let mut data = like.data().take(std::iter::empty());
    for o in 0..outer {
        for slice in slices {
            if slice.len() != outer * inner || !data.append(slice.data(), o * inner..(o + 1) * inner) {
                let (expected, found) = (like.shape().to_vec(), slice.shape().to_vec());
                return Err(EvalError::Shape { operand: "operands", expected, found });
            }
        }
    }
    Ok(Tensor::new(like.dtype(), shape, data)?)
}

pub(in crate::ops) fn iterate(op: &Loop, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let xs = (0..x.len()).map(|i| arg(x, i)).collect::<Result<Vec<_>, _>>()?;
    let Some(body) = ctx.regions.first() else { return Err(EvalError::Missing { operand: 0 }) };
    let (carried, rest) = xs.split_at(op.n_carried);
    let (scanned, captured) = rest.split_at(op.scan_axes.len());
    let trip_count = ctx.extent(&op.trip_count)?;
    let mut carried: Vec<Tensor> = carried.iter().map(|x| (*x).clone()).collect();
    let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); op.stack_axes.len()];
    for i in 0..trip_count {
        let number = Tensor::int_scalar(i as i64);
        let mut slices = Vec::with_capacity(scanned.len());
        for ((x, axis), reverse) in scanned.iter().zip(&op.scan_axes).zip(&op.scan_reverse) {
            let found = x.shape()[*axis];
            if found != trip_count {
                return Err(EvalError::Shape {
                    operand: "operands",
                    expected: vec![trip_count],
                    found: vec![found],
                });
            }
            slices.push(slice(x, *axis, if *reverse { trip_count - 1 - i } else { i })?);
        }
        let inputs: Vec<&Tensor> =
            std::iter::once(&number).chain(&carried).chain(&slices).chain(captured.iter().copied()).collect();
        let mut outputs = (ctx.run)(body, &inputs).map_err(region)?.into_iter();
        carried = outputs.by_ref().take(op.n_carried).collect();
        for (stack, slice) in stacks.iter_mut().zip(outputs) {
            stack.push(slice);
        }
    }
    let mut results = carried;
    for (k, mut slices) in stacks.into_iter().enumerate() {
        let i = op.n_carried + k;
        if op.stack_reverse[k] {
            slices.reverse();
        }
        results.push(match slices.first().cloned() {
            Some(like) => stack(&slices, &like, op.stack_axes[k])?,
            None => Tensor::zeros(ctx.results[i].dtype, ctx.result_shape(i)?)?,
        });
    }
    Ok(results)
}

pub(in crate::ops) fn branch(ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let cond = arg(x, 0)?.as_bools()?.first().copied().unwrap_or(false);
    let captured = (1..x.len()).map(|i| arg(x, i)).collect::<Result<Vec<_>, _>>()?;
    let Some(taken) = ctx.regions.get(usize::from(!cond)) else {
        return Err(EvalError::Missing { operand: 0 });
    };
    (ctx.run)(taken, &captured).map_err(region)
}
