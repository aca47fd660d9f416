//! Legalization for GPUs.
//!
//! Afterwards a kernel holds:
//! - no [`Inst::Math`](crate::kernel::Inst::Math) but `exp2` of `f32`, and no `pow`: they are expanded, see
//!   [`super::math`] for the error bounds;
//! - no arithmetic, comparison, reduction or conversion on `f16` and `bf16`, which are only moved and cast from and to
//!   `f32`.
//!
//! `exp2` of `f32` stays: the machine has it. It errs by at most 2 units of the last place over the whole range,
//! subnormal results included (PTX ISA, `ex2.approx.f32`). It is the one instruction whose bits the kernel interpreter,
//! which rounds the exact value, does not reproduce.

use super::LegalizeError;
use super::expand::{Features, expand};
use crate::kernel::Kernel;

/// The kernel in the form that the module documentation describes. `kernel` must be verified.
///
/// # Errors
/// The first construct, in statement order, that GPUs do not have.
pub fn legalize(kernel: &Kernel) -> Result<Kernel, LegalizeError> {
    let features =
        Features { target: "GPUs", f16_convert: true, bf16_convert: true, exp2: true, thread_blocks: true };
    expand(kernel, features)
}
