//! Writing an artefact.

use crate::golden::golden;
use crate::{Compiled, Error, Span, facts};
use ssmc_artifact::{Property, ReportEntry, ReportKind};
use ssmc_codegen::assemble::{self, ArtifactInput};
use ssmc_codegen::ptx::Assembler;
use ssmc_ir::Model;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// What an artefact says about itself.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct WriteOptions {
    pub model_name: String,
    /// See [`model_hash`](crate::model_hash).
    pub model_hash: Vec<u8>,
    /// See [`properties`](crate::properties).
    pub properties: Vec<Property>,
    /// The greatest values of symbols, by name, where they are known.
    pub maxima: BTreeMap<String, i64>,
    /// Whether to compute golden vectors for `selftest` with the reference interpreter.
    pub golden: bool,
    /// What makes cubins of the PTX for GPUs; without it there are none.
    pub assembler: Option<Assembler>,
}

impl WriteOptions {
    /// All that is known about a model, with golden vectors.
    pub fn of(model: &Model, model_name: impl Into<String>) -> Self {
        Self {
            model_name: model_name.into(),
            model_hash: facts::model_hash(model),
            properties: facts::properties(model),
            maxima: model.meta.maxima.clone(),
            golden: true,
            assembler: None,
        }
    }
}

impl Compiled {
    /// Compiles the kernels and writes the artefact with its report, the texts of its stages `imported` and
    /// `rewritten`, and its golden vectors. Returns its length.
    ///
    /// A model that the reference interpreter would take too long for gets no golden vectors; the report says so.
    ///
    /// # Errors
    /// A kernel cannot be compiled, the reference interpreter fails, or the file cannot be written; nothing is left
    /// behind then.
    pub fn write(&self, path: &Path, options: WriteOptions) -> Result<u64, Error> {
        self.write_observed(path, options, &mut |_| {})
    }

    /// [`Compiled::write`], showing each part of the work that is done.
    ///
    /// # Errors
    /// As [`Compiled::write`].
    pub fn write_observed(
        &self,
        path: &Path,
        options: WriteOptions,
        observe: &mut dyn FnMut(&Span),
    ) -> Result<u64, Error> {
        let mut done = |name, start, time| observe(&Span { track: "artefact".to_owned(), name, start, time });
        let mut report = facts::report(self);
        let start = Instant::now();
        let golden = if options.golden { golden(self)? } else { None };
        done("golden vectors".to_owned(), start, start.elapsed());
        if golden.is_none() {
            let reason =
                if options.golden { "the reference interpreter would take too long" } else { "left out" };
            report.push(ReportEntry {
                kind: ReportKind::Note.into(),
                program: String::new(),
                subject: "no golden vectors".to_owned(),
                reason: reason.to_owned(),
            });
        }
        let texts = self.programs.iter().flat_map(|p| {
            [("imported", &p.imported), ("rewritten", &p.rewritten)]
                .map(|(stage, graph)| (format!("{}.{stage}.ssm", p.name), graph.to_string()))
        });
        let input = ArtifactInput {
            model_name: options.model_name,
            model_hash: options.model_hash,
            report,
            properties: options.properties,
            golden: golden.unwrap_or_default(),
            texts: texts.collect(),
            maxima: options.maxima,
            max_context: self.streaming.as_ref().and_then(|streaming| streaming.max_context),
            assembler: options.assembler,
        };
        Ok(assemble::write(path, &self.kernels, input, &mut done)?)
    }
}
