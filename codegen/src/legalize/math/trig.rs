//! sin(x) and cos(x).
//!
//! With n = round(x * 2 / pi), r = x - n * pi / 2: the quadrant n mod 4 says which of sin(r), cos(r), with
//! which sign, is the result. The reduction runs in `f64` for both types; pi / 2 in three parts and fma keep
//! r exact to the last place up to [`LIMIT`].

use super::polynomial;
use crate::kernel::{Elem, KernelBuilder, Reg};

/// Beyond this the result is NaN.
const LIMIT: f64 = (1u64 << 40) as f64;

const MAGIC: f64 = 6_755_399_441_055_744.0;
const HALF_PI: [f64; 3] = [std::f64::consts::FRAC_PI_2, 6.123233995736766e-17, -1.4973849048591698e-33];

/// sin(r) = r + r * z * s(z) and cos(r) = 1 - z / 2 + z^2 * c(z) with z = r^2, |r| <= pi / 4
struct Polynomials {
    sin: &'static [f64],
    cos: &'static [f64],
}

const F32: Polynomials = Polynomials {
    sin: &[-0.1666666716337204, 0.008333329111337662, -0.00019839327433146536, 2.71823728326126e-06],
    cos: &[0.0416666679084301, -0.0013888883404433727, 2.479951217537746e-05, -2.7209549102735764e-07],
};

const F64: Polynomials = Polynomials {
    sin: &[
        -0.16666666666666666,
        0.008333333333333323,
        -0.0001984126984125499,
        2.7557319214148867e-06,
        -2.505210490054275e-08,
        1.6058365193572622e-10,
        -7.578625511830228e-13,
    ],
    cos: &[
        0.041666666666666664,
        -0.0013888888888888874,
        2.480158730157138e-05,
        -2.7557319215325606e-07,
        2.0876754354645364e-09,
        -1.1470291937986545e-11,
        4.7380481813852635e-14,
    ],
};

pub(super) fn sin(b: &mut KernelBuilder, x: Reg) -> Reg {
    let result = quarter_turns(b, x, 0);
    let is_zero = b.eq(x, 0.0);
    b.select(is_zero, x, result)
}

pub(super) fn cos(b: &mut KernelBuilder, x: Reg) -> Reg {
    quarter_turns(b, x, 1)
}

/// sin(x + turns * pi / 2)
fn quarter_turns(b: &mut KernelBuilder, x: Reg, turns: i64) -> Reg {
    let elem = b.ty(x).elem();
    let (int, polynomials) = if elem == Elem::F32 { (Elem::I32, &F32) } else { (Elem::I64, &F64) };
    let wide = b.cast(x, Elem::F64);
    let shifted = b.fma(wide, std::f64::consts::FRAC_2_PI, MAGIC);
    let n = b.sub(shifted, MAGIC);
    let r = HALF_PI.into_iter().fold(wide, |r, part| b.fma(n, -part, r));
    let r = b.cast(r, elem);
    let quadrant = b.bitcast(shifted, Elem::I64);
    let quadrant = b.cast(quadrant, int);
    let quadrant = b.add(quadrant, turns);

    let z = b.mul(r, r);
    let s = polynomial(b, polynomials.sin, z);
    let cube = b.mul(z, r);
    let s = b.fma(s, cube, r);
    let c = polynomial(b, polynomials.cos, z);
    let c = b.fma(c, z, -0.5);
    let c = b.fma(c, z, 1.0);

    let odd = b.and(quadrant, 1);
    let odd = b.eq(odd, 1);
    let value = b.select(odd, c, s);
    let negative = b.and(quadrant, 2);
    let sign = b.shl(negative, i64::from(elem.bits()) - 2);
    let bits = b.bitcast(value, int);
    let bits = b.xor(bits, sign);
    let value = b.bitcast(bits, elem);
    let magnitude = b.abs(x);
    let in_range = b.le(magnitude, LIMIT);
    b.select(in_range, value, f64::NAN)
}
