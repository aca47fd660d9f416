//! Legalization for GPUs.
//!
//! Afterwards a kernel holds:
//! - no [`Inst::Math`](crate::kernel::Inst::Math) but `exp2` and `recip` of `f32`, and no `pow`: they are expanded, see
//!   [`super::math`] for the error bounds and [`super::math::fast`] for those functions that use the machine's;
//! - no arithmetic, comparison, reduction or conversion on `f16` and `bf16`, which are only moved and cast from and to
//!   `f32`;
//! - no arithmetic whose result nobody reads.
//!
//! `exp2` and `recip` of `f32` stay: the machine has them. They err by at most 2 units and 1 unit of the last place (PTX
//! ISA, `ex2.approx.ftz.f32`, `rcp.approx.ftz.f32`); subnormal operands and results count as 0. They are the instructions
//! whose bits the kernel interpreter, which rounds the exact value, does not reproduce.

use super::LegalizeError;
use super::expand::{Features, expand};
use super::unused::remove_unused;
use crate::kernel::Kernel;

/// The kernel in the form that the module documentation describes. `kernel` must be verified.
///
/// # Errors
/// The first construct, in statement order, that GPUs do not have.
pub fn legalize(kernel: &Kernel) -> Result<Kernel, LegalizeError> {
    let features = Features {
        target: "GPUs",
        f16_convert: true,
        bf16_convert: true,
        special_functions: true,
        fma: true,
        dot_u8: false,
        dot_i8: false,
        dot_bf16: false,
        tiles: true,
        thread_blocks: true,
    };
    let mut kernel = expand(kernel, features)?;
    remove_unused(&mut kernel);
    Ok(kernel)
}
