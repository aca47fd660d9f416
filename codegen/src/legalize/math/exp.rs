//! e^x, 2^x and e^x - 1.
//!
//! With n = round(x / ln 2) and r = x - n * ln 2: e^x = 2^n * e^r. The rounding adds a magic number, whose low
//! bits then hold n, and the scale 2^(n-1) is made by shifting these into the exponent field. The polynomial
//! gives 2 * e^r, so that the scale stays finite where the result does, and is zero, flushing the result,
//! where it would be subnormal. NaN survives because the scale is multiplied, not added to the bits.

use super::{Format, polynomial};
use crate::kernel::{KernelBuilder, Reg};

/// Arguments split as the module documentation says.
struct Reduced {
    r: Reg,
    /// 2^(n-1), or 0 for the smallest n.
    half_scale: Reg,
}

pub(super) fn exp(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let reduced = reduce(b, f, x, f.exp_min);
    let q: Vec<f64> = [2.0, 2.0].into_iter().chain(f.exp_q.iter().map(|c| 2.0 * c)).collect();
    let doubled = polynomial(b, &q, reduced.r);
    b.mul(doubled, reduced.half_scale)
}

pub(super) fn exp2(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let x = clamp(b, x, f.exp2_min, f.exp2_max);
    let shifted = b.add(x, f.magic);
    let n = b.sub(shifted, f.magic);
    let r = b.sub(x, n);
    let q: Vec<f64> = [2.0].into_iter().chain(f.exp2_q.iter().map(|c| 2.0 * c)).collect();
    let doubled = polynomial(b, &q, r);
    let half_scale = half_scale(b, f, shifted);
    b.mul(doubled, half_scale)
}

/// 2^(x * y) of a product that needs no limits: the exact product is rounded to n, what is left of it to r, and n goes
/// into the exponent of 2^r as it is.
pub(super) fn exp2_mul(b: &mut KernelBuilder, f: &Format, x: Reg, y: Reg) -> Reg {
    let shifted = b.fma(x, y, f.magic);
    let negated = b.sub(f.magic, shifted);
    let r = b.fma(x, y, negated);
    let q: Vec<f64> = [1.0].into_iter().chain(f.exp2_q.iter().copied()).collect();
    let power = polynomial(b, &q, r);
    let bits = b.bitcast(shifted, f.int);
    let exponent = b.shl(bits, f.mantissa);
    let power = b.bitcast(power, f.int);
    let scaled = b.add(power, exponent);
    b.bitcast(scaled, f.elem)
}

pub(super) fn expm1(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let result = expm1_of_finite(b, f, x);
    let is_zero = b.eq(x, 0.0);
    b.select(is_zero, x, result)
}

/// As `expm1`, but +0 for -0: 2 * (2^(n-1) * expm1(r) + (2^(n-1) - 1/2)).
pub(super) fn expm1_of_finite(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let Reduced { r, half_scale } = reduce(b, f, x, f.expm1_min);
    let q = polynomial(b, f.exp_q, r);
    let square = b.mul(r, r);
    let small = b.fma(q, square, r);
    let offset = b.sub(half_scale, 0.5);
    let half = b.fma(half_scale, small, offset);
    b.mul(half, 2.0)
}

fn reduce(b: &mut KernelBuilder, f: &Format, x: Reg, min: f64) -> Reduced {
    let x = clamp(b, x, min, f.exp_max);
    let shifted = b.fma(x, f.log2_e, f.magic);
    let n = b.sub(shifted, f.magic);
    let r = b.fma(n, -f.ln2_hi, x);
    let r = b.fma(n, -f.ln2_lo, r);
    Reduced { r, half_scale: half_scale(b, f, shifted) }
}

/// Limits x, letting NaN pass.
fn clamp(b: &mut KernelBuilder, x: Reg, min: f64, max: f64) -> Reg {
    let x = b.min(max, x);
    b.max(min, x)
}

/// 2^(n-1) from the bits of magic + n.
fn half_scale(b: &mut KernelBuilder, f: &Format, shifted: Reg) -> Reg {
    let bits = b.bitcast(shifted, f.int);
    let exponent = b.shl(bits, f.mantissa);
    let half = f.one - (1 << f.mantissa);
    let scale = b.add(exponent, half);
    b.bitcast(scale, f.elem)
}
