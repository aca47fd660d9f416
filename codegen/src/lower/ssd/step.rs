//! A single step: states in lanes, as they lie in memory.
//!
//! The state is read and written once, in order. A row's read-out is a sum over lanes; the rows' sums wait in an array
//! until skip and gate take them with rows in lanes.

use super::{Head, Operands, ROW_TILE};
use crate::kernel::{Elem, ReduceOp};
use crate::lower::access::Work;
use crate::lower::conv1d::for_channels;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::scan::discretize;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::Dim;
use ssmc_ir::ops::{ReadOut, Ssd};

/// Whether this is one step of states that fill whole vectors, on a CPU.
pub(super) fn applies(l: &Lowering<'_>, o: &Operands) -> bool {
    let states = l.shape(o.b)[3].as_const();
    let width = l.shape(o.x)[4].as_const();
    let lanes = i64::from(l.cx.lanes);
    l.cx.work == Work::Vectors
        && l.shape(o.x)[1].is(1)
        && o.slots.is_none()
        && lanes > 1
        && width.is_some_and(|p| p >= lanes)
        && states.is_some_and(|n| n % lanes == 0)
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Ssd, o: &Operands) -> Result<Launch, LowerError> {
    let shape = l.shape(o.x);
    let width = l.constant("head width", &shape[4])?;
    let n = l.constant("states", &l.shape(o.b)[3])?;
    let elem: Elem = elem_of(l.graph.ty(o.x).dtype)?;
    let tiles = Dim::from(width).ceildiv(&Dim::from(ROW_TILE));
    let (b, cx, sink) = l.parts();
    let grid = [shape[0].clone(), shape[2].clone(), shape[3].clone(), tiles];
    let place = row_index(cx, b, &grid);
    let Idx::Uniform(tile) = place[3] else {
        return Err(LowerError::Unsupported { op: "ssm.ssd", reason: "block indices are scalars".into() });
    };
    let head = Head { batch: place[0], row: place[0], group: place[1], head: place[2] };
    let first = b.mul(tile, ROW_TILE);
    let end = b.add(first, ROW_TILE);
    let end = if width % ROW_TILE == 0 { end } else { b.min(end, width) };
    let lanes = i64::from(cx.lanes);
    let t = b.const_i64(0);
    let sums = b.local("sums", o.acc, (ROW_TILE.max(lanes)) as u32);
    let zero = b.zero(o.acc.x(cx.lanes));
    let (dt, a) = head.step(cx, b, (o, op), t)?;
    let (decay, factor) = discretize(b, op.discretization, dt, a);
    let wide_decay = cx.widen(b, decay);
    // Lanes of rows that do not exist are read by the last vector of rows.
    for at in (0..ROW_TILE).step_by(lanes as usize) {
        b.store(sums, at, zero);
    }
    let mut result = Ok(());
    b.for_("p", first, end, 1, |b, p| {
        result = cx.scope(|cx| {
            let row = Idx::Uniform(p);
            let x = o.scalar(cx, b, o.x, &[head.at(t).as_slice(), &[row]].concat())?;
            let factor_x = b.mul(factor, x);
            let factor_x = cx.widen(b, factor_x);
            let sum = b.var_init(zero);
            let mut inner = Ok(());
            b.for_("n", 0, n, lanes, |b, at| {
                inner = cx.scope(|cx| {
                    let states = cx.lanes_from(at);
                    let pick = [head.batch, Idx::Uniform(t), head.group, states];
                    let (b_t, c_t) = (o.wide(cx, b, o.b, &pick)?, o.wide(cx, b, o.c, &pick)?);
                    let idx = head.state(row, states);
                    let old = match o.h0 {
                        Some(h0) => o.wide(cx, b, h0, &idx)?,
                        None => zero,
                    };
                    let input = b.mul(factor_x, b_t);
                    let new = b.fma(wide_decay, old, input);
                    let seen = if op.read_out == ReadOut::After { new } else { old };
                    let y = b.fma(seen, c_t, sum);
                    b.assign(sum, y);
                    if !sink.wants(o.h_last) {
                        return Ok(());
                    }
                    let kept = b.cast(new, elem);
                    sink.put_extra(cx, b, o.h_last, &idx, kept)
                });
            });
            inner?;
            let y = b.reduce(ReduceOp::Add, sum);
            let at = b.sub(p, first);
            b.store(sums, at, y);
            Ok(())
        });
    });
    result?;
    for_channels(cx, b, (first, ROW_TILE, width), &mut |cx, b, p| {
        let Idx::Lanes { base, .. } = p else {
            return Err(LowerError::Unsupported { op: "ssm.ssd", reason: "rows are not in lanes".into() });
        };
        let at = b.sub(base, first);
        let y = b.load(sums, at, cx.lanes);
        let y = head.finish(cx, b, o, (t, p), y)?;
        let y = b.cast(y, elem);
        sink.put(cx, b, &[head.at(t).as_slice(), &[p]].concat(), y)
    })?;
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: steps * Dim::from(5 * n + 6) })
}
