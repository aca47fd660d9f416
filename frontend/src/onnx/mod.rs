//! ONNX models.
//!
//! A file is decoded (`decode`), its structure checked (`check`), and its nodes imported in order (`importer`) by the
//! functions of one table (`registry`). Every operator becomes primitive ops; integer tensors that come from shapes
//! are followed as [dims](ssmc_ir::Dim) and become data only where a node uses them as data.

mod attrs;
mod check;
mod ctx;
mod decode;
pub mod export;
mod external;
mod fault;
mod import;
mod importer;
mod inputs;
mod limits;
mod narrow;
pub mod proto;
mod registry;
mod shape;
mod tensor;
mod types;

#[cfg(test)]
mod tests;

use crate::error::ImportError;
use crate::shapes::{Binding, InputShape, ShapeFault};
use check::Faults;
use external::ExternalFiles;
use importer::Importer;
use prost::Message;
use proto::{GraphProto, ModelProto};
use ssmc_ir::{Model, ModelMeta};
use std::path::Path;

/// Imports an ONNX file, with the data files in its folder that it names.
///
/// Initializers are constants, also those that the file lists as inputs. Named dims of the inputs become symbols of
/// the same name. The tensors of an output that is a sequence are outputs of their own, `NAME.0` and so on.
///
/// # Errors
/// All faults of the file at once: unreadable, not ONNX, structurally wrong, ill typed, or not supported.
pub fn import(path: &Path) -> Result<Model, ImportError> {
    import_with(path, &[])
}

/// [`import()`] with shapes in the place of those that the file declares for its inputs.
///
/// # Errors
/// As [`import()`], and if a shape contradicts its declaration.
pub fn import_with(path: &Path, shapes: &[InputShape]) -> Result<Model, ImportError> {
    let proto = decode::decode(path)?;
    import_model(&proto, path, shapes)
}

/// The message of a model file, for tools that rewrite models.
///
/// # Errors
/// The file cannot be read, or is not ONNX.
pub fn read_message(path: &Path) -> Result<ModelProto, ImportError> {
    decode::decode(path)
}

/// Writes a message as a model file.
///
/// # Errors
/// The file cannot be written.
pub fn write_message(path: &Path, message: &ModelProto) -> std::io::Result<()> {
    std::fs::write(path, message.encode_to_vec())
}

/// The version of the standard operator set that a file asks for.
///
/// # Errors
/// The file is unreadable or not ONNX.
pub fn opset(path: &Path) -> Result<i64, ImportError> {
    let proto = decode::decode(path)?;
    let standard = proto.opset_import.iter().filter(|o| matches!(o.domain(), "" | "ai.onnx"));
    Ok(standard.map(|o| o.version()).max().unwrap_or(1))
}

/// Imports a message; `path` is the file that it is from, beside which its data files lie.
pub(crate) fn import_model(
    proto: &ModelProto,
    path: &Path,
    shapes: &[InputShape],
) -> Result<Model, ImportError> {
    let refuse = |faults: Faults| {
        let (path, list) = (path.to_owned(), faults.list);
        if faults.invalid {
            ImportError::Invalid { path, faults: list }
        } else {
            ImportError::Unsupported { path, faults: list }
        }
    };
    let mut faults = Faults::default();
    let functions = check::check(proto, &mut faults);
    let Some(graph) = proto.graph.as_ref().filter(|_| faults.list.is_empty()) else {
        return Err(refuse(faults));
    };
    let name = if graph.name().is_empty() { "main" } else { graph.name() };
    let files = ExternalFiles::beside(path);
    let mut importer = Importer::new(name, functions, check::opsets(&proto.opset_import), files, faults);
    let binding = import_graph(&mut importer, graph, shapes)
        .map_err(|faults| ImportError::InputShapes { path: path.to_owned(), faults })?;
    let (graph, weights, faults) = importer.finish();
    if !faults.list.is_empty() {
        return Err(refuse(faults));
    }
    let meta = ModelMeta { family: "onnx".into(), maxima: binding.maxima, ..ModelMeta::default() };
    Ok(Model { graph, weights, meta, warnings: Vec::new() })
}

/// Imports the inputs, nodes and outputs of the model's graph.
fn import_graph<'m>(
    importer: &mut Importer<'m>,
    graph: &'m GraphProto,
    shapes: &[InputShape],
) -> Result<Binding, Vec<ShapeFault>> {
    let binding = inputs::import(importer, graph, shapes)?;
    importer.initializers(graph);
    if importer.nodes(&graph.node).is_err() {
        return Ok(binding);
    }
    for info in &graph.output {
        if let Err(fault) = importer.graph_output(info, graph) {
            importer.faults.push(format!("output {:?}", info.name()), &fault);
        }
    }
    Ok(binding)
}
