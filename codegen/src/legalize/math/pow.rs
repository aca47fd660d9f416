//! x^y as C `pow` defines it, from e^(y * log|x|) in `f64`.

use super::{exp, format, log};
use crate::kernel::{Elem, KernelBuilder, Reg};

/// Appends x^y for `f32` or `f64` operands and returns the result.
pub fn pow(b: &mut KernelBuilder, x: Reg, y: Reg) -> Reg {
    let elem = b.ty(x).elem();
    let (x, y) = (b.cast(x, Elem::F64), b.cast(y, Elem::F64));
    let base = b.abs(x);
    let log = log::log(b, &format::F64, base);
    let product = b.mul(y, log);
    let magnitude = exp::exp(b, &format::F64, product);

    let y_int = b.trunc(y);
    let is_int = b.eq(y, y_int);
    let half = b.mul(y, 0.5);
    let half_int = b.trunc(half);
    let is_even = b.eq(half, half_int);
    let x_bits = b.bitcast(x, Elem::I64);
    let y_odd = b.not(is_even);
    let is_odd = b.and(is_int, y_odd);
    let x_sign = b.lt(x_bits, 0);
    let negate = b.and(x_sign, is_odd);
    let negated = b.neg(magnitude);
    let result = b.select(negate, negated, magnitude);

    // A finite negative base has no real power of fractional exponent.
    let below_zero = b.lt(x, 0.0);
    let finite = b.gt(x, f64::NEG_INFINITY);
    let negative = b.and(below_zero, finite);
    let fractional = b.ne(y, y_int);
    let undefined = b.and(negative, fractional);
    let result = b.select(undefined, f64::NAN, result);

    // 1 whatever y is, 1 for y = 0 whatever x is, and 1 for -1 to an infinite power.
    let x_is_one = b.eq(x, 1.0);
    let y_is_zero = b.eq(y, 0.0);
    let base_is_one = b.eq(base, 1.0);
    let y_magnitude = b.abs(y);
    let y_infinite = b.eq(y_magnitude, f64::INFINITY);
    let minus_one = b.and(base_is_one, y_infinite);
    let one = b.or(x_is_one, y_is_zero);
    let one = b.or(one, minus_one);
    let result = b.select(one, 1.0, result);
    b.cast(result, elem)
}
