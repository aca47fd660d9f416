//! The on-disk artefact of ssmc: one file that holds everything a runtime needs to execute a model.
//!
//! # File layout
//!
//! All integers are little endian. The header is 64 bytes:
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | magic `89 53 53 4d 43 0d 0a 1a` |
//! | 8..12 | format version, [`VERSION`] |
//! | 12..16 | number of sections, at most [`MAX_SECTIONS`] |
//! | 16..24 | length of the file |
//! | 24..32 | zero |
//! | 32..64 | sha256 of bytes 0..32 followed by the section table |
//!
//! The section table follows, 64 bytes per section:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | kind, see [`SectionKind`] |
//! | 4..8 | index: the level of a code image, otherwise 0 |
//! | 8..16 | offset in the file, a multiple of [`SECTION_ALIGN`] |
//! | 16..24 | length |
//! | 24..32 | zero |
//! | 32..64 | sha256 of the section |
//!
//! Sections lie in table order without overlap; bytes between them are zero. Code images can be mapped
//! executable straight from the file, and tensors are aligned to [`WEIGHT_ALIGN`] bytes.
//! The protobuf messages of the other sections are documented in `artifact.proto` and re-exported here.
//!
//! A saved state ([`StateBlob`]) is a separate small file: magic, version, length, sha256, message; see
//! [`encode_state`].
//!
//! # Example
//!
//! ```
//! use ssmc_artifact::{ArtifactReader, ArtifactWriter, DType, Manifest, WeightInfo};
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("model.ssmc");
//! let mut writer = ArtifactWriter::create(&path)?;
//! let info = WeightInfo::plain("norm.weight", DType::F32, &[2]);
//! let index = writer.add_weight(info, |out| out.write_all(&[0; 8]))?;
//! assert_eq!(index, 0);
//! writer.finish(Manifest { model_name: "tiny".into(), ..Manifest::default() })?;
//!
//! let reader = ArtifactReader::open(std::fs::read(&path).unwrap())?;
//! assert_eq!(reader.weight(0).len(), 8);
//! # Ok::<(), ssmc_artifact::ArtifactError>(())
//! ```
#![warn(missing_docs)]

mod dtype;
mod error;
mod expr;
mod format;
pub mod host;
mod reader;
mod state_blob;
#[cfg(test)]
mod tests;
mod validate;
mod writer;

/// Messages generated from `artifact.proto`.
mod proto {
    #![allow(missing_docs, reason = "prost copies the comments of artifact.proto")]
    include!(concat!(env!("OUT_DIR"), "/ssmc.artifact.v1.rs"));
}

pub use error::{ArtifactError, ManifestFault};
pub use expr::{ExprError, MAX_EXPR_DEPTH};
pub use format::{MAGIC, MAX_SECTIONS, SECTION_ALIGN, Section, SectionKind, VERSION, WEIGHT_ALIGN};
pub use proto::{
    Access, BufferKind, BufferRef, Dtype as DType, Expr, ExprOp, Golden, GoldenCall, GoldenCase, Kernel,
    KernelParam, Launch, Level, Manifest, NamedArray, Product, Program, Property, ReportEntry, ReportKind,
    Slot, State, StateBlob, StateKind, Symbol, SymbolRole, TensorInfo, Text, Texts, Weight,
};
pub use reader::ArtifactReader;
pub use state_blob::{decode_state, encode_state};
pub use validate::{NO_ENTRY, check_manifest};
pub use writer::{ArtifactWriter, WeightInfo};
