//! Read-only mapping of model files. Pages are read when they are touched.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::Path;

/// Maps the file of this path.
///
/// # Errors
/// The file cannot be opened or mapped.
pub(crate) fn map(path: &Path) -> io::Result<Mmap> {
    map_file(&File::open(path)?)
}

/// Maps an open file.
///
/// # Errors
/// The file cannot be mapped.
#[expect(unsafe_code, reason = "mapping is the only way to read gigabytes of weights without copying them")]
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private and only read. Changing a model's files while it is compiled is outside the
    // contract of every mapped reader; all content is validated as untrusted bytes.
    unsafe { Mmap::map(file) }
}
