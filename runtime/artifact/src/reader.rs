//! Reading an artefact from bytes.

use std::fmt;

use prost::Message;

use crate::error::ArtifactError;
use crate::format::{self, Section, SectionKind};
use crate::proto::{Golden, Manifest, Text, Texts};
use crate::validate::{Lengths, check_against};

/// A checked artefact over the bytes `B`: a mapped file, a vector, a slice.
///
/// The bytes must not change while the reader exists.
pub struct ArtifactReader<B> {
    bytes: B,
    sections: Vec<Section>,
    manifest: Manifest,
}

impl<B> fmt::Debug for ArtifactReader<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArtifactReader")
            .field("model_name", &self.manifest.model_name)
            .field("sections", &self.sections)
            .finish_non_exhaustive()
    }
}

impl<B: AsRef<[u8]>> ArtifactReader<B> {
    /// Checks header, section table, manifest and code images.
    ///
    /// # Errors
    /// Every deviation from the format is reported with the section, the value expected and the value found.
    /// The contents of the weights are not read; see [`ArtifactReader::verify_weights`].
    pub fn open(bytes: B) -> Result<Self, ArtifactError> {
        let file = bytes.as_ref();
        let sections = format::decode_head(file)?;
        let is_code =
            |section: &&Section| matches!(section.kind, SectionKind::Code(_) | SectionKind::Cubin(_));
        for section in sections.iter().filter(is_code) {
            verify(file, section)?;
        }
        let manifest: Manifest = decode(file, find(&sections, SectionKind::Manifest)?)?;
        let length = |kind| find(&sections, kind).map(|section| section.length);
        let code = (0..manifest.levels.len() as u32)
            .map(|level| length(SectionKind::Code(level)))
            .collect::<Result<Vec<_>, _>>()?;
        check_against(&manifest, &Lengths { code, weights: length(SectionKind::Weights)? })?;
        Ok(Self { bytes, sections, manifest })
    }

    /// The manifest; all its indices, arities and expressions are valid.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The section table.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The section table's entry for `kind`.
    pub fn section(&self, kind: SectionKind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    /// The code image of the level with index `level`.
    pub fn code(&self, level: u32) -> Option<&[u8]> {
        self.section(SectionKind::Code(level)).map(|section| slice(self.bytes.as_ref(), section))
    }

    /// The machine code of the GPU level with index `level`, if the artefact has it beside the PTX.
    pub fn cubin(&self, level: u32) -> Option<&[u8]> {
        self.section(SectionKind::Cubin(level)).map(|section| slice(self.bytes.as_ref(), section))
    }

    /// The bytes of `manifest().weights[index]`.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn weight(&self, index: usize) -> &[u8] {
        let weight = &self.manifest.weights[index];
        let start = weight.offset as usize;
        &self.weights()[start..start + weight.length as usize]
    }

    /// The weights section.
    pub fn weights(&self) -> &[u8] {
        self.section(SectionKind::Weights).map_or(&[], |section| slice(self.bytes.as_ref(), section))
    }

    /// Compares the weights with their checksum; reads the whole section.
    pub fn verify_weights(&self) -> Result<(), ArtifactError> {
        verify(self.bytes.as_ref(), find(&self.sections, SectionKind::Weights)?)
    }

    /// The golden vectors, checked; empty if the artefact has none.
    pub fn golden(&self) -> Result<Golden, ArtifactError> {
        self.message(SectionKind::Golden)
    }

    /// The source texts, checked; empty if the artefact has none.
    pub fn texts(&self) -> Result<Vec<Text>, ArtifactError> {
        self.message::<Texts>(SectionKind::Texts).map(|texts| texts.texts)
    }

    fn message<M: Message + Default>(&self, kind: SectionKind) -> Result<M, ArtifactError> {
        self.section(kind).map_or_else(|| Ok(M::default()), |section| decode(self.bytes.as_ref(), section))
    }
}

fn find(sections: &[Section], kind: SectionKind) -> Result<&Section, ArtifactError> {
    sections
        .iter()
        .find(|section| section.kind == kind)
        .ok_or(ArtifactError::SectionMissing { section: kind })
}

/// The bytes of a section of the table, whose bounds were checked when it was decoded.
fn slice<'a>(file: &'a [u8], section: &Section) -> &'a [u8] {
    &file[section.offset as usize..(section.offset + section.length) as usize]
}

fn verify(file: &[u8], section: &Section) -> Result<(), ArtifactError> {
    format::check_sha256(section.kind, &section.checksum, &[slice(file, section)])
}

fn decode<M: Message + Default>(file: &[u8], section: &Section) -> Result<M, ArtifactError> {
    verify(file, section)?;
    M::decode(slice(file, section))
        .map_err(|source| ArtifactError::Decode { what: section.kind.to_string(), source })
}
