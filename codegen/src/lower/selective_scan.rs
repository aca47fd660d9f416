//! The selective scan on CPUs: channels in lanes, states in registers, one pass along the sequence.
//!
//! Variants: (1) states unrolled in registers up to [`UNROLLED_STATES`]; (2) more states in a local array. The decay
//! is one exp2 per step, channel and state; `a` is scaled by log2(e) once.

use super::access::Cx;
use super::conv1d::{for_channels, new_sequence};
use super::elementwise::row_index;
use super::index::Idx;
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{KernelBuilder, LocalId, Reg};
use ssmc_ir::Dim;
use ssmc_ir::ops::{Discretization, F64, SelectiveScan};

/// Channels of a block: the widest vector, so that grids do not depend on the level.
const CHANNEL_TILE: i64 = 16;

/// States that are kept in registers.
const UNROLLED_STATES: i64 = 32;

/// The step size after bias, softplus and limits.
pub(super) fn step_size(
    b: &mut KernelBuilder,
    dt: Reg,
    bias: Option<Reg>,
    softplus: bool,
    (dt_min, dt_max): (F64, F64),
) -> Reg {
    let mut dt = match bias {
        Some(bias) => b.add(dt, bias),
        None => dt,
    };
    if softplus {
        dt = b.softplus(dt);
    }
    let ty = b.ty(dt);
    if dt_min.get() != f64::NEG_INFINITY {
        let low = b.const_like(ty, dt_min.get());
        dt = b.max(low, dt);
    }
    if dt_max.get() != f64::INFINITY {
        let high = b.const_like(ty, dt_max.get());
        dt = b.min(high, dt);
    }
    dt
}

/// Step number `i` of a scan in its direction, and the step before it (the same at the start).
pub(super) fn step_at(b: &mut KernelBuilder, i: Reg, len: Reg, reverse: bool) -> (Reg, Reg) {
    let before = b.sub(i, 1);
    let before = b.max(before, 0);
    if !reverse {
        return (i, before);
    }
    let last = b.sub(len, 1);
    (b.sub(last, i), b.sub(last, before))
}

