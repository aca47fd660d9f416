//! Why a kernel does not become PTX.

use thiserror::Error;

use crate::kernel::RegTy;
use crate::kernel::verify::Fault;

/// A kernel that has no PTX.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PtxError {
    /// The verifier rejects a kernel.
    #[error("{} faults in kernel `{kernel}`, the first: {}", faults.len(), faults[0])]
    Invalid {
        /// The kernel's name.
        kernel: String,
        /// All faults, at least one.
        faults: Vec<Fault>,
    },
    /// An instruction that legalization should have replaced, or that the architecture lacks.
    #[error("kernel `{kernel}`: no PTX for {inst}")]
    Unsupported {
        /// The kernel's name.
        kernel: String,
        /// The instruction.
        inst: String,
    },
    /// A matrix tile of a shape or type that the architecture does not multiply.
    #[error("kernel `{kernel}`: no registers of type {ty}")]
    Tile {
        /// The kernel's name.
        kernel: String,
        /// The register's type.
        ty: RegTy,
    },
    /// The shared arrays do not fit.
    #[error("kernel `{kernel}`: shared arrays take {bytes} bytes, at most {limit}")]
    Shared {
        /// The kernel's name.
        kernel: String,
        /// What the kernel asks for.
        bytes: u64,
        /// What a block gets without opting in.
        limit: u64,
    },
}
