//! Writing an artefact with its golden vectors.

use crate::{Compiled, Error};
use ssmc_codegen::assemble::{self, ArtifactInput};
use std::path::Path;

/// What an artefact says about itself.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct WriteOptions {
    pub model_name: String,
}

impl Compiled {
    /// Compiles the kernels and writes the artefact. Returns its length.
    ///
    /// # Errors
    /// A kernel cannot be compiled, or the file cannot be written; nothing is left behind then.
    pub fn write(&self, path: &Path, options: WriteOptions) -> Result<u64, Error> {
        let input = ArtifactInput { model_name: options.model_name, ..ArtifactInput::default() };
        Ok(assemble::write(path, &self.kernels, input)?)
    }
}
