//! Why a model was not imported.

use crate::shapes::ShapeFault;
use ssmc_ir::Diagnostic;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a model was not imported. Faults of the model's content are collected: one error carries all of them.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The path is neither an ONNX file nor a checkpoint directory.
    #[error("{}: expected {expected}, found {found}", path.display())]
    UnknownFormat {
        /// The file or directory.
        path: PathBuf,
        /// What would be accepted.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// The model exceeds a limit of the importer.
    #[error("{}: expected at most {limit} {what}, found {found}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What is counted.
        what: &'static str,
        /// The most that is accepted.
        limit: u64,
        /// What the file has.
        found: u64,
    },
    /// A shape that was given for an input does not fit the model.
    #[error("{}: input shapes do not fit{}", path.display(), faults.iter().map(|f| format!("\n  {f}")).collect::<String>())]
    InputShapes {
        /// The file or directory.
        path: PathBuf,
        /// Every contradiction.
        faults: Vec<ShapeFault>,
    },
    /// The model is valid but uses something that ssmc does not support.
    #[error("{}: unsupported model{}", path.display(), List(faults))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Every unsupported part.
        faults: Vec<Diagnostic>,
    },
    /// The content of the model is faulty.
    #[error("{}: invalid model{}", path.display(), List(faults))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Every fault.
        faults: Vec<Diagnostic>,
    },
}

impl ImportError {
    /// The file that could not be read, or cannot be used.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::UnknownFormat { path, .. }
            | Self::Limit { path, .. }
            | Self::InputShapes { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Invalid { path, .. } => path,
        }
    }

    /// The faults of the content; empty for the other errors.
    pub fn faults(&self) -> &[Diagnostic] {
        match self {
            Self::Unsupported { faults, .. } | Self::Invalid { faults, .. } => faults,
            Self::Io { .. } | Self::UnknownFormat { .. } | Self::Limit { .. } | Self::InputShapes { .. } => {
                &[]
            }
        }
    }
}

struct List<'a>(&'a [Diagnostic]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}
