//! Recurrences, each as a plain loop over the steps.

use super::elementwise::{silu, softplus};
use super::num::{Field, Num};
use super::{Args, EvalError, arg, optional, optional_floats, strides};
use crate::ops::{ComplexScan, Discretization, DiscretizedScan, ReadOut, Scan, SelectiveScan, Ssd};
use crate::tensor::{Complex, Data, Tensor};

/// The steps of one sequence of the batch in order of execution, each with whether the state starts anew there.
pub(super) fn steps(
    batch: usize,
    len: usize,
    reverse: bool,
    seq_idx: Option<&[i64]>,
) -> impl Iterator<Item = (usize, bool)> + '_ {
    (0..len).map(move |i| {
        let at = |i: usize| if reverse { len - 1 - i } else { i };
        let sequence = |i: usize| seq_idx.map(|s| s[batch * len + at(i)]);
        (at(i), i > 0 && sequence(i) != sequence(i - 1))
    })
}

pub(super) fn seq_idx<'a>(x: &Args<'a>, i: usize) -> Result<Option<&'a [i64]>, EvalError> {
    Ok(optional(x, i).map(Tensor::as_ints).transpose()?)
}

/// Which row of the states belongs to which row of the batch.
pub(super) struct Slots {
    slots: Option<Vec<usize>>,
    rows: usize,
}

impl Slots {
    /// # Errors
    /// A slot that is no row of `h0`.
    pub(super) fn of(slots: Option<&Tensor>, h0: Option<&Tensor>, batch: usize) -> Result<Self, EvalError> {
        let Some(slots) = slots else { return Ok(Self { slots: None, rows: batch }) };
        let rows = h0.and_then(|h0| h0.shape().first().copied()).unwrap_or(0);
        let row = |slot: &i64| {
            let inside = usize::try_from(*slot).ok().filter(|slot| *slot < rows);
            inside.ok_or(EvalError::Index { operand: "slots", index: *slot, extent: rows })
        };
        Ok(Self { slots: Some(slots.as_ints()?.iter().map(row).collect::<Result<_, _>>()?), rows })
    }

    /// The row of the states that a row of the batch starts from and replaces.
    pub(super) fn row(&self, batch: usize) -> usize {
        self.slots.as_ref().map_or(batch, |slots| slots[batch])
    }

    /// Number of rows of the states.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The states before any row of the batch has replaced its own, `n` elements a row.
    pub(super) fn initial<T: Num>(&self, h0: Option<&[T]>, n: usize) -> Vec<T> {
        h0.map_or_else(|| vec![T::ZERO; self.rows * n], <[T]>::to_vec)
    }
}

/// Extents of the state and its number of elements per sequence of the batch, from the shape of b.
fn state_shape(shape: &[usize]) -> (Vec<usize>, usize) {
    let mut state = shape.to_vec();
    state.remove(1);
    let n = state[1..].iter().product();
    (state, n)
}

fn scan_elems<T: Num>(
    op: &Scan,
    (a, a_shape): (&[T], &[usize]),
    (b, shape): (&[T], &[usize]),
    h0: Option<&[T]>,
    (seq_idx, slots): (Option<&[i64]>, &Slots),
) -> (Vec<T>, Vec<T>) {
    let (len, n) = (shape[1], state_shape(shape).1);
    // Where a lies for a step and a state element; an axis of extent 1 does not move.
    let moves: Vec<_> = strides(a_shape)
        .into_iter()
        .zip(a_shape)
        .map(|(s, extent)| if *extent == 1 { 0 } else { s })
        .collect();
    let mut a_inner = Vec::with_capacity(n);
    super::for_each_index(&shape[2..], |index| {
        a_inner.push(index.iter().zip(&moves[2..]).map(|(i, s)| i * s).sum::<usize>())
    });
    let mut h = vec![T::ZERO; b.len()];
    let mut last = slots.initial(h0, n);
    for batch in 0..shape[0] {
        let start = slots.row(batch) * n;
        let mut state = h0.map_or_else(|| vec![T::ZERO; n], |h0| h0[start..start + n].to_vec());
        for (t, restart) in steps(batch, len, op.reverse, seq_idx) {
            let row = (batch * len + t) * n;
            for (i, h_i) in state.iter_mut().enumerate() {
                let carried = if restart { T::ZERO } else { *h_i };
                *h_i = a[batch * moves[0] + t * moves[1] + a_inner[i]] * carried + b[row + i];
                h[row + i] = *h_i;
            }
        }
        last[start..start + n].copy_from_slice(&state);
    }
    (h, last)
}

