//! The matrix-state scan on CPUs: values in lanes, keys one after the other, one pass along the sequence.
//!
//! Variants: (1) the rows of the state in registers while the keys are few; (2) more keys in a local array. A step
//! takes one pass over the keys, which updates a row and reads it; the delta rule takes one more before it, which reads
//! what the state holds for the key. Decays become factors once per step, in vectors along the keys, or once per
//! sequence if they do not depend on the step.

use super::access::Cx;
use super::conv1d::{for_channels, new_sequence};
use super::elementwise::row_index;
use super::index::Idx;
use super::selective_scan::step_at;
use super::sink::Sink;
use super::slots::{Part, Rows};
use super::states::{States, UNROLLED_STATES};
use super::{Launch, LowerError, Lowering, accumulator, elem_of};
use crate::kernel::{Elem, KernelBuilder, LocalId, Reg};
use ssmc_ir::ops::{LinearAttention, ReadOut};
use ssmc_ir::{Dim, ValueId};

/// Values of a block: the widest vector, so that grids do not depend on the level.
const VALUE_TILE: i64 = 16;

/// The operands, by name, and what is fixed for a block.
struct Block<'o> {
    op: &'o LinearAttention,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    decay: Option<(ValueId, &'o [Dim])>,
    beta: Option<ValueId>,
    erase: Option<(ValueId, ValueId)>,
    h0: Option<ValueId>,
    seq_idx: Option<ValueId>,
    h_last: ValueId,
    elem: Elem,
    /// The type of states and sums.
    acc: Elem,
    keys: i64,
    per_head: i64,
    len: Reg,
    head: Idx,
    /// Factors of one step, if every key has its own.
    factors: Option<LocalId>,
}

/// The factor of the old state.
#[derive(Clone, Copy)]
enum Decay {
    None,
    /// One for all keys.
    Scalar(Reg),
    /// One for each key, in the block's array.
    PerKey(LocalId),
}

impl Decay {
    fn of_key(self, cx: &Cx<'_>, b: &mut KernelBuilder, key: Reg) -> Option<Reg> {
        let factor = match self {
            Decay::None => return None,
            Decay::Scalar(factor) => factor,
            Decay::PerKey(local) => b.load(local, key, 1),
        };
        Some(cx.widen(b, factor))
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &LinearAttention) -> Result<Launch, LowerError> {
    let (q, k, v) = (l.operand(0)?, l.operand(1)?, l.operand(2)?);
    let (h0, seq_idx, slots) = (l.optional(7), l.optional(8), l.optional(9));
    let shape = l.shape(q);
    let keys = l.constant("keys", &shape[4])?;
    let per_head = l.constant("queries per head", &shape[3])?;
    let values = l.constant("values", &l.shape(v)[3])?;
    let elem = elem_of(l.graph.ty(q).dtype)?;
    let acc = accumulator(elem);
    let h_last = l.node.results[1];
    let decay = l.optional(3).map(|decay| (decay, l.shape(decay)));
    let (beta, erase) = (l.optional(4), l.optional(5).zip(l.optional(6)));
    let rows = Rows { batch: &shape[0], slots: slots.map(|slots| (slots, &l.shape(h_last)[0])) };
    let tiles = Dim::from(values).ceildiv(&Dim::from(VALUE_TILE));
    let (b, cx, sink) = l.parts();
    cx.narrow(&Dim::from(values));
    let grid = [rows.grid(), shape[2].clone(), tiles];
    let place = row_index(cx, b, &grid);
    let Idx::Uniform(tile) = place[2] else {
        return Err(LowerError::Unsupported {
            op: "ssm.linear_attention",
            reason: "block indices are scalars".into(),
        });
    };
    let first = b.mul(tile, VALUE_TILE);
    let len = cx.dim(b, &shape[1]);
    let lanes = i64::from(cx.lanes);
    let local_h = (keys > UNROLLED_STATES).then(|| b.local("h", acc, (keys * lanes) as u32));
    let has_factors = decay.is_some_and(|(_, shape)| !shape[3].is(1));
    let padded = (keys + lanes - 1) / lanes * lanes;
    let factors = has_factors.then(|| b.local("decay", acc, padded as u32));
    let block = Block {
        op,
        q,
        k,
        v,
        decay,
        beta,
        erase,
        h0,
        seq_idx,
        h_last,
        elem,
        acc,
        keys,
        per_head,
        len,
        head: place[1],
        factors,
    };
    rows.run(cx, b, place[0], &mut |cx, b, part| {
        for_channels(cx, b, (first, VALUE_TILE, values), &mut |cx, b, v| {
            let states = States::new(b, local_h, keys, (acc, cx.lanes));
            block.load(cx, b, &states, (part.row(), v))?;
            if let Part::Steps { batch, .. } = part {
                block.scan(cx, b, &states, (batch, v), sink)?;
            }
            block.store(cx, b, &states, (part, v), sink)
        })
    })?;
    let extra = match (block.beta, block.erase) {
        (None, None) => 0,
        _ => 3,
    };
    let steps = shape[..3].iter().fold(Dim::from(1), |n, d| n * d);
    let flops = steps * Dim::from(keys * values * (4 + 2 * per_head + extra));
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

impl Block<'_> {
    /// The initial state.
    fn load(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        states: &States,
        (row, v): (Idx, Idx),
    ) -> Result<(), LowerError> {
        let lanes = i64::from(cx.lanes);
        states.for_each(cx, b, self.keys, &mut |cx, b, key, h| {
            let init = match self.h0 {
                Some(h0) => cx.get_wide_as(b, (h0, self.acc), &[row, self.head, Idx::Uniform(key), v])?,
                None => b.zero(self.acc.x(cx.lanes)),
            };
            let at = b.mul(key, lanes);
            states.set(b, h, at, init);
            Ok(())
        })
    }

    /// The final state.
    fn store<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        states: &States,
        (part, v): (Part, Idx),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        if !sink.wants(self.h_last) {
            return Ok(());
        }
        let lanes = i64::from(cx.lanes);
        part.keep(cx, b, &mut |cx, b| {
            states.for_each(cx, b, self.keys, &mut |cx, b, key, h| {
                let at = b.mul(key, lanes);
                let h = states.get(b, h, at, cx.lanes);
                let h = b.cast(h, self.elem);
                sink.put_extra(cx, b, self.h_last, &[part.row(), self.head, Idx::Uniform(key), v], h)
            })
        })
    }

