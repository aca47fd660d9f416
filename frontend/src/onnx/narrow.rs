//! Element types narrower than a byte and floats of at most 8 bits.
//!
//! Kernels have no such types. Their values lie one to a byte: integers as `i8` or `u8`, floats as the `u8` of their
//! bits. Only conversions and quantization read and write them; both are tables of what each code means.

use super::ctx::Ctx;
use super::fault::Fault;
use super::importer::Val;
use super::proto::tensor_proto::DataType;
use ssmc_ir::ops::{BinaryFn, Cmp, Gather, ReduceFn, UnaryFn};
use ssmc_ir::{DType, Dim};

/// A narrow element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrow {
    I4,
    U4,
    I2,
    U2,
    F8E4M3,
    F8E4M3Fnuz,
    F8E5M2,
    F8E5M2Fnuz,
    F8E8M0,
    F4E2M1,
}

/// How a float of few bits is laid out.
struct Layout {
    mantissa: u32,
    bias: i32,
    /// Code of the largest finite number.
    last: u8,
    /// Code of NaN.
    nan: u8,
    /// Code that a number beyond the largest gets if it does not saturate.
    beyond: u8,
    sign: Option<u8>,
    /// Whether there is a negative zero.
    signed_zero: bool,
}

impl Narrow {
    /// The type of an ONNX type number, if it is narrow.
    pub(crate) fn of(number: i32) -> Option<Self> {
        Some(match DataType::try_from(number).ok()? {
            DataType::Int4 => Self::I4,
            DataType::Uint4 => Self::U4,
            DataType::Int2 => Self::I2,
            DataType::Uint2 => Self::U2,
            DataType::Float8e4m3fn => Self::F8E4M3,
            DataType::Float8e4m3fnuz => Self::F8E4M3Fnuz,
            DataType::Float8e5m2 => Self::F8E5M2,
            DataType::Float8e5m2fnuz => Self::F8E5M2Fnuz,
            DataType::Float8e8m0 => Self::F8E8M0,
            DataType::Float4e2m1 => Self::F4E2M1,
            _ => return None,
        })
    }

    /// The type of the bytes that hold its values.
    pub(crate) fn carrier(self) -> DType {
        if matches!(self, Self::I4 | Self::I2) { DType::I8 } else { DType::U8 }
    }

    /// Bits of an element in a file.
    fn bits(self) -> u32 {
        match self {
            Self::I2 | Self::U2 => 2,
            Self::I4 | Self::U4 | Self::F4E2M1 => 4,
            _ => 8,
        }
    }

    /// Lowest and highest number of an integer type.
    pub(crate) fn range(self) -> Option<(i64, i64)> {
        Some(match self {
            Self::I4 => (-8, 7),
            Self::U4 => (0, 15),
            Self::I2 => (-2, 1),
            Self::U2 => (0, 3),
            _ => return None,
        })
    }

    /// Bytes of `n` elements in a file.
    pub(crate) fn packed(self, n: usize) -> usize {
        n.div_ceil((8 / self.bits()) as usize)
    }

    /// `n` elements of a file, one to a byte; `None` if there are not as many.
    pub(crate) fn unpack(self, bytes: &[u8], n: usize) -> Option<Vec<u8>> {
        let per_byte = (8 / self.bits()) as usize;
        if bytes.len() != self.packed(n) {
            return None;
        }
        let mask = if self.bits() == 8 { 0xff } else { (1u8 << self.bits()) - 1 };
        let element = |i: usize| {
            let raw = bytes[i / per_byte] >> (i % per_byte * self.bits() as usize) & mask;
            match self.range() {
                Some((low, high)) if low < 0 && i64::from(raw) > high => raw | !mask,
                _ => raw,
            }
        };
        Some((0..n).map(element).collect())
    }

    fn layout(self) -> Option<Layout> {
        let (mantissa, bias, last, nan, beyond, sign, signed_zero) = match self {
            Self::F8E4M3 => (3, 7, 0x7e, 0x7f, 0x7f, Some(0x80), true),
            Self::F8E4M3Fnuz => (3, 8, 0x7f, 0x80, 0x80, Some(0x80), false),
            Self::F8E5M2 => (2, 15, 0x7b, 0x7e, 0x7c, Some(0x80), true),
            Self::F8E5M2Fnuz => (2, 16, 0x7f, 0x80, 0x80, Some(0x80), false),
            Self::F4E2M1 => (1, 1, 0x7, 0x8, 0x7, Some(0x8), true),
            Self::F8E8M0 => (0, 127, 0xfe, 0xff, 0xff, None, true),
            _ => return None,
        };
        Some(Layout { mantissa, bias, last, nan, beyond, sign, signed_zero })
    }