pub(in crate::ops) fn scan(op: &Scan, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (a, b, h0, seq) = (arg(x, 0)?, arg(x, 1)?, optional(x, 2), seq_idx(x, 3)?);
    let dtype = b.dtype();
    let slots = Slots::of(optional(x, 4), h0, b.shape()[0])?;
    let mut last_shape = state_shape(b.shape()).0;
    last_shape[0] = slots.rows();
    let (h, last) = match b.data() {
        Data::Float(v) => {
            let h0 = h0.map(Tensor::as_floats).transpose()?;
            let (h, last) = scan_elems(op, (a.as_floats()?, a.shape()), (v, b.shape()), h0, (seq, &slots));
            (Data::Float(h), Data::Float(last))
        }
        Data::Complex(v) => {
            let h0 = h0.map(Tensor::as_complex).transpose()?;
            let (h, last) = scan_elems(op, (a.as_complex()?, a.shape()), (v, b.shape()), h0, (seq, &slots));
            (Data::Complex(h), Data::Complex(last))
        }
        Data::Int(_) | Data::Bool(_) => return Err(EvalError::NoSuchFunction { op: "ssm.scan", dtype }),
    };
    Ok(vec![Tensor::new(dtype, b.shape(), h)?, Tensor::new(dtype, last_shape, last)?])
}

/// The complex numbers of two real tensors.
fn pairs(re: &Tensor, im: &Tensor) -> Result<Vec<Complex>, EvalError> {
    Ok(re.as_floats()?.iter().zip(im.as_floats()?).map(|(re, im)| Complex::new(*re, *im)).collect())
}

pub(in crate::ops) fn complex_scan(op: &ComplexScan, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (a_re, b_re, seq) = (arg(x, 0)?, arg(x, 2)?, seq_idx(x, 6)?);
    let (a, b) = (pairs(a_re, arg(x, 1)?)?, pairs(b_re, arg(x, 3)?)?);
    let h0 = match (optional(x, 4), optional(x, 5)) {
        (Some(re), Some(im)) => Some(pairs(re, im)?),
        _ => None,
    };
    let scan = Scan { reverse: op.reverse };
    let slots = Slots::of(None, None, b_re.shape()[0])?;
    let (h, last) = scan_elems(&scan, (&a, a_re.shape()), (&b, b_re.shape()), h0.as_deref(), (seq, &slots));
    let state = state_shape(b_re.shape()).0;
    let mut results = Vec::new();
    for (elems, shape) in [(h, b_re.shape()), (last, &state[..])] {
        for part in [|x: &Complex| x.re, |x: &Complex| x.im] {
            results.push(Tensor::floats(b_re.dtype(), shape, elems.iter().map(part).collect())?);
        }
    }
    Ok(results)
}

/// (a_bar, the factor of b in b_bar) of one step.
fn discretize<T: Field>(rule: Discretization, dt: T, a: T) -> (T, T) {
    let z = dt * a;
    match rule {
        Discretization::ExpEuler => (z.exp(), dt),
        Discretization::Zoh => (z.exp(), if a == T::ZERO { dt } else { z.exp_m1() / a }),
        Discretization::Bilinear => {
            let half = z / T::from_f64(2.0);
            let below = T::ONE - half;
            ((T::ONE + half) / below, dt / below)
        }
    }
}

/// Extents of a discretized scan. With scalar decay `channels` counts head channels per head and the decay of a head
/// serves all of them; with a decay per state it is 1.
#[derive(Clone, Copy)]
struct Extents {
    batch: usize,
    len: usize,
    groups: usize,
    heads: usize,
    channels: usize,
    state: usize,
    scalar_decay: bool,
}