/// The states of one vector of channels.
enum States {
    Registers(Vec<Reg>),
    Local(LocalId),
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &SelectiveScan) -> Result<Launch, LowerError> {
    if op.discretization != Discretization::ExpEuler {
        return l.unsupported(format!("discretization {} has no kernel", op.discretization.name()));
    }
    let [x, dt, a, bb, c] = [l.operand(0)?, l.operand(1)?, l.operand(2)?, l.operand(3)?, l.operand(4)?];
    let (d, z, dt_bias) = (l.optional(5), l.optional(6), l.optional(7));
    let (h0, seq_idx) = (l.optional(8), l.optional(9));
    let shape = l.shape(x);
    let channels = l.constant("channels", &shape[3])?;
    let n = l.constant("states", &l.shape(a)[2])?;
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let acc = accumulator(elem);
    let h_last = l.node.results[1];
    let tiles = Dim::from(channels).ceildiv(&Dim::from(CHANNEL_TILE));
    let (b, cx, sink) = l.parts();
    cx.narrow(&shape[3]);
    let grid = [shape[0].clone(), shape[2].clone(), tiles];
    let place = row_index(cx, b, &grid);
    let (batch, group, Idx::Uniform(tile)) = (place[0], place[1], place[2]) else {
        return Err(LowerError::Unsupported {
            op: "ssm.selective_scan",
            reason: "block indices are scalars".into(),
        });
    };
    let first = b.mul(tile, CHANNEL_TILE);
    let len = cx.dim(b, &shape[1]);
    let lanes = i64::from(cx.lanes);
    let unrolled = n <= UNROLLED_STATES;
    let decay = b.local("decay", acc, (n * lanes) as u32);
    let local_h = (!unrolled).then(|| b.local("h", acc, (n * lanes) as u32));
    for_channels(cx, b, (first, CHANNEL_TILE, channels), &mut |cx, b, e| {
        let get = |cx: &mut Cx<'_>, b: &mut KernelBuilder, value, idx: &[Idx]| {
            cx.get_wide_as(b, (value, acc), idx)
        };
        let zero = b.zero(acc.x(cx.lanes));
        let mut result = Ok(());
        // Once per tile: scaled decays, initial states, bias and skip.
        let registers: Vec<Reg> =
            if unrolled { (0..n).map(|_| b.var_init(zero)).collect() } else { Vec::new() };
        let states = match local_h {
            Some(local) => States::Local(local),
            None => States::Registers(registers),
        };
        let start = |cx: &mut Cx<'_>, b: &mut KernelBuilder, state: Reg, h: Option<Reg>| {
            let a = get(cx, b, a, &[group, e, Idx::Uniform(state)])?;
            let scaled = b.mul(a, std::f64::consts::LOG2_E);
            let at = b.mul(state, lanes);
            b.store(decay, at, scaled);
            let init = match h0 {
                Some(h0) => get(cx, b, h0, &[batch, group, e, Idx::Uniform(state)])?,
                None => zero,
            };
            match (h, local_h) {
                (Some(h), _) => b.assign(h, init),
                (None, Some(local)) => b.store(local, at, init),
                (None, None) => {}
            }
            Ok::<_, LowerError>(())
        };
        match &states {
            States::Registers(h) => {
                for (i, h) in h.iter().enumerate() {
                    let state = b.const_i64(i as i64);
                    start(cx, b, state, Some(*h))?;
                }
            }
            States::Local(_) => b.for_("n", 0, n, 1, |b, state| {
                result = cx.scope(|cx| start(cx, b, state, None));
            }),
        }
        result?;
        let bias = dt_bias.map(|v| get(cx, b, v, &[group, e])).transpose()?;
        let skip = d.map(|v| get(cx, b, v, &[group, e])).transpose()?;
        let mut result = Ok(());
        b.for_("i", 0, len, 1, |b, i| {
            result = cx.scope(|cx| {
                let (t, before) = step_at(b, i, len, op.reverse);
                if let Some(seq_idx) = seq_idx {
                    let is_new = new_sequence(cx, b, seq_idx, batch, (t, before))?;
                    b.if_(is_new, |b| match &states {
                        States::Registers(h) => h.iter().for_each(|h| b.assign(*h, zero)),
                        States::Local(local) => {
                            b.for_("n", 0, n * lanes, lanes, |b, at| b.store(*local, at, zero));
                        }
                    });
                }
                let at = [batch, Idx::Uniform(t), group, e];
                let dt_raw = get(cx, b, dt, &at)?;
                let dt = step_size(b, dt_raw, bias, op.dt_softplus, (op.dt_min, op.dt_max));
                let x_t = get(cx, b, x, &at)?;
                let dt_x = b.mul(dt, x_t);
                let sum = b.var_init(zero);
                let advance = |cx: &mut Cx<'_>, b: &mut KernelBuilder, state: Reg, h: Option<Reg>| {
                    let pick = [batch, Idx::Uniform(t), group, Idx::Uniform(state)];
                    let (b_t, c_t) = (get(cx, b, bb, &pick)?, get(cx, b, c, &pick)?);
                    let at = b.mul(state, lanes);
                    let a = b.load(decay, at, cx.lanes);
                    let exponent = b.mul(dt, a);
                    let a_bar = b.exp2(exponent);
                    let input = b.mul(dt_x, b_t);
                    let old = match (h, local_h) {
                        (Some(h), _) => h,
                        (None, Some(local)) => b.load(local, at, cx.lanes),
                        (None, None) => zero,
                    };
                    let new = b.fma(a_bar, old, input);
                    match (h, local_h) {
                        (Some(h), _) => b.assign(h, new),
                        (None, Some(local)) => b.store(local, at, new),
                        (None, None) => {}
                    }
                    let y = b.fma(new, c_t, sum);
                    b.assign(sum, y);
                    Ok::<_, LowerError>(())
                };
                let mut inner = Ok(());
                match &states {
                    States::Registers(h) => {
                        for (i, h) in h.iter().enumerate() {
                            let state = b.const_i64(i as i64);
                            advance(cx, b, state, Some(*h))?;
                        }
                    }
                    States::Local(_) => b.for_("n", 0, n, 1, |b, state| {
                        inner = cx.scope(|cx| advance(cx, b, state, None));
                    }),
                }
                inner?;
                let mut y = b.cast(sum, acc);
                if let Some(skip) = skip {
                    y = b.fma(skip, x_t, y);
                }
                if let Some(z) = z {
                    let z = get(cx, b, z, &at)?;
                    let gate = b.silu(z);
                    y = b.mul(y, gate);
                }
                let y = b.cast(y, elem);
                sink.put(cx, b, &at, y)
            });
        });
        result?;
        if !sink.wants(h_last) {
            return Ok(());
        }
        match &states {
            States::Registers(h) => {
                for (i, h) in h.iter().enumerate() {
                    let state = Idx::Uniform(b.const_i64(i as i64));
                    let h = b.cast(*h, elem);
                    sink.put_extra(cx, b, h_last, &[batch, group, e, state], h)?;
                }
                Ok(())
            }
            States::Local(local) => {
                let mut result = Ok(());
                b.for_("n", 0, n, 1, |b, state| {
                    let at = b.mul(state, lanes);
                    let h = b.load(*local, at, cx.lanes);
                    let h = b.cast(h, elem);
                    result = sink.put_extra(cx, b, h_last, &[batch, group, e, Idx::Uniform(state)], h);
                });
                result
            }
        }
    })?;
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: steps * Dim::from(7 * n + 20) })
}
