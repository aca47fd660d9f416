//! Compiling the kernels and writing the artefact.

use super::convert::dtype;
use super::kernels::{Kernels, StoredWeight};
use crate::kernel::Kernel;
use crate::kernel::verify;
use crate::legalize::cpu::CpuOptions;
use crate::legalize::{LegalizeError, cpu, gpu};
#[cfg(feature = "llvm")]
use crate::llvm::{self, LlvmError};
use crate::ptx::{self, Assembler, AssemblerError, PtxError};
use crate::target::{CpuTarget, Device, GpuTarget, Target};
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
    #[cfg(feature = "llvm")]
    #[error(transparent)]
    Llvm(#[from] LlvmError),
    #[error("this build has no code generation for CPUs; it was made without the feature `llvm`")]
    NoCpu,
    #[error(transparent)]
    Ptx(#[from] PtxError),
    #[error("no cubin, which can be left out: {0}")]
    Assembler(#[from] AssemblerError),
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
    /// The most tokens that a state takes in, if anything bounds them.
    pub max_context: Option<u64>,
    /// What makes cubins of the PTX for GPUs; without it there are none.
    pub assembler: Option<Assembler>,
}

/// A part of the work that is done: what, since when, and how long it took.
pub type OnDone<'a> = &'a mut dyn FnMut(String, Instant, Duration);

/// The kernels of one target as its emitter wants them.
///
/// # Errors
/// A kernel is not valid or needs what the target lacks.
pub fn legal(kernels: &Kernels, level: usize) -> Result<Vec<Kernel>, WriteError> {
    let mut out = Vec::new();
    for entry in &kernels.kernels {
        let Some(kernel) = kernels.form(entry, level) else { continue };
        verify::verify(kernel).map_err(|faults| WriteError::Invalid {
            kernel: kernel.name.clone(),
            faults: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        })?;
        out.push(match &kernels.targets[level] {
            Target::Cpu(cpu) => cpu::legalize(kernel, CpuOptions::of(cpu))?,
            Target::Gpu(_) => gpu::legalize(kernel)?,
        });
    }
    Ok(out)
}

/// The code of one level, and where each kernel begins in it.
struct Code {
    level: Level,
    bytes: Vec<u8>,
    entries: BTreeMap<String, u64>,
}

fn generate(legal: &[Kernel], target: &Target) -> Result<Code, WriteError> {
    match target {
        Target::Cpu(cpu) => generate_cpu(legal, cpu),
        Target::Gpu(gpu) => {
            let bytes = ptx::module(legal, gpu)?.into_bytes();
            // The driver finds entry points by their names.
            let entries = legal.iter().map(|k| (k.name.clone(), 0)).collect();
            Ok(Code { level: describe_gpu(gpu), bytes, entries })
        }
    }
}

#[cfg(feature = "llvm")]
fn generate_cpu(legal: &[Kernel], target: &CpuTarget) -> Result<Code, WriteError> {
    let image = llvm::compile(legal, target)?;
    let entries = image.entries.into_iter().collect();
    Ok(Code { level: describe_cpu(target), bytes: image.bytes, entries })
}

#[cfg(not(feature = "llvm"))]
fn generate_cpu(_: &[Kernel], _: &CpuTarget) -> Result<Code, WriteError> {
    Err(WriteError::NoCpu)
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
        on_done(format!("legalize {}", target.name()), start, start.elapsed());
        let start = Instant::now();
        let code = generate(&legal, target)?;
        on_done(format!("machine code {}", target.name()), start, start.elapsed());
        for kernel in &legal {
            let name = format!("kernel/{}/{}", target.name(), kernel.name);
            writer.add_text(name, kernel.to_string());
        }
        for (entry, kernel) in entries.iter_mut().zip(&kernels.kernels) {
            entry.push(code.entries.get(&kernel.name).copied().unwrap_or(NO_ENTRY));
        }
        let cubin = match (target, &input.assembler) {
            (Target::Gpu(gpu), Some(assembler)) => {
                let start = Instant::now();
                let cubin = assembler.assemble(&String::from_utf8_lossy(&code.bytes), gpu.arch)?;
                on_done(format!("cubin {}", target.name()), start, start.elapsed());
                Some(cubin)
            }
            _ => None,
        };
        let level = writer.add_code(code.level, code.bytes);
        if let Some(cubin) = cubin {
            writer.add_cubin(level, cubin);
        }
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
        levels: levels_of(kernels, p.device),
        stateful: p.stateful,
        in_place: p.in_place,
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
        max_context: input.max_context.unwrap_or(0),
    };
    let length = writer.finish(manifest)?;
    on_done("file".to_owned(), start, start.elapsed());
    Ok(length)
}

/// The levels that launch lists of a device are for; empty if all are.
fn levels_of(kernels: &Kernels, device: Device) -> Vec<u32> {
    let levels = kernels.levels_of(device);
    if levels.len() == kernels.targets.len() {
        return Vec::new();
    }
    levels.into_iter().map(|level| level as u32).collect()
}

#[cfg(feature = "llvm")]
fn describe_cpu(target: &CpuTarget) -> Level {
    Level {
        name: target.level.name().to_owned(),
        arch: target.level.arch().name().to_owned(),
        features: target.level.runtime_features().iter().map(|f| (*f).to_owned()).collect(),
    }
}

fn describe_gpu(target: &GpuTarget) -> Level {
    let name = target.arch.name().to_owned();
    Level { name: name.clone(), arch: "nvptx64".to_owned(), features: vec![name] }
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