    /// The factors of a step, or of all if no step is given and they do not depend on it.
    fn decay(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        batch: Idx,
        t: Option<Reg>,
    ) -> Result<Option<Decay>, LowerError> {
        let Some((decay, shape)) = self.decay else { return Ok(Some(Decay::None)) };
        let zero = b.const_i64(0);
        let t = match t {
            Some(t) => t,
            None if shape[1].is(1) => zero,
            None => return Ok(None),
        };
        let at = |key: Idx| {
            let all = [batch, Idx::Uniform(t), self.head, key];
            let pick = |(i, d): (&Idx, &Dim)| if d.is(1) { Idx::Uniform(zero) } else { *i };
            all.iter().zip(shape).map(pick).collect::<Vec<_>>()
        };
        let Some(factors) = self.factors else {
            let log = cx.get(b, decay, &at(Idx::Uniform(zero)))?;
            let log = b.cast(log, self.acc);
            return Ok(Some(Decay::Scalar(b.exp(log))));
        };
        for_channels(cx, b, (zero, self.keys, self.keys), &mut |cx, b, key| {
            let log = cx.get_wide_as(b, (decay, self.acc), &at(key))?;
            let factor = b.exp(log);
            let start = match key {
                Idx::Uniform(base) | Idx::Lanes { base, .. } => base,
                Idx::Vector(_) => unreachable!("channels are counted in lanes"),
            };
            b.store(factors, start, factor);
            Ok(())
        })?;
        Ok(Some(Decay::PerKey(factors)))
    }

