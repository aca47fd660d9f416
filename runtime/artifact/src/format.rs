//! The header and the section table as bytes.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::error::ArtifactError;

/// First bytes of an artefact.
pub const MAGIC: [u8; 8] = *b"\x89SSMC\r\n\x1a";
/// Version of the file format that this crate writes and reads.
pub const VERSION: u32 = 1;
/// Sections start at multiples of this many bytes, so that code can be mapped executable.
pub const SECTION_ALIGN: u64 = 4096;
/// Tensors in the weights section start at multiples of this many bytes.
pub const WEIGHT_ALIGN: u64 = 64;
/// Header and section table fit in front of the first section.
pub const MAX_SECTIONS: u32 = 63;

pub(crate) const HEADER_LEN: usize = 64;
pub(crate) const ENTRY_LEN: usize = 64;
const HEADER_FIELDS: usize = 32;

pub(crate) type Checksum = [u8; 32];

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectionKind {
    /// The `Manifest` message.
    Manifest,
    /// The code image of the level with this index.
    Code(u32),
    /// Machine code of the level with this index for one GPU architecture, beside its PTX; optional.
    Cubin(u32),
    /// The weights.
    Weights,
    /// The `Golden` message.
    Golden,
    /// The `Texts` message.
    Texts,
}

impl SectionKind {
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::Manifest => (1, 0),
            Self::Code(level) => (2, level),
            Self::Weights => (3, 0),
            Self::Golden => (4, 0),
            Self::Texts => (5, 0),
            Self::Cubin(level) => (6, level),
        }
    }

    fn from_numbers(kind: u32, index: u32) -> Option<Self> {
        match (kind, index) {
            (1, 0) => Some(Self::Manifest),
            (2, level) => Some(Self::Code(level)),
            (3, 0) => Some(Self::Weights),
            (4, 0) => Some(Self::Golden),
            (5, 0) => Some(Self::Texts),
            (6, level) => Some(Self::Cubin(level)),
            _ => None,
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => f.write_str("manifest"),
            Self::Code(level) => write!(f, "code[{level}]"),
            Self::Cubin(level) => write!(f, "cubin[{level}]"),
            Self::Weights => f.write_str("weights"),
            Self::Golden => f.write_str("golden"),
            Self::Texts => f.write_str("texts"),
        }
    }
}

/// An entry of the section table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What the section holds.
    pub kind: SectionKind,
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// sha256 of the section's bytes.
    pub checksum: [u8; 32],
}

impl Section {
    pub(crate) fn encode(&self) -> [u8; ENTRY_LEN] {
        let (kind, index) = self.kind.numbers();
        let mut entry = [0; ENTRY_LEN];
        entry[0..4].copy_from_slice(&kind.to_le_bytes());
        entry[4..8].copy_from_slice(&index.to_le_bytes());
        entry[8..16].copy_from_slice(&self.offset.to_le_bytes());
        entry[16..24].copy_from_slice(&self.length.to_le_bytes());
        entry[32..64].copy_from_slice(&self.checksum);
        entry
    }

    fn decode(entry: usize, bytes: &[u8; ENTRY_LEN]) -> Result<Self, ArtifactError> {
        let kind = u32_at(bytes, 0);
        let kind = SectionKind::from_numbers(kind, u32_at(bytes, 4))
            .ok_or(ArtifactError::SectionKind { entry, found: kind })?;
        let mut checksum = [0; 32];
        checksum.copy_from_slice(&bytes[32..64]);
        Ok(Self { kind, offset: u64_at(bytes, 8), length: u64_at(bytes, 16), checksum })
    }

    /// The end of the section if it lies within `file_length` bytes.
    fn end_within(&self, file_length: u64) -> Option<u64> {
        self.offset.checked_add(self.length).filter(|&end| end <= file_length)
    }
}

/// Encodes the header and the table of `sections`.
pub(crate) fn encode_head(sections: &[Section], file_length: u64) -> Result<Vec<u8>, ArtifactError> {
    let found = u32::try_from(sections.len()).unwrap_or(u32::MAX);
    if found > MAX_SECTIONS {
        return Err(ArtifactError::TooManySections { limit: MAX_SECTIONS, found });
    }
    let table: Vec<u8> = sections.iter().flat_map(Section::encode).collect();
    let mut head = Vec::with_capacity(HEADER_LEN + table.len());
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&found.to_le_bytes());
    head.extend_from_slice(&file_length.to_le_bytes());
    head.extend_from_slice(&[0; 8]);
    let checksum = sha256(&[&head, &table]);
    head.extend_from_slice(&checksum);
    head.extend_from_slice(&table);
    Ok(head)
}

