//! Conversions between `f32` and the 16-bit floats by integer arithmetic, for targets without instructions.
//!
//! All are exact or round to nearest even, subnormals and infinities included; NaN stays NaN.

use crate::kernel::{Elem, KernelBuilder, Reg};

/// `bf16` to `f32`, exact: the bits move up.
pub fn bf16_to_f32(b: &mut KernelBuilder, x: Reg) -> Reg {
    let bits = b.bitcast(x, Elem::U16);
    let bits = b.cast(bits, Elem::U32);
    let bits = b.shl(bits, 16);
    b.bitcast(bits, Elem::F32)
}

/// `f32` rounded to `bf16`, as `u16` bits: adds just under half of the last place kept, or just half if that
/// bit is odd. NaN would carry into infinity, so it becomes the quiet NaN of its sign.
pub fn f32_to_bf16_bits(b: &mut KernelBuilder, x: Reg) -> Reg {
    let bits = b.bitcast(x, Elem::U32);
    let upper = b.shr(bits, 16);
    let odd = b.and(upper, 1);
    let rounded = b.add(bits, 0x7fff);
    let rounded = b.add(rounded, odd);
    let rounded = b.shr(rounded, 16);
    let quiet = b.or(upper, 0x40);
    let is_nan = b.ne(x, x);
    let result = b.select(is_nan, quiet, rounded);
    b.cast(result, Elem::U16)
}

/// `f16` to `f32`, exact: exponent and mantissa moved into place are the value times 2^-112, subnormals
/// included; infinity and NaN get the full exponent.
pub fn f16_to_f32(b: &mut KernelBuilder, x: Reg) -> Reg {
    let bits = b.bitcast(x, Elem::U16);
    let bits = b.cast(bits, Elem::U32);
    let sign = b.and(bits, 0x8000);
    let sign = b.shl(sign, 16);
    let magnitude = b.and(bits, 0x7fff);
    let placed = b.shl(magnitude, 13);
    let placed_f32 = b.bitcast(placed, Elem::F32);
    let scaled = b.mul(placed_f32, 2f32.powi(112));
    let scaled = b.bitcast(scaled, Elem::U32);
    let special = b.or(placed, 0x7f80_0000);
    let is_special = b.ge(magnitude, 0x7c00);
    let magnitude = b.select(is_special, special, scaled);
    let result = b.or(magnitude, sign);
    b.bitcast(result, Elem::F32)
}

/// `f32` rounded to `f16`, as `u16` bits. Normal results add the rounding bias to the rebiased bits;
/// subnormal results come from adding 1/2, whose last place is the spacing of subnormal `f16`.
pub fn f32_to_f16_bits(b: &mut KernelBuilder, x: Reg) -> Reg {
    let bits = b.bitcast(x, Elem::U32);
    let sign = b.and(bits, 0x8000_0000u32);
    let sign = b.shr(sign, 16);
    let magnitude = b.and(bits, 0x7fff_ffff);

    let odd = b.shr(magnitude, 13);
    let odd = b.and(odd, 1);
    let rebias = 0xfff - (112i64 << 23);
    let normal = b.add(magnitude, rebias);
    let normal = b.add(normal, odd);
    let normal = b.shr(normal, 13);

    let half_bits = 0.5f32.to_bits();
    let small = b.bitcast(magnitude, Elem::F32);
    let small = b.add(small, 0.5f32);
    let small = b.bitcast(small, Elem::U32);
    let small = b.sub(small, half_bits);

    let min_normal = 2f32.powi(-14).to_bits();
    let overflow = 65520f32.to_bits();
    let infinity = f32::INFINITY.to_bits();
    let is_small = b.lt(magnitude, min_normal);
    let result = b.select(is_small, small, normal);
    let overflows = b.ge(magnitude, overflow);
    let result = b.select(overflows, 0x7c00, result);
    let is_nan = b.gt(magnitude, infinity);
    let payload = b.shr(magnitude, 13);
    let payload = b.and(payload, 0x3ff);
    let quiet = b.or(payload, 0x7e00);
    let result = b.select(is_nan, quiet, result);
    let result = b.or(result, sign);
    b.cast(result, Elem::U16)
}
