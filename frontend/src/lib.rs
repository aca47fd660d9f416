//! Imports SSMs into the graph IR: ONNX files, and model folders of safetensors.

pub mod error;
mod map;
pub mod onnx;
#[cfg(feature = "oracle")]
pub mod oracle;
pub mod safetensors;
pub mod shapes;

pub use error::ImportError;

use safetensors::ImportOptions;
use ssmc_ir::Model;
use std::path::Path;

/// Imports a model: a folder as a checkpoint, a file as ONNX.
///
/// # Errors
/// The path is neither, or the importer of its format refuses it.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Model, ImportError> {
    if path.is_dir() {
        return safetensors::import_dir(path, options);
    }
    if let Some(extension) = path.extension().and_then(|e| e.to_str())
        && matches!(extension, "safetensors" | "bin" | "pt" | "gguf" | "json" | "ssm")
    {
        return Err(ImportError::UnknownFormat {
            path: path.to_owned(),
            expected: "an ONNX file, or a folder with config.json and safetensors files",
            found: format!("a .{extension} file"),
        });
    }
    onnx::import_with(path, &options.input_shapes)
}
