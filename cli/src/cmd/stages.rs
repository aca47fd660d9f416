//! The texts of all stages, as `compile --dump-stages`, `compile --emit` and `snapshot` write them.

use crate::failure::{Failure, Outcome};
use crate::file;
use ssmc::Reached;
use ssmc_codegen::assemble::{Kernels, WriteError};
use ssmc_codegen::kernel::Kernel;
use ssmc_codegen::target::{CpuTarget, GpuTarget, Target};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// File names and their texts.
pub(crate) type Files = BTreeMap<String, String>;

/// The texts of what was reached: `PROGRAM.STAGE.ssm`, and for kernels `LEVEL/KERNEL.kernel`.
pub(crate) fn texts(reached: Reached<'_>) -> Files {
    match reached {
        Reached::Programs(_) | Reached::Done(_) | Reached::Streaming(_) | Reached::Counted(_) => Files::new(),
        Reached::Graph { program, stage, graph, .. } => {
            Files::from([(format!("{program}.{stage}.ssm"), graph.to_string())])
        }
        Reached::Plan { program, plan } => {
            Files::from([(format!("{program}.partitioned.ssm"), ssmc::plan_text(plan))])
        }
        Reached::GpuPlan { program, plan } => {
            Files::from([(format!("{program}.partitioned.gpu.ssm"), ssmc::plan_text(plan))])
        }
        Reached::Kernels(kernels) => {
            let forms = kernels.targets.iter().enumerate().flat_map(|(i, target)| {
                let forms = kernels.kernels.iter().filter_map(move |kernel| kernels.form(kernel, i));
                forms.map(|form| (format!("{}/{}.kernel", target.name(), form.name), form.to_string()))
            });
            forms.collect()
        }
    }
}

/// The texts behind the kernels: `LEVEL/KERNEL.legal.kernel`, and `LEVEL/kernels.ll` or `LEVEL/kernels.ptx`.
pub(crate) fn emitted(kernels: &Kernels) -> Outcome<Files> {
    let mut files = Files::new();
    for (i, target) in kernels.targets.iter().enumerate() {
        let level = target.name();
        let legal = ssmc_codegen::assemble::legal(kernels, i).map_err(ssmc::Error::from)?;
        for kernel in &legal {
            files.insert(format!("{level}/{}.legal.kernel", kernel.name), kernel.to_string());
        }
        match target {
            Target::Cpu(cpu) => files.insert(format!("{level}/kernels.ll"), llvm_ir(&legal, cpu)?),
            Target::Gpu(gpu) => files.insert(format!("{level}/kernels.ptx"), ptx(kernels, i, gpu)?),
        };
    }
    Ok(files)
}

/// The PTX module of a target.
pub(crate) fn ptx(kernels: &Kernels, level: usize, target: &GpuTarget) -> Outcome<String> {
    let legal = ssmc_codegen::assemble::legal(kernels, level).map_err(ssmc::Error::from)?;
    let text = ssmc_codegen::ptx::module(&legal, target).map_err(WriteError::from);
    Ok(text.map_err(ssmc::Error::from)?)
}

#[cfg(feature = "llvm")]
fn llvm_ir(kernels: &[Kernel], target: &CpuTarget) -> Outcome<String> {
    let text = ssmc_codegen::llvm::emit_llvm_ir(kernels, target).map_err(WriteError::from);
    Ok(text.map_err(ssmc::Error::from)?)
}

/// Without LLVM there is no emitted stage for CPUs.
#[cfg(not(feature = "llvm"))]
fn llvm_ir(_: &[Kernel], _: &CpuTarget) -> Outcome<String> {
    Err(ssmc::Error::from(WriteError::NoCpu).into())
}

/// Writes the files below a folder.
pub(crate) fn write(dir: &Path, files: &Files) -> Outcome {
    for (name, text) in files {
        write_file(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Writes one file and the folders that it lies in.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Outcome {
    let parent = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    if !parent.as_os_str().is_empty() {
        fs::create_dir_all(&parent).map_err(|error| Failure::file(&parent, error))?;
    }
    file::write(path, bytes)
}
