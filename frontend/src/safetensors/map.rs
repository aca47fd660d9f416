//! Files mapped into memory, read-only.

use super::regular_file;
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::Path;

/// Maps a regular file. Its pages are read when they are touched.
#[expect(unsafe_code, reason = "mapping is the only way to read gigabytes of weights without copying them")]
pub(super) fn map(path: &Path) -> io::Result<Mmap> {
    regular_file(path)?;
    // SAFETY: the mapping is private and only read. `import_dir` states that nobody may change the files of a model
    // that is in use.
    unsafe { Mmap::map(&File::open(path)?) }
}
