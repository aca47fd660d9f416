//! Ops that act on each element by itself.

use super::{Args, EvalError, arg};
use crate::ops::{Binary, BinaryFn, Bitcast, Cast, Cmp, Compare, Unary, UnaryFn};
use crate::tensor::{Complex, Data, Tensor, widen, wrap};
use crate::types::DType;
use std::cmp::Ordering;

/// 1 / (1 + e^-x) without overflow.
pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// ln (1 + e^x) without overflow.
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// x * sigmoid(x)
pub(super) fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// The error function by Kummer's series, whose terms are all positive: 2/sqrt(pi) * e^(-x^2) * sum of
/// 2^n x^(2n+1) / (1*3*..*(2n+1)).
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while (sum + term).abs() > sum.abs() {
        n += 2.0;
        term *= 2.0 * x * x / n;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

fn unary_float(f: UnaryFn, x: f64) -> f64 {
    match f {
        UnaryFn::Neg => -x,
        UnaryFn::Abs => x.abs(),
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Log1p => x.ln_1p(),
        UnaryFn::Expm1 => x.exp_m1(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Rsqrt => 1.0 / x.sqrt(),
        UnaryFn::Reciprocal => 1.0 / x,
        UnaryFn::Sin => x.sin(),
        UnaryFn::Cos => x.cos(),
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Sigmoid => sigmoid(x),
        UnaryFn::Softplus => softplus(x),
        UnaryFn::Silu => silu(x),
        UnaryFn::Erf => erf(x),
        UnaryFn::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        UnaryFn::Floor => x.floor(),
        UnaryFn::Ceil => x.ceil(),
        UnaryFn::Round => x.round_ties_even(),
        UnaryFn::Sign => {
            if x == 0.0 || x.is_nan() {
                x
            } else {
                x.signum()
            }
        }
        UnaryFn::Not | UnaryFn::IsNan => f64::NAN,
    }
}

fn unary_int(f: UnaryFn, dtype: DType, x: i64) -> Option<i64> {
    Some(match f {
        UnaryFn::Neg => x.wrapping_neg(),
        UnaryFn::Abs if widen(dtype, x) < 0 => x.wrapping_neg(),
        UnaryFn::Sign => widen(dtype, x).signum() as i64,
        UnaryFn::Relu if widen(dtype, x) < 0 => 0,
        UnaryFn::Abs | UnaryFn::Relu => x,
        _ => return None,
    })
}

fn unary_complex(f: UnaryFn, z: Complex) -> Option<Complex> {
    Some(match f {
        UnaryFn::Neg => -z,
        UnaryFn::Exp => z.exp(),
        UnaryFn::Reciprocal => Complex::new(1.0, 0.0) / z,
        _ => return None,
    })
}

pub(in crate::ops) fn unary(op: &Unary, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let dtype = x.dtype();
    let missing = || EvalError::NoSuchFunction { op: op.f.name(), dtype };
    let data = match (x.data(), op.f) {
        (Data::Float(v), UnaryFn::IsNan) => {
            let data = v.iter().map(|x| x.is_nan()).collect();
            return Ok(vec![Tensor::bools(x.shape(), data)?]);
        }
        (Data::Bool(v), UnaryFn::Not) => Data::Bool(v.iter().map(|x| !x).collect()),
        (Data::Float(v), f) => Data::Float(v.iter().map(|x| unary_float(f, *x)).collect()),
        (Data::Int(v), f) => Data::Int(
            v.iter()
                .map(|x| unary_int(f, dtype, *x).map(|y| wrap(dtype, y)).ok_or_else(missing))
                .collect::<Result<_, _>>()?,
        ),
        (Data::Complex(v), f) => Data::Complex(
            v.iter().map(|z| unary_complex(f, *z).ok_or_else(missing)).collect::<Result<_, _>>()?,
        ),
        (Data::Bool(_), _) => return Err(missing()),
    };
    Ok(vec![Tensor::new(dtype, x.shape(), data)?])
}

fn binary_float(f: BinaryFn, x: f64, y: f64) -> Option<f64> {
    let nan = x.is_nan() || y.is_nan();
    Some(match f {
        BinaryFn::Add => x + y,
        BinaryFn::Sub => x - y,
        BinaryFn::Mul => x * y,
        BinaryFn::Div => x / y,
        BinaryFn::Pow => x.powf(y),
        BinaryFn::Min | BinaryFn::Max if nan => f64::NAN,
        BinaryFn::Min => x.min(y),
        BinaryFn::Max => x.max(y),
        BinaryFn::Rem => {
            let r = x % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }
        BinaryFn::And | BinaryFn::Or | BinaryFn::Xor => return None,
    })
}

/// x^y modulo 2^64; a negative power is the integer part of the exact one.
fn int_pow(x: i128, y: i128) -> Result<i64, EvalError> {
    if y < 0 {
        return match x {
            0 => Err(EvalError::DivisionByZero),
            1 => Ok(1),
            -1 => Ok(if y % 2 == 0 { 1 } else { -1 }),
            _ => Ok(0),
        };
    }
    let (mut base, mut rest, mut product) = (x as i64, y, 1i64);
    while rest > 0 {
        if rest & 1 == 1 {
            product = product.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        rest >>= 1;
    }
    Ok(product)
}

fn binary_int(f: BinaryFn, dtype: DType, x: i64, y: i64) -> Result<i64, EvalError> {
    let (a, b) = (widen(dtype, x), widen(dtype, y));
    let divides = matches!(f, BinaryFn::Div | BinaryFn::Rem);
    if divides && b == 0 {
        return Err(EvalError::DivisionByZero);
    }
    let z = match f {
        BinaryFn::Add => x.wrapping_add(y),
        BinaryFn::Sub => x.wrapping_sub(y),
        BinaryFn::Mul => x.wrapping_mul(y),
        BinaryFn::Div => (a / b) as i64,
        BinaryFn::Pow => int_pow(a, b)?,
        BinaryFn::Min => a.min(b) as i64,
        BinaryFn::Max => a.max(b) as i64,
        BinaryFn::Rem => {
            let r = a % b;
            (if r != 0 && (r < 0) != (b < 0) { r + b } else { r }) as i64
        }
        BinaryFn::And => x & y,
        BinaryFn::Or => x | y,
        BinaryFn::Xor => x ^ y,
    };
    Ok(wrap(dtype, z))
}

fn binary_complex(f: BinaryFn, x: Complex, y: Complex) -> Option<Complex> {
    Some(match f {
        BinaryFn::Add => x + y,
        BinaryFn::Sub => x - y,
        BinaryFn::Mul => x * y,
        BinaryFn::Div => x / y,
        _ => return None,
    })
}

fn binary_bool(f: BinaryFn, x: bool, y: bool) -> Option<bool> {
    Some(match f {
        BinaryFn::And => x & y,
        BinaryFn::Or => x | y,
        BinaryFn::Xor => x ^ y,
        _ => return None,
    })
}

/// The operands have one shape.
fn same_shape(x: &Tensor, y: &Tensor, operand: &'static str) -> Result<(), EvalError> {
    if x.shape() == y.shape() {
        return Ok(());
    }
    Err(EvalError::Shape { operand, expected: x.shape().to_vec(), found: y.shape().to_vec() })
}

fn zip<T: Copy, U>(
    x: &[T],
    y: &[T],
    mut f: impl FnMut(T, T) -> Result<U, EvalError>,
) -> Result<Vec<U>, EvalError> {
    x.iter().zip(y).map(|(x, y)| f(*x, *y)).collect()
}

pub(in crate::ops) fn binary(op: &Binary, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (x, y) = (arg(x, 0)?, arg(x, 1)?);
    same_shape(x, y, "y")?;
    let (f, dtype) = (op.f, x.dtype());
    let missing = || EvalError::NoSuchFunction { op: f.name(), dtype };
    let data = match x.data() {
        Data::Float(v) => {
            Data::Float(zip(v, y.as_floats()?, |x, y| binary_float(f, x, y).ok_or_else(missing))?)
        }
        Data::Int(v) => Data::Int(zip(v, y.as_ints()?, |x, y| binary_int(f, dtype, x, y))?),
        Data::Bool(v) => Data::Bool(zip(v, y.as_bools()?, |x, y| binary_bool(f, x, y).ok_or_else(missing))?),
        Data::Complex(v) => {
            Data::Complex(zip(v, y.as_complex()?, |x, y| binary_complex(f, x, y).ok_or_else(missing))?)
        }
    };
    Ok(vec![Tensor::new(dtype, x.shape(), data)?])
}

fn holds(cmp: Cmp, order: Option<Ordering>) -> bool {
    match cmp {
        Cmp::Eq => order == Some(Ordering::Equal),
        Cmp::Ne => order != Some(Ordering::Equal),
        Cmp::Lt => order == Some(Ordering::Less),
        Cmp::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Cmp::Gt => order == Some(Ordering::Greater),
        Cmp::Ge => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

pub(in crate::ops) fn compare(op: &Compare, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (x, y) = (arg(x, 0)?, arg(x, 1)?);
    same_shape(x, y, "y")?;
    let (cmp, dtype) = (op.cmp, x.dtype());
    let data = match x.data() {
        Data::Float(v) => zip(v, y.as_floats()?, |x, y| Ok(holds(cmp, x.partial_cmp(&y))))?,
        Data::Int(v) => {
            zip(v, y.as_ints()?, |x, y| Ok(holds(cmp, Some(widen(dtype, x).cmp(&widen(dtype, y))))))?
        }
        Data::Bool(v) => zip(v, y.as_bools()?, |x, y| Ok(holds(cmp, Some(x.cmp(&y)))))?,
        Data::Complex(v) => zip(v, y.as_complex()?, |x, y| match cmp {
            Cmp::Eq => Ok(x == y),
            Cmp::Ne => Ok(x != y),
            Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge => Err(EvalError::NoSuchFunction { op: cmp.name(), dtype }),
        })?,
    };
    Ok(vec![Tensor::bools(x.shape(), data)?])
}

pub(in crate::ops) fn select(x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (cond, x, y) = (arg(x, 0)?, arg(x, 1)?, arg(x, 2)?);
    same_shape(x, y, "y")?;
    same_shape(x, cond, "cond")?;
    fn pick<T: Copy>(cond: &[bool], x: &[T], y: &[T]) -> Vec<T> {
        cond.iter().zip(x.iter().zip(y)).map(|(c, (x, y))| if *c { *x } else { *y }).collect()
    }
    let cond = cond.as_bools()?;
    let data = match x.data() {
        Data::Float(v) => Data::Float(pick(cond, v, y.as_floats()?)),
        Data::Int(v) => Data::Int(pick(cond, v, y.as_ints()?)),
        Data::Bool(v) => Data::Bool(pick(cond, v, y.as_bools()?)),
        Data::Complex(v) => Data::Complex(pick(cond, v, y.as_complex()?)),
    };
    Ok(vec![Tensor::new(x.dtype(), x.shape(), data)?])
}

/// Truncated towards zero, clamped to the range of the type; NaN gives 0.
fn float_to_int(to: DType, x: f64) -> i64 {
    if to == DType::U64 {
        return x as u64 as i64;
    }
    let bits = to.bits() as u32;
    let (low, high) = if to.is_signed_int() {
        (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits))
    } else {
        (0, i64::MAX >> (63 - bits))
    };
    (x as i64).clamp(low, high)
}

pub(in crate::ops) fn cast(op: &Cast, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    let (from, to, shape) = (x.dtype(), op.to, x.shape());
    if to.is_complex() {
        let data = match x.data() {
            Data::Complex(v) => v.clone(),
            Data::Float(_) | Data::Int(_) | Data::Bool(_) => {
                x.to_f64().into_iter().map(|x| Complex::new(x, 0.0)).collect()
            }
        };
        return Ok(vec![Tensor::complex(to, shape, data)?]);
    }
    if matches!(x.data(), Data::Complex(_)) {
        return Err(EvalError::NoSuchFunction { op: "real value", dtype: from });
    }
    Ok(vec![if to.is_float() {
        Tensor::floats(to, shape, x.to_f64())?
    } else if to == DType::Bool {
        let data = match x.data() {
            Data::Bool(v) => v.clone(),
            Data::Float(_) | Data::Int(_) | Data::Complex(_) => {
                x.to_f64().iter().map(|x| *x != 0.0).collect()
            }
        };
        Tensor::bools(shape, data)?
    } else {
        let data = match x.data() {
            Data::Int(v) => v.clone(),
            Data::Float(v) => v.iter().map(|x| float_to_int(to, *x)).collect(),
            Data::Bool(_) | Data::Complex(_) => x.to_f64().into_iter().map(|x| x as i64).collect(),
        };
        Tensor::ints(to, shape, data)?
    }])
}

pub(in crate::ops) fn bitcast(op: &Bitcast, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = arg(x, 0)?;
    Ok(vec![Tensor::from_bytes(op.to, x.shape(), &x.to_bytes())?])
}
