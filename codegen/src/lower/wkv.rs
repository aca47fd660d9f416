//! The stabilized scan of a weighted mean on CPUs.
//!
//! One variant: a tile of channels in lanes walks along the sequence, both sums and the maximum in registers.

use super::conv1d::{for_channels, new_sequence};
use super::elementwise::row_index;
use super::index::Idx;
use super::selective_scan::step_at;
use super::slots::{Part, Rows};
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Elem, KernelBuilder, Reg};
use ssmc_ir::ops::Wkv;
use ssmc_ir::{Dim, ValueId};

/// Channels of a block: the widest vector, so that grids do not depend on the level.
const CHANNEL_TILE: i64 = 16;

/// Both sums times exp(-max): registers, or variables.
#[derive(Clone, Copy)]
struct State {
    num: Reg,
    den: Reg,
    max: Reg,
}

impl State {
    fn empty(b: &mut KernelBuilder, elem: Elem, lanes: u16) -> Self {
        let ty = elem.x(lanes);
        let zero = b.zero(ty);
        Self { num: zero, den: zero, max: b.const_like(ty, f64::NEG_INFINITY) }
    }

    fn var(self, b: &mut KernelBuilder) -> Self {
        Self { num: b.var_init(self.num), den: b.var_init(self.den), max: b.var_init(self.max) }
    }

    fn assign(self, b: &mut KernelBuilder, new: Self) {
        b.assign(self.num, new.num);
        b.assign(self.den, new.den);
        b.assign(self.max, new.max);
    }

    /// The sums after their weights grew by exp(decay) and `value` joined them with weight exp(exponent).
    fn with(self, b: &mut KernelBuilder, decay: Option<Reg>, exponent: Reg, value: Reg) -> Self {
        let old = match decay {
            Some(decay) => b.add(self.max, decay),
            None => b.cast(self.max, b.ty(self.max).elem()),
        };
        let max = b.max_nan(old, exponent);
        let none = b.const_like(b.ty(max), f64::NEG_INFINITY);
        let zero = b.zero(b.ty(max));
        let is_empty = b.eq(max, none);
        let base = b.select(is_empty, zero, max);
        let kept = b.sub(old, base);
        let kept = b.exp(kept);
        let added = b.sub(exponent, base);
        let added = b.exp(added);
        let input = b.mul(added, value);
        Self { num: b.fma(kept, self.num, input), den: b.fma(kept, self.den, added), max }
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Wkv) -> Result<Launch, LowerError> {
    let (w, k, v, u) = (l.operand(0)?, l.operand(1)?, l.operand(2)?, l.optional(3));
    let initial = [l.optional(4), l.optional(5), l.optional(6)];
    let (seq_idx, slots) = (l.optional(7), l.optional(8));
    let shape = l.shape(k);
    let w_shape = l.shape(w);
    let channels = l.constant("channels", &shape[2])?;
    let elem = elem_of(l.graph.ty(k).dtype)?;
    let acc = accumulator(elem);
    let last: Vec<ValueId> = l.node.results[1..].to_vec();
    let rows = Rows { batch: &shape[0], slots: slots.map(|slots| (slots, &l.shape(last[0])[0])) };
    let tiles = Dim::from(channels).ceildiv(&Dim::from(CHANNEL_TILE));
    let (b, cx, sink) = l.parts();
    cx.narrow(&shape[2]);
    let grid = [rows.grid(), tiles];
    let place = row_index(cx, b, &grid);
    let Idx::Uniform(tile) = place[1] else {
        return Err(LowerError::Unsupported { op: "ssm.wkv", reason: "block indices are scalars".into() });
    };
    let first = b.mul(tile, CHANNEL_TILE);
    let len = cx.dim(b, &shape[1]);
    rows.run(cx, b, place[0], &mut |cx, b, part| {
        for_channels(cx, b, (first, CHANNEL_TILE, channels), &mut |cx, b, c| {
            let empty = State::empty(b, acc, cx.lanes);
            let row = part.row();
            let start = match initial {
                [Some(num), Some(den), Some(max)] => State {
                    num: cx.get_wide_as(b, (num, acc), &[row, c])?,
                    den: cx.get_wide_as(b, (den, acc), &[row, c])?,
                    max: cx.get_wide_as(b, (max, acc), &[row, c])?,
                },
                _ => empty,
            };
            let state = start.var(b);
            if let Part::Steps { batch, .. } = part {
                let own = u.map(|u| cx.get_wide_as(b, (u, acc), &[c])).transpose()?;
                let mut result = Ok(());
                b.for_("i", 0, len, 1, |b, i| {
                    result = cx.scope(|cx| {
                        let t = step_at(b, i, len, op.reverse);
                        if let Some(seq_idx) = seq_idx {
                            let is_new = new_sequence(cx, b, seq_idx, batch, t)?;
                            b.if_(is_new, |b| state.assign(b, empty));
                        }
                        let at = [batch, Idx::Uniform(t.0), c];
                        let zero = b.const_i64(0);
                        let pick = |(i, d): (&Idx, &Dim)| if d.is(1) { Idx::Uniform(zero) } else { *i };
                        let w_at: Vec<Idx> = at.iter().zip(w_shape).map(pick).collect();
                        let decay = cx.get_wide_as(b, (w, acc), &w_at)?;
                        let k = cx.get_wide_as(b, (k, acc), &at)?;
                        let v = cx.get_wide_as(b, (v, acc), &at)?;
                        let next = state.with(b, Some(decay), k, v);
                        let seen = match own {
                            Some(own) => {
                                let exponent = b.add(own, k);
                                state.with(b, None, exponent, v)
                            }
                            None => next,
                        };
                        let y = b.div(seen.num, seen.den);
                        let y = b.cast(y, elem);
                        sink.put(cx, b, &at, y)?;
                        state.assign(b, next);
                        Ok(())
                    });
                });
                result?;
            }
            part.keep(cx, b, &mut |cx, b| {
                for (value, x) in last.iter().zip([state.num, state.den, state.max]) {
                    let x = b.cast(x, elem);
                    sink.put_extra(cx, b, *value, &[row, c], x)?;
                }
                Ok(())
            })
        })
    })?;
    let elems = shape.iter().fold(Dim::from(1), |n, d| n * d);
    let per_step = if u.is_some() { 24 } else { 13 };
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: elems * Dim::from(per_step) })
}
