//! Values of operations, one lane at a time. A lane is its bit pattern, zero-extended to 64 bits.

use half::{bf16, f16};

use super::*;

pub(super) fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

pub(super) fn of_f32(v: f32) -> u64 {
    v.to_bits().into()
}

/// Widens `f16` or `bf16` to `f32`.
fn half_to_f32(elem: Elem, bits: u64) -> f32 {
    if elem == Elem::F16 {
        f16::from_bits(bits as u16).to_f32()
    } else {
        bf16::from_bits(bits as u16).to_f32()
    }
}

/// Rounds `f32` to `f16` or `bf16`.
fn f32_to_half(elem: Elem, v: f32) -> u64 {
    if elem == Elem::F16 { f16::from_f32(v).to_bits().into() } else { bf16::from_f32(v).to_bits().into() }
}

/// The exact value of `op` at `x`, within the accuracy of `f64` functions.
pub fn math(op: MathOp, x: f64) -> f64 {
    match op {
        MathOp::Exp => x.exp(),
        MathOp::Exp2 => x.exp2(),
        MathOp::Log => x.ln(),
        MathOp::Log1p => x.ln_1p(),
        MathOp::Expm1 => x.exp_m1(),
        MathOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        MathOp::Softplus => {
            if x.is_nan() {
                x
            } else {
                x.max(0.0) + (-x.abs()).exp().ln_1p()
            }
        }
        MathOp::Silu => x / (1.0 + (-x).exp()),
        MathOp::Tanh => x.tanh(),
        MathOp::Erf => erf(x),
        MathOp::Sin => x.sin(),
        MathOp::Cos => x.cos(),
        MathOp::Rsqrt => 1.0 / x.sqrt(),
        MathOp::Recip => 1.0 / x,
    }
}

/// x^y as C `pow`.
pub fn pow(x: f64, y: f64) -> f64 {
    x.powf(y)
}

