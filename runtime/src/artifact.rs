//! An artefact file, opened.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use ssmc_artifact::{ArtifactReader, Golden, Manifest, Section, SectionKind, Text};

use crate::code::{self, Code};
use crate::error::RuntimeError;
use crate::level;

/// An opened artefact: mapped, with header, manifest and code checked. Clones share the mapping.
///
/// The file must not be changed or truncated while it is open; replace it by renaming another over it.
#[derive(Clone, Debug)]
pub struct Artifact {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    reader: ArtifactReader<Mmap>,
}

impl Artifact {
    /// Maps the file and checks header, section table, manifest and code images, not the weights.
    ///
    /// # Errors
    /// If the file cannot be read or is no valid artefact.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RuntimeError> {
        let path = path.as_ref().to_owned();
        let io = |source| RuntimeError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        let map = code::map_file(&file).map_err(io)?;
        let reader = ArtifactReader::open(map)?;
        Ok(Self { inner: Arc::new(Inner { path, file, reader }) })
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        self.inner.reader.manifest()
    }

    /// The section table.
    pub fn sections(&self) -> &[Section] {
        self.inner.reader.sections()
    }

    /// Compares the weights with their checksum; reads all of them.
    pub fn verify_weights(&self) -> Result<(), RuntimeError> {
        Ok(self.inner.reader.verify_weights()?)
    }

    /// The golden vectors.
    pub fn golden(&self) -> Result<Golden, RuntimeError> {
        Ok(self.inner.reader.golden()?)
    }

    /// The source texts.
    pub fn texts(&self) -> Result<Vec<Text>, RuntimeError> {
        Ok(self.inner.reader.texts()?)
    }

    /// The level that a session takes if none is asked for.
    pub fn best_level(&self) -> Result<&str, RuntimeError> {
        let levels = &self.manifest().levels;
        level::choose(levels, None).map(|index| levels[index].name.as_str())
    }

    /// What this machine lacks to run each level, in the order of the manifest; empty lists for those that it
    /// can run.
    pub fn missing_features(&self) -> Vec<Vec<String>> {
        self.manifest().levels.iter().map(level::missing).collect()
    }

    pub(crate) fn weight(&self, index: usize) -> &[u8] {
        self.inner.reader.weight(index)
    }

    /// The code of a level as it lies in the file.
    #[cfg(feature = "cuda")]
    pub(crate) fn code(&self, level: usize) -> &[u8] {
        self.inner.reader.code(level as u32).expect("the reader checked that every level has its section")
    }

    /// The machine code of a GPU level beside its PTX, if there is some.
    pub fn cubin(&self, level: usize) -> Option<&[u8]> {
        self.inner.reader.cubin(level as u32)
    }

    pub(crate) fn map_code(&self, level: usize) -> Result<Code, RuntimeError> {
        let section = self
            .inner
            .reader
            .section(SectionKind::Code(level as u32))
            .expect("the reader checked that every level has its section");
        Code::map(&self.inner.file, section.offset, section.length as usize)
            .map_err(|source| RuntimeError::Io { path: self.inner.path.clone(), source })
    }
}
