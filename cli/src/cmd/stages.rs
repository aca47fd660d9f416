//! The texts of all stages, as `compile --dump-stages`, `compile --emit` and `snapshot` write them.

use crate::failure::{Failure, Outcome};
use ssmc::Reached;
use ssmc_codegen::assemble::Kernels;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// File names and their texts.
pub(crate) type Files = BTreeMap<String, String>;

/// The texts of what was reached: `PROGRAM.STAGE.ssm`, and for kernels `LEVEL/KERNEL.kernel`.
pub(crate) fn texts(reached: Reached<'_>) -> Files {
    match reached {
        Reached::Programs(_) | Reached::Done(_) | Reached::Counted(_) => Files::new(),
        Reached::Graph { program, stage, graph, .. } => {
            Files::from([(format!("{program}.{stage}.ssm"), graph.to_string())])
        }
        Reached::Plan { program, plan } => {
            Files::from([(format!("{program}.partitioned.ssm"), ssmc::plan_text(plan))])
        }
        Reached::Kernels(kernels) => {
            let level = |i: usize| kernels.targets[i].level.name();
            let forms =
                kernels.kernels.iter().flat_map(|kernel| {
                    kernel.per_level.iter().enumerate().map(move |(i, form)| {
                        (format!("{}/{}.kernel", level(i), kernel.name), form.to_string())
                    })
                });
            forms.collect()
        }
    }
}

/// The texts behind the kernels: `LEVEL/KERNEL.legal.kernel` and `LEVEL/kernels.ll`.
#[cfg(feature = "llvm")]
pub(crate) fn emitted(kernels: &Kernels) -> Outcome<Files> {
    let mut files = Files::new();
    for (i, target) in kernels.targets.iter().enumerate() {
        let level = target.level.name();
        let legal = ssmc_codegen::assemble::legal(kernels, i).map_err(ssmc::Error::from)?;
        for kernel in &legal {
            files.insert(format!("{level}/{}.legal.kernel", kernel.name), kernel.to_string());
        }
        let ir = ssmc_codegen::llvm::emit_llvm_ir(&legal, target)
            .map_err(|error| ssmc::Error::from(ssmc_codegen::assemble::WriteError::from(error)))?;
        files.insert(format!("{level}/kernels.ll"), ir);
    }
    Ok(files)
}

/// Without LLVM there is no emitted stage.
#[cfg(not(feature = "llvm"))]
pub(crate) fn emitted(_: &Kernels) -> Outcome<Files> {
    Err(crate::model::no_code_generation())
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
    fs::write(path, bytes).map_err(|error| Failure::file(path, error))
}
