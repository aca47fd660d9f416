//! Read-only mapping of model files.

use crate::error::ImportError;
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// Maps a file for reading.
///
/// # Errors
/// The file cannot be opened or mapped.
pub(crate) fn map(path: &Path) -> Result<Mmap, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    map_file(&File::open(path).map_err(io)?).map_err(io)
}

/// Maps an open file for reading.
///
/// # Errors
/// The file cannot be mapped.
#[expect(unsafe_code, reason = "mapping a file is unsafe, because another process may change it")]
pub(crate) fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private and only read. Truncating a model file while it is compiled is outside the
    // contract of every mapped reader; all content is validated as untrusted bytes.
    unsafe { Mmap::map(file) }
}
