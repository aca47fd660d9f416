//! Sums of the exponents of a chunk's steps, by one warp of each unit.

use super::walk::Walk;
use super::{PANEL, STEPS};
use crate::kernel::{Elem, KernelBuilder, MathOp, Reg, RegTy, WARP_SIZE, WarpShuffleOp};
use crate::lower::access::Cx;
use crate::lower::index::Idx;
use crate::lower::selective_scan::step_size;
use crate::lower::{LowerError, elem_of};
use ssmc_ir::ValueId;
use std::f64::consts::LOG2_E;

/// The steps of the summing warp: a thread has two neighboring ones.
pub(super) struct Steps {
    /// Their dt, as it lies in memory.
    raw: [Reg; 2],
    /// a * log2(e)
    rate: Reg,
    bias: Option<Reg>,
    head: Idx,
    /// Sum of all steps so far.
    total: Reg,
}

impl Walk<'_> {
    pub(super) fn declare_steps(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder) -> Result<Steps, LowerError> {
        let (head, _) = self.head(b, self.threads.helper_unit);
        let of_head = [self.place.group, head];
        let mut scalar = |b: &mut KernelBuilder, value: ValueId| {
            let v = cx.get(b, value, &of_head)?;
            Ok::<_, LowerError>(b.cast(v, Elem::F32))
        };
        let a = scalar(b, self.o.a)?;
        let bias = self.o.dt_bias.map(|bias| scalar(b, bias)).transpose()?;
        let rate = b.mul(a, LOG2_E);
        let zero = b.zero(RegTy::scalar(elem_of(cx.graph.ty(self.o.dt).dtype)?));
        let raw = [(); 2].map(|()| b.var_init(zero));
        let zero = b.const_f32(0.0);
        Ok(Steps { raw, rate, bias, head, total: b.var_init(zero) })
    }

    /// Loads dt of the steps that a thread has in a chunk.
    pub(super) fn load_steps(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        j: Reg,
        steps: &Steps,
    ) -> Result<(), LowerError> {
        for (raw, t) in steps.raw.into_iter().zip(self.steps(b, j)) {
            let mut result = Ok(());
            let exists = b.lt(t, self.place.len);
            b.if_(exists, |b| {
                let at = [self.place.batch, Idx::Uniform(t), self.place.group, steps.head];
                let dt = cx.scope(|cx| cx.get(b, self.o.dt, &at));
                result = dt.map(|dt| b.assign(raw, dt));
            });
            result?;
        }
        Ok(())
    }

    fn steps(&self, b: &mut KernelBuilder, j: Reg) -> [Reg; 2] {
        let first = b.mul(j, STEPS);
        let pair = b.mul(self.threads.lane, 2);
        let t = b.add(first, pair);
        [t, b.add(t, 1)]
    }

    /// Sums a chunk, and shares what is made of the sums.
    pub(super) fn sum_steps(&self, b: &mut KernelBuilder, j: Reg, steps: &Steps) {
        let (m, lane) = (&self.memory, self.threads.lane);
        let zero = b.const_f32(0.0);
        let places = self.steps(b, j);
        let [first, second] = [0, 1].map(|i| {
            let raw = b.cast(steps.raw[i], Elem::F32);
            let dt = step_size(b, raw, steps.bias, self.op.dt_softplus, (self.op.dt_min, self.op.dt_max));
            let exists = b.lt(places[i], self.place.len);
            let dt = b.select(exists, dt, zero);
            (dt, b.mul(dt, steps.rate))
        });
        let mut sum = b.add(first.1, second.1);
        let mut apart = 1;
        while apart < i64::from(WARP_SIZE) {
            let before = b.warp_shuffle(WarpShuffleOp::Up, sum, apart);
            let (has_before, both) = (b.ge(lane, apart), b.add(before, sum));
            sum = b.select(has_before, both, sum);
            apart *= 2;
        }
        let before = b.warp_shuffle(WarpShuffleOp::Up, sum, 1);
        let has_before = b.ge(lane, 1);
        let before = b.select(has_before, before, zero);
        let total = b.warp_shuffle(WarpShuffleOp::Idx, sum, i64::from(WARP_SIZE) - 1);
        let so_far = b.add(steps.total, total);
        b.assign(steps.total, so_far);
        let half = b.and(j, 1);
        let (at, offset) = (b.mul(lane, 2), b.mul(half, STEPS));
        let at = b.add(at, offset);
        let unit = b.mul(self.threads.helper_unit, 2 * STEPS);
        let at = b.add(at, unit);
        let to_first = b.add(before, first.1);
        for (i, (sum, dt)) in [(to_first, first.0), (sum, second.0)].into_iter().enumerate() {
            let at = b.add(at, i as i64);
            let rest = b.sub(total, sum);
            let rest = b.math(MathOp::Exp2, rest);
            let weight = b.mul(dt, rest);
            b.store(m.weights, at, weight);
            if let Some(m) = &m.read_out {
                let grown = b.math(MathOp::Exp2, sum);
                for (array, x) in [(m.sums, sum), (m.grown, grown), (m.dt, dt)] {
                    b.store(array, at, x);
                }
            }
        }
        let kept = b.math(MathOp::Exp2, total);
        let (at, offset) = (b.mul(lane, 2), b.mul(half, PANEL));
        let at = b.add(at, offset);
        let unit = b.mul(self.threads.helper_unit, 2 * PANEL);
        let at = b.add(at, unit);
        let kept = b.splat(kept, 2);
        b.store(m.kept, at, kept);
    }

    /// How much all steps so far let the state decay, [`PANEL`] times.
    pub(super) fn keep_total(&self, b: &mut KernelBuilder, steps: &Steps) {
        let Some(ends) = &self.ends else { return };
        let kept = b.math(MathOp::Exp2, steps.total);
        let kept = b.splat(kept, 2);
        let place = self.end(b, self.threads.helper_unit, self.place.segment);
        let at = b.mul(place, PANEL);
        let pair = b.mul(self.threads.lane, 2);
        let at = b.add(at, pair);
        b.store(ends.kept, at, kept);
    }
}
