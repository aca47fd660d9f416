//! Short causal depthwise convolution.
//!
//! ```text
//! thread = (batch, STEPS steps, some neighboring channels)        neighboring threads: neighboring channels
//! ```
//!
//! A thread loads the columns before its steps again; the first-level cache has most of them.

use super::scalar;
use crate::kernel::{Axis, KernelBuilder, Reg};
use crate::lower::access::Cx;
use crate::lower::conv1d::{Conv, activate, new_sequence, put_state};
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::CausalConv1d;
use ssmc_ir::{Dim, ValueId};

pub(super) const THREADS: u32 = 128;

/// Steps of a thread: few more loads than steps, and enough threads for short sequences.
const STEPS: i64 = 8;

/// Channels of a thread, if they divide the channels.
const LANES: [i64; 2] = [4, 2];

/// What the threads read.
struct Columns {
    x: ValueId,
    state: Option<ValueId>,
    seq_idx: Option<ValueId>,
    batch: Idx,
    channels: Idx,
    len: Reg,
    width: i64,
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &CausalConv1d) -> Result<Launch, LowerError> {
    let conv = Conv::of(l)?;
    let Conv { x, state, seq_idx, shape, channels, width, elem, acc, state_out, .. } = conv;
    let lanes = LANES.into_iter().find(|lanes| channels % lanes == 0).unwrap_or(1);
    let vectors = channels / lanes;
    let runs = shape[1].ceildiv(&Dim::from(STEPS)).at_least(&Dim::from(1));
    let grid = [shape[0].clone(), runs, Dim::from(vectors).ceildiv(&Dim::from(i64::from(THREADS)))];
    let (b, cx, sink) = l.parts();
    cx.lanes = lanes as u16;
    let place = row_index(cx, b, &grid);
    let (batch, run, tile) = (place[0], scalar(place[1])?, scalar(place[2])?);
    let (thread, first) = (b.thread_idx(Axis::X), b.mul(tile, THREADS));
    let vector = b.add(first, thread);
    let exists = b.lt(vector, vectors);
    let vector = b.min(vector, vectors - 1);
    let base = b.mul(vector, lanes);
    let c = cx.lanes_from(base);
    let len = cx.dim(b, &shape[1]);
    let columns = Columns { x, state, seq_idx, batch, channels: c, len, width };
    let (taps, offset) = conv.filter(cx, b, c)?;
    let first = b.mul(run, STEPS);
    let loaded = columns.load(cx, b, first)?;
    let loaded: Vec<Reg> = loaded.into_iter().map(|x| b.cast(x, acc)).collect();
    for s in 0..STEPS as usize {
        let mut sum = offset;
        for (tap, column) in taps.iter().zip(&columns.seen(cx, b, &loaded, first, s)?) {
            sum = b.fma(*tap, *column, sum);
        }
        let y = activate(b, op, sum);
        let y = b.cast(y, elem);
        let t = b.add(first, s);
        let is_step = b.lt(t, len);
        let stored = b.and(exists, is_step);
        let mut result = Ok(());
        b.if_(stored, |b| result = cx.scope(|cx| sink.put(cx, b, &[batch, Idx::Uniform(t), c], y)));
        result?;
    }
    let is_first = b.eq(run, 0);
    let keeps = b.and(exists, is_first);
    let mut result = Ok(());
    b.if_(keeps, |b| {
        result = cx.scope(|cx| put_state(cx, b, sink, (state_out, x, state), (batch, c, len), width));
    });
    result?;
    let elems = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: elems * Dim::from(2 * width) })
}

impl Columns {
    /// The columns from `width - 1` before step `first` to its last step, as they lie in memory; 0 before the sequence.
    fn load<'a>(&self, cx: &mut Cx<'a>, b: &mut KernelBuilder, first: Reg) -> Result<Vec<Reg>, LowerError> {
        let elem = elem_of(cx.graph.ty(self.x).dtype)?;
        let zero = b.zero(elem.x(cx.lanes));
        let before = self.width - 1;
        let mut all = Vec::new();
        for i in 0..before + STEPS {
            let column = b.var_init(zero);
            let t = b.add(first, i - before);
            let (is_begun, is_left) = (b.ge(t, 0), b.lt(t, self.len));
            let exists = b.and(is_begun, is_left);
            let mut result = Ok(());
            let load = |cx: &mut Cx<'a>, b: &mut KernelBuilder, (value, t): (ValueId, Reg)| {
                let x = cx.get_wide(b, value, &[self.batch, Idx::Uniform(t), self.channels])?;
                b.assign(column, x);
                Ok(())
            };
            b.if_(exists, |b| result = cx.scope(|cx| load(cx, b, (self.x, t))));
            result?;
            if let (Some(state), true) = (self.state, i < before) {
                let is_old = b.lt(t, 0);
                let at = b.add(t, before);
                let mut result = Ok(());
                b.if_(is_old, |b| result = cx.scope(|cx| load(cx, b, (state, at))));
                result?;
            }
            all.push(column);
        }
        Ok(all)
    }

    /// The columns of step `first + s`: those of other sequences are 0.
    fn seen(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        loaded: &[Reg],
        first: Reg,
        s: usize,
    ) -> Result<Vec<Reg>, LowerError> {
        let mut columns = loaded[s..s + self.width as usize].to_vec();
        let Some(seq_idx) = self.seq_idx else { return Ok(columns) };
        let zero = b.zero(b.ty(columns[0]));
        for i in 1..columns.len() {
            let t = b.add(first, s as i64 + i as i64 - (self.width - 1));
            let last = b.sub(self.len, 1);
            let t = b.min(t, last);
            let t = b.max(t, 0);
            let before = b.sub(t, 1);
            let before = b.max(before, 0);
            let has_steps = b.gt(self.len, 0);
            let is_new = b.var_init(has_steps);
            let mut result = Ok(());
            b.if_(has_steps, |b| {
                result = cx.scope(|cx| {
                    let found = new_sequence(cx, b, seq_idx, self.batch, (t, before))?;
                    b.assign(is_new, found);
                    Ok(())
                });
            });
            result?;
            for column in &mut columns[..i] {
                *column = b.select(is_new, zero, *column);
            }
        }
        Ok(columns)
    }
}