    /// What a code of a float means.
    fn value(self, l: &Layout, code: u8) -> f64 {
        if self == Self::F8E8M0 {
            return if code == l.nan { f64::NAN } else { 2f64.powi(i32::from(code) - l.bias) };
        }
        let sign = l.sign.unwrap_or(0);
        if !l.signed_zero && code == l.nan {
            return f64::NAN;
        }
        let (negative, size) = (code & sign != 0, code & sign.wrapping_sub(1));
        let magnitude = if size > l.last {
            if self == Self::F8E5M2 && size == 0x7c { f64::INFINITY } else { f64::NAN }
        } else {
            let fraction = f64::from(size & ((1 << l.mantissa) - 1)) / f64::from(1u32 << l.mantissa);
            match i32::from(size >> l.mantissa) {
                0 => fraction * 2f64.powi(1 - l.bias),
                exponent => (1.0 + fraction) * 2f64.powi(exponent - l.bias),
            }
        };
        if negative { -magnitude } else { magnitude }
    }
}

/// Rounding of numbers between two powers of two, for the type that has no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PowerRounding {
    Up,
    Down,
    Nearest,
}

/// How a number becomes narrow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    pub(crate) saturate: bool,
    pub(crate) powers: PowerRounding,
}

impl Conversion {
    /// As the attributes of the node say.
    pub(crate) fn of(c: &Ctx<'_, '_>) -> Result<Self, Fault> {
        let powers = match c.attrs.string_or("round_mode", "up")? {
            "up" => PowerRounding::Up,
            "down" => PowerRounding::Down,
            "nearest" => PowerRounding::Nearest,
            other => return Err(c.attrs.wrong("round_mode", "up, down or nearest", format!("{other:?}"))),
        };
        Ok(Self { saturate: c.attrs.flag("saturate", true)?, powers })
    }
}

/// The numbers that narrow values mean, as `f32`.
pub(crate) fn decode(c: &mut Ctx<'_, '_>, x: Val, narrow: Narrow) -> Result<Val, Fault> {
    let Some(layout) = narrow.layout() else { return c.cast(x, DType::F32) };
    let values: Vec<f64> = (0..=255u8).map(|code| narrow.value(&layout, code)).collect();
    let table = c.floats(DType::F32, &[values.len()], &values)?;
    let codes = c.cast(x, DType::I64)?;
    c.emit(Gather { axis: 0 }, &[table, codes])
}

