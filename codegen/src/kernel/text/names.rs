//! Spelling of the enums.

use crate::kernel::{
    Access, Axis, BinaryOp, CompareOp, MathOp, ReduceOp, TileLayout, TileRole, UnaryOp, WarpShuffleOp,
};

/// An enum whose values have names.
pub(super) trait Named: Sized {
    fn name(&self) -> &'static str;
    fn from_name(name: &str) -> Option<Self>;
}

macro_rules! names {
    ($($enum:ident { $($variant:ident = $name:literal),* $(,)? })*) => {
        $(impl Named for $enum {
            fn name(&self) -> &'static str {
                match self {
                    $($enum::$variant => $name,)*
                }
            }

            fn from_name(name: &str) -> Option<$enum> {
                match name {
                    $($name => Some($enum::$variant),)*
                    _ => None,
                }
            }
        })*
    };
}

names! {
    Access { Read = "read", Constant = "constant", Write = "write", ReadWrite = "readwrite" }
    Axis { X = "x", Y = "y", Z = "z" }
    UnaryOp {
        Neg = "neg", Abs = "abs", Sqrt = "sqrt", Floor = "floor", Ceil = "ceil", Trunc = "trunc", Round = "round",
        Not = "not",
    }
    MathOp {
        Exp = "exp", Exp2 = "exp2", Log = "log", Log1p = "log1p", Expm1 = "expm1", Sigmoid = "sigmoid",
        Softplus = "softplus", Silu = "silu", Tanh = "tanh", Erf = "erf", Sin = "sin", Cos = "cos", Rsqrt = "rsqrt",
        Recip = "recip",
    }
    BinaryOp {
        Add = "add", Sub = "sub", Mul = "mul", Div = "div", Rem = "rem", Min = "min", Max = "max", And = "and",
        Or = "or", Xor = "xor", Shl = "shl", Shr = "shr", Pow = "pow",
        Exp2Mul = "exp2_mul",
    }
    CompareOp { Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge" }
    ReduceOp { Add = "reduce_add", Min = "reduce_min", Max = "reduce_max" }
    WarpShuffleOp { Up = "shuffle_up", Down = "shuffle_down", Xor = "shuffle_xor", Idx = "shuffle_idx" }
    TileLayout { RowMajor = "row_major", ColMajor = "col_major", Interleaved = "interleaved" }
    TileRole { A = "a", B = "b", Acc = "acc" }
}
