//! Writing an artefact.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};

use crate::error::ArtifactError;
use crate::format::{self, SECTION_ALIGN, Section, SectionKind, WEIGHT_ALIGN};
use crate::proto::{Dtype, Golden, Level, Manifest, Text, Texts, Weight};
use crate::validate::{Lengths, check_against};

/// Description of a weight that is about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightInfo {
    /// Name of the tensor.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Logical dims, without the padding of a packing.
    pub dims: Vec<u64>,
    /// Name of the packing, empty for plain row-major.
    pub packing: String,
}

impl WeightInfo {
    /// A plain row-major weight.
    pub fn plain(name: impl Into<String>, dtype: Dtype, dims: &[u64]) -> Self {
        Self { name: name.into(), dtype, dims: dims.to_vec(), packing: String::new() }
    }
}

/// Writes an artefact to a temporary file beside its path and renames it when it is complete.
///
/// Weights go straight to the file, so that a large model is never held in memory. Everything else is kept
/// until [`ArtifactWriter::finish`]. Equal calls give equal bytes. A writer that is dropped without `finish`
/// removes the temporary file.
#[derive(Debug)]
pub struct ArtifactWriter {
    path: PathBuf,
    temporary: Temporary,
    out: BufWriter<File>,
    hasher: Sha256,
    weights_length: u64,
    weights: Vec<Weight>,
    levels: Vec<Level>,
    code: Vec<Vec<u8>>,
    cubins: Vec<(u32, Vec<u8>)>,
    golden: Golden,
    texts: Texts,
}

