//! Short causal depthwise convolution.
//!
//! ```text
//! thread = (batch, STEPS steps, some neighboring channels)        neighboring threads: neighboring channels
//! ```
//!
//! A thread loads the columns before its steps again; the first-level cache has most of them. Threads whose columns are
//! all columns of the sequence ask for none of them whether it is.

use super::scalar;
use crate::kernel::{Axis, Elem, If, KernelBuilder, Reg, Stmt};
use crate::lower::access::{Cx, unwidened};
use crate::lower::conv1d::{Conv, activate, new_sequence, put_state};
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::CausalConv1d;
use ssmc_ir::{Dim, Graph, Group, ValueId};

/// Steps of a thread: few more loads than steps, and all threads of a short sequence are on the device at once.
const STEPS: i64 = 8;

/// Bytes of a column that a thread loads at most: with 16 taps and columns take twice the registers.
const WIDEST: i64 = 8;

/// Threads of a block: the first that its vectors fill, or the last.
const THREADS: [i64; 5] = [128, 96, 160, 192, 256];

/// Channels of a thread: what divides the channels.
fn lanes(channels: i64, bytes: i64) -> i64 {
    [8, 4, 2].into_iter().find(|lanes| lanes * bytes <= WIDEST && channels % lanes == 0).unwrap_or(1)
}

fn block_threads(channels: i64, bytes: i64) -> i64 {
    let vectors = channels / lanes(channels, bytes);
    THREADS.into_iter().find(|threads| vectors % threads == 0).unwrap_or(128)
}

/// Threads of a block for a convolution.
pub(super) fn threads(graph: &Graph, group: &Group) -> u32 {
    let x = graph.node(group.root).operands.first().copied().flatten();
    let is_member = |id| group.members.contains(&id);
    let ty = x.map(|x| graph.ty(unwidened(graph, &is_member, x)));
    let channels = ty.and_then(|ty| ty.shape.get(2)).and_then(Dim::as_const).unwrap_or(1);
    block_threads(channels, ty.map_or(4, |ty| ty.dtype.bits() as i64 / 8)) as u32
}

/// What the threads read.
struct Columns {
    x: ValueId,
    state: Option<ValueId>,
    seq_idx: Option<ValueId>,
    batch: Idx,
    channels: Idx,
    len: Reg,
    width: i64,
    steps: i64,
    acc: Elem,
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &CausalConv1d) -> Result<Launch, LowerError> {
    let conv = Conv::of(l)?;
    let Conv { x, state, seq_idx, shape, channels, width, elem, acc, state_out, .. } = conv;
    let loaded = l.cx.unwidened(x);
    let bytes = elem_of(l.graph.ty(loaded).dtype)?.size() as i64;
    let lanes = lanes(channels, bytes);
    let threads = block_threads(channels, bytes);
    let vectors = channels / lanes;
    let steps = if shape[1].is(1) { 1 } else { STEPS };
    let runs = shape[1].ceildiv(&Dim::from(steps)).at_least(&Dim::from(1));
    let grid = [shape[0].clone(), runs, Dim::from(vectors).ceildiv(&Dim::from(threads))];
    let (b, cx, sink) = l.parts();
    cx.lanes = lanes as u16;
    let place = row_index(cx, b, &grid);
    let (batch, run, tile) = (place[0], scalar(place[1])?, scalar(place[2])?);
    let (thread, first) = (b.thread_idx(Axis::X), b.mul(tile, threads));
    let vector = b.add(first, thread);
    let exists = (vectors % threads != 0).then(|| b.lt(vector, vectors));
    let vector = if exists.is_some() { b.min(vector, vectors - 1) } else { vector };
    let base = b.mul(vector, lanes);
    let c = cx.lanes_from(base);
    let len = cx.dim(b, &shape[1]);
    let columns = Columns { x: loaded, state, seq_idx, batch, channels: c, len, width, steps, acc };
    let (taps, offset) = conv.filter_together(cx, b, base)?;
    let first = b.mul(run, steps);
    let body = Body { op, columns, taps, offset, exists, first, elem, acc };
    if seq_idx.is_some() || steps == 1 {
        body.run(cx, b, sink, false)?;
    } else {
        let end = b.add(first, steps);
        let (is_begun, is_left) = (b.ge(first, width - 1), b.le(end, len));
        let cond = b.and(is_begun, is_left);
        let mut side = |b: &mut KernelBuilder, is_inside: bool| {
            b.open_list();
            let result = cx.scope(|cx| body.run(cx, b, sink, is_inside));
            let list = b.close_list();
            result.map(|()| list)
        };
        let (on_true, on_false) = (side(b, true)?, side(b, false)?);
        b.push_stmt(Stmt::If(If { cond, on_true, on_false }));
    }
    let is_first = b.eq(run, 0);
    let keeps = exists.map_or(is_first, |exists| b.and(exists, is_first));
    let mut result = Ok(());
    b.if_(keeps, |b| {
        result = cx.scope(|cx| put_state(cx, b, sink, (state_out, x, state), (batch, c, len), width));
    });
    result?;
    let elems = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: elems * Dim::from(2 * width) })
}

