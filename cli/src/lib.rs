//! ssmc as a library: import a model, compile it, write the artefact, run it.
//!
//! The command line is a thin layer over this: [`import`] reads a model, [`Compiler`] takes it through the stages,
//! [`Compiled`] holds the kernels and every stage on the way, and [`Compiled::write`] makes machine code (for CPUs with
//! feature `llvm`) of the kernels. What is written is run by [`runtime`], which knows nothing of the compiler.
//!
//! ```no_run
//! use ssmc::{CompileOptions, Compiler};
//! let model = ssmc::import("mamba-130m-hf".as_ref())?;
//! let compiled = Compiler::new(CompileOptions::default()).compile(&model)?;
//! compiled.write("mamba-130m.ssmc".as_ref(), ssmc::WriteOptions::of(&model, "mamba-130m"))?;
//! # Ok::<(), ssmc::Error>(())
//! ```

mod compiler;
mod error;
mod facts;
mod golden;
mod random;
mod stages;
mod write;

pub use compiler::{
    CompileOptions, Compiled, CompiledProgram, Compiler, GpuPlan, Reached, Span, StreamFacts,
};
pub use error::Error;
pub use facts::{model_hash, properties, report};
pub use random::{Rng, random_tensor};
pub use ssmc_runtime as runtime;
pub use stages::plan_text;
pub use write::WriteOptions;

use ssmc_frontend::safetensors::ImportOptions;
use ssmc_frontend::shapes::InputShape;
use ssmc_ir::Model;
pub use ssmc_passes::compute::{Between, ComputeType};
pub use ssmc_passes::norms::Norm;
pub use ssmc_passes::states::StateType;
pub use ssmc_passes::weights::products::Compared;
pub use ssmc_passes::weights::{Stored, WeightFormat};
use std::path::Path;

/// Imports an ONNX file or a model folder.
///
/// # Errors
/// Everything that is wrong with the files, at once.
pub fn import(path: &Path) -> Result<Model, Error> {
    import_with(path, &[])
}

/// Stores the matrices of large products in a format; [`Compiler`] takes the model as it is then. Which weights these
/// are is documented at [`ssmc_passes::weights::policy`].
///
/// # Errors
/// A weight's bytes do not fit its type.
pub fn store_weights(model: &mut Model, format: WeightFormat) -> Result<Vec<Stored>, Error> {
    Ok(ssmc_passes::weights::store(model, format)?)
}

/// The model with these weights stored, as one that computes each product with them beside the product of the same factor
/// and the exact weight.
///
/// # Errors
/// The graph cannot be rebuilt.
pub fn products_beside(
    stored: &Model,
    exact: &Model,
    weights: &[Stored],
) -> Result<(Model, Vec<Compared>), Error> {
    Ok(ssmc_passes::weights::products::beside(stored, exact, weights)?)
}

/// [`import`] with sizes of inputs that are fixed, renamed or bounded.
///
/// # Errors
/// As [`import`], and what does not fit the model's declaration.
pub fn import_with(path: &Path, input_shapes: &[InputShape]) -> Result<Model, Error> {
    let options = ImportOptions { input_shapes: input_shapes.to_vec(), ..ImportOptions::default() };
    Ok(ssmc_frontend::import(path, &options)?)
}
