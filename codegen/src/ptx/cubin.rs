//! Cubins: machine code for one GPU architecture, by NVIDIA's assembler where it is installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use crate::target::GpuArch;

/// The name of the assembler.
const NAME: &str = "ptxas";

/// Why there is no cubin.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum AssemblerError {
    #[error("cannot start the assembler {}", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} does not assemble the kernels for {arch}: {log}", program.display())]
    Refused { program: PathBuf, arch: &'static str, log: String },
    #[error("temporary file {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// NVIDIA's assembler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembler(PathBuf);

impl Assembler {
    /// The program at a path.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self(program.into())
    }

    /// The first `ptxas` in the folders of the variable `PATH`.
    pub fn on_path() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(NAME)).find(|file| file.is_file()).map(Self)
    }

    /// Where the program is.
    pub fn program(&self) -> &Path {
        &self.0
    }

    /// The cubin of a module for an architecture.
    ///
    /// # Errors
    /// The program cannot be started or does not take the module.
    pub fn assemble(&self, ptx: &str, arch: GpuArch) -> Result<Vec<u8>, AssemblerError> {
        self.assemble_aloud(ptx, arch).map(|(cubin, _)| cubin)
    }

    /// As [`Assembler::assemble`], with what the program says of each kernel.
    pub(crate) fn assemble_aloud(
        &self,
        ptx: &str,
        arch: GpuArch,
    ) -> Result<(Vec<u8>, String), AssemblerError> {
        let folder = tempfile::tempdir()
            .map_err(|source| AssemblerError::File { path: std::env::temp_dir(), source })?;
        let [source, output] = ["module.ptx", "module.cubin"].map(|name| folder.path().join(name));
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| AssemblerError::File { path, source }
        };
        fs::write(&source, ptx).map_err(file(&source))?;
        let said = Command::new(&self.0)
            .arg(format!("-arch={}", arch.name()))
            .arg("-o")
            .args([&output, &source])
            .arg("-v")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| AssemblerError::Start { program: self.0.clone(), source })?;
        let log = String::from_utf8_lossy(&said.stderr).into_owned();
        if !said.status.success() {
            let log = log.trim().to_owned();
            return Err(AssemblerError::Refused { program: self.0.clone(), arch: arch.name(), log });
        }
        Ok((fs::read(&output).map_err(file(&output))?, log))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn script(name: &str, text: &str) -> (TempDir, Assembler) {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let program = folder.path().join(name);
        fs::write(&program, format!("#!/bin/sh\n{text}\n")).expect("the folder can be written to");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        (folder, Assembler::at(program))
    }

    #[test]
    fn the_assembler_is_told_architecture_and_files() {
        let (_folder, assembler) = script("good", "echo \"$1\" > \"$3\"; cat \"$4\" >> \"$3\"");
        let cubin = assembler.assemble("text", GpuArch::Sm90a).unwrap();
        assert_eq!(String::from_utf8(cubin).unwrap(), "-arch=sm_90a\ntext");
    }

    #[test]
    fn faults_say_what_was_tried() {
        let (_folder, assembler) = script("bad", "echo no such instruction >&2; exit 255");
        let message = assembler.assemble("text", GpuArch::Sm80).unwrap_err().to_string();
        assert!(message.contains("for sm_80: no such instruction"), "{message}");
        let (_folder, assembler) = script("silent", "exit 0");
        assert!(matches!(assembler.assemble("", GpuArch::Sm80), Err(AssemblerError::File { .. })));
        let missing = Assembler::at("/nowhere/ptxas").assemble("", GpuArch::Sm80);
        assert!(matches!(missing, Err(AssemblerError::Start { .. })));
    }
}
