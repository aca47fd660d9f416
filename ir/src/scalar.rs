//! Encoding of single numbers in every element type.

use crate::types::DType;
use half::{bf16, f16};

/// Little-endian bytes of `x` rounded to a real type (integers truncate and saturate); complex types take `x` as the
/// real part. Sub-byte types take one byte.
pub fn encode(dtype: DType, x: f64) -> Vec<u8> {
    match dtype {
        DType::F64 => x.to_le_bytes().into(),
        DType::F32 => (x as f32).to_le_bytes().into(),
        DType::F16 => f16::from_f32(round_to_odd(x)).to_le_bytes().into(),
        DType::BF16 => bf16::from_f32(round_to_odd(x)).to_le_bytes().into(),
        DType::F8E4M3 => vec![encode_f8(x, 4, 3)],
        DType::F8E5M2 => vec![encode_f8(x, 5, 2)],
        DType::C128 => [x.to_le_bytes(), 0f64.to_le_bytes()].concat(),
        DType::C64 => [(x as f32).to_le_bytes(), 0f32.to_le_bytes()].concat(),
        DType::I64 => (x as i64).to_le_bytes().into(),
        DType::I32 => (x as i32).to_le_bytes().into(),
        DType::I16 => (x as i16).to_le_bytes().into(),
        DType::I8 => (x as i8).to_le_bytes().into(),
        DType::I4 => vec![(x.clamp(-8.0, 7.0) as i8 as u8) & 15],
        DType::I2 => vec![(x.clamp(-2.0, 1.0) as i8 as u8) & 3],
        DType::U64 => (x as u64).to_le_bytes().into(),
        DType::U32 => (x as u32).to_le_bytes().into(),
        DType::U16 => (x as u16).to_le_bytes().into(),
        DType::U8 => vec![x as u8],
        DType::U4 => vec![x.clamp(0.0, 15.0) as u8],
        DType::U2 => vec![x.clamp(0.0, 3.0) as u8],
        DType::Bool => vec![u8::from(x != 0.0)],
    }
}

/// The number in little-endian bytes; `None` if there are too few bytes or the type is complex.
pub fn decode(dtype: DType, bytes: &[u8]) -> Option<f64> {
    fn take<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.get(..N)?.try_into().ok()
    }
    Some(match dtype {
        DType::F64 => f64::from_le_bytes(take(bytes)?),
        DType::F32 => f32::from_le_bytes(take(bytes)?).into(),
        DType::F16 => f16::from_le_bytes(take(bytes)?).into(),
        DType::BF16 => bf16::from_le_bytes(take(bytes)?).into(),
        DType::F8E4M3 => decode_f8(*bytes.first()?, 4, 3),
        DType::F8E5M2 => decode_f8(*bytes.first()?, 5, 2),
        DType::C128 | DType::C64 => return None,
        DType::I64 => i64::from_le_bytes(take(bytes)?) as f64,
        DType::I32 => i32::from_le_bytes(take(bytes)?).into(),
        DType::I16 => i16::from_le_bytes(take(bytes)?).into(),
        DType::I8 => i8::from_le_bytes(take(bytes)?).into(),
        DType::I4 => (((*bytes.first()? & 15) << 4) as i8 >> 4).into(),
        DType::I2 => (((*bytes.first()? & 3) << 6) as i8 >> 6).into(),
        DType::U64 => u64::from_le_bytes(take(bytes)?) as f64,
        DType::U32 => u32::from_le_bytes(take(bytes)?).into(),
        DType::U16 => u16::from_le_bytes(take(bytes)?).into(),
        DType::U8 => (*bytes.first()?).into(),
        DType::U4 => (*bytes.first()? & 15).into(),
        DType::U2 => (*bytes.first()? & 3).into(),
        DType::Bool => f64::from(u8::from(*bytes.first()? != 0)),
    })
}

/// The `f32` next to `x` towards zero, with its last bit set if `x` is not an `f32`: rounding this once more to fewer
/// bits gives what rounding `x` itself would.
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) == x || !nearest.is_finite() {
        return nearest;
    }
    let away = f64::from(nearest).abs() > x.abs();
    f32::from_bits((nearest.to_bits() - u32::from(away)) | 1)
}

/// `x` rounded to a real type and back.
pub fn round(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F64 => return x,
        DType::F32 => return f64::from(x as f32),
        _ => {}
    }
    decode(dtype, &encode(dtype, x)).unwrap_or(x)
}

/// e4m3 has no infinity and one NaN pattern per sign (the `fn` variant); e5m2 is IEEE-like. Overflow saturates.
fn decode_f8(bits: u8, exp_bits: u32, man_bits: u32) -> f64 {
    let sign = if bits >> 7 == 1 { -1.0 } else { 1.0 };
    let exp = u32::from(bits >> man_bits) & ((1 << exp_bits) - 1);
    let man = u32::from(bits) & ((1 << man_bits) - 1);
    let bias = (1i32 << (exp_bits - 1)) - 1;
    let top = (1 << exp_bits) - 1;
    if exp == top && exp_bits == 5 {
        return if man == 0 { sign * f64::INFINITY } else { f64::NAN };
    }
    if exp == top && exp_bits == 4 && man == 7 {
        return f64::NAN;
    }
    let scale = f64::from(1u32 << man_bits);
    if exp == 0 {
        sign * f64::from(man) / scale * 2f64.powi(1 - bias)
    } else {
        sign * (1.0 + f64::from(man) / scale) * 2f64.powi(exp as i32 - bias)
    }
}

fn encode_f8(x: f64, exp_bits: u32, man_bits: u32) -> u8 {
    let sign = u8::from(x.is_sign_negative()) << 7;
    if x.is_nan() {
        return sign | 0x7f;
    }
    let mut best = (f64::INFINITY, 0u8);
    for bits in 0..0x80u8 {
        let v = decode_f8(bits, exp_bits, man_bits);
        if !v.is_finite() {
            continue;
        }
        let error = (v - x.abs()).abs();
        if error < best.0 || (error == best.0 && bits & 1 == 0) {
            best = (error, bits);
        }
    }
    if x.is_infinite() && exp_bits == 5 {
        return sign | (0x1f << man_bits);
    }
    sign | best.1
}
