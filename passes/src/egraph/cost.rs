//! What a term costs on a target: bytes, flops, transcendental functions and launches, weighted by data.

use super::lang::Head;
use ssmc_ir::ops::{Mode, Op, Ssd, UnaryFn};
use ssmc_ir::{Bindings, Dim, Symbol, TensorType};
use std::collections::BTreeSet;

/// The targets with a cost table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CostTarget {
    /// A CPU core with vectors of 8 to 16 floats.
    #[default]
    Cpu,
}

/// Picoseconds per unit.
#[derive(Clone, Copy, Debug)]
struct Rates {
    launch: f64,
    byte: f64,
    flop: f64,
    /// Of a recurrence: one step waits for the one before.
    serial_flop: f64,
    /// Of a product of matrices held in registers and caches.
    matrix_flop: f64,
    transcendental: f64,
    /// Of passing the state from one chunk to the next, per state element.
    chunk_state: f64,
}

/// Estimates for one core at 3 GHz with 8 lanes; only their ratios matter for what is chosen.
const CPU: Rates = Rates {
    launch: 1_000_000.0,
    byte: 100.0,
    flop: 40.0,
    serial_flop: 60.0,
    matrix_flop: 20.0,
    transcendental: 400.0,
    chunk_state: 3_200.0,
};

/// Of a scan in a mode that is not asked for.
const UNWANTED: u64 = 1_000_000_000_000_000;

/// How much slower a loop nest for any rank, stride and padding is than one for the case at hand.
const GENERIC_LOOP: f64 = 8.0;

/// Costs of terms for one target and assumed sizes.
#[derive(Clone, Debug)]
pub(crate) struct CostModel {
    rates: Rates,
    batch: i64,
    seq_len: i64,
    mode: Option<Mode>,
}

impl CostModel {
    /// Symbols named `batch` count as 1, all others as `seq_len`.
    pub(crate) fn new(target: CostTarget, seq_len: i64) -> Self {
        let CostTarget::Cpu = target;
        Self { rates: CPU, batch: 1, seq_len: seq_len.max(1), mode: None }
    }

    /// The same with a scan in any other mode at the cost of a thousand seconds more.
    pub(crate) fn with_mode(self, mode: Option<Mode>) -> Self {
        Self { mode, ..self }
    }

    fn size(&self, dim: &Dim) -> f64 {
        let mut symbols = BTreeSet::new();
        dim.collect_symbols(&mut symbols);
        let value = |s: &Symbol| if s.name() == "batch" { self.batch } else { self.seq_len };
        let bindings: Bindings = symbols.into_iter().map(|s| (s.clone(), value(&s))).collect();
        dim.eval(&bindings).map_or(0.0, |n| n.max(0) as f64)
    }

    fn elems(&self, ty: &TensorType) -> f64 {
        ty.shape.iter().map(|d| self.size(d)).product()
    }

    fn bytes(&self, ty: &TensorType) -> f64 {
        self.elems(ty) * ty.dtype.bits() as f64 / 8.0
    }

