//! CPU back end: legalized kernels to machine code through LLVM.
//!
//! All kernels of a compilation share one LLVM module, which is optimized, turned into an object file and
//! linked into one flat [`CodeImage`] per CPU level. The emitter decides nothing: what a kernel computes, in
//! which order and with which vector width, is in the kernel.
//!
//! # Machine-code interface
//!
//! Every entry of an image is `extern "C" fn(bufs: *const *mut u8, dims: *const i64, begin: i64, end: i64)`.
//! It runs the blocks `begin..end`. `bufs[i]` is the address of the kernel's `i`-th parameter, aligned to its
//! element; `dims[i]` is its `i`-th launch argument. The code calls nothing, writes only to parameters it
//! may write and to its stack (at most [`MAX_ARRAY_BYTES`] and some registers), and needs the default
//! floating-point environment: rounding to nearest even, subnormals kept.

mod emit;
mod error;
mod image;
mod machine;
mod types;

use std::collections::BTreeSet;

use inkwell::context::Context;
use inkwell::module::Module;

use crate::kernel::Kernel;
use crate::kernel::verify::verify;
use crate::target::CpuTarget;
pub use emit::MAX_ARRAY_BYTES;
pub use error::{EmitError, LlvmError};
pub use image::{CodeImage, IMAGE_ALIGN, ImageError};
use machine::Machine;

/// Compiles kernels that are legal on `target` into one code image.
///
/// The same kernels in the same order give the same bytes.
///
/// # Errors
/// [`LlvmError::Invalid`] if the verifier rejects a kernel. [`LlvmError::Kernel`] names the kernel and statement that cannot be translated, [`LlvmError::Image`] the
/// kernel whose code needs a symbol that does not exist, such as `fmaf` on a level without FMA.
pub fn compile(kernels: &[Kernel], target: &CpuTarget) -> Result<CodeImage, LlvmError> {
    with_module(kernels, target, |machine, module| Ok(image::link(&machine.object(module)?)?))
}

/// The optimized LLVM IR of the kernels as text.
///
/// # Errors
/// As [`compile`], without those of the later steps.
pub fn emit_llvm_ir(kernels: &[Kernel], target: &CpuTarget) -> Result<String, LlvmError> {
    with_module(kernels, target, |_, module| Ok(module.print_to_string().to_string()))
}

/// The assembly of the kernels as text, AT&T syntax.
///
/// # Errors
/// As [`compile`], without those of the image.
pub fn emit_asm(kernels: &[Kernel], target: &CpuTarget) -> Result<String, LlvmError> {
    with_module(kernels, target, Machine::assembly)
}

/// The relocatable ELF object of the kernels, one global function each.
///
/// # Errors
/// As [`compile`], without those of the image.
pub fn emit_object(kernels: &[Kernel], target: &CpuTarget) -> Result<Vec<u8>, LlvmError> {
    with_module(kernels, target, Machine::object)
}

/// Builds and optimizes the module of all kernels, then hands it to `output`.
fn with_module<T>(
    kernels: &[Kernel],
    target: &CpuTarget,
    output: impl FnOnce(&Machine, &Module<'_>) -> Result<T, LlvmError>,
) -> Result<T, LlvmError> {
    let mut names = BTreeSet::new();
    if let Some(twice) = kernels.iter().find(|kernel| !names.insert(kernel.name.as_str())) {
        return Err(LlvmError::DuplicateKernel { kernel: twice.name.clone() });
    }
    let machine = Machine::new(target)?;
    let context = Context::create();
    let module = context.create_module("ssmc");
    machine.prepare(&module);
    for kernel in kernels {
        verify(kernel).map_err(|faults| LlvmError::Invalid { kernel: kernel.name.clone(), faults })?;
        emit::emit_kernel(&context, &module, kernel, target)?;
    }
    machine.optimize(&module)?;
    output(&machine, &module)
}

#[cfg(test)]
pub(crate) mod tests;
