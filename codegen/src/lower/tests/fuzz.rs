//! Random graphs: prologues and epilogues in combinations that nobody thought of.

use super::problem::{Case, Fill, Noise, Problem};
use ssmc_ir::DType::{BF16, Bool, F32, I64};
use ssmc_ir::ops::{
    Activation, BinaryFn, CausalConv1d, Cmp, Compare, Concat, Contract, CumSum, Gather, LayerNorm, Op, Pad,
    Reduce, ReduceFn, Reverse, RmsNorm, Scan, Select, Slice, Spec, UnaryFn,
};
use ssmc_ir::{Dim, Shape, ValueId};
use std::collections::BTreeSet;

/// Functions that keep numbers small and are continuous, so that roundings stay small.
const UNARY: [UnaryFn; 7] = [
    UnaryFn::Neg,
    UnaryFn::Abs,
    UnaryFn::Tanh,
    UnaryFn::Sigmoid,
    UnaryFn::Sin,
    UnaryFn::Silu,
    UnaryFn::Softplus,
];

const BINARY: [BinaryFn; 5] = [BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Min, BinaryFn::Max];

struct Fuzz {
    case: Case,
    noise: Noise,
    /// f32 tensors.
    pool: Vec<ValueId>,
    /// How many of the first ones are inputs.
    n_inputs: usize,
}

impl Fuzz {
    fn new(seed: u64) -> Self {
        let mut case = Case::new(format!("random graph {seed}"));
        let noise = Noise::new(seed + 1);
        let shapes = ["b,l,6", "b,l,16", "b,l,6", "l,3", "6", "b,l", "b,4,l"];
        let pool: Vec<ValueId> = shapes.iter().map(|s| case.input(F32, s, Fill::Noise(1.0))).collect();
        let n_inputs = pool.len();
        Self { case, noise, pool, n_inputs }
    }

    fn pick(&mut self) -> ValueId {
        // Later values more often, so that chains grow.
        let n = self.pool.len();
        let i =
            if self.noise.below(2) == 0 { n - 1 - self.noise.below(n.min(4)) } else { self.noise.below(n) };
        self.pool[i]
    }

    /// A value of the same shape as `x`, if possible another one.
    fn partner(&mut self, x: ValueId, n: usize) -> ValueId {
        let shape = self.case.b.shape(x).clone();
        let same: Vec<ValueId> =
            self.pool[..n].iter().copied().filter(|v| *self.case.b.shape(*v) == shape).collect();
        if same.is_empty() { x } else { same[self.noise.below(same.len())] }
    }

