//! See ARCHITECTURE.md.

pub mod assemble;
pub mod emulate;
pub mod kernel;
pub mod legalize;
#[cfg(feature = "llvm")]
pub mod llvm;
pub mod lower;
pub mod ptx;
pub mod target;
