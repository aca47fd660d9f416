//! One row: loads along k are written out, with as many under way as registers allow.

use super::{Body, Fetched, LOADS, Sums, Tail, group_sum};
use crate::kernel::{Elem, KernelBuilder, Reg};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use std::collections::VecDeque;

/// Most loads of a lane that are written out one by one.
pub(super) const WRITTEN_OUT: i64 = 40;

impl Body<'_> {
    /// The column of the group; `loads` of each lane are written out, what is left of k is a loop.
    pub(super) fn run_one<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (sink, mut tail): (&mut Sink<'a>, Option<&mut Tail<'a>>),
        loads: i64,
    ) -> Result<(), LowerError> {
        let [m, n, k, _] = self.axes;
        let [cols, depth] = [n, k].map(|axes| cx.dim(b, &axes.n()));
        let first_row = b.const_i64(0);
        let row = m.unravel(cx, b, first_row);
        let last = b.sub(cols, 1);
        let nearest = b.min(self.first_col, last);
        let col = n.unravel(cx, b, nearest);
        let at = (std::slice::from_ref(&row), std::slice::from_ref(&col));
        let zero = b.zero(Elem::F32.x(cx.lanes));
        let squares = self.norm.is_some().then(|| b.var_init(zero));
        let sums = Sums { products: vec![b.var_init(zero)], squares };
        let step = self.split.lanes * self.split.group;
        let places: Vec<Reg> = (0..loads).map(|i| b.add(self.first_k, i * step)).collect();
        let mut left = places.iter();
        let mut fetch = |cx: &mut Cx<'a>, b: &mut KernelBuilder| -> Result<Option<Fetched>, LowerError> {
            let Some(place) = left.next() else { return Ok(None) };
            Ok(cx.scope(|cx| self.fetch(cx, b, at.1, std::slice::from_ref(place)))?.pop())
        };
        let mut under_way = VecDeque::new();
        for _ in 0..LOADS {
            under_way.extend(fetch(cx, b)?);
        }
        let scale = self.norm.as_ref().and_then(|norm| norm.expect_scale(cx, b));
        // What follows the sum is asked for before the row, which may not be there yet.
        let channel = tail.as_ref().map(|tail| tail.channel(cx, b, self.first_col)).transpose()?;
        self.ahead(cx, b, sink, at)?;
        let before = match (&tail, &channel) {
            (Some(tail), Some(channel)) => tail.columns(cx, b, channel)?,
            _ => Vec::new(),
        };
        while let Some(fetched) = under_way.pop_front() {
            cx.scope(|cx| self.add(cx, b, at, vec![fetched], &sums))?;
            under_way.extend(fetch(cx, b)?);
        }
        if k.n().as_const() != Some(loads * step) {
            let rest = b.add(self.first_k, loads * step);
            let mut result = Ok(());
            b.for_("k", rest, depth, step, |b, place| {
                result = cx.scope(|cx| {
                    let fetched = self.fetch(cx, b, at.1, &[place])?;
                    self.add(cx, b, at, fetched, &sums)
                });
            });
            result?;
        }
        let mut value = group_sum(b, sums.products[0], self.split.group);
        // What follows the sum may scale it by itself, but not for the convolution.
        let mut scaled = value;
        if let (Some(norm), Some(squares)) = (&self.norm, sums.squares) {
            let squares = group_sum(b, squares, self.split.group);
            let found = norm.scale(b, squares, depth);
            scaled = b.mul(value, found);
            match scale {
                Some(scale) => b.assign(scale, found),
                None => value = scaled,
            }
        }
        let (is_first, in_cols) = (b.eq(self.lane, 0), b.lt(self.first_col, cols));
        let exists = b.and(is_first, in_cols);
        let vectors = std::mem::replace(&mut cx.lanes, 1);
        let mut stored = Ok(());
        b.if_(exists, |b| {
            stored = cx.scope(|cx| {
                let value = b.cast(value, self.elem);
                // What was asked for ahead is known by these indices.
                let place: Vec<Idx> = self.at(&self.p.output, &row, &col, &[]);
                sink.put(cx, b, &place, value)?;
                match (&mut tail, &channel) {
                    (Some(tail), Some(channel)) => {
                        tail.advance(cx, b, (self.first_col, scaled), (channel, &before))
                    }
                    _ => Ok(()),
                }
            });
        });
        cx.lanes = vectors;
        stored
    }
}