/// Decodes and checks header and section table of the file `bytes`.
pub(crate) fn decode_head(bytes: &[u8]) -> Result<Vec<Section>, ArtifactError> {
    let file_length = bytes.len() as u64;
    check_magic("artefact", &MAGIC, bytes)?;
    let truncated = |what, expected: usize| ArtifactError::Truncated {
        what,
        expected: expected as u64,
        found: file_length,
    };
    let header = bytes.first_chunk::<HEADER_LEN>().ok_or_else(|| truncated("header", HEADER_LEN))?;
    let version = u32_at(header, 8);
    if version != VERSION {
        return Err(ArtifactError::Version { what: "artefact", expected: VERSION, found: version });
    }
    let n_sections = u32_at(header, 12);
    if n_sections > MAX_SECTIONS {
        return Err(ArtifactError::TooManySections { limit: MAX_SECTIONS, found: n_sections });
    }
    let expected = u64_at(header, 16);
    if expected != file_length {
        return Err(ArtifactError::FileLength { expected, found: file_length });
    }
    let table_end = HEADER_LEN + n_sections as usize * ENTRY_LEN;
    let table = bytes.get(HEADER_LEN..table_end).ok_or_else(|| truncated("section table", table_end))?;
    check_sha256("header", &header[HEADER_FIELDS..], &[&header[..HEADER_FIELDS], table])?;
    let (entries, _) = table.as_chunks::<ENTRY_LEN>();
    let sections = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| Section::decode(index, entry))
        .collect::<Result<Vec<_>, _>>()?;
    check_table(&sections, table_end, bytes)?;
    Ok(sections)
}

/// Checks alignment, bounds, order and uniqueness of the sections and that all other bytes are zero.
fn check_table(sections: &[Section], table_end: usize, bytes: &[u8]) -> Result<(), ArtifactError> {
    let mut end = table_end as u64;
    let mut before = "the section table".to_owned();
    for (index, section) in sections.iter().enumerate() {
        let Section { kind, offset, length, .. } = *section;
        if sections[..index].iter().any(|other| other.kind == kind) {
            return Err(ArtifactError::SectionDuplicate { section: kind });
        }
        if !offset.is_multiple_of(SECTION_ALIGN) {
            return Err(ArtifactError::SectionAlignment { section: kind, offset, alignment: SECTION_ALIGN });
        }
        let file_length = bytes.len() as u64;
        let section_end = section.end_within(file_length).ok_or(ArtifactError::SectionBounds {
            section: kind,
            offset,
            length,
            file_length,
        })?;
        if offset < end {
            return Err(ArtifactError::SectionOverlap {
                section: kind,
                other: before,
                expected: end,
                found: offset,
            });
        }
        check_zero(bytes, end, offset)?;
        end = section_end;
        before = format!("section {kind}");
    }
    check_zero(bytes, end, bytes.len() as u64)
}

fn check_zero(bytes: &[u8], start: u64, end: u64) -> Result<(), ArtifactError> {
    let gap = &bytes[start as usize..end as usize];
    match gap.iter().position(|&byte| byte != 0) {
        Some(at) => Err(ArtifactError::Padding { offset: start + at as u64, found: gap[at] }),
        None => Ok(()),
    }
}

pub(crate) fn check_magic(what: &'static str, expected: &[u8; 8], bytes: &[u8]) -> Result<(), ArtifactError> {
    let mut found = [0; 8];
    let n = bytes.len().min(8);
    found[..n].copy_from_slice(&bytes[..n]);
    if found == *expected { Ok(()) } else { Err(ArtifactError::Magic { what, expected: *expected, found }) }
}

/// Compares the sha256 of `parts` with `expected`.
pub(crate) fn check_sha256(
    what: impl fmt::Display,
    expected: &[u8],
    parts: &[&[u8]],
) -> Result<(), ArtifactError> {
    let found = sha256(parts);
    if found == expected {
        return Ok(());
    }
    Err(ArtifactError::Checksum { what: what.to_string(), expected: hex(expected), found: hex(&found) })
}

pub(crate) fn sha256(parts: &[&[u8]]) -> Checksum {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
