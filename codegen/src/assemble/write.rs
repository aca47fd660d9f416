//! Compiling the kernels and writing the artefact.

use super::convert::dtype;
use super::kernels::{Kernels, StoredWeight};
use crate::kernel::Kernel;
use crate::kernel::verify;
use crate::legalize::cpu::{CpuOptions, LegalizeError, legalize};
use crate::llvm::{self, LlvmError};
use crate::target::CpuTarget;
use sha2::{Digest, Sha256};
use ssmc_artifact::{
    ArtifactError, ArtifactWriter, Golden, Level, Manifest, NO_ENTRY, Program, Property, ReportEntry, Slot,
    WeightInfo,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why no artefact was written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum WriteError {
    #[error("kernel {kernel} is not valid: {faults}")]
    Invalid { kernel: String, faults: String },
    #[error(transparent)]
    Legalize(#[from] LegalizeError),
    #[error(transparent)]
    Llvm(#[from] LlvmError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

/// What an artefact holds besides kernels, launch lists and weights.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct ArtifactInput {
    pub model_name: String,
    pub model_hash: Vec<u8>,
    pub report: Vec<ReportEntry>,
    pub properties: Vec<Property>,
    pub golden: Golden,
    /// Name and text.
    pub texts: Vec<(String, String)>,
    /// The greatest values of symbols, by name, where they are known.
    pub maxima: BTreeMap<String, i64>,
}

/// A part of the work that is done: what, since when, and how long it took.
pub type OnDone<'a> = &'a mut dyn FnMut(String, Instant, Duration);

/// The kernels of one level as its emitter wants them.
///
/// # Errors
/// A kernel is not valid or needs what the level lacks.
pub fn legal(kernels: &Kernels, level: usize) -> Result<Vec<Kernel>, WriteError> {
    let target = &kernels.targets[level];
    let options = CpuOptions { f16_convert: target.has_f16_convert };
    let mut out = Vec::new();
    for entry in &kernels.kernels {
        let kernel = &entry.per_level[level];
        verify::verify(kernel).map_err(|faults| WriteError::Invalid {
            kernel: kernel.name.clone(),
            faults: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        })?;
        out.push(legalize(kernel, options)?);
    }
    Ok(out)
}

/// Compiles for every level and writes the artefact, showing each part to `on_done`. Returns its length.
///
/// # Errors
/// A kernel cannot be compiled, or the file cannot be written; nothing is left behind then.
pub fn write(
    path: &Path,
    kernels: &Kernels,
    input: ArtifactInput,
    on_done: OnDone<'_>,
) -> Result<u64, WriteError> {
    let mut writer = ArtifactWriter::create(path)?;
    let mut entries: Vec<Vec<u64>> = vec![Vec::new(); kernels.kernels.len()];
    for (level, target) in kernels.targets.iter().enumerate() {
        let start = Instant::now();
        let legal = legal(kernels, level)?;
        on_done(format!("legalize {}", target.level.name()), start, start.elapsed());
        let start = Instant::now();
        let image = llvm::compile(&legal, target)?;
        on_done(format!("machine code {}", target.level.name()), start, start.elapsed());
        for kernel in &legal {
            let name = format!("kernel/{}/{}", target.level.name(), kernel.name);
            writer.add_text(name, kernel.to_string());
        }
        for (entry, kernel) in entries.iter_mut().zip(&kernels.kernels) {
            entry.push(image.entries.get(&kernel.name).copied().unwrap_or(NO_ENTRY));
        }
        writer.add_code(describe_level(target), image.bytes);
    }
    let start = Instant::now();
    for weight in &kernels.weights {
        write_weight(&mut writer, weight)?;
    }
    writer.set_golden(input.golden);
    for (name, text) in input.texts {
        writer.add_text(name, text);
    }
    let described = kernels.kernels.iter().zip(entries).map(|(kernel, entries)| {
        let mut hash = Sha256::new();
        for form in &kernel.per_level {
            hash.update(form.to_string());
        }
        kernel.describe(entries, hash.finalize().to_vec())
    });
    let programs = kernels.programs.iter().map(|p| Program {
        name: p.name.clone(),
        inputs: p.inputs.clone(),
        outputs: p.outputs.clone(),
        slots: p.slots.iter().map(|size| Slot { size_bytes: Some(size.clone()) }).collect(),
        launches: p.launches.iter().map(|l| l.launch.clone()).collect(),
        levels: Vec::new(),
        stateful: p.stateful,
    });
    let manifest = Manifest {
        model_name: input.model_name,
        model_hash: input.model_hash,
        producer: concat!("ssmc ", env!("CARGO_PKG_VERSION")).to_owned(),
        symbols: kernels.symbols.table(&input.maxima),
        levels: Vec::new(),
        weights: Vec::new(),
        kernels: described.collect(),
        states: kernels.states.clone(),
        programs: programs.collect(),
        report: input.report,
        properties: input.properties,
    };
    let length = writer.finish(manifest)?;
    on_done("file".to_owned(), start, start.elapsed());
    Ok(length)
}

fn describe_level(target: &CpuTarget) -> Level {
    let arch = target.triple.split('-').next().unwrap_or(target.triple);
    Level {
        name: target.level.name().to_owned(),
        arch: arch.to_owned(),
        features: target.level.runtime_features().iter().map(|f| (*f).to_owned()).collect(),
    }
}

fn write_weight(writer: &mut ArtifactWriter, weight: &StoredWeight) -> Result<(), WriteError> {
    let dims: Vec<usize> = weight
        .ty
        .shape
        .as_const()
        .unwrap_or_default()
        .into_iter()
        .map(|d| usize::try_from(d).unwrap_or(0))
        .collect();
    let info = WeightInfo {
        name: weight.name.clone(),
        dtype: dtype(weight.ty.dtype),
        dims: dims.iter().map(|d| *d as u64).collect(),
        packing: weight.packing.as_ref().map(super::Packing::name).unwrap_or_default(),
    };
    let bytes = weight.bytes.as_slice();
    writer.add_weight(info, |out| match &weight.packing {
        None => out.write_all(bytes),
        Some(packing) => packing.write(bytes, &dims, weight.ty.dtype.bits() / 8, out),
    })?;
    Ok(())
}
