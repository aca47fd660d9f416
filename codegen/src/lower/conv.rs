//! General convolution.
//!
//! One variant: a block per row of the result, vectors along the last spatial axis, taps one after the other; what lies
//! in the padding is masked.

use super::elementwise::{for_lanes, row_index, rows_and_last};
use super::index::Idx;
use super::{Launch, LowerError, Lowering, accumulator, elem_of, multiply_add};
use crate::kernel::{Elem, Reg, RegTy};
use ssmc_ir::Dim;
use ssmc_ir::ops::Conv;

pub(super) fn lower(l: &mut Lowering<'_>, op: &Conv) -> Result<Launch, LowerError> {
    let (x, w, bias) = (l.operand(0)?, l.operand(1)?, l.optional(2));
    let shape = l.shape(l.node.results[0]);
    let (x_shape, w_shape) = (l.shape(x), l.shape(w));
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let acc = accumulator(elem);
    let n_spatial = shape.len() - 2;
    let (rows, Some(last)) = rows_and_last(shape) else { return l.unsupported("the result is a scalar") };
    let taps: Vec<i64> =
        w_shape[1..].iter().map(|d| l.constant("the kernel's extents", d)).collect::<Result<_, _>>()?;
    let out_per_group = l.constant("output channels", &w_shape[0])? / op.groups as i64;
    let in_per_group = taps[0];
    let (b, cx, sink) = l.parts();
    cx.narrow(last);
    let row = row_index(cx, b, rows);
    let Idx::Uniform(channel) = row[1] else {
        return Err(LowerError::Unsupported { op: "conv", reason: "block indices are scalars".into() });
    };
    let group = b.div(channel, out_per_group);
    let first_channel = b.mul(group, in_per_group);
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let idx = [row.as_slice(), &[at]].concat();
        let init = match bias {
            Some(bias) => cx.get_wide_as(b, (bias, acc), &[row[1]])?,
            None => b.zero(acc.x(cx.lanes)),
        };
        let sum = b.var_init(init);
        let mut result = Ok(());
        let n_taps: i64 = taps.iter().product();
        b.for_("k", 0, n_taps, 1, |b, k| {
            result = cx.scope(|cx| {
                let extents: Vec<Reg> = taps.iter().map(|n| b.const_i64(*n)).collect();
                let tap = cx.index(b).unravel(Idx::Uniform(k), &extents);
                let mut ib = cx.index(b);
                let in_channel = ib.add(tap[0], Idx::Uniform(first_channel));
                let mut inner = vec![row[0], in_channel];
                for s in 0..n_spatial {
                    let stride = ib.b.const_i64(op.strides[s] as i64);
                    let dilation = ib.b.const_i64(op.dilations[s] as i64);
                    let pad = ib.constant(-(op.pads[s] as i64));
                    let (place, reach) = (ib.mul(idx[2 + s], stride), ib.mul(tap[1 + s], dilation));
                    let place = ib.add(place, reach);
                    inner.push(ib.add(place, pad));
                }
                let w_idx: Vec<Idx> = std::iter::once(row[1]).chain(tap).collect();
                let w = cx.get_wide_as(b, (w, acc), &w_idx)?;
                let x = guarded_all(cx, b, x, &inner, &x_shape[2..], elem)?;
                let x = cx.widen(b, x);
                let x = b.cast(x, acc);
                let next = multiply_add(b, x, w, sum);
                b.assign(sum, next);
                Ok(())
            });
        });
        result?;
        let y = b.cast(sum, elem);
        sink.put(cx, b, &idx, y)
    })?;
    let flops = shape.iter().fold(Dim::from(2 * taps.iter().product::<i64>()), |n, d| n * d);
    Ok(Launch { grid: rows.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// The element where all spatial indices lie inside, else 0.
fn guarded_all(
    cx: &mut super::access::Cx<'_>,
    b: &mut crate::kernel::KernelBuilder,
    x: ssmc_ir::ValueId,
    idx: &[Idx],
    spatial: &[Dim],
    elem: Elem,
) -> Result<Reg, LowerError> {
    // The lane axis is guarded by a mask of its own; the others are scalars and guard a branch around it.
    let mut inside: Option<Reg> = None;
    for (i, d) in idx[2..idx.len() - 1].iter().zip(spatial) {
        let Idx::Uniform(i) = *i else { continue };
        let n = cx.dim(b, d);
        let (from, below) = (b.ge(i, 0), b.lt(i, n));
        let both = b.and(from, below);
        inside = Some(match inside {
            Some(others) => b.and(others, both),
            None => both,
        });
    }
    let n = cx.dim(b, &spatial[spatial.len() - 1]);
    let zero = b.zero(RegTy::scalar(elem));
    let Some(inside) = inside else { return cx.guarded(b, x, idx, idx.len() - 1, n, zero) };
    let wide_zero = b.zero(elem.x(cx.lanes));
    let var = b.var_init(wide_zero);
    let mut result = Ok(());
    b.if_(inside, |b| {
        result = cx.scope(|cx| {
            let v = cx.guarded(b, x, idx, idx.len() - 1, n, zero)?;
            let v = cx.widen(b, v);
            b.assign(var, v);
            Ok(())
        });
    });
    result?;
    Ok(b.cast(var, elem))
}
