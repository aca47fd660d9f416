//! How registers and memory look in LLVM.
//!
//! | kernel IR | register | memory |
//! |---|---|---|
//! | `bool` | `i1` | `i8`, 0 or 1 |
//! | integers | `iN` | `iN` |
//! | `f16`, `bf16` | `i16`, the bit pattern | `i16` |
//! | `f32`, `f64` | `float`, `double` | the same |
//!
//! One lane is a scalar, more are a vector. The 16-bit floats are bit patterns because legal kernels only move
//! them and convert `f16`; LLVM's own `bfloat` conversion flushes subnormals on some processors.

use inkwell::context::Context;
use inkwell::types::{BasicType, BasicTypeEnum, VectorType};

use crate::kernel::{Elem, RegTy};

/// Type of one lane of a register.
pub(super) fn lane_type<'ctx>(context: &'ctx Context, elem: Elem) -> BasicTypeEnum<'ctx> {
    match elem {
        Elem::Bool => context.bool_type().into(),
        Elem::F32 => context.f32_type().into(),
        Elem::F64 => context.f64_type().into(),
        Elem::I8 | Elem::U8 => context.i8_type().into(),
        Elem::I16 | Elem::U16 | Elem::F16 | Elem::Bf16 => context.i16_type().into(),
        Elem::I32 | Elem::U32 => context.i32_type().into(),
        Elem::I64 | Elem::U64 => context.i64_type().into(),
    }
}

/// Type of one element in memory.
pub(super) fn memory_type<'ctx>(context: &'ctx Context, elem: Elem) -> BasicTypeEnum<'ctx> {
    match elem {
        Elem::Bool => context.i8_type().into(),
        _ => lane_type(context, elem),
    }
}

/// `lanes` values of one type: a vector, or the type itself for one lane.
pub(super) fn with_lanes(scalar: BasicTypeEnum<'_>, lanes: u16) -> BasicTypeEnum<'_> {
    match lanes {
        1 => scalar,
        _ => vector_of(scalar, lanes).as_basic_type_enum(),
    }
}

/// A vector type, of one lane too.
pub(super) fn vector_of(scalar: BasicTypeEnum<'_>, lanes: u16) -> VectorType<'_> {
    let lanes = u32::from(lanes);
    match scalar {
        BasicTypeEnum::FloatType(ty) => ty.vec_type(lanes),
        BasicTypeEnum::IntType(ty) => ty.vec_type(lanes),
        BasicTypeEnum::PointerType(ty) => ty.vec_type(lanes),
        BasicTypeEnum::ArrayType(_)
        | BasicTypeEnum::StructType(_)
        | BasicTypeEnum::VectorType(_)
        | BasicTypeEnum::ScalableVectorType(_) => unreachable!("lanes are scalars"),
    }
}

/// Type of a register; `None` for a matrix tile.
pub(super) fn register_type(context: &Context, ty: RegTy) -> Option<BasicTypeEnum<'_>> {
    match ty {
        RegTy::Vec { elem, lanes } => Some(with_lanes(lane_type(context, elem), lanes)),
        RegTy::Tile(_) => None,
    }
}