    /// Adds a node, unless the one that was drawn does not fit its operand.
    fn grow(&mut self) {
        let x = self.pick();
        let dims = self.case.b.shape(x).clone();
        let rank = dims.len();
        let axis = if rank > 0 { self.noise.below(rank) } else { 0 };
        let kind = self.noise.below(20);
        if rank == 0 && kind > 1 {
            return;
        }
        let draw = self.noise.below(1000);
        let flag = draw.is_multiple_of(2);
        let case = &mut self.case;
        let built = match kind {
            0 => case.b.unary(UNARY[draw % UNARY.len()], x),
            1 => {
                let y = self.partner(x, self.pool.len());
                self.case.b.binary(BINARY[draw % BINARY.len()], x, y)
            }
            2 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(axis, draw % rank);
                case.b.transpose(x, &perm)
            }
            3 => {
                // Two axes become one, or one of constant extent becomes two.
                let mut to: Vec<Dim> = dims.to_vec();
                match dims[axis].as_const() {
                    Some(n) if n % 2 == 0 => {
                        to[axis] = Dim::from(n / 2);
                        to.insert(axis + usize::from(flag), Dim::from(2));
                    }
                    _ if axis + 1 < rank => {
                        let next = to.remove(axis + 1);
                        to[axis] = to[axis].clone() * &next;
                    }
                    _ => to.insert(axis, Dim::from(1)),
                }
                case.b.reshape(x, to.into_iter().collect::<Shape>())
            }
            4 => match dims[axis].as_const() {
                Some(n) if n >= 3 => {
                    let (start, stride) = if flag { (1, 1) } else { (n - 1, -2) };
                    let len = if flag { n - 2 } else { n / 2 };
                    case.b.op(Slice { axis, start: start.into(), len: len.into(), stride }, &[x])
                }
                _ => return,
            },
            5 => case.b.op(Reverse { axis }, &[x]),
            6 => {
                let y = self.partner(x, self.pool.len());
                self.case.b.op(Concat { axis }, &[x, y])
            }
            7 => {
                let fill = case.b.scalar(F32, draw as f64 / 1000.0).unwrap();
                case.b.op(Pad { axis, low: Dim::from(draw % 3), high: Dim::from(draw % 5) }, &[x, fill])
            }
            8 => match dims[axis].as_const() {
                Some(n) if n > 0 => {
                    let at = case.input(
                        I64,
                        ["2", "l", "", "2,3"][draw % 4],
                        Fill::Range(-n as f64, (n - 1) as f64),
                    );
                    case.b.op(Gather { axis }, &[x, at])
                }
                _ => return,
            },
            9 => {
                let mut to = dims.to_vec();
                let place = draw % (rank + 1);
                to.insert(place, Dim::from(1 + draw % 3));
                let axes: Vec<usize> = (0..=rank).filter(|i| *i != place).collect();
                case.b.broadcast(x, &axes, to.into_iter().collect::<Shape>())
            }
            10 => {
                let f = [ReduceFn::Sum, ReduceFn::Mean, ReduceFn::Max][draw % 3];
                // Extents of 0 have no largest element that stays finite.
                case.b.op(Reduce { axes: vec![axis], f }, &[x])
            }
            11 => case.b.op(CumSum { axis, exclusive: flag, reverse: draw.is_multiple_of(3) }, &[x]),
            12 => {
                let half = case.b.cast(x, BF16).unwrap();
                case.b.cast(half, F32)
            }
            13 => {
                // A choice by inputs, which no rounding has touched.
                let y = self.partner(x, self.pool.len());
                let c = self.partner(x, self.n_inputs);
                if *self.case.b.shape(c) != dims || !self.pool[..self.n_inputs].contains(&c) {
                    return;
                }
                let zero = self.case.b.splat(0.0, c).unwrap();
                let above = self.case.b.op(Compare { cmp: Cmp::Gt }, &[c, zero]).unwrap();
                assert_eq!(self.case.b.ty(above).dtype, Bool);
                self.case.b.op(Select {}, &[above, x, y])
            }
            14 => {
                let Some(n) = dims[rank - 1].as_const() else { return };
                let m = [1, 3, 16, 37][draw % 4];
                let w = case.weight(if flag { BF16 } else { F32 }, &format!("{m},{n}"), Fill::Noise(0.5));
                let w = case.b.cast(w, F32).unwrap();
                let labels: Vec<u8> = (0..rank as u8).map(|i| b'a' + i).collect();
                let mut output = labels.clone();
                output[rank - 1] = b'z';
                let spec = Spec { inputs: vec![labels, vec![b'z', b'a' + rank as u8 - 1]], output };
                case.b.op(Contract { spec }, &[x, w])
            }
            15 => {
                let y = self.partner(x, self.pool.len());
                let labels: Vec<u8> = (0..rank as u8).map(|i| b'a' + i).collect();
                let mut output = labels.clone();
                if flag {
                    output.reverse();
                }
                if draw.is_multiple_of(3) {
                    output.remove(axis);
                }
                let spec = Spec { inputs: vec![labels.clone(), labels], output };
                self.case.b.op(Contract { spec }, &[x, y])
            }
            16 if rank > 1 => {
                let a = case.b.unary(UnaryFn::Sigmoid, x).unwrap();
                let y = self.partner(x, self.pool.len());
                self.case.b.node(Scan { reverse: flag }, &[Some(a), Some(y)], Vec::new()).map(|r| r[draw % 2])
            }
            17 if dims[rank - 1].as_const().is_some() => {
                let eps = 1e-2.into();
                if flag { case.b.op(RmsNorm { eps }, &[x]) } else { case.b.op(LayerNorm { eps }, &[x]) }
            }
            18 if rank == 3 && dims[2].as_const().is_some() => {
                let w = case.weight(F32, &format!("{},3", dims[2]), Fill::Noise(0.5));
                let activation = if flag { Activation::Silu } else { Activation::None };
                let op = CausalConv1d { activation };
                case.b.node(op, &[Some(x), Some(w)], Vec::new()).map(|r| r[draw % 2])
            }
            _ => return,
        };
        if let Ok(value) = built
            && self.case.b.shape(value).len() <= 5
        {
            self.pool.push(value);
        }
    }
}

const GRAPHS: u64 = if cfg!(feature = "llvm") { 40 } else { 300 };

/// `SSMC_FUZZ_SEEDS=100..2000` runs other graphs than the ones that every run checks.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SSMC_FUZZ_SEEDS") else { return 0..GRAPHS };
    let (from, to) = text.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

fn random_graph(seed: u64) -> Problem {
    let mut fuzz = Fuzz::new(seed);
    for _ in 0..[6, 14, 30][seed as usize % 3] {
        fuzz.grow();
    }
    let outputs: Vec<ValueId> = fuzz.pool[fuzz.n_inputs..].iter().rev().take(3).copied().collect();
    fuzz.case.finish(&outputs)
}

#[test]
fn random_graphs() {
    for seed in seeds() {
        random_graph(seed).check(&[(1, 0), (2, 1), (1, 9), (3, 5), (1, 19)]);
    }
}

/// The others jump, need operands of particular ranges or are the mixers: they have tests of their own.
#[test]
fn random_graphs_hold_every_other_op() {
    let mut found = BTreeSet::new();
    for seed in 0..150 {
        found.extend(random_graph(seed).graph.nodes().map(|(_, node)| node.op.name()));
    }
    let ops = Op::templates();
    let missing: Vec<_> = ops
        .iter()
        .map(Op::name)
        .filter(|name| !found.contains(name))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let expected = "and argmax bitcast ceil conv cos dequantize dft dim div erf exp expm1 floor gated_rms_norm if iota is_nan log log1p \
                    loop not or pow reciprocal relu rem round rsqrt scatter sign sqrt ssm.complex_scan \
                    ssm.discretized_scan ssm.linear_attention ssm.long_conv ssm.selective_scan ssm.ssd ssm.wkv \
                    top_k xor";
    assert_eq!(missing.join(" "), expected);
}
