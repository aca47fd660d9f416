//! Hugging Face and state-spaces model folders: `config.json` and `*.safetensors`.
//!
//! A folder is read in three steps: its files (`checkpoint`, `config`), what its family means by them (`recipes`),
//! and the graph (`graph`). All faults of the first two steps are collected before the import is refused.

mod checkpoint;
mod config;
mod fault;
mod graph;
mod header;
mod json;
mod recipes;
mod schema;
pub mod synthetic;
pub mod unrolled;

use crate::error::ImportError;
use crate::shapes::{Binding, InputShape, ShapeFault};
use checkpoint::Checkpoint;
use config::Config;
use fault::{Fault, Faults};
use recipes::LanguageModel;
use schema::{Schema, Source};
use ssmc_ir::{Diagnostic, Graph, Model, ModelMeta, Severity};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

/// How a model folder is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Tensors that the model's family does not have are a warning, not an error.
    pub ignore_unexpected_tensors: bool,
    /// What is said about the shapes of inputs. The programs of a folder are derived from `batch` and `seq_len`, which
    /// may be bounded, but neither fixed nor renamed.
    pub input_shapes: Vec<InputShape>,
}

/// Imports a folder with `config.json` and `model.safetensors`, or shards listed in `model.safetensors.index.json`.
///
/// The graph consists of primitive ops and has the symbols `batch` and `seq_len`. Inputs:
/// * `input_ids: i64[batch, seq_len]`;
/// * `seq_idx: i32[batch, seq_len]`, the number of the sequence that each token of a packed row belongs to; any constant
///   if rows are not packed;
/// * per layer `layers.{i}.conv_state: f32[batch, d_conv - 1, channels]` and `layers.{i}.ssm_state`, which is
///   `f32[batch, d_inner, d_state]` (Mamba-1) or `f32[batch, n_heads, head_dim, d_state]` (Mamba-2): the state of the
///   sequence of the row's first token, zero at its start.
///
/// Outputs: `logits: f32[batch, seq_len, rows]` and `logits_last: f32[batch, rows]`, where `rows` counts the rows of
/// the embedding table with its padding, and the new states under the names of the inputs. Weights keep their stored
/// element type and stay in the mapped files, which nobody may change while the model is in use.
///
/// # Errors
/// A file cannot be read, or the folder is refused: [`ImportError::Unsupported`] if every error has a code that
/// begins with `ssmc::import::unsupported`, else [`ImportError::Invalid`]; both carry every fault found.
pub fn import_dir(dir: &Path, options: &ImportOptions) -> Result<Model, ImportError> {
    let mut faults = Faults::default();
    let config = Config::open(dir, &mut faults)?;
    let checkpoint = Checkpoint::open(dir, &mut faults)?;
    let (Some(config), Some(checkpoint)) = (config, checkpoint) else {
        return Err(refused(dir, faults));
    };
    // A tensor whose header could not be read would also be reported as missing.
    if faults.has_error() {
        return Err(refused(dir, faults));
    }
    let model = recipes::read(&mut Source { checkpoint: &checkpoint, config: &config, faults: &mut faults });
    let Some(model) = model else {
        return Err(refused(dir, faults));
    };
    let mut schema = Schema::new(&checkpoint, &mut faults);
    model.check(&mut schema);
    schema.finish(options.ignore_unexpected_tensors);
    if faults.has_error() {
        return Err(refused(dir, faults));
    }
    compare_tied(&model, &checkpoint, &mut faults);
    let eos_token_ids = eos_token_ids(dir, &config, &mut faults)?;
    if faults.has_error() {
        return Err(refused(dir, faults));
    }
    let (graph, weights) = graph::build(&model, &checkpoint).map_err(|e| {
        let fault = Diagnostic::error("ssmc::import::graph", e.place.clone(), e.to_string());
        ImportError::Invalid { path: dir.to_owned(), faults: vec![fault] }
    })?;
    let maxima = bounds(&graph, &options.input_shapes)
        .map_err(|faults| ImportError::InputShapes { path: dir.to_owned(), faults })?;
    let tokenizer = Some(dir.join("tokenizer.json")).filter(|path| path.is_file());
    let meta = ModelMeta {
        family: model.family.name().to_owned(),
        chunk_size: model.chunk_size(),
        eos_token_ids,
        tokenizer,
        maxima,
    };
    Ok(Model { graph, weights, meta, warnings: faults.into_vec() })
}

/// The greatest values that are given for the symbols of the graph's inputs.
fn bounds(graph: &Graph, given: &[InputShape]) -> Result<BTreeMap<String, i64>, Vec<ShapeFault>> {
    let declared: Vec<_> =
        graph.inputs().iter().map(|port| (port.name.as_str(), Some(&graph.ty(port.value).shape))).collect();
    let binding = Binding::new(given, &declared)?;
    let changed = binding.dims.iter().filter(|(symbol, dim)| dim.as_symbol() != Some(symbol));
    let faults: Vec<ShapeFault> = changed
        .map(|(symbol, dim)| ShapeFault::Programs { symbol: symbol.to_string(), found: dim.to_string() })
        .collect();
    if faults.is_empty() { Ok(binding.maxima) } else { Err(faults) }
}

/// The end-of-text tokens of `generation_config.json`, which generation obeys, or else of `config.json`.
fn eos_token_ids(dir: &Path, config: &Config, faults: &mut Faults) -> Result<Vec<i64>, ImportError> {
    let generation = match Config::open_if_there(&dir.join("generation_config.json"), faults)? {
        Some(generation) => generation.token_ids("eos_token_id", faults),
        None => Vec::new(),
    };
    let ids = if generation.is_empty() { config.token_ids("eos_token_id", faults) } else { generation };
    Ok(ids.into_iter().map(i64::from).collect())
}

/// Warns if a head that is tied to the embedding table is also stored, with other elements.
fn compare_tied(model: &LanguageModel, checkpoint: &Checkpoint, faults: &mut Faults) {
    let head = checkpoint.tensors.get("lm_head.weight").filter(|_| model.tied);
    let (Some(head), Some(table)) = (head, checkpoint.tensors.get(&model.embedding)) else {
        return;
    };
    if (head.dtype, head.bytes()) != (table.dtype, table.bytes()) {
        let fault =
            Fault::TiedTensorDiffers { tensor: "lm_head.weight".to_owned(), used: model.embedding.clone() };
        faults.push(&checkpoint.file, fault);
    }
}

fn refused(dir: &Path, faults: Faults) -> ImportError {
    let (path, faults) = (dir.to_owned(), faults.into_vec());
    let mut errors = faults.iter().filter(|d| d.severity == Severity::Error);
    if errors.all(|d| d.code.starts_with("ssmc::import::unsupported")) {
        ImportError::Unsupported { path, faults }
    } else {
        ImportError::Invalid { path, faults }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    move |source| ImportError::Io { path: path.to_owned(), source }
}

/// The metadata of a path that must be a regular file, so that reading it ends.
fn regular_file(path: &Path) -> io::Result<Metadata> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        Ok(metadata)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a regular file"))
    }
}

fn shape_text(shape: &[u64]) -> String {
    let extents: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", extents.join(", "))
}
