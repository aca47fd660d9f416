//! Random kernels: whatever the verifier accepts must compute the same bits as machine code.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::harness::{Buffer, check_kernel};
use crate::kernel::{Access, BinaryOp, CompareOp, Elem, Kernel, KernelBuilder, ReduceOp, Reg, UnaryOp};

/// Element types of the registers; their arithmetic is legal on CPUs.
const ELEMS: [Elem; 7] = [Elem::F32, Elem::F64, Elem::I8, Elem::U16, Elem::I32, Elem::U64, Elem::I64];

/// Elements of the input and of each output per block.
const LEN: i64 = 32;

/// Writes a kernel by following a tape of decisions; an exhausted tape reads as zeros.
struct Writer<'t> {
    tape: std::slice::Iter<'t, u16>,
    lanes: u16,
    /// Registers that hold a value here, by element type; never empty.
    pool: BTreeMap<Elem, Vec<Reg>>,
    /// One register of each type that may be assigned again, in the order of [`ELEMS`].
    variables: Vec<Reg>,
}

impl Writer<'_> {
    fn choose(&mut self, n: usize) -> usize {
        usize::from(self.tape.next().copied().unwrap_or(0)) % n
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.choose(choices.len())]
    }

    fn value(&mut self, elem: Elem) -> Reg {
        let n = self.pool[&elem].len();
        let index = self.choose(n);
        self.pool[&elem][index]
    }

    fn statement(&mut self, b: &mut KernelBuilder, depth: u32) {
        match self.choose(if depth < 3 { 12 } else { 9 }) {
            0..=7 => {
                let elem = self.pick(&ELEMS);
                let value = self.expression(b, elem);
                self.pool.entry(elem).or_default().push(value);
            }
            8 | 9 => {
                let n = self.variables.len();
                let variable = self.choose(n);
                let variable = self.variables[variable];
                let value = self.expression(b, b.ty(variable).elem());
                b.assign(variable, value);
            }
            10 => {
                let count = self.choose(5);
                b.for_("i", 0, count, 1, |b, _| self.nested(b, depth));
            }
            _ => {
                let cond = self.condition(b);
                let cond = b.extract(cond, 0);
                let mut arm = self.fork();
                b.if_(cond, |b| arm.nested(b, depth));
                self.tape = arm.tape;
            }
        }
    }

    fn fork(&self) -> Self {
        Writer {
            tape: self.tape.clone(),
            lanes: self.lanes,
            pool: self.pool.clone(),
            variables: self.variables.clone(),
        }
    }

    /// A few statements whose registers end with them.
    fn nested(&mut self, b: &mut KernelBuilder, depth: u32) {
        let pool = self.pool.clone();
        for _ in 0..=self.choose(6) {
            self.statement(b, depth + 1);
        }
        self.pool = pool;
    }

    fn condition(&mut self, b: &mut KernelBuilder) -> Reg {
        use CompareOp::{Eq, Ge, Gt, Le, Lt, Ne};
        let elem = self.pick(&ELEMS);
        let op = self.pick(&[Eq, Ne, Lt, Le, Gt, Ge]);
        let (lhs, rhs) = (self.value(elem), self.value(elem));
        b.compare(op, lhs, rhs)
    }

    fn expression(&mut self, b: &mut KernelBuilder, elem: Elem) -> Reg {
        use BinaryOp::{Add, And, Div, Max, Min, Mul, Or, Shl, Shr, Sub, Xor};
        let (x, y) = (self.value(elem), self.value(elem));
        match (self.choose(9), elem.is_float()) {
            (0 | 1, true) => {
                let op = self.pick(&[Add, Sub, Mul, Div, Min, Max]);
                b.binary(op, x, y)
            }
            (0 | 1, false) => {
                let op = self.pick(&[Add, Sub, Mul, Min, Max, And, Or, Xor]);
                b.binary(op, x, y)
            }
            (2, true) => {
                let z = self.value(elem);
                b.fma(x, y, z)
            }
            (2, false) => {
                let op = self.pick(&[Shl, Shr]);
                let amount = b.and(y, i64::from(elem.bits() - 1));
                b.binary(op, x, amount)
            }
            (3, true) => {
                use UnaryOp::{Abs, Ceil, Floor, Neg, Round, Sqrt, Trunc};
                let op = self.pick(&[Neg, Abs, Sqrt, Floor, Ceil, Trunc, Round]);
                b.unary(op, x)
            }
            (3, false) => {
                let op = self.pick(&[UnaryOp::Neg, UnaryOp::Not]);
                b.unary(op, x)
            }
            (4, _) => {
                let cond = self.condition(b);
                b.select(cond, x, y)
            }
            (5, _) => {
                let from = self.pick(&ELEMS);
                let value = self.value(from);
                let through = self.pick(&[from, Elem::F16, Elem::Bf16, Elem::Bool]);
                let value = b.cast(value, through);
                b.cast(value, elem)
            }
            (6, _) => {
                let pattern: Vec<u16> =
                    (0..self.lanes).map(|_| self.choose(2 * usize::from(self.lanes)) as u16).collect();
                b.shuffle2(x, y, &pattern)
            }
            (7, _) => {
                let op = self.pick(&[ReduceOp::Add, ReduceOp::Min, ReduceOp::Max]);
                let scalar = b.reduce(op, x);
                b.splat(scalar, self.lanes)
            }
            _ => {
                let constant = self.choose(7) as f64 - 2.0;
                let ty = elem.x(self.lanes);
                b.const_like(ty, if elem.is_float() { constant / 3.0 } else { constant.abs() })
            }
        }
    }
}

