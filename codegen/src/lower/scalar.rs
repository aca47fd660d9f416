//! Elementwise ops as instructions.

use super::{LowerError, accumulator, elem_of};
use crate::kernel::{CompareOp, Const, Elem, KernelBuilder, Reg};
use ssmc_ir::ops::{BinaryFn, Cmp, Constant, UnaryFn};

/// A literal with one element. Larger ones lie in memory.
pub(super) fn constant(b: &mut KernelBuilder, op: &Constant) -> Result<Reg, LowerError> {
    let elem = elem_of(op.dtype)?;
    let mut bytes = [0; 8];
    if op.data.len() != elem.size() {
        return Err(LowerError::NotElementwise { op: "constant" });
    }
    bytes[..op.data.len()].copy_from_slice(&op.data);
    Ok(b.constant(Const::from_bits(elem, u64::from_le_bytes(bytes)), 1))
}

pub(super) fn unary(b: &mut KernelBuilder, f: UnaryFn, x: Reg) -> Result<Reg, LowerError> {
    let ty = b.ty(x);
    let is_float = ty.elem().is_float();
    Ok(match f {
        UnaryFn::Neg => b.neg(x),
        UnaryFn::Abs if is_float || ty.elem().is_signed_int() => b.abs(x),
        UnaryFn::Abs => x,
        UnaryFn::Exp => b.exp(x),
        UnaryFn::Log => b.log(x),
        UnaryFn::Log1p => b.log1p(x),
        UnaryFn::Expm1 => b.expm1(x),
        UnaryFn::Sqrt => b.sqrt(x),
        UnaryFn::Rsqrt => b.rsqrt(x),
        UnaryFn::Reciprocal => {
            let one = b.const_like(ty, 1.0);
            b.div(one, x)
        }
        UnaryFn::Sin => b.sin(x),
        UnaryFn::Cos => b.cos(x),
        UnaryFn::Tanh => b.tanh(x),
        UnaryFn::Sigmoid => b.sigmoid(x),
        UnaryFn::Softplus => b.softplus(x),
        UnaryFn::Silu => b.silu(x),
        UnaryFn::Erf => b.erf(x),
        UnaryFn::Relu => {
            let zero = b.zero(ty);
            b.max(zero, x)
        }
        UnaryFn::Floor => b.floor(x),
        UnaryFn::Ceil => b.ceil(x),
        UnaryFn::Round => b.round(x),
        UnaryFn::Sign => {
            let (zero, one) = (b.zero(ty), b.const_like(ty, 1.0));
            let above = b.gt(x, zero);
            let sign = b.select(above, one, x);
            if ty.elem().is_signed_int() || is_float {
                let minus_one = b.const_like(ty, -1.0);
                let below = b.lt(x, zero);
                b.select(below, minus_one, sign)
            } else {
                sign
            }
        }
        UnaryFn::Not => b.not(x),
        UnaryFn::IsNan => b.ne(x, x),
    })
}

pub(super) fn binary(b: &mut KernelBuilder, f: BinaryFn, x: Reg, y: Reg) -> Result<Reg, LowerError> {
    let elem = b.ty(x).elem();
    Ok(match f {
        BinaryFn::Add => b.add(x, y),
        BinaryFn::Sub => b.sub(x, y),
        BinaryFn::Mul => b.mul(x, y),
        BinaryFn::Div if elem.is_float() => b.div(x, y),
        BinaryFn::Div => int_div(b, x, y),
        BinaryFn::Min if elem.is_float() => b.min_nan(x, y),
        BinaryFn::Min => b.min(x, y),
        BinaryFn::Max if elem.is_float() => b.max_nan(x, y),
        BinaryFn::Max => b.max(x, y),
        BinaryFn::Pow if elem.is_float() => b.pow(x, y),
        BinaryFn::Pow => int_pow(b, x, y),
        BinaryFn::Rem if elem.is_float() => float_rem(b, x, y),
        BinaryFn::Rem => int_rem(b, x, y),
        BinaryFn::And => b.and(x, y),
        BinaryFn::Or => b.or(x, y),
        BinaryFn::Xor => b.xor(x, y),
    })
}