/// The steps of a thread.
struct Body<'r> {
    op: &'r CausalConv1d,
    columns: Columns,
    taps: Vec<Reg>,
    offset: Reg,
    /// Whether the channels exist; `None` if all do.
    exists: Option<Reg>,
    first: Reg,
    elem: Elem,
    acc: Elem,
}

impl Body<'_> {
    /// Computes and stores the steps; if all columns are inside the sequence, without asking.
    fn run<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        is_inside: bool,
    ) -> Result<(), LowerError> {
        let columns = &self.columns;
        let loaded = columns.load(cx, b, self.first, is_inside)?;
        let loaded: Vec<Reg> = loaded.into_iter().map(|x| b.cast(x, self.acc)).collect();
        for s in 0..columns.steps as usize {
            let mut sum = self.offset;
            for (tap, column) in self.taps.iter().zip(&columns.seen(cx, b, &loaded, self.first, s)?) {
                sum = b.fma(*tap, *column, sum);
            }
            let y = activate(b, self.op, sum);
            let y = b.cast(y, self.elem);
            let t = b.add(self.first, s);
            let is_step = (!is_inside).then(|| b.lt(t, columns.len));
            let stored = match (self.exists, is_step) {
                (Some(exists), Some(is_step)) => Some(b.and(exists, is_step)),
                (exists, is_step) => exists.or(is_step),
            };
            let at = [columns.batch, Idx::Uniform(t), columns.channels];
            let mut result = Ok(());
            match stored {
                Some(stored) => b.if_(stored, |b| result = cx.scope(|cx| sink.put(cx, b, &at, y))),
                None => result = cx.scope(|cx| sink.put(cx, b, &at, y)),
            }
            result?;
        }
        Ok(())
    }
}

impl Columns {
    /// The columns from `width - 1` before step `first` to its last step; 0 before the sequence. If all are inside the
    /// sequence, nothing asks for it, and they are as they lie in memory.
    fn load<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        first: Reg,
        are_inside: bool,
    ) -> Result<Vec<Reg>, LowerError> {
        let zero = b.zero(self.acc.x(cx.lanes));
        let before = self.width - 1;
        let mut all = Vec::new();
        for i in 0..before + self.steps {
            let t = b.add(first, i - before);
            if are_inside {
                all.push(cx.get_wide(b, self.x, &[self.batch, Idx::Uniform(t), self.channels])?);
                continue;
            }
            let column = b.var_init(zero);
            let (is_begun, is_left) = (b.ge(t, 0), b.lt(t, self.len));
            let exists = b.and(is_begun, is_left);
            let mut result = Ok(());
            let load = |cx: &mut Cx<'a>, b: &mut KernelBuilder, (value, t): (ValueId, Reg)| {
                let at = [self.batch, Idx::Uniform(t), self.channels];
                let x = cx.get_wide_as(b, (value, self.acc), &at)?;
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
