//! Element types, register types and constants.

use std::fmt;

use half::{bf16, f16};

/// Type of one memory element or one lane of a register.
///
/// A `bool` occupies one byte in memory, 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Elem {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Elem {
    /// Every element type, in declaration order.
    pub const ALL: [Elem; 13] = [
        Elem::Bool,
        Elem::I8,
        Elem::U8,
        Elem::I16,
        Elem::U16,
        Elem::I32,
        Elem::U32,
        Elem::I64,
        Elem::U64,
        Elem::F16,
        Elem::Bf16,
        Elem::F32,
        Elem::F64,
    ];

    /// Bytes one element occupies in memory.
    pub const fn size(self) -> usize {
        match self {
            Elem::Bool | Elem::I8 | Elem::U8 => 1,
            Elem::I16 | Elem::U16 | Elem::F16 | Elem::Bf16 => 2,
            Elem::I32 | Elem::U32 | Elem::F32 => 4,
            Elem::I64 | Elem::U64 | Elem::F64 => 8,
        }
    }

    /// Bits of the value: 1 for `bool`, otherwise `8 * size`.
    pub const fn bits(self) -> u32 {
        match self {
            Elem::Bool => 1,
            _ => 8 * self.size() as u32,
        }
    }

    /// True for `f16`, `bf16`, `f32` and `f64`.
    pub const fn is_float(self) -> bool {
        matches!(self, Elem::F16 | Elem::Bf16 | Elem::F32 | Elem::F64)
    }

    /// True for the eight integer types; `bool` is not an integer.
    pub const fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, Elem::Bool)
    }

    /// True for the signed integer types.
    pub const fn is_signed_int(self) -> bool {
        matches!(self, Elem::I8 | Elem::I16 | Elem::I32 | Elem::I64)
    }

    /// True for `f16` and `bf16`, whose arithmetic is defined through `f32`.
    pub const fn is_half(self) -> bool {
        matches!(self, Elem::F16 | Elem::Bf16)
    }

    /// Spelling in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Elem::Bool => "bool",
            Elem::I8 => "i8",
            Elem::U8 => "u8",
            Elem::I16 => "i16",
            Elem::U16 => "u16",
            Elem::I32 => "i32",
            Elem::U32 => "u32",
            Elem::I64 => "i64",
            Elem::U64 => "u64",
            Elem::F16 => "f16",
            Elem::Bf16 => "bf16",
            Elem::F32 => "f32",
            Elem::F64 => "f64",
        }
    }

    /// The element type spelled `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Elem> {
        Elem::ALL.into_iter().find(|e| e.name() == name)
    }

    /// The same type in vector form.
    pub const fn x(self, lanes: u16) -> RegTy {
        RegTy::Vec { elem: self, lanes }
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many neighbors [`dot`](super::Inst::Dot) adds for these element types of factors and sum, if it knows them.
pub fn dot_ratio(a: Elem, b: Elem, acc: Elem) -> Option<u16> {
    match (a, b, acc) {
        (Elem::U8 | Elem::I8, Elem::I8, Elem::I32) => Some(4),
        (Elem::I16, Elem::I16, Elem::I32) | (Elem::Bf16, Elem::Bf16, Elem::F32) => Some(2),
        _ => None,
    }
}

/// What a matrix tile is used for in `mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileRole {
    /// Left factor, `rows = m`, `cols = k`.
    A,
    /// Right factor, `rows = k`, `cols = n`.
    B,
    /// Accumulator, `rows = m`, `cols = n`.
    Acc,
}

impl TileRole {
    /// Spelling in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            TileRole::A => "a",
            TileRole::B => "b",
            TileRole::Acc => "acc",
        }
    }
}

/// A matrix tile owned by one warp: its elements are spread over the registers of the 32 threads in a way
/// only the target knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileTy {
    pub rows: u16,
    pub cols: u16,
    pub elem: Elem,
    pub role: TileRole,
}

/// Type of a virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegTy {
    /// `lanes` values of one element type, held by each thread; one lane is a scalar.
    Vec { elem: Elem, lanes: u16 },
    /// A matrix tile held by each warp.
    Tile(TileTy),
}

impl RegTy {
    /// Scalar register type.
    pub const fn scalar(elem: Elem) -> RegTy {
        RegTy::Vec { elem, lanes: 1 }
    }

    /// Element type of the lanes or of the tile.
    pub const fn elem(self) -> Elem {
        match self {
            RegTy::Vec { elem, .. } => elem,
            RegTy::Tile(t) => t.elem,
        }
    }

    /// Lanes each thread holds; `None` for a tile.
    pub const fn lanes(self) -> Option<u16> {
        match self {
            RegTy::Vec { lanes, .. } => Some(lanes),
            RegTy::Tile(_) => None,
        }
    }

