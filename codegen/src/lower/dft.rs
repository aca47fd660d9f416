//! Fourier transforms, as the sums that define them.
//!
//! One variant: a block per row of the spectrum, vectors along the last axis. Angles are reduced as integers and their
//! cosines taken in f64, so that long transforms lose nothing.

use super::elementwise::{for_lanes, row_index, rows_and_last};
use super::index::Idx;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Elem, KernelBuilder, Reg, RegTy};
use ssmc_ir::Dim;
use ssmc_ir::ops::Dft;

pub(super) fn lower(l: &mut Lowering<'_>, op: &Dft) -> Result<Launch, LowerError> {
    let (re, im) = (l.operand(0)?, l.optional(1));
    let (re_out, im_out) = (l.node.results[0], l.node.results[1]);
    let shape = l.shape(re_out);
    let elem = elem_of(l.graph.ty(re).dtype)?;
    let acc = accumulator(elem);
    let stored = if op.inverse && op.onesided { op.half() } else { op.length.clone() };
    let terms = l.shape(re)[op.axis].at_most(&stored);
    let (rows, Some(last)) = rows_and_last(shape) else { return l.unsupported("the result is a scalar") };
    let (b, cx, sink) = l.parts();
    cx.narrow(last);
    let row = row_index(cx, b, rows);
    let (n, n_terms) = (cx.dim(b, &op.length), cx.dim(b, &terms));
    let tau = b.const_like(RegTy::scalar(Elem::F64), std::f64::consts::TAU);
    let n_float = b.cast(n, Elem::F64);
    let step = b.div(tau, n_float);
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let idx = [row.as_slice(), &[at]].concat();
        let zero = b.zero(acc.x(cx.lanes));
        let (re_sum, im_sum) = (b.var_init(zero), b.var_init(zero));
        let k = match idx[op.axis] {
            Idx::Uniform(k) => k,
            lanes => cx.index(b).vector(lanes),
        };
        let mut result = Ok(());
        b.for_("t", 0, n_terms, 1, |b, t| {
            result = cx.scope(|cx| {
                let (cos, sin) = root(b, (k, t), (n, step));
                let (cos, sin) = (b.cast(cos, acc), b.cast(sin, acc));
                let (cos, sin) = (cx.widen(b, cos), cx.widen(b, sin));
                let mut inner = idx.clone();
                inner[op.axis] = Idx::Uniform(t);
                let mut x_re = cx.get_wide_as(b, (re, acc), &inner)?;
                let mut x_im = match im {
                    Some(im) => cx.get_wide_as(b, (im, acc), &inner)?,
                    None => zero,
                };
                if op.inverse && op.onesided {
                    // An element and its mirror image are conjugate; one that is its own is real.
                    let twice = b.mul(t, 2);
                    let (is_first, is_middle) = (b.eq(t, 0), b.eq(twice, n));
                    let is_own = b.or(is_first, is_middle);
                    let (re_twice, im_twice) = (b.add(x_re, x_re), b.add(x_im, x_im));
                    x_re = b.select(is_own, x_re, re_twice);
                    x_im = b.select(is_own, zero, im_twice);
                }
                let sin = if op.inverse { sin } else { b.neg(sin) };
                let minus_sin = b.neg(sin);
                let next = b.fma(x_re, cos, re_sum);
                let next = if im.is_some() { b.fma(x_im, minus_sin, next) } else { next };
                b.assign(re_sum, next);
                let next = b.fma(x_re, sin, im_sum);
                let next = if im.is_some() { b.fma(x_im, cos, next) } else { next };
                b.assign(im_sum, next);
                Ok(())
            });
        });
        result?;
        let (mut y_re, mut y_im) = (b.cast(re_sum, acc), b.cast(im_sum, acc));
        if op.inverse {
            let scale = b.cast(n, acc);
            let scale = cx.widen(b, scale);
            y_re = b.div(y_re, scale);
            y_im = if op.onesided { zero } else { b.div(y_im, scale) };
        }
        let (y_re, y_im) = (b.cast(y_re, elem), b.cast(y_im, elem));
        sink.put(cx, b, &idx, y_re)?;
        sink.put_extra(cx, b, im_out, &idx, y_im)
    })?;
    let flops = shape.iter().fold(terms * Dim::from(8), |n, d| n * d);
    Ok(Launch { grid: rows.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// Cosine and sine of k*t/n of a full turn, in f64.
fn root(b: &mut KernelBuilder, (k, t): (Reg, Reg), (n, step): (Reg, Reg)) -> (Reg, Reg) {
    let lanes = b.lanes(k);
    let wide = |b: &mut KernelBuilder, x: Reg| if lanes > 1 { b.splat(x, lanes) } else { x };
    let (t, n, step) = (wide(b, t), wide(b, n), wide(b, step));
    let turns = b.mul(k, t);
    let turns = b.rem(turns, n);
    let turns = b.cast(turns, Elem::F64);
    let angle = b.mul(turns, step);
    (b.cos(angle), b.sin(angle))
}
