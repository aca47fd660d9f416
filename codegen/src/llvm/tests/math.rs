//! The functions that legalization expands, at every level: the expansion computes the same bits in the
//! interpreter and as machine code.

use super::harness::{Buffer, Case, check_cases};
use crate::kernel::{Access, BinaryOp, Elem, Kernel, KernelBuilder, MathOp, Reg};

const FUNCTIONS: [MathOp; 13] = [
    MathOp::Exp,
    MathOp::Exp2,
    MathOp::Log,
    MathOp::Log1p,
    MathOp::Expm1,
    MathOp::Sigmoid,
    MathOp::Softplus,
    MathOp::Silu,
    MathOp::Tanh,
    MathOp::Erf,
    MathOp::Sin,
    MathOp::Cos,
    MathOp::Rsqrt,
];

const LANES: [u16; 4] = [1, 4, 8, 16];

/// Arguments per launch.
const LEN: usize = 4096;

/// Bit patterns that walk through the whole type, specials included, then a dense walk over [-16, 16).
fn arguments(elem: Elem) -> Buffer {
    let ordinary = (0..LEN / 2).map(|i| f64::from(i as u32) / 64.0 - 16.0 + 1.0 / 1024.0);
    let spread = (0..LEN as u64 / 2).map(|i| match elem {
        Elem::F64 => i.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        Elem::F32 => i.wrapping_mul(0x9e37_79b9),
        _ => i.wrapping_mul(40503),
    });
    let bits = ordinary.map(|value| crate::kernel::Const::float(elem, value).unwrap().bits()).chain(spread);
    Buffer::from_bits(elem, bits)
}

fn case(name: &str, elem: Elem, lanes: u16, f: impl FnOnce(&mut KernelBuilder, Reg, Reg) -> Reg) -> Case {
    let mut b = KernelBuilder::cpu(&format!("{name}_{elem}_{lanes}"));
    let x = b.param("x", elem, Access::Read);
    let y = b.param("y", elem, Access::Read);
    let out = b.param("out", elem, Access::Write);
    let block = b.block_idx();
    let start = b.mul(block, i64::from(lanes));
    let (x, y) = (b.load(x, start, lanes), b.load(y, start, lanes));
    let value = f(&mut b, x, y);
    b.store(out, start, value);
    let kernel: Kernel = b.finish();
    let reversed = {
        let mut bits = arguments(elem).bits();
        bits.reverse();
        Buffer::from_bits(elem, bits)
    };
    let buffers = vec![arguments(elem), reversed, Buffer::zeros(elem, LEN)];
    Case { kernel, grid: (LEN / usize::from(lanes)) as i64, dims: Vec::new(), buffers }
}

#[test]
fn functions_of_one_operand() {
    let mut cases = Vec::new();
    for elem in [Elem::F32, Elem::F16, Elem::Bf16] {
        for op in FUNCTIONS {
            cases.extend(LANES.map(|lanes| case(&format!("{op:?}"), elem, lanes, |b, x, _| b.math(op, x))));
        }
    }
    check_cases(&cases);
}

#[test]
fn powers() {
    let power = |lanes| case("pow", Elem::F32, lanes, |b, x, y| b.binary(BinaryOp::Pow, x, y));
    check_cases(&LANES.map(power));
}

#[test]
fn powers_of_two_of_products() {
    for elem in [Elem::F32, Elem::F16, Elem::Bf16] {
        let power = |lanes| case("exp2_mul", elem, lanes, |b, x, y| b.binary(BinaryOp::Exp2Mul, x, y));
        check_cases(&LANES.map(power));
    }
}

#[test]
fn arithmetic_on_sixteen_bit_floats() {
    let mut cases = Vec::new();
    for elem in [Elem::F16, Elem::Bf16] {
        for lanes in LANES {
            for op in
                [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Div, BinaryOp::Min, BinaryOp::Max]
            {
                cases.push(case(&format!("{op:?}"), elem, lanes, |b, x, y| b.binary(op, x, y)));
            }
            cases.push(case("fma", elem, lanes, |b, x, y| b.fma(x, y, x)));
        }
    }
    check_cases(&cases);
}