    /// The same lanes with another element type; a tile keeps its shape.
    pub const fn with_elem(self, elem: Elem) -> RegTy {
        match self {
            RegTy::Vec { lanes, .. } => RegTy::Vec { elem, lanes },
            RegTy::Tile(t) => RegTy::Tile(TileTy { elem, ..t }),
        }
    }
}

impl fmt::Display for RegTy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegTy::Vec { elem, lanes: 1 } => write!(f, "{elem}"),
            RegTy::Vec { elem, lanes } => write!(f, "{elem}x{lanes}"),
            RegTy::Tile(t) => write!(f, "tile<{}, {}x{}, {}>", t.role.name(), t.rows, t.cols, t.elem),
        }
    }
}

/// A constant of one element type, stored as its bit pattern (zero-extended to 64 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Const {
    elem: Elem,
    bits: u64,
}

impl Const {
    /// The constant with the given bit pattern; bits above the width of `elem` are dropped.
    pub const fn from_bits(elem: Elem, bits: u64) -> Const {
        let width = elem.bits();
        let bits = if width == 64 { bits } else { bits & ((1 << width) - 1) };
        Const { elem, bits }
    }

    pub const fn bool(v: bool) -> Const {
        Const::from_bits(Elem::Bool, v as u64)
    }

    pub const fn i32(v: i32) -> Const {
        Const::from_bits(Elem::I32, v as u64)
    }

    pub const fn u32(v: u32) -> Const {
        Const::from_bits(Elem::U32, v as u64)
    }

    pub const fn i64(v: i64) -> Const {
        Const::from_bits(Elem::I64, v as u64)
    }

    pub const fn f32(v: f32) -> Const {
        Const::from_bits(Elem::F32, v.to_bits() as u64)
    }

    pub const fn f64(v: f64) -> Const {
        Const::from_bits(Elem::F64, v.to_bits())
    }

    /// `v` in `elem`: wraps for integers, converts for floats, `v != 0` for `bool`.
    pub fn int(elem: Elem, v: i64) -> Const {
        match elem {
            Elem::Bool => Const::bool(v != 0),
            Elem::F16 => Const::from_bits(elem, f16::from_f32(v as f32).to_bits().into()),
            Elem::Bf16 => Const::from_bits(elem, bf16::from_f32(v as f32).to_bits().into()),
            Elem::F32 => Const::f32(v as f32),
            Elem::F64 => Const::f64(v as f64),
            Elem::I8 | Elem::U8 | Elem::I16 | Elem::U16 | Elem::I32 | Elem::U32 | Elem::I64 | Elem::U64 => {
                Const::from_bits(elem, v as u64)
            }
        }
    }

    /// `v` rounded to the float type `elem`; `None` if `elem` is not a float type.
    pub fn float(elem: Elem, v: f64) -> Option<Const> {
        match elem {
            Elem::F16 => Some(Const::from_bits(elem, f16::from_f64(v).to_bits().into())),
            Elem::Bf16 => Some(Const::from_bits(elem, bf16::from_f64(v).to_bits().into())),
            Elem::F32 => Some(Const::f32(v as f32)),
            Elem::F64 => Some(Const::f64(v)),
            Elem::Bool
            | Elem::I8
            | Elem::U8
            | Elem::I16
            | Elem::U16
            | Elem::I32
            | Elem::U32
            | Elem::I64
            | Elem::U64 => None,
        }
    }

    pub const fn elem(self) -> Elem {
        self.elem
    }

    /// Bit pattern, zero-extended.
    pub const fn bits(self) -> u64 {
        self.bits
    }

    /// Value of an integer or `bool` constant (`u64` reinterpreted); `None` for floats.
    pub const fn as_int(self) -> Option<i64> {
        if self.elem.is_float() {
            return None;
        }
        let unused = 64 - self.elem.bits();
        Some(if self.elem.is_signed_int() {
            ((self.bits << unused) as i64) >> unused
        } else {
            self.bits as i64
        })
    }

    /// Value of a float constant, exactly; `None` for the other types.
    pub fn as_float(self) -> Option<f64> {
        match self.elem {
            Elem::F16 => Some(f16::from_bits(self.bits as u16).to_f64()),
            Elem::Bf16 => Some(bf16::from_bits(self.bits as u16).to_f64()),
            Elem::F32 => Some(f32::from_bits(self.bits as u32).into()),
            Elem::F64 => Some(f64::from_bits(self.bits)),
            Elem::Bool
            | Elem::I8
            | Elem::U8
            | Elem::I16
            | Elem::U16
            | Elem::I32
            | Elem::U32
            | Elem::I64
            | Elem::U64 => None,
        }
    }
}