impl ArtifactWriter {
    /// Starts an artefact that will appear at `path`.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, ArtifactError> {
        let path = path.into();
        let name = path.file_name().ok_or_else(|| ArtifactError::NoFileName { path: path.clone() })?;
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(ArtifactError::NoRegularFile { path });
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|source| ArtifactError::Io { path: temporary.clone(), source })?;
        let mut writer = Self {
            path,
            temporary: Temporary(Some(temporary)),
            out: BufWriter::with_capacity(1 << 20, file),
            hasher: Sha256::new(),
            weights_length: 0,
            weights: Vec::new(),
            levels: Vec::new(),
            code: Vec::new(),
            cubins: Vec::new(),
            golden: Golden::default(),
            texts: Texts::default(),
        };
        let head = writer.out.write_all(&[0; SECTION_ALIGN as usize]);
        writer.io(head)?;
        Ok(writer)
    }

    /// Adds a code image; levels go from the least to the most demanding. Returns the level's index.
    pub fn add_code(&mut self, level: Level, image: Vec<u8>) -> u32 {
        self.levels.push(level);
        self.code.push(image);
        self.levels.len() as u32 - 1
    }

    /// Adds machine code for the architecture of the level with index `level`, which has PTX; at most one for each.
    pub fn add_cubin(&mut self, level: u32, cubin: Vec<u8>) {
        self.cubins.push((level, cubin));
    }

    /// Writes a weight; `fill` gives its bytes in as many pieces as it likes. Returns the weight's index.
    ///
    /// # Errors
    /// For plain weights, if `fill` writes another number of bytes than dtype and dims say.
    pub fn add_weight(
        &mut self,
        info: WeightInfo,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<u32, ArtifactError> {
        let gap = self.weights_length.next_multiple_of(WEIGHT_ALIGN) - self.weights_length;
        let padding = [0; WEIGHT_ALIGN as usize];
        let padded = Hashing { writer: self }.write_all(&padding[..gap as usize]);
        self.io(padded)?;
        let offset = self.weights_length;
        let filled = fill(&mut Hashing { writer: self });
        self.io(filled)?;
        let length = self.weights_length - offset;
        let n_elements = info.dims.iter().try_fold(1u64, |acc, &dim| acc.checked_mul(dim));
        let expected = n_elements.and_then(|n| info.dtype.byte_len(n));
        if info.packing.is_empty() && expected != Some(length) {
            let expected = expected.unwrap_or(u64::MAX);
            return Err(ArtifactError::WeightLength { name: info.name, expected, found: length });
        }
        self.weights.push(Weight {
            name: info.name,
            dtype: info.dtype.into(),
            dims: info.dims,
            packing: info.packing,
            offset,
            length,
        });
        Ok(self.weights.len() as u32 - 1)
    }

    /// Sets the golden vectors.
    pub fn set_golden(&mut self, golden: Golden) {
        self.golden = golden;
    }

    /// Adds a source text.
    pub fn add_text(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.texts.texts.push(Text { name: name.into(), text: text.into() });
    }

    /// Completes the file and moves it to its path. Returns its length.
    ///
    /// `manifest.levels` and `manifest.weights` are filled in here from what was added.
    ///
    /// # Errors
    /// If the manifest is invalid, as a reader would find it, or the file system refuses; the path is then
    /// left as it was.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<u64, ArtifactError> {
        manifest.levels = std::mem::take(&mut self.levels);
        manifest.weights = std::mem::take(&mut self.weights);
        let code = self.code.iter().map(|image| image.len() as u64).collect();
        check_against(&manifest, &Lengths { code, weights: self.weights_length })?;

        let checksum = std::mem::take(&mut self.hasher).finalize().into();
        let weights = Section {
            kind: SectionKind::Weights,
            offset: SECTION_ALIGN,
            length: self.weights_length,
            checksum,
        };
        let mut end = weights.offset + weights.length;
        let mut sections = vec![weights];
        let images = std::mem::take(&mut self.code);
        let mut rest: Vec<(SectionKind, Vec<u8>)> = images
            .into_iter()
            .enumerate()
            .map(|(level, image)| (SectionKind::Code(level as u32), image))
            .collect();
        let cubins = std::mem::take(&mut self.cubins).into_iter();
        rest.extend(cubins.map(|(level, cubin)| (SectionKind::Cubin(level), cubin)));
        if !self.golden.cases.is_empty() {
            rest.push((SectionKind::Golden, self.golden.encode_to_vec()));
        }
        if !self.texts.texts.is_empty() {
            rest.push((SectionKind::Texts, self.texts.encode_to_vec()));
        }
        rest.push((SectionKind::Manifest, manifest.encode_to_vec()));
        for (kind, bytes) in rest {
            let offset = end.next_multiple_of(SECTION_ALIGN);
            let written = self.pad_then_write(offset - end, &bytes);
            self.io(written)?;
            let length = bytes.len() as u64;
            sections.push(Section { kind, offset, length, checksum: format::sha256(&[&bytes]) });
            end = offset + length;
        }
        let head = format::encode_head(&sections, end)?;
        let written = self.write_head(&head);
        self.io(written)?;
        self.temporary.persist(&self.path)?;
        Ok(end)
    }

    fn pad_then_write(&mut self, gap: u64, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(&[0; SECTION_ALIGN as usize][..gap as usize])?;
        self.out.write_all(bytes)
    }

    fn write_head(&mut self, head: &[u8]) -> io::Result<()> {
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(head)?;
        self.out.flush()
    }

    fn io<T>(&self, result: io::Result<T>) -> Result<T, ArtifactError> {
        result.map_err(|source| ArtifactError::Io { path: self.path.clone(), source })
    }
}

/// Passes weight bytes to the file and to the checksum.
struct Hashing<'a> {
    writer: &'a mut ArtifactWriter,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.writer.out.write(bytes)?;
        self.writer.hasher.update(&bytes[..n]);
        self.writer.weights_length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A temporary file that is removed unless it is moved to its place.
#[derive(Debug)]
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn persist(&mut self, path: &Path) -> Result<(), ArtifactError> {
        let Some(temporary) = self.0.take() else { return Ok(()) };
        fs::rename(&temporary, path).map_err(|source| {
            self.0 = Some(temporary);
            ArtifactError::Io { path: path.to_owned(), source }
        })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(temporary) = self.0.take() {
            // Nobody is left to tell when the removal of a half-written file fails.
            let _ = fs::remove_file(temporary);
        }
    }
}
