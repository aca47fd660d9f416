//! Math functions as arithmetic on lanes of `f32` or `f64`, at any width.
//!
//! Every function propagates NaN. Error bounds, in units of the last place of the exact result, as the tests
//! measure them over the whole range of `f32`:
//!
//! | function | f32 bound | exact values and limits |
//! |---|---|---|
//! | `exp`, `exp2` | 1.5 | results below 2^-125.5 become 0; `exp(inf) = inf`, `exp(-inf) = 0` |
//! | `exp2_mul` | 1.5 | where the product is at most 125 in magnitude; NaN and greater ones give any number |
//! | `expm1` | 2 | `expm1(-0) = -0` |
//! | `log` | 1.5 | `log(0) = -inf`, NaN below 0; subnormals are exact arguments |
//! | `log1p` | 2 | `log1p(-1) = -inf`, NaN below -1, `log1p(-0) = -0` |
//! | `sigmoid` | 3 | 0 where `exp(-x)` overflows, below -88.73 |
//! | `softplus` | 2.5 | 0 where `exp(x)` becomes 0, below -86.99 |
//! | `silu` | 3.5 | -0 below -88.73, NaN at -inf |
//! | `tanh` | 3 | |
//! | `erf` | 2.5 | |
//! | `sin`, `cos` | 1.5 | NaN beyond \|x\| = 2^40 |
//! | `rsqrt` | 1.5 | `rsqrt(0) = inf`, `rsqrt(-0) = -inf` |
//! | `recip` | 0.5 | |
//! | `pow` | 1 | as C `pow`; evaluated in `f64` |
//!
//! In `f64` the same algorithms with longer polynomials err by at most 4 units, `pow` by `4 + |y ln x|`, results
//! below 2^-1021.5 become 0.

mod erf;
mod exp;
pub(super) mod fast;
mod format;
mod log;
mod pow;
#[cfg(test)]
mod tests;
mod trig;

use format::Format;
pub use pow::pow;

use crate::kernel::{Elem, KernelBuilder, MathOp, Reg};

/// Appends 2^(x * y) for `f32` or `f64` operands whose product is at most 125 in magnitude, and returns the result.
pub fn exp2_mul(b: &mut KernelBuilder, x: Reg, y: Reg) -> Reg {
    let f = match b.ty(x).elem() {
        Elem::F32 => &format::F32,
        _ => &format::F64,
    };
    exp::exp2_mul(b, f, x, y)
}

/// Appends the code of `op` at `x` and returns its result.
///
/// # Panics
/// If `x` is neither `f32` nor `f64`: widen the 16-bit types first.
pub fn expand(b: &mut KernelBuilder, op: MathOp, x: Reg) -> Reg {
    let f = match b.ty(x).elem() {
        Elem::F32 => &format::F32,
        Elem::F64 => &format::F64,
        other => panic!("{op:?} of {other} cannot be expanded"),
    };
    match op {
        MathOp::Exp => exp::exp(b, f, x),
        MathOp::Exp2 => exp::exp2(b, f, x),
        MathOp::Expm1 => exp::expm1(b, f, x),
        MathOp::Log => log::log(b, f, x),
        MathOp::Log1p => log::log1p(b, f, x),
        MathOp::Sigmoid => sigmoid(b, f, x),
        MathOp::Softplus => softplus(b, f, x),
        MathOp::Silu => silu(b, f, x),
        MathOp::Tanh => tanh(b, f, x),
        MathOp::Erf => erf::erf(b, f, x),
        MathOp::Sin => trig::sin(b, x),
        MathOp::Cos => trig::cos(b, x),
        MathOp::Rsqrt => {
            let root = b.sqrt(x);
            b.div(1.0, root)
        }
        MathOp::Recip => b.div(1.0, x),
    }
}

/// 1 + e^-x
fn one_plus_exp_neg(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let negated = b.neg(x);
    let e = exp::exp(b, f, negated);
    b.add(1.0, e)
}

fn sigmoid(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let denominator = one_plus_exp_neg(b, f, x);
    b.div(1.0, denominator)
}

fn silu(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let denominator = one_plus_exp_neg(b, f, x);
    b.div(x, denominator)
}

/// max(x, 0) + log1p(exp(-|x|)): both terms are positive, so nothing cancels.
fn softplus(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let magnitude = b.abs(x);
    let negated = b.neg(magnitude);
    let e = exp::exp(b, f, negated);
    let tail = log::log1p_of_finite(b, f, e);
    let linear = b.max(0.0, x);
    b.add(linear, tail)
}

/// With m = expm1(-2|x|): tanh|x| = -m / (m + 2); the sign of x is put on at the end.
fn tanh(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let magnitude = b.abs(x);
    let doubled = b.mul(magnitude, -2.0);
    let m = exp::expm1_of_finite(b, f, doubled);
    let denominator = b.add(m, 2.0);
    let ratio = b.div(m, denominator);
    let ratio = b.abs(ratio);
    with_sign_of(b, f, ratio, x)
}

/// A non-negative value with the sign bit of `sign`.
fn with_sign_of(b: &mut KernelBuilder, f: &Format, value: Reg, sign: Reg) -> Reg {
    let sign = b.bitcast(sign, f.int);
    let sign = b.and(sign, f.sign_bit);
    let value = b.bitcast(value, f.int);
    let value = b.or(value, sign);
    b.bitcast(value, f.elem)
}

/// `coefficients[0] + coefficients[1] * x + ...`, by Horner's rule.
fn polynomial(b: &mut KernelBuilder, coefficients: &[f64], x: Reg) -> Reg {
    let (last, rest) = coefficients.split_last().expect("every polynomial has a coefficient");
    let last = b.const_like(b.ty(x), *last);
    rest.iter().rev().fold(last, |sum, &c| b.fma(sum, x, c))
}