impl Extents {
    fn of(x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Self, EvalError> {
        let scalar_decay = a.shape().len() == 2;
        let (batch, len, groups, heads, channels) = match *x.shape() {
            [batch, len, groups, heads] if !scalar_decay => (batch, len, groups, heads, 1),
            [batch, len, groups, heads, channels] if scalar_decay => (batch, len, groups, heads, channels),
            _ => return Err(EvalError::Missing { operand: 0 }),
        };
        let state = b.shape().last().copied().unwrap_or(0);
        Ok(Self { batch, len, groups, heads, channels, state, scalar_decay })
    }

    /// Number of state elements of one sequence.
    fn states(self) -> usize {
        self.groups * self.heads * self.channels * self.state
    }

    fn state_shape(self, slots: &Slots) -> Vec<usize> {
        let (rows, Self { groups, heads, channels, state, .. }) = (slots.rows(), self);
        if self.scalar_decay {
            vec![rows, groups, heads, channels, state]
        } else {
            vec![rows, groups, heads, state]
        }
    }

    fn history_shape(self, slots: &Slots) -> Vec<usize> {
        let mut shape = self.state_shape(slots);
        shape[0] = self.batch;
        shape.insert(1, self.len);
        shape
    }
}

/// The operands of a discretized scan; `dt` after bias, softplus and limits.
struct Operands<'a, T> {
    x: &'a [T],
    dt: &'a [T],
    a: &'a [T],
    b: &'a [T],
    h0: Option<&'a [T]>,
    seq_idx: Option<&'a [i64]>,
    slots: &'a Slots,
}

/// Runs the recurrence; `visit` sees every step as (batch, t, the state before it, the state after it). Returns the
/// last states.
fn recur<T: Field>(
    e: Extents,
    rule: Discretization,
    reverse: bool,
    o: &Operands<'_, T>,
    mut visit: impl FnMut(usize, usize, &[T], &[T]),
) -> Vec<T> {
    let n = e.states();
    let mut last = o.slots.initial(o.h0, n);
    for batch in 0..e.batch {
        let start = o.slots.row(batch) * n;
        let mut h = o.h0.map_or_else(|| vec![T::ZERO; n], |h0| h0[start..start + n].to_vec());
        for (t, restart) in steps(batch, e.len, reverse, o.seq_idx) {
            if restart {
                h.fill(T::ZERO);
            }
            let before = h.clone();
            let row = batch * e.len + t;
            let mut at = 0;
            for group in 0..e.groups {
                for head in group * e.heads..(group + 1) * e.heads {
                    let dt = o.dt[row * e.groups * e.heads + head];
                    for channel in head * e.channels..(head + 1) * e.channels {
                        let x = o.x[row * e.groups * e.heads * e.channels + channel];
                        for n in 0..e.state {
                            let a = if e.scalar_decay { o.a[head] } else { o.a[head * e.state + n] };
                            let (a_bar, factor) = discretize(rule, dt, a);
                            let b = o.b[(row * e.groups + group) * e.state + n];
                            h[at] = a_bar * h[at] + factor * b * x;
                            at += 1;
                        }
                    }
                }
            }
            visit(batch, t, &before, &h);
        }
        last[start..start + n].copy_from_slice(&h);
    }
    last
}

pub(in crate::ops) fn discretized_scan(op: &DiscretizedScan, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    fn run<T: Field>(op: &DiscretizedScan, e: Extents, o: &Operands<'_, T>) -> (Vec<T>, Vec<T>) {
        let mut history = vec![T::ZERO; e.batch * e.len * e.states()];
        let last = recur(e, op.discretization, op.reverse, o, |batch, t, _, h| {
            let at = (batch * e.len + t) * e.states();
            history[at..at + h.len()].copy_from_slice(h);
        });
        (history, last)
    }
    let seq_idx = seq_idx(x, 5)?;
    let (dt, a, b, h0) = (arg(x, 1)?, arg(x, 2)?, arg(x, 3)?, optional(x, 4));
    let slots = optional(x, 6);
    let x = arg(x, 0)?;
    let e = Extents::of(x, a, b)?;
    let slots = &Slots::of(slots, h0, e.batch)?;
    let (dtype, op_name) = (x.dtype(), "ssm.discretized_scan");
    let (h, last) = match x.data() {
        Data::Float(x) => {
            let h0 = h0.map(Tensor::as_floats).transpose()?;
            let (dt, a, b) = (dt.as_floats()?, a.as_floats()?, b.as_floats()?);
            let (h, last) = run(op, e, &Operands { x, dt, a, b, h0, seq_idx, slots });
            (Data::Float(h), Data::Float(last))
        }
        Data::Complex(x) => {
            let h0 = h0.map(Tensor::as_complex).transpose()?;
            let (dt, a, b) = (dt.as_complex()?, a.as_complex()?, b.as_complex()?);
            let (h, last) = run(op, e, &Operands { x, dt, a, b, h0, seq_idx, slots });
            (Data::Complex(h), Data::Complex(last))
        }
        Data::Int(_) | Data::Bool(_) => return Err(EvalError::NoSuchFunction { op: op_name, dtype }),
    };
    Ok(vec![Tensor::new(dtype, e.history_shape(slots), h)?, Tensor::new(dtype, e.state_shape(slots), last)?])
}

