//! Output files: they appear whole or not at all.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use crate::failure::{Failure, Outcome};

/// Writes `bytes` to `path`.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Outcome {
    write_with(path, |path| fs::write(path, bytes))
}

/// Has `fill` write a file under a temporary name beside `path` and renames it. A device or a pipe is written to directly.
pub(crate) fn write_with<E: Display>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Outcome {
    let fault = |error: &dyn Display| Failure::file(path, error);
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return fill(path).map_err(|error| fault(&error));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = temporary(folder).map_err(|error| fault(&error))?;
    fill(file.path()).map_err(|error| fault(&error))?;
    file.persist(path).map_err(|error| fault(&error))?;
    Ok(())
}

/// A file with the permissions of any new file, not those of a secret.
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_could_not_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        write(&path, b"old").unwrap();
        let half = |path: &Path| fs::write(path, b"ne").and(Err(io::Error::other("disk full")));
        assert!(write_with(&path, half).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_written_file_is_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (folder.path().join("ours"), folder.path().join("other"));
        write(&ours, b"x").unwrap();
        fs::write(&other, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&other));
    }

    #[test]
    fn a_device_stays_one() {
        let null = Path::new("/dev/null");
        write(null, b"x").unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
    }
}
