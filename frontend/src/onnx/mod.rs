//! ONNX models.
//!
//! A file is decoded (`decode`), its structure checked (`check`), and its nodes imported in order (`importer`) by the
//! functions of one table (`registry`). Every operator becomes primitive ops; integer tensors that come from shapes
//! are followed as [dims](ssmc_ir::Dim) and become data only where a node uses them as data.

mod attrs;
mod check;
mod ctx;
mod decode;
mod external;
mod fault;
mod import;
mod importer;
mod limits;
mod proto;
mod registry;
mod shape;
mod tensor;
mod types;

#[cfg(test)]
mod tests;

use crate::error::ImportError;
use check::Faults;
use external::ExternalFiles;
use importer::Importer;
use proto::{GraphProto, ModelProto};
use ssmc_ir::{Model, ModelMeta};
use std::collections::BTreeSet;
use std::path::Path;

/// Imports an ONNX file, with the data files in its folder that it names.
///
/// Initializers are constants, also those that the file lists as inputs. Named dims of the inputs become symbols of
/// the same name.
///
/// # Errors
/// All faults of the file at once: unreadable, not ONNX, structurally wrong, ill typed, or not supported.
pub fn import(path: &Path) -> Result<Model, ImportError> {
    let proto = decode::decode(path)?;
    import_model(&proto, path)
}

fn import_model(proto: &ModelProto, path: &Path) -> Result<Model, ImportError> {
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
    import_graph(&mut importer, graph);
    let (graph, weights, faults) = importer.finish();
    if !faults.list.is_empty() {
        return Err(refuse(faults));
    }
    let meta = ModelMeta { family: "onnx".into(), ..ModelMeta::default() };
    Ok(Model { graph, weights, meta, warnings: Vec::new() })
}

/// Imports the inputs, nodes and outputs of the model's graph.
fn import_graph<'m>(importer: &mut Importer<'m>, graph: &'m GraphProto) {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    let taken = types::dim_names(&graph.input);
    for info in graph.input.iter().filter(|i| !constants.contains(i.name())) {
        let value = match types::input_type(info, &taken) {
            Ok(ty) => Some(importer.region_input(info.name(), ty)),
            Err(fault) => {
                importer.faults.push(format!("input {:?}", info.name()), &fault);
                None
            }
        };
        importer.bind(info.name(), value);
    }
    importer.initializers(graph);
    if importer.nodes(&graph.node).is_err() {
        return;
    }
    for info in &graph.output {
        if let Err(fault) = importer.graph_output(info) {
            importer.faults.push(format!("output {:?}", info.name()), &fault);
        }
    }
}
