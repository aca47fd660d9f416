//! The complex diagonal scan over pairs of real tensors.
//!
//! One variant: a block per row of states, vectors along the last axis, both parts of the carried state in registers.

use super::conv1d::new_sequence;
use super::elementwise::{for_lanes, row_index};
use super::index::Idx;
use super::selective_scan::step_at;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use ssmc_ir::Dim;
use ssmc_ir::ops::ComplexScan;

pub(super) fn lower(l: &mut Lowering<'_>, op: &ComplexScan) -> Result<Launch, LowerError> {
    let [a_re, a_im, b_re, b_im] = [l.operand(0)?, l.operand(1)?, l.operand(2)?, l.operand(3)?];
    let h0 = l.optional(4).zip(l.optional(5));
    let seq_idx = l.optional(6);
    let (h_im, last_re, last_im) = (l.node.results[1], l.node.results[2], l.node.results[3]);
    let (shape, a_shape) = (l.shape(b_re), l.shape(a_re));
    let elem = elem_of(l.graph.ty(b_re).dtype)?;
    let wide = accumulator(elem);
    let one = Dim::from(1);
    let (outer, last) = match shape {
        [_, _, outer @ .., last] => (outer, last),
        _ => (&[][..], &one),
    };
    let rank = shape.len();
    let (b, cx, sink) = l.parts();
    cx.narrow(last);
    let grid: Vec<Dim> = std::iter::once(&shape[0]).chain(outer).cloned().collect();
    let place = row_index(cx, b, &grid);
    let len = cx.dim(b, &shape[1]);
    for_lanes(cx, b, last, &mut |cx, b, at| {
        let state_idx = &[place.as_slice(), &[at]].concat()[..rank - 1];
        let zero = b.zero(wide.x(cx.lanes));
        let (re, im) = match h0 {
            Some((re, im)) => {
                let re = cx.get_wide_as(b, (re, wide), state_idx)?;
                let im = cx.get_wide_as(b, (im, wide), state_idx)?;
                (b.var_init(re), b.var_init(im))
            }
            None => (b.var_init(zero), b.var_init(zero)),
        };
        let mut result = Ok(());
        b.for_("i", 0, len, 1, |b, i| {
            result = cx.scope(|cx| {
                let (t, before) = step_at(b, i, len, op.reverse);
                if let Some(seq_idx) = seq_idx {
                    let is_new = new_sequence(cx, b, seq_idx, place[0], (t, before))?;
                    b.if_(is_new, |b| {
                        b.assign(re, zero);
                        b.assign(im, zero);
                    });
                }
                let mut idx = state_idx.to_vec();
                idx.insert(1, Idx::Uniform(t));
                let first = b.const_i64(0);
                let at_a = |(i, d): (&Idx, &Dim)| if d.is(1) { Idx::Uniform(first) } else { *i };
                let a_idx: Vec<Idx> = idx.iter().zip(a_shape).map(at_a).collect();
                let a_re = cx.get_wide_as(b, (a_re, wide), &a_idx)?;
                let a_im = cx.get_wide_as(b, (a_im, wide), &a_idx)?;
                let x_re = cx.get_wide_as(b, (b_re, wide), &idx)?;
                let x_im = cx.get_wide_as(b, (b_im, wide), &idx)?;
                let minus_a_im = b.neg(a_im);
                let new_re = b.fma(minus_a_im, im, x_re);
                let new_re = b.fma(a_re, re, new_re);
                let new_im = b.fma(a_im, re, x_im);
                let new_im = b.fma(a_re, im, new_im);
                b.assign(re, new_re);
                b.assign(im, new_im);
                let (out_re, out_im) = (b.cast(re, elem), b.cast(im, elem));
                sink.put(cx, b, &idx, out_re)?;
                sink.put_extra(cx, b, h_im, &idx, out_im)
            });
        });
        result?;
        let (out_re, out_im) = (b.cast(re, elem), b.cast(im, elem));
        sink.put_extra(cx, b, last_re, state_idx, out_re)?;
        sink.put_extra(cx, b, last_im, state_idx, out_im)
    })?;
    let product = |dims: &[Dim]| dims.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: product(&grid), flops: product(shape) * 8 })
}
