//! Tensor data in files beside the model.

use super::fault::Fault;
use crate::map::map_file;
use memmap2::Mmap;
use ssmc_ir::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The data files of one model, each mapped once. Nothing outside the model's folder is opened.
pub(crate) struct ExternalFiles {
    folder: PathBuf,
    mapped: RefCell<BTreeMap<PathBuf, Arc<Mmap>>>,
}

/// Which part of which file holds a tensor.
pub(crate) struct Location<'a> {
    /// Path relative to the model's folder.
    pub(crate) file: &'a str,
    /// First byte.
    pub(crate) offset: u64,
    /// Number of bytes; `None` means the tensor's size.
    pub(crate) len: Option<u64>,
}

fn fault(expected: &str, found: impl ToString) -> Fault {
    Fault::Mismatch { what: "external data".into(), expected: expected.into(), found: found.to_string() }
}

impl ExternalFiles {
    /// The data files in the folder of this model.
    pub(crate) fn beside(model: &Path) -> Self {
        let folder = match model.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        };
        Self { folder, mapped: RefCell::default() }
    }

    /// The bytes of a tensor of `size` bytes, mapped.
    ///
    /// # Errors
    /// The path leaves the folder (absolute, through `..`, by a symbolic link, or by a file with several hard links),
    /// the file cannot be read, the range leaves the file, or the length is not the tensor's size.
    pub(crate) fn bytes(&self, at: &Location<'_>, size: usize) -> Result<Bytes, Fault> {
        if let Some(len) = at.len
            && len != size as u64
        {
            return Err(fault(&format!("{size} bytes"), format!("length {len}")));
        }
        let mapping = self.open(at.file)?;
        let file_len = mapping.len();
        let outside = || {
            fault(
                &format!("a range inside the {file_len} bytes of {:?}", at.file),
                format!("offset {} and {size} bytes", at.offset),
            )
        };
        let begin = usize::try_from(at.offset).map_err(|_| outside())?;
        let end = begin.checked_add(size).ok_or_else(outside)?;
        Bytes::slice_of(mapping, begin..end).ok_or_else(outside)
    }

    fn open(&self, name: &str) -> Result<Arc<Mmap>, Fault> {
        let relative = Path::new(name);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || relative.file_name().is_none() || name.contains('\0') {
            return Err(fault("a path inside the model's folder", format!("{name:?}")));
        }
        if let Some(mapped) = self.mapped.borrow().get(relative) {
            return Ok(mapped.clone());
        }
        let unreadable = |e: std::io::Error| fault("a readable file", format!("{name:?}: {e}"));
        let folder = self.folder.canonicalize().map_err(unreadable)?;
        let real = folder.join(relative).canonicalize().map_err(unreadable)?;
        if !real.starts_with(&folder) {
            return Err(fault(
                "a path inside the model's folder",
                format!("{name:?}, a link that leaves it"),
            ));
        }
        // Opening something that is no file, such as a pipe, might wait for ever.
        if !real.metadata().map_err(unreadable)?.is_file() {
            return Err(fault("a regular file", format!("{name:?}")));
        }
        let file = File::open(&real).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if hard_links(&meta) > 1 {
            return Err(fault("a file with one name", format!("{name:?}, which has several hard links")));
        }
        let mapping = Arc::new(map_file(&file).map_err(unreadable)?);
        self.mapped.borrow_mut().insert(relative.to_owned(), mapping.clone());
        Ok(mapping)
    }
}

#[cfg(unix)]
fn hard_links(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(meta)
}

#[cfg(not(unix))]
fn hard_links(_: &std::fs::Metadata) -> u64 {
    1
}
