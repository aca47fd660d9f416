//! A graph with its weights and what else a checkpoint knows.

use crate::diag::Diagnostic;
use crate::graph::Graph;
use crate::weights::Weights;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What an importer returns.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Model {
    pub graph: Graph,
    pub weights: Weights,
    pub meta: ModelMeta,
    /// Remarks that did not stop the import.
    pub warnings: Vec<Diagnostic>,
}

/// Facts about a model that are not part of its graph.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct ModelMeta {
    /// Family name such as `mamba2`, or `onnx`.
    pub family: String,
    /// Chunk size that the checkpoint suggests for chunked scans.
    pub chunk_size: Option<usize>,
    pub eos_token_ids: Vec<i64>,
    pub tokenizer: Option<PathBuf>,
    /// The greatest values of symbols, by name, where they are known.
    pub maxima: BTreeMap<String, i64>,
}