    /// The recurrence and its read-out.
    fn scan<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        states: &States,
        (batch, v): (Idx, Idx),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let constant = self.decay(cx, b, batch, None)?;
        let mut result = Ok(());
        b.for_("i", 0, self.len, 1, |b, i| {
            result = cx.scope(|cx| {
                let t = step_at(b, i, self.len, self.op.reverse);
                self.restart(cx, b, states, batch, t)?;
                let decay = match constant {
                    Some(decay) => decay,
                    None => self.decay(cx, b, batch, Some(t.0))?.unwrap_or(Decay::None),
                };
                self.step(cx, b, (states, decay), (batch, t.0, v), sink)
            });
        });
        result
    }

    /// Zeros the state where another sequence begins.
    fn restart(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        states: &States,
        batch: Idx,
        t: (Reg, Reg),
    ) -> Result<(), LowerError> {
        let Some(seq_idx) = self.seq_idx else { return Ok(()) };
        let is_new = new_sequence(cx, b, seq_idx, batch, t)?;
        let (zero, lanes) = (b.zero(self.acc.x(cx.lanes)), i64::from(cx.lanes));
        let mut result = Ok(());
        b.if_(is_new, |b| {
            result = states.for_each(cx, b, self.keys, &mut |_, b, key, h| {
                let at = b.mul(key, lanes);
                states.set(b, h, at, zero);
                Ok(())
            });
        });
        result
    }

    fn step<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (states, decay): (&States, Decay),
        (batch, t, v): (Idx, Reg, Idx),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let lanes = i64::from(cx.lanes);
        let zero = b.zero(self.acc.x(cx.lanes));
        let step = [batch, Idx::Uniform(t), self.head];
        let of_key = |key: Reg| [batch, Idx::Uniform(t), self.head, Idx::Uniform(key)];
        let mut input = cx.get_wide_as(b, (self.v, self.acc), &[batch, Idx::Uniform(t), self.head, v])?;
        let mut known = None;
        if let Some(reader) = self.erase.map(|(erase, _)| erase).or(self.beta.map(|_| self.k)) {
            let sum = b.var_init(zero);
            states.for_each(cx, b, self.keys, &mut |cx, b, key, h| {
                let mut factor = cx.get_wide_as(b, (reader, self.acc), &of_key(key))?;
                if let (Some(decay), true) = (decay.of_key(cx, b, key), self.beta.is_some()) {
                    factor = b.mul(factor, decay);
                }
                let at = b.mul(key, lanes);
                let old = states.get(b, h, at, cx.lanes);
                let more = b.fma(factor, old, sum);
                b.assign(sum, more);
                Ok(())
            })?;
            known = Some(sum);
        }
        if let (Some(beta), Some(known)) = (self.beta, known) {
            let beta = cx.get_wide_as(b, (beta, self.acc), &step)?;
            let missing = b.sub(input, known);
            input = b.mul(beta, missing);
        }
        let sums: Vec<Reg> = (0..self.per_head).map(|_| b.var_init(zero)).collect();
        states.for_each(cx, b, self.keys, &mut |cx, b, key, h| {
            let k = cx.get_wide_as(b, (self.k, self.acc), &of_key(key))?;
            let at = b.mul(key, lanes);
            let old = states.get(b, h, at, cx.lanes);
            let added = b.mul(k, input);
            let mut new = match decay.of_key(cx, b, key) {
                Some(decay) => b.fma(decay, old, added),
                None => b.add(old, added),
            };
            if let (Some((_, write)), Some(known)) = (self.erase, known) {
                let write = cx.get_wide_as(b, (write, self.acc), &of_key(key))?;
                new = b.fma(write, known, new);
            }
            let seen = if self.op.read_out == ReadOut::After { new } else { old };
            for (r, sum) in sums.iter().enumerate() {
                let r = Idx::Uniform(b.const_i64(r as i64));
                let pick = [batch, Idx::Uniform(t), self.head, r, Idx::Uniform(key)];
                let q = cx.get_wide_as(b, (self.q, self.acc), &pick)?;
                let y = b.fma(q, seen, *sum);
                b.assign(*sum, y);
            }
            states.set(b, h, at, new);
            Ok(())
        })?;
        for (r, sum) in sums.iter().enumerate() {
            let scale = self.op.scale.get();
            let y = if scale == 1.0 { *sum } else { b.mul(*sum, scale) };
            // A copy: the variable is not an element that stays as it is.
            let y = b.cast(y, self.elem);
            let r = Idx::Uniform(b.const_i64(r as i64));
            sink.put(cx, b, &[batch, Idx::Uniform(t), self.head, r, v], y)?;
        }
        Ok(())
    }
}
