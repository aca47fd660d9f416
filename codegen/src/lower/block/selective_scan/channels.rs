//! One channel per thread, states in registers, b and c shared by the block.
//!
//! ```text
//! block = (batch, group, tile of channels)        thread = channel e
//!
//!            tile of steps j            tile j + 1
//! b, c    [ shared, steps x N ]   <-- being copied meanwhile
//! x, dt, z  read at (step, e): neighbors in memory for neighboring threads
//! h[0..N]   registers, from tile to tile
//! ```

use super::super::scalar;
use super::super::staging::{Shape, Stage, buffers};
use super::{Channel, Mixer, f32_at};
use crate::kernel::{Axis, KernelBuilder, Reg};
use crate::lower::access::Cx;
use crate::lower::conv1d::new_sequence;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::selective_scan::step_at;
use crate::lower::{LowerError, Lowering};
use ssmc_ir::Dim;

/// Steps whose loads are under way together, to hide the latency of memory.
const UNROLL: i64 = 4;

/// What a thread keeps per state.
struct States {
    /// `a * log2(e)`
    decay: Vec<Reg>,
    h: Vec<Reg>,
}

pub(super) fn lower<'a>(
    l: &mut Lowering<'a>,
    m: &Mixer<'a>,
    threads: u32,
    steps: i64,
) -> Result<Dim, LowerError> {
    let (b, cx, sink) = l.parts();
    let tiles = m.shape[3].ceildiv(&Dim::from(i64::from(threads)));
    let grid = [m.shape[0].clone(), m.shape[2].clone(), tiles];
    let place = row_index(cx, b, &grid);
    let (batch, group, tile) = (place[0], place[1], scalar(place[2])?);
    let thread = b.thread_idx(Axis::X);
    let first = b.mul(tile, threads);
    let channel_idx = b.add(first, thread);
    let channels = cx.dim(b, &m.shape[3]);
    let exists = b.lt(channel_idx, channels);
    let e = Idx::Uniform(channel_idx);
    let len = cx.dim(b, &m.shape[1]);
    let stage = |cx: &mut Cx<'a>, b: &mut KernelBuilder, name: &str, value| {
        let shape = Shape { value, rows: steps, cols: m.n, pad: 0, run: m.n, is_column_major: false };
        Stage::declare(cx, b, name, shape, threads)
    };
    let (b_tile, c_tile) = (stage(cx, b, "b_tile", m.b)?, stage(cx, b, "c_tile", m.c)?);

    let mut states = States { decay: Vec::new(), h: Vec::new() };
    for n in 0..m.n {
        let state = Idx::Uniform(b.const_i64(n));
        let a = only_if(cx, b, exists, |cx, b| f32_at(cx, b, m.a, &[group, e, state]))?;
        states.decay.push(b.mul(a, std::f64::consts::LOG2_E));
        let h = match m.h0 {
            Some(h0) => only_if(cx, b, exists, |cx, b| f32_at(cx, b, h0, &[batch, group, e, state]))?,
            None => {
                let zero = b.const_f32(0.0);
                b.var_init(zero)
            }
        };
        b.name(h, &format!("h{n}"));
        states.h.push(h);
    }
    let mut per_channel = |value: Option<_>| {
        value.map(|v| only_if(cx, b, exists, |cx, b| f32_at(cx, b, v, &[group, e]))).transpose()
    };
    let channel = Channel { bias: per_channel(m.dt_bias)?, skip: per_channel(m.d)? };

    // Tile number `j` of b and c, into the buffer that starts at element `buffer`.
    let fetch = |cx: &mut Cx<'a>, b: &mut KernelBuilder, j: Reg, buffer: Reg| {
        let base = b.mul(j, steps);
        let place = &mut |_: &mut Cx<'a>, b: &mut KernelBuilder, (row, col): (Reg, Reg)| {
            let i = b.add(base, row);
            let (t, _) = step_at(b, i, len, m.op.reverse);
            (vec![batch, Idx::Uniform(t), group, Idx::Uniform(col)], b.lt(i, len))
        };
        let b_fetched = b_tile.fetch(cx, b, (thread, buffer), place)?;
        let c_fetched = c_tile.fetch(cx, b, (thread, buffer), place)?;
        Ok::<_, LowerError>([b_fetched, c_fetched])
    };
    let arrive = |b: &mut KernelBuilder, [b_fetched, c_fetched]: &[_; 2]| {
        b_tile.arrive(b, b_fetched);
        c_tile.arrive(b, c_fetched);
    };

    let zero = b.const_i64(0);
    let fetched = fetch(cx, b, zero, zero)?;
    arrive(b, &fetched);
    let n_tiles = b.ceil_div(len, steps);
    let mut result = Ok(());
    b.for_("tile", 0, n_tiles, 1, |b, j| {
        result = cx.scope(|cx| {
            b.barrier();
            let (this, next) = buffers(b, j, b_tile.size());
            let after = b.add(j, 1);
            let fetched = fetch(cx, b, after, next)?;
            let base = b.mul(j, steps);
            let left = b.sub(len, base);
            let count = b.min(left, steps);
            let mut inner = Ok(());
            b.if_(exists, |b| {
                b.for_("s", 0, count, UNROLL, |b, s| {
                    inner = cx.scope(|cx| {
                        let steps: Vec<Step> = (0..UNROLL).map(|k| step(b, m, base, s, k, len)).collect();
                        let at = |step: &Step| [batch, Idx::Uniform(step.t), group, e];
                        // Requested here, found again below: the loads of all steps are under way before the first use.
                        for step in &steps {
                            for value in [Some(m.dt), Some(m.x), m.z].into_iter().flatten() {
                                cx.get(b, value, &at(step))?;
                            }
                        }
                        for step in &steps {
                            let is_left = b.lt(step.s, count);
                            let mut result = Ok(());
                            b.if_(is_left, |b| {
                                result = cx.scope(|cx| {
                                    if let Some(seq_idx) = m.seq_idx {
                                        let around = (step.t, step.before);
                                        let is_new = new_sequence(cx, b, seq_idx, batch, around)?;
                                        b.if_(is_new, |b| states.h.iter().for_each(|h| b.assign(*h, 0.0)));
                                    }
                                    let at = at(step);
                                    let (dt, x) = m.inputs(cx, b, &channel, &at)?;
                                    let row = b.mul(step.s, m.n);
                                    let row = b.add(row, this);
                                    let sum = advance(b, &states, (dt, x), (&b_tile, &c_tile), row);
                                    m.output(cx, b, sink, &channel, &at, (sum, x))
                                });
                            });
                            result?;
                        }
                        Ok(())
                    });
                });
            });
            inner?;
            arrive(b, &fetched);
            Ok(())
        });
    });
    result?;
    if sink.wants(m.h_last) {
        let mut result = Ok(());
        b.if_(exists, |b| {
            result = cx.scope(|cx| {
                states.h.iter().enumerate().try_for_each(|(n, h)| {
                    let state = Idx::Uniform(b.const_i64(n as i64));
                    let h = b.cast(*h, m.elem);
                    sink.put_extra(cx, b, m.h_last, &[batch, group, e, state], h)
                })
            });
        });
        result?;
    }
    Ok(grid.iter().fold(Dim::from(1), |n, d| n * d))
}

