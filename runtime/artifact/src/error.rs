//! What can be wrong with an artefact.

use std::path::PathBuf;

use crate::expr::ExprError;
use crate::format::SectionKind;

/// Why an artefact could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file system refused.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file ends inside the header or the section table.
    #[error("artefact is truncated in the {what}: expected {expected} bytes, found {found}")]
    Truncated {
        /// What the file ends in.
        what: &'static str,
        /// Bytes needed.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// The file does not start with the magic bytes.
    #[error("not an ssmc {what}: expected magic bytes {expected:02x?}, found {found:02x?}")]
    Magic {
        /// The kind of file expected.
        what: &'static str,
        /// The magic bytes of that kind.
        expected: [u8; 8],
        /// The first bytes of the file.
        found: [u8; 8],
    },
    /// The format version is not the one this crate reads.
    #[error("unsupported {what} format version: expected {expected}, found {found}")]
    Version {
        /// The kind of file.
        what: &'static str,
        /// The version this crate reads.
        expected: u32,
        /// The version in the file.
        found: u32,
    },
    /// The length in the header is not the length of the file.
    #[error("artefact has the wrong length: header says {expected} bytes, found {found}")]
    FileLength {
        /// Length in the header.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// The header asks for more sections than the format allows.
    #[error("artefact has too many sections: expected at most {limit}, found {found}")]
    TooManySections {
        /// The limit.
        limit: u32,
        /// The number in the header or of the writer.
        found: u32,
    },
    /// A section's kind is not known.
    #[error("section table entry {entry} has unknown kind {found}")]
    SectionKind {
        /// Entry in the table.
        entry: usize,
        /// The kind's number.
        found: u32,
    },
    /// A section does not start at a multiple of the alignment.
    #[error("section {section} starts at byte {offset}, expected a multiple of {alignment}")]
    SectionAlignment {
        /// The section.
        section: SectionKind,
        /// Its offset.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A section reaches past the end of the file.
    #[error("section {section} spans {length} bytes from byte {offset}, the file has {file_length}")]
    SectionBounds {
        /// The section.
        section: SectionKind,
        /// Its offset.
        offset: u64,
        /// Its length.
        length: u64,
        /// The length of the file.
        file_length: u64,
    },
    /// A section starts before the end of the one before it in the table.
    #[error("section {section} starts at byte {found} inside {other}, expected at least {expected}")]
    SectionOverlap {
        /// The later section in the table.
        section: SectionKind,
        /// What ends after its start: a section or the section table.
        other: String,
        /// The end of `other`.
        expected: u64,
        /// The start of `section`.
        found: u64,
    },
    /// A section occurs twice.
    #[error("section {section} occurs twice")]
    SectionDuplicate {
        /// The section.
        section: SectionKind,
    },
    /// A section is missing.
    #[error("section {section} is missing")]
    SectionMissing {
        /// The section.
        section: SectionKind,
    },
    /// Bytes do not match their checksum.
    #[error("checksum of the {what} does not match: expected {expected}, found {found}")]
    Checksum {
        /// Section or part.
        what: String,
        /// The sha256 that the file states, in hexadecimal.
        expected: String,
        /// The sha256 of the bytes, in hexadecimal.
        found: String,
    },
    /// A byte that must be zero is not.
    #[error("byte {offset} lies between sections: expected 0, found {found}")]
    Padding {
        /// Offset in the file.
        offset: u64,
        /// The byte.
        found: u8,
    },
    /// A section is no valid message.
    #[error("section {what} is not a valid message")]
    Decode {
        /// The section.
        what: String,
        /// The cause.
        #[source]
        source: prost::DecodeError,
    },
    /// The manifest contradicts itself or the file.
    #[error("manifest: {at}")]
    Manifest {
        /// The faulty field, such as `programs[0] "step": launches[3]: args[1]`.
        at: String,
        /// What is wrong with it.
        #[source]
        fault: ManifestFault,
    },
    /// A weight's data has another length than was announced.
    #[error("weight {name}: expected {expected} bytes, found {found}")]
    WeightLength {
        /// The weight.
        name: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes written.
        found: u64,
    },
    /// An artefact was to be written to a path that names no file.
    #[error("{} names no file", path.display())]
    NoFileName {
        /// The path.
        path: PathBuf,
    },
    /// An artefact was to be written over a folder, a device or a pipe, which a rename would replace.
    #[error("{}: expected a regular file or none, found something else there", path.display())]
    NoRegularFile {
        /// The path.
        path: PathBuf,
    },
}

/// What is wrong with a field of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// An index into another list is out of range.
    #[error("{what} index {found}, expected less than {count}")]
    Index {
        /// The list.
        what: &'static str,
        /// The index.
        found: u64,
        /// The length of the list.
        count: usize,
    },
    /// A list has the wrong length.
    #[error("expected {expected} {what}, found {found}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// The length that fits.
        expected: usize,
        /// The length in the manifest.
        found: usize,
    },
    /// An enum has an unknown or unspecified value.
    #[error("unknown {what} {found}")]
    Enum {
        /// The enum.
        what: &'static str,
        /// The value.
        found: i32,
    },
    /// A required expression is absent.
    #[error("{what} is missing")]
    Missing {
        /// The field.
        what: &'static str,
    },
    /// An expression is malformed.
    #[error("{what}: {error}")]
    Expr {
        /// The field.
        what: &'static str,
        /// The fault.
        error: ExprError,
    },
    /// A symbol is used that neither an input nor the state gives a value.
    #[error("symbol {symbol} is used but no dim of an input is that symbol alone")]
    Unbound {
        /// The symbol.
        symbol: String,
    },
    /// Two entries of a list have one name.
    #[error("duplicate name {name:?}")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A symbol's limits contradict each other.
    #[error(
        "expected 0 <= min <= max and divisibility >= 0, found min {min}, max {max}, divisibility {divisibility}"
    )]
    Symbol {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
        /// Divisibility.
        divisibility: i64,
    },
    /// A kernel that writes is given memory that is only read.
    #[error("a parameter that is written is bound to {what}")]
    ReadOnly {
        /// The kind of memory.
        what: &'static str,
    },
    /// An operand of a product has a type that products lack, or an extent is 0 or too large.
    #[error("product: {what} {found}, expected {expected}")]
    Product {
        /// The operand or extent.
        what: &'static str,
        /// What is legal.
        expected: String,
        /// The type or the extent.
        found: String,
    },
    /// A program that has no state refers to one.
    #[error("state used by a program that is not stateful")]
    Stateless,
    /// A range of bytes lies outside its section.
    #[error("{length} bytes from byte {offset}, the section has {limit}")]
    Bounds {
        /// Start.
        offset: u64,
        /// Length.
        length: u64,
        /// Length of the section.
        limit: u64,
    },
    /// A weight's offset is not aligned.
    #[error("offset {offset}, expected a multiple of {alignment}")]
    Alignment {
        /// The offset.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A weight's length does not follow from its dtype and dims.
    #[error("expected {expected} bytes for dtype and dims, found {found}")]
    Length {
        /// Length by dtype and dims.
        expected: u64,
        /// Length in the manifest.
        found: u64,
    },
    /// A weight's dims have more elements than fit 64 bits.
    #[error("the dims have more elements than 64 bits can count")]
    Overflow,
}