/// The error function, by its all-positive series below 1 and the continued fraction of `erfc` above.
pub fn erf(x: f64) -> f64 {
    let t = x.abs();
    if x.is_nan() {
        return x;
    }
    let magnitude = if t < 1.0 {
        let (mut term, mut sum, mut n) = (t, t, 0.0);
        while term > sum * 1e-18 {
            n += 1.0;
            term *= 2.0 * t * t / (2.0 * n + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-t * t).exp() * sum
    } else if t < 6.0 {
        // The fraction's error after n terms is about exp(-2 t sqrt(2 n)).
        let n_terms = (250.0 / (t * t)) as u32 + 10;
        let fraction = (1..=n_terms).rev().fold(t, |f, k| t + 0.5 * f64::from(k) / f);
        1.0 - (-t * t).exp() * std::f64::consts::FRAC_2_SQRT_PI * 0.5 / fraction
    } else {
        1.0
    };
    magnitude.copysign(x)
}

/// A float lane as `f64`, exactly.
pub(super) fn to_f64(elem: Elem, bits: u64) -> f64 {
    match elem {
        Elem::F16 | Elem::Bf16 => half_to_f32(elem, bits).into(),
        Elem::F32 => f32_of(bits).into(),
        _ => f64::from_bits(bits),
    }
}

/// `f64` rounded to a float type.
pub(super) fn from_f64(elem: Elem, v: f64) -> u64 {
    match elem {
        Elem::F16 => f16::from_f64(v).to_bits().into(),
        Elem::Bf16 => bf16::from_f64(v).to_bits().into(),
        Elem::F32 => of_f32(v as f32),
        _ => v.to_bits(),
    }
}

/// One lane of [`Inst::Dot`]; `elem` is the type of `a`.
pub(super) fn dot(elem: Elem, a: &[u64], b: &[u64], acc: u64) -> u64 {
    match elem {
        Elem::Bf16 => {
            let pairs = a.iter().zip(b).rev();
            of_f32(pairs.fold(f32_of(acc), |sum, (a, b)| {
                flushing_fma(half_to_f32(Elem::Bf16, *a), half_to_f32(Elem::Bf16, *b), sum)
            }))
        }
        _ => {
            let product = |(a, b): (&u64, &u64)| match elem {
                Elem::U8 => i32::from(*a as u8) * i32::from(*b as i8),
                Elem::I8 => i32::from(*a as i8) * i32::from(*b as i8),
                _ => i32::from(*a as i16) * i32::from(*b as i16),
            };
            let sum = a.iter().zip(b).map(product).fold(acc as i32, i32::wrapping_add);
            u64::from(sum.cast_unsigned())
        }
    }
}

/// One element of [`Inst::Mma`] on CPUs, a row times a column; `elem` is the type of the row.
pub(super) fn tile_sum(elem: Elem, row: &[u64], column: &[u64], acc: u64) -> u64 {
    let pairs = || row.iter().zip(column);
    if elem == Elem::I8 {
        let products = pairs().map(|(a, b)| i32::from(*a as i8) * i32::from(*b as u8));
        return u64::from(products.fold(acc as i32, i32::wrapping_add).cast_unsigned());
    }
    let sum = |first: usize| {
        pairs()
            .skip(first)
            .step_by(2)
            .fold(0.0, |sum, (a, b)| flushing_fma(half_to_f32(elem, *a), half_to_f32(elem, *b), sum))
    };
    let both = flushing_fma(sum(0), 1.0, sum(1));
    of_f32(flushing_fma(f32_of(acc), 1.0, both))
}

/// a * b + c rounded to nearest even, subnormal operands and results replaced by zeros of their sign. `a` and `b` have
/// at most 8 significant bits, or one is 1, so that the sum of `f64` is exact enough to see which results are too small.
fn flushing_fma(a: f32, b: f32, c: f32) -> f32 {
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    let (a, b, c) = (flush(a), flush(b), flush(c));
    let rounded = a.mul_add(b, c);
    // Rounded to the 24 bits of an f32 whose exponent has no limit: shifted up where no result is subnormal.
    let exact = f64::from(a) * f64::from(b) + f64::from(c);
    let shifted = (exact * 2f64.powi(100)) as f32;
    let is_tiny = f64::from(shifted).abs() < 2f64.powi(100 - 126);
    if is_tiny { 0f32.copysign(rounded) } else { rounded }
}

/// Computes one lane from one, two or three.
pub(super) type Fn1 = fn(u64) -> u64;
pub(super) type Fn2 = fn(u64, u64) -> u64;
pub(super) type Fn3 = fn(u64, u64, u64) -> u64;
pub(super) type Test = fn(u64, u64) -> bool;

/// A float type seen as lanes; the halves compute in `f32` and round when they become bits again.
trait Float: Copy + PartialOrd {
    const SIGN: u64;
    fn of(bits: u64) -> Self;
    fn bits(self) -> u64;
    fn binary(op: BinaryOp, a: Self, b: Self) -> Self;
    fn unary(op: UnaryOp, a: Self) -> Self;
    fn fma(a: Self, b: Self, c: Self) -> Self;
}

macro_rules! float {
    ($name:ident, $repr:ty, $sign:expr, $of:expr, $bits:expr) => {
        #[derive(Clone, Copy, PartialEq, PartialOrd)]
        struct $name($repr);

        impl Float for $name {
            const SIGN: u64 = $sign;

            #[inline]
            fn of(bits: u64) -> $name {
                $name($of(bits))
            }

            #[inline]
            fn bits(self) -> u64 {
                $bits(self.0)
            }

            #[inline]
            fn binary(op: BinaryOp, $name(a): $name, $name(b): $name) -> $name {
                $name(match op {
                    BinaryOp::Add => a + b,
                    BinaryOp::Sub => a - b,
                    BinaryOp::Mul => a * b,
                    BinaryOp::Div => a / b,
                    BinaryOp::Rem => a % b,
                    BinaryOp::Min => {
                        if a < b {
                            a
                        } else {
                            b
                        }
                    }
                    BinaryOp::Max => {
                        if a > b {
                            a
                        } else {
                            b
                        }
                    }
                    BinaryOp::Pow => pow(f64::from(a), f64::from(b)) as $repr,
                    BinaryOp::Exp2Mul => (f64::from(a) * f64::from(b)).exp2() as $repr,
                    BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Shl | BinaryOp::Shr => {
                        unreachable!("the verifier rejects bit operations on floats")
                    }
                })
            }

            #[inline]
            fn unary(op: UnaryOp, $name(a): $name) -> $name {
                $name(match op {
                    UnaryOp::Sqrt => a.sqrt(),
                    UnaryOp::Floor => a.floor(),
                    UnaryOp::Ceil => a.ceil(),
                    UnaryOp::Trunc => a.trunc(),
                    UnaryOp::Round => a.round_ties_even(),
                    UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not => unreachable!("done on bits"),
                })
            }

            #[inline]
            fn fma($name(a): $name, $name(b): $name, $name(c): $name) -> $name {
                $name(a.mul_add(b, c))
            }
        }
    };
}

float!(Half, f32, 0x8000, |b| half_to_f32(Elem::F16, b), |v| f32_to_half(Elem::F16, v));
float!(Brain, f32, 0x8000, |b| half_to_f32(Elem::Bf16, b), |v| f32_to_half(Elem::Bf16, v));
float!(Single, f32, 0x8000_0000, f32_of, of_f32);
float!(Double, f64, 1 << 63, f64::from_bits, f64::to_bits);

/// An arm per listed operation, so that each pointer leads to code for that operation alone.
macro_rules! per_op {
    ($op:expr, $enum:ident, [$($variant:ident)*], |$o:ident| $f:expr) => {
        match $op {
            $($enum::$variant => {
                const $o: $enum = $enum::$variant;
                $f
            })*
        }
    };
}

fn float_unary<T: Float>(op: UnaryOp) -> Fn1 {
    match op {
        UnaryOp::Neg => |x| x ^ T::SIGN,
        UnaryOp::Abs => |x| x & !T::SIGN,
        op => per_op!(op, UnaryOp, [Neg Abs Sqrt Floor Ceil Trunc Round Not], |OP| {
            |x| T::unary(OP, T::of(x)).bits()
        }),
    }
}

fn float_binary<T: Float>(op: BinaryOp) -> Fn2 {
    per_op!(op, BinaryOp, [Add Sub Mul Div Rem Min Max And Or Xor Shl Shr Pow Exp2Mul], |OP| {
        |a, b| T::binary(OP, T::of(a), T::of(b)).bits()
    })
}

fn float_compare<T: Float>(op: CompareOp) -> Test {
    match op {
        CompareOp::Eq => |a, b| T::of(a) == T::of(b),
        CompareOp::Ne => |a, b| T::of(a) != T::of(b),
        CompareOp::Lt => |a, b| T::of(a) < T::of(b),
        CompareOp::Le => |a, b| T::of(a) <= T::of(b),
        CompareOp::Gt => |a, b| T::of(a) > T::of(b),
        CompareOp::Ge => |a, b| T::of(a) >= T::of(b),
    }
}

/// `$t` the type that computes, `$u` the unsigned one of its width.
macro_rules! int_fns {
    ($unary:ident, $binary:ident, $compare:ident, $t:ty, $u:ty) => {
        fn $unary(op: UnaryOp) -> Fn1 {
            match op {
                UnaryOp::Neg => |x| (x as $u).wrapping_neg().into(),
                UnaryOp::Abs => |x| {
                    let v = x as $t;
                    #[allow(unused_comparisons, reason = "the macro serves unsigned types too")]
                    let negative = v < 0;
                    (if negative { (x as $u).wrapping_neg() } else { x as $u }).into()
                },
                UnaryOp::Not => |x| (!(x as $u)).into(),
                UnaryOp::Sqrt | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc | UnaryOp::Round => {
                    unreachable!("the verifier rejects float operations on integers")
                }
            }
        }

        fn $binary(op: BinaryOp) -> Fn2 {
            match op {
                BinaryOp::Add => |a, b| (a as $u).wrapping_add(b as $u).into(),
                BinaryOp::Sub => |a, b| (a as $u).wrapping_sub(b as $u).into(),
                BinaryOp::Mul => |a, b| (a as $u).wrapping_mul(b as $u).into(),
                BinaryOp::Div => |a, b| ((a as $t).wrapping_div(b as $t) as $u).into(),
                BinaryOp::Rem => |a, b| ((a as $t).wrapping_rem(b as $t) as $u).into(),
                BinaryOp::Min => |a, b| ((a as $t).min(b as $t) as $u).into(),
                BinaryOp::Max => |a, b| ((a as $t).max(b as $t) as $u).into(),
                BinaryOp::And => |a, b| a & b,
                BinaryOp::Or => |a, b| a | b,
                BinaryOp::Xor => |a, b| a ^ b,
                BinaryOp::Shl => |a, b| ((a as $u) << b).into(),
                BinaryOp::Shr => |a, b| (((a as $t) >> b) as $u).into(),
                BinaryOp::Pow | BinaryOp::Exp2Mul => {
                    unreachable!("the verifier rejects functions of floats on integers")
                }
            }
        }

        fn $compare(op: CompareOp) -> Test {
            match op {
                CompareOp::Eq => |a, b| a == b,
                CompareOp::Ne => |a, b| a != b,
                CompareOp::Lt => |a, b| (a as $t) < b as $t,
                CompareOp::Le => |a, b| a as $t <= b as $t,
                CompareOp::Gt => |a, b| a as $t > b as $t,
                CompareOp::Ge => |a, b| a as $t >= b as $t,
            }
        }
    };
}

int_fns!(unary_i8, binary_i8, compare_i8, i8, u8);
int_fns!(unary_u8, binary_u8, compare_u8, u8, u8);
int_fns!(unary_i16, binary_i16, compare_i16, i16, u16);
int_fns!(unary_u16, binary_u16, compare_u16, u16, u16);
int_fns!(unary_i32, binary_i32, compare_i32, i32, u32);
int_fns!(unary_u32, binary_u32, compare_u32, u32, u32);
int_fns!(unary_i64, binary_i64, compare_i64, i64, u64);
int_fns!(unary_u64, binary_u64, compare_u64, u64, u64);

/// The operation on one lane of type `elem`.
pub(super) fn unary(op: UnaryOp, elem: Elem) -> Fn1 {
    match elem {
        Elem::Bool => |x| x ^ 1,
        Elem::I8 => unary_i8(op),
        Elem::U8 => unary_u8(op),
        Elem::I16 => unary_i16(op),
        Elem::U16 => unary_u16(op),
        Elem::I32 => unary_i32(op),
        Elem::U32 => unary_u32(op),
        Elem::I64 => unary_i64(op),
        Elem::U64 => unary_u64(op),
        Elem::F16 => float_unary::<Half>(op),
        Elem::Bf16 => float_unary::<Brain>(op),
        Elem::F32 => float_unary::<Single>(op),
        Elem::F64 => float_unary::<Double>(op),
    }
}

/// The operation on lanes of type `elem`. Divisors and shift amounts have been checked.
pub(super) fn binary(op: BinaryOp, elem: Elem) -> Fn2 {
    match elem {
        Elem::Bool | Elem::U8 => binary_u8(op),
        Elem::I8 => binary_i8(op),
        Elem::I16 => binary_i16(op),
        Elem::U16 => binary_u16(op),
        Elem::I32 => binary_i32(op),
        Elem::U32 => binary_u32(op),
        Elem::I64 => binary_i64(op),
        Elem::U64 => binary_u64(op),
        Elem::F16 => float_binary::<Half>(op),
        Elem::Bf16 => float_binary::<Brain>(op),
        Elem::F32 => float_binary::<Single>(op),
        Elem::F64 => float_binary::<Double>(op),
    }
}

pub(super) fn fma(elem: Elem) -> Fn3 {
    fn fma_of<T: Float>() -> Fn3 {
        |a, b, c| T::fma(T::of(a), T::of(b), T::of(c)).bits()
    }
    match elem {
        Elem::F16 => fma_of::<Half>(),
        Elem::Bf16 => fma_of::<Brain>(),
        Elem::F32 => fma_of::<Single>(),
        _ => fma_of::<Double>(),
    }
}

pub(super) fn compare(op: CompareOp, elem: Elem) -> Test {
    match elem {
        Elem::Bool | Elem::U8 => compare_u8(op),
        Elem::I8 => compare_i8(op),
        Elem::I16 => compare_i16(op),
        Elem::U16 => compare_u16(op),
        Elem::I32 => compare_i32(op),
        Elem::U32 => compare_u32(op),
        Elem::I64 => compare_i64(op),
        Elem::U64 => compare_u64(op),
        Elem::F16 => float_compare::<Half>(op),
        Elem::Bf16 => float_compare::<Brain>(op),
        Elem::F32 => float_compare::<Single>(op),
        Elem::F64 => float_compare::<Double>(op),
    }
}

/// The operation a lane reduction repeats.
pub(super) fn reduce(op: ReduceOp, elem: Elem) -> Fn2 {
    let op = match op {
        ReduceOp::Add => BinaryOp::Add,
        ReduceOp::Min => BinaryOp::Min,
        ReduceOp::Max => BinaryOp::Max,
    };
    binary(op, elem)
}

/// True if dividing `a` by `b` is undefined on machines.
pub(super) fn bad_division(elem: Elem, a: u64, b: u64) -> bool {
    let min = 1u64 << (elem.bits() - 1);
    let minus_one = u64::MAX >> (64 - elem.bits());
    b == 0 || (elem.is_signed_int() && a == min && b == minus_one)
}

/// Numeric conversion of one lane; see [`Inst::Cast`].
pub(super) fn cast(from: Elem, to: Elem, x: u64) -> u64 {
    let from_int = Const::from_bits(from, x).as_int();
    match (from_int, to) {
        _ if from == to => x,
        (_, Elem::Bool) if from.is_float() => u64::from(to_f64(from, x) != 0.0),
        (_, Elem::Bool) => u64::from(x != 0),
        (Some(v), Elem::F64) if from == Elem::U64 => (v as u64 as f64).to_bits(),
        (Some(v), Elem::F64) => (v as f64).to_bits(),
        (Some(v), Elem::F32) => of_f32(int_to_f32(from, v)),
        (Some(v), Elem::F16 | Elem::Bf16) => f32_to_half(to, int_to_f32(from, v)),
        (Some(v), _) => Const::from_bits(to, v as u64).bits(),
        (None, Elem::F16 | Elem::Bf16) => f32_to_half(to, to_f64(from, x) as f32),
        (None, Elem::F32 | Elem::F64) => from_f64(to, to_f64(from, x)),
        (None, _) => float_to_int(to, to_f64(from, x)),
    }
}

fn int_to_f32(from: Elem, v: i64) -> f32 {
    if from == Elem::U64 { v as u64 as f32 } else { v as f32 }
}

/// Truncates and saturates; NaN gives 0.
fn float_to_int(to: Elem, v: f64) -> u64 {
    match to {
        Elem::I8 => (v as i8 as u8).into(),
        Elem::U8 => (v as u8).into(),
        Elem::I16 => (v as i16 as u16).into(),
        Elem::U16 => (v as u16).into(),
        Elem::I32 => (v as i32 as u32).into(),
        Elem::U32 => (v as u32).into(),
        Elem::I64 => v as i64 as u64,
        Elem::U64 => v as u64,
        Elem::Bool | Elem::F16 | Elem::Bf16 | Elem::F32 | Elem::F64 => {
            unreachable!("only called for integer types")
        }
    }
}