/// What the two mixer cores have in common.
pub(super) struct Mixer {
    pub(super) discretization: Discretization,
    pub(super) dt_min: f64,
    pub(super) dt_max: f64,
    pub(super) dt_softplus: bool,
    pub(super) read_out: ReadOut,
    pub(super) reverse: bool,
}

impl Mixer {
    /// Step sizes after bias, softplus and limits; `n_heads` is the number of all heads.
    pub(super) fn step_sizes(&self, dt: &[f64], bias: Option<&[f64]>, n_heads: usize) -> Vec<f64> {
        let step = |(i, dt): (usize, &f64)| {
            let dt = dt + bias.map_or(0.0, |b| b[i % n_heads]);
            let dt = if self.dt_softplus { softplus(dt) } else { dt };
            if dt < self.dt_min {
                self.dt_min
            } else if dt > self.dt_max {
                self.dt_max
            } else {
                dt
            }
        };
        dt.iter().enumerate().map(step).collect()
    }

    fn eval(&self, args: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, a, b) = (arg(args, 0)?, arg(args, 2)?, arg(args, 3)?);
        let e = Extents::of(x, a, b)?;
        let c = arg(args, 4)?.as_floats()?;
        let (d, z) = (optional_floats(args, 5)?, optional_floats(args, 6)?);
        let n_heads = e.groups * e.heads;
        let dt = self.step_sizes(arg(args, 1)?.as_floats()?, optional_floats(args, 7)?, n_heads);
        let elems = x.as_floats()?;
        let slots = &Slots::of(optional(args, 10), optional(args, 8), e.batch)?;
        let operands = Operands {
            x: elems,
            dt: &dt,
            a: a.as_floats()?,
            b: b.as_floats()?,
            h0: optional_floats(args, 8)?,
            seq_idx: seq_idx(args, 9)?,
            slots,
        };
        let n_channels = n_heads * e.channels;
        let mut y = vec![0.0; elems.len()];
        let last = recur(e, self.discretization, self.reverse, &operands, |batch, t, before, after| {
            let row = batch * e.len + t;
            let h = match self.read_out {
                ReadOut::After => after,
                ReadOut::Before => before,
            };
            for (channel, h) in h.chunks_exact(e.state.max(1)).enumerate().take(n_channels) {
                let group = channel / (e.heads * e.channels);
                let c = &c[(row * e.groups + group) * e.state..][..e.state];
                y[row * n_channels + channel] = c.iter().zip(h).map(|(c, h)| c * h).sum();
            }
        });
        for (i, y) in y.iter_mut().enumerate() {
            if let Some(d) = d {
                let channel = i % n_channels;
                // One skip weight per head, or one per channel.
                let d = if d.len() == n_heads { d[channel / e.channels] } else { d[channel] };
                *y += d * elems[i];
            }
            if let Some(z) = z {
                *y *= silu(z[i]);
            }
        }
        Ok(vec![
            Tensor::floats(x.dtype(), x.shape(), y)?,
            Tensor::floats(x.dtype(), e.state_shape(slots), last)?,
        ])
    }
}

impl From<&SelectiveScan> for Mixer {
    fn from(op: &SelectiveScan) -> Self {
        Self {
            discretization: op.discretization,
            dt_min: op.dt_min.get(),
            dt_max: op.dt_max.get(),
            dt_softplus: op.dt_softplus,
            read_out: op.read_out,
            reverse: op.reverse,
        }
    }
}

impl From<&Ssd> for Mixer {
    fn from(op: &Ssd) -> Self {
        Self {
            discretization: op.discretization,
            dt_min: op.dt_min.get(),
            dt_max: op.dt_max.get(),
            dt_softplus: op.dt_softplus,
            read_out: op.read_out,
            reverse: op.reverse,
        }
    }
}

pub(in crate::ops) fn selective_scan(op: &SelectiveScan, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    Mixer::from(op).eval(x)
}

pub(in crate::ops) fn ssd(op: &Ssd, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    Mixer::from(op).eval(x)
}
