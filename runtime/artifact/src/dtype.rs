//! Sizes and names of element types.

use std::fmt;

use crate::proto::Dtype;

impl Dtype {
    /// Bits of one element; 0 for `Unspecified`.
    pub fn bits(self) -> u64 {
        match self {
            Self::Unspecified => 0,
            Self::I2 | Self::U2 => 2,
            Self::I4 | Self::U4 => 4,
            Self::F8e4m3 | Self::F8e5m2 | Self::I8 | Self::U8 | Self::Bool => 8,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 16,
            Self::F32 | Self::I32 | Self::U32 => 32,
            Self::F64 | Self::C64 | Self::I64 | Self::U64 => 64,
            Self::C128 => 128,
        }
    }

    /// Bytes of `n_elements` elements, sub-byte types packed; `None` if that overflows 64 bits.
    pub fn byte_len(self, n_elements: u64) -> Option<u64> {
        Some(n_elements.checked_mul(self.bits())?.div_ceil(8))
    }

    /// Alignment in bytes that an element needs: its size, 8 for `C128`, 1 for packed types.
    pub fn align(self) -> usize {
        match self.bits() {
            16 => 2,
            32 => 4,
            64 if self != Self::C64 => 8,
            64 => 4,
            128 => 8,
            _ => 1,
        }
    }

    /// The name used in texts and messages: `f32`, `bf16`, `f8e4m3`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F8e4m3 => "f8e4m3",
            Self::F8e5m2 => "f8e5m2",
            Self::C64 => "c64",
            Self::C128 => "c128",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I4 => "i4",
            Self::U4 => "u4",
            Self::I2 => "i2",
            Self::U2 => "u2",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