/// The narrow values nearest to numbers; integers wrap.
pub(crate) fn encode(c: &mut Ctx<'_, '_>, x: Val, narrow: Narrow, how: Conversion) -> Result<Val, Fault> {
    let Some(layout) = narrow.layout() else { return wrap(c, x, narrow) };
    let x = c.cast(x, DType::F32)?;
    // Thresholds between neighbouring codes: a number above the k-th has a code above k.
    let mut thresholds = Vec::new();
    for code in 0..=layout.last {
        let low = narrow.value(&layout, code);
        let high = if code < layout.last {
            narrow.value(&layout, code + 1)
        } else {
            2.0 * low - narrow.value(&layout, code - 1)
        };
        let middle = (low + high) / 2.0;
        let is_odd = code % 2 == 1;
        let (at, inclusive) = match (narrow, how.powers) {
            (Narrow::F8E8M0, PowerRounding::Up) => (low, false),
            (Narrow::F8E8M0, PowerRounding::Down) => (high, true),
            (Narrow::F8E8M0, PowerRounding::Nearest) => (middle, true),
            _ => (middle, is_odd),
        };
        let at = at as f32;
        thresholds.push(f64::from(if inclusive {
            f32::from_bits(at.to_bits().saturating_sub(1))
        } else {
            at
        }));
    }
    if how.saturate || layout.last == layout.beyond {
        thresholds.pop();
    }
    let size = c.unary(UnaryFn::Abs, x)?;
    let dims = c.dims(x);
    let n = thresholds.len();
    let column = c.reshape(size, &[dims.as_slice(), &[Dim::from(1)]].concat())?;
    let limits = c.floats(DType::F32, &[n], &thresholds)?;
    let above = c.compare(Cmp::Gt, column, limits)?;
    let above = c.cast(above, DType::I32)?;
    let mut code = c.reduce(ReduceFn::Sum, above, &[dims.len()], false)?;
    if let Some(sign) = layout.sign {
        // 1 / x tells the zeros apart.
        let inverse = c.unary(UnaryFn::Reciprocal, x)?;
        let (below, from_below) =
            (c.compare_scalar(Cmp::Lt, x, 0.0)?, c.compare_scalar(Cmp::Lt, inverse, 0.0)?);
        let mut negative = c.binary(BinaryFn::Or, below, from_below)?;
        if !layout.signed_zero {
            let is_some = c.compare_scalar(Cmp::Gt, code, 0.0)?;
            negative = c.binary(BinaryFn::And, negative, is_some)?;
        }
        let negative = c.cast(negative, DType::I32)?;
        let bit = c.binary_scalar(BinaryFn::Mul, negative, f64::from(sign))?;
        let signed = c.binary(BinaryFn::Add, code, bit)?;
        if !layout.signed_zero {
            // Beyond the largest number there is one NaN, without a sign.
            let is_beyond = c.compare_scalar(Cmp::Gt, code, f64::from(layout.last))?;
            let nan = c.splat(f64::from(layout.nan), code)?;
            code = c.select(is_beyond, nan, signed)?;
        } else {
            code = signed;
        }
    }
    let is_nan = c.unary(UnaryFn::IsNan, x)?;
    let nan = c.splat(f64::from(layout.nan), code)?;
    let code = c.select(is_nan, nan, code)?;
    c.cast(code, DType::U8)
}

/// The low bits of whole numbers.
fn wrap(c: &mut Ctx<'_, '_>, x: Val, narrow: Narrow) -> Result<Val, Fault> {
    let (low, high) = narrow.range().unwrap_or((0, 255));
    let x = c.cast(x, DType::I32)?;
    let x = c.binary_scalar(BinaryFn::Sub, x, low as f64)?;
    let x = c.binary_scalar(BinaryFn::Rem, x, (high - low + 1) as f64)?;
    let x = c.binary_scalar(BinaryFn::Add, x, low as f64)?;
    c.cast(x, narrow.carrier())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_formats_say() {
        let value = |narrow: Narrow, code| narrow.value(&narrow.layout().unwrap(), code);
        assert_eq!(value(Narrow::F8E4M3, 0x7e), 448.0);
        assert_eq!(value(Narrow::F8E4M3, 0x81), -(2f64.powi(-9)));
        assert!(value(Narrow::F8E4M3, 0x7f).is_nan() && value(Narrow::F8E4M3, 0xff).is_nan());
        assert_eq!(value(Narrow::F8E4M3Fnuz, 0x7f), 240.0);
        assert!(value(Narrow::F8E4M3Fnuz, 0x80).is_nan());
        assert_eq!(value(Narrow::F8E5M2, 0x7b), 57344.0);
        assert_eq!(value(Narrow::F8E5M2, 0xfc), f64::NEG_INFINITY);
        assert_eq!(value(Narrow::F8E5M2Fnuz, 0x7f), 57344.0);
        assert_eq!(value(Narrow::F8E8M0, 127), 1.0);
        let four: Vec<f64> = (0..8).map(|code| value(Narrow::F4E2M1, code)).collect();
        assert_eq!(four, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    fn elements_are_unpacked_from_the_low_bits() {
        assert_eq!(Narrow::I4.unpack(&[0x87, 0x0f], 3), Some(vec![7, 0xf8, 0xff]));
        assert_eq!(Narrow::U2.unpack(&[0b11_10_01_00], 4), Some(vec![0, 1, 2, 3]));
        assert_eq!(Narrow::I2.unpack(&[0b10], 1), Some(vec![0xfe]));
        assert_eq!(Narrow::I4.unpack(&[0x87], 3), None);
    }
}