/// A kernel that loads `LEN / lanes` vectors of each type, computes, and stores one vector of each type.
fn kernel(lanes: u16, tape: &[u16]) -> Kernel {
    let mut b = KernelBuilder::cpu("random");
    let inputs = ELEMS.map(|elem| b.param(&format!("{elem}_in"), elem, Access::Read));
    let outputs = ELEMS.map(|elem| b.param(&format!("{elem}_out"), elem, Access::Write));
    let block = b.block_idx();
    let start = b.mul(block, LEN);
    let out = b.mul(block, i64::from(lanes));
    let mut writer = Writer { tape: tape.iter(), lanes, pool: BTreeMap::new(), variables: Vec::new() };
    for (elem, input) in ELEMS.into_iter().zip(inputs) {
        for offset in (0..LEN).step_by(lanes.into()).take(4) {
            let at = b.add(start, offset);
            let value = b.load(input, at, lanes);
            writer.pool.entry(elem).or_default().push(value);
        }
        let first = writer.pool[&elem][0];
        let variable = b.var_init(first);
        writer.pool.entry(elem).or_default().push(variable);
        writer.variables.push(variable);
    }
    while !writer.tape.as_slice().is_empty() {
        writer.statement(&mut b, 0);
    }
    for ((elem, output), variable) in ELEMS.into_iter().zip(outputs).zip(writer.variables) {
        let last = *writer.pool[&elem].last().expect("the pool starts with values");
        let both = if elem.is_float() { b.add(last, variable) } else { b.xor(last, variable) };
        b.store(output, out, both);
    }
    b.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn machine_code_computes_what_the_interpreter_computes(
        lanes in prop::sample::select(vec![1u16, 4, 8, 16]),
        tape in prop::collection::vec(any::<u16>(), 0..240),
        bits in prop::collection::vec(any::<u64>(), 3 * LEN as usize),
    ) {
        let inputs = ELEMS.map(|elem| Buffer::from_bits(elem, bits.iter().copied()));
        let outputs = ELEMS.map(|elem| Buffer::zeros(elem, 3 * usize::from(lanes)));
        check_kernel(&kernel(lanes, &tape), 3, &[], &[inputs, outputs].concat());
    }
}
