//! Legalization for CPUs.
//!
//! Afterwards a kernel holds:
//! - no [`Inst::Math`](crate::kernel::Inst::Math) and none of [`BinaryOp::Pow`](crate::kernel::BinaryOp::Pow) and
//!   [`BinaryOp::Exp2Mul`](crate::kernel::BinaryOp::Exp2Mul): they are expanded, see [`super::math`] for the error bounds;
//! - no arithmetic, comparison, reduction or conversion on `f16` and `bf16`. Registers of these types are only
//!   set to constants, moved (copy, select, splat, lane moves, loads, stores), reinterpreted, and, if
//!   [`CpuOptions::f16_convert`] is set, cast between `f16` and `f32`;
//! - no fused multiply-add and no [`Inst::Dot`](crate::kernel::Inst::Dot) of an element type that the level lacks;
//! - no matrix tiles on levels without them;
//! - one thread per block, and nothing that needs more.

use super::expand::{Features, expand};
use crate::kernel::Kernel;
use crate::target::CpuTarget;

pub use super::LegalizeError;

#[cfg(test)]
mod tests;

/// What the CPU level offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// The target converts between `f16` and `f32` (F16C, or any aarch64), subnormals included.
    pub f16_convert: bool,
    /// The target has fused multiply-adds.
    pub fma: bool,
    /// The target has dot products of unsigned by signed bytes (VNNI, I8MM).
    pub dot_u8: bool,
    /// The target has dot products of signed bytes (DotProd).
    pub dot_i8: bool,
    /// The target has dot products of `bf16`.
    pub dot_bf16: bool,
    /// The target has matrix tiles (AMX).
    pub tiles: bool,
}

impl CpuOptions {
    /// What a level offers.
    pub fn of(target: &CpuTarget) -> Self {
        Self {
            f16_convert: target.has_f16_convert,
            fma: target.has_fma,
            dot_u8: target.has_dot_u8,
            dot_i8: target.has_dot_i8,
            dot_bf16: target.has_dot_bf16,
            tiles: target.has_tiles,
        }
    }
}

/// The kernel in the form that the module documentation describes. `kernel` must be verified.
///
/// # Errors
/// The first construct, in statement order, that CPUs do not have.
pub fn legalize(kernel: &Kernel, options: CpuOptions) -> Result<Kernel, LegalizeError> {
    if kernel.n_threads() != 1 {
        return Err(LegalizeError::Threads { kernel: kernel.name.clone(), threads: kernel.n_threads() });
    }
    let features = Features {
        target: "CPUs",
        f16_convert: options.f16_convert,
        bf16_convert: false,
        special_functions: false,
        fma: options.fma,
        dot_u8: options.dot_u8,
        dot_i8: options.dot_i8,
        dot_bf16: options.dot_bf16,
        tiles: options.tiles,
        thread_blocks: false,
    };
    expand(kernel, features)
}