    /// The cost of one term, children not included, in picoseconds. At least 1, so that a cheaper term is never a
    /// larger one with free parts.
    pub(crate) fn cost(&self, head: &Head, operands: &[&[TensorType]], results: &[TensorType]) -> u64 {
        let Head::Op(op) = head else { return 1 };
        let is_unwanted = self.mode.is_some_and(|mode| super::mode_of(op).is_some_and(|found| found != mode));
        let unwanted = if is_unwanted { UNWANTED } else { 0 };
        let r = &self.rates;
        let firsts: Vec<Option<&TensorType>> = operands.iter().map(|types| types.first()).collect();
        let read: f64 = firsts.iter().flatten().map(|ty| self.bytes(ty)).sum();
        let written: f64 = results.iter().map(|ty| self.bytes(ty)).sum();
        let out = results.first().map_or(0.0, |ty| self.elems(ty));
        let moved = r.launch + r.byte * (read + written);
        let present = |i: usize| firsts.get(i).is_some_and(Option::is_some);
        let work = match op {
            Op::Reshape(_) | Op::Constant(_) | Op::WeightRef(_) | Op::DimValue(_) => return 1,
            Op::Broadcast(_) => return 2 + (r.byte * read) as u64,
            Op::Unary(u) => match u.f {
                UnaryFn::Neg | UnaryFn::Abs | UnaryFn::Relu | UnaryFn::Not | UnaryFn::IsNan => r.flop * out,
                _ => r.transcendental * out,
            },
            Op::Contract(c) => {
                let labels = firsts.iter().flatten().zip(&c.spec.inputs);
                let mut extents = std::collections::BTreeMap::new();
                for (ty, labels) in labels {
                    extents.extend(labels.iter().copied().zip(ty.shape.iter().map(|d| self.size(d))));
                }
                let terms: f64 = extents.values().product();
                let rate = if c.spec.summed().is_empty() { r.flop } else { r.matrix_flop };
                rate * terms * firsts.len() as f64
            }
            // A loop nest of any rank, which no lowering specializes.
            Op::Conv(_) => {
                let taps: f64 =
                    firsts[1].map_or(1.0, |w| w.shape[1..].iter().map(|d| self.size(d)).product());
                GENERIC_LOOP * (r.launch + r.flop * 2.0 * taps * out)
            }
            Op::CausalConv1d(c) => {
                let width = firsts[1].map_or(1.0, |w| self.size(&w.shape[1]));
                let activation =
                    if c.activation == ssmc_ir::ops::Activation::Silu { r.transcendental } else { 0.0 };
                out * (2.0 * width * r.flop + activation)
            }
            Op::LongConv(_) => {
                let taps = firsts[1].map_or(1.0, |k| self.size(&k.shape[k.rank() - 2]));
                r.flop * 2.0 * taps * out
            }
            // A sine and a cosine for every term of every sum.
            Op::Dft(d) => out * self.size(&d.length) * (8.0 * r.flop + 2.0 * r.transcendental),
            Op::Scan(_) => r.serial_flop * 2.0 * out,
            Op::ComplexScan(_) => r.serial_flop * 8.0 * out,
            // x, dt, b, then the states: an exponential, two products and a fused multiply-add each.
            Op::DiscretizedScan(_) => out * (5.0 * r.serial_flop + r.transcendental),
            Op::SelectiveScan(s) => {
                let n = firsts[2].and_then(|a| a.shape.last()).map_or(1.0, |n| self.size(n));
                let softplus = if s.dt_softplus { r.transcendental } else { 0.0 };
                let gate = if present(6) { r.transcendental } else { 0.0 };
                out * (n * (6.0 * r.serial_flop + r.transcendental) + softplus + gate)
            }
            Op::Ssd(s) => self.ssd(s, &firsts, out),
            // Decay, input and read-out: a fused multiply-add for each element of the state.
            Op::LinearAttention(_) => {
                let keys = firsts[0].and_then(|q| q.shape.last()).map_or(1.0, |k| self.size(k));
                out * keys * 6.0 * r.serial_flop
            }
            // Two exponentials for the state and two for the read-out.
            Op::Wkv(_) => out * (10.0 * r.serial_flop + 4.0 * r.transcendental),
            // A norm reads its operands twice.
            Op::RmsNorm(_) | Op::LayerNorm(_) => out * 6.0 * r.flop,
            Op::GatedRmsNorm(_) => out * (8.0 * r.flop + r.transcendental) + r.byte * read,
            _ => r.flop * out,
        };
        1 + unwanted + (moved + work) as u64
    }

    fn ssd(&self, op: &Ssd, operands: &[Option<&TensorType>], out: f64) -> f64 {
        let r = &self.rates;
        let size = |i: usize, axis: usize| {
            operands[i].and_then(|ty| ty.shape.get(axis)).map_or(1.0, |d| self.size(d))
        };
        let (batch, len, p, n) = (size(0, 0), size(0, 1), size(0, 4), size(3, 3));
        let heads = size(0, 2) * size(0, 3);
        let tokens = batch * len * heads;
        let gate = if operands[6].is_some() { r.transcendental * out } else { 0.0 };
        let steps = if op.dt_softplus { r.transcendental * tokens } else { 0.0 } + r.transcendental * tokens;
        let core = match op.mode {
            Mode::Recurrent => r.serial_flop * 6.0 * tokens * n * p,
            Mode::Chunked => {
                let q = op.chunk_size.max(1) as f64;
                let chunks = (len / q).ceil() * batch * heads;
                let within = q * q * (2.0 * (n + p) * r.matrix_flop + r.transcendental);
                let between = q * 4.0 * n * p * r.matrix_flop + n * p * r.chunk_state;
                chunks * (within + between)
            }
        };
        core + gate + steps
    }
}
