//! ssmc as a library: import a model, compile it, run the artefact.
//!
//! ```no_run
//! use ssmc::{CompileOptions, Compiler};
//! let model = ssmc::import("mamba-130m-hf".as_ref())?;
//! let compiled = Compiler::new(CompileOptions::default()).compile(&model)?;
//! # Ok::<(), ssmc::Error>(())
//! ```

mod compiler;
mod error;
#[cfg(feature = "llvm")]
mod golden;

pub use compiler::{CompileOptions, Compiled, CompiledProgram, Compiler};
pub use error::Error;
#[cfg(feature = "llvm")]
pub use golden::WriteOptions;
pub use ssmc_runtime as runtime;

use ssmc_frontend::safetensors::ImportOptions;
use ssmc_ir::Model;
use std::path::Path;

/// Imports an ONNX file or a model folder.
///
/// # Errors
/// Everything that is wrong with the files, at once.
pub fn import(path: &Path) -> Result<Model, Error> {
    Ok(ssmc_frontend::import(path, &ImportOptions::default())?)
}