/// One of the steps that are computed together.
struct Step {
    /// Number in the tile.
    s: Reg,
    t: Reg,
    before: Reg,
}

/// Step `s + k` of the tile that begins at step `base`; `t` is that of the last step beyond the end, where loads are
/// harmless and nothing is computed.
fn step(b: &mut KernelBuilder, m: &Mixer<'_>, base: Reg, s: Reg, k: i64, len: Reg) -> Step {
    let s = b.add(s, k);
    let (i, last) = (b.add(base, s), b.sub(len, 1));
    let i = b.min(i, last);
    let (t, before) = step_at(b, i, len, m.op.reverse);
    Step { s, t, before }
}

/// One step of all states; b and c are read from `row` of their tiles. Returns the read-out.
fn advance(
    b: &mut KernelBuilder,
    states: &States,
    (dt, x): (Reg, Reg),
    (b_tile, c_tile): (&Stage, &Stage),
    row: Reg,
) -> Reg {
    let dt_x = b.mul(dt, x);
    let mut sum = b.const_f32(0.0);
    let n = states.h.len();
    let lanes = [4, 2, 1].into_iter().find(|lanes| n.is_multiple_of(*lanes)).unwrap_or(1);
    for first in (0..n).step_by(lanes) {
        let at = b.add(row, first);
        let (b_t, c_t) = (b_tile.load(b, at, lanes as u16), c_tile.load(b, at, lanes as u16));
        for lane in 0..lanes {
            let (h, decay) = (states.h[first + lane], states.decay[first + lane]);
            let exponent = b.mul(dt, decay);
            let a_bar = b.exp2(exponent);
            let b_n = b.extract(b_t, lane as u16);
            let input = b.mul(dt_x, b_n);
            let new = b.fma(a_bar, h, input);
            b.assign(h, new);
            let c_n = b.extract(c_t, lane as u16);
            sum = b.fma(new, c_n, sum);
        }
    }
    sum
}

/// `value` where `cond` holds, computed only there, else 0.
fn only_if<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    cond: Reg,
    value: impl FnOnce(&mut Cx<'a>, &mut KernelBuilder) -> Result<Reg, LowerError>,
) -> Result<Reg, LowerError> {
    let zero = b.const_f32(0.0);
    let x = b.var_init(zero);
    let mut result = Ok(());
    b.if_(cond, |b| result = cx.scope(|cx| value(cx, b)).map(|v| b.assign(x, v)));
    result.map(|()| x)
}
