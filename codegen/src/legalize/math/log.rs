//! log(x) and log(1 + x).
//!
//! With x = 2^e * (1 + r), 1 + r in [2/3, 4/3): log x = e * ln 2 + log(1 + r). Subtracting the bits of 2/3 from
//! those of x leaves e in the exponent field.

use super::{Format, polynomial};
use crate::kernel::{KernelBuilder, Reg};

pub(super) fn log(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let up = 1i64 << f.mantissa;
    let subnormal = b.lt(x, f.min_normal);
    let raised = b.mul(x, up as f64);
    let normal = b.select(subnormal, raised, x);
    let bits = b.bitcast(normal, f.int);
    let exponent = exponent_field(b, f, bits);
    let reduced = b.sub(bits, exponent);
    let reduced = b.bitcast(reduced, f.elem);
    let r = b.sub(reduced, 1.0);
    let e = exponent_value(b, f, exponent);
    let lowered = b.sub(e, f.mantissa as f64);
    let e = b.select(subnormal, lowered, e);
    let result = combine(b, f, e, r);
    special_cases(b, result, x, 0.0)
}

pub(super) fn log1p(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let result = log1p_of_finite(b, f, x);
    let result = special_cases(b, result, x, -1.0);
    let is_zero = b.eq(x, 0.0);
    b.select(is_zero, x, result)
}

/// As `log1p` for finite x > -1, with +0 for -0. The exponent comes from the rounded sum 1 + x; the reduced
/// argument r = 2^-e * x + (2^-e - 1) does not see that rounding.
pub(super) fn log1p_of_finite(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let sum = b.add(x, 1.0);
    let bits = b.bitcast(sum, f.int);
    let exponent = exponent_field(b, f, bits);
    let x_bits = b.bitcast(x, f.int);
    let scaled_x = b.sub(x_bits, exponent);
    let scaled_x = b.bitcast(scaled_x, f.elem);
    let four_scaled = b.sub(f.four, exponent);
    let four_scaled = b.bitcast(four_scaled, f.elem);
    let offset = b.fma(four_scaled, 0.25, -1.0);
    let r = b.add(scaled_x, offset);
    let e = exponent_value(b, f, exponent);
    combine(b, f, e, r)
}

/// e, where the number with these bits is 2^e * [2/3, 4/3), still in the exponent field.
fn exponent_field(b: &mut KernelBuilder, f: &Format, bits: Reg) -> Reg {
    let above = b.sub(bits, f.two_thirds);
    b.and(above, -1i64 << f.mantissa)
}

fn exponent_value(b: &mut KernelBuilder, f: &Format, field: Reg) -> Reg {
    let e = b.shr(field, f.mantissa);
    b.cast(e, f.elem)
}

/// e * ln 2 + log(1 + r), small terms first.
fn combine(b: &mut KernelBuilder, f: &Format, e: Reg, r: Reg) -> Reg {
    let p = polynomial(b, f.log_p, r);
    let p = b.fma(p, r, -0.5);
    let square = b.mul(r, r);
    let low = b.mul(e, f.ln2_lo);
    let low = b.fma(p, square, low);
    let sum = b.add(r, low);
    b.fma(e, f.ln2_hi, sum)
}

/// Infinity stays, the pole gives -inf, below it and for NaN the result is NaN.
fn special_cases(b: &mut KernelBuilder, result: Reg, x: Reg, pole: f64) -> Reg {
    let in_domain = b.ge(x, pole);
    let result = b.select(in_domain, result, f64::NAN);
    let at_pole = b.eq(x, pole);
    let result = b.select(at_pole, f64::NEG_INFINITY, result);
    let infinite = b.eq(x, f64::INFINITY);
    b.select(infinite, x, result)
}