/// x - floor(x/y)*y, the remainder with the sign of the divisor. Exact while |x/y| < 2^23 in f32: the rounded
/// quotient is then off by one at most, which the sign and the size of the remainder show.
fn float_rem(b: &mut KernelBuilder, x: Reg, y: Reg) -> Reg {
    let elem = b.ty(x).elem();
    let (x, y) = (b.cast(x, accumulator(elem)), b.cast(y, accumulator(elem)));
    let quotient = b.div(x, y);
    let whole = b.floor(quotient);
    let negated = b.neg(whole);
    let r = b.fma(negated, y, x);
    // An infinite divisor times 0 is not 0.
    let is_small = b.eq(quotient, 0);
    let r = b.select(is_small, x, r);
    let (magnitude, limit) = (b.abs(r), b.abs(y));
    let too_large = b.gt(magnitude, limit);
    let less = b.sub(r, y);
    let r = b.select(too_large, less, r);
    let (r_below, y_below, nonzero) = (b.lt(r, 0), b.lt(y, 0), b.ne(r, 0));
    let differ = b.xor(r_below, y_below);
    let wrong = b.and(differ, nonzero);
    let more = b.add(r, y);
    let r = b.select(wrong, more, r);
    b.cast(r, elem)
}

/// The divisor with 1 in place of 0 and -1, and where those two were.
fn safe_divisor(b: &mut KernelBuilder, y: Reg) -> (Reg, Reg, Option<Reg>) {
    let ty = b.ty(y);
    let one = b.const_like(ty, 1.0);
    let by_zero = b.eq(y, 0);
    let divisor = b.select(by_zero, one, y);
    if !ty.elem().is_signed_int() {
        return (divisor, by_zero, None);
    }
    let by_minus_one = b.eq(y, -1);
    (b.select(by_minus_one, one, divisor), by_zero, Some(by_minus_one))
}

/// Quotient towards zero; 0 where the divisor is 0; the lowest number by -1 wraps.
fn int_div(b: &mut KernelBuilder, x: Reg, y: Reg) -> Reg {
    let (divisor, by_zero, by_minus_one) = safe_divisor(b, y);
    let mut q = b.div(x, divisor);
    if let Some(by_minus_one) = by_minus_one {
        let negated = b.neg(x);
        q = b.select(by_minus_one, negated, q);
    }
    b.select(by_zero, 0, q)
}

/// Remainder with the sign of the divisor; 0 where the divisor is 0.
fn int_rem(b: &mut KernelBuilder, x: Reg, y: Reg) -> Reg {
    let (divisor, _, _) = safe_divisor(b, y);
    let r = b.rem(x, divisor);
    if !b.ty(x).elem().is_signed_int() {
        return r;
    }
    let sum = b.add(r, y);
    let signs = b.xor(r, y);
    let (differ, nonzero) = (b.lt(signs, 0), b.ne(r, 0));
    let wrong = b.and(differ, nonzero);
    b.select(wrong, sum, r)
}

/// x^y by squaring, wrapping; a negative power is the integer part of the exact one, and 0 for x = 0.
fn int_pow(b: &mut KernelBuilder, x: Reg, y: Reg) -> Reg {
    let ty = b.ty(x);
    let one = b.const_like(ty, 1.0);
    let (base, rest, product) = (b.var_init(x), b.var_init(y), b.var_init(one));
    b.for_("bit", 0, ty.elem().bits() as i64, 1, |b, _| {
        let low = b.and(rest, 1);
        let is_odd = b.ne(low, 0);
        let more = b.mul(product, base);
        let more = b.select(is_odd, more, product);
        let square = b.mul(base, base);
        let half = b.shr(rest, 1);
        b.assign(product, more);
        b.assign(base, square);
        b.assign(rest, half);
    });
    if !ty.elem().is_signed_int() {
        return b.cast(product, ty.elem());
    }
    // Only 1 and -1 have an integer as inverse.
    let low = b.and(y, 1);
    let is_odd = b.ne(low, 0);
    let sign = b.select(is_odd, x, 1);
    let (is_one, is_minus_one) = (b.eq(x, 1), b.eq(x, -1));
    let is_unit = b.or(is_one, is_minus_one);
    let inverse = b.select(is_unit, sign, 0);
    let is_negative = b.lt(y, 0);
    b.select(is_negative, inverse, product)
}

pub(super) fn compare(b: &mut KernelBuilder, cmp: Cmp, x: Reg, y: Reg) -> Reg {
    let is_bool = b.ty(x).elem() == Elem::Bool;
    let (x, y) = if is_bool { (b.cast(x, Elem::I32), b.cast(y, Elem::I32)) } else { (x, y) };
    let op = match cmp {
        Cmp::Eq => CompareOp::Eq,
        Cmp::Ne => CompareOp::Ne,
        Cmp::Lt => CompareOp::Lt,
        Cmp::Le => CompareOp::Le,
        Cmp::Gt => CompareOp::Gt,
        Cmp::Ge => CompareOp::Ge,
    };
    b.compare(op, x, y)
}
