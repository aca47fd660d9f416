//! PTX: kernels as text for NVIDIA GPUs.
//!
//! One module holds the kernels of a model. An entry point takes the address of every buffer, then every launch
//! argument, 64 bits each; the grid is one-dimensional. Buffers start at multiples of [`BUFFER_ALIGN`] bytes.
//!
//! [`emit`] turns a verified, legalized kernel (see [`crate::legalize::gpu`]) into typed instructions one by one and
//! decides nothing; [`mod@print`] alone knows how they are spelled. Lanes of a vector are registers of their own; contiguous
//! lanes are accessed together as far as the alignment of their index is known ([`align`]). Sums, products and roots
//! round to nearest even, nothing is contracted and nothing is flushed to zero, so that the interpreter computes the
//! same bits; the exceptions are `exp2` and `recip` of `f32`, see [`crate::legalize::gpu`]. Constants in indices go into
//! the offsets of accesses ([`offsets`]).

mod align;
mod arrays;
#[cfg(test)]
pub(crate) mod assembler;
mod cubin;
mod emit;
mod error;
mod isa;
mod offsets;
mod print;
#[cfg(test)]
mod tests;

pub use arrays::dynamic_shared_bytes;
pub use cubin::{Assembler, AssemblerError};
pub use error::PtxError;

use crate::kernel::Kernel;
use crate::kernel::verify::verify;
use crate::target::GpuTarget;

/// Buffers given to a kernel start at multiples of this many bytes.
pub const BUFFER_ALIGN: u64 = 16;

/// The kernels as one PTX module. They are verified here and must be legalized for the target.
///
/// # Errors
/// The first kernel that the target cannot run.
pub fn module(kernels: &[Kernel], target: &GpuTarget) -> Result<String, PtxError> {
    let mut text = print::header(target.arch);
    if kernels.iter().any(|kernel| dynamic_shared_bytes(kernel, target) > 0) {
        text.push_str(&print::dynamic_shared());
    }
    for kernel in kernels {
        verify(kernel).map_err(|faults| PtxError::Invalid { kernel: kernel.name.clone(), faults })?;
        text.push('\n');
        text.push_str(&emit::entry(kernel, target)?.to_string());
    }
    Ok(text)
}
