//! What can go wrong between a kernel and its machine code.

use inkwell::builder::BuilderError;
use inkwell::values::InstructionValueError;

use super::image::ImageError;
use crate::kernel::verify::{Fault, Path};
use crate::kernel::{Inst, RegTy};

/// Why kernels could not be compiled for a CPU.
#[derive(Debug, thiserror::Error)]
pub enum LlvmError {
    /// One kernel cannot be translated to LLVM IR.
    #[error("kernel `{kernel}`, {path}")]
    Kernel {
        /// The kernel's name.
        kernel: String,
        /// The statement.
        path: Path,
        /// What is wrong with it.
        #[source]
        source: EmitError,
    },
    /// The verifier rejects a kernel.
    #[error("{} faults in kernel `{kernel}`, the first: {}", faults.len(), faults[0])]
    Invalid {
        /// The kernel's name.
        kernel: String,
        /// All faults, at least one.
        faults: Vec<Fault>,
    },
    /// Two kernels of one image have the same name.
    #[error("two kernels are named `{kernel}`")]
    DuplicateKernel {
        /// The name.
        kernel: String,
    },
    /// The linked LLVM does not know the target.
    #[error("LLVM offers no machine for {triple} with the processor {cpu}: {message}")]
    Target {
        /// The target triple.
        triple: String,
        /// The processor.
        cpu: String,
        /// LLVM's words.
        message: String,
    },
    /// LLVM's verifier rejects the emitted module; this is a fault of the emitter.
    #[error("LLVM's verifier rejects the emitted module: {message}")]
    Verify {
        /// LLVM's words.
        message: String,
    },
    /// An LLVM pass or LLVM's code generator failed.
    #[error("LLVM failed while {stage}: {message}")]
    Backend {
        /// What LLVM was doing.
        stage: &'static str,
        /// LLVM's words.
        message: String,
    },
    /// The object that LLVM wrote cannot become a code image.
    #[error("the object code cannot be placed in an image")]
    Image(#[from] ImageError),
}

/// Why one kernel cannot be translated to LLVM IR.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// LLVM's instruction builder refused its operands; this is a fault of the emitter.
    #[error("LLVM's builder refuses an instruction")]
    Builder(#[from] BuilderError),
    /// LLVM refused an alignment; this is a fault of the emitter.
    #[error("LLVM refuses an alignment")]
    Alignment(#[from] InstructionValueError),
    /// The linked LLVM lacks an intrinsic.
    #[error("LLVM knows no intrinsic `{name}` for these operands")]
    Intrinsic {
        /// The intrinsic's name, without type suffixes.
        name: &'static str,
    },
    /// CPUs do not run the instruction; legalization should have replaced it.
    #[error("CPUs do not run this instruction: {inst}")]
    Unsupported {
        /// The instruction.
        inst: String,
    },
    /// A register holds a matrix tile of a form that CPUs lack.
    #[error("CPUs have no registers of type {ty}")]
    Tile {
        /// The register's type.
        ty: RegTy,
    },
    /// There are more tiles than registers for them.
    #[error("the kernel has {found} registers that are tiles, CPUs have {limit}")]
    TooManyTiles {
        /// Tiles of the kernel.
        found: usize,
        /// Tile registers.
        limit: usize,
    },
    /// The kernel wants several threads per block.
    #[error("a block has {} x {} x {} threads, on CPUs it has one", block[0], block[1], block[2])]
    ThreadBlock {
        /// Threads per block along the three axes.
        block: [u32; 3],
    },
    /// The kernel uses memory that the threads of a block share.
    #[error("CPUs have no shared memory")]
    SharedMemory,
    /// The local arrays do not fit on a thread's stack.
    #[error("local arrays take {bytes} bytes, the limit is {limit}")]
    ArraysTooLarge {
        /// What the kernel asks for.
        bytes: u64,
        /// What it may have.
        limit: u64,
    },
}

impl EmitError {
    pub(super) fn unsupported(inst: &Inst) -> EmitError {
        EmitError::Unsupported { inst: format!("{inst:?}") }
    }
}
